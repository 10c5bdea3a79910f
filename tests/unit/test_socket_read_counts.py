"""Calls per read of a socket: HTTP on both sides of the proxy.

The method is that of `test_operation_counts`.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from anthropic_proxy.engine.upstream.http.connection import Connection, ConnectionPool
from anthropic_proxy.engine.upstream.http.url import Origin
from anthropic_proxy.gateway.server.http1.connection import Http1Connection
from anthropic_proxy.gateway.server.http1.lifecycle import ServerState
from tests.fuzz.targets.connection import KeptConnection
from tests.support.operation_counts import MORE, VERSIONS, WARM_UPS, Calls

HEADERS = 7
HEAD = b"POST /v1/messages?beta=true HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"".join(
    b"x-header-%d: value\r\n" % number for number in range(HEADERS - 2)
)
SMALL = HEAD + b"Content-Length: 1000\r\n\r\n" + b"x" * 1000
LARGE = HEAD + b"Content-Length: 300000\r\n\r\n" + b"x" * 300_000
READ_BYTES = 256 * 1024
CHUNKS = 100
REPLY = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000
STREAM = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class _Connection(KeptConnection):
    def writelines(self, list_of_data: Any) -> None:
        self.sent += b"".join(list_of_data)


async def _serve_nothing(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


async def read_requests(calls: Calls, data: bytes) -> None:
    """Count the calls of a server while it receives a request. Calls for the answer are not counted."""
    state = ServerState(_serve_nothing)
    protocol = Http1Connection(state)
    protocol.connection_made(_Connection())
    for turn in range(WARM_UPS + 1):
        for start in range(0, len(data), READ_BYTES):
            receive(protocol, data[start : start + READ_BYTES], calls if turn == WARM_UPS else None)
        await asyncio.gather(*state.request_tasks)
    protocol.connection_lost(None)


async def read_replies(calls: Calls, data: bytes) -> None:
    """Count the calls of an HTTP client while it receives a reply."""
    connection = Connection(Origin("http", "127.0.0.1", 9), ConnectionPool())
    connection.connection_made(_Connection())
    for turn in range(WARM_UPS + 1):
        asked = asyncio.create_task(connection.send_request(b"GET / HTTP/1.1\r\n\r\n", b""))
        await asyncio.sleep(0)
        receive(connection, data, calls if turn == WARM_UPS else None)
        response = await asked
        while await response.read():
            pass
        await response.close(wait_for_end=True)
    connection.connection_lost(None)


def receive(protocol: asyncio.Protocol, data: bytes, calls: Calls | None) -> None:
    before = sys.getprofile()
    sys.setprofile(calls)
    try:
        protocol.data_received(data)
    finally:
        sys.setprofile(before)


def count(read: Callable[[Calls, bytes], Awaitable[None]], data: bytes) -> Calls:
    calls = Calls()
    asyncio.run(_count(read, calls, data))
    return calls


async def _count(read: Callable[[Calls, bytes], Awaitable[None]], calls: Calls, data: bytes) -> None:
    await read(calls, data)


@pytest.mark.skipif(sys.version_info[:2] not in VERSIONS, reason="platform: no counts for this version of CPython")
@pytest.mark.skipif(sys.implementation.name != "cpython", reason="platform: the counts are those of CPython")
@pytest.mark.parametrize(
    ("read", "data", "bound"),
    [
        pytest.param(read_requests, SMALL, 54, id="request in one read"),
        pytest.param(read_requests, LARGE, 68, id="request in two reads"),
        pytest.param(read_replies, REPLY, 26, id="reply in one read"),
        pytest.param(
            read_replies, STREAM + b"1\r\nx\r\n" * CHUNKS + b"0\r\n\r\n", 422, id="hundred chunks in one read"
        ),
    ],
)
def test_a_read_costs_the_recorded_number_of_operations(
    read: Callable[[Calls, bytes], Awaitable[None]], data: bytes, bound: int
) -> None:
    calls = count(read, data)
    top_places = "\n".join(f"{times:7,} {place}" for place, times in calls.most_common(20))
    assert calls.total() <= bound * MORE, f"was {bound} calls, is {calls.total()}.\n{top_places}"
