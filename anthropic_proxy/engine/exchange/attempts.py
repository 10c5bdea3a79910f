"""The calls to providers for one client request: which target is called next, and when a call is repeated.

A call to a target is an attempt. `Attempts.open_first_call` tries the targets of a plan in order until one sends
content. At one target there can be several attempts, as long as nothing was delivered (`Retries`):

- with a changed request, if the provider's error names a field that can be changed (`adaptation.py`),
- with a key that was read again from its file or command, after a rejection (401, 403),
- with another key of the provider, if the error concerns the key,
- with the same request, once, after a pause, if the error is temporary and the retry budget allows it.

`TargetRun` counts what is left of these. `Attempt` is one call with everything that its reply needs: `AttemptPreparer`
adapts the client request to the target, and `AttemptSender` sends it and waits for content.

After content has arrived, the same mechanism opens further calls for the same reply: `open_next_call` after tools that
the proxy runs or for a reply that the provider split, and `repeat_call` for a reply that is unreadable after thinking
only. Requests other than messages (`forwarding.py`) pass a `prepare` and a `send` of their own to `Retries`.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct, structs

from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.adaptation import (
    REFUSED_CONTENT,
    Adaptations,
    apply_adaptations_of,
    apply_stored_adaptations,
    name_conversation,
    name_reply_form,
)
from anthropic_proxy.engine.exchange.admission import Admission
from anthropic_proxy.engine.exchange.attempt import Attempt, AttemptPreparer, Repair, TargetRun
from anthropic_proxy.engine.exchange.attempt_sender import (
    AttemptRecords,
    AttemptSender,
    has_client_key,
    list_call_secrets,
)
from anthropic_proxy.engine.exchange.client_side import ClientRequest
from anthropic_proxy.engine.exchange.inspection import InspectAdded
from anthropic_proxy.engine.exchange.media_inlining import SOURCE_OF_LINK, MediaInliner
from anthropic_proxy.engine.exchange.plain_form import FAILURE_STATUS, REFUSAL_STATUSES, PlainForms
from anthropic_proxy.engine.exchange.provider_errors import (
    add_key_setting,
    add_not_found_cause,
    describe_attempt,
    next_target_may_help,
    prefix_provider,
    read_list_for_remedy,
)
from anthropic_proxy.engine.exchange.watchdog import Watchdog
from anthropic_proxy.engine.messages.deltas import CHARACTERS_PER_TOKEN, Usage
from anthropic_proxy.engine.messages.models import MessagesRequest
from anthropic_proxy.engine.messages.preparation import may_lack_room
from anthropic_proxy.engine.messages.tokens import TokenScale
from anthropic_proxy.engine.passed_proxies import is_answered_loop
from anthropic_proxy.engine.providers import Provider
from anthropic_proxy.engine.providers.credentials import concerns_all_clients, concerns_key
from anthropic_proxy.engine.providers.refused_parts import KNOWS_PARTS
from anthropic_proxy.engine.routing.health import shows_outage
from anthropic_proxy.engine.routing.problems import find_missing_key_of
from anthropic_proxy.engine.routing.router import Plan
from anthropic_proxy.engine.routing.routes import RouteBalancer
from anthropic_proxy.engine.routing.targets import Target, find_capabilities
from anthropic_proxy.engine.wires.anthropic.betas import makes_edits
from anthropic_proxy.engine.wires.bound_requests import WEB, ClientOrigin
from anthropic_proxy.engine.wires.dialect import (
    REASONS_ALWAYS,
    REASONS_UNASKED,
    UNOPENED_REASONING,
    WITHOUT_SAFEGUARDS,
)
from anthropic_proxy.engine.wires.failures.quoted_prompts import count_bytes_on_loop, note_quotes
from anthropic_proxy.engine.wires.upstream_http import CLIENT_CREDENTIAL_ORIGIN, Credential
from anthropic_proxy.errors import (
    AuthenticationFailed,
    ClientError,
    InternalError,
    MissingExtra,
    PolicyBlocked,
    ProxyBusy,
    ProxyError,
    UnreadableReply,
    UpstreamError,
)
from anthropic_proxy.secrets import redact_error

if TYPE_CHECKING:
    from anthropic_proxy.engine.exchange.image_describing import ImageDescriber
    from anthropic_proxy.engine.messages.context_editing import ContextEditor
    from anthropic_proxy.engine.messages.models.context_edits import ContextEdit

MAX_ADAPTATIONS = 2
"""Maximum number of requests to one target that are repeated with a changed field, besides retries."""
MAX_RELAY_ADAPTATIONS = 7
"""The same for a relay, whose requests may have several betas and thinking blocks that are rejected one by one."""
MIN_IGNORED_CHECKS = 3
"""Number of replies without checks of their tool calls, of a server that has answered none of these requests, after
which it is not asked again. A single reply may be that of another server behind a gateway."""
_KEY_ERRORS = (401, 402, 429)
"""HTTP statuses that concern the API key and not the server: 401, key rejected; 402 and 429, no credit or quota left
for the key."""
_ALL_CLIENTS = ""


def _find_concerned(error: UpstreamError, incoming: ClientRequest, *, own_key: bool) -> str | None:
    """Return the client whose requests the target of a call may fail. "": all. None: no further ones.

    The request itself may be the reason of an error such as 429, 500 or a reply that cannot be read, and a text may
    quote it. So such an error concerns only the client that has sent the request.

    `own_key`: the call had a key of the proxy, not that of the client.
    """
    statuses = {error.status, error.stated_status}
    if shows_outage(error) or (own_key and concerns_all_clients(error)):
        return _ALL_CLIENTS
    if statuses.issubset(_KEY_ERRORS):
        return incoming.learner
    return incoming.receipt.client.id if min(statuses) >= 500 else None


RETRY_DELAY_SECONDS = 0.5
"""Seconds before a retry if the error has no delay. An error of status 503 always has one."""
_Result = TypeVar("_Result")


class Attempts:
    """The calls to providers for one client request. Each is recorded in the receipt."""

    editor: "ContextEditor | None" = None
    """Maker of the edits that the request asks for. None: it asks for none."""

    def __init__(
        self,
        engine: Engine,
        incoming: ClientRequest,
        request: MessagesRequest,
        watchdog: Watchdog,
        *,
        admission: Admission,
        origin: ClientOrigin,
        clock: Callable[[], float],
        describer: "ImageDescriber | None",
        inspect: InspectAdded | None,
    ) -> None:
        """`describer` and `inspect`: see `AttemptPreparer`."""
        self._engine = engine
        self._incoming = incoming
        self._admission = admission
        self._origin = origin
        self.receipt = incoming.receipt
        self.records = AttemptRecords(incoming.receipt, engine, clock)
        session = "" if incoming.cache_session else incoming.receipt.session
        inliner: MediaInliner | None = None
        if engine.web_fetch is not None and SOURCE_OF_LINK in incoming.body and WEB in origin.servers:
            inliner = MediaInliner(engine.web_fetch, origin, partial(incoming.count_made, "files", may_wait=False))
        if request.context_edits:
            from anthropic_proxy.engine.messages.context_editing import ContextEditor  # noqa: PLC0415  # few requests

            self.editor = ContextEditor(request)
        self._preparer = AttemptPreparer(
            engine,
            incoming,
            session,
            incoming.is_large,
            origin.servers,
            admission.estimates,
            inliner,
            self.editor,
            describer,
            inspect,
        )
        self.sender = AttemptSender(engine, incoming, request, watchdog, self.records, session)
        self._retries = Retries(engine, incoming, request, watchdog, self.records, admission)

    async def open_first_call(self, request: MessagesRequest, plan: Plan) -> Attempt:
        """Call the targets of the plan in order, and return the first attempt whose reply has content.

        Raises the error of the last called target if none replies.
        """
        engine = self._engine
        receipt = self.receipt
        route = plan.route
        balancer: RouteBalancer | None = None
        if route is not None and route.balance == "latency":
            balancer = RouteBalancer(engine.route_values or engine.store, engine.route_prices)
        failure: ProxyError | None = None
        place = 0  # of `failure` among the failed attempts
        for position, target in enumerate(plan.targets, 1):
            started_at = time.monotonic()
            has_next_target = position < len(plan.targets)
            try:
                attempt = await self._call_target(
                    target, request, requires_room=failure is not None, has_next_target=has_next_target
                )
            except (UpstreamError, ProxyBusy) as error:
                failure = error
                if balancer is not None and isinstance(error, UpstreamError):  # a throttle says nothing of the target
                    own_key = find_client_credential(engine, self._incoming, target.provider) is None
                    concerned = _find_concerned(error, self._incoming, own_key=own_key)
                    if concerned is not None:
                        limits_all = own_key and concerns_key(error)
                        failure_of_target = balancer.record_failure(target, concerned, may_limit_all=limits_all)
                        engine.background.start_task(failure_of_target)
                place = len(receipt.failed_attempts)
                receipt.failed_attempts.append(describe_attempt(target, error))
                if not next_target_may_help(error) or is_answered_loop(error, self._incoming.headers):
                    break
                error.release_tracebacks()
            except PolicyBlocked:  # of a text that the proxy has added: what the inspectors refuse goes nowhere
                raise
            except (ClientError, MissingExtra) as rejection:
                failure = failure or rejection
                if has_next_target and isinstance(rejection, AuthenticationFailed | MissingExtra):
                    receipt.failed_attempts.append(f"{target.provider.prefix} no credentials")
            else:
                setting = target.model_setting
                if setting is not None and setting != plan.targets[0].model_setting:
                    receipt.route_reason += f"; fallback: {setting}"
                if balancer is not None and route is not None:
                    seconds = time.monotonic() - started_at
                    scope = receipt.client.scope_session(receipt.session)
                    engine.background.start_task(balancer.record_reply(target, route, scope, seconds))
                return attempt
        if failure is None:
            raise InternalError("a plan has no target")
        if isinstance(failure, UpstreamError | ProxyBusy):
            del receipt.failed_attempts[place]
        raise failure

    async def _call_target(
        self, target: Target, request: MessagesRequest, *, requires_room: bool, has_next_target: bool
    ) -> Attempt:
        """Call one target, with what its server and earlier replies have told about the model.

        `requires_room` and `has_next_target`: see `TargetRun`.
        """
        engine = self._engine
        provider = target.provider
        model = target.model
        if provider.name in engine.catalog.queried_providers:
            await engine.catalog.fetch_capabilities(provider.name, model)
            capabilities = find_capabilities(provider, model, engine.settings, engine.catalog)
            target = structs.replace(target, capabilities=capabilities)
        self.receipt.adaptations.clear()
        self.receipt.plain_form = ()
        client = self.receipt.client.id
        observations = engine.observations
        origin = self._origin
        token_scale = observations.find_token_scale(provider.name, model, client)
        repair: Repair | None = None
        if known := observations.find_adaptations(target.upstream, model, client):
            target = apply_stored_adaptations(engine, target, self.receipt.adaptations, client)
            if REFUSED_CONTENT in known and not target.is_relayed:
                conversation = name_conversation(self._incoming, request, target)
                target = apply_adaptations_of(engine, target, self.receipt.adaptations, conversation)
            if UNOPENED_REASONING in known:
                key = name_reply_form(self._incoming)
                target = apply_adaptations_of(engine, target, self.receipt.adaptations, key)
            if target.model != model:
                origin = await self._admission.admit_successor(origin, target, request, token_scale)
        if observations.store.read(KNOWS_PARTS) is not None:
            target, repair = await PlainForms(engine, self._incoming).apply_known(target, request)
            if repair is not None:
                token_scale = observations.find_token_scale(provider.name, model, client, repair.form)
        is_relayed = target.is_relayed
        run = TargetRun(
            request,
            token_scale,
            origin,
            adaptations_left=MAX_RELAY_ADAPTATIONS if is_relayed else MAX_ADAPTATIONS,
            requires_room=requires_room,
            has_next_target=has_next_target,
            repair=repair,
        )
        engine.retry_budget.record_first_call(target.upstream)
        return await self._retries.call_with_retries(
            target, run, self._preparer.prepare_relay if is_relayed else self._preparer.prepare, self.sender.send
        )

    async def repeat_with_reserve(self, previous: Attempt, usage: Usage, characters: int) -> Attempt | None:
        """Repeat a call whose reasoning has used up the output limit before the first word, with a reserve for it.

        That the model reasons is remembered, so that later requests have the reserve from the beginning. None: the
        call had a reserve, or its limit is large, or the repetition has failed: the reply stays as it is. Claude
        Code's question with a limit of one token is not repeated: it only asks whether the model answers. `usage` and
        `characters`: see `end_call`.
        """
        sent, target = previous.decoded().call.request, previous.target
        limit = previous.run.request.max_tokens
        had_reserve = sent.reply_limit is not None and sent.max_tokens > target.dialect.min_output
        if had_reserve or not may_lack_room(limit) or (limit == 1 and self.receipt.kind == "auxiliary"):
            return None
        thinking = previous.run.request.thinking
        is_disabled = sent.effort == "none" or (thinking is not None and thinking.type == "disabled")
        name = REASONS_ALWAYS if is_disabled else REASONS_UNASKED
        self._engine.observations.store_adaptation(target.upstream, target.model, name, self.receipt.client.id)
        records, ended = self.records, self.records.ended
        running = records.running
        usage = self.end_call(usage, previous.run.request, characters)
        records.tell_ended_call(usage, repeats_input=True)
        with suppress(ProxyError):
            return await self.open_next_call(previous, previous.run.request, learned=name)
        records.running, records.ended = running, ended
        return None

    async def open_next_call(
        self, previous: Attempt, request: MessagesRequest, continuation: str = "", *, learned: str = ""
    ) -> Attempt:
        """Open another call for a started reply, at the same target. Raises `UpstreamError`.

        `continuation` is the token with which the provider continues a reply that it has split. "": another reason,
        such as results of tools. `learned`: name of an adaptation that the reply before has shown.
        """
        target = previous.target
        if learned:
            client = self.receipt.client.id
            target = apply_stored_adaptations(self._engine, target, self.receipt.adaptations, client)
        origin = structs.replace(previous.run.origin, purpose="further_call")
        run = TargetRun(request, previous.run.token_scale, origin, adaptations_left=0, continuation=continuation)
        self._engine.retry_budget.record_first_call(target.upstream)
        if continuation:
            run.reply_filter = previous.decoded().reply_filter
            if version := target.dialect.continuation_version:  # some providers continue replies only in this version
                path = f"{target.provider.default_url_path}/"
                target = structs.replace(target, base_url=target.base_url.replace(path, f"{version}/", 1))
        return await self._retries.call_with_retries(target, run, self._preparer.prepare, self.sender.send)

    async def repeat_call(self, failed: Attempt, error: UnreadableReply, usage: Usage, characters: int) -> Attempt:
        """Repeat a call whose reply is unreadable after thinking only. Raises `error` if the target has no retry left.

        `usage` and `characters`: see `end_call`.
        """
        usage = self.end_call(usage, failed.run.request, characters)
        self.records.tell_ended_call(usage, repeats_input=True)
        self._engine.circuit_breakers.record_failure(failed.target.upstream, error, self.receipt.client.id)
        target = await self._retries.prepare_retry(failed, error)
        return await self._retries.call_with_retries(target, failed.run, self._preparer.prepare, self.sender.send)

    def end_call(self, usage: Usage, request: MessagesRequest, characters: int, *, is_partial: bool = False) -> Usage:
        """Return the final count of the call whose response has ended.

        `usage`: what the provider has reported. Missing counts are estimated from the `request` that was sent, and from
        the number of `characters` that were received. `is_partial`: the proxy has ended the response, so that the
        provider may have written more than it has reported.
        """
        if usage.input_tokens is None:
            usage = structs.replace(usage, input_tokens=self.estimate_tokens(request))
        if usage.output_tokens is None or is_partial:
            output = max(usage.output_tokens or 0, -(-characters // CHARACTERS_PER_TOKEN))
            usage = structs.replace(usage, output_tokens=output)
        self.records.end_call(usage)
        return usage

    def estimate_tokens(self, request: MessagesRequest) -> int:
        """Return the input tokens of a request to the latest target, by the proxy's own estimate."""
        latest = self.sender.latest
        scale = TokenScale() if latest is None else latest.run.token_scale
        if self.editor is not None:
            request = self.editor.find_edited(request)
        return self._admission.estimates.get_or_estimate(request, scale)

    async def read_list_for_remedy(self, error: UpstreamError) -> None:
        if (attempt := self.sender.latest) is not None:
            await read_list_for_remedy(error, attempt.target, self._engine.settings, self._engine.catalog)

    async def annotate_error(self, error: UpstreamError) -> None:
        """Remove keys from the message of an error, and add the provider's name and a probable cause to it."""
        if (attempt := self.sender.latest) is not None:
            await self._retries.examine_texts(error, attempt)
            prefix_provider(error, self.receipt.prefix)
            add_not_found_cause(
                error, attempt.target, attempt.upstream_path, self._engine.settings, self._engine.catalog
            )

    def learn_safeguards(self, *, answered: bool) -> None:
        """Remember whether the server of the latest attempt answers requests for checks of its tool calls."""
        if (attempt := self.sender.latest) is None:
            return
        target, observations = attempt.target, self._engine.observations
        client = self.receipt.client.id
        if observations.record_checks(target.upstream, target.model, client, answered=answered) >= MIN_IGNORED_CHECKS:
            observations.store_adaptation(target.upstream, target.model, WITHOUT_SAFEGUARDS, client)
            self._engine.log.write_once(
                f"{target.provider.prefix}/{target.model}: the server has ignored safeguards, so the proxy checks "
                "the tool calls (auto mode) from now on"
            )

    def log_rejected_call(self, error: ClientError) -> None:
        """Log why a reply ends before its next call."""
        self._engine.log.write_once(f"A reply was paused before its next call: {error.stored_message}", "warning")


