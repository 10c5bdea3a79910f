"""Routes of the ledger answer while other work of the process uses all threads of asyncio."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from anthropic_proxy.ledger.api import LedgerApi
from anthropic_proxy.plugins import RouteRequest
from tests.support.waiting import WAIT_SECONDS


async def test_routes_have_threads_of_their_own() -> None:
    loop, released = asyncio.get_running_loop(), threading.Event()
    loop.set_default_executor(ThreadPoolExecutor(1))
    blocked = loop.run_in_executor(None, released.wait, 60)
    api = LedgerApi(lambda: None)
    route = next(route for route in api.routes if route.path == "/api/openapi.json")
    try:
        response = await asyncio.wait_for(route.respond(RouteRequest(path="/api/openapi.json")), WAIT_SECONDS)
    finally:
        released.set()
        await blocked
        await api.stop()
    assert response.status == 200
