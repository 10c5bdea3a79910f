"""One exchange, from the client's bytes to the last byte of the reply. Read it aloud: nine steps."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from anthropic_proxy.errors import InternalError, ProxyError, Stopping, UpstreamError
from anthropic_proxy.exchange.answer import Answer, Reply
from anthropic_proxy.exchange.attempts import Attempts
from anthropic_proxy.exchange.blame import silence_of
from anthropic_proxy.exchange.house import House, Inbound
from anthropic_proxy.exchange.one_call import OneCall
from anthropic_proxy.exchange.reading import facts_of, read
from anthropic_proxy.exchange.relay import RelayedAnswer
from anthropic_proxy.exchange.turns import open_reply
from anthropic_proxy.exchange.watch import Watch
from anthropic_proxy.hooks import Observer, Receipt, Ticket
from anthropic_proxy.memory import SLACK
from anthropic_proxy.messages.deltas import Delta, Stop, Usage
from anthropic_proxy.messages.events import Event, Failure, Ping
from anthropic_proxy.messages.fold import Fold
from anthropic_proxy.messages.notes import Note
from anthropic_proxy.messages.types import MessagesRequest, MessagesResponse
from anthropic_proxy.messages.writer import MessageWriter
from anthropic_proxy.routing.router import Route
from anthropic_proxy.wire.contract import relays

DELTA_AFTER_SECONDS = 240.0
"""Silence of the upstream from which on empty deltas take the place of pings: those alone hold a client ten minutes."""
_WARM_UP = Note("emulated", "max_tokens", "answered here: other providers warm their caches by themselves")


class Outlet(Protocol):
    """The door's side of one HTTP response."""

    def follow(self, receipt: Receipt) -> None:
        """Take the receipt of the exchange: headers that go out tell what it says by then. Comes before all else."""
        ...

    async def write(self, events: Sequence[Event], *, last: bool = False) -> None:
        """Send events; the first call sends status 200 and the headers of a stream before them."""
        ...

    async def relay(self, data: bytes, headers: Mapping[str, str], *, streams: bool, last: bool) -> None:
        """Send bytes as an upstream sent them, with its headers before the first.

        They are part of a stream, or a whole body; `last`: nothing follows.
        """
        ...

    async def message(self, response: MessagesResponse) -> None:
        """Send a whole reply."""
        ...

    async def refuse(self, error: ProxyError) -> None:
        """Send an error with its HTTP status; nothing was sent before it."""
        ...

    async def gone(self) -> None:
        """Return when the client has left."""
        ...


async def run(house: House, inbound: Inbound, outlet: Outlet) -> None:
    """Serve one request. A failure is an HTTP status while nothing was sent, and an `error` event after that.

    Step 1, identify, lies behind us: the guard did it before the body was read.
    """
    receipt = Receipt(request_id=inbound.request_id, client=inbound.client, started=house.clock(), path=inbound.path)
    outlet.follow(receipt)
    try:
        request = read(house, inbound.body)  # 2 read
        receipt.asked_model, receipt.stream = request.model, request.stream
        receipt.tools, receipt.messages = len(request.tools), request.length
        route = house.routes.find(facts_of(request), house.settings, house.catalogue)  # 3 route
        receipt.why, receipt.fidelity.policy = route.why, route.fidelity
        _expect_readable(request, route)
        for note in route.notes:
            house.log.once(note)
        for policy in house.policies:  # 4 admit
            await policy.admit(Ticket(client=inbound.client, model=request.model, size=len(inbound.body)))
        await _Exchange(house, inbound, outlet, request, receipt).run(route)  # 5 to 9
    except ProxyError as error:
        note_failure(receipt, error)
        await outlet.refuse(error)
        error.let_go()
    except asyncio.CancelledError:
        receipt.outcome = receipt.outcome or "cancelled"
        raise
    except Exception as error:  # noqa: BLE001  # the corridor's edge: whatever is left is our bug
        failure = our_bug(error, house, inbound.request_id)
        note_failure(receipt, failure)
        await outlet.refuse(failure)
    finally:
        receipt.seconds = house.clock() - receipt.started
        house.log.exchange(receipt)
        for observer in house.observers:
            await _tell(observer, receipt, house)


async def _tell(observer: Observer, receipt: Receipt, house: House) -> None:
    try:
        await observer.record(receipt)
    except Exception:  # noqa: BLE001  # a room that fails is no client's concern
        house.log.trace(receipt.request_id)


def _expect_readable(request: MessagesRequest, route: Route) -> None:
    if request.refusal is not None and not relays(route.targets[0].wire):
        raise request.refusal


