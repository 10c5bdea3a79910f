"""Server process: it opens the application, accepts connections, reloads settings, and stops after the running replies.

A `ServerProcess` is the whole server, or one of several workers under a supervisor process. It differs in the source of
its orders: signals, or bytes on the socket to the supervisor. A stop has these steps, and a second signal ends each
wait: requests are still accepted for the drain delay, the listening socket is closed, running replies may end within
the stop timeout, the remaining ones are cancelled and send an error, and the application is closed.
"""

import asyncio
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

from msgspec import Struct, structs

from anthropic_proxy.engine.exchange.client_side import format_http_date
from anthropic_proxy.engine.memory_plan import MemoryPlan
from anthropic_proxy.engine.platforms.files import FileWatch
from anthropic_proxy.gateway.platforms.heap import HeapTrimmer, retain_freed_memory
from anthropic_proxy.gateway.platforms.signals import (
    INTERACTIVE_SIGNALS,
    RELOAD_SIGNAL,
    STOP_SIGNALS,
    SUPERVISOR_SIGNALS,
    StopSignals,
    add_signal_callback,
    exit_immediately,
    new_event_loop,
    restore_sighup,
    unblock_signals,
)
from anthropic_proxy.gateway.platforms.sockets import SocketEvents
from anthropic_proxy.gateway.platforms.terminal import MAX_TERMINAL_CHECKS, Terminal
from anthropic_proxy.gateway.server.http1.acceptor import Acceptor
from anthropic_proxy.gateway.server.http1.connection import Http1Connection, HttpApplication, ServerState
from anthropic_proxy.gateway.server.http1.held_bytes import GRACE_SECONDS, UNREAD, HeldBytes
from anthropic_proxy.gateway.server.listener import ServerTls, call_after_changes
from anthropic_proxy.gateway.telemetry.requests import HEARTBEAT_INTERVAL_SECONDS, RunningRequests

CLOSE_GRACE_SECONDS = 3.0
"""Maximum seconds in which the stopping server sends an error to clients with a cancelled reply."""
FLUSH_TIMEOUT_SECONDS = 2.0
"""Maximum seconds to send buffered bytes to clients when the server stops. Then their connections are aborted."""
EXIT_TIMEOUT_SECONDS = 5.0
"""Seconds after the end of serving at which the process exits, even if a thread of a library is still running."""
STOP_GRACE_SECONDS = CLOSE_GRACE_SECONDS + FLUSH_TIMEOUT_SECONDS + EXIT_TIMEOUT_SECONDS + 1.0
"""Maximum seconds for a process to cancel its replies and exit. The supervisor kills a slower worker."""
EXIT_STARTUP_FAILED = 3
"""Exit status of a process that failed before the beginning of serving. uvicorn uses the same value."""
EXIT_ROWS_LOST = 1
"""Exit status of a process at whose end neither the ledger nor its file took the last requests."""
STOP_COMMAND, STOP_NOW_COMMAND, RELOAD_COMMAND, READY_REPLY = b"s", b"h", b"r", b"+"
"""Bytes on the socket: three commands of the supervisor, and the reply of a worker that has begun to serve."""
_POLL_SECONDS = 0.02


class Peer(Protocol):
    """With this interface, one server process exchanges statistics and observed facts with the others. A fact is, for
    example, that an API key is in cooldown.
    """

    running: RunningRequests

    @property
    def worker_index_and_count(self) -> tuple[int, int]:
        """Index of this worker process, from 0, and the number of all workers."""
        ...

    def start_reports(self) -> None:
        """Called when this process begins to serve."""
        ...

    def end_live_request_streams(self) -> None:
        """End the streams in which users watch live requests. They would delay the stop of the server."""
        ...

    def close(self) -> None: ...


class Application(HttpApplication, Protocol):
    """Interface of the ASGI application of the proxy, as the server uses it. `app.App` implements it."""

    async def start(self) -> None:
        """Called before the first request."""
        ...

    async def close(self) -> bool:
        """Return False if the last requests are neither in the ledger nor in its file."""
        ...

    def log_warning(self, text: str) -> None:
        """Keys in `text` are redacted."""
        ...

    def log_line_and_flush(self, text: str) -> None:
        """Wait at most one second until all log lines are written."""
        ...

    def flush_log(self) -> None: ...

    @property
    def heap_trimmer(self) -> HeapTrimmer: ...

    @property
    def memory(self) -> MemoryPlan:
        """What the parts of this process may use."""
        ...

    @property
    def peer(self) -> Peer: ...

    async def reload_settings(self) -> None:
        """Read the settings again and use them for new requests. If they are invalid, the current settings are kept."""
        ...


