"""The calls to providers for one client request: which target is called next, and what one call consists of.

A call to a target is an attempt. `Attempts.open_first_call` tries the targets of a plan in order until one sends
content. At one target there can be several attempts, as long as nothing was delivered:

- with a changed request, if the provider's error names a field that can be changed (`adaptation.py`),
- with a key that was read again from its file or command, after a rejection (401, 403),
- with another key of the provider, if the error concerns the key,
- with the same request, once, after a pause, if the error is temporary and the retry budget allows it.

`TargetRun` counts what is left of these at one target. `Attempt` is one call with everything that its reply needs:
`_prepare` or `_prepare_relay` adapts the client request to the target, and `_send` sends it: `_authorize` fetches an
access token if the provider has tokens, `_encode` makes the provider's request, and `_wait_for_content` opens the
reply. The receipt gets a record of each attempt (`AttemptRecords`).

After content has arrived, the same mechanism opens further calls for the same reply: `open_next_call` after tools that
the proxy runs or for a reply that the provider split, and `repeat_call` for a reply that is unreadable after thinking
only. Requests other than messages (`forwarding.py`) pass a `prepare` and a `send` of their own to `call_with_retries`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from operator import attrgetter
from typing import TypeVar

from msgspec import structs

from anthropic_proxy.engine.engine import (
    MAX_BYTES_ON_LOOP,
    MAX_REPLY_BYTES_ON_LOOP,
    MAX_STEPS_ON_LOOP,
    Engine,
    is_large_request,
)
from anthropic_proxy.engine.exchange.adaptation import Adaptations, apply_stored_adaptations
from anthropic_proxy.engine.exchange.admission import Admission
from anthropic_proxy.engine.exchange.attempt import Attempt, TargetRun
from anthropic_proxy.engine.exchange.attempt_records import AttemptRecords
from anthropic_proxy.engine.exchange.client_side import ClientRequest
from anthropic_proxy.engine.exchange.media_inlining import SAMPLE_LINK, SOURCE_OF_LINK, MediaInliner, MediaKey
from anthropic_proxy.engine.exchange.provider_errors import (
    add_address_advice,
    add_key_setting,
    add_missing_date,
    add_not_found_cause,
    decode_error_response,
    describe_attempt,
    idle_timeout_error,
    next_target_may_help,
    prefix_provider,
    read_error_body,
    require_api_response,
)
from anthropic_proxy.engine.exchange.relay import RelayStream, build_relay_call, expect_inner_calls
from anthropic_proxy.engine.exchange.upstream_stream import UpstreamStream
from anthropic_proxy.engine.exchange.usage_bounds import UsageBounds, build_usage_bounds
from anthropic_proxy.engine.exchange.watchdog import Watchdog
from anthropic_proxy.engine.messages.deltas import Delta, Usage
from anthropic_proxy.engine.messages.effort_plan import EffortPlan
from anthropic_proxy.engine.messages.fidelity import FidelityReport
from anthropic_proxy.engine.messages.loaded_tools import NOWHERE, PLACEHOLDER_NAME, DeferredToolPlaces
from anthropic_proxy.engine.messages.models import MessagesRequest, Source, decode_request_or_envelope
from anthropic_proxy.engine.messages.models.tools import list_tool_names
from anthropic_proxy.engine.messages.preparation import TargetLimits, may_lack_room, prepare
from anthropic_proxy.engine.messages.reply_schema import ReplySchema
from anthropic_proxy.engine.messages.tokens import EstimateCache, TokenScale
from anthropic_proxy.engine.messages.work_budget import WorkPostponed
from anthropic_proxy.engine.providers import Provider
from anthropic_proxy.engine.providers.call_options import extend_request
from anthropic_proxy.engine.providers.prefix_guard import MAX_PROMPT_BYTES, Prompt
from anthropic_proxy.engine.routing.problems import find_missing_key_of
from anthropic_proxy.engine.routing.router import Plan
from anthropic_proxy.engine.routing.routes import RouteBalancer
from anthropic_proxy.engine.routing.targets import Target, find_capabilities
from anthropic_proxy.engine.wires.bound_requests import WEB, BoundRequest, ClientOrigin
from anthropic_proxy.engine.wires.contract import (
    CLIENT_CREDENTIAL_ORIGIN,
    REASONS_ALWAYS,
    REASONS_UNASKED,
    TEMPLATE_SWITCH,
    WITHOUT_SAFEGUARDS,
    BaseDialect,
    Call,
    Credential,
    RelayCall,
    TranslatedCall,
    UpstreamRequest,
    UpstreamResponse,
)
from anthropic_proxy.errors import (
    AuthenticationFailed,
    CircuitOpen,
    ClientError,
    InternalError,
    MissingExtra,
    ProxyBusy,
    ProxyError,
    UnreadableReply,
    UnsupportedFeature,
    UpstreamError,
)
from anthropic_proxy.secrets import redact_error

MAX_ADAPTATIONS = 2
"""Maximum number of requests to one target that are repeated with a changed field, besides retries."""
MAX_RELAY_ADAPTATIONS = 7
"""The same for a relay, whose requests may have several betas and thinking blocks that are rejected one by one."""
RETRY_DELAY_SECONDS = 0.5
"""Seconds before a retry if the error has no delay. An error of status 503 always has one."""
MAX_TOKEN_SECONDS = 15.0
"""Maximum seconds that a call waits, if another target follows, for the log-in of a cloud. azure-identity ends `az`
after 10 s, and searches elsewhere before."""
MIN_IGNORED_CHECKS = 3
"""Number of replies without checks of their tool calls, of a server that has answered none of these requests, after
which it is not asked again. A single reply may be that of another server behind a gateway."""
MAX_LISTED_LOSSES = 20
"""Maximum number of lost fields that the error of the fidelity mode `strict` lists."""
_MAX_SCHEMA_STEPS_ON_LOOP = 1_000
"""Maximum steps for decoding the schema of a reply on the event loop: 3 to 10 ms. A larger schema is decoded in a
thread."""
_KEY_ERRORS = (401, 429)
"""HTTP statuses that concern the API key and not the server: 401, key rejected; 429, no quota left for the key."""
_read_role = attrgetter("role")
_USUAL_CONTENT_TYPES = frozenset(
    kind + charset
    for kind in ("text/event-stream", "application/json", "application/x-ndjson")
    for charset in ("", "; charset=utf-8")
)
"""Content types of replies. A response with another one is examined."""


_Result = TypeVar("_Result")


class Attempts:
    """The calls to providers for one client request. Each is recorded in the receipt."""

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
        estimates: EstimateCache,
    ) -> None:
        self._admission = admission
        self.origin = origin
        self._engine = engine
        self._incoming = incoming
        self._request = request
        self._watchdog = watchdog
        self._estimates = estimates
        self.receipt = incoming.receipt
        self._session = "" if incoming.cache_session else self.receipt.session
        """Conversation of the request. "": it is no part of one, although its record may name the session."""
        self._is_large = is_large_request(incoming.body, len(request.tools))
        self._inliner: MediaInliner | None = None
        """Downloader for the files to which the request links. None: no links, or `FETCH_URLS` is off."""
        self.records = AttemptRecords(incoming.receipt, engine, clock)
        self.latest: Attempt | None = None
        """The latest attempt that was encoded, or whose circuit was open. None: there is none."""
        self.prompt: Prompt | None = None
        """The prompt of the latest call that was accepted. None: there is none, no session, or it is too large."""

    async def open_first_call(self, request: MessagesRequest, plan: Plan) -> Attempt:
        """Call the targets of the plan in order, and return the first attempt whose reply has content.

        Raises the error of the last called target if none replies.
        """
        engine = self._engine
        receipt = self.receipt
        route = plan.route
        if engine.web_fetch is not None and SOURCE_OF_LINK in self._incoming.body and WEB in self.origin.servers:
            self._inliner = MediaInliner(engine.web_fetch, self.origin)
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
                    # a rejected key of the client concerns no other request
                    own_key = find_client_credential(engine, self._incoming, target.provider) is None
                    if error.status >= 500 or (error.status in _KEY_ERRORS and own_key):
                        engine.background.start_task(balancer.record_failure(target))
                place = len(receipt.failed_attempts)
                receipt.failed_attempts.append(describe_attempt(target, error))
                if not next_target_may_help(error):
                    break
                error.release_tracebacks()
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
                    engine.background.start_task(balancer.record_reply(target, route, receipt.session, seconds))
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
        if engine.observations.find_adaptations(target.upstream, model):
            target = apply_stored_adaptations(engine, target, self.receipt.adaptations)
        run = TargetRun(
            request,
            engine.observations.find_token_scale(provider.name, model),
            adaptations_left=MAX_RELAY_ADAPTATIONS if target.is_relayed else MAX_ADAPTATIONS,
            requires_room=requires_room,
            has_next_target=has_next_target,
        )
        if target.model != model:
            await self._admit_successor(target, run)
        engine.retry_budget.record_first_call(target.upstream)
        prepare = self._prepare_relay if target.is_relayed else self._prepare
        return await self.call_with_retries(target, run, prepare, self._send)

    async def repeat_with_reserve(self, previous: Attempt) -> Attempt | None:
        """Repeat a call whose reasoning has used up the output limit before the first word, with a reserve for it.

        That the model reasons is remembered, so that later requests have the reserve from the beginning. None: the
        call had a reserve, or its limit is large, or the repetition has failed: the reply stays as it is.
        """
        sent, target = previous.decoded().call.request, previous.target
        if sent.reply_limit is not None or not may_lack_room(previous.run.request.max_tokens):
            return None
        thinking = previous.run.request.thinking
        is_disabled = sent.effort == "none" or (thinking is not None and thinking.type == "disabled")
        name = REASONS_ALWAYS if is_disabled else REASONS_UNASKED
        self._engine.observations.store_adaptation(target.upstream, target.model, name)
        with suppress(ProxyError):
            return await self.open_next_call(previous, previous.run.request, learned=name)
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
            target = apply_stored_adaptations(self._engine, target, self.receipt.adaptations)
        run = TargetRun(request, previous.run.token_scale, adaptations_left=0, continuation=continuation)
        self.origin = structs.replace(self.origin, purpose="further_call")
        self._engine.retry_budget.record_first_call(target.upstream)
        if continuation:
            run.reply_end = previous.decoded().reply_end
            if version := target.dialect.continuation_version:  # some providers continue replies only in this version
                path = f"{target.provider.default_url_path}/"
                target = structs.replace(target, base_url=target.base_url.replace(path, f"{version}/", 1))
        return await self.call_with_retries(target, run, self._prepare, self._send)

    async def repeat_call(self, failed: Attempt, error: UnreadableReply, usage: Usage) -> Attempt:
        """Repeat a call whose reply is unreadable after thinking only. Raises `error` if the target has no retry left.

        `usage` is the token usage of the failed call.
        """
        self._engine.circuit_breakers.record_failure(failed.target.upstream, error)
        target = await self._prepare_retry(failed, error, usage)
        return await self.call_with_retries(target, failed.run, self._prepare, self._send)

    def estimate_tokens(self, request: MessagesRequest) -> int:
        """Return the input tokens of a request to the latest target, by the proxy's own estimate."""
        scale = TokenScale() if self.latest is None else self.latest.run.token_scale
        return self._estimates.get_or_estimate(request, scale)

    def annotate_error(self, error: UpstreamError) -> None:
        """Remove keys from the message of an error, and add the provider's name and a probable cause to it."""
        if (attempt := self.latest) is not None:
            self._redact_keys(error, attempt)
            prefix_provider(error, self.receipt.prefix)
            add_not_found_cause(
                error, attempt.target, attempt.upstream_path, self._engine.settings, self._engine.catalog
            )

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
                target = await self._prepare_retry(attempt, error)
                error.release_tracebacks()

    def log_rejected_call(self, error: ClientError) -> None:
        """Log why a reply ends before its next call."""
        self._engine.log.write_once(f"A reply was paused before its next call: {error.message}", "warning")

    async def _admit_successor(self, target: Target, run: TargetRun) -> None:
        self.origin = await self._admission.admit_successor(self.origin, target, run.request, run.token_scale)

    async def _prepare_relay(self, target: Target, credential: Credential | None, run: TargetRun) -> Attempt:
        """Return a new attempt at a relay. Its provider checks the request, which may be invalid."""
        engine = self._engine
        self.receipt.fidelity.clear_notes()
        files: Mapping[tuple[str, str], Source | None] = {}
        if self._inliner is not None and not target.wire.accepts_media_url(target.dialect, SAMPLE_LINK):
            read = await engine.background.run_in_thread_if_large(
                self._is_large, decode_request_or_envelope, self._incoming.body
            )
            fetched = await self._fetch_media(
                self._inliner, read, target, engine.find_target_limits(target, self.origin.servers)
            )
            files = await engine.background.run_in_thread_if_large(self._is_large, self._inliner.encode_files, fetched)
            self.receipt.fidelity.add_notes(self._inliner.notes)
        refused: Collection[bytes] = engine.observations.refused_thinking
        if run.adaptations is not None:
            refused = run.adaptations.list_refused_thinking()
        call = build_relay_call(
            self._incoming,
            run.request,
            target,
            refused,
            files=files,
            earlier_adaptations=() if run.adaptations is None else run.adaptations.names,
            adaptations_left=run.adaptations_left,
            token_scale=run.token_scale,
        )
        return Attempt(target=target, run=run, call=call, credential=credential)

    async def _prepare(self, target: Target, credential: Credential | None, run: TargetRun) -> Attempt:
        """Return a new attempt, with the request adapted to the target and notes on what was changed.

        Raises the decoding error of an invalid request.
        """
        engine = self._engine
        request = run.request
        report = self.receipt.fidelity
        if request.decode_error is not None:
            raise request.decode_error
        limits = engine.find_target_limits(target, self.origin.servers)
        if run.requires_room:
            limits = structs.replace(limits, reject_overflow=True)
        inliner = self._inliner
        if inliner is not None:
            fetched = await self._fetch_media(inliner, request, target, limits)
            request = await engine.background.run_in_thread_if_large(
                self._is_large, inliner.inline_urls, request, fetched
            )
        estimate = partial(self._estimates.get_or_estimate, scale=run.token_scale)
        session = self._session
        conversation = f"{session} {self.receipt.agent} {target.prefixed_id}" if session else ""
        places: DeferredToolPlaces | None = None
        loads_tools = session and limits.loaded_tools != "listed" and PLACEHOLDER_NAME in list_tool_names(request.tools)
        if loads_tools:
            places = engine.observations.find_tool_places(conversation, request.messages)
        given = request, limits, estimate, places or NOWHERE
        prepared = await engine.background.run_in_thread(prepare, *given) if self._is_large else prepare(*given)
        prepared.request.session = session or self._incoming.cache_session
        prepared.request.questions = self._incoming.questions
        if loads_tools:
            engine.observations.store_tool_places(conversation, request.messages, places, prepared.places)
        is_further_call = run.continuation is not None
        if report.notes and not is_further_call:
            report.clear_notes()
        report.add_notes(prepared.notes, skip_noted_fields=is_further_call)
        if inliner is not None:
            report.add_notes(inliner.notes)
        dialect = target.dialect
        effort_plan: EffortPlan | None = None
        if session and dialect.sends_effort_changes:
            effort_plan = engine.observations.follow_effort(conversation, prepared.request)
        call = TranslatedCall(
            request=prepared.request,
            model=target.model,
            requested_model=request.model,
            dialect=dialect,
            streams_upstream=request.stream or prepared.request.may_end_early or dialect.always_stream,
            effort_plan=effort_plan,
            client_tool_names=prepared.aliases,
            continuation_token=run.continuation or "",
            new_id=engine.new_id,
            provider_prefix=target.provider.prefix,
            responses_setting=target.provider.responses_setting,
            base_url=target.base_url,
            context_window=limits.context_window,
            max_input_tokens=limits.max_input,
            estimate_input_tokens=partial(estimate, request),
            max_schema_steps=MAX_STEPS_ON_LOOP,
        )
        return Attempt(
            target=target,
            run=run,
            call=call,
            credential=credential,
            proxy_tools=prepared.proxy_tools,
            deferred_tools=prepared.deferred,
        )

    async def _fetch_media(
        self, inliner: MediaInliner, request: MessagesRequest, target: Target, limits: TargetLimits
    ) -> Collection[MediaKey]:
        fetched = await inliner.fetch(request, target, limits)
        self._is_large = self._is_large or inliner.fetched_bytes > MAX_BYTES_ON_LOOP
        return fetched

    async def _send(self, attempt: Attempt) -> Attempt:
        """Encode and send the request of an attempt, and wait until its reply has content.

        Raises `UpstreamError`, and `UnsupportedFeature` in fidelity mode `strict` if the request drops fields.
        """
        engine = self._engine
        receipt = self.receipt
        watchdog = self._watchdog
        run = attempt.run
        upstream = attempt.target.upstream
        prompt: Prompt | None = None
        failure: UpstreamError | None = None
        if run.has_next_target:
            try:
                engine.circuit_breakers.require_closed(upstream)
            except CircuitOpen:
                self._record_target(attempt)
                raise
        try:
            if attempt.credential is None and engine.credentials.uses_tokens(attempt.target.provider):
                await self._authorize(attempt)
            upstream_request = await self._encode(attempt)
            self._record_target(attempt)
            target = attempt.target
            call = attempt.call
            prepared = call.request if isinstance(call, TranslatedCall) else None
            if self._session and len(upstream_request.body) <= MAX_PROMPT_BYTES:
                conversation = receipt.session, receipt.agent, receipt.prefix, target.model
                prompt = Prompt(
                    conversation,
                    upstream_request.body,
                    sent_at=asyncio.get_running_loop().time(),
                    system_messages=None if prepared is None else [*map(_read_role, prepared.messages)].count("system"),
                    settings=target.dialect.prompt_settings,
                    tools=(prepared and prepared.tools) or self._request.tools,
                )
            try:
                if (throttle := engine.throttles.get(receipt.provider)) is not None:
                    self.records.end_attempt()  # this time belongs to no call
                    await throttle.wait(run.max_queue_seconds)
                limit = (prepared or self._request).max_tokens or 0
                upstream_request = self.records.begin_attempt(target, upstream_request, limit)
                bounds = build_usage_bounds(call, len(upstream_request.body), limit, receipt.fidelity)
                watchdog.begin_upstream_call()
                send = engine.transports[receipt.provider]
                bound = BoundRequest(
                    self.origin,
                    target.base_url,
                    upstream_request,
                    attempt.credential,
                    server=receipt.provider,
                    model=target.model,
                )
                response = await send(bound)
                del upstream_request, bound  # frees the body: the wait for content can take minutes
                receipt.attempts[-1].status = response.status
                await self._wait_for_content(attempt, response, bounds)
            except UpstreamError as error:
                failure = error
            except asyncio.CancelledError:
                if not watchdog.recover_from_idle():
                    raise
                failure = idle_timeout_error(receipt.prefix, watchdog.upstream_limit)
        except BaseException:
            engine.circuit_breakers.release_trial(upstream)
            raise
        if failure is not None:
            engine.circuit_breakers.record_failure(upstream, failure)
            add_address_advice(failure, target, engine.settings)
            raise failure
        engine.circuit_breakers.record_success(upstream)
        self.prompt = prompt
        self._store_lessons(attempt)
        return attempt

    def _store_lessons(self, attempt: Attempt, *, is_rejected: bool = False) -> None:
        """Store what the success of an attempt shows about the model, or its rejection that no adaptation avoids."""
        target = attempt.target
        if attempt.proves:
            self._engine.observations.store_adaptation(target.upstream, target.model, attempt.proves)
        if attempt.run.adaptations is not None:
            attempt.run.adaptations.store_for_model(target, is_rejected=is_rejected)

    def _record_target(self, attempt: Attempt) -> None:
        """Name the target of an attempt in the receipt, and for the messages of errors."""
        self.latest = attempt
        receipt = self.receipt
        target = attempt.target
        receipt.provider = target.provider.name
        receipt.prefix = target.provider.prefix
        receipt.model = target.model
        receipt.base_url = target.base_url

    async def _authorize(self, attempt: Attempt) -> None:
        """Give the attempt an access token of its provider. It may come with the address to call."""
        target = attempt.target
        # an error of the token source names this provider
        self.receipt.provider = target.provider.name
        self.receipt.prefix = target.provider.prefix
        max_seconds = MAX_TOKEN_SECONDS if attempt.run.has_next_target else None
        attempt.credential, base_url = await self._engine.credentials.next_token_and_url(
            target.provider, target.base_url, max_seconds=max_seconds
        )
        attempt.target = structs.replace(target, base_url=base_url)

    async def _encode(self, attempt: Attempt) -> UpstreamRequest:
        """Return the request of an attempt for the provider, with what the settings add to it (`CallOptions`).

        It also completes the attempt: the proxy checks the reply against a schema that the provider does not enforce.
        """
        engine = self._engine
        target = attempt.target
        provider = target.provider
        run = attempt.run
        call = attempt.call
        request = await engine.background.run_for_call(target.wire.encode_request, call, is_large=self._is_large)
        options = engine.settings.call_options.get(provider.name)
        if options is not None:
            extend = partial(extend_request, options, client_headers=self._incoming.headers, with_body=True)
            request = await engine.background.run_in_thread_if_large(self._is_large, extend, request)
        report = self.receipt.fidelity
        is_first_call = run.continuation is None
        if request.notes:
            report.add_notes(request.notes, skip_noted_fields=not is_first_call)
        if run.adaptations is not None:
            report.add_notes(run.adaptations.notes)
        if is_first_call and report.notes:
            require_lossless(report, target)
        attempt.upstream_path, attempt.proves = request.path, request.proves
        schema = bytes(call.request.output_schema) if isinstance(call, TranslatedCall) else b""
        if schema and not request.enforces_schema:
            try:
                attempt.reply_schema = ReplySchema(schema, max_steps_here=_MAX_SCHEMA_STEPS_ON_LOOP)
            except WorkPostponed:
                attempt.reply_schema = await engine.background.run_in_thread(ReplySchema, schema)
        return request

    async def _wait_for_content(self, attempt: Attempt, response: UpstreamResponse, bounds: UsageBounds) -> None:
        """Open the reply in a response, and wait until it has content. A failure closes the response."""
        target = attempt.target
        call = attempt.call
        if isinstance(call, RelayCall):
            call = structs.replace(call, body=b"", headers={}, files={})  # frees memory
        stream: UpstreamStream | RelayStream
        deltas: list[Delta] | None = None
        try:
            if (
                response.status != 200
                or response.headers.get("content-type") not in _USUAL_CONTENT_TYPES
                or "content-encoding" in response.headers
            ):
                deltas = await self.examine_response(target, call, response)
            if isinstance(call, RelayCall):
                secrets = self._list_call_secrets(attempt)
                stream = RelayStream(
                    call,
                    response,
                    self._watchdog,
                    self._engine.background,
                    bounds=bounds,
                    secrets=secrets,
                    inner_calls=expect_inner_calls(self._incoming, attempt.run.request, call.model),
                )
            else:
                stream = UpstreamStream(
                    target.wire,
                    call,
                    response,
                    self._watchdog,
                    self._engine.background,
                    bounds=bounds,
                    report=self.receipt.fidelity,
                    reply_end=attempt.run.reply_end,
                    deferred_tools=attempt.deferred_tools,
                )
            attempt.stream = stream
            if deltas is not None:
                attempt.decoded().set_deltas(deltas)
            else:
                try:
                    await stream.wait_for_content()
                except UpstreamError:
                    self.records.count_unread_reply(stream.unread_usage)
                    raise
                if isinstance(stream, UpstreamStream) and stream.has_thinking:
                    self._learn_template_switch(attempt)
        except BaseException:
            await response.close()
            raise
        attempt.call = call

    def _learn_template_switch(self, attempt: Attempt) -> None:
        """Remember that a model reasons although the client disabled it, if the server's template may have a switch."""
        thinking, target = attempt.run.request.thinking, attempt.target
        if thinking is None or thinking.type != "disabled" or target.capabilities.efforts:
            return
        dialect = target.dialect
        if not dialect.always_reasons and target.wire.apply_adaptation(dialect, TEMPLATE_SWITCH) != dialect:
            self._engine.observations.store_adaptation(target.upstream, target.model, TEMPLATE_SWITCH)

    def learn_safeguards(self, *, answered: bool) -> None:
        """Remember whether a server answers requests for checks of its tool calls."""
        attempt, observations = self.latest, self._engine.observations
        if attempt is None:
            return
        target = attempt.target
        if observations.record_checks(target.upstream, target.model, answered=answered) >= MIN_IGNORED_CHECKS:
            observations.store_adaptation(target.upstream, target.model, WITHOUT_SAFEGUARDS)
            self._engine.log.write_once(
                f"{target.provider.prefix}/{target.model}: the server has ignored safeguards, so the proxy checks "
                "the tool calls (auto mode) from now on"
            )

    async def examine_response(
        self, target: Target, call: Call[BaseDialect], response: UpstreamResponse
    ) -> list[Delta] | None:
        """Raise the error of a response that is no reply.

        Return the deltas of a complete reply, such as a refusal, that has an error status. None: an ordinary reply.
        """
        require_api_response(response, target, self._engine.settings)
        if 200 <= response.status < 300:
            return None
        body = await read_error_body(response, self._watchdog)
        headers = add_missing_date(response.headers, self._engine.clock)
        return await self._engine.background.run_in_thread_if_large(
            len(body) > MAX_REPLY_BYTES_ON_LOOP, decode_error_response, target, call, response.status, headers, body
        )

    async def _prepare_retry(self, attempt: Attempt, error: UpstreamError, usage: Usage | None = None) -> Target:
        """Record a failed attempt with its token usage. Return the target of the retry, after the pause before it.

        Raises `error` if no retry is left.
        """
        engine = self._engine
        run = attempt.run
        target = attempt.target
        failed_attempts = self.receipt.failed_attempts
        self._watchdog.end_upstream_call()
        self._redact_keys(error, attempt)
        add_key_setting(error, target, attempt.credential)
        self.records.fail_attempt(error, usage)
        if run.adaptations_left:
            run.adaptations = run.adaptations or Adaptations(engine, self.receipt.adaptations)
            if (adapted := await run.adaptations.find_adapted_target(target, attempt.call, error)) is not None:
                run.adaptations_left -= 1
                failed_attempts.append(describe_attempt(target, error))
                if adapted.model != target.model:
                    await self._admit_successor(adapted, run)
                return adapted
            if error.status == 400:
                self._store_lessons(attempt, is_rejected=True)
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
        if key := credentials.describe_key(provider, credential):
            engine.log.write_once(f"{key} is in cooldown, because of: {error.message}")
        return True

    def _list_call_secrets(self, attempt: Attempt) -> list[str]:
        """Return the secrets in the headers of a call, which the provider may quote in an error."""
        secrets = [*attempt.credential.secrets] if attempt.credential is not None else []
        if (options := self._engine.settings.call_options.get(attempt.target.provider.name)) is not None:
            secrets += options.reveal_secrets()
            secrets += options.reveal_copied_secrets(self._incoming.headers)
        return secrets

    def _redact_keys(self, error: UpstreamError, attempt: Attempt) -> None:
        secrets = self._list_call_secrets(attempt)
        secrets += [server.authorization_token for server in self._request.mcp_servers if server.authorization_token]
        if attempt.target.provider.transport != "http":  # LiteLLM reads the keys; the proxy cannot know which it sent
            secrets += [key.reveal() for key in self._engine.settings.other_secrets]
        redact_error(error, secrets)


