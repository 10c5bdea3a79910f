"""Several processes that serve one listening socket, and the one in front of them: it starts and replaces them, and
passes on what it is told. It serves nothing itself.
"""

import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.server.channel import Channel, new_channels
from anthropic_proxy.server.desk import Desk
from anthropic_proxy.server.line import Line
from anthropic_proxy.server.process import (
    ENDING_SECONDS,
    EXIT_SECONDS,
    FAILED_START,
    FLUSH_SECONDS,
    HURRY,
    PASSED_ON,
    RELOAD,
    STOP,
    Application,
    Plan,
    Server,
)
from anthropic_proxy.server.watching import LOOK_SECONDS, FileWatch, Terminal

REPLACING_SECONDS = 1.0
"""Between two starts in the place of one worker: one that ends at once would otherwise take all of a processor."""
_LAST_SECONDS = ENDING_SECONDS + FLUSH_SECONDS + EXIT_SECONDS + 1.0
"""How long a worker may take that was told to end, before it is killed."""
_spawning = get_context("spawn")


@dataclass
class _Worker:
    process: BaseProcess
    orders: Connection
    channel: Channel
    place: int
    started_at: float
    ready: bool = False


class Workers:
    """Runs until a signal ends it, or until no worker can be started."""

    def __init__(self, plan: Plan, listener: socket.socket, number: int, application: Application) -> None:
        self._plan = plan
        self._listener = listener
        self._number = number
        self._application = application
        self._desk = Desk(application.crew)
        self._workers: list[_Worker] = []
        self._served = False
        """Whether any worker ever did."""
        self._stopping = False
        self._deadline = 0.0
        """When those who are left are killed."""
        self._next_start = 0.0
        self._status = 0
        self._terminal = Terminal()
        self._watch = FileWatch(plan.watched_file) if plan.watched_file else None
        self._looked_at = 0.0

    def run(self) -> int:
        """Serve until the end; return the exit status."""
        inbox, outbox = socket.socketpair()
        inbox.setblocking(False)
        outbox.setblocking(False)
        for told in PASSED_ON:
            signal.signal(told, _leave_it_to_the_descriptor)
        signal.set_wakeup_fd(outbox.fileno(), warn_on_full_buffer=False)
        for _ in range(self._number):
            self._start()
        while self._workers or not self._stopping:
            awaited: list[socket.socket | Connection | int] = [inbox]
            awaited += [worker.process.sentinel for worker in self._workers]
            awaited += [worker.orders for worker in self._workers if not worker.ready]
            ready = _wait(awaited, self._desk.channels, self._next_look())
            self._note_ready(ready)
            for worker in self._workers:
                if worker.channel in ready:
                    worker.channel.flush()
                    self._desk.hear(worker.channel)
            if inbox in ready:
                for number in inbox.recv(64):
                    self._obey(number)
            self._bury()
            self._do_what_is_due()
        return self._status

    def _start(self) -> None:
        ours, theirs = _spawning.Pipe()
        end, their_end = new_channels()
        place = min(set(range(self._number)) - {worker.place for worker in self._workers})
        places = place, self._number
        process = _spawning.Process(
            target=work, args=(self._plan, self._listener, theirs, their_end, places), daemon=True
        )
        # a signal that comes before the worker knows what to make of it waits, for us and for the worker
        signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        theirs.close()
        their_end.close()
        channel = Channel(end)
        self._desk.open(channel)
        self._workers.append(_Worker(process, ours, channel, place, time.monotonic()))

    def _next_look(self) -> float | None:
        """Return how many seconds may pass before something is due that nobody tells; None: nothing is."""
        due = [] if (deadline := self._desk.next_deadline()) is None else [deadline]
        now = time.monotonic()
        if self._stopping:
            due.append(self._deadline)
        elif len(self._workers) < self._number:
            due.append(self._next_start)
        elif self._watch is not None:
            due.append(now + LOOK_SECONDS)
        return max(min(due) - now, 0.0) if due else None

    def _note_ready(self, ready: Collection[object]) -> None:
        for worker in self._workers:
            if worker.orders in ready:
                worker.ready = True
                self._served |= _says_ready(worker.orders)

    def _obey(self, number: int) -> None:
        if number == signal.SIGHUP and not self._terminal.gone():
            self._reload()
        elif number in PASSED_ON and self._stopping:
            self._order(HURRY, _LAST_SECONDS)
        elif number in PASSED_ON:
            self._stop()

    def _stop(self) -> None:
        self._stopping = True
        self._listener.close()
        self._order(STOP, self._plan.stop_timeout + _LAST_SECONDS)

    def _order(self, order: bytes, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        for worker in self._workers:
            try:
                os.write(worker.orders.fileno(), order)
            except OSError:
                continue  # it has ended already

    def _reload(self) -> None:
        if not self._stopping and self._application.read_again():
            self._order(RELOAD, 0.0)

    def _bury(self) -> None:
        for worker in [worker for worker in self._workers if not worker.process.is_alive()]:
            self._workers.remove(worker)
            worker.orders.close()
            self._desk.close(worker.channel)
            status = worker.process.exitcode or 0
            if self._stopping:
                continue
            if not self._served:
                self._status = FAILED_START
                self._stop()
                return
            how = f"by signal {-status}" if status < 0 else f"with status {status}"
            self._application.tell(f"Worker {worker.process.pid} ended {how}; another one takes its place.")
            self._next_start = max(self._next_start, worker.started_at + REPLACING_SECONDS)

    def _do_what_is_due(self) -> None:
        self._desk.do_what_is_due()
        now = time.monotonic()
        if self._stopping:
            if now >= self._deadline:
                for worker in self._workers:
                    worker.process.kill()
            return
        if len(self._workers) < self._number and now >= self._next_start:
            self._next_start = now + REPLACING_SECONDS if len(self._workers) + 1 < self._number else 0.0
            self._start()
        if self._watch is not None and now >= self._looked_at + LOOK_SECONDS:
            self._looked_at = now
            if self._watch.look():
                self._reload()


def work(plan: Plan, listener: socket.socket, orders: Connection, end: socket.socket, places: tuple[int, int]) -> None:
    """Serve as one of several workers: what a new process begins with. `places`: which of how many it is."""
    serve_behind(plan, orders, sockets=[listener], line=Line(Channel(end), *places), speaks=False)


def serve_behind(
    plan: Plan, orders: Connection, sockets: list[socket.socket], *, line: Line | None = None, speaks: bool = True
) -> None:
    """Serve behind a process that starts this one, and stop when it is gone."""
    try:
        Server(plan, sockets[0], orders=orders.fileno(), line=line, speaks=speaks).run()
    except ConfigurationError as error:
        print(f"✕ {error.message}", file=sys.stderr)
        sys.exit(FAILED_START)


def _wait(
    awaited: Sequence[socket.socket | Connection | int], channels: Sequence[Channel], seconds: float | None
) -> set[object]:
    """Return what can be read, and channels that can be written again, as soon as there is any or the time is over."""
    with selectors.DefaultSelector() as selector:
        for source in awaited:
            selector.register(source, selectors.EVENT_READ)
        for channel in channels:
            selector.register(channel, selectors.EVENT_READ | (selectors.EVENT_WRITE if channel.waiting else 0))
        return {key.fileobj for key, _ in selector.select(seconds)}


def _says_ready(orders: Connection) -> bool:
    try:
        return bool(os.read(orders.fileno(), 1))
    except OSError:
        return False


def _leave_it_to_the_descriptor(number: int, frame: object) -> None:
    """Do nothing: the descriptor that waits for signals says which one came."""