class LoadApp(Protocol):
    """Function that builds the application. Each server process calls it once. The function must be picklable, because
    a new worker process receives it from the supervisor.
    """

    def __call__(self, *, address: str, logs_startup: bool = True) -> Application:
        """Return the application of this process.

        `address`: URL of the server. `logs_startup`: log the start-up summary.
        """
        ...


class ServerConfig(Struct, frozen=True):
    """Configuration that all processes of a server share. Picklable, so that a worker can receive it."""

    address: str
    """URL of the server: `http://127.0.0.1:8082`."""
    stop_timeout_seconds: float
    """Seconds for running replies to finish after a stop signal. Afterwards they end with an error."""
    drain_delay_seconds: float = 0.0
    """Seconds after a stop signal in which requests are still accepted and `/readyz` returns 503. 0: none."""
    tls_files: tuple[str, str] | None = None
    """PEM files of certificate and key; the second one is "" if the first one contains both. None: no TLS."""
    watched_files: Sequence[str] = ()
    """Paths of the settings files. A change of one reloads the settings. Empty: no file is watched."""
    heartbeat_timeout_seconds: float = 30.0
    """Seconds without a heartbeat after which the supervisor replaces a worker."""

    @property
    def max_stop_seconds(self) -> float:
        """Maximum seconds that the process needs to exit after a stop signal."""
        return self.drain_delay_seconds + self.stop_timeout_seconds + STOP_GRACE_SECONDS


