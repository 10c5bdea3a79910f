"""The ASGI messages of request and response bodies, over a socket."""

import asyncio
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from anthropic_proxy.gateway.server.http1.connection import Http1Connection, ServerState
from anthropic_proxy.gateway.server.http1.cycle import (
    CYCLE_EXTENSION,
    MAX_BUFFERED_BODY_BYTES,
    MAX_JOINED_BODY_BYTES,
)
from tests.support.http1_server import CLOSE, Echo, serving, talk
from tests.support.kept_connection import KeptConnection
from tests.support.virtual_time import in_virtual_time
from tests.support.waiting import WAIT_SECONDS, wait_for_async

Receive = Callable[[], Awaitable[Any]]
POST = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


class Listener(Echo):
    """Application that keeps the messages of the body as received, and sends the given answers."""

    def __init__(self, *answers: Any) -> None:
        super().__init__()
        self.received: list[Any] = []
        self.asked = asyncio.Event()
        self.failure: Exception | None = None
        self._answers = answers or (
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]},
            {"type": "http.response.body", "body": b"ok"},
        )

    async def __call__(self, scope: Any, receive: Receive, send: Callable[..., Any]) -> None:
        self.asked.set()
        while not self.received or self.received[-1].get("more_body"):
            self.received.append(await receive())
        try:
            for answer in self._answers:
                await send(answer)
        except RuntimeError as error:
            self.failure = error

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.received)


