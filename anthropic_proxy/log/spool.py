"""Writes from a thread of its own: whoever does not read the log stops nobody's request."""

import atexit
import os
import select
import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue

MOST_WAITING = 5_000
"""Texts that may wait; later ones are lost and counted."""
GATHER_SECONDS = 0.05
"""Pause between two writes: what comes meanwhile leaves in one, and wakes nobody."""
FLUSH_SECONDS = 1.0
"""How long an ending process waits for a reader who may never come."""
PIECE_BYTES = 4096
"""What a pipe takes in one piece, so that the lines of several processes do not mix (PIPE_BUF)."""


class Spool:
    """A bounded queue before a file descriptor. `tell_lost` words how many texts could not be kept."""

    def __init__(
        self, descriptor: int, encode: Callable[[str], bytes], tell_lost: Callable[[int], str], most: int = MOST_WAITING
    ) -> None:
        self._descriptor = descriptor
        self._encode = encode
        self._tell_lost = tell_lost
        self._most = most
        self._lost = 0
        self._waiting: SimpleQueue[str | threading.Event] = SimpleQueue()
        self._hurry = threading.Event()
        self._thread: threading.Thread | None = None

    def serve(self, encode: Callable[[str], bytes], tell_lost: Callable[[int], str]) -> None:
        """Work for another log from here on, also on what waits."""
        self._encode, self._tell_lost = encode, tell_lost

    def put(self, text: str) -> None:
        """Take a text, its line end included; never waits."""
        if self._waiting.qsize() >= self._most:
            self._lost += 1
            return
        self._waiting.put(text)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            self._thread.start()
            atexit.register(self.flush)

    def flush(self, seconds: float = FLUSH_SECONDS) -> None:
        """Wait until everything is written, but not longer than so many seconds."""
        if self._thread is not None:
            written = threading.Event()
            self._waiting.put(written)
            self._hurry.set()
            written.wait(seconds)

    def _run(self) -> None:
        told = 0
        while True:
            piece = bytearray()
            flushed: list[threading.Event] = []
            for item in self._take():
                if isinstance(item, threading.Event):
                    flushed.append(item)
                    continue
                data = self._encode(item)
                if len(piece) + len(data) > PIECE_BYTES:
                    self._write(piece)
                    piece = bytearray()
                piece += data
            if lost := self._lost - told:
                told += lost
                piece += self._encode(self._tell_lost(lost))
            self._write(piece)
            for event in flushed:
                self._hurry.clear()
                event.set()
            self._hurry.wait(GATHER_SECONDS)

    def _take(self) -> Iterator[str | threading.Event]:
        """Wait for an item; return it and what waits behind it."""
        yield self._waiting.get()
        try:
            while True:
                yield self._waiting.get_nowait()
        except Empty:
            return

    def _write(self, data: bytes | bytearray) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # another program that shares the descriptor made it so
                select.select([], [self._descriptor], [])
            except OSError:
                return  # a closed terminal must end nothing
