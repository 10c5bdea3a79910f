"""Server process: opens the application, accepts connections, reloads settings, and stops after the running replies.

It is the only process of a server, or a worker under a supervisor (`workers/supervisor.py`).
"""

import asyncio
import os
import signal
import socket
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from typing import Protocol

import uvloop

from anthropic_proxy.log.in_progress import HEARTBEAT_INTERVAL_SECONDS, RequestsInProgress
from anthropic_proxy.platforms.heap import HeapTrimmer, retain_freed_memory
from anthropic_proxy.platforms.signals import exit_immediately, restore_sighup, unblock_signals
from anthropic_proxy.platforms.stop_signals import StopSignals, call_at_signal
from anthropic_proxy.platforms.terminal import MAX_TERMINAL_CHECKS, Terminal
from anthropic_proxy.server.file_watch import POLL_INTERVAL_SECONDS, FileWatch
from anthropic_proxy.server.http1.acceptor import Acceptor
from anthropic_proxy.server.http1.connection import Http1Connection
from anthropic_proxy.server.http1.lifecycle import HttpApplication, ServerState

CLOSE_GRACE_SECONDS = 3.0
"""Maximum time for replies that the stopping server cancels to send their error to the client."""
FLUSH_TIMEOUT_SECONDS = 2.0
"""Maximum time to send buffered output to clients at the stop. Afterwards their connections are aborted."""
EXIT_TIMEOUT_SECONDS = 5.0
"""Time after the end of serving at which the process exits even if a library's thread is still running."""
STOP_GRACE_SECONDS = CLOSE_GRACE_SECONDS + FLUSH_TIMEOUT_SECONDS + EXIT_TIMEOUT_SECONDS + 1.0
"""Time for a process to cancel its replies and exit, after `stop_timeout` or a second stop signal. A worker that needs
longer is killed. A process without a supervisor ends itself."""
EXIT_STARTUP_FAILED = 3
"""Exit status of a process that failed before it began to serve. uvicorn uses the same value."""
STOP_COMMAND, STOP_NOW_COMMAND, RELOAD_COMMAND, READY_REPLY = b"s", b"h", b"r", b"+"
"""Bytes on the control pipe. From supervisor to worker: stop after the running replies, cancel these replies, reload
the settings. From worker to supervisor: the worker has begun to serve."""
FORWARDED_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""Signals that the supervisor handles and sends to its workers as commands on the control pipe."""
_POLL_SECONDS = 0.02


class Peer(Protocol):
    """Exchange of statistics and observations with the other processes of a server (`workers/link.py`)."""

    in_progress: RequestsInProgress
    """Client requests in progress in this process, and the heartbeat of this process."""

    def open(self) -> None:
        """Start to exchange statistics and observations with the other processes.

        Called when this process begins to serve.
        """
        ...

    def close(self) -> None:
        """Send the last statistics of this process to the others, and end the exchange."""
        ...


class Application(HttpApplication, Protocol):
    """Interface of the ASGI application that a server process serves. `app.App` implements it."""

    async def start(self) -> None:
        """Open the services and transports that requests use. Called before the first request."""
        ...

    async def close(self) -> None:
        """Close the services and transports of the application. Called after the last request."""
        ...

    def log_warning(self, text: str) -> None:
        """Log a warning from the server, such as a limit of connections. API keys in the text are redacted."""
        ...

    def log_stopped(self) -> None:
        """Log that the server has stopped after a signal."""
        ...

    def flush(self) -> None:
        """Wait until all log lines are written, for at most a second."""
        ...

    @property
    def heap_trimmer(self) -> HeapTrimmer:
        """Trimmer that returns free heap memory of this process to the system."""
        ...

    @property
    def peer(self) -> Peer:
        """Exchange of statistics and observations with the other processes of the server."""
        ...

    async def reload_settings(self) -> None:
        """Read the settings again and use them for new requests. If they are invalid, the old settings stay active."""
        ...


class LoadApp(Protocol):
    """Function that builds the application. Each process calls it once. Picklable, so that a worker can receive it."""

    def __call__(self, *, address: str, logs_startup: bool = True) -> Application:
        """Return the application. `address`: URL of the server. `logs_startup`: log the start-up summary."""
        ...


@dataclass(frozen=True)
class ServerConfig:
    """Configuration that all processes of a server share. Picklable, so that a worker can receive it."""

    address: str
    """URL of the server: `http://127.0.0.1:8082`."""
    stop_timeout_seconds: float
    """Seconds for running replies to finish after a stop signal. Afterwards they end with an error."""
    watched_file: str | None = None
    """Path of the settings file; a change reloads the settings. None: no file is watched."""
    heartbeat_timeout_seconds: float = 30.0
    """Seconds without a heartbeat after which the supervisor kills and replaces a worker."""


class ServerProcess:
    """Server of one listening socket, in the current process, until a signal or the supervisor stops it.

    `control`: file descriptor of the pipe for commands from a supervisor; a closed pipe is a command to stop.
    None: no supervisor. `logs_startup`: log the start-up summary and watch the settings file.
    """

    def __init__(
        self,
        load_app: LoadApp,
        config: ServerConfig,
        listener: socket.socket,
        *,
        control: int | None = None,
        logs_startup: bool = True,
    ) -> None:
        self._load_app = load_app
        self._config = config
        self._listener = listener
        self._control = control
        self._logs_startup = logs_startup
        self._terminal = Terminal()
        self._reloading: asyncio.Task[None] | None = None
        self._reload_again = self._serving = False

    def run(self) -> None:
        """Serve client requests until a signal or the supervisor stops the process, then return.

        A failed start-up exits with `EXIT_STARTUP_FAILED` or raises `ConfigurationError`.
        """
        signal.signal(signal.SIGTERM, exit_immediately)  # until the event loop handles signals
        if self._control is not None:  # a terminal signals all of its processes; the supervisor forwards the signal
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            unblock_signals(FORWARDED_SIGNALS)
        retain_freed_memory()
        self._app = self._load_app(address=self._config.address, logs_startup=self._logs_startup)
        self._state = ServerState(self._app, heap_trimmer=self._app.heap_trimmer)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        self._stopping, self._hurrying = asyncio.Event(), asyncio.Event()
        self._install_signal_handlers(loop)
        self._tick(loop)
        await self._start_application()
        self._listener.setblocking(False)
        new_protocol = partial(Http1Connection, self._state)
        acceptor = Acceptor(self._listener, new_protocol, self._state.connections, self._app.log_warning)
        acceptor.start()
        watch_task = loop.create_task(self._watch_file()) if self._config.watched_file and self._logs_startup else None
        self._app.peer.open()
        if self._control is not None:
            os.write(self._control, READY_REPLY)
        self._serving = True
        if self._reload_again:
            self._end_reload()
        await self._stopping.wait()
        await acceptor.close()
        if watch_task is not None:
            watch_task.cancel()
        await self._drain()
        await self._app.close()
        if self._control is None:
            self._app.log_stopped()
        self._app.peer.close()
        self._signals.uninstall()
        _exit_after_timeout()

    async def _start_application(self) -> None:
        """Start the application. A stop signal during the start ends the process at once: no request is served yet.

        An exception of the start is printed, and exits with `EXIT_STARTUP_FAILED`.
        """
        starting, stopping = asyncio.ensure_future(self._app.start()), asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            exit_immediately()
        stopping.cancel()
        if (error := starting.exception()) is not None:
            traceback.print_exception(error)
            sys.exit(EXIT_STARTUP_FAILED)

    def _install_signal_handlers(self, loop: asyncio.AbstractEventLoop) -> None:
        """Install handlers of SIGTERM, SIGINT and SIGHUP or, under a supervisor, of its commands and SIGTERM."""
        stop, numbers = self._stop, [signal.SIGTERM, signal.SIGINT]
        if self._control is not None:
            stop, numbers = self._stopping.set, [signal.SIGTERM]
        patience = self._config.stop_timeout_seconds
        self._signals = StopSignals(stop, self._report_blocked, patience=patience, total=patience + STOP_GRACE_SECONDS)
        self._signals.install(loop, numbers)
        if self._control is None:
            call_at_signal(signal.SIGHUP, loop, self._handle_hangup)
            restore_sighup()
        else:
            loop.add_reader(self._control, self._read_commands)

    def _report_blocked(self) -> None:
        requests = self._app.peer.in_progress.describe()
        self._app.log_warning(
            f"Ended at once, because the event loop did not respond. In progress: {requests or 'nothing'}."
        )
        self._app.flush()

    def _stop(self) -> None:
        (self._hurrying if self._stopping.is_set() else self._stopping).set()

    def _handle_hangup(self) -> None:
        if self._terminal.is_closed():
            self._stop()
        else:
            self._reload()
            self._check_terminal_again(MAX_TERMINAL_CHECKS)

    def _check_terminal_again(self, times: int) -> None:
        """Stop the server if the terminal closes within `times` seconds. SIGHUP then was no request to reload."""
        asyncio.get_running_loop().call_later(1.0, self._check_terminal, times - 1)

    def _check_terminal(self, left: int) -> None:
        if self._terminal.is_closed():
            self._stopping.set()
        elif left:
            self._check_terminal_again(left)

    def _read_commands(self) -> None:
        assert self._control is not None
        try:
            commands = os.read(self._control, 64)
        except OSError:  # the supervisor has ended
            commands = b""
        if not commands:
            asyncio.get_running_loop().remove_reader(self._control)
        if not commands or STOP_COMMAND in commands:
            self._stopping.set()
        if STOP_NOW_COMMAND in commands:
            self._hurrying.set()
        if RELOAD_COMMAND in commands:
            self._reload()

    def _reload(self) -> None:
        if self._reloading is not None or not self._serving:
            self._reload_again = True
            return
        self._reloading = asyncio.get_running_loop().create_task(self._app.reload_settings())
        self._reloading.add_done_callback(self._end_reload)

    def _end_reload(self, reloading: "asyncio.Task[None] | None" = None) -> None:
        self._reloading = None
        if self._reload_again:
            self._reload_again = False
            self._reload()

    async def _watch_file(self) -> None:
        assert self._config.watched_file is not None
        watch = FileWatch(self._config.watched_file)
        while True:
            await asyncio.sleep(POLL_INTERVAL_SECONDS)
            if await asyncio.to_thread(watch.has_changed):
                self._reload()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Set the header `date`, trim the heap if due and write a heartbeat. Calls itself every second."""
        self._state.default_headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]
        self._state.heap_trimmer.trim_if_due(loop.time())
        self._app.peer.in_progress.write_heartbeat()
        loop.call_later(HEARTBEAT_INTERVAL_SECONDS, self._tick, loop)

    async def _drain(self) -> None:
        """Wait up to `stop_timeout` for running replies, cancel the others, and close all client connections.

        A cancelled reply sends an error to its client first.
        """
        state, limit = self._state, self._config.stop_timeout_seconds
        for connection in list(state.connections):
            connection.close_after_responses()
        await self._wait_idle(limit, self._hurrying)
        if state.request_tasks:
            waited = "at the second signal" if self._hurrying.is_set() else f"after {limit:g} s (STOP_TIMEOUT)"
            self._app.log_warning(
                f"{len(state.request_tasks)} replies were not complete {waited}: they end with an error."
            )
            await self._cancel_replies()
        await self._wait_idle(FLUSH_TIMEOUT_SECONDS)
        for connection in list(state.connections):
            connection.transport.abort()

    async def _wait_idle(self, seconds: float, cut_short: asyncio.Event | None = None) -> None:
        deadline = time.monotonic() + seconds
        while (self._state.connections or self._state.request_tasks) and time.monotonic() < deadline:
            if cut_short is not None and cut_short.is_set():
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _cancel_replies(self) -> None:
        deadline = time.monotonic() + CLOSE_GRACE_SECONDS
        cancelled: set[asyncio.Task[None]] = set()
        while self._state.request_tasks and time.monotonic() < deadline:
            await asyncio.sleep(0)  # a task that has not begun could not send an error
            for task in self._state.request_tasks - cancelled:
                task.cancel()
                cancelled.add(task)
            await asyncio.sleep(_POLL_SECONDS)


def _exit_after_timeout() -> None:
    timer = threading.Timer(EXIT_TIMEOUT_SECONDS, os._exit, [0])
    timer.daemon = True
    timer.start()
