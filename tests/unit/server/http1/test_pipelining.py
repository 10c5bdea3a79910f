"""Pipelined requests on one connection: all are answered, in order, and only few of them are buffered."""

import asyncio
import gc
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from anthropic_proxy.gateway.server.http1.connection import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_PARSE_STEPS_PER_ITERATION,
    MAX_PIECE_BYTES,
    MAX_PIPELINED_BYTES,
    MAX_PIPELINED_REQUESTS,
    MAX_UNPARSED_BYTES,
    Http1Connection,
    ServerState,
)
from anthropic_proxy.gateway.server.http1.cycle import MAX_BUFFERED_BODY_BYTES
from tests.support.http1_server import CLOSE, GET, UPGRADE, Echo, bodies_of, serving, talk
from tests.support.kept_connection import KeptConnection
from tests.support.virtual_time import in_virtual_time
from tests.support.waiting import WAIT_SECONDS

READ_BYTES = 256 * 1024
TINY = b"GET / HTTP/1.1\r\n\r\n"
WITH_BODY = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nA: b\r\n\r\n"
)
OFFER = b"GET /u HTTP/1.1\r\nHost: x\r\n" + UPGRADE + b"\r\n"


class Watched(Http1Connection):
    """Notes the most that one connection held after any of its reads or answers, and when it reads no more."""

    cycles = bytes_waiting = unparsed = 0
    full = False
    """True if the connection is not read until an answer ends, and all is parsed that there is room for."""

    def _note(self) -> None:
        kind = type(self)
        kind.full = self.flow.read_paused and not self._parsing_scheduled
        kind.cycles = max(kind.cycles, len(self.unfinished) - 1)
        kind.bytes_waiting = max(kind.bytes_waiting, self.count_waiting_bytes())
        kind.unparsed = max(kind.unparsed, len(self._buffer))

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._note()

    def _resume_parsing(self) -> None:
        super()._resume_parsing()
        self._note()


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop go on until something holds."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110 (a connection has no event to wait for)
            await asyncio.sleep(0)


@pytest.mark.parametrize("request_bytes", [TINY, GET, WITH_BODY, CHUNKED, OFFER], ids=lambda one: one[:12].decode())
@in_virtual_time
async def test_any_number_of_requests_is_answered_while_few_are_parsed(request_bytes: bytes) -> None:
    class Counted(Watched):
        pass

    async with serving(Echo(), Counted) as port:
        answers = bodies_of(await talk(port, request_bytes * 2000 + CLOSE))
    assert len(answers) == 2001
    assert len({str(answer) for answer in answers[:-1]}) == 1
    assert Counted.cycles <= MAX_PIPELINED_REQUESTS
    assert Counted.unparsed <= MAX_UNPARSED_BYTES + READ_BYTES


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n" + bytes(500_000),
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 300_000 + b"0\r\n\r\n",
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a:\r\n" * (MAX_HEADERS - 1) + b"\r\n") * 4,
    ],
    ids=["bodies", "chunks", "headers"],
)
async def test_what_waits_behind_a_slow_answer_is_bounded_in_bytes(request_bytes: bytes) -> None:
    class Counted(Watched):
        pass

    app = Echo()
    app.go_on.clear()
    async with serving(app, Counted) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes * 20)
        await until(lambda: Counted.full)
        writer.transport.abort()
    assert (
        0 < Counted.bytes_waiting <= MAX_PIPELINED_BYTES + max(MAX_BUFFERED_BODY_BYTES + READ_BYTES, 3 * MAX_HEAD_BYTES)
    )
    assert Counted.unparsed <= MAX_UNPARSED_BYTES + READ_BYTES


class Waiting(Echo):
    """Answers nothing; notes when its client has left."""

    def __init__(self) -> None:
        super().__init__()
        self.left = asyncio.Event()

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[..., Any]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.left.set()


async def test_a_client_that_leaves_is_noticed_while_requests_wait_unparsed() -> None:
    class Counted(Watched):
        pass

    app = Waiting()
    async with serving(app, Counted) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(WITH_BODY * (MAX_PIPELINED_REQUESTS * 3))
        await until(lambda: Counted.unparsed > 0)
        writer.transport.abort()
        await until(app.left.is_set)


@pytest.mark.parametrize(("behind", "answered"), [(GET * 100, 101), (GET * 100 + WITH_BODY, None)])
@in_virtual_time
async def test_the_end_of_the_clients_side_counts_for_unparsed_requests_too(
    behind: bytes, answered: int | None
) -> None:
    app = Echo()
    app.go_on.clear()
    async with serving(app, kept=2 * WAIT_SECONDS) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET + behind)
        writer.write_eof()
        asyncio.get_running_loop().call_later(0.1, app.go_on.set)
        async with asyncio.timeout(WAIT_SECONDS):
            received = (await reader.read()).count(b"HTTP/1.1 200")
        writer.close()
    assert received == answered if answered is not None else received < 102


