"""Supervisor process of several workers that share one listening socket (`anthropic-proxy serve --workers`).

It starts, replaces and stops the workers, forwards signals to them as commands, and runs the hub. It serves no client
request. A worker without heartbeats is killed and replaced.

Each new worker process runs `run_worker`. With automatic reload for developers, uvicorn's supervisor runs
`serve_supervised` directly, and restarts the process when the code changes.
"""

import selectors
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Protocol

from anthropic_proxy.engine.platforms.files import WATCH_INTERVAL_SECONDS, FileWatch
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.platforms.processes import exit_handles
from anthropic_proxy.gateway.platforms.signals import RELOAD_SIGNAL, SUPERVISOR_SIGNALS, blocked_signals
from anthropic_proxy.gateway.platforms.terminal import MAX_TERMINAL_CHECKS, Terminal
from anthropic_proxy.gateway.server.process import (
    EXIT_ROWS_LOST,
    EXIT_STARTUP_FAILED,
    RELOAD_COMMAND,
    STOP_COMMAND,
    STOP_GRACE_SECONDS,
    STOP_NOW_COMMAND,
    Application,
    LoadApp,
    ServerConfig,
    ServerProcess,
)
from anthropic_proxy.gateway.settings import python_safe_path_for_workers, remove_python_safe_path
from anthropic_proxy.gateway.telemetry.requests import (
    HEARTBEAT_INTERVAL_SECONDS,
    SHARED_MEMORY_BYTES,
    describe_requests,
    read_heartbeat_count,
)
from anthropic_proxy.gateway.workers.hub import Hub
from anthropic_proxy.gateway.workers.ipc import IpcChannel
from anthropic_proxy.gateway.workers.link import WorkerLink, WorkerPeer, new_server_id

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class WorkerApplication(Application, Protocol):
    """Interface of an application that one or several server processes can serve. `app.App` implements it."""

    @property
    def peer(self) -> WorkerPeer: ...

    async def log_startup(self, worker_count: int) -> None: ...

    def remove_record(self) -> None:
        """The record by which commands find the server."""
        ...

    def check_settings(self) -> bool:
        """Log the changes. Return False if the settings are invalid."""
        ...


class LoadWorkerApp(Protocol):
    """Function that builds the application. Each server process, also the supervisor, calls it once. The function can
    be pickled, so that a new worker process can receive it.
    """

    def __call__(self, *, address: str, logs_startup: bool = True, link: WorkerLink | None = None) -> WorkerApplication:
        """`link` is the worker's connection to the hub, None in the supervisor or the only server process."""
        ...


@dataclass(frozen=True)
class SupervisorConnection:
    """Connection of a worker with its supervisor. Picklable only while it is passed to a new worker process."""

    control: socket.socket
    """Socket for commands of the supervisor, and for the worker's reply that it has begun to serve."""
    channel: socket.socket
    board: "WriteableBuffer"
    server_id: str


def run_worker(
    load_app: LoadWorkerApp,
    config: ServerConfig,
    listener: socket.socket,
    supervisor: SupervisorConnection,
    worker_index_and_count: tuple[int, int],
) -> None:
    board = memoryview(supervisor.board).cast("B")
    link = WorkerLink(IpcChannel(supervisor.channel), board, *worker_index_and_count, supervisor.server_id)
    serve_supervised(partial(load_app, link=link), config, supervisor.control, sockets=[listener], logs_startup=False)


def serve_supervised(
    load_app: LoadApp,
    config: ServerConfig,
    control_socket: socket.socket,
    sockets: list[socket.socket],
    *,
    logs_startup: bool = True,
) -> None:
    """Return when the supervisor commands it or ends. An invalid setting exits with `EXIT_STARTUP_FAILED`."""
    remove_python_safe_path()
    try:
        ServerProcess(load_app, config, sockets[0], control=control_socket, logs_startup=logs_startup).run()
    except ConfigurationError as error:
        for message in error.messages:
            print(f"✕ {message}", file=sys.stderr)
        sys.exit(EXIT_STARTUP_FAILED)


MIN_RESTART_INTERVAL_SECONDS = 1.0
MAX_MISSED_HEARTBEATS = 3
"""Number of successive missed heartbeats (one is due each second) after which a worker is killed while the server
stops."""
_spawning = get_context("spawn")


@dataclass
class _Worker:
    process: BaseProcess
    control: socket.socket
    channel: IpcChannel
    index: int
    started_at: float
    """Seconds of the monotonic clock."""
    board: memoryview
    ready: bool = False
    """True if the worker has begun to serve, or a start-up error of the worker was already handled."""
    beats: int = 0
    missed: int = 0
    """Number of checks (one each second) since the last heartbeat. Not a time, because clocks advance while a machine
    is suspended."""
    killed: bool = False


