"""Receipts of finished requests, and texts of requests and replies, that wait in memory for the thread of the ledger.

The event loop adds them and must never wait: both are bounded, and what does not fit is lost. The thread removes a
batch and stores it in one transaction. Texts are collected only with `LEDGER_CONTENT=true`, while the request runs.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

from msgspec import Struct, field

from anthropic_proxy.plugins import LedgerState, Receipt, RecordPoint

MAX_CONTENT_BYTES = 1 << 20
MAX_BUFFERED_BYTES = 64 << 20
"""Maximum number of bytes in the buffer, over all running and waiting requests of one process. Above this number,
requests are stored without their texts."""
ABANDONED_SECONDS = 3600.0
"""Age in seconds after which the bytes of a request are dropped if the buffer is full."""


class BufferedContent(Struct):
    """First bytes of one client request and of its reply, and the complete last request to a provider."""

    started_at: float
    """Time of the first `record` for the request, in seconds by the clock of the buffer."""
    request: bytes = b""
    request_size: int = 0
    """Number of bytes of the complete client request. `request` has at most the first `MAX_CONTENT_BYTES` of them."""
    reply: bytearray = field(default_factory=bytearray)
    reply_size: int = 0
    """Number of bytes of the complete reply. `reply` has at most the first `MAX_CONTENT_BYTES` of them."""
    upstream: bytes = b""
    """Body of the last request to a provider. b"": no provider was called, or the body did not fit."""


class ContentBuffer:
    """Buffer with the first bytes of each client request and reply, and with a limit for their total size. `warn` is
    called if a new client request or reply does not fit into the full buffer. The ledger then stores this request
    without its texts.
    """

    def __init__(
        self,
        warn: Callable[[], None],
        *,
        max_content_bytes: int = MAX_CONTENT_BYTES,
        max_bytes: int = MAX_BUFFERED_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._warn = warn
        self._max_content_bytes = max_content_bytes
        self._max_bytes = max_bytes
        self._clock = clock
        self._contents: dict[str, BufferedContent] = {}
        # each counter is changed by one thread only, so no lock is needed
        self._added = 0
        """Number of all bytes added since the start, counted in the event loop."""
        self._popped = 0
        """Number of all bytes popped since the start, counted in the thread of the ledger."""
        self._discarded = 0
        """Number of all bytes discarded since the start, counted in the event loop."""

    @property
    def total_bytes(self) -> int:
        return self._added - self._popped - self._discarded

    def record(self, request_id: str, point: RecordPoint, data: bytes) -> None:
        """Add `data`, bytes of a client request, reply or provider request, to the buffer. Only the first bytes of a
        client request and of its reply are kept. If these do not fit into the buffer, all bytes of this client request
        are dropped. If a provider request does not fit, only the provider request is dropped.
        """
        content = self._contents.get(request_id)
        match point:
            case "client request":
                kept = data[: self._max_content_bytes]
                if self._reserve(len(kept)):
                    self._contents[request_id] = BufferedContent(self._clock(), kept, len(data))
            case "upstream request":
                if content is not None:
                    self._keep_upstream(content, data)
            case "client response":
                if content is not None:
                    self._add_reply(request_id, content, data)

    def _keep_upstream(self, content: BufferedContent, data: bytes) -> None:
        self._discarded += len(content.upstream)
        content.upstream = b""
        if len(data) <= self._max_content_bytes and self.total_bytes + len(data) <= self._max_bytes:
            self._added += len(data)
            content.upstream = data

    def _add_reply(self, request_id: str, content: BufferedContent, data: bytes) -> None:
        content.reply_size += len(data)
        if piece := data[: self._max_content_bytes - len(content.reply)]:
            if not self._reserve(len(piece)):
                self.discard(request_id)
            elif request_id in self._contents:
                content.reply += piece
            else:  # the request itself was the oldest one and has been discarded
                self._discarded += len(piece)

    def pop(self, request_id: str) -> BufferedContent | None:
        """Remove the bytes of the finished request `request_id` from the buffer and return them. None: the buffer has
        no bytes of this request. Called in the thread of the ledger.
        """
        content = self._contents.pop(request_id, None)
        if content is not None:
            self._popped += _count_bytes(content)
        return content

    def discard(self, request_id: str) -> None:
        """Called in the event loop."""
        content = self._contents.pop(request_id, None)
        if content is not None:
            self._discarded += _count_bytes(content)

    def _reserve(self, count: int) -> bool:
        if self.total_bytes + count > self._max_bytes:
            for request_id, oldest in [*self._contents.items()][:1]:  # the thread changes the dict
                if self._clock() - oldest.started_at > ABANDONED_SECONDS:
                    self.discard(request_id)
            if self.total_bytes + count > self._max_bytes:
                self._warn()
                return False
        self._added += count
        return True


def _count_bytes(content: BufferedContent) -> int:
    return len(content.request) + len(content.reply) + len(content.upstream)


MAX_QUEUED_ROWS = 10_000
"""Maximum number of requests of one process that wait for the database. Of those for which no provider was called, half
as many wait, and none while half of the file for waiting rows is full. Further requests are not stored."""
BATCH_INTERVAL_SECONDS = 0.5
DISK_CHECK_SECONDS = 5.0
"""Pause between two looks at the disk of a SQLite database, and for rows that another worker has put into the file for
waiting rows, while no request is stored."""
_END_SECONDS = 1.0
"""Time at the end of the stop in which the thread begins no further attempt to store what waits."""
EXCHANGE_PATH = "/v1/messages"
"""Path of the requests that have a reply of a model. Only these can be sent again."""


class ReceiptQueue:
    """Queue of receipts, which starts the thread that stores them. The thread executes the function `run`, which must
    return after a call of `stop`.
    """

    def __init__(
        self,
        run: "Callable[[ReceiptQueue], None]",
        *,
        batch_seconds: float = BATCH_INTERVAL_SECONDS,
        max_rows: int = MAX_QUEUED_ROWS,
        contents: ContentBuffer | None = None,
        titles: ContentBuffer | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.contents = contents
        self.titles = titles
        self._buffers = [buffer for buffer in (contents, titles) if buffer is not None]
        self._clock = clock
        self._state = LedgerState()
        self.spooled_rows = 0
        """Number of requests in the file for rows that the database does not take, as the thread last counted them."""
        self.spool_problem = ""
        """Sentence for the user: why this file cannot be used. "": it can."""
        self.spool_is_half_full = False
        self.in_batch = 0
        """Number of receipts that the thread has removed from the queue and not yet written to the database."""
        self._run = run
        self._batch_seconds = batch_seconds
        self._max_rows = max_rows
        self._waiting: deque[Receipt] = deque()
        self._batch_ids: list[str] = []
        """Ids of the requests that the thread has removed from the queue for its present batch."""
        # a `SimpleQueue` needs less CPU time than an `Event`, in the event loop as well
        self._added: SimpleQueue[None] = SimpleQueue()
        """Has an item if receipts were added, or the queue was stopped, since the thread last waited."""
        self._stopped: SimpleQueue[None] = SimpleQueue()
        """Has an item after the queue was stopped. An item ends a pause of the thread."""
        self._is_stopped = False
        self._stop_at = 0.0
        """Monotonic time at which the thread must have ended, after the stop."""
        self._thread: threading.Thread | None = None

    @property
    def state(self) -> LedgerState:
        """Condition and counters of the ledger. The thread updates them; metrics and pages only read them.

        What waits is counted here, so that it is right also while the thread is blocked.
        """
        self._state.spooled_rows = self.spooled_rows
        self._state.queued_rows = len(self) + self.spooled_rows
        return self._state

    def record(self, receipt: Receipt) -> None:
        """The first call starts the thread. If the queue is full, the receipt counts as lost."""
        if receipt.path != EXCHANGE_PATH and receipt.outcome != "error" and not receipt.all_tokens:
            return
        # requests that no provider was called for leave room for those that are billed
        is_called = receipt.attempts or receipt.input_tokens or receipt.output_tokens
        places = self._max_rows if is_called else 0 if self.spool_is_half_full else -(-self._max_rows // 2)
        if len(self._waiting) + self.in_batch >= places:
            self.state.dropped_rows += 1
            for buffer in self._buffers:
                buffer.discard(receipt.request_id)
            return
        # the thread removes items of `_added` before it removes receipts: an item that is still there when the receipt
        # is already queued announces this receipt as well. In the opposite order, the thread could miss the receipt.
        self._waiting.append(receipt)
        if self._added.empty():
            self._added.put(None)
        if self._thread is None:
            self.start()

    def start(self) -> None:
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._run, args=(self,), name="ledger", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self.set_failed_state(
                f"The ledger cannot store requests: {error}. Raise the limit of processes and threads."
            )
            raise
        self._thread = thread

    def set_failed_state(self, problem: str) -> None:
        """`problem` is the message for the user."""
        self.state.condition = "failed"
        self.state.problem = problem
        if len(self):
            self.set_waiting_since()
        else:
            self.state.waiting_since = None

    def __len__(self) -> int:
        return len(self._waiting) + self.in_batch

    @property
    def is_crowded(self) -> bool:
        """True: requests for which a provider was called wait in more than half of the places left to them."""
        return len(self) > self._max_rows * 3 // 4

    def drop_batch(self) -> int:
        """Called in the thread of the ledger."""
        dropped = self.in_batch
        self.in_batch = 0
        self.state.dropped_rows += dropped
        for request_id in self._batch_ids if dropped else ():
            for buffer in self._buffers:
                buffer.pop(request_id)
        return dropped

    def drop_receipt(self, request_id: str) -> None:
        """The database cannot store the receipt. Its texts are dropped too. Called in the thread of the ledger."""
        self.in_batch -= 1
        self.state.dropped_rows += 1
        for buffer in self._buffers:
            buffer.pop(request_id)

    @property
    def is_stopped(self) -> bool:
        return self._is_stopped

    @property
    def seconds_to_stop(self) -> float:
        """Time in seconds that the thread has left, after the stop."""
        return self._stop_at - time.monotonic()

    def wait_for_batch(self, seconds: float | None) -> None:
        """Wait for a receipt, and then a moment longer, so that one transaction can store several. None: no limit for
        the wait. Called in the thread of the ledger.
        """
        if not len(self) and not self._is_stopped and not _wait(self._added, seconds):
            return
        self.set_waiting_since()
        self.pause(self._batch_seconds)
        # before `pop_batch` and the next check of `len(self)`: both find the receipts of the items removed here
        while not self._added.empty():
            self._added.get()

    def set_waiting_since(self) -> None:
        """An earlier time is kept."""
        if self.state.waiting_since is None:
            self.state.waiting_since = self._clock()

    def wait_for_receipt(self, seconds: float) -> bool:
        """False: there was none for `seconds`, and the queue is not stopped."""
        return len(self) > 0 or self._is_stopped or _wait(self._added, seconds)

    def pause(self, seconds: float) -> None:
        if not self._is_stopped:
            _wait(self._stopped, seconds)

    def pop_batch(self, count: int) -> list[Receipt]:
        """The length of the queue and its limit still include these receipts, until they are stored or dropped.

        The caller then reduces `in_batch`.
        """
        batch = [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]
        self.in_batch += len(batch)
        self._batch_ids = [receipt.request_id for receipt in batch]
        return batch

    def stop(self, seconds: float) -> int:
        """Return the number of receipts that were not written in time."""
        self._stop_at = time.monotonic() + seconds - _END_SECONDS
        self._is_stopped = True  # before the items: a wait that begins later checks it, an earlier one gets an item
        self._stopped.put(None)
        self._added.put(None)
        if self._thread is not None:
            self._thread.join(seconds)
        return len(self)


def _wait(queue: SimpleQueue[None], seconds: float | None) -> bool:
    """Remove an item from `queue`, and return True. False: there was none for `seconds`. Only for a single reader."""
    # CPython waits without limit if the lock of an empty queue is free and the time is over before it looks again, such
    # as after a pause of the machine. The first call takes the lock.
    with suppress(Empty):
        queue.get_nowait()
        return True
    with suppress(Empty):
        queue.get(timeout=seconds)
        return True
    return False
