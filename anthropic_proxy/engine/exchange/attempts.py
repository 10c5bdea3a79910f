"""The calls to providers for one client request: which target is called next, and what one call consists of.

A target is a provider and model, and a call to it is an attempt. `Attempts.open_first_call` tries the targets of a
route in order until one sends content. At one target there can be several attempts, as long as nothing was delivered:

- with a changed request, if the provider's error names a field that can be changed (`adaptation.py`),
- with a key that was read again from its file or command, after a rejection (401, 403),
- with another key of the provider, if the error concerns the key,
- with the same request, once, after a pause, if the error is temporary and the retry budget allows it.

`TargetRun` counts what is left of these at one target. `Attempt` is one call with everything that its reply needs.

After content has arrived, the same mechanism opens further calls for the same reply: `open_next_call` after tools that
the proxy runs or for a reply that the provider split, and `repeat_call` for a reply that is unreadable after thinking
only.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial

from msgspec import Struct, structs

from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.adaptation import Adaptations, apply_stored_adaptations
from anthropic_proxy.engine.exchange.attempt_records import AttemptRecords
from anthropic_proxy.engine.exchange.call_building import (
    MAX_REPLY_BYTES_ON_LOOP,
    build_call,
    build_relay_call,
    estimate_scaled_tokens,
    find_client_credential,
    is_large_request,
    resolve_target_limits,
    run_on_loop_or_in_thread,
)
from anthropic_proxy.engine.exchange.client_request import ClientRequest
from anthropic_proxy.engine.exchange.error_messages import (
    add_address_setting,
    add_key_setting,
    add_not_found_cause,
    decode_error_response,
    describe_attempt,
    idle_timeout_error,
    next_target_may_help,
    prefix_provider,
    require_api_response,
)
from anthropic_proxy.engine.exchange.media_inlining import SOURCE_OF_LINK, MediaInliner
from anthropic_proxy.engine.exchange.relay import RelayStream
from anthropic_proxy.engine.exchange.upstream_stream import UpstreamStream, add_missing_date, read_error_body
from anthropic_proxy.engine.exchange.watchdog import Watchdog
from anthropic_proxy.engine.hooks import Receipt
from anthropic_proxy.engine.messages.deltas import (
    Usage,
)
from anthropic_proxy.engine.messages.fidelity import FidelityNote, FidelityReport
from anthropic_proxy.engine.messages.models import MessagesRequest, Tool
from anthropic_proxy.engine.messages.preparation import ProxyTool, prepare
from anthropic_proxy.engine.messages.reply_schema import ReplySchema
from anthropic_proxy.engine.messages.stop_sequences import StopSequenceFilter
from anthropic_proxy.engine.messages.tokens import EstimateCache, TokenScale
from anthropic_proxy.engine.messages.work_budget import WorkPostponed
from anthropic_proxy.engine.providers.call_options import extend_request
from anthropic_proxy.engine.routing.router import Route, Target
from anthropic_proxy.engine.routing.rules import RouteBalancer
from anthropic_proxy.engine.wires.contract import (
    BaseDialect,
    Call,
    Credential,
    RelayWire,
    UpstreamRequest,
)
from anthropic_proxy.errors import (
    ClientError,
    InternalError,
    MissingExtra,
    ProxyError,
    UnreadableReply,
    UnsupportedFeature,
    UpstreamError,
)
from anthropic_proxy.secrets import redact_error

MAX_RETRIES_PER_TARGET = 1
"""Maximum number of retries at one target after temporary failures."""
MAX_ADAPTATIONS = 2
"""Maximum number of requests to one target that are repeated with a changed field, besides retries."""
MAX_REPLACED_KEYS = 1
"""Maximum number of retries at one target with a key that was read again from its file or command."""
RETRY_DELAY_SECONDS = 0.5
"""Seconds before a retry if the provider's error response has no header `retry-after`."""
MAX_LISTED_LOSSES = 20
"""Maximum number of lost fields that the error of the fidelity mode `strict` lists."""
_MAX_SCHEMA_STEPS_ON_LOOP = 1_000
"""Maximum steps for decoding the schema of a reply on the event loop: 3 to 10 ms. A larger schema is decoded in a
thread."""
_KEY_ERRORS = (401, 429)
"""HTTP statuses that concern the API key and not the server: 401, key rejected; 429, no quota left for the key."""