@in_virtual_time
async def test_an_answer_that_closes_the_connection_is_read_though_more_was_sent() -> None:
    async with serving(Echo()) as port:
        received = await talk(port, GET + CLOSE + GET * 20_000)
    assert received.count(b"HTTP/1.1 200") == 2


@in_virtual_time
async def test_trailers_and_extensions_are_bounded_and_not_stored() -> None:
    head = b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    for behind in (b"0\r\n" + b"a:b\r\n" * 20_000, b"4;" + b"x" * 90_000, b"0" * 90_000, b"0\r\nA: " + b"b" * 90_000):
        app = Echo()
        async with serving(app) as port:
            answer = await talk(port, head + b"1\r\nx\r\n" + behind)
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert [str(refused) for refused in app.refused] == ["The headers have more than 65,536 bytes."]


@pytest.mark.parametrize("line", [b"GET  /a HTTP/1.1\r\n", b"GET /a  HTTP/1.1\r\n", b"GET /a RTSP/1.0\r\n"])
@pytest.mark.parametrize("before", [b"", GET, WITH_BODY, CHUNKED, OFFER], ids=["", "get", "body", "chunks", "upgrade"])
@in_virtual_time
async def test_a_request_line_of_another_form_is_refused_wherever_it_is_cut(line: bytes, before: bytes) -> None:
    whole = before + line + b"Host: x\r\n\r\n"
    for at in range(len(before) - 4 if before else 1, len(before) + 10):
        app = Echo()
        async with serving(app) as port:
            answers = await talk(port, whole[:at], whole[at:])
        codes = re.findall(rb"HTTP/1\.1 (\d+)", answers)
        assert codes in ([b"200", b"400"], [b"200"]) if before else codes == [b"400"]
        assert len(app.refused) == 1


@in_virtual_time
async def test_a_body_in_tiny_chunks_lets_other_connections_have_a_turn() -> None:
    """Each turn parses at most so many chunks; the request of another connection is answered between two turns."""
    turns: list[int] = []

    class Counted(Http1Connection):
        def _parse(self) -> None:
            super()._parse()
            turns.append(self._steps)

    whole = (
        b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n"
    )
    async with serving(Echo(), Counted) as port:
        answers = bodies_of(await talk(port, whole + CLOSE))
    assert [answer["body"] for answer in answers] == ["x" * 100_000, ""]
    assert max(turns) <= MAX_PARSE_STEPS_PER_ITERATION + MAX_PIECE_BYTES // len(b"1\r\nx\r\n") + 1
    assert sum(turns) == 100_000 + 4, "chunks and header lines"


@pytest.mark.parametrize("trailers", [False, True], ids=["headers", "trailers"])
@in_virtual_time
async def test_many_header_lines_let_other_connections_have_a_turn(trailers: bool) -> None:
    """Each turn ends with the request in which the header lines or trailers exceed the limit."""
    turns: list[int] = []

    class Counted(Http1Connection):
        def _parse(self) -> None:
            super()._parse()
            turns.append(self._steps)

    lines = b"a:b\r\n" * (MAX_PARSE_STEPS_PER_ITERATION + 1 if trailers else MAX_HEADERS - 2)
    head = b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    one = head + (b"\r\n0\r\n" + lines if trailers else lines + b"\r\n0\r\n") + b"\r\n"
    async with serving(Echo(), Counted) as port:
        answers = bodies_of(await talk(port, one * 9 + CLOSE))
    assert [answer["body"] for answer in answers] == [""] * 10
    assert max(turns) < 2 * MAX_PARSE_STEPS_PER_ITERATION


async def test_a_request_that_is_cancelled_before_it_begins_does_not_run() -> None:
    state = ServerState(Echo())
    connection = Http1Connection(state)
    connection.connection_made(KeptConnection())
    connection.data_received(GET)
    await until(lambda: not state.request_tasks)
    connection.data_received(GET)
    (task,) = state.request_tasks
    task.cancel()
    await until(lambda: not state.request_tasks)


async def test_a_request_does_not_wait_until_the_application_has_left_the_one_before() -> None:
    left: list[str] = []
    go_on = asyncio.Event()

    class Slow(Echo):
        """Application that works on after its answer, and fails then."""

        async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[..., Any]) -> None:
            await super().__call__(scope, receive, send)
            if scope["path"] == "/p":
                await go_on.wait()
                left.append(scope["path"])
                raise ConnectionError("the table is locked")
            left.append(scope["path"])
            go_on.set()

    failures: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(str(context["exception"])))
    async with serving(Slow()) as port:
        answers = bodies_of(await talk(port, WITH_BODY, GET, WITH_BODY, GET, CLOSE))
    assert [answer["path"] for answer in answers] == ["/p", "/next", "/p", "/next", "/last"]
    assert left == ["/next", "/p", "/p", "/next", "/last"]
    gc.collect()  # an error that nobody asked for is reported with its task
    assert failures == ["the table is locked"] * 2
