"""The common parts of every fake provider: a server, a journal of the received requests, and pages to read it.

`GET /__requests` gives every exchange, `GET /__violations` those that broke the wire's rules, `POST /__reset` forgets.
"""

import argparse
import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from anthropic_proxy.gateway.platforms.signals import STOP_SIGNALS, add_signal_callback
from tests.support.waiting import WAIT_SECONDS

MAX_BODY_BYTES = 64 * 1024 * 1024

# What the proxy's own client sends and no provider may ever see.
PRIVATE_HEADERS = ("x-api-key", "anthropic-", "x-claude-", "x-stainless-", "x-app", "cookie")
PRIVATE_TEXTS = (
    *("x-anthropic-billing-header", '"device_id', '\\"device_id', '"classifier_context"'),
    *('"cache_control"', '"defer_loading"', '"context_management"'),
)


@dataclass(frozen=True)
class ContractViolation:
    """One rule of the wire that a request breaks, in the words of the real server where they are known."""

    rule: str
    message: str
    param: str | None = None
    code: str | None = None


@dataclass
class Exchange:
    """One request and its outcome."""

    number: int
    method: str
    path: str
    headers: dict[str, str]
    body: Any = None
    breaches: list[ContractViolation] = field(default_factory=list)
    status: int = 0
    outcome: str = "open"
    """`answered`, `refused`, `cut` (by plan) or `cancelled` (the caller left)."""
    usage: dict[str, Any] | None = None
    """Token counts of the reply, as sent. None: no reply, or a wire without a record of them."""


class RequestLog:
    """The exchanges in order of arrival; with a file, each is also written there when it ends."""

    def __init__(self, file: Path | None = None) -> None:
        self.exchanges: list[Exchange] = []
        self.file = file

    def open(self, request: web.Request, body: Any) -> Exchange:
        headers = {name.lower(): value for name, value in request.headers.items()}
        exchange = Exchange(len(self.exchanges) + 1, request.method, request.path_qs, headers, body)
        self.exchanges.append(exchange)
        return exchange

    def close(self, exchange: Exchange, outcome: str) -> None:
        exchange.outcome = outcome
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(asdict(exchange), ensure_ascii=False) + "\n")

    def violations(self) -> list[dict[str, Any]]:
        return [
            {"number": exchange.number, "path": exchange.path, **asdict(breach)}
            for exchange in self.exchanges
            for breach in exchange.breaches
        ]


def leaks(headers: dict[str, str], raw: bytes) -> Iterator[ContractViolation]:
    """Yield the values that reached this provider and belong to the proxy's client alone."""
    of_its_own = "x-stainless-" if headers.get("user-agent", "").startswith(("OpenAI/", "AsyncOpenAI/")) else "\n"
    for name in headers:
        if name.startswith(PRIVATE_HEADERS) and not name.startswith(of_its_own):
            yield ContractViolation("leak", f"the client's header {name} reached the provider", name)
    text = raw.decode("utf-8", "replace")
    for private in PRIVATE_TEXTS:
        if private in text:
            yield ContractViolation("leak", f"the client's {private} reached the provider")


Answer = Callable[[web.Request, bytes, RequestLog], Awaitable[web.StreamResponse]]
JOURNAL = web.AppKey("journal", RequestLog)


def new_application(answer: Answer, journal: RequestLog) -> web.Application:
    """Return a server that passes every path but the journal's own to `answer`."""

    async def requests(_: web.Request) -> web.Response:
        return web.json_response([asdict(exchange) for exchange in journal.exchanges])

    async def violations(_: web.Request) -> web.Response:
        return web.json_response(journal.violations())

    async def reset(_: web.Request) -> web.Response:
        journal.exchanges.clear()
        return web.json_response({})

    async def everything_else(request: web.Request) -> web.StreamResponse:
        return await answer(request, await request.read(), journal)

    application = web.Application(client_max_size=MAX_BODY_BYTES)
    application[JOURNAL] = journal
    application.router.add_get("/__requests", requests)
    application.router.add_get("/__violations", violations)
    application.router.add_post("/__reset", reset)
    application.router.add_route("*", "/{path:.*}", everything_else)
    return application


async def _start(application: web.Application, host: str, port: int) -> tuple[web.AppRunner, str]:
    # A caller that leaves ends the handler at once, so that the journal can record it.
    runner = web.AppRunner(application, handler_cancellation=True, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    await site.start()
    bound = runner.addresses[0][1]
    return runner, f"http://{host}:{bound}"


@dataclass(frozen=True)
class Running:
    """A stand-in that listens in a thread of the test process."""

    url: str
    journal: RequestLog
    hang_up: Callable[[], None] = lambda: None
    """Closes every connection, as a server does that is started again."""


@contextmanager
def serving(application: web.Application, host: str = "127.0.0.1") -> Iterator[Running]:
    """Serve on a free port in a thread of its own, until the block ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runner, url = asyncio.run_coroutine_threadsafe(_start(application, host, 0), loop).result(WAIT_SECONDS)
    try:
        yield Running(url, application[JOURNAL], lambda: _hang_up(loop, runner))
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(WAIT_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WAIT_SECONDS)
        loop.close()


def _hang_up(loop: asyncio.AbstractEventLoop, runner: web.AppRunner) -> None:
    for connection in list(runner.server.connections if runner.server else ()):
        if connection.transport is not None:
            loop.call_soon_threadsafe(connection.transport.close)


@contextmanager
def serving_strictly(application: web.Application) -> Iterator[Running]:
    """Serve until the block ends. A test that uses the server fails if any request violated a rule of the fake."""
    with serving(application) as running:
        yield running
        assert running.journal.violations() == []


def run(description: str, build: Callable[[argparse.Namespace, RequestLog], web.Application]) -> None:
    """Serve from the command line until SIGINT or SIGTERM; the first line printed is the address."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--host", default="127.0.0.1")
    options.add_argument("--port", type=int, default=0, help="0 takes a free one")
    options.add_argument("--key", default=None, help="the only key that is accepted")
    options.add_argument("--log", type=Path, default=None, help="a file for the journal, one JSON object a line")
    chosen = options.parse_args()

    async def serve() -> None:
        runner, url = await _start(build(chosen, RequestLog(chosen.log)), chosen.host, chosen.port)
        print(f"listening on {url}", flush=True)
        ended = asyncio.Event()
        for number in STOP_SIGNALS:
            add_signal_callback(number, asyncio.get_running_loop(), ended.set)
        await ended.wait()
        await runner.cleanup()

    asyncio.run(serve())
