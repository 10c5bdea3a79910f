"""A provider's answer as HTTP, from the first byte on a connection to the response of the client."""

import asyncio
import io
import json
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from msgspec import structs

from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.model_observations import ModelObservations
from anthropic_proxy.engine.routing.health import CircuitBreakers, RepetitionBudget
from anthropic_proxy.engine.upstream.http.client import HttpTransport
from anthropic_proxy.engine.upstream.http.connection import Connection, ConnectionPool
from anthropic_proxy.engine.upstream.http.url import Origin
from anthropic_proxy.gateway.services import Services, build_services
from anthropic_proxy.gateway.settings import load_settings
from anthropic_proxy.gateway.stores.memory import MemoryStore
from anthropic_proxy.gateway.telemetry.log import Log
from tests.fuzz.targets.target import Target, cuts_of, expect, expect_bounded, expect_ours
from tests.support.event_grammar import check_bytes
from tests.support.harness import RecordingSink, new_client_request
from tests.support.kept_connection import KeptConnection

_SETTINGS = {"OPENAI_API_KEY": "fuzz-key", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "PREFERRED_PROVIDER": "openai"}
_ASKED: dict[str, Any] = {
    "model": "claude-sonnet-4-6",
    "max_tokens": 99,
    "messages": [{"role": "user", "content": "x"}],
}


class _Speaking(KeptConnection):
    """The near end of a connection; its far end answers every request with the same bytes, and then hangs up."""

    def __init__(self, connection: Connection, pieces: Iterable[bytes]) -> None:
        super().__init__()
        self._connection = connection
        self._pieces = pieces

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        for piece in self._pieces:
            if self.closed:
                break
            self._connection.data_received(piece)
            await asyncio.sleep(0)
        self.closed = True
        self._connection.connection_lost(None)


class _Opener:
    """Opens connections to an answer."""

    def __init__(self, sink: ConnectionPool) -> None:
        self.answer = b""
        self.opened = 0
        self._sink = sink

    async def connect(self, origin: Origin, proxy: str | None) -> Connection:
        self.opened += 1
        connection = Connection(origin, self._sink)
        connection.connection_made(_Speaking(connection, cuts_of(self.answer)))
        return connection

    async def find_certificate_advice(self, origin: Origin, proxy: str | None, seconds: float) -> str:
        return ""  # without TLS


class _Harness:
    """A proxy with one response as its only provider."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.log = io.StringIO()
        upstream = HttpTransport(5)
        self.opener = _Opener(upstream._pool)
        upstream._connector = self.opener  # type: ignore[assignment]
        self._services = build_services(
            load_settings(_SETTINGS, PROVIDERS, env_file=None),
            {row.name: upstream.send for row in PROVIDERS},
            upstream.send,
            Log(self.log, "json"),
            new_id=lambda prefix: prefix + "0" * 22,
        )

    def post(self, answer: bytes, *, stream: bool) -> RecordingSink:
        self.log.seek(0)
        self.log.truncate()
        self.opener.answer, self.opener.opened = answer, 0
        services: Services = structs.replace(
            self._services,
            observations=ModelObservations(MemoryStore()),
            circuit_breakers=CircuitBreakers(),
            retry_budget=RepetitionBudget(),
            sleep=lambda _: asyncio.sleep(0),
        )
        sink = RecordingSink()
        body = json.dumps({**_ASKED, "stream": stream}).encode()
        inbound = new_client_request(body)
        self.loop.run_until_complete(asyncio.wait_for(Exchange(services, inbound, sink).run(), 30))
        return sink


@cache
def _harness() -> _Harness:
    return _Harness()


def _check(data: bytes) -> None:
    sink = _harness().post(data, stream=len(data) % 2 == 0)
    log = _harness().log.getvalue()
    expect("Traceback" not in log, log)
    for line in log.split("\n")[:-1]:
        expect(bool(json.loads(line)) and line.isprintable(), f"the log has {line!r}")
    expect(_harness().opener.opened <= 9, f"{_harness().opener.opened} connections")
    expect(sum(map(bool, (sink.stream, sink.body, sink.error))) == 1, "the client got no answer, or several")
    if sink.error is not None:
        expect_ours(sink.error)
    if sink.stream:
        blamed = check_bytes(sink.stream, requires_json_arguments=False)
        expect(not blamed, f"the client was sent {blamed[:3]}")
    expect_bounded(len(sink.stream), len(data))


_STREAM = (
    b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"Hi"}}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)
_WHOLE = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}]}'


def _seeds() -> Iterator[bytes]:
    for kind, body in ((b"text/event-stream", _STREAM), (b"application/json", _WHOLE)):
        head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n" % kind
        yield head + b"content-length: %d\r\n\r\n%b" % (len(body), body)
        yield head + b"connection: close\r\n\r\n" + body
        half = len(body) // 2
        chunks = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (half, body[:half], len(body) - half, body[half:])
        yield head + b"transfer-encoding: chunked\r\n\r\n" + chunks
        yield b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + head + b"\r\n" + body
    for status in (301, 400, 401, 404, 429, 500, 503, 529):
        body = b'{"error": {"message": "no", "code": "x"}}'
        head = (
            b"HTTP/1.1 %d X\r\nretry-after: 2\r\nlocation: http://a/b?c\r\nset-cookie: a=b\r\nset-cookie: c\r\n"
            % status
        )
        yield head + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    yield b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\nPRI"
    yield b"HTTP/1.0 204 No Content\r\n\r\n"


TARGETS = [Target("answer", _check, _seeds)]
