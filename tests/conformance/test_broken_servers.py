"""Servers that do not keep to HTTP: each is a failed check with a sentence, after a bounded time."""

import gzip
import json
import socket
from collections.abc import Callable

import pytest

from messages_conformance.client import Exchange, Server
from messages_conformance.http1 import MAX_BODY_BYTES, BrokenReply, Connection
from messages_conformance.runner import Outcome, Runner, load_suite
from messages_conformance.steps import build_plain_request
from messages_conformance.trial import Options
from tests.support.conformance import MESSAGE, serve_bytes

BODY = json.dumps(MESSAGE).encode()
JSON = b"content-type: application/json\r\n"
STREAM = b"content-type: text/event-stream\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
LIMIT = f"{MAX_BODY_BYTES:,}"


def head(*lines: bytes, status: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"".join((status, b"\r\n", *lines, b"\r\n"))


def sized(body: bytes, length: int | None = None, *lines: bytes, status: bytes = b"HTTP/1.1 200 OK") -> bytes:
    size = len(body) if length is None else length
    return head(JSON, b"content-length: %d\r\n" % size, *lines, status=status) + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def endless(begin: bytes, piece: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.sendall(begin)
        while True:
            connection.sendall(piece)

    return answer


Answer = bytes | Callable[[socket.socket], None]
RIGHT: dict[str, Answer] = {
    "length": sized(BODY),
    "HTTP/1.0": head(JSON, status=b"HTTP/1.0 200 OK") + BODY,
    "no reason": sized(BODY, status=b"HTTP/1.1 200"),
    "until it closes": head(JSON) + BODY,
    "chunks": head(JSON, CHUNKED) + chunk(BODY[:7]) + chunk(BODY[7:]) + b"0\r\n\r\n",
    "extensions and trailers": head(JSON, CHUNKED) + b"%x;a=b\r\n%b\r\n0;c\r\nx-sum: 1\r\n\r\n" % (len(BODY), BODY),
    "interim replies": head(status=b"HTTP/1.1 100 Continue")
    + head(b"link: </a>\r\n", status=b"HTTP/1.1 103 Early")
    + sized(BODY),
    "line feeds": sized(BODY).replace(b"\r\n", b"\n"),
    "the same length twice": sized(BODY, None, b"Content-Length: %d\r\n" % len(BODY)),
    "more than the length": sized(BODY, len(BODY)) + b"junk",
}
WRONG: dict[str, tuple[Answer, str]] = {
    "nothing": (b"", "the connection was closed without a reply"),
    "half a head": (sized(BODY)[:30], "the connection was closed in the head of the reply"),
    "too short": (sized(BODY, 1000), "the connection was closed in the middle of the reply"),
    "no last chunk": (head(JSON, CHUNKED) + chunk(BODY), "the connection was closed in the middle of the reply"),
    "no HTTP": (b"SSH-2.0-OpenSSH\r\n\r\n", "the reply begins with 'SSH-2.0-OpenSSH' instead of HTTP/1.1 and a status"),
    "HTTP/2": (
        sized(BODY, status=b"HTTP/2 200"),
        "the reply begins with 'HTTP/2 200' instead of HTTP/1.1 and a status",
    ),
    "no status": (
        sized(BODY, status=b"HTTP/1.1 OK"),
        "the reply begins with 'HTTP/1.1 OK' instead of HTTP/1.1 and a status",
    ),
    "no header": (
        sized(BODY, None, b"no colon\r\n"),
        "the head of the reply has the line 'no colon', which is no header",
    ),
    "folded": (
        sized(BODY, None, b"x-a: 1\r\n  2\r\n"),
        "the head of the reply has the line '  2', which is no header",
    ),
    "space before the colon": (
        sized(BODY, None, b"x-a : 1\r\n"),
        "the head of the reply has the line 'x-a : 1', which is no header",
    ),
    "zero in a header": (
        sized(BODY, None, b"x-a: 1\x002\r\n"),
        "the header x-a of the reply has a zero or a carriage return in its value",
    ),
    "two lengths": (sized(BODY, None, b"content-length: 3\r\n"), f"the reply has several lengths: '{len(BODY)}, 3'"),
    "negative length": (sized(BODY, -5), "the content-length of the reply is '-5'"),
    "length and chunks": (
        sized(chunk(BODY) + b"0\r\n\r\n", None, CHUNKED),
        "the reply has a content-length and a transfer-encoding",
    ),
    "gzip as transfer": (
        head(JSON, b"transfer-encoding: gzip, chunked\r\n"),
        "the transfer-encoding of the reply is 'gzip, chunked', not chunked",
    ),
    "chunks of HTTP/1.0": (
        head(JSON, CHUNKED, status=b"HTTP/1.0 200 OK") + chunk(BODY),
        "a reply of HTTP/1.0 has a transfer-encoding",
    ),
    "size of a chunk": (head(JSON, CHUNKED) + b"xyz\r\n", "a chunk of the reply has the size 'xyz'"),
    "negative chunk": (head(JSON, CHUNKED) + b"-5\r\nabcde\r\n", "a chunk of the reply has the size '-5'"),
    "long chunk": (
        head(JSON, CHUNKED) + b"3\r\nabcde\r\n",
        "a chunk of the reply is longer than its size: 'de'",
    ),
    "gzip": (
        sized(gzip.compress(BODY), None, b"content-encoding: gzip\r\n"),
        "the reply has the content-encoding gzip, although the request says accept-encoding: identity",
    ),
    "UTF-16": (sized(BODY.decode().encode("utf-16")), "the body is not UTF-8: 0xff at byte 0"),
    "Latin 1": (sized(BODY.replace(b"hello", b"h\xe9llo")), "the body is not UTF-8: 0xe9 at byte 109"),
    "endless interim replies": (
        endless(b"", head(status=b"HTTP/1.1 100 Continue")),
        "the head of the reply has more than 262,144 bytes",
    ),
    "endless headers": (
        endless(b"HTTP/1.1 200 OK\r\n", b"x-a: 1\r\n"),
        "the head of the reply has more than 262,144 bytes",
    ),
    "an endless header": (
        endless(b"HTTP/1.1 200 OK\r\nx-a:", b"a" * 999),
        "the head of the reply has more than 262,144 bytes",
    ),
    "endless body": (endless(head(JSON), b"[" * 65_536), f"the reply has more than {LIMIT} bytes"),
    "endless length": (
        endless(head(b"content-length: 99999999999\r\n"), b"0" * 65_536),
        f"the reply has more than {LIMIT} bytes",
    ),
    "endless chunks": (endless(head(JSON, CHUNKED), chunk(b"ab") * 9999), "the reply has more than 500,000 chunks"),
    "endless line of chunks": (
        endless(head(JSON, CHUNKED) + b"5;", b"a" * 999),
        "a line between the chunks of the reply has more than 262,144 bytes",
    ),
    "endless trailers": (
        endless(head(JSON, CHUNKED) + chunk(BODY) + b"0\r\n", b"x-a: 1\r\n" * 999),
        "a line between the chunks of the reply has more than 262,144 bytes",
    ),
    "endless events": (endless(head(STREAM), b"data: {}\n\n" * 999), "the stream has more than 200,000 events"),
    "an endless line": (endless(head(STREAM), b"data: " * 9999), f"the reply has more than {LIMIT} bytes"),
    "an endless event": (endless(head(STREAM), b"data: a\n" * 9999), f"the reply has more than {LIMIT} bytes"),
}


def exchange(answer: Answer, *, timeout: float = 60) -> Exchange:
    def answer_bytes(connection: socket.socket) -> None:
        if isinstance(answer, bytes):
            connection.sendall(answer)
        else:
            answer(connection)

    with serve_bytes(answer_bytes) as url:
        return Server(url, timeout=timeout).send(build_plain_request(Options(url=url, model="m")))


@pytest.mark.parametrize("name", RIGHT)
def test_what_http_allows_is_read(name: str) -> None:
    got = exchange(RIGHT[name])
    assert (got.failure, got.status, got.json) == ("", 200, MESSAGE)


@pytest.mark.parametrize("name", WRONG)
def test_a_broken_reply_is_a_failure_with_a_sentence(name: str) -> None:
    answer, sentence = WRONG[name]
    assert exchange(answer).failure == sentence


def test_a_silent_server_and_one_that_reads_nothing() -> None:
    wait = socket.socketpair()
    with wait[0], wait[1]:
        got = exchange(lambda _: wait[0].recv(1) and None, timeout=0.05)
        wait[1].send(b"1")
    assert got.failure == "no further byte within 0.05 seconds"


def test_an_exchange_has_one_end_however_many_bytes_come() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"HTTP/1.1 2")
        with pytest.raises(BrokenReply) as broken:
            Connection(ours, silence=60, seconds=0.01).read_head()
        assert str(broken.value) == "the reply does not end within 0.01 seconds"
        with pytest.raises(BrokenReply) as broken:
            Connection(ours, silence=0.01, seconds=60).send(b"x" * 9_999_999)
        assert str(broken.value) == "the server does not read the request within 0.01 seconds"


def test_a_redirection_is_not_followed() -> None:
    asked = list[bytes]()

    def answer(connection: socket.socket) -> None:
        asked.append(b"")
        connection.sendall(head(b"location: /v1/messages\r\n", b"content-length: 0\r\n", status=b"HTTP/1.1 307 Go"))

    got = exchange(answer)
    assert (got.status, got.failure, len(asked)) == (307, "", 1)


@pytest.mark.parametrize(
    "content",
    [
        b'[{"type": "text", "text": "\\ud800"}]',
        b'[{"type": "text", "text": ' + b"[" * 500 + b"]" * 500 + b"}]",
        b'[{"type": "text", "text": ' + b"1" * 9000 + b"}]",
        b'[{"type": "text", "text": NaN}]',
    ],
    ids=["half surrogate", "deep", "long number", "NaN"],
)
def test_no_content_is_a_fault(content: bytes) -> None:
    body = BODY.replace(b'[{"type": "text", "text": "hello"}]', content).replace(b"end_turn", b"tool_use")
    assert body != BODY
    checks = [check for check in load_suite() if "backend" not in check.needs and check.group != "counts"]
    with serve_bytes(lambda connection: connection.sendall(sized(body))) as url:
        results = Runner(Options(url=url, model="m")).run(checks)
    assert [result.reasons for result in results if result.outcome is Outcome.FAULT] == []