def require_lossless(report: FidelityReport, target: Target) -> None:
    """Raise `UnsupportedFeature` if the report is one of the mode `strict` and contains losses."""
    losses = report.list_rejected_losses()
    if not losses:
        return
    listed = "; ".join(f"{note.field}: {note.reason}" for note in losses[:MAX_LISTED_LOSSES])
    more = f"; and {len(losses) - MAX_LISTED_LOSSES} more" if len(losses) > MAX_LISTED_LOSSES else ""
    raise UnsupportedFeature(
        f"{target.provider.prefix}/{target.model} would lose {listed}{more}. FIDELITY=strict rejects this. "
        "Remove it from the request, choose another backend, or allow it with FIDELITY=best-effort "
        "(FIDELITY_<TIER> for one tier).",
        code="fidelity-strict",
        should_retry=False,
    )


def find_client_credential(engine: Engine, incoming: ClientRequest, provider: Provider) -> Credential | None:
    """Return the client's own key if the provider accepts it and the settings have none. None: it is not sent."""
    is_allowed = provider.accepts_client_credential and incoming.receipt.client.credential_forwardable
    if not is_allowed or engine.settings.keys.get(provider.name):
        return None
    for header in ("x-api-key", "authorization"):
        if value := incoming.headers.get(header):
            return Credential(header, value, CLIENT_CREDENTIAL_ORIGIN)
    return None
