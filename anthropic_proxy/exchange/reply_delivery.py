"""`ReplyDelivery`: the reply to one client request, from the first provider call to the last byte.

`deliver_reply` calls the targets (provider and model) of the route in order until one replies. The client receives
stream events, one message, relayed bytes of the provider, or an error.
"""

import asyncio
from collections.abc import Sequence

from anthropic_proxy.errors import ProxyError, ShuttingDown, UpstreamError
from anthropic_proxy.exchange.attempts import Attempts
from anthropic_proxy.exchange.call_building import LatestAttempt
from anthropic_proxy.exchange.client_request import ClientRequest, ResponseSink
from anthropic_proxy.exchange.error_messages import idle_timeout_error
from anthropic_proxy.exchange.outcomes import (
    log_internal_error,
    record_failure,
)
from anthropic_proxy.exchange.relay import RelayStream
from anthropic_proxy.exchange.repeatable_stream import RepeatableStream
from anthropic_proxy.exchange.single_call import SingleToolCallFilter
from anthropic_proxy.exchange.tool_loop import SchemaCheckedStream, open_reply
from anthropic_proxy.exchange.upstream_stream import DeltaStream, UpstreamStream
from anthropic_proxy.exchange.watchdog import Watchdog, uncancel
from anthropic_proxy.messages.deltas import Delta, Stop, Usage
from anthropic_proxy.messages.events import ErrorEvent, Event, Ping
from anthropic_proxy.messages.fidelity import FidelityNote
from anthropic_proxy.messages.fold import Fold
from anthropic_proxy.messages.models import MessagesRequest
from anthropic_proxy.messages.tokens import EstimateCache
from anthropic_proxy.messages.usage import clamp_count, sum_usages
from anthropic_proxy.messages.writer import MessageWriter
from anthropic_proxy.plugins import Receipt
from anthropic_proxy.routing.router import Route
from anthropic_proxy.services import Services

EMPTY_DELTA_AFTER_SECONDS = 240.0
"""Idle seconds of a provider after which empty text deltas replace pings: clients accept only 10 minutes of pings."""
_WARM_UP = FidelityNote(
    "emulated", "max_tokens", "answered by the proxy: other providers fill their caches automatically"
)


