"""HTTP/1.1 on a socket, in front of an application that returns the request it received."""

import asyncio
import gc
import json
import re
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from anthropic_proxy.gateway.server.http1.connection import (
    MAX_HEAD_BYTES,
    MIN_DIRECT_BODY_BYTES,
    Http1Connection,
    ServerState,
    WriteTimeout,
)
from tests.support.http1_server import CLOSE, GET, UPGRADE, Echo, bodies_of, serving, talk
from tests.support.kept_connection import KeptConnection
from tests.support.virtual_time import in_virtual_time
from tests.support.waiting import WAIT_SECONDS


class Impatient(Http1Connection):
    head_timeout_seconds = body_drain_timeout_seconds = 0.2


def envelope_of(answer: bytes) -> tuple[bytes, dict[str, Any]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"request-id: req_of_the_refusal" in head
    assert b"content-type: application/json" in head
    envelope = json.loads(body)
    assert envelope["type"] == "error"
    assert envelope["request_id"] == "req_of_the_refusal"
    return head.split(b"\r\n")[0], envelope["error"]


@pytest.mark.parametrize(
    "ending", [b"Content-Length: 4\r\n\r\nabcd", b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n"]
)
@pytest.mark.parametrize("cut", [0, 1, 2, 9])
async def test_an_offered_upgrade_loses_no_body(ending: bytes, cut: int) -> None:
    whole = b"POST /first HTTP/1.1\r\nHost: x\r\n" + UPGRADE + ending
    place = whole.index(b"\r\n\r\n") + 4 + cut - 1
    async with serving(Echo()) as port:
        pieces = [whole + GET + CLOSE] if cut == 0 else [whole[:place], whole[place:], GET, CLOSE]
        answers_sent = bodies_of(await talk(port, *pieces))
    assert [(answer["path"], answer["body"]) for answer in answers_sent] == [
        ("/first", "abcd"),
        ("/next", ""),
        ("/last", ""),
    ]
    assert answers_sent[0]["headers"] == ["host", "content-length" if b"Length" in ending else "transfer-encoding"]


@pytest.mark.parametrize("size", [MIN_DIRECT_BODY_BYTES - 1, MIN_DIRECT_BODY_BYTES, 300_000])
@pytest.mark.parametrize("lines", [b"", UPGRADE, b"Connection: close\r\n"], ids=["plain", "upgrade", "close"])
@pytest.mark.parametrize("end", [-1, 0, 1, 70], ids=["a byte too few", "whole", "a byte of the next", "two requests"])
async def test_a_large_body_ends_where_its_length_says(size: int, lines: bytes, end: int) -> None:
    body = (b"0123456789" * (size // 10 + 1))[:size]
    head = b"POST /first HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n" % (lines, size)
    sent = head + body + GET + CLOSE
    places = [len(head) - 1, len(head) + 9, len(head) + size // 2, len(head) + size + end]
    if b"close" in lines:  # bytes that arrive after the close would reset the connection before the response is read
        places.pop()
    async with serving(Echo()) as port:
        pieces = [sent[first:last] for first, last in zip([0, *places], [*places, len(sent)], strict=True)]
        answers = bodies_of(await talk(port, *pieces))
    assert answers[0]["path"] == "/first"
    assert answers[0]["body"] == body.decode()
    assert [answer["path"] for answer in answers[1:]] == ([] if b"close" in lines else ["/next", "/last"])


async def test_an_offered_websocket_is_an_ordinary_request() -> None:
    async with serving(Echo()) as port:
        offer = b"GET /first HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        assert [answer["path"] for answer in bodies_of(await talk(port, offer, CLOSE))] == ["/first", "/last"]


NOT_HTTP = "The request is not valid HTTP: "
SPACES = f"{NOT_HTTP}method, address and HTTP/1.1 must have one space between each."


@pytest.mark.parametrize(
    ("sent", "expected_message"),
    [
        (b"hello\r\n\r\n", SPACES),
        (b"GET / HTTP/1.1\r\nHost x\r\n\r\n", f"{NOT_HTTP}Invalid header token."),
        (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
            "The request is TLS instead of HTTP: the address of this proxy begins with http://, not https://.",
        ),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", f"{NOT_HTTP}Pause on PRI/Upgrade."),
        (
            b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
            "CONNECT is not served: this proxy forwards requests of the Messages API only.",
        ),
        (b"GET  /health HTTP/1.1\r\nHost: x\r\n\r\n", SPACES),
        (b"GET /health  HTTP/1.1\r\nHost: x\r\n\r\n", SPACES),
        (b"GET /health RTSP/1.0\r\nHost: x\r\n\r\n", SPACES),
        (b"SOURCE /health ICE/1.0\r\nHost: x\r\n\r\n", SPACES),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            f"{NOT_HTTP}Invalid character in chunk size.",
        ),
    ],
)
async def test_what_is_no_http_is_refused_in_the_envelope(sent: bytes, expected_message: str) -> None:
    app = Echo()
    async with serving(app) as port:
        status, error = envelope_of(await talk(port, sent))
    assert status == b"HTTP/1.1 400 Bad Request"
    assert error["type"] == "invalid_request_error"
    assert error["message"] == expected_message
    assert [refused.status for refused in app.refused] == [400]


TOO_MANY_BYTES = "The headers have more than 65,536 bytes."
TOO_MANY_HEADERS = "The request has more than 1,000 headers."
OFFER = b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ((b"GET / HTTP/1.1\r\n", b"X-Filler: " + b"x" * (MAX_HEAD_BYTES + 1)), TOO_MANY_BYTES),
        ((b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 1_100,), TOO_MANY_HEADERS),  # it needs no end
        ((b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 15_000 + b"\r\n",), TOO_MANY_HEADERS),
        ((b"GET / HTTP/1.1\r\n", *[b"a:\r\n" * 100] * 11), TOO_MANY_HEADERS),
        ((OFFER + b"a:\r\n" * 15_000 + b"\r\n",), TOO_MANY_HEADERS),
    ],
)
async def test_a_head_beyond_a_limit_is_refused(pieces: Sequence[bytes], message: str) -> None:
    app = Echo()
    async with serving(app) as port:
        status, error = envelope_of(await talk(port, *pieces))
    assert status.startswith(b"HTTP/1.1 431")
    assert error["type"] == "request_too_large"
    assert error["message"] == message
    assert [str(refused) for refused in app.refused] == [message]


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n" + b"".join(b"a%d:\r\n" % n for n in range(990)),
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\na: " + b"b" * 60_000 + b"\r\n",
        b"POST /" + b"a" * 60_000 + b" HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n",
        b"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\na: " + b"b" * 15_000 + b"\r\n",
        b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 1_001,
    ],
    ids=["headers", "a header", "address", "another method", "refused"],
)
async def test_an_idle_connection_keeps_little_of_its_last_head(head: bytes) -> None:
    state = ServerState(Echo())
    connections: list[Http1Connection] = []

    async def connect() -> None:
        connection, wire = Http1Connection(state), KeptConnection()
        connection.connection_made(wire)
        connection.data_received(head + b"\r\nhi")
        while connection.unfinished or not wire.sent:  # noqa: ASYNC110 (a transport has no event to wait for)
            await asyncio.sleep(0)
        wire.sent.clear()
        connections.append(connection)

    await connect()
    gc.collect()
    tracemalloc.start()
    for _ in range(10):
        await connect()
    gc.collect()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 10 * 20_000


