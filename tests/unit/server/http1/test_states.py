"""Clients, applications, timers and a stop of the server in any order: each request has one response, in its place.

The responses are read by h11, which has nothing in common with the parser of the server.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import h11
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from anthropic_proxy.errors import ProxyError
from anthropic_proxy.gateway.server.http1.connection import (
    MIN_DIRECT_BODY_BYTES,
    WRITE_TIMEOUT_SECONDS,
    Http1Connection,
    ServerState,
)
from anthropic_proxy.gateway.server.http1.cycle import CYCLE_EXTENSION, RequestResponseCycle
from tests.support.http1_server import UPGRADE
from tests.support.kept_connection import KeptConnection
from tests.support.virtual_time import VirtualTimeLoop


class Wire(KeptConnection):
    """A connection that behaves as a socket of asyncio: its protocol notices the end, and nothing follows it."""

    protocol: Http1Connection
    unread = 0

    def write(self, data: Any) -> None:
        if self.ended:
            raise RuntimeError("bytes after the end of the sending direction")
        if not self.closed:
            super().write(data)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_event_loop().call_soon(self.protocol.connection_lost, None)

    abort = close

    def get_write_buffer_size(self) -> int:
        return self.unread


class Step(Enum):
    READ = auto()
    START = auto()
    START_EVENTS = auto()
    PIECE = auto()
    FINISH = auto()
    RETURN = auto()
    FAIL = auto()


class Failure(Exception):
    """An error of the application."""


@dataclass
class Call:
    """One call of the application, which takes its steps when the test wants it."""

    path: str
    cycle: RequestResponseCycle
    steps: asyncio.Queue[Step] = field(default_factory=asyncio.Queue)
    body: bytes = b""
    has_whole_body: bool = False
    is_disconnected: bool = False
    has_started: bool = False
    sent: bytes = b""
    has_finished: bool = False
    has_returned: bool = False
    ended_early: bool = False

    @property
    def uses_cycle(self) -> bool:
        """Return True if it sends its response without messages of ASGI."""
        return self.path.endswith(("1", "3", "5", "7", "9"))


class Application:
    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.refused: list[ProxyError] = []
        self.errors: list[Exception] = []

    def log_rejected_request(self, error: ProxyError) -> str:
        self.refused.append(error)
        return "req_of_the_refusal"

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[..., Any]) -> None:
        call = Call(scope["path"], scope["extensions"][CYCLE_EXTENSION])
        self.calls.append(call)
        try:
            while not call.has_finished or call.steps.qsize():
                step = await call.steps.get()
                call.ended_early |= step in (Step.RETURN, Step.FAIL) and not call.has_finished
                if step is Step.RETURN:
                    return
                await self._take(step, call, receive, send)
        except Failure:
            raise
        except Exception as error:
            self.errors.append(error)
            raise
        finally:
            call.has_returned = True

    async def _take(
        self, step: Step, call: Call, receive: Callable[[], Awaitable[Any]], send: Callable[..., Any]
    ) -> None:
        if step is Step.FAIL:
            raise Failure
        if step is Step.READ:
            if call.has_whole_body and not call.has_finished:
                return  # the application would wait for the end of the connection
            message = await receive()
            call.is_disconnected |= message["type"] == "http.disconnect"
            call.body += message.get("body", b"")
            call.has_whole_body |= message.get("more_body") is False
            return
        if call.has_finished:
            return
        if not call.has_started:
            call.has_started = True
            headers = [(b"x-path", call.path.encode())]
            if step is Step.START_EVENTS:
                headers.append((b"content-type", b"text/event-stream"))
            if call.uses_cycle:
                pairs = [(name.decode(), value.decode()) for name, value in headers]
                call.cycle.start_response(200, pairs)
            else:
                await send({"type": "http.response.start", "status": 200, "headers": headers})
        if step in (Step.PIECE, Step.FINISH):
            piece = b"piece of %b" % call.path.encode()
            call.sent += piece
            call.has_finished = step is Step.FINISH
            if call.uses_cycle:
                await call.cycle.write_body(piece, is_last=call.has_finished)
            else:
                await send({"type": "http.response.body", "body": piece, "more_body": step is Step.PIECE})


@dataclass(frozen=True)
class Request:
    """What a client sends. `data`: the bytes, in which N stands for the number of the request."""

    data: bytes
    method: str = "GET"
    body: bytes = b""
    is_last: bool = False
    """True if the client wants the connection to end with the response."""
    is_broken: bool = False


HOST = b"Host: x\r\n"
LARGE = b"0123456789" * (MIN_DIRECT_BODY_BYTES // 10 + 1)
CHUNKS = b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nA: b\r\n\r\n"
REQUESTS = [
    Request(b"GET /N HTTP/1.1\r\n" + HOST + b"\r\n"),
    Request(b"HEAD /N HTTP/1.1\r\n" + HOST + b"\r\n", "HEAD"),
    Request(b"POST /N HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello", "POST", b"hello"),
    Request(b"POST /N HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(LARGE) + LARGE, "POST", LARGE),
    Request(b"POST /N HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS, "POST", b"hello"),
    Request(b"POST /N HTTP/1.1\r\n" + HOST + UPGRADE + b"Content-Length: 5\r\n\r\nhello", "POST", b"hello"),
    Request(
        b"POST /N HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello", "POST", b"hello"
    ),
    Request(b"GET /N HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n", is_last=True),
    Request(b"POST /N HTTP/1.0\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello", "POST", b"hello", is_last=True),
]
KEPT_REQUESTS = [request for request in REQUESTS if not request.is_last]
BROKEN_REQUESTS = [
    Request(data, "POST", is_broken=True)
    for data in (
        b"GET  /N HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /N HTTP/1.1\r\nHost x\r\n\r\n",
        b"GET nothing HTTP/1.1\r\n" + HOST + b"\r\n",
        b"POST /N HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nZZ\r\n",
        b"POST /N HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    )
]


@dataclass
class Response:
    status: int
    path: str
    """Path of the request, as the application writes it. Empty: the server answers itself."""
    closes: bool
    has_length: bool
    """False: only the end of the connection shows that the body is complete."""
    body: bytes = b""
    is_complete: bool = False


@dataclass
class Exchange:
    """A client connection, its server, and the application behind it."""

    loop: asyncio.AbstractEventLoop
    connection_type: type[Any] = Http1Connection
    state_type: type[Any] = ServerState
    app: Application = field(default_factory=Application)
    requests: list[Request] = field(default_factory=list)
    unsent: bytes = b""
    sent_bytes: int = 0
    has_ended: bool = False

    def __post_init__(self) -> None:
        self.wire = Wire()
        self.state = self.state_type(self.app)
        self.connection = self.connection_type(self.state)
        self.wire.protocol = self.connection
        self.connection.connection_made(self.wire)

    def run(self, seconds: float = 0.0) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            for _ in range(8):
                await asyncio.sleep(0)

        self.loop.run_until_complete(wait())

    def add(self, request: Request) -> None:
        number = b"%d" % len(self.requests)
        self.requests.append(request)
        self.unsent += request.data.replace(b"/N", b"/" + number, 1)

    def can_send(self) -> bool:
        return bool(self.unsent) and not (self.has_ended or self.wire.closed or self.wire.paused)

    def send(self, size: int) -> None:
        piece, self.unsent = self.unsent[:size], self.unsent[size:]
        self.sent_bytes += len(piece)
        self.connection.data_received(piece)

    def end(self) -> None:
        self.has_ended = True
        if not self.connection.eof_received():
            self.wire.close()

    def close(self) -> None:
        self.wire.close()
        self.run()
        for task in self.state.request_tasks:
            task.cancel()
        self.run()

    def unfinished(self) -> list[Call]:
        return [call for call in self.app.calls if not (call.has_finished or call.has_returned)]

    def read_responses(self) -> list[Response]:
        """Return the responses that the client has received. The last one may be incomplete."""
        responses = []
        received = bytes(self.wire.sent)
        for request in [*self.requests, Request(b"")]:
            if not received:
                break
            client = h11.Connection(h11.CLIENT)
            client.send(h11.Request(method=request.method, target="/", headers=[("host", "x")]))
            client.send(h11.EndOfMessage())
            client.receive_data(received)
            if self.wire.closed or self.wire.ended:
                client.receive_data(b"")
            response = _read_response(client)
            if response is None:
                break
            responses.append(response)
            received = client.trailing_data[0] if response.is_complete else b""
        assert not received or not responses, f"bytes that are no response: {received!r}"
        return responses


def _read_response(client: h11.Connection) -> Response | None:
    response = None
    while True:
        try:
            event = client.next_event()
        except h11.RemoteProtocolError:
            return response  # the connection ended before the response
        if isinstance(event, h11.Response):
            headers = dict(event.headers)
            path = headers.get(b"x-path", b"").decode()
            has_length = not headers.keys().isdisjoint((b"content-length", b"transfer-encoding"))
            response = Response(event.status_code, path, headers.get(b"connection") == b"close", has_length)
        elif isinstance(event, h11.Data):
            assert response is not None
            response.body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            assert response is not None
            response.is_complete = True
            return response
        elif not isinstance(event, h11.InformationalResponse):
            return response


class Trouble(Enum):
    """What may leave requests without a response. At most one kind happens to a connection."""

    NONE = auto()
    BROKEN_REQUEST = auto()
    HALF_CLOSE = auto()
    DISCONNECT = auto()
    EARLY_END = auto()
    TIME = auto()
    STOP = auto()


def happens(trouble: Trouble) -> Callable[["ConnectionMachine"], bool]:
    return lambda machine: machine.trouble is trouble and not machine.exchange.wire.closed


class ConnectionMachine(RuleBasedStateMachine):
    @initialize(trouble=st.sampled_from((Trouble.NONE, Trouble.BROKEN_REQUEST, *Trouble)))
    def connect(self, trouble: Trouble) -> None:
        self.trouble = trouble
        self.has_happened = False
        self.has_event_stream = False
        self.loop = VirtualTimeLoop()
        self.loop.set_exception_handler(lambda loop, context: None)  # of the failures of the application
        asyncio.set_event_loop(self.loop)

        async def build() -> Exchange:
            return Exchange(asyncio.get_running_loop())

        self.exchange = self.loop.run_until_complete(build())

    @precondition(lambda self: len(self.exchange.requests) < 60)
    @rule(
        request=st.one_of(st.sampled_from(KEPT_REQUESTS), st.sampled_from(REQUESTS)), copies=st.sampled_from((1, 2, 20))
    )
    def client_writes_requests(self, request: Request, copies: int) -> None:
        for _ in range(copies):
            self.exchange.add(request)

    @precondition(happens(Trouble.BROKEN_REQUEST))
    @rule(request=st.sampled_from(BROKEN_REQUESTS))
    def client_writes_a_broken_request(self, request: Request) -> None:
        self.exchange.add(request)

    @precondition(lambda self: self.exchange.can_send())
    @rule(size=st.one_of(st.integers(1, 90), st.sampled_from((40_000, 1 << 18, 1 << 18))), runs=st.booleans())
    def bytes_arrive(self, size: int, runs: bool) -> None:
        self._in_loop(lambda: self.exchange.send(size))
        if runs:
            self.exchange.run()

    @precondition(lambda self: self.exchange.unfinished())
    @rule(steps=st.lists(st.sampled_from((Step.READ, Step.START, Step.PIECE, Step.FINISH)), min_size=1, max_size=3))
    def application_goes_on(self, steps: list[Step]) -> None:
        for step in steps:
            self.exchange.unfinished()[-1].steps.put_nowait(step)
        self.exchange.run()

    @precondition(lambda self: self.exchange.unfinished())
    @rule()
    def application_begins_an_event_stream(self) -> None:
        self.has_event_stream = True
        self.exchange.unfinished()[-1].steps.put_nowait(Step.START_EVENTS)
        self.exchange.run()

    @precondition(happens(Trouble.EARLY_END))
    @precondition(lambda self: self.exchange.unfinished())
    @rule(step=st.sampled_from((Step.RETURN, Step.FAIL)))
    def application_ends_early(self, step: Step) -> None:
        self.has_happened = True
        self.exchange.unfinished()[-1].steps.put_nowait(step)
        self.exchange.run()

    @rule()
    def a_moment_passes(self) -> None:
        self.exchange.run(0.06)

    @precondition(happens(Trouble.TIME))
    @rule(seconds=st.sampled_from((1.0, 11.0, 31.0, 76.0)))
    def time_passes(self, seconds: float) -> None:
        self.has_happened = True
        self.exchange.run(seconds)

    @precondition(happens(Trouble.HALF_CLOSE))
    @precondition(lambda self: self.exchange.requests and not self.exchange.has_ended)
    @precondition(lambda self: not self.exchange.wire.paused)
    @rule()
    def client_ends_its_direction(self) -> None:
        self.has_happened = not self._is_worth_answers()
        self._in_loop(self.exchange.end)
        self.exchange.run()

    @rule()
    def client_reads_nothing(self) -> None:
        if not self.exchange.wire.closed:
            self.exchange.wire.unread = 100_000
            self.exchange.connection.pause_writing()

    @precondition(lambda self: self.exchange.wire.unread)
    @rule()
    def client_reads_again(self) -> None:
        self._read_all()

    @precondition(happens(Trouble.TIME))
    @precondition(lambda self: self.exchange.wire.unread)
    @rule()
    def client_reads_too_late(self) -> None:
        self.has_happened = True
        self.exchange.run(2 * WRITE_TIMEOUT_SECONDS)
        assert self.exchange.wire.closed

    @precondition(happens(Trouble.DISCONNECT))
    @precondition(lambda self: len(self.exchange.requests) > 1)
    @rule()
    def client_disconnects(self) -> None:
        self.has_happened = True
        self._in_loop(self.exchange.wire.close)
        self.exchange.run()

    @precondition(happens(Trouble.STOP))
    @precondition(lambda self: self.exchange.requests)
    @rule(is_stopping=st.booleans())
    def server_stops(self, is_stopping: bool) -> None:
        self.has_happened = True
        self.exchange.state.draining = True
        if is_stopping:
            self._in_loop(self.exchange.connection.close_after_responses)

    @precondition(happens(Trouble.STOP))
    @rule()
    def server_needs_connections(self) -> None:
        self.has_happened = True
        self._in_loop(self.exchange.connection.close_if_idle)

    @invariant()
    def one_request_runs_at_a_time_and_in_order(self) -> None:
        calls = self.exchange.app.calls
        assert [call.path for call in calls] == [f"/{number}" for number in range(len(calls))]
        assert len(self.exchange.unfinished()) <= 1
        assert not self.exchange.app.errors
        for call, request in zip(calls, self.exchange.requests, strict=False):
            assert request.is_broken or request.body.startswith(call.body)
            assert not call.has_whole_body or call.body == request.body

    def teardown(self) -> None:
        exchange = self.exchange
        self._read_all()
        for _ in range(2 * len(exchange.requests) + 2):
            if exchange.can_send():
                self._in_loop(lambda: exchange.send(1 << 20))
            for call in exchange.unfinished():
                call.steps.put_nowait(Step.FINISH)
            exchange.run()
        self.one_request_runs_at_a_time_and_in_order()
        responses = exchange.read_responses()
        self._check(responses)
        exchange.close()
        assert not exchange.state.connections
        assert not exchange.state.request_tasks
        self.loop.close()

    def _check(self, responses: list[Response]) -> None:
        calls = self.exchange.app.calls
        for number, response in enumerate(responses):
            is_last = number == len(responses) - 1
            assert is_last or (response.is_complete and not response.closes)
            if response.path:
                call = calls[number]
                assert response.path == call.path
                expected = b"" if self.exchange.requests[number].method == "HEAD" else call.sent
                is_whole = response.is_complete and (response.has_length or not self.has_happened)
                assert response.body == expected if is_whole else expected.startswith(response.body)
            else:
                assert response.closes
                assert response.is_complete
                assert response.status in (400, 408, 503, 500)
        if responses and responses[-1].closes and responses[-1].is_complete:
            assert self.exchange.wire.closed or self.exchange.wire.ended
        if self.exchange.has_ended or any(call.ended_early for call in calls):
            assert self.exchange.wire.closed or self.exchange.wire.ended
        if not self.has_happened:
            self._check_that_each_request_is_answered(responses)

    def _check_that_each_request_is_answered(self, responses: list[Response]) -> None:
        """Check that all requests have a response up to the first one that ends the connection or is broken."""
        requests = self.exchange.requests[: self._count_sent_requests()]
        ends = [number for number, request in enumerate(self.exchange.requests) if request.is_last or request.is_broken]
        end = ends[0] if ends else len(requests)
        is_broken = end < len(self.exchange.requests) and self.exchange.requests[end].is_broken
        wanted = min(len(requests), end if is_broken else end + 1)
        assert [response.status for response in responses[:wanted]] == [200] * wanted
        assert all(response.is_complete for response in responses)
        assert len(responses) <= wanted + is_broken
        assert len(self.exchange.app.refused) <= 1
        if is_broken and len(responses) == wanted:
            assert len(self.exchange.app.refused) == 1
            assert self.exchange.wire.closed or self.exchange.wire.ended

    def _count_sent_requests(self) -> int:
        left = self.exchange.sent_bytes
        for number, request in enumerate(self.exchange.requests):
            left -= len(request.data) + len(b"%d" % number) - 1
            if left < 0:
                return number
        return len(self.exchange.requests)

    def _is_worth_answers(self) -> bool:
        """Return True if a client that ends its direction still gets its responses."""
        exchange = self.exchange
        count = self._count_sent_requests()
        ends_between_requests = exchange.sent_bytes == sum(
            len(request.data) + len(b"%d" % number) - 1 for number, request in enumerate(exchange.requests[:count])
        )
        done = sum(call.has_finished for call in exchange.app.calls)
        return (
            ends_between_requests
            and not self.has_event_stream
            and all(request.method in ("GET", "HEAD") for request in exchange.requests[done:count])
        )

    def _read_all(self) -> None:
        if self.exchange.wire.unread and not self.exchange.wire.closed:
            self.exchange.wire.unread = 0
            self.exchange.connection.resume_writing()
        self.exchange.run()

    def _in_loop(self, act: Callable[[], None]) -> None:
        async def run() -> None:
            act()

        self.loop.run_until_complete(run())


TestConnection = ConnectionMachine.TestCase
