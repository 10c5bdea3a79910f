"""Bytes on a client connection, in front of the real application with the built-in demo."""

import asyncio
import io
import logging
from collections.abc import Iterator
from functools import cache

from anthropic_proxy.app import App
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.server.http1.connection import Http1Connection, ServerState
from anthropic_proxy.gateway.settings import load_settings
from anthropic_proxy.gateway.telemetry.log import Log
from tests.fuzz.targets.target import Target, cuts_of, expect, expect_bounded
from tests.support.kept_connection import KeptConnection

TURNS = 12
"""Of the loop, after which an application that waits for nothing has answered."""


class _Complaints(logging.Handler):
    """Errors that the event loop logs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(self.format(record))


class _Server:
    """One server without a socket."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.log = io.StringIO()
        self.app: App = App(load_settings({}, PROVIDERS, env_file=None), address="127.0.0.1", logs_startup=False)
        self.app._log = Log(self.log)
        self.state = ServerState(self.app)
        self.complaints = _Complaints()
        logging.getLogger("asyncio").addHandler(self.complaints)
        logging.getLogger("asyncio").propagate = False

    def receive(self, data: bytes) -> bytes:
        """Return the response to a client that sends these bytes and then disconnects."""
        self.complaints.heard.clear()
        self.log.seek(0)
        self.log.truncate()
        sent = self.loop.run_until_complete(self._receive(data))
        expect(not self.complaints.heard, "\n".join(self.complaints.heard))
        expect("Traceback" not in self.log.getvalue(), self.log.getvalue())
        return sent

    async def _receive(self, data: bytes) -> bytes:
        protocol = Http1Connection(self.state)
        wire = KeptConnection()
        protocol.connection_made(wire)
        for piece in cuts_of(data):
            if wire.closed:
                break
            protocol.data_received(piece)
            await asyncio.sleep(0)
        for _ in range(TURNS):
            await asyncio.sleep(0)
        sent = bytes(wire.sent)
        protocol.connection_lost(None)
        while self.state.request_tasks:
            await asyncio.gather(*self.state.request_tasks, return_exceptions=True)
        expect(not self.state.connections, "a connection stays")
        return sent


@cache
def _server() -> _Server:
    return _Server()


def _check(data: bytes) -> None:
    sent = _server().receive(data)
    expect(not sent or sent.startswith(b"HTTP/1.1 "), f"the client was sent {sent[:80]!r}")
    expect(b"the traceback is in its log" not in sent, "the client was told of a bug of ours")
    expect_bounded(len(sent), len(data), 1024)


_BODY = b'{"model": "claude-sonnet-4-5", "max_tokens": 20, "messages": [{"role": "user", "content": "hi"}]}'
_STREAM = _BODY[:-1] + b', "stream": true}'


def _seeds() -> Iterator[bytes]:
    host = b"Host: localhost:8082\r\n"
    for body in (_BODY, _STREAM):
        yield b"POST /v1/messages HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (host, len(body), body)
        chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        yield b"POST /v1/messages?beta=true HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n%b" % (host, chunks)
    yield b"POST /v1/messages/count_tokens HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (host, len(_BODY), _BODY)
    yield b"GET /v1/models?limit=2&after_id=claude HTTP/1.1\r\n%bx-api-key: k\r\n\r\nGET / HTTP/1.1\r\n%b\r\n" % (
        host,
        host,
    )
    yield b"GET /v1/models/claude-sonnet-4-5 HTTP/1.1\r\n%bAuthorization: Bearer x\r\n\r\n" % host
    yield b"HEAD /health HTTP/1.0\r\n\r\n"
    yield b"POST /v1/messages HTTP/1.1\r\n%bExpect: 100-continue\r\nContent-Length: %d\r\n\r\n%b" % (
        host,
        len(_BODY),
        _BODY,
    )
    yield (
        b"GET / HTTP/1.1\r\n%bConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEA\r\n\r\n"
        % host
    )
    yield b"OPTIONS * HTTP/1.1\r\n%bOrigin: http://evil.example\r\nX-Forwarded-For: 8.8.8.8, ::1\r\n\r\n" % host
    yield b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


TARGETS = [Target("head", _check, _seeds)]
