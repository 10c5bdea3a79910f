"""Thread that writes log entries, so that a slow reader of the log does not delay requests.

`BackgroundWriter` has a queue of log entries and the thread. If the queue is full, entries are dropped.
"""

import atexit
import os
import select
import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue

MAX_QUEUED_ENTRIES = 5_000
"""Maximum number of queued log entries. Further entries are dropped and counted."""
BATCH_INTERVAL_SECONDS = 0.05
"""Seconds between two writes of the thread. Entries queued in this time are written together."""
FLUSH_TIMEOUT_SECONDS = 1.0
"""Maximum seconds for which `flush` waits, because the program that reads the log may be blocked."""
MAX_WRITE_BYTES = 4096
"""Maximum size of one write of several entries (PIPE_BUF). The kernel does not mix such writes of several processes in
a pipe. A longer entry is written by itself."""


class BackgroundWriter:
    """Queue of log entries, and the thread that writes them to the file `descriptor`.

    If `max_queued` entries wait, new entries are dropped. The thread then reports their number by the log entry that
    `describe_dropped` returns.
    """

    def __init__(
        self,
        descriptor: int,
        encode: Callable[[str], bytes],
        describe_dropped: Callable[[int], str],
        max_queued: int = MAX_QUEUED_ENTRIES,
    ) -> None:
        self._descriptor = descriptor
        self._encode = encode
        self._describe_dropped = describe_dropped
        self._max_queued = max_queued
        self._dropped = 0
        self._queue: SimpleQueue[str | threading.Event] = SimpleQueue()
        self._flush_requested = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        """Held by the thread that starts `_thread`. Others do not wait for it: a signal handler may log too."""

    def set_encoder(self, encode: Callable[[str], bytes], describe_dropped: Callable[[int], str]) -> None:
        """Replace the functions `encode` and `describe_dropped` of the constructor, for example after a reload.

        `encode` returns a log entry as bytes, also for entries that are already queued. `describe_dropped` returns the
        log entry that reports a number of dropped entries.
        """
        self._encode, self._describe_dropped = encode, describe_dropped

    def enqueue(self, text: str) -> None:
        """Queue a log entry, a text that ends with a line end.

        If the queue is full, the entry is dropped and counted. Any thread may call this.
        """
        if self._queue.qsize() >= self._max_queued:
            self._dropped += 1
            return
        self._queue.put(text)
        if self._thread is None:
            self._start()

    def flush(self, seconds: float = FLUSH_TIMEOUT_SECONDS) -> None:
        """Wait until all queued entries are written, for at most `seconds`."""
        if self._thread is not None:
            written = threading.Event()
            self._queue.put(written)
            self._flush_requested.set()
            written.wait(seconds)

    def _start(self) -> None:
        """Start the thread, unless another thread does so.

        If the system has no thread left, the next entry tries again.
        """
        if not self._starting.acquire(blocking=False):
            return
        try:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="log", daemon=True)
                thread.start()
                self._thread = thread
                atexit.register(self.flush)
        except RuntimeError:
            return  # a request must not fail because its log entry waits
        finally:
            self._starting.release()

    def _run(self) -> None:
        reported = 0
        while True:
            batch = bytearray()
            flushed: list[threading.Event] = []
            for item in self._pop_all():
                if isinstance(item, threading.Event):
                    flushed.append(item)
                    continue
                data = self._encode(item)
                if len(batch) + len(data) > MAX_WRITE_BYTES:
                    self._write(batch)
                    batch = bytearray()
                batch += data
            if dropped := self._dropped - reported:
                reported += dropped
                batch += self._encode(self._describe_dropped(dropped))
            self._write(batch)
            for event in flushed:
                self._flush_requested.clear()
                event.set()
            self._flush_requested.wait(BATCH_INTERVAL_SECONDS)

    def _pop_all(self) -> Iterator[str | threading.Event]:
        """Wait for the first queued item, then yield all: log entries, and events that calls of `flush` wait for."""
        yield self._queue.get()
        try:
            while True:
                yield self._queue.get_nowait()
        except Empty:
            return

    def _write(self, data: bytes | bytearray) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # another program that shares the descriptor set O_NONBLOCK
                select.select([], [self._descriptor], [])
            except OSError:
                return  # a closed terminal must not fail requests
