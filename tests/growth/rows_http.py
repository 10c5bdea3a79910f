"""Rows of the table: HTTP as clients send it to the server, and as providers send it to the HTTP client."""

from tests.growth.measure import NO_WIRE, Row
from tests.growth.operations import provider, server

GET = b"GET / HTTP/1.1\r\nhost: x\r\n"
POST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi"
CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
UPGRADE = b"connection: upgrade\r\nupgrade: websocket\r\n"
REPLY = b"HTTP/1.1 200 OK\r\n"
CHUNKED_REPLY = REPLY + b"transfer-encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
EMPTY = b"content-length: 0\r\n\r\n"


def lines(n: int) -> bytes:
    return b"".join(b"x-h%d: v\r\n" % number for number in range(n))


SERVER = {
    "pipelined requests": (server(lambda n: (GET + b"\r\n") * n, lambda n: n), 120),
    "pipelined requests with bodies": (server(lambda n: POST * n, lambda n: n), 120),
    "pipelined requests that offer an upgrade": (server(lambda n: (GET + UPGRADE + b"\r\n") * n, lambda n: n), 80),
    "pipelined requests behind a slow answer": (
        server(lambda n: (GET + b"\r\n") * n, lambda n: n, size=512, is_slow=True),
        120,
    ),
    "pipelined requests by byte behind a slow answer": (
        server(lambda n: (GET + b"\r\n") * n, lambda n: n, size=1, is_slow=True),
        60,
    ),
    "header lines": (server(lambda n: GET + lines(n) + b"\r\n"), 200),
    "header lines beyond the limit": (server(lambda n: GET + b"a:\r\n" * n + b"\r\n"), 4_000),
    "header lines by byte": (server(lambda n: GET + lines(n) + b"\r\n", size=1), 80),
    "equal header lines": (server(lambda n: GET + b"a: b\r\n" * n + b"\r\n"), 200),
    "header lines of an upgrade": (server(lambda n: GET + UPGRADE + lines(n) + b"\r\n"), 200),
    "length of a header": (server(lambda n: GET + b"a: " + b"b" * n + b"\r\n\r\n"), 15_000),
    "length of a header by byte": (server(lambda n: GET + b"a: " + b"b" * n + b"\r\n\r\n", size=1), 500),
    "length of a header beyond the limit": (server(lambda n: GET + b"a: " + b"b" * n + b"\r\n\r\n"), 100_000),
    "length of a header name": (server(lambda n: GET + b"a" * n + b": b\r\n\r\n"), 15_000),
    "length of an address": (server(lambda n: b"GET /" + b"a" * n + GET[5:] + b"\r\n"), 7_000),
    "length of an address by byte": (server(lambda n: b"GET /" + b"a" * n + GET[5:] + b"\r\n", size=1), 500),
    "line breaks before a request by byte": (server(lambda n: b"\r\n" * n + GET + b"\r\n", size=1), 500),
    "escapes in an address": (server(lambda n: b"GET /" + b"%41" * n + GET[5:] + b"\r\n"), 2_000),
    "chunks of one byte": (server(lambda n: CHUNKED + b"1\r\na\r\n" * n + LAST), 500),
    "chunks of one byte by byte": (server(lambda n: CHUNKED + b"1\r\na\r\n" * n + LAST, size=1), 120),
    "length of a body by byte": (server(lambda n: b"%bcontent-length: %d\r\n\r\n" % (GET, n) + b"a" * n, size=1), 500),
    "chunk extensions": (server(lambda n: CHUNKED + b"1;a=b\r\na\r\n" * n + LAST), 500),
    "length of a chunk extension": (server(lambda n: CHUNKED + b"1;" + b"a" * n + b"\r\na\r\n" + LAST), 15_000),
    "length of a chunk extension by byte": (
        server(lambda n: CHUNKED + b"1;" + b"a" * n + b"\r\na\r\n" + LAST, size=1),
        500,
    ),
    "digits of a chunk size": (server(lambda n: CHUNKED + b"0" * n + b"1\r\na\r\n" + LAST), 15_000),
    "trailers": (server(lambda n: CHUNKED + b"1\r\na\r\n0\r\n" + lines(n) + b"\r\n"), 250),
    "length of a trailer": (server(lambda n: CHUNKED + b"1\r\na\r\n0\r\na: " + b"b" * n + b"\r\n\r\n"), 15_000),
}
"""Dimension → operation and n."""
PROVIDER = {
    "announcements (1xx)": (provider(lambda n: b"HTTP/1.1 103 Early Hints\r\na: b\r\n\r\n" * n + REPLY + EMPTY), 250),
    "announcements by byte": (provider(lambda n: b"HTTP/1.1 100 Continue\r\n\r\n" * n + REPLY + EMPTY, 1), 80),
    "header lines": (provider(lambda n: REPLY + lines(n) + EMPTY), 200),
    "header lines beyond the limit": (provider(lambda n: REPLY + b"a:\r\n" * n + EMPTY), 4_000),
    "header lines by byte": (provider(lambda n: REPLY + lines(n) + EMPTY, 1), 80),
    "equal header lines": (provider(lambda n: REPLY + b"a: b\r\n" * n + EMPTY), 200),
    "length of a header": (provider(lambda n: REPLY + b"a: " + b"b" * n + b"\r\n" + EMPTY), 50_000),
    "length of a header by byte": (provider(lambda n: REPLY + b"a: " + b"b" * n + b"\r\n" + EMPTY, 1), 500),
    "length of a header beyond the limit": (provider(lambda n: REPLY + b"a: " + b"b" * n + b"\r\n" + EMPTY), 300_000),
    "length of the reason": (provider(lambda n: b"HTTP/1.1 200 " + b"O" * n + b"\r\n" + EMPTY), 50_000),
    "chunks of one byte": (provider(lambda n: CHUNKED_REPLY + b"1\r\na\r\n" * n + LAST), 500),
    "chunks of one byte by byte": (provider(lambda n: CHUNKED_REPLY + b"1\r\na\r\n" * n + LAST, 1), 120),
    "length of a body by byte": (provider(lambda n: REPLY + b"content-length: %d\r\n\r\n" % n + b"a" * n, 1), 500),
    "chunk extensions": (provider(lambda n: CHUNKED_REPLY + b"1;a=b\r\na\r\n" * n + LAST), 500),
    "length of a chunk extension": (provider(lambda n: CHUNKED_REPLY + b"1;" + b"a" * n + b"\r\na\r\n" + LAST), 50_000),
    "trailers": (provider(lambda n: CHUNKED_REPLY + b"1\r\na\r\n0\r\n" + lines(n) + b"\r\n"), 500),
    "trailers by byte": (provider(lambda n: CHUNKED_REPLY + b"1\r\na\r\n0\r\n" + lines(n) + b"\r\n", 1), 80),
    "length of a trailer": (provider(lambda n: CHUNKED_REPLY + b"1\r\na\r\n0\r\na: " + b"b" * n + b"\r\n\r\n"), 50_000),
}
"""Dimension → operation and n."""

ROWS = [
    *(Row(f"HTTP of a client: {name}", NO_WIRE, operation, n) for name, (operation, n) in SERVER.items()),
    *(Row(f"HTTP of a provider: {name}", NO_WIRE, operation, n) for name, (operation, n) in PROVIDER.items()),
]
"""One line per dimension."""