class TargetRun(Struct):
    """What all attempts at one target share: the request, and the repetitions that are left."""

    request: MessagesRequest
    token_scale: TokenScale
    """How tokens of the model are estimated."""
    adaptations_left: int
    key_changes_left: int
    retries_left: int = MAX_RETRIES_PER_TARGET
    key_replacements_left: int = MAX_REPLACED_KEYS
    skips_open_circuit: bool = False
    """True if another target follows. This one is then skipped while its circuit is open."""
    continuation: str | None = None
    """Token to continue a reply that the provider split. "": another call without a token. None: first call."""
    stop_filter: StopSequenceFilter | None = None
    """Filter of the previous call, if this call continues its reply."""
    adaptations: Adaptations | None = None
    """Changes of the request after errors of the provider in this exchange. None: no change so far."""


class Attempt(Struct, kw_only=True):
    """One call to a target. `Attempts` fills it step by step: prepared, encoded, sent, opened."""

    target: Target
    run: TargetRun
    call: Call[BaseDialect]
    """Input of the wire. `client_body` is emptied when the reply begins, to free memory."""
    credential: Credential | None
    """None: the provider needs no key."""
    proxy_tools: Mapping[str, ProxyTool] = {}
    """Name of a tool in calls of the model → the tool that the proxy runs in place of client or provider."""
    deferred_tools: Sequence[Tool] = ()
    """Tools that are not sent to the model until its tool search finds them."""
    upstream_path: str = ""
    """Path below the base URL. "": not encoded yet."""
    reply_schema: ReplySchema | None = None
    """JSON Schema against which the proxy checks the reply. None: none requested, or the provider enforces it."""
    stream: UpstreamStream | RelayStream | None = None
    """The reply, whose first content has arrived. None: not opened."""

    def decoded(self) -> UpstreamStream:
        """Return the reply as deltas. Only such a reply can have further calls."""
        if not isinstance(self.stream, UpstreamStream):
            raise InternalError("a relay cannot continue a reply")
        return self.stream