@pytest.mark.parametrize("before", [b"", GET, GET + GET])
@in_virtual_time
async def test_a_head_that_does_not_come_is_given_up(before: bytes) -> None:
    app = Echo()
    async with serving(app, Impatient) as port:
        answers = await talk(port, before + b"GET / HTTP/1.1\r\nHost", b": x\r\n")
    *answered, refusal = answers.split(b"HTTP/1.1 ")[1:]
    assert len(answered) == len(before) // len(GET)
    assert envelope_of(b"HTTP/1.1 " + refusal)[0] == b"HTTP/1.1 408 Request Timeout"
    assert len(app.refused) == 1


@in_virtual_time
async def test_a_client_without_a_request_is_disconnected_without_an_answer() -> None:
    app = Echo()
    async with serving(app, Impatient) as port:
        assert await talk(port) == b""
    assert not app.refused


@in_virtual_time
async def test_an_answer_may_last_longer_than_a_head() -> None:
    app = Echo()
    app.go_on.clear()
    async with serving(app, Impatient) as port:
        asyncio.get_running_loop().call_later(0.5, app.go_on.set)
        assert [answer["path"] for answer in bodies_of(await talk(port, CLOSE))] == ["/last"]


@in_virtual_time
async def test_bytes_too_many_behind_a_request_do_not_cost_its_answer() -> None:
    app = Echo()
    app.go_on.clear()
    async with serving(app) as port:
        asyncio.get_running_loop().call_later(0.1, app.go_on.set)
        answers = bodies_of(
            await talk(port, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabcdefgh", b"more")
        )
    assert [answer["body"] for answer in answers] == ["abcd"]
    assert len(app.refused) == 1


@in_virtual_time
async def test_line_ends_between_requests_keep_no_connection() -> None:
    async with serving(Echo(), Impatient, kept=1) as port:
        assert len(bodies_of(await talk(port, GET, b"\r\n", b"\r\n"))) == 1


POST = b"POST /first HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"


@in_virtual_time
async def test_a_body_that_comes_after_its_answer_has_a_time_limit() -> None:
    app = Echo()
    app.hasty = True
    async with serving(app, Impatient, kept=60) as port:
        assert len(bodies_of(await talk(port, POST, b"a", b"b"))) == 1


@in_virtual_time
async def test_the_request_after_such_a_body_is_answered_and_the_connection_kept_no_longer_than_others() -> None:
    app = Echo()
    app.hasty = True
    async with serving(app, Impatient, kept=1) as port:
        answers = bodies_of(await talk(port, POST, b"ab", b"cd", GET + POST, b"abcd"))
    assert [answer["path"] for answer in answers] == ["/first", "/next", "/first"]


BROKEN_BODY = b"POST /broken HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nZZ\r\n"


class Streaming(Echo):
    """An application that begins an answer at once, ends it when allowed, and records if its client left before."""

    def __init__(self) -> None:
        super().__init__()
        self.left: list[str] = []
        self.ended = asyncio.Event()
        self.headers = [(b"content-length", b"8")]

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[..., Any]) -> None:
        try:
            await self._answer(scope, receive, send)
        finally:
            self.ended.set()

    async def _answer(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[..., Any]) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        leaving = asyncio.ensure_future(receive())
        going_on = asyncio.ensure_future(self.go_on.wait())
        await asyncio.wait([leaving, going_on], return_when=asyncio.FIRST_COMPLETED)
        if leaving.done():
            self.left.append(scope["path"])
            going_on.cancel()
            return
        leaving.cancel()
        await send({"type": "http.response.body", "body": b"half"})


