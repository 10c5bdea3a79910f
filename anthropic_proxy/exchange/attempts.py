"""`Attempts`: sends the requests to providers (attempts) for one client request, with retries.

A target is a provider and model. `open_reply` calls the targets of the route in order until one replies.
`open_next_call` opens another upstream call for the same reply, and `repeat_call` sends a call again whose reply is
unreadable. `estimate_scaled_tokens` returns a token estimate, multiplied by the correction factor of the model
(`token_scale`). `annotate_error` completes an error message.
"""

from msgspec import structs

from anthropic_proxy.errors import ClientError, InternalError, MissingExtra, ProxyError, UnreadableReply, UpstreamError
from anthropic_proxy.exchange.adaptation import Adaptations, apply_stored_adaptations
from anthropic_proxy.exchange.attempt_records import AttemptRecords
from anthropic_proxy.exchange.attempt_steps import AttemptSteps, TargetRun
from anthropic_proxy.exchange.call_building import (
    AttemptState,
    LatestAttempt,
    build_continuation_target,
    estimate_scaled_tokens,
    find_client_credential,
)
from anthropic_proxy.exchange.client_request import ClientRequest
from anthropic_proxy.exchange.error_messages import (
    add_address_setting,
    add_key_setting,
    describe_attempt,
    next_target_may_help,
    prefix_provider,
)
from anthropic_proxy.exchange.not_found import add_not_found_cause
from anthropic_proxy.exchange.opened_stream import AnyOpenedStream, OpenedStream
from anthropic_proxy.exchange.outcomes import record_target
from anthropic_proxy.exchange.relay import RelayStream
from anthropic_proxy.exchange.route_choice import record_failed_call, record_response_time
from anthropic_proxy.exchange.upstream_stream import UpstreamStream
from anthropic_proxy.exchange.watchdog import Watchdog
from anthropic_proxy.messages.deltas import Usage
from anthropic_proxy.messages.fidelity import FidelityNote
from anthropic_proxy.messages.models import MessagesRequest
from anthropic_proxy.plugins import Receipt
from anthropic_proxy.redaction import redact_error
from anthropic_proxy.routing.router import Route, Target
from anthropic_proxy.services import Services
from anthropic_proxy.wire.contract import Credential

MAX_RETRIES_PER_TARGET = 1
"""Maximum number of retries at one target (provider and model) after temporary failures of an attempt."""
MAX_ADAPTATIONS = 2
"""Maximum number of requests to one target that are repeated with an adaptation (a changed field), besides retries."""
MAX_REPLACED_KEYS = 1
"""Maximum number of retries at one target with a key that was read again from its file or command."""
RETRY_DELAY_SECONDS = 0.5
"""Seconds before a retry if the provider's error response has no header `retry-after`."""