class ReplyDelivery:
    """Sender of the reply, or of an error, to one client request. The outcome is recorded in its receipt."""

    def __init__(
        self,
        services: Services,
        incoming: ClientRequest,
        sink: ResponseSink,
        request: MessagesRequest,
        receipt: Receipt,
        *,
        estimates: EstimateCache,
    ) -> None:
        self._services = services
        self._incoming = incoming
        self._sink = sink
        self._request = request
        self._receipt = receipt
        self._sent = LatestAttempt(estimates)
        self._opened = False
        """True once events that the proxy created were sent to the client. The status is then final."""
        self._streamed_reply: DeltaStream | None = None
        """The decoded reply of a streamed request. None: no reply yet, not streamed, or a relay."""
        self._call_filter: SingleToolCallFilter | None = None
        """Filter that drops all tool calls after the first one. None: the client allows parallel calls."""
        self._relayed = False
        """True once bytes of a streamed provider response were forwarded to the client unchanged."""
        self._queued = True
        """True while the exchange waits in the queue that limits concurrent upstream calls."""

    async def deliver_reply(self, route: Route) -> None:
        """Call the targets (provider and model) of the route in order, and send the client the first reply.

        If none replies, an error is sent.
        """
        self._route = route
        request, timeouts = self._request, self._services.settings.timeouts
        self._writer = MessageWriter(message_id=self._services.new_id("msg_"), model=request.model, signature="")
        self._writer.clock, self._receipt.blocks = self._services.clock, self._writer.marks
        watchdog = self._watchdog = Watchdog(
            wait_disconnected=self._sink.wait_disconnected,
            on_idle=self._keep_alive if request.stream else None,
            first_byte_seconds=timeouts.first_byte_seconds,
            idle_seconds=timeouts.idle_seconds,
        )
        self._attempts = Attempts(self._services, self._incoming, request, self._receipt, watchdog, sent=self._sent)
        try:
            if request.max_tokens == 0 and not route.targets[0].is_relayed:
                await self._warm_up()
            else:
                await self._serve(route)
        except asyncio.CancelledError:
            if watchdog.reason == "gone":
                uncancel()
                self._receipt.outcome = "cancelled"
            elif watchdog.reason == "upstream silent":
                uncancel()
                await self._fail(idle_timeout_error(self._receipt.prefix, watchdog.upstream_limit))
            else:
                await self._fail(ShuttingDown())
                raise
        except ProxyError as error:
            await self._fail(error)
        except Exception as error:  # noqa: BLE001  # any other exception is a defect of the proxy
            await self._fail(log_internal_error(error, self._services, self._incoming.request_id))
        finally:
            watchdog.stop()
            self._fill_receipt()
            self._attempts.records.finish_last_attempt()

    async def _serve(self, route: Route) -> None:
        await self._services.queue.acquire(self._incoming.queue_key)
        try:
            await self._reply(route)
        finally:
            self._services.queue.release()

    async def _reply(self, route: Route) -> None:
        self._queued = False
        answer = await open_reply(self._services, self._attempts, self._request, route)
        try:
            self._receipt.first_token_seconds = self._services.clock() - self._receipt.started_at
            if isinstance(answer, RelayStream):
                await self._relay(answer)
            elif self._request.stream:
                await self._stream(answer)
            else:
                await self._fold(answer)
            # the calls of a tool loop have further input, which the estimate does not count
            if self._writer.estimate and isinstance(answer, UpstreamStream | RepeatableStream):
                await self._record_token_scale()
        finally:
            self._watchdog.stop()  # complete or failed: a disconnect has no effect now
            if isinstance(answer, SchemaCheckedStream):
                self._writer.usage = answer.usage  # also after an error, because the provider charges all calls
            await answer.close()

    async def _stream(self, answer: DeltaStream) -> None:
        writer, watchdog, sink = self._writer, self._watchdog, self._sink
        writer.signature = answer.default_signature
        self._streamed_reply = answer
        call_filter = self._call_filter = self._new_call_filter()
        last: list[Event] = []
        while (deltas := await answer.read()) is not None:
            if call_filter is not None:
                deltas = call_filter.feed(deltas)
            events = writer.feed(deltas) if writer.started else self._start() + writer.feed(deltas)
            if writer.stop is not None and answer.complete:
                last = events  # sent together with the end
                break
            if events:
                self._opened = watchdog.writing = True
                await sink.send_events(events)
                watchdog.client_at = watchdog.upstream_at = watchdog.now()
                watchdog.writing = False
                if self._incoming.body and not answer.may_send_again:
                    self._release_request(answer)
        watchdog.writing = True
        await self._write((last or self._start()) + writer.finish(), is_last=True)

    def _release_request(self, answer: DeltaStream | RelayStream) -> None:
        """Free the memory of the client request, as soon as no retry is possible."""
        self._services.heap_trimmer.count_freed_bytes(len(self._incoming.body))
        self._incoming.body = b""
        self._request.release_body()
        if isinstance(answer, RepeatableStream):
            answer = answer.opened.stream
        if isinstance(answer, UpstreamStream):
            answer.call.request.release_content()

    async def _fold(self, answer: DeltaStream) -> None:
        fold = Fold(self._writer)
        self._writer.signature = answer.default_signature
        call_filter = self._new_call_filter()
        while (deltas := await answer.read()) is not None:
            fold.feed(call_filter.feed(deltas) if call_filter is not None else deltas)
        # an estimate was needed if the input may fill the context window: the reply's count then corrects the next one
        if self._writer.usage.input_tokens is None or self._sent.estimates.has_estimate(self._request):
            self._writer.estimate = self._estimate_tokens()
        await self._sink.send_message(fold.finish())

    async def _relay(self, answer: RelayStream) -> None:
        sink, watchdog, streams = self._sink, self._watchdog, self._request.stream
        if self._opened:
            answer.omit_message_start()
        self._relayed, last = streams, False
        try:
            while (data := await answer.read()) is not None:
                watchdog.writing, last = True, answer.complete and answer.ending is None
                await sink.send_relayed_bytes(data, answer.headers, is_stream=streams, is_last=last)
                watchdog.upstream_at = watchdog.now()
                watchdog.writing = False
                if self._incoming.body:
                    self._release_request(answer)
        finally:
            self._writer.usage = answer.usage_with_estimate
            self._receipt.outcome = answer.stop_reason or ""
        if answer.failure is not None:
            self._annotate_error(answer.failure)
            record_failure(self._receipt, answer.failure, self._services.settings.reveal_proxy_keys())
        if not last:
            watchdog.writing = True
            await sink.send_events([answer.ending] if answer.ending else [], is_last=True)

    async def _record_token_scale(self) -> None:
        """Store the provider's token count divided by the estimate, to correct later estimates for the model."""
        writer, receipt, attempt = self._writer, self._receipt, self._sent.latest
        if attempt is not None and writer.usage.input_tokens is not None:
            totals, estimated = writer.totals, round(writer.estimate / attempt.token_scale)
            counted = totals.input_tokens + totals.cache_read_input_tokens + totals.cache_creation_input_tokens
            await self._services.observations.record_token_count(receipt.provider, receipt.model, estimated, counted)

    async def _warm_up(self) -> None:
        """Reply to a request with `max_tokens: 0`, which asks the API to fill its cache.

        The proxy sends an empty reply itself.
        """
        self._receipt.fidelity.add_notes((_WARM_UP,))
        writer = self._writer
        ending: list[Delta] = [Usage(output_tokens=0), Stop("max_tokens")]
        if self._request.stream:
            await self._write(self._start() + writer.feed(ending) + writer.finish(), is_last=True)
        else:
            fold = Fold(writer)
            fold.feed(ending)
            await self._sink.send_message(fold.finish())

    def _start(self) -> list[Event]:
        """Return the first events of a stream: `message_start` and a ping. Empty after the first call."""
        if self._writer.started:
            return []
        return [*self._writer.start(self._estimate_tokens()), Ping()]

    def _estimate_tokens(self) -> int:
        scale = 1.0 if self._sent.latest is None else self._sent.latest.token_scale
        return self._attempts.estimate_scaled_tokens(self._request, scale)

    def _annotate_error(self, error: UpstreamError) -> None:
        if self._sent.latest is not None:
            self._attempts.annotate_error(error, self._sent.latest)

    async def _write(self, events: Sequence[Event], *, is_last: bool = False) -> None:
        """Send events that the proxy created, instead of relayed bytes. A later failure becomes an `error` event."""
        self._opened = True
        await self._sink.send_events(events, is_last=is_last)

    async def _keep_alive(self) -> None:
        """Send a ping or an empty delta after an idle time. Before the first delta, this fixes status 200.

        A relay sends the pings of its provider only, unless the stream was already started for an earlier target.
        """
        if self._relayed or (self._is_relaying() and not self._opened):
            return
        is_idle = self._watchdog.now() - self._watchdog.upstream_at > EMPTY_DELTA_AFTER_SECONDS
        # a block of the proxy would collide with the blocks of a relayed stream, which start at 0
        opens = is_idle and not any(target.is_relayed for target in self._route.targets)
        events = self._start() or (self._writer.keep_alive() if opens else [Ping()])
        await self._write(events)

    def _is_relaying(self) -> bool:
        if self._sent.latest is not None:
            return self._sent.latest.is_relay
        return not self._queued and self._route.targets[0].is_relayed

    async def _fail(self, error: ProxyError) -> None:
        if isinstance(error, UpstreamError):
            self._annotate_error(error)
        record_failure(self._receipt, error, self._services.settings.reveal_proxy_keys())
        if self._opened:
            await self._sink.send_events([*self._flush_pending(), *self._writer.fail(error)], is_last=True)
        elif self._relayed:
            await self._sink.send_events([ErrorEvent(error)], is_last=True)
        else:
            await self._sink.send_error_response(error)
        error.release_tracebacks()

    def _flush_pending(self) -> list[Event]:
        """Return, as events for the client, deltas that filters still hold when the reply ends early."""
        reply, self._streamed_reply = self._streamed_reply, None
        if reply is None or not self._writer.started:
            return []
        deltas = reply.flush_pending()
        if self._call_filter is not None:
            deltas = [*self._call_filter.feed(deltas), *self._call_filter.flush_pending()]
        return self._writer.feed(deltas)

    def _new_call_filter(self) -> SingleToolCallFilter | None:
        choice = self._request.tool_choice
        return SingleToolCallFilter() if choice is not None and choice.disable_parallel_tool_use else None

    def _fill_receipt(self) -> None:
        """Copy token usage, stop reason and HTTP status into the receipt, the record of the request."""
        writer, receipt = self._writer, self._receipt
        totals, other = writer.totals, self._attempts.records.unread_usage
        if writer.usage.repeated_input is not None:
            other = sum_usages(other, writer.usage.repeated_input)
        receipt.input_tokens = totals.input_tokens + clamp_count(other.input_tokens)
        receipt.output_tokens = totals.output_tokens + clamp_count(other.output_tokens)
        receipt.cache_read_tokens = totals.cache_read_input_tokens + clamp_count(other.cache_read_tokens)
        receipt.cache_write_tokens = totals.cache_creation_input_tokens + clamp_count(other.cache_write_tokens)
        long = totals.cache_creation["ephemeral_1h_input_tokens"] if totals.cache_creation else 0
        receipt.cache_write_1h_tokens = long + clamp_count(other.cache_write_1h_tokens)
        thinking = totals.output_tokens_details["thinking_tokens"]
        receipt.thinking_tokens = thinking + clamp_count(other.thinking_tokens)
        receipt.billed_searches = clamp_count(writer.usage.billed_searches) + clamp_count(other.billed_searches)
        receipt.service_tier = writer.usage.billed_tier or ""
        receipt.outcome = receipt.outcome or writer.stop_reason or ""
        if self._opened or self._relayed or receipt.outcome != "cancelled":
            receipt.status = receipt.status or 200