@in_virtual_time
async def test_a_body_that_cannot_be_read_changes_nothing_of_the_answer_before_it() -> None:
    for app, expected in ((Echo(), b"/first"), (Streaming(), b"\r\n\r\nhalfhalf")):
        app.go_on.clear()
        async with serving(app) as port:
            asyncio.get_running_loop().call_later(0.1, app.go_on.set)
            answers = await talk(port, POST + b"abcd", BROKEN_BODY)
        assert answers.startswith(b"HTTP/1.1 200 OK\r\n")
        assert expected in answers
        assert answers.count(b"HTTP/1.1 ") == 1
        assert [refused.status for refused in app.refused] == [400]


@in_virtual_time
async def test_a_body_that_cannot_be_read_gets_no_second_response() -> None:
    app = Echo()
    app.hasty = True
    async with serving(app) as port:
        answers = await talk(port, BROKEN_BODY.removesuffix(b"ZZ\r\n"), b"ZZ\r\n")
    assert answers.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answers.count(b"HTTP/1.1 ") == 1
    assert [refused.status for refused in app.refused] == [400]


@in_virtual_time
async def test_what_waits_before_a_body_that_cannot_be_read_is_answered_too() -> None:
    app = Echo()
    app.go_on.clear()
    async with serving(app) as port:
        asyncio.get_running_loop().call_later(0.1, app.go_on.set)
        answers = bodies_of(await talk(port, POST + b"abcd" + GET + BROKEN_BODY))
    assert [answer["path"] for answer in answers] == ["/first", "/next"]


