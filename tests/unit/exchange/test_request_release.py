"""Memory that a running stream uses for its request: released once the reply has begun."""

import asyncio
import sys
from typing import Any

import pytest

from anthropic_proxy.gateway.server.endpoints import serve_request
from bench.bodies import cut_at_number, make_messages
from bench.replies import read_wanted
from bench.wires import ALL, CHAT, Wire
from tests.support.harness import STALL, FakeResponse, ProxyHarness
from tests.support.waiting import WAIT_SECONDS

_SIZE = 120_000


class Held:
    """One streamed request to a provider that falls silent after its first words."""

    def __init__(self, wire: Wire, **changes: Any) -> None:
        first = b"".join(wire.parts(read_wanted("bench-text-10"))[:8])
        settings = {name: value.format(origin="http://127.0.0.1:9") for name, value in wire.settings.items()}
        self.services = ProxyHarness(lambda *_: FakeResponse(200, first, STALL), **settings).services
        request = make_messages(_SIZE, wire.model.format("bench-text-10"), stream=True)
        self.body = cut_at_number({**request, **changes}).numbered(0)
        self.begun = asyncio.Event()

    async def count_holders(self) -> int:
        """Return how many more refer to the body while the stream is silent than before it was read."""
        messages = [{"type": "http.request", "body": self.body, "more_body": False}]
        before = sys.getrefcount(self.body) - 1  # the message is handed over

        async def receive() -> Any:
            return messages.pop() if messages else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            if b"_delta" in message.get("body", b""):
                self.begun.set()

        headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/v1/messages", "query_string": b"", "headers": headers}
        task = asyncio.create_task(serve_request(self.services, {**scope, "client": ("127.0.0.1", 1)}, receive, send))
        async with asyncio.timeout(WAIT_SECONDS):
            await self.begun.wait()
        await asyncio.sleep(0)
        held = sys.getrefcount(self.body) - before
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return held


@pytest.mark.parametrize("wire", ALL, ids=lambda wire: wire.name)
async def test_a_stream_lets_go_of_its_request_once_it_has_begun(wire: Wire) -> None:
    # without a session: the prefix guard keeps the last prompt of a session, which is the client's body at a relay
    assert await Held(wire, metadata=None).count_holders() == 0


async def test_a_request_that_may_be_asked_again_is_held() -> None:
    tools = [{"type": "web_search_20250305", "name": "web_search"}]  # run here, and then the model is asked again
    assert await Held(CHAT, tools=tools).count_holders() > 0
