"""The pipeline of one exchange in nine steps, from the body of the client request to the last byte of the reply."""

import asyncio
from collections.abc import Sequence

from anthropic_proxy.errors import ProxyError, ShuttingDown, UpstreamError
from anthropic_proxy.exchange.attempts import Attempts
from anthropic_proxy.exchange.call_building import SentAttempts
from anthropic_proxy.exchange.client_request import ClientRequest, ResponseSink
from anthropic_proxy.exchange.encoding import MAX_BYTES_ON_LOOP
from anthropic_proxy.exchange.error_messages import idle_timeout_error
from anthropic_proxy.exchange.outcomes import log_internal_error, record_failure
from anthropic_proxy.exchange.relay import RelayStream
from anthropic_proxy.exchange.request_reader import read_client_request, routing_query
from anthropic_proxy.exchange.single_call import SingleToolCallFilter
from anthropic_proxy.exchange.tool_loop import open_reply
from anthropic_proxy.exchange.upstream_stream import DeltaStream, UpstreamStream
from anthropic_proxy.exchange.watchdog import Watchdog
from anthropic_proxy.messages.deltas import Delta, Stop, Usage
from anthropic_proxy.messages.events import ErrorEvent, Event, Ping
from anthropic_proxy.messages.fidelity import FidelityNote
from anthropic_proxy.messages.fold import Fold
from anthropic_proxy.messages.models import MessagesRequest
from anthropic_proxy.messages.writer import MessageWriter
from anthropic_proxy.plugins import AdmissionRequest, Receipt
from anthropic_proxy.routing.router import Route
from anthropic_proxy.services import Services

EMPTY_DELTA_AFTER_SECONDS = 240.0
"""Idle time of the upstream after which empty deltas replace pings. Clients accept pings alone for 10 minutes."""
_WARM_UP = FidelityNote(
    "emulated", "max_tokens", "answered by the proxy: other providers fill their caches automatically"
)


async def run_exchange(services: Services, incoming: ClientRequest, sink: ResponseSink) -> None:
    """Serve one `POST /v1/messages`.

    A failure becomes an HTTP status before the first byte, and an `error` event after it.
    """
    receipt = Receipt(
        request_id=incoming.request_id, client=incoming.client, started_at=services.clock(), path=incoming.path
    )
    sink.attach_receipt(receipt)
    try:
        if len(incoming.body) <= MAX_BYTES_ON_LOOP:  # 2 read
            request = read_client_request(services, incoming.body)
        else:
            request = await services.background.run(read_client_request, services, incoming.body)
        receipt.requested_model, receipt.stream = request.model, request.stream
        services.in_progress.set_model(incoming.number, request.model)
        receipt.tool_count, receipt.message_count = len(request.tools), request.message_count
        route = services.route_cache.find_route(routing_query(request), services.settings, services.catalog)  # 3 route
        receipt.route_reason, receipt.fidelity.mode = route.reason, route.fidelity
        _require_decodable(request, route)
        for note in route.notes:
            services.log.write_once(note)
        for policy in services.policies:  # 4 admit
            await policy.admit(
                AdmissionRequest(client=incoming.client, model=request.model, body_bytes=len(incoming.body))
            )
        await _Exchange(services, incoming, sink, request, receipt).run_exchange(route)  # 5 to 9
    except ProxyError as error:
        await _refuse(services, receipt, sink, error)
        error.drop_traceback()
    except asyncio.CancelledError:
        if not receipt.outcome:
            await _refuse(services, receipt, sink, ShuttingDown())
        raise
    except Exception as error:  # noqa: BLE001  # any other exception is a defect of the proxy
        await _refuse(services, receipt, sink, log_internal_error(error, services, incoming.request_id))
    finally:
        receipt.duration_seconds = services.clock() - receipt.started_at
        services.log.write_exchange(receipt)
        services.receipts.queue_exchange_receipt(receipt)


async def _refuse(services: Services, receipt: Receipt, sink: ResponseSink, error: ProxyError) -> None:
    record_failure(receipt, error, services.settings.reveal_proxy_keys())
    await sink.send_error(error)


def _require_decodable(request: MessagesRequest, route: Route) -> None:
    if request.decode_error is not None and not route.targets[0].is_relayed:
        raise request.decode_error


