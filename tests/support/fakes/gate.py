"""A fake provider that holds its answers until a test opens a gate."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web
from aiohttp.typedefs import Handler

from tests.support.fakes.compatible import new_server
from tests.support.fakes.server import Running, serving
from tests.support.waiting import wait_for_async


class Gate:
    """Holds each request to a fake provider until the gate opens or the caller leaves."""

    def __init__(self) -> None:
        self.held = self.cancelled = 0
        self.opened = threading.Event()

    async def hold(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request after the gate has opened."""
        self.held += 1
        try:
            await wait_for_async(self.opened.is_set)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await handler(request)


@contextmanager
def held_provider() -> Iterator[tuple[Running, Gate]]:
    """Yield a strict fake of Groq, and the gate that holds its answers."""
    gate, application = Gate(), new_server("groq")

    @web.middleware
    async def hold(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await gate.hold(request, handler)

    application.middlewares.append(hold)
    with serving(application) as server:
        yield server, gate