class Attempts:
    """Sender of the requests to providers (attempts) for one client request. Each is recorded in the receipt.

    The receipt is the record of the client request. The state of the latest attempt is stored in the object `sent`, for
    error messages and pings.
    """

    def __init__(
        self,
        services: Services,
        incoming: ClientRequest,
        request: MessagesRequest,
        receipt: Receipt,
        watchdog: Watchdog,
        *,
        sent: LatestAttempt,
    ) -> None:
        self._services, self._incoming = services, incoming
        self._request = request
        self._receipt = receipt
        self.records = AttemptRecords(receipt, services)
        """Writer of the attempts of this request in the receipt."""
        self._watchdog = watchdog
        self._sent = sent
        self._steps = AttemptSteps(services, incoming, receipt, self.records, watchdog, estimates=sent.estimates)

    async def open_reply(self, request: MessagesRequest, route: Route) -> AnyOpenedStream:
        """Call the targets of the route in order, and return the first reply with its first content.

        Raises an error if no target replies.
        """
        failure: ProxyError | None = None
        services, rule, session = self._services, route.rule, self._receipt.session
        for target in route.targets:
            started_at = services.clock()
            try:
                opened = await self._try_target(request, target, is_last=target is route.targets[-1])
            except UpstreamError as error:
                failure = error
                record_failed_call(services, self._incoming, rule, target, error)
                self._receipt.failed_attempts.append(describe_attempt(target, error))
                if not next_target_may_help(error):
                    break
                error.release_tracebacks()
            except (ClientError, MissingExtra) as refusal:
                failure = failure or refusal
            else:
                record_response_time(services, rule, target, session, services.clock() - started_at)
                return opened
        if failure is None:
            raise InternalError("a route has no target")
        if isinstance(failure, UpstreamError):
            self._receipt.failed_attempts.pop()
        raise failure

    async def open_next_call(
        self, previous: OpenedStream[UpstreamStream], request: MessagesRequest, continuation: str = ""
    ) -> OpenedStream[UpstreamStream]:
        """Open another upstream call for a started reply, at the same provider and model. Raises `UpstreamError`.

        `continuation` is the token with which the provider continues a reply that it has split. "": the model is called
        again for another reason, such as results of tools.
        """
        state, target = previous.state, previous.state.target
        run = self._new_run(request, target, state.token_scale, adaptations=0)
        run.continuation = continuation
        if continuation:
            run.stop_filter, target = previous.stream.stop_filter, build_continuation_target(target)
        return _require_decoded(await self._try_target_with_retries(target, run))

    async def repeat_call(
        self, failed: OpenedStream[UpstreamStream], error: UnreadableReply, usage: Usage
    ) -> OpenedStream[UpstreamStream]:
        """Send the request of a call again whose reply is unreadable after thinking only. Raises `UpstreamError`.

        `usage` is the token usage of the failed call. `error` is raised if the target has no retry left.
        """
        target = failed.state.target
        self._services.circuit_breakers.record_failure(target.upstream, error)
        target = await self._prepare_retry(failed.state, failed.run, error, usage)
        return _require_decoded(await self._try_target_with_retries(target, failed.run))

    def add_note(self, note: FidelityNote) -> None:
        """Add a note about the handling of one field to the receipt, the record of the client request.

        The note describes a field that was approximated, emulated or dropped. It can also describe a field that was
        kept although a change was expected.
        """
        self._receipt.fidelity.add_notes([note])

    def estimate_scaled_tokens(self, request: MessagesRequest, token_scale: float) -> int:
        """Return the estimated input tokens of a request, multiplied by the model's correction factor `token_scale`."""
        return estimate_scaled_tokens(self._sent.estimates, token_scale, request)

    def annotate_error(self, error: UpstreamError, state: AttemptState) -> None:
        """Redact API keys in the message of an error, and add the provider's name to the message.

        If the provider rejected the URL or the model, the probable cause is added too.
        """
        self._redact_keys(error, state.target, state.credential)
        prefix_provider(error, self._receipt.prefix)
        add_not_found_cause(error, state.target, state.upstream_path, self._services.settings)

    def _redact_keys(self, error: UpstreamError, target: Target, credential: Credential | None) -> None:
        secrets = [credential.secret] if credential is not None else []
        secrets += [server.authorization_token for server in self._request.mcp_servers if server.authorization_token]
        if target.provider.transport != "http":  # LiteLLM reads the keys itself; the proxy cannot know which it sent
            secrets += [key.reveal() for key in self._services.settings.other_secrets]
        redact_error(error, secrets)

    async def _try_target(self, request: MessagesRequest, target: Target, *, is_last: bool) -> AnyOpenedStream:
        catalog, provider, model = self._services.catalog, target.provider.name, target.model
        if catalog.can_query_provider(provider):
            target = structs.replace(target, capabilities=await catalog.fetch_capabilities(provider, model))
        scale = await self._services.observations.find_token_scale(provider, model)
        target = await apply_stored_adaptations(self._services, target, self._receipt.adaptations)
        run = self._new_run(request, target, scale, adaptations=MAX_ADAPTATIONS)
        run.skips_open_circuit = not is_last
        return await self._try_target_with_retries(target, run)

    def _new_run(self, request: MessagesRequest, target: Target, token_scale: float, *, adaptations: int) -> TargetRun:
        self._services.retry_budget.record_first_call(target.upstream)
        return TargetRun(
            request,
            token_scale,
            retries_left=MAX_RETRIES_PER_TARGET,
            key_changes_left=self._services.credentials.max_key_changes(target.provider),
            key_replacements_left=MAX_REPLACED_KEYS,
            adaptations_left=adaptations,
        )

    async def _try_target_with_retries(self, target: Target, run: TargetRun) -> AnyOpenedStream:
        """Call one target until it replies, with retries and other keys. Return the reply with its first content."""
        pool = self._services.credentials
        while True:
            forwarded = find_client_credential(self._services, self._incoming, target.provider)
            credential = forwarded or pool.next_credential(target.provider)
            state = await self._steps.prepare(target, credential, run)
            try:
                if target.provider.key_source != "settings":
                    self._receipt.provider, self._receipt.prefix = target.provider.name, target.provider.prefix
                    credential, base_url = await pool.next_token_and_url(target.provider, target.base_url)
                    target = structs.replace(target, base_url=base_url)
                    state = structs.replace(state, target=target, credential=credential)
                return await self._attempt(state, run)
            except UpstreamError as error:
                target = await self._prepare_retry(state, run, error)
                error.release_tracebacks()

    async def _prepare_retry(
        self, state: AttemptState, run: TargetRun, error: UpstreamError, usage: Usage | None = None
    ) -> Target:
        """Record a failed attempt with its token usage. Return the target of the retry, after the pause before it.

        Raises `error` if no retry is left.
        """
        pool, target, credential = self._services.credentials, state.target, state.credential
        provider = target.provider
        self._watchdog.end_upstream_call()
        self._redact_keys(error, target, credential)
        add_key_setting(error, target, credential)
        self.records.fail_attempt(error, usage)
        if run.adaptations_left and (adapted := await self._adapt(state, run, error)):
            run.adaptations_left -= 1
            return adapted
        if error.status == 401 and run.key_replacements_left and await pool.replace_rejected_key(provider, credential):
            run.key_replacements_left -= 1
            self._receipt.failed_attempts.append(describe_attempt(target, error))
        elif run.key_changes_left and pool.exclude_failed_key(provider, credential, error):
            run.key_changes_left -= 1
            self._receipt.failed_attempts.append(describe_attempt(target, error))
            if key := pool.describe_key(provider, credential):
                self._services.log.write_once(f"{key} is in cooldown, because of: {error.message}")
        elif run.retries_left and self._may_retry(target, error):
            run.retries_left -= 1
            self._receipt.failed_attempts.append(describe_attempt(target, error))
            await self._services.sleep(error.retry_after or RETRY_DELAY_SECONDS)
        else:
            raise error
        return target

    def _may_retry(self, target: Target, error: UpstreamError) -> bool:
        """Return True if a retry is allowed: temporary error, short `retry-after`, and retries left for this server."""
        delay = error.retry_after or RETRY_DELAY_SECONDS
        if not error.retryable or delay > self._services.settings.timeouts.first_byte_seconds:
            return False
        return self._services.retry_budget.try_spend_retry(target.upstream)

    async def _adapt(self, state: AttemptState, run: TargetRun, error: UpstreamError) -> Target | None:
        """Return a copy of the target with a changed request for a retry. None: no known change matches the error."""
        run.adaptations = run.adaptations or Adaptations(self._services, self._receipt.adaptations)
        if (adapted := await run.adaptations.find_adapted_target(state.target, state.call, error)) is not None:
            self._receipt.failed_attempts.append(describe_attempt(state.target, error))
        return adapted

    async def _attempt(self, state: AttemptState, run: TargetRun) -> AnyOpenedStream:
        target = state.target
        upstream_request, reply_schema = await self._steps.encode(state, run)
        record_target(self._receipt, target)
        call = structs.replace(state.call, client_body=b"") if state.call.client_body else state.call  # free it
        state = structs.replace(state, call=call, upstream_path=upstream_request.path, reply_schema=reply_schema)
        self._sent.latest = state
        breakers, upstream = self._services.circuit_breakers, target.upstream
        if run.skips_open_circuit:
            breakers.require_closed(upstream)
        upstream_request = self.records.begin_attempt(target, upstream_request)
        sending = self._steps.send(state, upstream_request, run.stop_filter)
        del upstream_request  # the transport releases it after sending; a reply can take minutes
        try:
            stream = await sending
        except UpstreamError as error:
            breakers.record_failure(upstream, error)
            add_address_setting(error, target)
            raise
        except BaseException:
            breakers.release_trial(upstream)
            raise
        breakers.record_success(upstream)
        if run.adaptations is not None:
            await run.adaptations.store_for_model(target)
        return OpenedStream(stream, state, run)


def _require_decoded(opened: AnyOpenedStream) -> OpenedStream[UpstreamStream]:
    if isinstance(opened.stream, RelayStream):
        raise InternalError("a relay cannot continue a reply")
    return OpenedStream(opened.stream, opened.state, opened.run)
