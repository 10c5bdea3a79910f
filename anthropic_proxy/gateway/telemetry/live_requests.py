"""`LiveRequests`: the requests of the proxy as an event stream, for `logs --follow`, `logs --live` and the dashboard.

Theory of operation. However many streams are open, a finished request costs the same: it is put into a list. While a
stream is open, one task (`_produce`) makes events of the list, a few times per second, and keeps the last ones with
their numbers. A stream is a number: the event that it sends next. So a client that does not read costs nothing until
the server drops its connection. If it reads again and its next event is gone, its stream ends with the event `end`.
Running requests are one state, of which a stream sends the latest only.

A stream with `client_names` (a member of a team) skips the events of other clients. The running requests are encoded
once for each set of names.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Protocol

import msgspec
from msgspec import Struct

from anthropic_proxy.errors import LimitReached, ProxyBusy
from anthropic_proxy.gateway.telemetry.logged_requests import LoggedRequest, RequestSnapshot, encode_requests
from anthropic_proxy.plugins import Client, Receipt

MAX_STREAMS = 500
"""Maximum number of open streams of a process."""
MAX_STREAMS_OF_CLIENT = 50
"""Maximum number of open streams of one key, or one session of the dashboard, in a process."""
MAX_KEPT_EVENTS = 1_000
"""Number of the last events. A stream that is further behind ends."""
MAX_KEPT_BYTES = 16 * 1024 * 1024
"""Size of the last events. A stream whose next event is no longer among them ends."""
BATCH_SECONDS = 0.2
"""Pause after which new requests become events."""
REFRESH_SECONDS = 1.0
"""Seconds between two checks of the running requests. A stream sends them if they have changed."""
PING_SECONDS = 10.0
"""Seconds without an event after which a stream sends an SSE comment, so that both sides detect a broken connection."""
MAX_LIVE_SECONDS = 60.0
"""Maximum seconds of one stream, because some servers wait for open responses before they stop. Clients connect again
after the end."""
RETRY_AFTER_SECONDS = 10.0
_TIMER_SECONDS = 0.01
"""Time by which a timer of the event loop may end early."""


class LiveSource(Protocol):
    """The recent and running requests: `RequestFeed`."""

    watch_peers: Callable[[bool], None] | None

    def redact(self, snapshot: RequestSnapshot) -> RequestSnapshot: ...

    async def add_costs(self, requests: Iterable[LoggedRequest]) -> list[LoggedRequest]: ...

    async def collect_snapshot(self) -> RequestSnapshot: ...

    def list_running(self) -> list[Receipt]: ...

    def forget_other_workers(self) -> None: ...


_Includes = Callable[[Client], bool]
"""Says whether a stream has the requests of a client, as it was when it sent them."""


class _Event(Struct, frozen=True):
    """A finished request."""

    request_id: str
    client: Client
    data: bytes


class _End(Struct):
    reason: str


class LiveRequests:
    def __init__(self, source: LiveSource) -> None:
        self._source = source
        self._streams: Counter[str] = Counter()
        """Client → number of its open streams."""
        self._new: deque[LoggedRequest] = deque(maxlen=MAX_KEPT_EVENTS)
        """Finished requests that are no events yet."""
        self._has_new = asyncio.Event()
        self._events: deque[_Event] = deque()
        self._event_bytes = 0
        self._next_number = 0
        """Number of the next event. The last one of `_events` has the number before it."""
        self._running: list[Receipt] = []
        self._running_number = 0
        """Number of changes of `_running`."""
        self._encoded_running: dict[_Includes | None, bytes] = {}
        self._changed = asyncio.Event()
        """Set, and replaced by another one, when there are new events."""
        self._is_ended = False
        self._task: asyncio.Task[None] | None = None

    @property
    def count(self) -> int:
        """Number of open streams."""
        return self._streams.total()

    def add(self, request: LoggedRequest) -> None:
        if self._streams:
            self._new.append(request)
            self._has_new.set()

    def end(self) -> None:
        """End all streams, because the server stops."""
        self._is_ended = True
        self._changed.set()

    def open_stream(self, client: str, includes: _Includes | None = None) -> AsyncGenerator[bytes, None]:
        """Return SSE bytes, for at most `MAX_LIVE_SECONDS`.

        `client`: who reads them. `includes`: whether requests of a client are included; None: of all. Raises
        `LimitReached` if `client` has too many streams, and `ProxyBusy` if all clients together have.
        """
        if self._streams[client] >= MAX_STREAMS_OF_CLIENT:
            raise LimitReached(
                f"{MAX_STREAMS_OF_CLIENT} live views of this client are open. Close one of them.",
                code="live-views",
                retry_after=RETRY_AFTER_SECONDS,
            )
        if self.count >= MAX_STREAMS:
            raise ProxyBusy(
                f"All {MAX_STREAMS} live views of this process of the proxy are open. Try again later.",
                code="live-views",
                retry_after=RETRY_AFTER_SECONDS,
            )
        return self._stream(client, includes)

    async def _stream(self, client: str, includes: _Includes | None) -> AsyncGenerator[bytes, None]:
        if self._streams[client] >= MAX_STREAMS_OF_CLIENT or self.count >= MAX_STREAMS:  # opened at the same time
            yield _encode("end", _End("Too many live views are open."))
            return
        self._streams[client] += 1
        try:
            if self._task is None or self._task.done():
                self._begin()
            number = self._next_number
            running = self._running_number
            snapshot = await self._collect_snapshot(includes)
            yield _encode("snapshot", snapshot)
            known = {request.receipt.request_id for request in snapshot.finished}  # an event may repeat them
            loop = asyncio.get_running_loop()
            sent_at = loop.time()
            end = sent_at + MAX_LIVE_SECONDS
            is_quiet = False
            while not self._is_ended and end - loop.time() > _TIMER_SECONDS:
                changed = self._changed
                if number < self._next_number - len(self._events):
                    yield _encode("end", _End("The client reads too slowly."))
                    return
                events = self._list_from(number)
                number = self._next_number
                pieces = [
                    event.data
                    for event in events
                    if (includes is None or includes(event.client)) and event.request_id not in known
                ]
                if running != self._running_number:
                    running = self._running_number
                    pieces.append(self._encode_running(includes))
                if pieces or is_quiet:
                    sent_at = loop.time()
                    yield b"".join(pieces) or b": ping\n\n"
                try:
                    async with asyncio.timeout_at(min(sent_at + PING_SECONDS, end)):
                        await changed.wait()
                    is_quiet = False
                except TimeoutError:
                    is_quiet = True
        finally:
            self._streams[client] -= 1
            self._streams += Counter()  # without the clients that have none
            if not self._streams:
                self._stop()

    async def _collect_snapshot(self, includes: _Includes | None) -> RequestSnapshot:
        snapshot = await self._source.collect_snapshot()
        finished = [one for one in snapshot.finished if includes is None or includes(one.receipt.client)]
        snapshot.finished = await self._source.add_costs(finished)
        snapshot.running = _select(snapshot.running, includes)
        return snapshot

    def _list_from(self, number: int) -> Sequence[_Event]:
        return [*islice(self._events, len(self._events) - (self._next_number - number), None)]

    def _encode_running(self, includes: _Includes | None) -> bytes:
        if includes not in self._encoded_running:
            self._encoded_running[includes] = _encode("running", _select(self._running, includes))
        return self._encoded_running[includes]

    def _begin(self) -> None:
        self._events.clear()
        self._event_bytes = 0
        self._running = self._source.list_running()
        self._encoded_running = {None: _encode("running", self._running)}
        self._task = asyncio.create_task(self._produce())

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._task = None
        self._new.clear()
        self._source.forget_other_workers()

    async def _produce(self) -> None:
        """Make events of new requests, and notice changes of the running ones, until it is cancelled."""
        loop = asyncio.get_running_loop()
        refresh_at = loop.time() + REFRESH_SECONDS
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(refresh_at):
                        await self._has_new.wait()
                self._has_new.clear()
                has_changed = bool(self._new)
                await self._add_events()
                if loop.time() >= refresh_at:
                    refresh_at = loop.time() + REFRESH_SECONDS
                    has_changed = self._refresh_running() or has_changed
                if has_changed:
                    self._wake_streams()
                await asyncio.sleep(BATCH_SECONDS)
        finally:
            self._wake_streams()  # after a failure, the streams go on with pings, and end

    def _wake_streams(self) -> None:
        """A stream that comes later waits for the next change: a set event would let it run without a pause."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _add_events(self) -> None:
        if not self._new:
            return
        requests = self._source.redact(RequestSnapshot([*self._new])).finished
        self._new.clear()
        for request in await self._source.add_costs(requests):
            receipt = request.receipt
            event = _Event(receipt.request_id, receipt.client, _encode("request", request))
            self._events.append(event)
            self._event_bytes += len(event.data)
            self._next_number += 1
        while len(self._events) > MAX_KEPT_EVENTS or self._event_bytes > MAX_KEPT_BYTES:
            self._event_bytes -= len(self._events.popleft().data)

    def _refresh_running(self) -> bool:
        """Return True if the running requests have changed."""
        if self._source.watch_peers is not None:
            self._source.watch_peers(False)
        running = self._source.list_running()
        encoded = _encode("running", running)
        if encoded == self._encoded_running.get(None):
            return False
        self._running = running
        self._encoded_running = {None: encoded}
        self._running_number += 1
        return True


def _select(receipts: Sequence[Receipt], includes: _Includes | None) -> list[Receipt]:
    return [receipt for receipt in receipts if includes is None or includes(receipt.client)]


def _encode(name: str, value: RequestSnapshot | LoggedRequest | Sequence[Receipt] | _End) -> bytes:
    data = msgspec.json.encode(value) if isinstance(value, _End) else encode_requests(value)
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)
