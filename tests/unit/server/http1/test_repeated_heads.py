"""Requests of one connection with the head of the one before: they are what they are on a connection of their own."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.support.http1_server import CLOSE, Echo, serving, talk

HEAD = b"POST /p?q=1 HTTP/1.1\r\nHost: x\r\nContent-Length: %b\r\nX-Number: 5\r\nAccept: */*\r\n\r\n"
FIRST = HEAD % b"5" + b"first"
LARGE = b"0123456789" * 20_000


class Listener(Echo):
    """Application that keeps the requests."""

    def __init__(self) -> None:
        super().__init__()
        self.scopes: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[..., Any]) -> None:
        names = ("method", "path", "raw_path", "query_string", "http_version", "headers")
        self.scopes.append({name: scope[name] for name in names})
        await super().__call__(scope, receive, send)


async def serve(*pieces: bytes) -> tuple[list[dict[str, Any]], list[str], list[bytes]]:
    """Return the requests of the application, the messages of refusals, and the responses without their dates."""
    app = Listener()
    async with serving(app) as port:
        answers = await talk(port, *pieces)
    return app.scopes, [error.message for error in app.refused], answers.split(b"HTTP/1.1 ")[1:]


@pytest.mark.parametrize(
    "request_bytes",
    [
        HEAD % b"6" + b"second",
        HEAD % b"06" + b"second",
        HEAD % b"0",
        HEAD % b"",
        HEAD % b"+6" + b"second",
        HEAD % b"-6" + b"second",
        HEAD % b"0x6" + b"second",
        HEAD % b"6, 6" + b"second",
        HEAD % b" 6" + b"second",
        HEAD % b"6 " + b"second",
        HEAD % b"\xb2" + b"second",
        HEAD % b"99999999999999999999" + b"second",
        HEAD % b"200000" + LARGE,
        HEAD.replace(b"X-Number: 5", b"X-Number: 6") % b"6" + b"second",
        HEAD.replace(b"X-Number: 5", b"Transfer-Encoding: chunked") % b"6" + b"second",
        HEAD.replace(b"X-Number: 5", b"Content-Length: 7") % b"6" + b"second",
        HEAD.replace(b"X-Number: 5", b"Expect: 100-continue") % b"6" + b"second",
        HEAD.replace(b"X-Number: 5", b"Connection: close") % b"6" + b"second",
        HEAD.replace(b"X-Number: 5", b"Connection: Upgrade\r\nUpgrade: h2c") % b"6" + b"second",
        HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") % b"6" + b"second",
        HEAD.replace(b"POST", b"PUT") % b"6" + b"second",
        HEAD.replace(b"Content-Length", b"content-length") % b"6" + b"second",
        HEAD.replace(b"\r\nAccept: */*", b"") % b"6" + b"second",
        HEAD.replace(b"\r\nAccept: */*", b"\n") % b"6" + b"second",
        HEAD.replace(b"\r\n", b"\n") % b"6" + b"second",
    ],
)
async def test_a_request_behind_another_one_is_what_it_is_alone(request_bytes: bytes) -> None:
    scopes, refused, answers = await serve(FIRST, request_bytes, CLOSE)
    alone_scopes, alone_refused, alone_answers = await serve(request_bytes, CLOSE)
    assert scopes[1:] == alone_scopes
    assert refused == alone_refused
    assert answers[1:] == alone_answers


@pytest.mark.parametrize("size", [1, 70, 1 << 16, 1 << 20])
async def test_heads_and_bodies_in_any_pieces_are_the_requests_that_were_sent(size: int) -> None:
    """The third request has the head of the first two, and reads of the socket divide heads and bodies."""
    sent = FIRST + HEAD % b"200000" + LARGE + HEAD % b"6" + b"second" + FIRST + CLOSE
    pieces = (
        [sent]
        if size > len(sent)
        else [sent[: 4 * size], *(sent[place : place + (1 << 16)] for place in range(4 * size, len(sent), 1 << 16))]
    )
    scopes, refused, answers = await serve(*pieces)
    assert [dict(scope["headers"]).get(b"content-length") for scope in scopes] == [b"5", b"200000", b"6", b"5", None]
    assert refused == []
    expected = ["first", LARGE.decode(), "second", "first", ""]
    assert [answer.partition(b'"body": "')[2].partition(b'"')[0].decode() for answer in answers] == expected
