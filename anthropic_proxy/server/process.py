"""One process that serves: it takes connections, reads settings again when asked, and ends without tearing a reply."""

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from typing import Any, Protocol

import uvicorn
import uvloop
from uvicorn.server import ServerState

from anthropic_proxy.errors import ProxyError
from anthropic_proxy.memory import SLACK, keep_freed
from anthropic_proxy.server.acceptor import Acceptor
from anthropic_proxy.server.desk import Counting
from anthropic_proxy.server.line import Line, Member
from anthropic_proxy.server.protocol import GuardedHttp
from anthropic_proxy.server.watching import LOOK_SECONDS, FileWatch, Terminal
from anthropic_proxy.signals import leave, let_through

KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep an idle connection (60 s), so that they, not we, close it: nothing is lost between."""
ENDING_SECONDS = 3.0
"""How long replies that are ended may take to say so."""
FLUSH_SECONDS = 2.0
"""How long what was written may take to leave."""
EXIT_SECONDS = 5.0
"""After which a process ends whatever still runs in it: a library's thread that waits for somebody."""
FAILED_START = 3
"""Exit status of a process that could not begin to serve."""
STOP, HURRY, RELOAD, READY = b"s", b"h", b"r", b"+"
"""What the process in front of the workers orders, and what they answer."""
PASSED_ON = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
_POLL_SECONDS = 0.02


class Crew(Member, Counting, Protocol):
    """Counts and learns, as one of several processes or as the one in front of them."""

    def join(self, line: Line) -> None:
        """Be one of several, before the application starts."""
        ...