class Supervisor:
    """Parent process of the workers.

    `application` is the supervisor's own application, which checks new settings and writes the log.
    """

    def __init__(
        self,
        load_app: LoadWorkerApp,
        config: ServerConfig,
        listener: socket.socket,
        worker_count: int,
        application: WorkerApplication,
    ) -> None:
        self._load_app = load_app
        self._config = config
        self._listener = listener
        self._worker_count = worker_count
        self._application = application
        self._server_id = new_server_id()
        self._hub = Hub(application.peer)
        self._workers: list[_Worker] = []
        self._any_served = False
        """True if any worker has begun to serve. Before that, an ended worker stops the whole server."""
        self._stopping = False
        self._deadline = 0.0
        """Monotonic time at which all remaining workers are killed, while the server stops."""
        self._stop_at = 0.0
        """Monotonic time from which `MAX_MISSED_HEARTBEATS` applies, while the server stops."""
        self._next_check = 0.0
        self._next_start = 0.0
        self._status = 0
        self._terminal = Terminal()
        self._terminal_checks = 0
        """Remaining checks, one a second, whether the terminal has closed after a SIGHUP."""
        self._file_watch = FileWatch(config.watched_files) if config.watched_files else None
        self._polled_at = 0.0
        self._inbox, self._outbox = socket.socketpair()
        """Numbers of signals, and 0 when new settings have been checked."""
        self._is_checking = False
        """True while a thread checks new settings, which may run commands that write keys. The hub must not wait."""
        self._settings_are_valid: bool | None = None
        """Result of that check, set by the thread."""
        self._reload_again = False

    def run(self) -> int:
        """Return the exit status: `EXIT_STARTUP_FAILED` if a worker ended before any worker began to serve,
        `EXIT_ROWS_LOST` if one ended with it.
        """
        self._inbox.setblocking(False)
        self._outbox.setblocking(False)
        for forwarded in SUPERVISOR_SIGNALS:
            signal.signal(forwarded, lambda number, frame: None)  # `set_wakeup_fd` delivers the number
        signal.set_wakeup_fd(self._outbox.fileno(), warn_on_full_buffer=False)
        for _ in range(self._worker_count):
            self._start()
        while self._workers or not self._stopping:
            with selectors.DefaultSelector() as selector:
                selector.register(self._inbox, selectors.EVENT_READ)
                for worker in self._workers:
                    for handle in exit_handles(worker.process):
                        selector.register(handle, selectors.EVENT_READ)
                    if not worker.ready:
                        selector.register(worker.control, selectors.EVENT_READ)
                for channel in self._hub.channels:
                    events = selectors.EVENT_READ | (selectors.EVENT_WRITE if channel.has_unsent else 0)
                    selector.register(channel, events)
                ready = {key.fileobj for key, _ in selector.select(self._next_deadline())}
            for worker in self._workers:
                if worker.control in ready:
                    worker.ready = True
                    with suppress(OSError):  # the worker has ended
                        self._any_served |= bool(worker.control.recv(1))
                if worker.channel in ready:
                    worker.channel.flush()
                    self._hub.receive_from(worker.channel)
            if self._hub.reload_requested:
                self._hub.reload_requested = False
                self._reload()
            if self._inbox in ready:
                for number in self._inbox.recv(64):
                    if number == RELOAD_SIGNAL and not self._terminal.is_closed():
                        self._reload()
                        self._terminal_checks = MAX_TERMINAL_CHECKS
                    elif number in SUPERVISOR_SIGNALS and self._stopping:
                        self._stop_at = time.monotonic()
                        self._send_control(STOP_NOW_COMMAND, STOP_GRACE_SECONDS)
                    elif number in SUPERVISOR_SIGNALS:
                        self._stop()
            if (are_valid := self._settings_are_valid) is not None:
                self._settings_are_valid, self._is_checking = None, False
                if are_valid and not self._stopping:
                    self._send_control(RELOAD_COMMAND, 0.0)
                if self._reload_again:
                    self._reload_again = False
                    self._reload()
            self._reap_exited()
            self._run_due_tasks()
        if self._status != EXIT_STARTUP_FAILED:
            self._application.log_line_and_flush("Stopped.")
        return self._status

    def _start(self) -> None:
        control, worker_control = socket.socketpair()
        end, worker_end = socket.socketpair()
        board = _spawning.RawArray("B", SHARED_MEMORY_BYTES)
        index = min(set(range(self._worker_count)) - {worker.index for worker in self._workers})
        connection = SupervisorConnection(worker_control, worker_end, board, self._server_id)
        process = _spawning.Process(
            target=run_worker,
            args=(self._load_app, self._config, self._listener, connection, (index, self._worker_count)),
            daemon=True,
        )
        # the worker receives the signals after it has installed handlers
        with blocked_signals(SUPERVISOR_SIGNALS), python_safe_path_for_workers():
            process.start()
        worker_control.close()
        worker_end.close()
        channel = IpcChannel(end)
        self._hub.add_worker(channel)
        shared = memoryview(board).cast("B")
        self._workers.append(_Worker(process, control, channel, index, time.monotonic(), shared))

    def _next_deadline(self) -> float | None:
        """Return the seconds until the next task of the supervisor that needs no event, such as a restart."""
        due = [] if (deadline := self._hub.next_query_deadline()) is None else [deadline]
        now = time.monotonic()
        due.append(self._next_check)
        if self._stopping:
            due.append(self._deadline)
        elif len(self._workers) < self._worker_count:
            due.append(self._next_start)
        elif self._file_watch is not None:
            due.append(now + WATCH_INTERVAL_SECONDS)
        return max(min(due) - now, 0.0) if due else None

    def _stop(self) -> None:
        self._stopping = True
        self._listener.close()
        self._stop_at = time.monotonic() + self._config.max_stop_seconds - STOP_GRACE_SECONDS
        self._send_control(STOP_COMMAND, self._config.max_stop_seconds)

    def _send_control(self, command: bytes, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        for worker in self._workers:
            try:
                worker.control.send(command)
            except OSError:
                continue  # the worker has ended

    def _reload(self) -> None:
        if self._stopping:
            return
        if self._is_checking:
            self._reload_again = True
            return

        def check() -> None:
            are_valid = False
            try:
                are_valid = self._application.check_settings()
            finally:
                self._settings_are_valid = are_valid
                with suppress(OSError):  # full of signals, which wake the loop too
                    self._outbox.send(b"\0")

        self._is_checking = True
        threading.Thread(target=check, daemon=True).start()

    def _reap_exited(self) -> None:
        for worker in [worker for worker in self._workers if not worker.process.is_alive()]:
            self._workers.remove(worker)
            worker.control.close()
            self._hub.remove_worker(worker.channel)
            status = worker.process.exitcode or 0
            self._next_start = max(self._next_start, worker.started_at + MIN_RESTART_INTERVAL_SECONDS)
            if self._stopping and status == EXIT_ROWS_LOST:
                self._status = self._status or status
            if self._stopping or worker.killed:
                continue
            if not self._any_served:
                self._status = EXIT_STARTUP_FAILED
                self._stop()
                return
            cause = f"by signal {-status}" if status < 0 else f"with status {status}"
            self._application.log_warning(f"Worker {worker.process.pid} ended {cause}; a new one replaces it.")

    def _run_due_tasks(self) -> None:
        self._hub.answer_due_queries()
        now = time.monotonic()
        if now >= self._next_check:
            self._next_check = now + HEARTBEAT_INTERVAL_SECONDS
            # missed heartbeats show a blocked event loop
            limit = self._config.heartbeat_timeout_seconds
            if self._stopping and now >= self._stop_at:
                limit = min(limit, MAX_MISSED_HEARTBEATS * HEARTBEAT_INTERVAL_SECONDS)
            for worker in self._workers:
                beats = read_heartbeat_count(worker.board)
                worker.missed = worker.missed + 1 if beats == worker.beats and beats else 0
                worker.beats = beats
                if worker.missed * HEARTBEAT_INTERVAL_SECONDS >= limit and not worker.killed:
                    worker.killed = True
                    worker.process.kill()
                    self._application.log_warning(
                        f"Worker {worker.process.pid} did not respond for "
                        f"{worker.missed * HEARTBEAT_INTERVAL_SECONDS:g} s and was "
                        f"killed{'' if self._stopping else '; a new one replaces it'}. "
                        f"In progress: {describe_requests(worker.board) or 'nothing'}."
                    )
            if self._terminal_checks and not self._stopping:
                self._terminal_checks -= 1
                if self._terminal.is_closed():
                    self._stop()
        if self._stopping:
            if now >= self._deadline:
                for worker in self._workers:
                    worker.process.kill()
            return
        if len(self._workers) < self._worker_count and now >= self._next_start:
            self._next_start = (
                now + MIN_RESTART_INTERVAL_SECONDS if len(self._workers) + 1 < self._worker_count else 0.0
            )
            self._start()
        if self._file_watch is not None and now >= self._polled_at + WATCH_INTERVAL_SECONDS:
            self._polled_at = now
            if self._file_watch.has_changed():
                self._reload()
