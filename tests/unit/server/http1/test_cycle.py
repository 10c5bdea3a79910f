"""The ASGI messages of request and response bodies, over a socket."""

import asyncio
import gc
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from anthropic_proxy.gateway.platforms.heap import TRIM_AFTER_IDLE_SECONDS, HeapTrimmer
from anthropic_proxy.gateway.server.http1.cycle import MAX_JOINED_BODY_BYTES, RequestResponseCycle
from anthropic_proxy.gateway.server.request_body import pop_complete_body
from tests.support.http1_server import CLOSE, GET, Echo, serving, talk
from tests.support.virtual_time import in_virtual_time

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


async def test_a_body_that_comes_in_many_reads_is_one_message() -> None:
    app, body = Listener(), bytes(range(256)) * 2000
    async with serving(app) as port:
        head = POST + b"Content-Length: %d\r\n\r\n" % len(body)
        assert (await talk(port, head + body)).endswith(b"\r\n\r\nok")
    assert app.body == body
    assert len(app.received) == 1


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


@pytest.mark.parametrize("size", [1, 3, 4095, 4096, 5000])
async def test_chunks_of_any_size_are_put_together(size: int) -> None:
    app, body = Listener(), bytes(range(256)) * 100
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    async with serving(app) as port:
        assert (await talk(port, CHUNKED + chunks + b"0\r\n\r\n")).endswith(b"ok")
    assert app.body == body


async def test_a_whole_body_is_handed_over_without_waiting() -> None:
    bodies: list[bytes | None] = []

    class Taker(Listener):
        async def __call__(self, scope: Any, receive: Receive, send: Callable[..., Any]) -> None:
            bodies.append(pop_complete_body(scope))
            self.received.append({"body": b""})
            await super().__call__(scope, receive, send)

    async with serving(Taker()) as port:
        await talk(port, POST + b"Content-Length: 4\r\n\r\nabcd")
        await talk(port, POST + b"Content-Length: 0\r\n\r\n")
        await talk(port, CHUNKED + b"4\r\nab", b"cd\r\n0\r\n\r\n")
        await talk(port, POST + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n", b"abcd")
    assert bodies == [b"abcd", b"", None, None]


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


async def test_requests_leave_nothing_for_the_collector_of_garbage() -> None:
    async with serving(Echo()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabcd"
        left = []
        gc.collect()
        gc.disable()
        try:
            for count in (5, 50):
                for _ in range(count):
                    writer.write(request)
                    await reader.readuntil(b"}")
                left.append(gc.collect())
        finally:
            gc.enable()
        writer.close()
    assert left[1] < left[0] + 50


@in_virtual_time
async def test_a_client_that_pipelines_and_leaves_leaves_no_circle() -> None:
    def waiting() -> int:
        return sum(type(one) is RequestResponseCycle for one in gc.get_objects())

    app = Echo()
    app.go_on.clear()
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabcd"
    async with serving(app) as port:
        gc.collect()
        gc.disable()
        try:
            before = waiting()
            for behind in (request * 3, request + b"nonsense\r\n\r\n", request[:-2]):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request + behind)
                await asyncio.sleep(0.05)
                writer.transport.abort()
            await asyncio.sleep(0.05)
            app.go_on.set()
            await asyncio.sleep(0.1)
            assert waiting() == before
        finally:
            gc.enable()


@pytest.mark.parametrize("ending", ["answered", "left", "left behind another", "refused", "left amid the body"])
@in_virtual_time
async def test_freed_bytes_are_noted_after_every_outcome(ending: str) -> None:
    given_back: list[None] = []
    trimmer = HeapTrimmer(measure_free=lambda: 0, trim_heap=lambda: given_back.append(None))
    app = Echo()
    head, body = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n", b"abcd"
    requests = {
        "answered": head + body,
        "left": head + body,
        "left behind another": GET + head + body,
        "refused": GET + b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\nzz\r\n",
        "left amid the body": head + body[:2],
    }
    async with serving(app, heap_trimmer=trimmer) as port:
        if ending != "answered":
            app.go_on.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(requests[ending])
        if ending == "answered":
            await reader.readuntil(b"}")
        else:
            await asyncio.sleep(0.05)
        writer.transport.abort()
        await asyncio.sleep(0.05)
        app.go_on.set()
        await asyncio.sleep(0.05)
    trimmer.trim_if_due(1)
    trimmer.trim_if_due(1 + TRIM_AFTER_IDLE_SECONDS)
    assert given_back


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
            await asyncio.sleep(0.05)
            came = tracemalloc.get_traced_memory()[0]
            app.go_on.set()
            await reader.readuntil(b"}")
            held = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        writer.close()
    assert held < size / 4 < came