class Application(Protocol):
    """What is served."""

    async def announce(self, workers: int) -> None:
        """Say what start-up says, on behalf of so many processes."""
        ...

    def tell(self, text: str) -> None:
        """Write a line about what is not as it should be."""
        ...

    def note_refusal(self, error: ProxyError) -> str:
        """Write the line of a request that could not be read, and return its id."""
        ...

    def read_again(self) -> bool:
        """Read the settings anew on behalf of the processes that serve; False: they are wrong and nothing changes."""
        ...

    @property
    def crew(self) -> Crew:
        """What it has in common with the other processes."""
        ...

    async def reload(self) -> None:
        """Read the settings anew and serve new requests by them."""
        ...

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one ASGI scope."""
        ...


class LoadApp(Protocol):
    """Makes the application, once a process; it must be picklable."""

    def __call__(self, *, address: str, announces: bool = True) -> Application:
        """`address`: where it is reached; `announces`: whether it says itself what start-up says."""
        ...


@dataclass(frozen=True)
class Plan:
    """What every process of a server is told; picklable."""

    load_app: LoadApp
    address: str
    stop_timeout: float
    """Seconds that running replies may go on after the signal to stop."""
    watched_file: str | None = None
    """The file after whose change the settings are read again."""


class Server:
    """Serves one listening socket until a signal ends it.

    `orders`: where the process in front of it gives some, if there is one; its end is an order to stop. `line`: where
    they tell each other what they have counted and learned. `speaks`: whether what start-up says and the watch of the
    file are for this process to do.
    """

    def __init__(
        self,
        plan: Plan,
        listener: socket.socket,
        *,
        orders: int | None = None,
        line: Line | None = None,
        speaks: bool = True,
    ) -> None:
        self._plan = plan
        self._listener = listener
        self._orders = orders
        self._line = line
        self._speaks = speaks
        self._config = _configure(plan, announces=speaks)
        self._state = ServerState()
        self._terminal = Terminal()
        self._reloading: asyncio.Task[None] | None = None
        self._reload_again = self._serving = False

    def run(self) -> None:
        """Serve until the end."""
        signal.signal(signal.SIGTERM, leave)  # until the loop listens to signals
        if self._orders is not None:  # a terminal tells all of its processes; the one in front passes it on
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        keep_freed()
        self._config.load()
        self._app: Application = self._config.loaded_app
        if self._line is not None:
            self._app.crew.join(self._line)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        self._stopping, self._hurrying = asyncio.Event(), asyncio.Event()
        self._listen(loop)
        lifespan = self._config.lifespan_class(self._config)
        await self._start(lifespan.startup())
        if lifespan.should_exit:
            sys.exit(FAILED_START)
        self._tick(loop)
        self._listener.setblocking(False)
        new_protocol = partial(GuardedHttp, self._config, self._state, lifespan.state, loop)
        acceptor = Acceptor(self._listener, new_protocol, self._state.connections, self._app.tell)
        acceptor.start()
        watching = loop.create_task(self._watch()) if self._plan.watched_file and self._speaks else None
        if self._line is not None:
            self._line.open(self._app.crew)
        if self._orders is not None:
            os.write(self._orders, READY)
        self._serving = True
        if self._reload_again:
            self._end_reload()
        await self._stopping.wait()
        await acceptor.close()
        if watching is not None:
            watching.cancel()
        await self._drain()
        await lifespan.shutdown()
        if self._line is not None:
            self._line.close()
        _exit_in_time()

    async def _start(self, startup: Coroutine[Any, Any, None]) -> None:
        """Wait for the start-up; a signal amid it ends the process, because nobody is served yet."""
        starting, stopping = asyncio.ensure_future(startup), asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            leave()
        stopping.cancel()
        await starting

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Listen to signals, or to the process in front, which has got them already."""
        if self._orders is None:
            loop.add_signal_handler(signal.SIGTERM, self._stop)
            loop.add_signal_handler(signal.SIGINT, self._stop)
            loop.add_signal_handler(signal.SIGHUP, self._hang_up)
            let_through()
        else:
            loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
            loop.add_reader(self._orders, self._obey)

    def _stop(self) -> None:
        (self._hurrying if self._stopping.is_set() else self._stopping).set()

    def _hang_up(self) -> None:
        if self._terminal.gone():
            self._stop()
        else:
            self._reload()

    def _obey(self) -> None:
        assert self._orders is not None
        try:
            orders = os.read(self._orders, 64)
        except OSError:  # the other end broke
            orders = b""
        if not orders:
            asyncio.get_running_loop().remove_reader(self._orders)
        if not orders or STOP in orders:
            self._stopping.set()
        if HURRY in orders:
            self._hurrying.set()
        if RELOAD in orders:
            self._reload()

    def _reload(self) -> None:
        if self._reloading is not None or not self._serving:
            self._reload_again = True
            return
        self._reloading = asyncio.get_running_loop().create_task(self._app.reload())
        self._reloading.add_done_callback(self._end_reload)

    def _end_reload(self, reloading: "asyncio.Task[None] | None" = None) -> None:
        self._reloading = None
        if self._reload_again:
            self._reload_again = False
            self._reload()

    async def _watch(self) -> None:
        assert self._plan.watched_file is not None
        watch = FileWatch(self._plan.watched_file)
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if await asyncio.to_thread(watch.look):
                self._reload()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Keep the header `date` true, and give memory back after a rush."""
        self._state.default_headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]
        SLACK.look(loop.time())
        loop.call_later(1.0, self._tick, loop)

    async def _drain(self) -> None:
        """Let replies end, then end them: each says so to its client before its connection closes."""
        state, limit = self._state, self._plan.stop_timeout
        for connection in list(state.connections):
            connection.shutdown()
        await self._wait_for_silence(limit, self._hurrying)
        if state.tasks:
            waited = "at the second signal" if self._hurrying.is_set() else f"after {limit:g} s (STOP_TIMEOUT)"
            self._app.tell(f"{len(state.tasks)} replies were not complete {waited}: they end with an error.")
            await self._end_replies()
        await self._wait_for_silence(FLUSH_SECONDS)
        for connection in list(state.connections):
            connection.transport.abort()

    async def _wait_for_silence(self, seconds: float, cut_short: asyncio.Event | None = None) -> None:
        deadline = time.monotonic() + seconds
        while (self._state.connections or self._state.tasks) and time.monotonic() < deadline:
            if cut_short is not None and cut_short.is_set():
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _end_replies(self) -> None:
        deadline = time.monotonic() + ENDING_SECONDS
        told: set[asyncio.Task[None]] = set()
        while self._state.tasks and time.monotonic() < deadline:
            await asyncio.sleep(0)  # one that has not begun could not answer
            for task in self._state.tasks - told:
                task.cancel()
                told.add(task)
            await asyncio.sleep(_POLL_SECONDS)


def _configure(plan: Plan, *, announces: bool) -> uvicorn.Config:
    return uvicorn.Config(
        partial(plan.load_app, address=plan.address, announces=announces),
        factory=True,
        http=GuardedHttp,
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )


def _exit_in_time() -> None:
    timer = threading.Timer(EXIT_SECONDS, os._exit, [0])
    timer.daemon = True
    timer.start()
