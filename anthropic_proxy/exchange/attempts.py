"""Steps 5 to 8 of an exchange: prepare, encode, send and decode, for each target of the route until one replies."""

import asyncio
from functools import partial
from typing import Generic, TypeVar

from msgspec import Struct, structs

from anthropic_proxy.errors import ClientError, InternalError, MissingExtra, ProxyError, UpstreamError
from anthropic_proxy.exchange.adaptation import Adaptations, apply_stored_adaptations
from anthropic_proxy.exchange.call_building import (
    AttemptState,
    SentAttempts,
    build_call,
    build_relay_call,
    client_credential,
    continuation_target,
    estimate_scaled,
    limits_for,
)
from anthropic_proxy.exchange.client_request import ClientRequest
from anthropic_proxy.exchange.encoding import MAX_REPLY_BYTES_ON_LOOP, decode_reply_schema, is_large, run_for_call
from anthropic_proxy.exchange.error_messages import (
    decode_error_response,
    describe_attempt,
    explain_credential,
    idle_timeout_error,
    name_address,
    next_target_may_help,
    prefix_provider,
    require_api_response,
)
from anthropic_proxy.exchange.media_inlining import new_media_inliner
from anthropic_proxy.exchange.not_found import explain_not_found
from anthropic_proxy.exchange.relay import RelayStream
from anthropic_proxy.exchange.strict_mode import require_lossless
from anthropic_proxy.exchange.upstream_stream import UpstreamStream, read_error_body, with_date
from anthropic_proxy.exchange.watchdog import Watchdog
from anthropic_proxy.messages.fidelity import FidelityNote
from anthropic_proxy.messages.models import MessagesRequest
from anthropic_proxy.messages.preparation import prepare
from anthropic_proxy.messages.reply_schema import ReplySchema
from anthropic_proxy.messages.stop_sequences import StopSequenceFilter
from anthropic_proxy.messages.tokens import EstimateCache
from anthropic_proxy.plugins import Receipt
from anthropic_proxy.redaction import redact_error
from anthropic_proxy.routing.router import Route, Target
from anthropic_proxy.services import Services
from anthropic_proxy.wire.contract import Credential, RelayWire, UpstreamRequest, UpstreamResponse

MAX_RETRIES_PER_TARGET = 1
"""Maximum retries with one target after temporary failures."""
MAX_ADAPTATIONS = 2
"""Maximum number of adapted requests to one target, in addition to retries."""
RETRY_DELAY_SECONDS = 0.5
"""Delay before a retry if the provider sent no `retry-after`."""

_Stream_co = TypeVar("_Stream_co", bound=UpstreamStream | RelayStream, covariant=True)


class OpenedStream(Struct, Generic[_Stream_co], frozen=True):
    """An upstream stream that has delivered its first content, and the attempt that opened the stream."""

    stream: _Stream_co
    state: AttemptState


AnyOpenedStream = OpenedStream[UpstreamStream | RelayStream]
"""Opened stream: translated deltas, or relayed bytes."""


class _TargetRun(Struct):
    """Inputs that all attempts with one target of the route share."""

    request: MessagesRequest
    token_scale: float
    skips_open_circuit: bool
    """True if another target follows. An open circuit then skips this target."""
    continuation: str | None = None
    """Token that continues a split reply. None: first call. "": a further call of the tool loop."""
    stop_filter: StopSequenceFilter | None = None
    """Stop sequence filter of the continued stream. None: the call continues no stream."""
    adaptations: Adaptations | None = None
    """Adaptations used so far. None: none."""


