"""`Retries`: repeats a call to one target, as long as nothing was delivered and its run has repetitions left.

- with a changed request, if the provider's error names a field that can be changed (`adaptation.py`),
- with a key that was read again from its file or command, after a rejection (401, 403),
- with another key of the provider, if the error concerns the key,
- with the same request, once, after a pause, if the error is temporary and the retry budget allows it.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.adaptation import Adaptations
from anthropic_proxy.engine.exchange.admission import Admission
from anthropic_proxy.engine.exchange.attempt import Attempt, TargetRun
from anthropic_proxy.engine.exchange.attempt_records import AttemptRecords
from anthropic_proxy.engine.exchange.attempt_sender import list_call_secrets
from anthropic_proxy.engine.exchange.client_side import ClientRequest
from anthropic_proxy.engine.exchange.provider_errors import add_key_setting, describe_attempt
from anthropic_proxy.engine.exchange.watchdog import Watchdog
from anthropic_proxy.engine.messages.deltas import Usage
from anthropic_proxy.engine.messages.models import MessagesRequest
from anthropic_proxy.engine.providers import Provider
from anthropic_proxy.engine.providers.credentials import concerns_key
from anthropic_proxy.engine.routing.problems import find_missing_key_of
from anthropic_proxy.engine.routing.targets import Target
from anthropic_proxy.engine.wires.contract import CLIENT_CREDENTIAL_ORIGIN, Credential
from anthropic_proxy.errors import AuthenticationFailed, UpstreamError
from anthropic_proxy.secrets import redact_error

RETRY_DELAY_SECONDS = 0.5
"""Seconds before a retry if the error has no delay. An error of status 503 always has one."""


_Result = TypeVar("_Result")


class Retries:
    """The repetitions of the calls for one client request. `TargetRun` counts what is left of them at one target."""

    def __init__(
        self,
        engine: Engine,
        incoming: ClientRequest,
        request: MessagesRequest,
        watchdog: Watchdog,
        *,
        records: AttemptRecords,
        admission: Admission,
    ) -> None:
        self._engine = engine
        self._incoming = incoming
        self._mcp_servers = request.mcp_servers
        self._watchdog = watchdog
        self._records = records
        self._admission = admission

    async def call_with_retries(
        self,
        target: Target,
        run: TargetRun,
        prepare: Callable[[Target, Credential | None, TargetRun], Awaitable[Attempt]],
        send: Callable[[Attempt], Awaitable[_Result]],
    ) -> _Result:
        """Return the result of `send` for the first attempt at a target that succeeds.

        Raises the error of the last attempt, and each error of `prepare`.
        """
        engine = self._engine
        while True:
            if self._admission.further_calls:
                await self._admission.admit_further_call(target, run.request, run.token_scale)
            provider = target.provider
            credential: Credential | None = None
            if provider.accepts_client_credential:
                credential = find_client_credential(engine, self._incoming, provider)
            try:
                credential = credential or engine.credentials.next_credential(provider, is_first=run.uses_first_key)
            except AuthenticationFailed as error:
                if problem := find_missing_key_of(target, engine.settings, engine.catalog):
                    error.message, error.remedy = problem.text, problem.remedy
                raise
            attempt = await prepare(target, credential, run)
            try:
                return await send(attempt)
            except UpstreamError as error:
                target = await self.prepare_retry(attempt, error)
                error.release_tracebacks()

    async def prepare_retry(self, attempt: Attempt, error: UpstreamError, usage: Usage | None = None) -> Target:
        """Record a failed attempt with its token usage. Return the target of the retry, after the pause before it.

        Raises `error` if no retry is left.
        """
        engine = self._engine
        run = attempt.run
        target = attempt.target
        failed_attempts = self._incoming.receipt.failed_attempts
        self._watchdog.end_upstream_call()
        self.redact_keys(error, attempt)
        add_key_setting(error, target, attempt.credential)
        self._records.fail_attempt(error, usage)
        if run.adaptations_left:
            receipt = self._incoming.receipt
            run.adaptations = run.adaptations or Adaptations(engine, receipt.adaptations, receipt.client.id)
            if (adapted := await run.adaptations.find_adapted_target(target, attempt.call, error)) is not None:
                run.adaptations_left -= 1
                failed_attempts.append(describe_attempt(target, error))
                if adapted.model != target.model:
                    run.origin = await self._admission.admit_successor(
                        run.origin, adapted, run.request, run.token_scale
                    )
                return adapted
            if error.status == 400:
                attempt.store_lessons(engine.observations, self._incoming.receipt.client.id, is_rejected=True)
        pause = 0.0
        if not await self._change_key(attempt, error):
            pause = error.retry_after or RETRY_DELAY_SECONDS
            is_short = pause <= engine.settings.timeouts.first_byte_seconds
            may_retry = run.retries_left and error.retryable and is_short
            if not may_retry or not engine.retry_budget.try_spend_retry(target.upstream):
                raise error
            run.retries_left -= 1
        if run.is_message:
            failed_attempts.append(describe_attempt(target, error))
        if pause:
            await engine.sleep(pause)
        return target

    async def _change_key(self, attempt: Attempt, error: UpstreamError) -> bool:
        """Return True if the next attempt has another key after this error: read again, or the next of the provider."""
        engine = self._engine
        credentials = engine.credentials
        run = attempt.run
        provider = attempt.target.provider
        credential = attempt.credential
        if run.key_replacements_left and await credentials.replace_rejected_key(
            provider, credential, error, max_seconds=run.max_queue_seconds
        ):
            run.key_replacements_left -= 1
            return True
        changes_keys = run.is_message or credentials.uses_tokens(provider)
        if not changes_keys or run.key_changes >= credentials.max_key_changes(provider):
            return False
        if not credentials.exclude_failed_key(provider, credential, error):
            return False
        run.key_changes += 1
        if concerns_key(error) and (key := credentials.describe_key(provider, credential)):
            engine.log.write_once(f"{key} is in cooldown, because of: {error.message}")
        return True

    def redact_keys(self, error: UpstreamError, attempt: Attempt) -> None:
        secrets = list_call_secrets(self._engine, self._incoming, attempt)
        secrets += [server.authorization_token for server in self._mcp_servers if server.authorization_token]
        if attempt.target.provider.transport != "http":  # LiteLLM reads the keys; the proxy cannot know which it sent
            secrets += [key.reveal() for key in self._engine.settings.other_secrets]
        redact_error(error, secrets)


def find_client_credential(engine: Engine, incoming: ClientRequest, provider: Provider) -> Credential | None:
    """Return the client's own key if the provider accepts it and the settings have none. None: it is not sent."""
    is_allowed = provider.accepts_client_credential and incoming.receipt.client.credential_forwardable
    if not is_allowed or engine.settings.keys.get(provider.name):
        return None
    for header in ("x-api-key", "authorization"):
        if value := incoming.headers.get(header):
            return Credential(header, value, CLIENT_CREDENTIAL_ORIGIN)
    return None