class ServerProcess:
    """HTTP server in this process, which serves one listening socket until a signal or the supervisor stops it.
    `control` is the socket to the supervisor process. None: this process is the whole server and has no supervisor.
    """

    def __init__(
        self,
        load_app: LoadApp,
        config: ServerConfig,
        listener: socket.socket,
        *,
        control: socket.socket | None = None,
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
        """A failed start-up exits with `EXIT_STARTUP_FAILED` or raises `ConfigurationError`."""
        signal.signal(signal.SIGTERM, exit_immediately)  # until the event loop handles signals
        if self._control is not None:  # a terminal signals all of its processes; the supervisor forwards the signal
            for number in INTERACTIVE_SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            unblock_signals(SUPERVISOR_SIGNALS)
        retain_freed_memory()
        self._app = self._load_app(address=self._config.address, logs_startup=self._logs_startup)
        self._tls: ServerTls | None = None
        if self._config.tls_files is not None:
            logs = self._app.peer.worker_index_and_count[0] == 0  # all workers read the same files
            log_line, log_warning = self._app.log_line_and_flush, self._app.log_warning
            self._tls = ServerTls(*self._config.tls_files, log_line if logs else None, log_warning if logs else None)
        self._state = ServerState(
            self._app,
            heap_trimmer=self._app.heap_trimmer,
            unread=HeldBytes(structs.replace(UNREAD, places=self._app.memory.unread_bytes), GRACE_SECONDS),
        )
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        self._stopping, self._hurrying = asyncio.Event(), asyncio.Event()
        stop = self._stop
        numbers = STOP_SIGNALS
        if self._control is not None:
            stop = self._stopping.set
            numbers = STOP_SIGNALS - INTERACTIVE_SIGNALS
        self._signals = StopSignals(
            stop,
            self._report_blocked,
            loop_timeout=self._config.stop_timeout_seconds,
            exit_timeout=self._config.max_stop_seconds,
        )
        self._signals.install(loop, numbers)
        if self._control is None:
            if RELOAD_SIGNAL is not None:
                add_signal_callback(RELOAD_SIGNAL, loop, self._handle_hangup)
            restore_sighup()
        else:
            self._control.setblocking(False)
            self._socket_events = SocketEvents(loop)
            self._socket_events.on_readable(self._control, self._read_commands)
        self._tick(loop)
        starting, stopping = asyncio.ensure_future(self._app.start()), asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            exit_immediately()
        stopping.cancel()
        if (error := starting.exception()) is not None:
            traceback.print_exception(error)
            sys.exit(EXIT_STARTUP_FAILED)
        self._listener.setblocking(False)
        new_protocol = partial(Http1Connection, self._state)
        acceptor = Acceptor(
            self._listener,
            new_protocol,
            self._state,
            self._app.log_warning,
            lambda: None if self._tls is None else self._tls.context,
            max_connections=self._app.memory.connections,
        )
        acceptor.start()
        files = self._config.watched_files if self._logs_startup else ()
        watches = [call_after_changes(FileWatch(files), self._reload)] if files else []
        if self._tls is not None:
            watches.append(call_after_changes(self._tls.file_watch, self._tls.reload))
        watch_tasks = [loop.create_task(watch) for watch in watches]
        self._app.peer.start_reports()
        if self._control is not None:
            self._control.send(READY_REPLY)
        self._serving = True
        if self._reload_again:
            self._end_reload()
        await self._stopping.wait()
        self._app.peer.running.draining = self._state.draining = True
        if delay := self._config.drain_delay_seconds:
            if self._control is None:
                self._app.log_line_and_flush(
                    f"Stopping in {delay:g} s (DRAIN_DELAY). Requests are accepted meanwhile; /readyz is 503."
                )
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurrying.wait(), delay)
        await acceptor.close()
        for task in watch_tasks:
            task.cancel()
        self._app.peer.end_live_request_streams()
        limit = self._config.stop_timeout_seconds
        await end_connections(self._state, limit, self._hurrying, self._app.log_warning)
        status = 0 if await self._app.close() else EXIT_ROWS_LOST
        if self._control is None:
            self._app.log_line_and_flush("Stopped.")
        self._app.peer.close()
        self._signals.cancel_timers()
        timer = threading.Timer(EXIT_TIMEOUT_SECONDS, os._exit, [status])
        timer.daemon = True
        timer.start()
        if status:
            sys.exit(status)

    def _report_blocked(self) -> None:
        requests = self._app.peer.running.describe()
        self._app.log_warning(
            f"Ended at once, because the event loop did not respond. In progress: {requests or 'nothing'}."
        )
        self._app.flush_log()

    def _stop(self) -> None:
        (self._hurrying if self._stopping.is_set() else self._stopping).set()

    def _handle_hangup(self) -> None:
        if self._terminal.is_closed():
            self._stop()
        else:
            self._reload()
            asyncio.get_running_loop().call_later(1.0, self._check_terminal, MAX_TERMINAL_CHECKS - 1)

    def _check_terminal(self, times_left: int) -> None:
        """Stop the server if its terminal has closed, else check again: a shell sends SIGHUP before it closes."""
        if self._terminal.is_closed():
            self._stopping.set()
        elif times_left:
            asyncio.get_running_loop().call_later(1.0, self._check_terminal, times_left - 1)

    def _read_commands(self) -> None:
        assert self._control is not None
        try:
            commands = self._control.recv(64)
        except BlockingIOError:
            return
        except OSError:  # the supervisor has ended
            commands = b""
        if not commands:
            self._socket_events.ignore_readable(self._control)
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
        if self._tls is not None:
            self._tls.reload()
        self._reloading = asyncio.get_running_loop().create_task(self._app.reload_settings())
        self._reloading.add_done_callback(self._end_reload)

    def _end_reload(self, reloading: asyncio.Task[None] | None = None) -> None:
        self._reloading = None
        if self._reload_again:
            self._reload_again = False
            self._reload()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Update the header `date`, free memory if due, and write a heartbeat. Each call schedules the next, once a
        second.
        """
        self._state.default_headers = f"date: {format_http_date(time.time())}\r\n".encode()
        self._state.heap_trimmer.trim_if_due(loop.time())
        self._app.peer.running.write_heartbeat()
        loop.call_later(HEARTBEAT_INTERVAL_SECONDS, self._tick, loop)


async def end_connections(
    state: ServerState, seconds: float, stop_now: asyncio.Event, log_warning: Callable[[str], None]
) -> None:
    """Wait up to `seconds` for running replies, then cancel the remaining ones. `stop_now` ends the wait early."""
    for connection in list(state.connections):
        connection.close_after_responses()
    await _wait_idle(state, seconds, stop_now)
    if state.request_tasks:
        waited = "at the second signal" if stop_now.is_set() else f"after {seconds:g} s (STOP_TIMEOUT)"
        log_warning(f"{len(state.request_tasks)} replies were not complete {waited}: they end with an error.")
        deadline = time.monotonic() + CLOSE_GRACE_SECONDS
        cancelled: set[asyncio.Task[None]] = set()
        while state.request_tasks and time.monotonic() < deadline:
            await asyncio.sleep(0)  # a task that has not begun could not send an error
            for task in state.request_tasks - cancelled:
                task.cancel()
                cancelled.add(task)
            await asyncio.sleep(_POLL_SECONDS)
    await _wait_idle(state, FLUSH_TIMEOUT_SECONDS)
    for connection in list(state.connections):
        connection.transport.abort()


async def _wait_idle(state: ServerState, seconds: float, cut_short: asyncio.Event | None = None) -> None:
    deadline = time.monotonic() + seconds
    while (state.connections or state.request_tasks) and time.monotonic() < deadline:
        if cut_short is not None and cut_short.is_set():
            return
        await asyncio.sleep(_POLL_SECONDS)