@pytest.mark.parametrize("behind", [b"", GET, GET * 3, POST])
@in_virtual_time
async def test_a_client_that_leaves_is_noticed_whatever_it_had_asked_behind(behind: bytes) -> None:
    app = Streaming()
    app.go_on.clear()
    async with serving(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(POST + b"abcd")
        await reader.readuntil(b"half")
        writer.write(behind)
        await asyncio.sleep(0.05)
        writer.transport.abort()
        async with asyncio.timeout(WAIT_SECONDS):
            await app.ended.wait()
    assert app.left == ["/first"]


async def test_thousands_of_offered_upgrades_are_as_many_requests() -> None:
    offer = b"GET /next HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    async with serving(Echo()) as port:
        answers = bodies_of(await talk(port, offer * 3000 + CLOSE))
    assert len(answers) == 3001


@pytest.mark.parametrize("target", [b"http://x/next", b"HTTP://X:80/next", b"http://x", b"http://x?to=/y"])
async def test_a_whole_address_is_served_by_its_path(target: bytes) -> None:
    async with serving(Echo()) as port:
        request = b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % target
        (answer,) = bodies_of(await talk(port, request))
    assert answer["path"] == ("/next" if b"next" in target else "/")


@pytest.mark.parametrize("target", [b"http://y/next", b"http://x:81/next", b"http://x@y/next"])
async def test_a_whole_address_of_another_host_is_refused(target: bytes) -> None:
    async with serving(Echo()) as port:
        status, error = envelope_of(await talk(port, b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target))
    assert status == b"HTTP/1.1 400 Bad Request"
    assert error["message"] == "The address in the request line names another host than the Host header."


class Large(Streaming):
    """An application that answers with more than is held for a client, and records whether the client left."""

    size = 8 << 20
    pieces = 1

    async def _answer(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[..., Any]) -> None:
        while (await receive()).get("more_body"):
            pass
        headers = [(b"content-length", str(self.size * self.pieces).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number in range(1, self.pieces + 1):
            await send({"type": "http.response.body", "body": bytes(self.size), "more_body": number < self.pieces})
        if (await receive())["type"] == "http.disconnect":
            self.left.append(scope["path"])


class Unread(Http1Connection):
    write_timeout_seconds = 0.4


@pytest.mark.parametrize("closes", [b"", b"Connection: close\r\n"])
@pytest.mark.parametrize(("size", "pieces"), [(8 << 20, 1), (1 << 20, 8)])
@in_virtual_time
async def test_a_client_that_reads_nothing_is_given_up(closes: bytes, size: int, pieces: int) -> None:
    app = Large()
    app.size, app.pieces = size, pieces
    async with serving(app, Unread, kept=0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(POST.replace(b"\r\n\r\n", b"\r\n" + closes + b"\r\n", 1) + b"abcd")
        await reader.readexactly(1)
        async with asyncio.timeout(WAIT_SECONDS):
            await app.ended.wait()
            await asyncio.sleep(3 * Unread.write_timeout_seconds)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(8 << 20)
        writer.close()


class UnreadBytes(asyncio.Transport):
    """A transport with a number of bytes that its client has not read."""

    unread = 1_000

    def __init__(self) -> None:
        super().__init__()
        self.aborted_at: list[float] = []

    def get_write_buffer_size(self) -> int:
        return self.unread

    def abort(self) -> None:
        self.aborted_at.append(asyncio.get_running_loop().time())


@in_virtual_time
async def test_only_a_time_in_which_nothing_is_read_ends_a_response() -> None:
    loop, transport = asyncio.get_running_loop(), UnreadBytes()
    timeout = WriteTimeout(loop, transport, 10)
    timeout.start()
    for _ in range(5):
        await asyncio.sleep(9)
        transport.unread -= 1
    transport.unread = 0
    await asyncio.sleep(30)
    assert not transport.aborted_at
    for written in (0, 1):  # by the application while the client reads nothing, which is no progress
        transport.unread = 100
        timeout.start()
        await asyncio.sleep(5)
        transport.unread = 50
        started_at = loop.time()
        for _ in range(12):
            await asyncio.sleep(1)
            timeout.start()
            transport.unread += written
        assert 10 <= transport.aborted_at.pop(0) - started_at <= 12
        timeout.stop()
        transport.aborted_at.clear()
    timeout.start()
    timeout.stop()
    await asyncio.sleep(30)
    assert not transport.aborted_at


@in_virtual_time
async def test_a_client_that_reads_slowly_gets_everything() -> None:
    app = Large()
    app.size = 2 << 20
    async with serving(app, Unread, kept=0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(POST + b"abcd")
        received = 0
        async with asyncio.timeout(WAIT_SECONDS):
            while piece := await reader.read(200_000):
                received += len(piece)
                await asyncio.sleep(0.1)
        writer.close()
    assert received > 2 << 20


@in_virtual_time
async def test_a_half_closed_connection_is_answered_if_that_costs_nothing() -> None:
    async with serving(Echo(), kept=2 * WAIT_SECONDS) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET * 2)
        writer.write_eof()
        async with asyncio.timeout(WAIT_SECONDS):
            assert len(bodies_of(await reader.read())) == 2
        writer.close()


@in_virtual_time
async def test_a_half_closed_connection_counts_as_disconnected_after_a_post() -> None:
    app = Streaming()
    app.go_on.clear()
    async with serving(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(POST + b"abcd")
        await reader.readuntil(b"half")
        writer.write_eof()
        async with asyncio.timeout(WAIT_SECONDS):
            assert await reader.read() == b""
            await app.ended.wait()
        writer.close()
    assert app.left == ["/first"]


@pytest.mark.parametrize(
    "sent", [GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 4\r\n\r\nab"), GET + CLOSE[:20]], ids=["body", "head"]
)
@in_virtual_time
async def test_a_half_closed_connection_counts_as_disconnected_within_a_request(sent: bytes) -> None:
    app = Streaming()
    app.go_on.clear()
    async with serving(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        writer.write_eof()
        async with asyncio.timeout(WAIT_SECONDS):
            await reader.read()
            await app.ended.wait()
        writer.close()
    assert app.left == ["/next"]


@in_virtual_time
async def test_a_half_closed_connection_counts_as_disconnected_from_an_event_stream() -> None:
    app = Streaming()
    app.headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    app.go_on.clear()
    async with serving(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"half")
        writer.write_eof()
        async with asyncio.timeout(WAIT_SECONDS):
            await reader.read()
            await app.ended.wait()
        writer.close()
    assert app.left == ["/live"]


@in_virtual_time
async def test_a_client_whose_body_is_refused_is_not_told_to_send_it() -> None:
    received: list[str] = []

    class Reading(Echo):
        async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[..., Any]) -> None:
            received.append((await receive())["type"])

    expecting = BROKEN_BODY.replace(b"Host: x\r\n", b"Host: x\r\nExpect: 100-continue\r\n")
    async with serving(Reading()) as port:
        answers = await talk(port, expecting)
    assert re.findall(rb"HTTP/1\.1 (\d+)", answers) == [b"400"]
    assert received == ["http.disconnect"]


@in_virtual_time
async def test_the_time_of_an_idle_connection_does_not_count_for_a_request_that_begins_during_a_response() -> None:
    class Slow(Echo):
        async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[..., Any]) -> None:
            await asyncio.sleep(0.1 if scope["path"] == "/next" else 5)
            await super().__call__(scope, receive, send)

    async with serving(Slow(), kept=1) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET + CLOSE[:20])
        await reader.readuntil(b"}")
        writer.write(CLOSE[20:])
        async with asyncio.timeout(2 * WAIT_SECONDS):
            answers = bodies_of(await reader.read())
        writer.close()
    assert [answer["path"] for answer in answers] == ["/last"]