class _Exchange:
    """What the steps 5 to 9 of one exchange share."""

    def __init__(
        self, house: House, inbound: Inbound, outlet: Outlet, request: MessagesRequest, receipt: Receipt
    ) -> None:
        self._house = house
        self._inbound = inbound
        self._outlet = outlet
        self._request = request
        self._receipt = receipt
        self._opened = False
        """Whether a stream of our own has begun."""
        self._relayed = False
        """Whether bytes of an upstream's own stream have left."""

    async def run(self, route: Route) -> None:
        self._route = route
        request, timeouts = self._request, self._house.settings.timeouts
        self._writer = MessageWriter(message_id=self._house.new_id("msg_"), model=request.model, signature="")
        watch = self._watch = Watch(
            gone=self._outlet.gone,
            silent=self._keep_alive if request.stream else None,
            first_byte_seconds=timeouts.first_byte,
            idle_seconds=timeouts.idle,
        )
        self._attempts = Attempts(self._house, self._inbound, request, self._receipt, watch)
        try:
            if request.max_tokens == 0 and not relays(route.targets[0].wire):
                await self._warm_up()
            else:
                await self._serve(route)
        except asyncio.CancelledError:
            if watch.reason == "gone":
                _uncancel()
                self._receipt.outcome = "cancelled"
            elif watch.reason == "upstream silent":
                _uncancel()
                await self._fail(silence_of(self._receipt.provider, watch.upstream_limit))
            else:
                await self._fail(Stopping())
                raise
        except ProxyError as error:
            await self._fail(error)
        except Exception as error:  # noqa: BLE001  # the corridor's edge: whatever is left is our bug
            await self._fail(our_bug(error, self._house, self._inbound.request_id))
        finally:
            watch.stop()
            self._count()

    async def _serve(self, route: Route) -> None:
        self._watch.queueing = True
        await self._house.queue.enter(self._inbound.queues_as)
        self._watch.queueing = False
        try:
            await self._reply(route)
        finally:
            self._house.queue.leave()

    async def _reply(self, route: Route) -> None:
        answer = await open_reply(self._house, self._watch, self._attempts, self._request, route)
        try:
            self._receipt.first_delta_seconds = self._house.clock() - self._receipt.started
            if isinstance(answer, RelayedAnswer):
                await self._relay(answer)
            elif self._request.stream:
                await self._stream(answer)
            else:
                await self._fold(answer)
            if self._writer.estimate and isinstance(answer, Answer):  # several calls count the same input several times
                await self._learn_scale()
        finally:
            self._watch.stop()  # the reply is whole or lost: a client that leaves now changes nothing
            await answer.close()

    async def _stream(self, answer: Reply) -> None:
        writer, watch, outlet = self._writer, self._watch, self._outlet
        writer.signature = answer.signature
        only_one = OneCall() if self._one_call() else None
        forgets = isinstance(answer, Answer)  # what takes several calls, or is checked, asks with it again
        last: list[Event] = []
        while (deltas := await answer.read()) is not None:
            if only_one is not None:
                deltas = only_one.feed(deltas)
            events = writer.feed(deltas) if writer.started else self._start() + writer.feed(deltas)
            if writer.stop is not None and answer.ended:
                last = events  # they leave together with the end
                break
            if events:
                self._opened = watch.writing = True
                await outlet.write(events)
                watch.client_at = watch.upstream_at = watch.now()
                watch.writing = False
                if forgets:
                    forgets = False
                    self._forget_request(answer)
        watch.writing = True
        await self._write((last or self._start()) + writer.finish(), last=True)

    def _forget_request(self, answer: Reply | RelayedAnswer) -> None:
        """Let go of the request: part of the reply has left, so nothing is asked again, and streams last long."""
        SLACK.let_go(len(self._inbound.body))
        self._inbound.body = b""
        self._request.forget()
        if isinstance(answer, Answer):
            answer.call.request.forget()

    async def _fold(self, answer: Reply) -> None:
        fold = Fold(self._writer)
        self._writer.signature = answer.signature
        only_one = OneCall() if self._one_call() else None
        while (deltas := await answer.read()) is not None:
            fold.feed(only_one.feed(deltas) if only_one is not None else deltas)
        if self._writer.usage.input_tokens is None:
            self._writer.estimate = self._attempts.count(self._request)
        await self._outlet.message(fold.finish())

    async def _relay(self, answer: RelayedAnswer) -> None:
        outlet, watch, streams = self._outlet, self._watch, self._request.stream
        if self._opened:
            answer.drop_start()
        self._relayed, last = streams, False
        try:
            while (data := await answer.read()) is not None:
                watch.writing, last = True, answer.ended and answer.ending is None
                await outlet.relay(data, answer.headers, streams=streams, last=last)
                watch.upstream_at = watch.now()
                watch.writing = False
                if self._inbound.body:
                    self._forget_request(answer)
        finally:
            self._writer.usage = answer.usage
            self._receipt.outcome = answer.stop_reason or ""
        if answer.failure is not None:
            self._attempts.explain(answer.failure)
            note_failure(self._receipt, answer.failure)
        if not last:
            watch.writing = True
            await outlet.write([answer.ending] if answer.ending else [], last=True)

    async def _learn_scale(self) -> None:
        """Compare our estimate, where one was needed, with what the provider counted."""
        writer, receipt, attempts = self._writer, self._receipt, self._attempts
        if writer.usage.input_tokens is not None:
            totals, estimated = writer.totals, round(writer.estimate / attempts.scale)
            counted = totals.input_tokens + totals.cache_read_input_tokens + totals.cache_creation_input_tokens
            await self._house.learned.compare(receipt.provider, receipt.model, estimated, counted)

    async def _warm_up(self) -> None:
        """Answer `max_tokens: 0` here: it asks for a warm cache and no output."""
        self._receipt.fidelity.add((_WARM_UP,))
        writer = self._writer
        ending: list[Delta] = [Usage(output_tokens=0), Stop("max_tokens")]
        if self._request.stream:
            await self._write(self._start() + writer.feed(ending) + writer.finish(), last=True)
        else:
            fold = Fold(writer)
            fold.feed(ending)
            await self._outlet.message(fold.finish())

    def _start(self) -> list[Event]:
        """Return the events that begin a stream, the first time."""
        if self._writer.started:
            return []
        return [*self._writer.start(self._attempts.count(self._request)), Ping()]

    async def _write(self, events: Sequence[Event], *, last: bool = False) -> None:
        """Send events of our own; before the first of them a failure is still an HTTP status."""
        self._opened = True
        await self._outlet.write(events, last=last)

    async def _keep_alive(self) -> None:
        """Tell a streaming client that we live; before the first delta this gives up a real HTTP status.

        A relay writes nothing of its own: the pings of the API pass. Only where the stream had begun before it was
        its turn, the client is held until its first bytes.
        """
        if self._relayed or (self._attempts.relaying and not self._opened):
            return
        silence = self._watch.now() - self._watch.upstream_at
        # a block of ours would stand in the way of a relayed stream, whose own begin at 0
        opens = silence > DELTA_AFTER_SECONDS and not any(relays(target.wire) for target in self._route.targets)
        events = self._start() or (self._writer.keep_alive() if opens else [Ping()])
        await self._write(events)

    async def _fail(self, error: ProxyError) -> None:
        if isinstance(error, UpstreamError):
            self._attempts.explain(error)
        note_failure(self._receipt, error)
        if self._opened:
            await self._outlet.write(self._writer.fail(error), last=True)
        elif self._relayed:
            await self._outlet.write([Failure(error)], last=True)
        else:
            await self._outlet.refuse(error)
        error.let_go()

    def _one_call(self) -> bool:
        choice = self._request.tool_choice
        return choice is not None and bool(choice.disable_parallel_tool_use)

    def _count(self) -> None:
        """Fill in the receipt what the writer knows."""
        writer, receipt = self._writer, self._receipt
        totals = writer.totals
        receipt.input_tokens, receipt.output_tokens = totals.input_tokens, totals.output_tokens
        receipt.cache_read_tokens = totals.cache_read_input_tokens
        receipt.cache_write_tokens = totals.cache_creation_input_tokens
        receipt.thinking_tokens = totals.output_tokens_details["thinking_tokens"]
        receipt.outcome = receipt.outcome or writer.stop_reason or ""
        if self._opened or self._relayed or receipt.outcome != "cancelled":
            receipt.status = receipt.status or 200


def note_failure(receipt: Receipt, error: ProxyError) -> None:
    """Write into a receipt how the exchange failed."""
    receipt.outcome = "error"
    receipt.status = error.status
    receipt.error_kind, receipt.error = error.kind, error.message
    receipt.excerpt = " ".join(getattr(error, "__notes__", ()))


def our_bug(error: Exception, house: House, request_id: str) -> InternalError:
    """Write the trace of an exception that nobody foresaw, and return what the client is told."""
    house.log.trace(request_id)
    return InternalError(f"{type(error).__name__} inside the proxy; its log has the trace.")


def _uncancel() -> None:
    """Take back the watch's own cancellation, so that this task goes on."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
