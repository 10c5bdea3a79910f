"""Bounded queue and thread for log output. A blocked reader of the log does not delay requests."""

import atexit
import os
import select
import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue

MAX_QUEUED_ENTRIES = 5_000
"""Maximum number of queued entries. Later ones are dropped and counted."""
BATCH_INTERVAL_SECONDS = 0.05
"""Pause between two writes. Entries of the pause share one write and one wake-up of the thread."""
FLUSH_TIMEOUT_SECONDS = 1.0
"""Time limit of a flush, for a reader that is blocked."""
MAX_WRITE_BYTES = 4096
"""Maximum size of one write. A pipe writes it atomically, so lines of processes do not mix (PIPE_BUF)."""


class BackgroundWriter:
    """Queue and thread in front of a file descriptor. `describe_dropped` returns the entry for a dropped count."""

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

    def set_encoder(self, encode: Callable[[str], bytes], describe_dropped: Callable[[int], str]) -> None:
        """Use the encoder of another log, also for queued entries."""
        self._encode, self._describe_dropped = encode, describe_dropped

    def enqueue(self, text: str) -> None:
        """Queue an entry that ends with a line end. Never waits; drops the entry if the queue is full."""
        if self._queue.qsize() >= self._max_queued:
            self._dropped += 1
            return
        self._queue.put(text)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            self._thread.start()
            atexit.register(self.flush)

    def flush(self, seconds: float = FLUSH_TIMEOUT_SECONDS) -> None:
        """Wait until everything is written, for at most `seconds`."""
        if self._thread is not None:
            written = threading.Event()
            self._queue.put(written)
            self._flush_requested.set()
            written.wait(seconds)

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
        """Wait for an item; yield it and all that are queued."""
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
