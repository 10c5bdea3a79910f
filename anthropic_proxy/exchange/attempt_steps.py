"""`AttemptSteps`: the steps of one request to a provider: prepare it, encode it, send it, and open the reply.

A request to a provider is an attempt. Its target is a provider and model. Several attempts at one target are possible,
because some failed attempts are repeated; `TargetRun` has the state that they share. `Attempts` in `attempts.py`
chooses the target and repeats attempts.
"""

import asyncio
from functools import partial

from msgspec import Struct

from anthropic_proxy.errors import InternalError, UpstreamError
from anthropic_proxy.exchange.adaptation import Adaptations
from anthropic_proxy.exchange.attempt_records import AttemptRecords
from anthropic_proxy.exchange.call_building import (
    AttemptState,
    build_call,
    build_relay_call,
    estimate_scaled_tokens,
    resolve_target_limits,
)
from anthropic_proxy.exchange.client_request import ClientRequest
from anthropic_proxy.exchange.error_messages import (
    decode_error_response,
    idle_timeout_error,
    require_api_response,
)
from anthropic_proxy.exchange.loop_or_thread import (
    MAX_REPLY_BYTES_ON_LOOP,
    decode_reply_schema,
    is_large_request,
    run_on_loop_or_in_thread,
)
from anthropic_proxy.exchange.media_inlining import new_media_inliner
from anthropic_proxy.exchange.relay import RelayStream
from anthropic_proxy.exchange.strict_mode import require_lossless
from anthropic_proxy.exchange.upstream_stream import UpstreamStream, add_missing_date, read_error_body
from anthropic_proxy.exchange.watchdog import Watchdog
from anthropic_proxy.messages.models import MessagesRequest
from anthropic_proxy.messages.preparation import prepare
from anthropic_proxy.messages.reply_schema import ReplySchema
from anthropic_proxy.messages.stop_sequences import StopSequenceFilter
from anthropic_proxy.messages.tokens import EstimateCache
from anthropic_proxy.plugins import Receipt
from anthropic_proxy.routing.router import Target
from anthropic_proxy.services import Services
from anthropic_proxy.wire.contract import Credential, RelayWire, UpstreamRequest, UpstreamResponse


class TargetRun(Struct):
    """State that all attempts at one target (provider and model) share, such as request changes after an error."""

    request: MessagesRequest
    token_scale: float
    retries_left: int
    """Retries that are left after temporary failures of an attempt."""
    key_changes_left: int
    """Retries with another key of the provider that are left."""
    key_replacements_left: int
    """Retries with a key that was read again from its file or command that are left."""
    adaptations_left: int
    """Retries with a changed field that are left."""
    skips_open_circuit: bool = False
    """True if another target follows. This target is then skipped while its circuit is open (calls are blocked)."""
    continuation: str | None = None
    """Token to continue a reply that the provider split. "": another call without token. None: first call."""
    stop_filter: StopSequenceFilter | None = None
    """Stop sequence filter of the previous call, which this call continues. None: the call continues no reply."""
    adaptations: Adaptations | None = None
    """Changes of the request after errors of the provider in this exchange. None: no change so far."""


class AttemptSteps:
    """The steps of each request to a provider (attempt) for one client request.

    `records` writes the attempts to the record of the client request. `estimates` caches the token estimate of the
    client request.
    """

    def __init__(
        self,
        services: Services,
        incoming: ClientRequest,
        receipt: Receipt,
        records: AttemptRecords,
        watchdog: Watchdog,
        *,
        estimates: EstimateCache,
    ) -> None:
        self._services, self._incoming = services, incoming
        self._receipt, self._records = receipt, records
        self._watchdog = watchdog
        self._large = is_large_request(incoming, receipt.tool_count)
        self._inliner = new_media_inliner(services, incoming)
        self._estimates = estimates

    async def prepare(self, target: Target, credential: Credential | None, run: TargetRun) -> AttemptState:
        """Return a new attempt, with the client request adapted to the limits of the provider and model.

        Raises the decoding error of an invalid client request, unless the provider receives the body unchanged (relay).
        """
        request, report, again = run.request, self._receipt.fidelity, run.continuation is not None
        if target.is_relayed:
            report.clear_notes()
            refused = self._services.observations.refused_signatures
            call = build_relay_call(self._incoming, request, target, self._services.new_id, refused)
            scale = run.token_scale
            return AttemptState(target=target, call=call, credential=credential, token_scale=scale, is_relay=True)
        if request.decode_error is not None:
            raise request.decode_error
        limits, inliner = resolve_target_limits(self._services, target), self._inliner
        if inliner is not None:
            request = await inliner.inline_urls(request, target, limits)
        inputs = request, limits, partial(estimate_scaled_tokens, self._estimates, run.token_scale)
        prepared = await self._services.background.run_in_thread(prepare, *inputs) if self._large else prepare(*inputs)
        if not again:
            report.clear_notes()
        report.add_notes(prepared.notes, skip_noted_fields=again)
        if inliner is not None:
            report.add_notes(inliner.notes)
        call = build_call(
            request,
            prepared,
            target,
            limits,
            continuation=run.continuation or "",
            estimate=partial(estimate_scaled_tokens, self._estimates, run.token_scale, request),
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

    async def encode(self, state: AttemptState, run: TargetRun) -> tuple[UpstreamRequest, ReplySchema | None]:
        """Return the encoded upstream request, and the JSON Schema that the proxy itself must check in the reply.

        The schema is None if the client requested none, or if the provider enforces it. In fidelity mode `strict`,
        raises `UnsupportedFeature` if the upstream request drops fields of the client request.
        """
        target, call = state.target, state.call
        upstream_request = await run_on_loop_or_in_thread(
            self._services, target.wire.encode_request, call, is_large=self._large
        )
        report, is_first = self._receipt.fidelity, run.continuation is None
        if upstream_request.notes:
            report.add_notes(upstream_request.notes, skip_noted_fields=not is_first)
        if run.adaptations is not None:
            report.add_notes(run.adaptations.notes)
        if is_first and report.notes:
            require_lossless(report, target)
        checked = b"" if upstream_request.enforces_schema else call.request.output_schema
        return upstream_request, await decode_reply_schema(self._services, bytes(checked)) if checked else None

    async def send(
        self, state: AttemptState, upstream_request: UpstreamRequest, stop_filter: StopSequenceFilter | None
    ) -> UpstreamStream | RelayStream:
        """Send an encoded request, and return the reply once its first content has arrived. Raises `UpstreamError`."""
        target = state.target
        self._watchdog.begin_upstream_call()
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
        self._records.set_status(response.status)
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
            try:
                await stream.wait_for_content()
            except UpstreamError:
                if isinstance(stream, UpstreamStream):
                    self._records.count_unread_reply(stream.unread_usage)
                raise
            return stream
        body = await read_error_body(response, self._watchdog)
        headers, large = add_missing_date(response.headers, self._services.clock), len(body) > MAX_REPLY_BYTES_ON_LOOP
        run_in_thread_if_large, status = self._services.background.run_in_thread_if_large, response.status
        deltas = await run_in_thread_if_large(large, decode_error_response, target, call, status, headers, body)
        if isinstance(stream, RelayStream):
            raise InternalError("a relayed error was decoded as a reply")
        stream.set_deltas(deltas)
        return stream