class Attempts:
    """Upstream attempts of one exchange, recorded in the receipt. `sent`: receives the state of each attempt."""

    def __init__(
        self,
        services: Services,
        incoming: ClientRequest,
        request: MessagesRequest,
        receipt: Receipt,
        watchdog: Watchdog,
        *,
        sent: SentAttempts,
    ) -> None:
        self._services, self._incoming = services, incoming
        self._request = request
        self._receipt = receipt
        self._watchdog = watchdog
        self._sent = sent
        self._large = is_large(incoming, receipt.tool_count)
        self._inliner = new_media_inliner(services, incoming)
        self._estimates = EstimateCache()

    async def open_reply(self, request: MessagesRequest, route: Route) -> AnyOpenedStream:
        """Return the first upstream stream with content. Targets that cannot accept the request are skipped.

        Raises the error of the last called provider, or of the first skipped target if none was called.
        """
        failure: ProxyError | None = None
        for target in route.targets:
            try:
                return await self._try_target(request, target, is_last=target is route.targets[-1])
            except UpstreamError as error:
                failure = error
                self._receipt.failed_attempts.append(describe_attempt(target, error))
                if not next_target_may_help(error):
                    break
                error.drop_traceback()
            except (ClientError, MissingExtra) as refusal:
                failure = failure or refusal
        if failure is None:
            raise InternalError("a route has no target")
        if isinstance(failure, UpstreamError):
            self._receipt.failed_attempts.pop()
        raise failure

    async def open_next_call(
        self, previous: OpenedStream[UpstreamStream], request: MessagesRequest, continuation: str = ""
    ) -> OpenedStream[UpstreamStream]:
        """Open a further upstream call of a started reply: same target, no adaptation, one retry.

        Raises `UpstreamError`.

        `continuation`: token of the provider that continues a split reply; "": a further call of the tool loop.
        """
        state, target = previous.state, previous.state.target
        run = _TargetRun(request, state.token_scale, skips_open_circuit=False, continuation=continuation)
        if continuation:
            run.stop_filter, target = previous.stream.stop_filter, continuation_target(target)
        opened = await self._try_target_with_retries(target, run, adaptations=0)
        if isinstance(opened.stream, RelayStream):
            raise InternalError("a relay cannot continue a reply")
        return OpenedStream(opened.stream, opened.state)

    def add_note(self, note: FidelityNote) -> None:
        """Add a fidelity note to the receipt of the exchange."""
        self._receipt.fidelity.add([note])

    def estimate_tokens(self, request: MessagesRequest, token_scale: float) -> int:
        """Return the estimated input tokens of a request, multiplied by `token_scale`, the factor of the model."""
        return estimate_scaled(self._estimates, token_scale, request)

    def annotate_error(self, error: UpstreamError, state: AttemptState) -> None:
        """Complete the error of an attempt in place: add the provider name and the cause of a 404, and redact keys."""
        self._redact_keys(error, state.target, state.credential)
        prefix_provider(error, self._receipt.prefix)
        explain_not_found(error, state.target, state.upstream_path, self._services.settings)

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
        scale = await self._services.observations.token_scale(provider, model)
        target = await apply_stored_adaptations(self._services, target)
        run = _TargetRun(request, scale, skips_open_circuit=not is_last)
        return await self._try_target_with_retries(target, run, MAX_ADAPTATIONS)

    async def _try_target_with_retries(self, target: Target, run: _TargetRun, adaptations: int) -> AnyOpenedStream:
        """Return the first stream of this target with content, after adaptations, key changes and retries."""
        pool = self._services.credentials
        retries, key_rotations = MAX_RETRIES_PER_TARGET, pool.max_key_changes(target.provider)
        self._services.retry_budget.record_first_call(target.upstream)
        while True:
            forwarded = client_credential(self._services, self._incoming, target.provider)
            credential = forwarded or pool.next_credential(target.provider)
            state = await self._prepare_attempt(target, credential, run)
            try:
                if target.provider.key_source != "settings":
                    self._receipt.provider, self._receipt.prefix = target.provider.name, target.provider.prefix
                    credential, base_url = await pool.next_token(target.provider, target.base_url)
                    target = structs.replace(target, base_url=base_url)
                    state = structs.replace(state, target=target, credential=credential)
                return await self._attempt(state, run)
            except UpstreamError as error:
                self._watchdog.end_call()
                self._redact_keys(error, target, credential)
                explain_credential(error, target, credential)
                if adaptations and (adapted := await self._adapt(state, run, error)):
                    target, adaptations = adapted, adaptations - 1
                elif key_rotations and pool.exclude_failed_key(target.provider, credential, error):
                    key_rotations -= 1
                    self._receipt.failed_attempts.append(describe_attempt(target, error))
                    if key := pool.describe_key(target.provider, credential):
                        self._services.log.write_once(f"{key} is in cooldown, because of: {error.message}")
                elif retries and self._may_retry(target, error):
                    retries -= 1
                    self._receipt.failed_attempts.append(describe_attempt(target, error))
                    await self._services.sleep(error.retry_after or RETRY_DELAY_SECONDS)
                else:
                    raise
                error.drop_traceback()

    def _may_retry(self, target: Target, error: UpstreamError) -> bool:
        """Return True if the proxy retries after a delay. Long delays are left to the client (`retry-after`)."""
        delay = error.retry_after or RETRY_DELAY_SECONDS
        if not error.retryable or delay > self._services.settings.timeouts.first_byte_seconds:
            return False
        return self._services.retry_budget.try_spend_retry(target.upstream)

    async def _adapt(self, state: AttemptState, run: _TargetRun, error: UpstreamError) -> Target | None:
        """Return the adapted target for a retry. None: no adaptation matches the error."""
        run.adaptations = run.adaptations or Adaptations(self._services)
        if (adapted := await run.adaptations.find_adapted_target(state.target, state.call, error)) is not None:
            self._receipt.failed_attempts.append(describe_attempt(state.target, error))
        return adapted

    async def _attempt(self, state: AttemptState, run: _TargetRun) -> AnyOpenedStream:
        target = state.target
        upstream_request, reply_schema = await self._encode(state, run)
        self._receipt.provider, self._receipt.prefix = target.provider.name, target.provider.prefix
        self._receipt.model = target.model
        call = structs.replace(state.call, client_body=b"") if state.call.client_body else state.call  # free it
        state = structs.replace(state, call=call, upstream_path=upstream_request.path, reply_schema=reply_schema)
        self._sent.latest = state
        breakers, upstream = self._services.circuit_breakers, target.upstream
        if run.skips_open_circuit:
            breakers.require_closed(upstream)
        sending = self._send(state, upstream_request, run.stop_filter)
        del upstream_request  # the transport releases it after sending; a reply can take minutes
        try:
            stream = await sending
        except UpstreamError as error:
            breakers.record_failure(upstream, error)
            name_address(error, target)
            raise
        except BaseException:
            breakers.release_trial(upstream)
            raise
        breakers.record_success(upstream)
        if run.adaptations is not None:
            await run.adaptations.store_for_model(target)
        return OpenedStream(stream, state)

    async def _encode(self, state: AttemptState, run: _TargetRun) -> tuple[UpstreamRequest, ReplySchema | None]:
        """Encode the upstream request and record its losses. Raises `UnsupportedFeature` in fidelity mode `strict`."""
        target, call = state.target, state.call
        upstream_request = await run_for_call(self._services, target.wire.encode_request, call, large=self._large)
        report, is_first = self._receipt.fidelity, run.continuation is None
        if upstream_request.notes:
            report.add(upstream_request.notes, again=not is_first)
        if run.adaptations is not None:
            report.add(run.adaptations.notes)
        if is_first and report.notes:
            require_lossless(report, target)
        checked = b"" if upstream_request.enforces_schema else call.request.output_schema
        return upstream_request, await decode_reply_schema(self._services, bytes(checked)) if checked else None

    async def _send(
        self, state: AttemptState, upstream_request: UpstreamRequest, stop_filter: StopSequenceFilter | None
    ) -> UpstreamStream | RelayStream:
        target = state.target
        self._watchdog.begin_call()
        try:
            send = self._services.transports[target.provider.transport]
            response = await send(target.base_url, upstream_request, state.credential)
            del upstream_request
            try:
                return await self._open_stream(state, response, stop_filter)
            except BaseException:
                await response.close()
                raise
        except asyncio.CancelledError:
            if not self._watchdog.recover_from_idle():
                raise
            raise idle_timeout_error(target.provider.prefix, self._watchdog.upstream_limit) from None

    async def _open_stream(
        self, state: AttemptState, response: UpstreamResponse, stop_filter: StopSequenceFilter | None
    ) -> UpstreamStream | RelayStream:
        target, call, wire = state.target, state.call, state.target.wire
        require_api_response(response, target)
        stream: UpstreamStream | RelayStream
        if isinstance(wire, RelayWire):
            stream = RelayStream(wire, call, response, self._watchdog, credential=state.credential)
        else:
            report, background = self._receipt.fidelity, self._services.background
            stream = UpstreamStream(
                wire, call, response, self._watchdog, background, report=report, stop_filter=stop_filter
            )
        if 200 <= response.status < 300:
            await stream.wait_for_content()
            return stream
        body = await read_error_body(response, self._watchdog)
        headers, large = with_date(response.headers, self._services.clock), len(body) > MAX_REPLY_BYTES_ON_LOOP
        run_if, status = self._services.background.run_if, response.status
        deltas = await run_if(large, decode_error_response, target, call, status, headers, body)
        if isinstance(stream, RelayStream):
            raise InternalError("a relayed error was decoded as a reply")
        stream.set_deltas(deltas)
        return stream

    async def _prepare_attempt(self, target: Target, credential: Credential | None, run: _TargetRun) -> AttemptState:
        """Return an attempt with its call, before encoding. Raises the decoding error of the client request."""
        request, report, again = run.request, self._receipt.fidelity, run.continuation is not None
        if target.is_relayed:
            report.reset()
            call = build_relay_call(self._incoming, request, target, self._services.new_id)
            scale = run.token_scale
            return AttemptState(target=target, call=call, credential=credential, token_scale=scale, is_relay=True)
        if request.decode_error is not None:
            raise request.decode_error
        limits, inliner = limits_for(self._services, target), self._inliner
        if inliner is not None:
            request = await inliner.inline_urls(request, target, limits)
        inputs = request, limits, partial(estimate_scaled, self._estimates, run.token_scale)
        prepared = await self._services.background.run(prepare, *inputs) if self._large else prepare(*inputs)
        if not again:
            report.reset()
        report.add(prepared.notes, again=again)
        if inliner is not None:
            report.add(inliner.notes)
        call = build_call(
            request,
            prepared,
            target,
            limits,
            continuation=run.continuation or "",
            estimate=partial(estimate_scaled, self._estimates, run.token_scale, request),
            new_id=self._services.new_id,
        )
        return AttemptState(
            target=target,
            call=call,
            credential=credential,
            token_scale=run.token_scale,
            proxy_tools=prepared.proxy_tools,
            deferred_tools=prepared.deferred,
        )