class Retries(Struct, eq=False):
    """The repetitions of the calls for one client request. `TargetRun` counts what is left of them at one target."""

    engine: Engine
    incoming: ClientRequest
    request: MessagesRequest
    watchdog: Watchdog
    records: AttemptRecords
    admission: Admission

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
        engine = self.engine
        while True:
            if self.admission.further_calls:
                await self.admission.admit_further_call(target, run.request, run.token_scale)
            provider = target.provider
            credential: Credential | None = None
            if provider.accepts_client_credential:
                credential = find_client_credential(engine, self.incoming, provider)
            try:
                if credential is None:
                    credential = engine.credentials.next_credential(
                        provider,
                        is_first=run.uses_first_key,
                        client=self.incoming.learner if engine.credentials.client_cooldowns else "",
                    )
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

    async def prepare_retry(self, attempt: Attempt, error: UpstreamError) -> Target:
        """Record a failed attempt. Return the target of the retry, after the pause before it.

        Raises `error` if no retry is left.
        """
        engine = self.engine
        run = attempt.run
        target = attempt.target
        failed_attempts = self.incoming.receipt.failed_attempts
        self.watchdog.end_upstream_call()
        await self.examine_texts(error, attempt)
        add_key_setting(error, target, attempt.credential)
        self.records.fail_attempt(error)
        if (changed := await self._change_request(attempt, error)) is not None:
            run.adaptations_left -= 1
            failed_attempts.append(describe_attempt(target, error))
            return changed
        pause = 0.0
        if not await self._change_key(attempt, error):
            pause = error.retry_after or RETRY_DELAY_SECONDS
            is_short = pause <= engine.settings.timeouts.first_byte_seconds
            may_retry = run.retries_left and error.retryable and is_short
            if not may_retry or not engine.retry_budget.try_spend(target.upstream):
                raise error
            run.retries_left -= 1
        if run.is_message:
            failed_attempts.append(describe_attempt(target, error))
        if pause:
            await engine.sleep(pause)
        return target

    async def _change_request(self, attempt: Attempt, error: UpstreamError) -> Target | None:
        """Return the target of a repetition with another request: changed as the words of the error suggest, or in a
        plainer form. None: no such change may help. Raises the first refusal if each plainer form is refused too.
        """
        run, target, repair = attempt.run, attempt.target, attempt.run.repair
        plain_forms = PlainForms(self.engine, self.incoming)
        first = None if repair is None else repair.refusal
        if repair is not None and first is not None and error.stated_status in (*REFUSAL_STATUSES, first.stated_status):
            plainer = plain_forms.find_plainer_target(target, repair, error) if run.adaptations_left else None
            if plainer is not None:
                return plainer
            statuses = {first.stated_status, error.stated_status}
            if not repair.plainer_forms and statuses <= {*REFUSAL_STATUSES}:
                plain_forms.record_second_refusal(target, repair)
            elif not repair.plainer_forms and statuses == {FAILURE_STATUS}:
                plain_forms.record_second_failure(target, repair)
            raise first
        if not run.adaptations_left or not error.is_repairable:
            return None
        if (adapted := await self._adapt(attempt, error)) is not None:
            return adapted
        plain: Target | None = None
        is_failure = error.stated_status == FAILURE_STATUS
        if not is_failure or self._may_retry_failure(run, target, error):
            plain = await plain_forms.find_plain_target(attempt, error)
        if plain is not None and is_failure:
            run.retries_left -= 1
            self.engine.retry_budget.try_spend(target.upstream)
        if plain is None and error.status == 400:
            attempt.store_lessons(self.engine.observations, self.incoming.receipt.client, is_rejected=True)
        return plain

    async def _adapt(self, attempt: Attempt, error: UpstreamError) -> Target | None:
        """Return the target with the change that the words of an error suggest. None: they suggest none."""
        run, target = attempt.run, attempt.target
        receipt = self.incoming.receipt
        run.adaptations = run.adaptations or Adaptations(
            self.engine,
            self.incoming.background,
            receipt.adaptations,
            receipt.client.id,
            partial(name_conversation, self.incoming, run.request),
        )
        adapted = await run.adaptations.find_adapted_target(target, attempt.call, error)
        if adapted is None:
            return None
        if run.request.context_edits and _loses_summary(run.request.context_edits, adapted):
            attempt.store_lessons(self.engine.observations, receipt.client, is_rejected=True)
            return None
        if adapted.model != target.model or adapted.wire is not target.wire:
            run.repair = None  # a search is about the requests of one model over one API
        if adapted.model != target.model:
            run.origin = await self.admission.admit_successor(run.origin, adapted, run.request, run.token_scale)
        return adapted

    def _may_retry_failure(self, run: TargetRun, target: Target, error: UpstreamError) -> bool:
        """Return True if a retry is left for a failure that would not be retried otherwise."""
        is_free = self.engine.retry_budget.allows({target.upstream: 1.0})
        return bool(run.retries_left) and is_free and not error.retryable

    async def _change_key(self, attempt: Attempt, error: UpstreamError) -> bool:
        """Return True if the next attempt has another key after this error: read again, or the next of the provider."""
        engine = self.engine
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
        if not credentials.exclude_failed_key(provider, credential, error, self.incoming.learner):
            return False
        run.key_changes += 1
        if credential is not None and concerns_key(error) and (key := credentials.describe_key(provider, credential)):
            scope = "" if credentials.is_skipped_for_all(provider, credential) else " for one client"
            engine.log.write_once(f"{key} is in cooldown{scope}, because of: {error.stored_message}")
        return True

    async def examine_texts(self, error: UpstreamError, attempt: Attempt) -> None:
        """Remove keys from the texts of an error, and note which of their words are those of the request, and whose key
        the provider got.
        """
        provider = attempt.target.provider
        secrets = list_call_secrets(self.engine, self.incoming, attempt.credential, provider)
        secrets += [server.authorization_token for server in self.request.mcp_servers if server.authorization_token]
        if provider.transport != "http":  # LiteLLM reads the keys; the proxy cannot know which it sent
            secrets += [key.reveal() for key in self.engine.settings.other_secrets]
        redact_error(error, secrets)
        client = self.incoming.receipt.client
        error.has_client_key = has_client_key(attempt.credential, provider, client)
        if not error.is_compared:
            body = self.incoming.body
            is_large = attempt.is_large or len(error.message) > count_bytes_on_loop(len(body))
            await self.incoming.background.run_in_thread_if_large(is_large, note_quotes, error, body, attempt.call)


def _loses_summary(edits: Sequence["ContextEdit"], target: Target) -> bool:
    """Return True if a summary is all that is requested, and `target` would write a reply in its place."""
    from anthropic_proxy.engine.messages.models.context_edits import Summarize  # noqa: PLC0415  # few requests

    return isinstance(edits[0], Summarize) and not makes_edits(target.dialect, edits)


def find_client_credential(engine: Engine, incoming: ClientRequest, provider: Provider) -> Credential | None:
    """Return the client's own key if the provider accepts it and the settings have none. None: it is not sent."""
    is_allowed = provider.accepts_client_credential and incoming.receipt.client.credential_forwardable
    if not is_allowed or engine.settings.keys.get(provider.name):
        return None
    for header in ("x-api-key", "authorization"):
        if value := incoming.headers.get(header):
            return Credential(header, value, CLIENT_CREDENTIAL_ORIGIN)
    return None
