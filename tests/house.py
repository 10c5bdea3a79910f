"""A house whose street is one function from request to answer, and a client that keeps what it is sent."""

import asyncio
import io
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import structs

from anthropic_proxy.app import build_house
from anthropic_proxy.errors import ProxyError
from anthropic_proxy.exchange.house import House, Inbound
from anthropic_proxy.exchange.run import run
from anthropic_proxy.hooks import Client, Receipt
from anthropic_proxy.log import Log
from anthropic_proxy.messages.events import Event
from anthropic_proxy.messages.types import MessagesResponse
from anthropic_proxy.routing.providers import PROVIDERS
from anthropic_proxy.server.replies import encode_events, encode_message
from anthropic_proxy.settings import load_settings
from anthropic_proxy.wire.contract import Credential, UpstreamRequest

SILENCE = bytearray()
"""Among the chunks of an answer: from here on nothing comes."""


class Answer:
    """What the street gives back: a status, headers and chunks; an exception among the chunks is raised."""

    def __init__(
        self, status: int = 200, *chunks: bytes | bytearray | Exception, headers: Mapping[str, str] | None = None
    ) -> None:
        self.status = status
        self.headers = headers or {}
        self.closed = 0
        self._chunks = list(chunks)

    async def read(self) -> bytes:
        chunk = self._chunks.pop(0) if self._chunks else b""
        if chunk is SILENCE:
            await asyncio.Event().wait()
        if isinstance(chunk, Exception):
            raise chunk
        return chunk

    async def close(self, *, complete: bool = False) -> None:
        self.closed += 1


Street = Callable[[str, UpstreamRequest, Credential | None], Answer]


class Keeper:
    """A client that keeps everything it is sent, and an observer that keeps the receipt."""

    def __init__(self) -> None:
        self.stream = b""
        self.body: dict[str, Any] = {}
        self.error: ProxyError | None = None
        self.receipt: Receipt | None = None

    def follow(self, receipt: Receipt) -> None:
        self.receipt = receipt

    async def write(self, events: Sequence[Event], *, last: bool = False) -> None:
        self.stream += encode_events(events, "req_test")

    async def relay(self, data: bytes, headers: Mapping[str, str], *, streams: bool, last: bool) -> None:
        self.stream += data

    async def message(self, response: MessagesResponse) -> None:
        self.body = json.loads(encode_message(response))

    async def refuse(self, error: ProxyError) -> None:
        self.error = error

    async def gone(self) -> None:
        await asyncio.Event().wait()

    async def record(self, receipt: Receipt) -> None:
        self.receipt = receipt


class Town:
    """A house on a street; `ask` runs one exchange and returns what its client got."""

    def __init__(self, street: Street, **settings: str) -> None:
        async def send(base_url: str, request: UpstreamRequest, credential: Credential | None) -> Answer:
            return street(base_url, request, credential)

        numbers = itertools.count(1)
        self.log = io.StringIO()
        self.receipts: list[Receipt] = []
        self.pauses: list[float] = []
        """Seconds that a repeat would have waited."""
        self.house: House = build_house(
            load_settings(settings, PROVIDERS, env_file=None),
            {"http": send},
            Log(self.log),
            new_id=lambda prefix: f"{prefix}{next(numbers):022d}",
            observers=[self],
        )
        self.house = structs.replace(self.house, pause=self._pause)

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    async def record(self, receipt: Receipt) -> None:
        self.receipts.append(receipt)

    async def ask(
        self,
        text: str = "hello",
        headers: Mapping[str, str] | None = None,
        keeper: Keeper | None = None,
        **fields: Any,
    ) -> Keeper:
        body = {"model": "claude-sonnet-4-5", "max_tokens": 64_000, **fields}
        body.setdefault("messages", [{"role": "user", "content": text}])
        keeper = keeper or Keeper()
        inbound = Inbound(
            request_id="req_test",
            client=Client(key_forwardable=not self.house.settings.proxy_api_keys),
            headers=headers or {},
            body=json.dumps(body).encode(),
        )
        await run(self.house, inbound, keeper)
        return keeper
