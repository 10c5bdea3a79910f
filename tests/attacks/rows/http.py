"""Raw HTTP from a client, before authentication."""

from collections.abc import Callable
from itertools import repeat

from tests.attacks.lab import Attack, Row
from tests.faults.client import Answer

_KEY = {"PROXY_API_KEY": "attack-proxy-key-0001"}
_HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
_HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
_CHUNKED = b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"


def _send(*pieces: bytes, times: int = 1) -> Callable[[Attack], list[Answer]]:
    def run(attack: Attack) -> list[Answer]:
        attack.exchange(*(piece for _ in repeat(None, times) for piece in pieces))
        return []

    return run


def _without_responses(request: bytes) -> Callable[[Attack], list[Answer]]:
    def run(attack: Attack) -> list[Answer]:
        received = attack.exchange(request)
        count = received.count(b"HTTP/1.1 ")
        assert count == 1, f"{count} responses: {received[:500]!r}"
        return []

    return run


_UPGRADE = (
    b"POST /v1/messages HTTP/1.0\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + _HEALTH
)
_PIPELINED = {
    "requests": _HEALTH * 8_000,
    "requests that are not found": b"GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n" * 8_000,
    "requests with a body": b"POST /health HTTP/1.1\r\nHost: localhost\r\ncontent-length: 2\r\n\r\n{}" * 5_000,
    "requests without a Host": b"GET / HTTP/1.1\r\n\r\n" * 8_000,
}

HTTP: tuple[Row, ...] = (
    *(
        Row(
            name=f"39 MB of pipelined {name}{' with a proxy key set' if settings else ''}",
            run=_send(data, times=100),
            settings=settings,
        )
        for name, data in _PIPELINED.items()
        for settings in ({}, _KEY)
    ),
    Row(name="client: a trailer of 50 MB", run=_send(_CHUNKED + b"2\r\n{}\r\n0\r\nx: ", *[b"y" * 1_000_000] * 50)),
    Row(name="client: 1,000,000 trailers", run=_send(_CHUNKED + b"2\r\n{}\r\n0\r\n", *[b"x: y\r\n" * 10_000] * 100)),
    Row(name="client: a chunk extension of 50 MB", run=_send(_CHUNKED + b"2;e=", *[b"y" * 1_000_000] * 50)),
    Row(name="client: 100,000 chunk extensions", run=_send(_CHUNKED, *[b"1;a=" + b"b" * 200 + b"\r\n \r\n"] * 100_000)),
    Row(name="client: headers without an end", run=_send(_HEAD, *[b"x: y\r\n" * 10_000] * 100)),
    Row(name="client: a header of 50 MB", run=_send(_HEAD + b"x: ", *[b"y" * 1_000_000] * 50)),
    Row(name="client: a path of 50 MB", run=_send(b"GET /", *[b"y" * 1_000_000] * 50)),
    Row(name="client: a body of 3 MB in chunks of 1 byte", run=_send(_CHUNKED, *[b"1\r\n \r\n" * 10_000] * 300)),
    Row(name="client: HTTP/1.0 with Upgrade and chunks", run=_without_responses(_UPGRADE)),
)
