"""The proxy with a function as upstream, and a client that records the responses. No sockets."""

import asyncio
import io
import itertools
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from msgspec import structs

from anthropic_proxy.engine.background import BackgroundWork
from anthropic_proxy.engine.exchange.client_side import (
    ClientRequest,
    RequestMemory,
    ResponseSink,
    encode_events,
    encode_message,
)
from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.messages.events import Event
from anthropic_proxy.engine.messages.models import MessagesResponse
from anthropic_proxy.engine.own_keys import OwnKeys
from anthropic_proxy.engine.providers import PROVIDERS, find_registry
from anthropic_proxy.engine.trace_context import TraceContext
from anthropic_proxy.engine.wires.bound_requests import BoundRequest
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.errors import ProxyBusy, ProxyError
from anthropic_proxy.gateway.services import Services, build_services
from anthropic_proxy.gateway.settings import Settings, load_settings
from anthropic_proxy.gateway.telemetry.log import Log
from anthropic_proxy.gateway.telemetry.requests import Receipts
from anthropic_proxy.plugins import Client, Receipt
from tests.support.citations import keep_secret
from tests.support.clocks import RECORDED_AT

STALL = bytearray()
"""Among the chunks of an answer: from here on nothing comes."""


class FakeResponse:
    """A response of the upstream function: a status, headers and chunks; an exception among the chunks is raised."""

    body_received = False

    def __init__(
        self, status: int = 200, *chunks: bytes | bytearray | Exception, headers: Mapping[str, str] | None = None
    ) -> None:
        self.status = status
        self.headers = headers or {}
        self.closed = 0
        self.chunks = list(chunks)

    async def read(self) -> bytes:
        chunk = self.chunks.pop(0) if self.chunks else b""
        if chunk is STALL:
            await asyncio.Event().wait()
        if isinstance(chunk, Exception):
            raise chunk
        return chunk

    async def close(self, *, wait_for_end: bool = False) -> None:
        self.closed += 1


UpstreamFunction = Callable[[str, UpstreamRequest, Credential | None], FakeResponse]


def new_client_request(
    body: bytes,
    headers: Mapping[str, str] | None = None,
    *,
    client: Client | None = None,
    request_id: str = "req_test",
    path: str = "/v1/messages",
    query: str = "",
    trace: TraceContext | None = None,
    background: BackgroundWork | None = None,
) -> ClientRequest:
    receipt = Receipt(request_id=request_id, client=client or Client(), started_at=0.0, path=path, trace=trace)
    work = (background or BackgroundWork()).of(receipt.client.payer)
    return ClientRequest(receipt=receipt, headers=headers or {}, body=body, background=work, query=query)


class RecordingSink(ResponseSink):
    """A client that keeps everything it is sent, before it becomes bytes."""

    def __init__(self, client: Client = Client()) -> None:  # noqa: B008  # frozen
        super().__init__(Receipt(request_id="req_test", client=client, started_at=0.0))
        self.stream = b""
        self.status = 0
        """Status of relayed bytes."""
        self.body: dict[str, Any] = {}
        self.error: ProxyError | None = None
        self.is_ended = False
        """Whether a stream or relayed bytes have ended; nothing may follow."""

    def _add(self, data: bytes, *, is_last: bool) -> None:
        assert not self.is_ended
        self.stream += data
        self.is_ended = is_last

    async def send_events(self, events: Sequence[Event], *, is_last: bool = False) -> None:
        self._add(encode_events(events, "req_test", self.receipt.client), is_last=is_last)

    async def send_relayed_bytes(
        self, data: bytes, headers: Mapping[str, str], *, is_stream: bool, is_last: bool, status: int = 200
    ) -> None:
        self._add(data, is_last=is_last)
        self.status = status

    async def send_message(self, response: MessagesResponse) -> None:
        self.body = json.loads(encode_message(response))

    async def send_told_error(self, error: ProxyError) -> None:
        self.error = error

    def start(self, status: int, headers: Iterable[tuple[str, str]]) -> None: ...

    async def write(self, data: bytes, *, is_last: bool) -> None: ...

    async def wait_disconnected(self) -> None:
        await asyncio.Event().wait()


class LeavingSink(RecordingSink):
    """A client that disconnects once `left` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.left = asyncio.Event()

    async def wait_disconnected(self) -> None:
        await self.left.wait()


class _Recipient:
    """Observer that keeps all receipts."""

    def __init__(self, receipts: list[Receipt]) -> None:
        self._receipts = receipts

    def record(self, receipt: Receipt) -> None:
        self._receipts.append(receipt)


def load_variables(variables: Mapping[str, str]) -> Settings:
    """Return settings from variables alone. They are immutable, and many tests have the same ones."""
    return _load(tuple(variables.items()))


@cache
def _load(variables: tuple[tuple[str, str], ...]) -> Settings:
    return load_settings(dict(variables), PROVIDERS)


class Room:
    """Memory that has room for so many bytes besides a body."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.counted: list[int] = []

    def free(self, size: int) -> None: ...

    async def count_read(self, size: int, *, may_wait: bool = True) -> None:
        self.counted.append(size)
        if size > self.room:
            raise ProxyBusy("There is no memory.")


class ProxyHarness:
    """The services of one proxy; `post` runs one exchange and returns the recorded output."""

    def __init__(self, upstream: UpstreamFunction, *, env_file: str | None = None, **settings: str) -> None:
        async def send(bound: BoundRequest) -> FakeResponse:
            return upstream(bound.base_url, bound.request, bound.credential)

        numbers = itertools.count(1)
        self.log = io.StringIO()
        self.receipts: list[Receipt] = []
        self.sleeps: list[float] = []
        """Seconds that a repeat would have waited."""
        log = Log(self.log)
        loaded = load_settings(settings, PROVIDERS, env_file=env_file) if env_file else load_variables(settings)
        self.services: Services = build_services(
            loaded,
            {row.name: send for row in find_registry(loaded) if row.transport == "http"},
            send,
            log,
            new_id=lambda prefix: f"{prefix}{next(numbers):022d}",
            receipts=Receipts(log, [_Recipient(self.receipts)]),
        )
        ahead = RECORDED_AT.timestamp() - time.time()
        self.services = structs.replace(
            self.services, sleep=self._sleep, own_keys=OwnKeys(keep_secret), clock=lambda: time.time() + ahead
        )

    async def _sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)

    async def post(
        self,
        text: str = "hello",
        headers: Mapping[str, str] | None = None,
        sink: RecordingSink | None = None,
        client: Client | None = None,
        *,
        memory: RequestMemory | None = None,
        trace: TraceContext | None = None,
        compact: bool = False,
        **fields: Any,
    ) -> RecordingSink:
        """`compact`: the body has no spaces, as that of an SDK. Only such a conversation has a history."""
        body = {"model": "claude-sonnet-4-5", "max_tokens": 64_000, **fields}
        body.setdefault("messages", [{"role": "user", "content": text}])
        sink = sink or RecordingSink()
        client = client or Client(credential_forwardable=not self.services.settings.proxy_api_keys)
        background = self.services.background
        content = json.dumps(body, separators=(",", ":") if compact else None).encode()
        inbound = new_client_request(content, headers, client=client, trace=trace, background=background)
        inbound.memory = memory
        sink.receipt = inbound.receipt
        await Exchange(self.services, inbound, sink).run()
        return sink