class Attempts:
    """The calls to providers for one client request. Each is recorded in the receipt."""

    def __init__(
        self,
        engine: Engine,
        incoming: ClientRequest,
        request: MessagesRequest,
        receipt: Receipt,
        watchdog: Watchdog,
        *,
        estimates: EstimateCache,
    ) -> None:
        self._engine, self._incoming, self._request = engine, incoming, request
        self._receipt, self._watchdog, self._estimates = receipt, watchdog, estimates
        self._is_large = is_large_request(incoming, receipt.tool_count)
        self._inliner: MediaInliner | None = None
        """Downloader for the files to which the request links. None: no links, or `FETCH_URLS` is off."""
        if engine.web_fetch is not None and SOURCE_OF_LINK in incoming.body:
            self._inliner = MediaInliner(engine.web_fetch)
        self.records = AttemptRecords(receipt, engine)
        self.latest: Attempt | None = None
        """The attempt that was encoded last. None: no request was encoded."""

    async def open_first_call(self, request: MessagesRequest, route: Route) -> Attempt:
        """Call the targets of the route in order, and return the first attempt whose reply has content.

        Raises the error of the last called target if none replies.
        """
        failure: ProxyError | None = None
        engine, incoming, receipt, rule = self._engine, self._incoming, self._receipt, route.rule
        balancer = RouteBalancer(engine.store, engine.route_prices) if rule and rule.balance == "latency" else None
        for position, target in enumerate(route.targets, 1):
            started_at, provider, model = engine.clock(), target.provider, target.model
            try:
                capable = target
                if engine.catalog.can_query_provider(provider.name):
                    capabilities = await engine.catalog.fetch_capabilities(provider.name, model)
                    capable = structs.replace(target, capabilities=capabilities)
                scale = await engine.observations.find_token_scale(provider.name, model)
                adapted = await apply_stored_adaptations(engine, capable, receipt.adaptations)
                run = self._new_run(request, adapted, scale, adaptations=MAX_ADAPTATIONS)
                run.skips_open_circuit = position < len(route.targets)
                attempt = await self._call_with_retries(adapted, run)
            except UpstreamError as error:
                failure = error
                if balancer is not None and (
                    error.status >= 500
                    or (error.status in _KEY_ERRORS and not find_client_credential(engine, incoming, provider))
                ):  # a rejected key of the client concerns no other request
                    engine.background.start_task(balancer.record_failure(target))
                receipt.failed_attempts.append(describe_attempt(target, error))
                if not next_target_may_help(error):
                    break
                error.release_tracebacks()
            except (ClientError, MissingExtra) as refusal:
                failure = failure or refusal
            else:
                if balancer is not None and rule is not None:
                    seconds = engine.clock() - started_at
                    engine.background.start_task(balancer.record_reply(target, rule, receipt.session, seconds))
                return attempt
        if failure is None:
            raise InternalError("a route has no target")
        if isinstance(failure, UpstreamError):
            receipt.failed_attempts.pop()
        raise failure

    async def open_next_call(self, previous: Attempt, request: MessagesRequest, continuation: str = "") -> Attempt:
        """Open another call for a started reply, at the same target. Raises `UpstreamError`.

        `continuation` is the token with which the provider continues a reply that it has split. "": another reason,
        such as results of tools.
        """
        run = self._new_run(request, previous.target, previous.run.token_scale, adaptations=0)
        run.continuation, target = continuation, previous.target
        if continuation:
            run.stop_filter = previous.decoded().stop_filter
            if version := target.dialect.continuation_version:  # some providers continue replies only in this version
                path = f"{target.provider.default_url_path}/"
                target = structs.replace(target, base_url=target.base_url.replace(path, f"{version}/", 1))
        return await self._call_with_retries(target, run)

    async def repeat_call(self, failed: Attempt, error: UnreadableReply, usage: Usage) -> Attempt:
        """Repeat a call whose reply is unreadable after thinking only. Raises `error` if the target has no retry left.

        `usage` is the token usage of the failed call.
        """
        self._engine.circuit_breakers.record_failure(failed.target.upstream, error)
        return await self._call_with_retries(await self._prepare_retry(failed, error, usage), failed.run)

    def add_note(self, note: FidelityNote) -> None:
        self._receipt.fidelity.add_notes([note])

    def estimate_scaled_tokens(self, request: MessagesRequest, token_scale: TokenScale) -> int:
        return estimate_scaled_tokens(self._estimates, token_scale, request)

    def annotate_error(self, error: UpstreamError) -> None:
        """Remove keys from the message of an error, and add the provider's name and a probable cause to it."""
        if (attempt := self.latest) is not None:
            self._redact_keys(error, attempt)
            prefix_provider(error, self._receipt.prefix)
            add_not_found_cause(error, attempt.target, attempt.upstream_path, self._engine.settings)

    def _list_call_secrets(self, attempt: Attempt) -> list[str]:
        """Return the secrets in the headers of a call, which the provider may quote in an error."""
        secrets = [attempt.credential.secret] if attempt.credential is not None else []
        if (options := self._engine.settings.call_options.get(attempt.target.provider.name)) is not None:
            secrets += options.reveal_secrets()
        return secrets

    def _redact_keys(self, error: UpstreamError, attempt: Attempt) -> None:
        secrets = self._list_call_secrets(attempt)
        secrets += [server.authorization_token for server in self._request.mcp_servers if server.authorization_token]
        if attempt.target.provider.transport != "http":  # LiteLLM reads the keys; the proxy cannot know which it sent
            secrets += [key.reveal() for key in self._engine.settings.other_secrets]
        redact_error(error, secrets)

    def _new_run(
        self, request: MessagesRequest, target: Target, token_scale: TokenScale, *, adaptations: int
    ) -> TargetRun:
        self._engine.retry_budget.record_first_call(target.upstream)
        key_changes = self._engine.credentials.max_key_changes(target.provider)
        return TargetRun(request, token_scale, adaptations_left=adaptations, key_changes_left=key_changes)

    async def _call_with_retries(self, target: Target, run: TargetRun) -> Attempt:
        pool, receipt = self._engine.credentials, self._receipt
        while True:
            forwarded = find_client_credential(self._engine, self._incoming, target.provider)
            attempt = await self._prepare(target, forwarded or pool.next_credential(target.provider), run)
            try:
                if attempt.credential is None and pool.uses_tokens(target.provider):
                    receipt.provider, receipt.prefix = target.provider.name, target.provider.prefix
                    attempt.credential, base_url = await pool.next_token_and_url(target.provider, target.base_url)
                    attempt.target = structs.replace(target, base_url=base_url)
                await self._send(attempt)
            except UpstreamError as error:
                target = await self._prepare_retry(attempt, error)
                error.release_tracebacks()
            else:
                return attempt

    async def _prepare_retry(self, attempt: Attempt, error: UpstreamError, usage: Usage | None = None) -> Target:
        """Record a failed attempt with its token usage. Return the target of the retry, after the pause before it.

        Raises `error` if no retry is left.
        """
        engine, pool, run = self._engine, self._engine.credentials, attempt.run
        target, credential, provider = attempt.target, attempt.credential, attempt.target.provider
        delay, failed = error.retry_after or RETRY_DELAY_SECONDS, self._receipt.failed_attempts
        self._watchdog.end_upstream_call()
        self._redact_keys(error, attempt)
        add_key_setting(error, target, credential)
        self.records.fail_attempt(error, usage)
        if run.adaptations_left:
            run.adaptations = run.adaptations or Adaptations(engine, self._receipt.adaptations)
            if (adapted := await run.adaptations.find_adapted_target(target, attempt.call, error)) is not None:
                run.adaptations_left -= 1
                failed.append(describe_attempt(target, error))
                return adapted
        if run.key_replacements_left and await pool.replace_rejected_key(provider, credential, error):
            run.key_replacements_left -= 1
            failed.append(describe_attempt(target, error))
        elif run.key_changes_left and pool.exclude_failed_key(provider, credential, error):
            run.key_changes_left -= 1
            failed.append(describe_attempt(target, error))
            if key := pool.describe_key(provider, credential):
                engine.log.write_once(f"{key} is in cooldown, because of: {error.message}")
        elif (
            run.retries_left
            and error.retryable
            and delay <= engine.settings.timeouts.first_byte_seconds
            and engine.retry_budget.try_spend_retry(target.upstream)
        ):
            run.retries_left -= 1
            failed.append(describe_attempt(target, error))
            await engine.sleep(delay)
        else:
            raise error
        return target

    async def _prepare(self, target: Target, credential: Credential | None, run: TargetRun) -> Attempt:
        """Return a new attempt. Raises the decoding error of an invalid request, unless the target is a relay."""
        engine, request, report = self._engine, run.request, self._receipt.fidelity
        if target.is_relayed:
            report.clear_notes()
            refused = engine.observations.refused_signatures
            call = build_relay_call(
                self._incoming, request, target, engine.new_id, refused, token_scale=run.token_scale
            )
            return Attempt(target=target, run=run, call=call, credential=credential)
        if request.decode_error is not None:
            raise request.decode_error
        limits, inliner = resolve_target_limits(engine, target), self._inliner
        if inliner is not None:
            request = await inliner.inline_urls(request, target, limits)
        inputs = request, limits, partial(estimate_scaled_tokens, self._estimates, run.token_scale)
        prepared = await engine.background.run_in_thread(prepare, *inputs) if self._is_large else prepare(*inputs)
        is_further_call = run.continuation is not None
        if not is_further_call:
            report.clear_notes()
        report.add_notes(prepared.notes, skip_noted_fields=is_further_call)
        if inliner is not None:
            report.add_notes(inliner.notes)
        call = build_call(
            request,
            prepared,
            target,
            limits,
            continuation=run.continuation or "",
            estimate=partial(estimate_scaled_tokens, self._estimates, run.token_scale, request),
            new_id=engine.new_id,
        )
        return Attempt(
            target=target,
            run=run,
            call=call,
            credential=credential,
            proxy_tools=prepared.proxy_tools,
            deferred_tools=prepared.deferred,
        )

    async def _send(self, attempt: Attempt) -> None:
        """Encode and send the request of an attempt, and open its reply.

        Raises `UpstreamError`, and `UnsupportedFeature` in fidelity mode `strict` if the request drops fields.
        """
        engine, receipt, target, run, call = self._engine, self._receipt, attempt.target, attempt.run, attempt.call
        report, is_first, encode = receipt.fidelity, run.continuation is None, target.wire.encode_request
        upstream_request = await run_on_loop_or_in_thread(engine, encode, call, is_large=self._is_large)
        if (options := engine.settings.call_options.get(target.provider.name)) is not None:
            change = partial(extend_request, options, client_headers=self._incoming.headers, with_body=True)
            if self._is_large:
                upstream_request = await engine.background.run_in_thread(change, upstream_request)
            else:
                upstream_request = change(upstream_request)
        if upstream_request.notes:
            report.add_notes(upstream_request.notes, skip_noted_fields=not is_first)
        if run.adaptations is not None:
            report.add_notes(run.adaptations.notes)
        if is_first and report.notes:
            _require_lossless(report, target)
        attempt.upstream_path = upstream_request.path
        if not upstream_request.enforces_schema and (schema := bytes(call.request.output_schema)):
            try:
                attempt.reply_schema = ReplySchema(schema, max_steps_here=_MAX_SCHEMA_STEPS_ON_LOOP)
            except WorkPostponed:
                attempt.reply_schema = await engine.background.run_in_thread(ReplySchema, schema)
        receipt.provider, receipt.prefix = target.provider.name, target.provider.prefix
        receipt.model, receipt.base_url = target.model, target.base_url
        self.latest = attempt
        breakers, upstream = engine.circuit_breakers, target.upstream
        if run.skips_open_circuit:
            breakers.require_closed(upstream)
        opening = self._open(attempt, self.records.begin_attempt(target, upstream_request))
        del upstream_request  # the transport releases it after sending; a reply can take minutes
        try:
            attempt.stream = await opening
        except UpstreamError as error:
            breakers.record_failure(upstream, error)
            add_address_setting(error, target)
            raise
        except BaseException:
            breakers.release_trial(upstream)
            raise
        breakers.record_success(upstream)
        attempt.call = _without_body(attempt.call)
        if run.adaptations is not None:
            await run.adaptations.store_for_model(target)

    async def _open(self, attempt: Attempt, upstream_request: UpstreamRequest) -> UpstreamStream | RelayStream:
        engine, target, watchdog, report = self._engine, attempt.target, self._watchdog, self._receipt.fidelity
        wire, background = target.wire, engine.background
        watchdog.begin_upstream_call()
        try:
            send = target.provider.find_transport(engine.transports)
            response = await send(target.base_url, upstream_request, attempt.credential)
            del upstream_request
            try:
                call, status, deltas = _without_body(attempt.call), response.status, None
                self.records.set_status(status)
                require_api_response(response, target)
                if not 200 <= status < 300:
                    body = await read_error_body(response, watchdog)
                    headers = add_missing_date(response.headers, engine.clock)
                    is_large, decode = len(body) > MAX_REPLY_BYTES_ON_LOOP, decode_error_response
                    inputs = target, call, status, headers, body
                    deltas = await background.run_in_thread_if_large(is_large, decode, *inputs)
                if isinstance(wire, RelayWire):
                    relay = RelayStream(wire, call, response, watchdog, secrets=self._list_call_secrets(attempt))
                    await relay.wait_for_content()
                    return relay
                stop_filter = attempt.run.stop_filter
                stream = UpstreamStream(
                    wire, call, response, watchdog, background, report=report, stop_filter=stop_filter
                )
                if deltas is not None:  # a complete reply, such as a refusal, with an error status
                    stream.set_deltas(deltas)
                    return stream
                try:
                    await stream.wait_for_content()
                except UpstreamError:
                    self.records.count_unread_reply(stream.unread_usage)
                    raise
            except BaseException:
                await response.close()
                raise
        except asyncio.CancelledError:
            if not watchdog.recover_from_idle():
                raise
            raise idle_timeout_error(target.provider.prefix, watchdog.upstream_limit) from None
        return stream


def _without_body(call: Call[BaseDialect]) -> Call[BaseDialect]:
    return structs.replace(call, client_body=b"") if call.client_body else call


def _require_lossless(report: FidelityReport, target: Target) -> None:
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
    )
