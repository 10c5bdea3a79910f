"""The requests of this process: the running ones, the recent ones, and who learns of a finished one.

`RunningRequests` is the one list of running requests: the supervisor reads it in shared memory, views show it, and a
reload waits for the requests that began before. `RequestFeed` has the recent ones too, and those of other workers.
`Receipts` passes each finished request to the metrics, the views and the observers of plugins.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from struct import Struct as BinaryStruct

from msgspec import structs

from anthropic_proxy.engine.hooks import NEGOTIATED
from anthropic_proxy.gateway.telemetry.live_requests import LiveRequests
from anthropic_proxy.gateway.telemetry.log import Log
from anthropic_proxy.gateway.telemetry.log.lines import redact_receipt
from anthropic_proxy.gateway.telemetry.logged_requests import LoggedRequest, RequestSnapshot
from anthropic_proxy.gateway.telemetry.metrics import MetricsTotals
from anthropic_proxy.plugins import Cost, Observer, Receipt

HEARTBEAT_INTERVAL_SECONDS = 1.0
"""Interval at which the event loop writes a heartbeat. The supervisor kills a worker without heartbeats."""
_BEAT_BYTES = 8
_NEWEST = _BEAT_BYTES
"""Offset in the memory of the byte that has the index of the latest slot."""
_TEXT_BYTES = 256
"""Number of bytes in a slot for method, path and request id."""
MAX_FIELD_LENGTH = 80
"""Maximum characters of a URL path, and maximum bytes of a model id, in a slot. Longer text is cut."""
_SLOT_BYTES = _TEXT_BYTES + MAX_FIELD_LENGTH
_SLOTS = 32
_STARTS = tuple(_NEWEST + 1 + number * _SLOT_BYTES for number in range(_SLOTS))
SHARED_MEMORY_BYTES = _NEWEST + 1 + _SLOTS * _SLOT_BYTES
MAX_DESCRIBED_REQUESTS = 3
"""Maximum number of requests that a description of the running ones lists. Further requests are only counted."""
_write_slot = BinaryStruct(f"{_TEXT_BYTES}s{MAX_FIELD_LENGTH}s").pack_into
_write_model = BinaryStruct(f"{MAX_FIELD_LENGTH}s").pack_into


class RunningRequests:
    """The running client requests of this process.

    Under a supervisor, the 32 newest are in shared memory too, with a count of heartbeats: a worker with a blocked
    event loop could not send them. The slot of a request is its number modulo 32.
    """

    def __init__(self) -> None:
        self._receipts: dict[int, Receipt] = {}
        """Number of a request → its receipt, the oldest first."""
        self._number = 0
        """Requests so far."""
        self._memory: memoryview | None = None
        self._beats = 0
        self._ended: asyncio.Event | None = None
        """Set when a request ends. None: nobody waits."""
        self.draining = False
        """True if this process stops, so that load balancers should send no new requests (`/readyz`)."""

    def share(self, memory: memoryview) -> None:
        """Also write to memory that the supervisor reads. Call this before the first request."""
        self._memory = memory

    def begin(self, receipt: Receipt) -> int:
        """Add a request, and return its number."""
        self._number = number = self._number + 1
        self._receipts[number] = receipt
        if self._memory is not None:
            slot = number % _SLOTS
            _write_slot(self._memory, _STARTS[slot], _head_line(receipt).encode("utf-8", "replace"), b"")
            self._memory[_NEWEST] = slot
        return number

    def find_naming(self, number: int) -> Callable[[str], None] | None:
        """Return the function that receives the model of a request. None: no supervisor reads it."""
        return None if self._memory is None else partial(self.name_model, number)

    def name_model(self, number: int, model: str) -> None:
        if self._memory is not None and self._number - number < _SLOTS:
            place = _STARTS[number % _SLOTS] + _TEXT_BYTES
            _write_model(self._memory, place, model[:MAX_FIELD_LENGTH].encode("utf-8", "replace"))

    def end(self, number: int) -> None:
        self._receipts.pop(number, None)
        if self._memory is not None and self._number - number < _SLOTS:
            self._memory[_STARTS[number % _SLOTS]] = 0
        if self._ended is not None:
            self._ended.set()

    @property
    def count(self) -> int:
        return len(self._receipts)

    def receipts(self) -> Iterable[Receipt]:
        """The oldest first. Their fields still change."""
        return self._receipts.values()

    async def wait_until_ended(self) -> None:
        """Wait for the end of the requests that run now, but not of later ones."""
        last = self._number
        while next(iter(self._receipts), last + 1) <= last:
            self._ended = self._ended or asyncio.Event()
            self._ended.clear()
            await self._ended.wait()

    def describe(self) -> str:
        """Return the three newest requests. "": none."""
        newest = reversed(self._receipts.values())
        return _join([_describe(_head_line(receipt), receipt.requested_model) for receipt in newest])

    def write_heartbeat(self) -> None:
        if self._memory is not None:
            self._beats += 1
            self._memory[:_BEAT_BYTES] = self._beats.to_bytes(_BEAT_BYTES, "little")


def read_heartbeat_count(shared_memory: memoryview) -> int:
    return int.from_bytes(shared_memory[:_BEAT_BYTES], "little")


def describe_requests(shared_memory: memoryview) -> str:
    """Return the three newest running requests of another process. "": none."""
    descriptions = []
    for age in range(_SLOTS):
        start = _STARTS[(shared_memory[_NEWEST] - age) % _SLOTS]
        if text := _read(shared_memory[start : start + _TEXT_BYTES]):
            descriptions.append(_describe(text, _read(shared_memory[start + _TEXT_BYTES : start + _SLOT_BYTES])))
    return _join(descriptions)


def _head_line(receipt: Receipt) -> str:
    return f"{receipt.method} {receipt.path[:MAX_FIELD_LENGTH]} {receipt.request_id}"


def _describe(head_line: str, model: str) -> str:
    return f"{head_line} for {model[:MAX_FIELD_LENGTH]}" if model else head_line


def _join(requests: Sequence[str]) -> str:
    named = ", ".join(requests[:MAX_DESCRIBED_REQUESTS])
    more = len(requests) - MAX_DESCRIBED_REQUESTS
    return f"{named} and {more} more" if more > 0 else named


def _read(place: memoryview) -> str:
    return bytes(place).partition(b"\0")[0].decode(errors="replace")


MAX_RECENT_REQUESTS = 200
MAX_RUNNING_REQUESTS = 1_000
"""Maximum number of running requests that a process lists in its views. Further requests run but are not listed."""
COLLECT_TIMEOUT_SECONDS = 1.0
"""Maximum seconds for the other workers to send their requests. Slower workers are counted as unresponsive."""


class _Collection:
    """Requests that other workers send for one snapshot. `missing`: number of workers that have not sent theirs yet."""

    def __init__(self, missing: int) -> None:
        self.missing = missing
        self.finished: list[LoggedRequest] = []
        self.complete = asyncio.Event()


class RequestFeed:
    """Recent and running requests of all processes, for views such as `logs`. Workers send theirs while a view is open.

    `secrets` is a function that returns the API keys to mask.
    """

    def __init__(
        self,
        running: RunningRequests,
        secrets: Callable[[], Sequence[str]] = tuple,
        calculate_cost: Callable[[Receipt], Cost] | None = None,
    ) -> None:
        """`calculate_cost`: function with the prices of this process. None: views show no costs."""
        self._secrets = secrets
        self._calculate_cost = calculate_cost
        self._finished: deque[LoggedRequest] = deque(maxlen=MAX_RECENT_REQUESTS)
        self.running = running
        self._running_elsewhere: dict[int, Sequence[Receipt]] = {}
        self.live = LiveRequests(self)
        """The open views."""
        self._collections: list[_Collection] = []
        self._send_finished: Callable[[LoggedRequest], None] | None = None
        """Called for each finished request of this process, to send it to other workers. None: no worker needs it."""
        self.watch_peers: Callable[[bool], None] | None = None
        """Function that makes the other workers send their requests for some seconds. Argument True: all recent ones
        first. None: there are no other workers."""
        self._peer_count = 0
        self._flush: Callable[[], None] | None = None
        """Function that adds the finished requests that wait (`Receipts`). None: none wait."""

    def flush_before_reading(self, flush: Callable[[], None]) -> None:
        """Call `flush` before each snapshot. It adds the finished requests that wait."""
        self._flush = flush

    def connect_workers(self, count: int, watch: Callable[[bool], None]) -> None:
        """`count`: number of the other workers. `watch`: see `watch_peers`."""
        self._peer_count = count
        self.watch_peers = watch

    def send_finished_to(self, send: Callable[[LoggedRequest], None] | None) -> None:
        """Call `send` for each finished request of this process from now on. None: no other worker needs them."""
        self._send_finished = send

    def add_finished(self, receipt: Receipt, *, is_exchange: bool = True) -> None:
        request = LoggedRequest(receipt, is_exchange)
        self._finished.append(request)
        self.live.add(request)
        if self._send_finished is not None:
            self._send_finished(request)

    async def add_costs(self, requests: Iterable[LoggedRequest]) -> list[LoggedRequest]:
        """Return the requests with their costs, for a view. In a thread, because the first one reads the price list."""
        calculate = self._calculate_cost
        if calculate is None:
            return list(requests)
        return await asyncio.to_thread(
            lambda: [structs.replace(request, cost=calculate(request.receipt).cost) for request in requests]
        )

    def build_own_snapshot(self) -> RequestSnapshot:
        if self._flush is not None:
            self._flush()
        return self.redact(RequestSnapshot(list(self._finished), self.list_own_running()))

    def list_own_running(self) -> list[Receipt]:
        """Return the running exchanges of this process, at most `MAX_RUNNING_REQUESTS`, without those being read."""
        named = (receipt for receipt in self.running.receipts() if receipt.requested_model)
        return list(islice(named, MAX_RUNNING_REQUESTS))

    def redact(self, snapshot: RequestSnapshot) -> RequestSnapshot:
        """Mask API keys in texts that clients may have chosen."""
        secrets = tuple(self._secrets())
        finished = [LoggedRequest(redact_receipt(row.receipt, secrets), row.is_exchange) for row in snapshot.finished]
        return RequestSnapshot(finished, [redact_receipt(receipt, secrets) for receipt in snapshot.running])

    async def collect_snapshot(self) -> RequestSnapshot:
        """Requests of all workers, the latest last. Those of workers that do not answer within
        `COLLECT_TIMEOUT_SECONDS` are missing.
        """
        snapshot = self.build_own_snapshot()
        if self.watch_peers is None or not self._peer_count:
            return snapshot
        collection = _Collection(self._peer_count)
        self._collections.append(collection)
        self.watch_peers(True)
        try:
            async with asyncio.timeout(COLLECT_TIMEOUT_SECONDS):
                await collection.complete.wait()
        except TimeoutError:
            snapshot.unresponsive_workers = collection.missing
        finally:
            self._collections.remove(collection)
        snapshot.finished = sorted(
            [*snapshot.finished, *collection.finished],
            key=lambda request: request.receipt.started_at + request.receipt.duration_seconds,
        )
        snapshot.running = self.list_running()
        return snapshot

    def list_running(self) -> list[Receipt]:
        """Return the running exchanges, the latest last. Those of other workers are included while a view is open."""
        elsewhere = [receipt for receipts in self._running_elsewhere.values() for receipt in receipts]
        own_running = self.redact(RequestSnapshot(running=self.list_own_running())).running
        return sorted([*own_running, *elsewhere], key=lambda receipt: receipt.started_at)

    def apply_worker_update(self, worker: int, snapshot: RequestSnapshot, *, contains_recent: bool) -> None:
        """Add the requests that another worker has sent: all running ones, and finished ones since the last update. If
        `contains_recent` is True, they are all recent finished requests instead.
        """
        self._running_elsewhere[worker] = snapshot.running
        if not contains_recent:
            for request in snapshot.finished:
                self.live.add(request)
            return
        for collection in self._collections:
            collection.finished += snapshot.finished
            collection.missing -= 1
            if collection.missing <= 0:
                collection.complete.set()

    def forget_other_workers(self) -> None:
        """Drop the running requests of other workers, which only views need."""
        self._running_elsewhere.clear()


MAX_QUEUED_RECEIPTS = 1_000
"""Maximum number of receipts queued for one observer. If the queue is full, its oldest receipt is dropped and counted.
"""


MAX_ENDED_EXCHANGES = 64
"""Number of ended exchanges that are logged and delivered together."""
END_PAUSE_SECONDS = 0.05
"""Maximum time for which an ended exchange waits for others. The first one after such a pause does not wait."""


class Receipts:
    """Delivery of the receipts of finished requests: to the log, the metrics, the views, and the observers of plugins.

    Exchanges that end shortly after another wait a moment: the processor logs and delivers many in a row in half the
    time. All that shows requests or metrics calls `flush` before.

    Each observer has a queue and a task, so that a slow observer delays neither requests nor other observers. If a
    queue is full, its oldest receipt is dropped and counted.
    """

    def __init__(
        self,
        log: Log,
        observers: Sequence[Observer] = (),
        *,
        totals: MetricsTotals | None = None,
        feed: RequestFeed | None = None,
    ) -> None:
        self.log = log
        """Log for the failures of observers."""
        self.feed = feed or RequestFeed(RunningRequests())
        self.totals = totals or MetricsTotals(lambda _: False)
        self._queues = [_Queue(self, observer) for observer in observers]
        self.observer_names = {queue.name for queue in self._queues}
        self._ended: deque[tuple[Receipt, Log]] = deque()
        """Exchanges that wait, and the log that each is written to."""
        self._pausing: asyncio.AbstractEventLoop | None = None
        """Event loop with a timer until whose end exchanges wait. None: the next one does not wait."""
        self.feed.flush_before_reading(self.flush)

    def replace_log(self, log: Log) -> None:
        self.log = log

    def end_exchange(self, receipt: Receipt, log: Log) -> None:
        """Call this after the last byte of the reply. `log`: the one of its settings."""
        self._ended.append((receipt, log))
        running = self.feed.running
        loop = asyncio.get_running_loop()
        pauses = self._pausing is loop  # a program may run one event loop after another
        if not pauses or len(self._ended) >= MAX_ENDED_EXCHANGES or running.draining:
            self.flush()
            # a server removes an exchange from the running ones after this call. If there are none, none can follow
            if running.count and not pauses:
                self._pausing = loop
                loop.call_later(END_PAUSE_SECONDS, self._end_pause)

    def _end_pause(self) -> None:
        self._pausing = None
        if self._ended:  # the last one is ended again: it delivers all, and begins the next pause
            receipt, log = self._ended.pop()
            self.end_exchange(receipt, log)

    def flush(self) -> None:
        """Log and deliver all ended exchanges."""
        while self._ended:
            receipt, log = self._ended.popleft()
            log.write_exchange(receipt)
            if receipt.outcome != NEGOTIATED:
                self.finish_exchange(receipt)

    def finish_exchange(self, receipt: Receipt) -> None:
        """Deliver the receipt of an exchange. The metrics count all of them, but only failures of other requests."""
        self.feed.add_finished(receipt)
        self.totals.count_exchange(receipt)
        for queue in self._queues:
            queue.put(receipt)

    def finish_request(self, receipt: Receipt, *, hide_if_successful: bool = False) -> None:
        """For any other request, of which the metrics count only failures.

        `hide_if_successful`: views of recent requests show the request only if it failed.
        """
        if not hide_if_successful or receipt.outcome == "error":
            self.feed.add_finished(receipt, is_exchange=False)
        if receipt.outcome == "error":
            self.totals.count_rejected_request(receipt)
        for queue in self._queues:
            queue.put(receipt)

    async def close(self, seconds: float) -> None:
        """The receipts that are not delivered within `seconds` are dropped."""
        self.flush()
        tasks = [queue.task for queue in self._queues if queue.task is not None]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=seconds)
        for task in late:
            task.cancel()


class _Queue:
    """Receipts queued for one observer, and the task that delivers them. An observer with a plain method `record`
    receives each receipt at once.
    """

    def __init__(self, receipts: Receipts, observer: Observer) -> None:
        self._receipts = receipts
        self._observer = observer
        self.name = type(observer).__name__
        self._waiting: deque[Receipt] = deque()
        self.task: asyncio.Task[None] | None = None
        """Task that passes receipts to the observer. None: no receipt waits, and the observer is not running."""

    def put(self, receipt: Receipt) -> None:
        if self.task is None:
            pending = self._record(receipt)
            if pending is not None:
                self.task = asyncio.create_task(self._pass_on(receipt, pending))
            return
        if len(self._waiting) >= MAX_QUEUED_RECEIPTS:
            self._waiting.popleft()
            self._receipts.totals.count_dropped_receipt(self.name)
        self._waiting.append(receipt)

    def _record(self, receipt: Receipt) -> Awaitable[None] | None:
        """Return the running call of the observer. None: it has returned or failed."""
        try:
            return self._observer.record(receipt)
        except Exception:  # noqa: BLE001  # a failing observer must not affect clients or other receipts
            self._receipts.log.write_traceback(receipt.request_id)
            return None

    async def _pass_on(self, receipt: Receipt, pending: Awaitable[None] | None) -> None:
        """Await `pending`, the call of the observer with `receipt`, then pass the waiting receipts one by one."""
        try:
            while True:
                if pending is not None:
                    try:
                        await pending
                    except Exception:  # noqa: BLE001  # a failing observer must not affect clients or other receipts
                        self._receipts.log.write_traceback(receipt.request_id)
                if not self._waiting:
                    return
                receipt = self._waiting.popleft()
                pending = self._record(receipt)
        finally:
            self.task = None