async def send_paused(port: int, *pieces: bytes) -> bytes:
    """Send pieces so far apart that each arrives by itself; return the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0.2)
    answer = await reader.read()
    writer.close()
    return answer


async def test_a_body_that_comes_in_many_reads_is_few_messages() -> None:
    app, body = Listener(), bytes(range(256)) * 2000
    async with serving(app) as port:
        head = POST + b"Content-Length: %d\r\n\r\n" % len(body)
        assert (await talk(port, head + body)).endswith(b"\r\n\r\nok")
    assert app.body == body
    assert len(app.received) < 4  # one, unless the client waits for a processor


@in_virtual_time
async def test_a_slow_body_is_passed_on_in_fragments() -> None:
    app = Listener()
    async with serving(app) as port:
        head = POST + b"Content-Length: 6\r\n\r\n"
        assert (await send_paused(port, head, b"ab", b"cd", b"ef")).endswith(b"ok")
    assert [message["body"] for message in app.received] == [b"ab", b"cd", b"ef"]


@in_virtual_time
async def test_a_large_body_is_passed_on_in_parts_and_loses_nothing() -> None:
    app, body = Listener(), bytes(range(256)) * (MAX_JOINED_BODY_BYTES * 3 // 256)
    async with serving(app) as port:
        assert (await talk(port, POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)).endswith(b"ok")
    assert app.body == body
    assert 1 < len(app.received) <= 5


@in_virtual_time
async def test_what_came_before_the_application_asked_is_joined_with_the_rest() -> None:
    app, body = Listener(), bytes(range(256)) * (MAX_JOINED_BODY_BYTES // 256)
    connection, wire = Http1Connection(ServerState(app)), KeptConnection()
    connection.connection_made(wire)
    place = MAX_BUFFERED_BODY_BYTES + 1
    connection.data_received(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body[:place])
    assert wire.paused
    while wire.paused:  # noqa: ASYNC110 (a transport has no event to wait for)
        await asyncio.sleep(0)
    connection.data_received(body[place:])
    while not wire.sent:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert [len(message["body"]) for message in app.received] == [len(body)]
    assert app.body == body


@pytest.mark.parametrize("size", [1, 3, 4095, 4096, 5000])
async def test_chunks_of_any_size_are_put_together(size: int) -> None:
    app, body = Listener(), bytes(range(256)) * 100
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    async with serving(app) as port:
        assert (await talk(port, CHUNKED + chunks + b"0\r\n\r\n")).endswith(b"ok")
    assert app.body == body


@pytest.mark.parametrize("value", [b"a\r\nx-evil: b", b"a\nb", b"a\x00b", b"a\r"])
@pytest.mark.parametrize("place", [0, 1])
async def test_a_header_that_would_write_lines_of_its_own_is_not_sent(value: bytes, place: int) -> None:
    header = (b"x-name", value) if place else (value, b"value")
    app = Listener({"type": "http.response.start", "status": 200, "headers": [header]})
    async with serving(app) as port:
        answer = await talk(port, CLOSE)
    assert app.failure is not None
    assert b"evil" not in answer


@pytest.mark.parametrize("bodies", [[b"abc"], [b"a"], [b"a", b"bc"]])
async def test_a_body_of_another_length_than_declared_is_never_complete(bodies: list[bytes]) -> None:
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    parts = [{"type": "http.response.body", "body": body, "more_body": True} for body in bodies[:-1]]
    app = Listener(start, *parts, {"type": "http.response.body", "body": bodies[-1]})
    async with serving(app) as port:
        answer = await talk(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert app.failure is not None
    assert len(answer.partition(b"\r\n\r\n")[2]) < 2


async def test_an_application_that_ends_without_an_answer_is_answered_for() -> None:
    class Unresponsive(Listener):
        async def __call__(self, scope: Any, receive: Receive, send: Callable[..., Any]) -> None:
            return

    async with serving(Unresponsive()) as port:
        answer = await talk(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 500 ")


async def test_a_client_of_http_1_0_gets_no_chunks() -> None:
    app = Listener(
        {"type": "http.response.start", "status": 200, "headers": []},
        {"type": "http.response.body", "body": b"one", "more_body": True},
        {"type": "http.response.body", "body": b"two"},
    )
    async with serving(app) as port:
        answer = await talk(port, b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == b"onetwo"
    assert b"connection: close" in head
    assert b"chunked" not in head


@in_virtual_time
async def test_a_body_that_nobody_asked_for_is_not_held_once_it_is_answered() -> None:
    app = Echo()
    app.hasty = True
    app.go_on.clear()
    size = 500_000
    async with serving(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        tracemalloc.start()
        try:
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
            await writer.drain()
            came = await wait_for_async(lambda: tracemalloc.get_traced_memory()[0], lambda came: came > size / 4)
            app.go_on.set()
            await reader.readuntil(b"}")
            held = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        writer.close()
    assert held < size / 4 < came


@in_virtual_time
async def test_each_of_several_calls_of_receive_notices_the_disconnect() -> None:
    class Several(Listener):
        async def __call__(self, scope: Any, receive: Receive, send: Callable[..., Any]) -> None:
            await receive()  # the empty body
            calls = [asyncio.ensure_future(receive()) for _ in range(3)]
            await asyncio.sleep(0)
            calls.pop().cancel()
            self.asked.set()
            self.received += await asyncio.gather(*calls)
            received.set()

    app, received = Several(), asyncio.Event()
    async with serving(app) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        await app.asked.wait()
        writer.close()
        async with asyncio.timeout(WAIT_SECONDS):
            await received.wait()
    assert app.received == [{"type": "http.disconnect"}] * 2


@in_virtual_time
async def test_a_response_without_messages_is_dropped_after_a_disconnect() -> None:
    class Late(Listener):
        async def __call__(self, scope: Any, receive: Receive, send: Callable[..., Any]) -> None:
            while not self.received or self.received[-1].get("more_body"):
                self.received.append(await receive())
            cycle = scope["extensions"][CYCLE_EXTENSION]
            try:
                cycle.start_response(200, [("content-length", "4")])
                await cycle.write_body(b"late", is_last=True)
            except RuntimeError as error:
                self.failure = error

    app = Late()
    async with serving(app) as port:
        answer = await talk(port, CHUNKED + b"zz\r\n")
    assert app.received[-1] == {"type": "http.disconnect"}
    assert app.failure is None
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert answer.count(b"HTTP/1.1 ") == 1