class _Exchange:
    """Steps 5 to 9 of one exchange, with the state that they share."""

    def __init__(
        self,
        services: Services,
        incoming: ClientRequest,
        sink: ResponseSink,
        request: MessagesRequest,
        receipt: Receipt,
    ) -> None:
        self._services = services
        self._incoming = incoming
        self._sink = sink
        self._request = request
        self._receipt = receipt
        self._opened = False
        """True once events of the proxy were sent."""
        self._streamed_reply: DeltaStream | None = None
        """The streamed reply. None: no stream, or a relay."""
        self._call_filter: SingleToolCallFilter | None = None
        """Filter of tool calls. None: parallel calls are allowed."""
        self._relayed = False
        """True once relayed bytes of a stream were sent."""
        self._sent = SentAttempts()
        self._queued = True
        """False once the exchange has left the queue."""

    async def run_exchange(self, route: Route) -> None:
        self._route = route
        request, timeouts = self._request, self._services.settings.timeouts
        self._writer = MessageWriter(message_id=self._services.new_id("msg_"), model=request.model, signature="")
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
                _uncancel()
                self._receipt.outcome = "cancelled"
            elif watchdog.reason == "upstream silent":
                _uncancel()
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
            # several calls count the same input repeatedly
            if self._writer.estimate and isinstance(answer, UpstreamStream):
                await self._record_token_scale()
        finally:
            self._watchdog.stop()  # complete or failed: a disconnect has no effect now
            await answer.close()

    async def _stream(self, answer: DeltaStream) -> None:
        writer, watchdog, sink = self._writer, self._watchdog, self._sink
        writer.signature = answer.signature
        self._streamed_reply = answer
        call_filter = self._call_filter = self._new_call_filter()
        releases_request = isinstance(answer, UpstreamStream)  # a tool loop or schema retry sends the request again
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
                if releases_request:
                    releases_request = False
                    self._release_request(answer)
        watchdog.writing = True
        await self._write((last or self._start()) + writer.finish(), last=True)

    def _release_request(self, answer: DeltaStream | RelayStream) -> None:
        """Release the client request after the first sent bytes, to free memory: no retry is possible then."""
        self._services.heap_trimmer.note_freed(len(self._incoming.body))
        self._incoming.body = b""
        self._request.release()
        if isinstance(answer, UpstreamStream):
            answer.call.request.release()

    async def _fold(self, answer: DeltaStream) -> None:
        fold = Fold(self._writer)
        self._writer.signature = answer.signature
        call_filter = self._new_call_filter()
        while (deltas := await answer.read()) is not None:
            fold.feed(call_filter.feed(deltas) if call_filter is not None else deltas)
        if self._writer.usage.input_tokens is None:
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
                await sink.send_relayed(data, answer.headers, streams=streams, last=last)
                watchdog.upstream_at = watchdog.now()
                watchdog.writing = False
                if self._incoming.body:
                    self._release_request(answer)
        finally:
            self._writer.usage = answer.usage
            self._receipt.outcome = answer.stop_reason or ""
        if answer.failure is not None:
            self._annotate_error(answer.failure)
            record_failure(self._receipt, answer.failure, self._services.settings.reveal_proxy_keys())
        if not last:
            watchdog.writing = True
            await sink.send_events([answer.ending] if answer.ending else [], last=True)

    async def _record_token_scale(self) -> None:
        """Record the token estimate and the provider's count of this request, for later estimates of the model."""
        writer, receipt, attempt = self._writer, self._receipt, self._sent.latest
        if attempt is not None and writer.usage.input_tokens is not None:
            totals, estimated = writer.totals, round(writer.estimate / attempt.token_scale)
            counted = totals.input_tokens + totals.cache_read_input_tokens + totals.cache_creation_input_tokens
            await self._services.observations.record_token_count(receipt.provider, receipt.model, estimated, counted)

    async def _warm_up(self) -> None:
        """Reply to a request with `max_tokens: 0`, which asks the API to fill its cache.

        The proxy sends an empty reply itself.
        """
        self._receipt.fidelity.add((_WARM_UP,))
        writer = self._writer
        ending: list[Delta] = [Usage(output_tokens=0), Stop("max_tokens")]
        if self._request.stream:
            await self._write(self._start() + writer.feed(ending) + writer.finish(), last=True)
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
        return self._attempts.estimate_tokens(self._request, scale)

    def _annotate_error(self, error: UpstreamError) -> None:
        if self._sent.latest is not None:
            self._attempts.annotate_error(error, self._sent.latest)

    async def _write(self, events: Sequence[Event], *, last: bool = False) -> None:
        """Send events that the proxy made itself. Later failures are sent as `error` events."""
        self._opened = True
        await self._sink.send_events(events, last=last)

    async def _keep_alive(self) -> None:
        """Send a ping or an empty delta after an idle time. Before the first delta, this fixes status 200.

        A relay sends no pings of the proxy, unless the stream was started for an earlier target.
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
            await self._sink.send_events([*self._flush_pending(), *self._writer.fail(error)], last=True)
        elif self._relayed:
            await self._sink.send_events([ErrorEvent(error)], last=True)
        else:
            await self._sink.send_error(error)
        error.drop_traceback()

    def _flush_pending(self) -> list[Event]:
        """Return the events of buffered deltas, when the reply ends early."""
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
        """Copy usage, outcome and status into the receipt."""
        writer, receipt = self._writer, self._receipt
        totals = writer.totals
        receipt.input_tokens, receipt.output_tokens = totals.input_tokens, totals.output_tokens
        receipt.cache_read_tokens = totals.cache_read_input_tokens
        receipt.cache_write_tokens = totals.cache_creation_input_tokens
        receipt.thinking_tokens = totals.output_tokens_details["thinking_tokens"]
        receipt.outcome = receipt.outcome or writer.stop_reason or ""
        if self._opened or self._relayed or receipt.outcome != "cancelled":
            receipt.status = receipt.status or 200


def _uncancel() -> None:
    """Undo the cancellation by the watchdog so that the task continues."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
