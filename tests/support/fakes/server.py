"""The common parts of every fake provider: a server, and a journal of the received requests."""

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from aiohttp import web

from messages_conformance.backends.wire import ContractViolation
from tests.support.waiting import WAIT_SECONDS

MAX_BODY_BYTES = 64 * 1024 * 1024

# What the proxy's own client sends and no provider may ever see.
PRIVATE_HEADERS = ("x-api-key", "anthropic-", "x-claude-", "x-stainless-", "x-app", "cookie")
PRIVATE_TEXTS = (
    *("x-anthropic-billing-header", '"device_id', '\\"device_id', '"classifier_context"'),
    *('"cache_control"', '"defer_loading"', '"context_management"'),
)


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
    """The exchanges in order of arrival."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []

    def open(self, request: web.Request, body: Any) -> Exchange:
        headers = {name.lower(): value for name, value in request.headers.items()}
        exchange = Exchange(len(self.exchanges) + 1, request.method, request.path_qs, headers, body)
        self.exchanges.append(exchange)
        return exchange

    def close(self, exchange: Exchange, outcome: str) -> None:
        exchange.outcome = outcome

    def violations(self) -> list[dict[str, Any]]:
        return [
            {"number": exchange.number, "path": exchange.path, **asdict(breach)}
            for exchange in self.exchanges
            for breach in exchange.breaches
        ]


def leaks(headers: dict[str, str], raw: bytes) -> Iterator[ContractViolation]:
    """Yield the values that reached this provider and belong to the proxy's client alone."""
    of_openai = headers.get("user-agent", "").startswith(("OpenAI/", "AsyncOpenAI/", "AzureOpenAI/"))
    of_its_own = "x-stainless-" if of_openai else "\n"
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
    async def everything_else(request: web.Request) -> web.StreamResponse:
        return await answer(request, await request.read(), journal)

    application = web.Application(client_max_size=MAX_BODY_BYTES)
    application[JOURNAL] = journal
    application.router.add_route("*", "/{path:.*}", everything_else)
    return application


async def _start(
    application: web.Application, host: str, port: int, certificate: ssl.SSLContext | None = None
) -> tuple[web.AppRunner, str]:
    # A caller that leaves ends the handler at once, so that the journal can record it.
    runner = web.AppRunner(application, handler_cancellation=True, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, host, port, ssl_context=certificate)
    await site.start()
    bound = runner.addresses[0][1]
    return runner, f"{'http' if certificate is None else 'https'}://{host}:{bound}"


@dataclass(frozen=True)
class Running:
    """A stand-in that listens in a thread of the test process."""

    url: str
    journal: RequestLog
    hang_up: Callable[[], None] = lambda: None
    """Closes every connection, as a server does that is started again."""


@contextmanager
def serving(
    application: web.Application, host: str = "127.0.0.1", certificate: ssl.SSLContext | None = None
) -> Iterator[Running]:
    """Serve on a free port in a thread of its own, until the block ends. `certificate`: that of a server with TLS."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runner, url = asyncio.run_coroutine_threadsafe(_start(application, host, 0, certificate), loop).result(WAIT_SECONDS)
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
