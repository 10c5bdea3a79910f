"""Recent and running requests of all processes, for views such as `logs`. Workers send theirs while a view is open."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Sequence

import msgspec
from msgspec import Struct, field

from anthropic_proxy.gateway.telemetry.log.lines import redact_receipt
from anthropic_proxy.plugins import Receipt

MAX_RECENT_REQUESTS = 200
MAX_RUNNING_REQUESTS = 1_000
"""Maximum number of running requests that a process lists in its views. Further requests run but are not listed."""
MAX_QUEUED_REQUESTS = 1_000
"""Maximum number of finished requests queued for one view. If the queue is full, the oldest one is dropped."""
COLLECT_TIMEOUT_SECONDS = 1.0
"""Maximum seconds for the other workers to send their requests. Slower workers are counted as unresponsive."""


class LoggedRequest(Struct, frozen=True):
    receipt: Receipt
    is_exchange: bool = True
    """True for an accepted `POST /v1/messages`, which has two log lines. False: a request with one log line."""


class RequestSnapshot(Struct):
    finished: list[LoggedRequest] = field(default_factory=list)
    """Finished requests, the latest last."""
    running: list[Receipt] = field(default_factory=list)
    """Receipts of running exchanges, the latest last. Fields about the reply are still empty."""
    unresponsive_workers: int = 0
    """Number of workers that did not send their requests in time."""


class RequestView:
    def __init__(self) -> None:
        self._waiting: deque[LoggedRequest] = deque(maxlen=MAX_QUEUED_REQUESTS)
        self._changed = asyncio.Event()
        self.ended = False
        """True if the view has ended because the server stops."""

    def add(self, request: LoggedRequest) -> None:
        self._waiting.append(request)
        self._changed.set()

    def end(self) -> None:
        self.ended = True
        self._changed.set()

    async def read(self, timeout_seconds: float) -> Sequence[LoggedRequest]:
        """Waits at most `timeout_seconds` for a first one."""
        if not self._changed.is_set():
            try:
                async with asyncio.timeout(timeout_seconds):
                    await self._changed.wait()
            except TimeoutError:
                return ()
        if not self.ended:
            self._changed.clear()
        waiting = list(self._waiting)
        self._waiting.clear()
        return waiting


class _Collection:
    """Requests that other workers send for one snapshot. `missing`: number of workers that have not sent theirs yet."""

    def __init__(self, missing: int) -> None:
        self.missing = missing
        self.finished: list[LoggedRequest] = []
        self.complete = asyncio.Event()


class RequestFeed:
    """`secrets` is a function that returns the API keys to mask."""

    def __init__(self, secrets: Callable[[], Sequence[str]] = tuple) -> None:
        self._secrets = secrets
        self._finished: deque[LoggedRequest] = deque(maxlen=MAX_RECENT_REQUESTS)
        self._running: dict[str, Receipt] = {}
        self._running_elsewhere: dict[int, Sequence[Receipt]] = {}
        self._views: set[RequestView] = set()
        self._collections: list[_Collection] = []
        self.on_finish: Callable[[LoggedRequest], None] | None = None
        """Called for each finished request of this process, to send it to other workers. None: no worker needs it."""
        self.watch_peers: Callable[[bool], None] | None = None
        """Function that makes the other workers send their requests for some seconds. Argument True: all recent ones
        first. None: there are no other workers."""
        self.peer_count = 0

    def add_running(self, receipt: Receipt) -> None:
        """Add an exchange that has begun, unless `MAX_RUNNING_REQUESTS` are listed. Its fields may still change."""
        if len(self._running) < MAX_RUNNING_REQUESTS:
            self._running[receipt.request_id] = receipt

    def add_finished(self, receipt: Receipt, *, is_exchange: bool = True) -> None:
        self._running.pop(receipt.request_id, None)
        request = LoggedRequest(receipt, is_exchange)
        self._finished.append(request)
        if self._views:
            self._notify(request)
        if self.on_finish is not None:
            self.on_finish(request)

    def build_own_snapshot(self) -> RequestSnapshot:
        return self.redact(RequestSnapshot(list(self._finished), list(self._running.values())))

    def list_own_running(self) -> list[Receipt]:
        return list(self._running.values())

    def redact(self, snapshot: RequestSnapshot) -> RequestSnapshot:
        """Mask API keys in texts that clients may have chosen."""
        secrets = tuple(self._secrets())
        finished = [LoggedRequest(redact_receipt(row.receipt, secrets), row.is_exchange) for row in snapshot.finished]
        return RequestSnapshot(finished, [redact_receipt(receipt, secrets) for receipt in snapshot.running])

    async def collect_snapshot(self) -> RequestSnapshot:
        """Requests of all workers, the latest last. Those of workers that do not answer within
        `COLLECT_TIMEOUT_SECONDS` are missing.
        """
        own = self.build_own_snapshot()
        if self.watch_peers is None or not self.peer_count:
            return own
        collection = _Collection(self.peer_count)
        self._collections.append(collection)
        self.watch_peers(True)
        try:
            async with asyncio.timeout(COLLECT_TIMEOUT_SECONDS):
                await collection.complete.wait()
        except TimeoutError:
            own.unresponsive_workers = collection.missing
        finally:
            self._collections.remove(collection)
        own.finished = sorted(
            [*own.finished, *collection.finished], key=lambda one: one.receipt.started_at + one.receipt.duration_seconds
        )
        own.running = self.list_running()
        return own

    def list_running(self) -> list[Receipt]:
        """Return the running exchanges, the latest last. Those of other workers are included while a view is open."""
        elsewhere = [receipt for receipts in self._running_elsewhere.values() for receipt in receipts]
        own = self.redact(RequestSnapshot(running=self.list_own_running())).running
        return sorted([*own, *elsewhere], key=lambda receipt: receipt.started_at)

    def apply_worker_update(self, worker: int, snapshot: RequestSnapshot, *, contains_recent: bool) -> None:
        """Add the requests that another worker has sent: all running ones, and finished ones since the last update. If
        `contains_recent` is True, they are all recent finished requests instead.
        """
        self._running_elsewhere[worker] = snapshot.running
        if not contains_recent:
            for request in snapshot.finished:
                self._notify(request)
            return
        for collection in self._collections:
            collection.finished += snapshot.finished
            collection.missing -= 1
            if collection.missing <= 0:
                collection.complete.set()

    def open_view(self) -> RequestView:
        view = RequestView()
        self._views.add(view)
        return view

    def close_view(self, view: RequestView) -> None:
        """When the last view is closed, the running requests of other workers are dropped: only views need them."""
        self._views.discard(view)
        if not self._views:
            self._running_elsewhere.clear()

    @property
    def view_count(self) -> int:
        return len(self._views)

    def end_live_request_streams(self) -> None:
        for view in self._views:
            view.end()

    def _notify(self, request: LoggedRequest) -> None:
        for view in self._views:
            view.add(request)


def encode_requests(value: RequestSnapshot | LoggedRequest | Sequence[Receipt]) -> bytes:
    """Characters that JSON cannot contain (lone surrogates from provider headers) become `?`."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        text = json.dumps(msgspec.to_builtins(value), ensure_ascii=False, separators=(",", ":"))
        return text.encode(errors="replace")


REFRESH_SECONDS = 1.0
"""Seconds between two checks of the running requests. A live view sends them if they have changed."""
PING_SECONDS = 10.0
"""Seconds without an event after which a live view sends an SSE comment, so that both sides detect a broken connection.
"""
MAX_LIVE_SECONDS = 60.0
"""Maximum seconds of one live response, because some servers wait for open responses before they stop. Clients connect
again after the end."""


async def stream_request_events(
    feed: RequestFeed, client_names: Collection[str] | None = None
) -> AsyncGenerator[bytes, None]:
    """SSE bytes, for at most `MAX_LIVE_SECONDS`. `client_names`: only requests of these clients; None: of all."""

    def is_shown(receipt: Receipt) -> bool:
        return client_names is None or receipt.client.name in client_names

    view = feed.open_view()
    try:
        loop = asyncio.get_running_loop()
        snapshot = await feed.collect_snapshot()
        snapshot.finished = [request for request in snapshot.finished if is_shown(request.receipt)]
        snapshot.running = list(filter(is_shown, snapshot.running))
        yield _event("snapshot", encode_requests(snapshot))
        known = {request.receipt.request_id for request in snapshot.finished}  # an update may repeat them
        running, sent_at = _running_key(snapshot.running), loop.time()
        end = sent_at + MAX_LIVE_SECONDS
        refresh_at = sent_at + REFRESH_SECONDS
        while not view.ended and loop.time() < end:
            requests = await view.read(max(refresh_at - loop.time(), 0.0))
            events = [
                _event("request", encode_requests(request))
                for request in feed.redact(RequestSnapshot(list(requests))).finished
                if request.receipt.request_id not in known and is_shown(request.receipt)
            ]
            if loop.time() >= refresh_at:
                refresh_at = loop.time() + REFRESH_SECONDS
                if feed.watch_peers is not None:
                    feed.watch_peers(False)
                receipts = list(filter(is_shown, feed.list_running()))
                if (key := _running_key(receipts)) != running:
                    running = key
                    events.append(_event("running", encode_requests(receipts)))
            if not events and loop.time() - sent_at >= PING_SECONDS:
                events = [b": ping\n\n"]
            if events:
                sent_at = loop.time()
                yield b"".join(events)
    finally:
        feed.close_view(view)


def _event(name: str, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


def _running_key(receipts: Sequence[Receipt]) -> bytes:
    """Return bytes that change with the running requests and their state, to detect whether an event must be sent."""
    return encode_requests(receipts)
