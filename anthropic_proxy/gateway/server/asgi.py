"""A request and its response as messages of ASGI: `read_body`, with a limit of the memory for large bodies, and
`AsgiSink`, the response to an HTTP client.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, MutableMapping
from http import HTTPStatus
from typing import Any

from msgspec import Struct, structs

from anthropic_proxy.engine.exchange.client_side import ResponseSink, encode_error_response
from anthropic_proxy.engine.exchange.watchdog import ClientDisconnected
from anthropic_proxy.engine.memory_plan import LARGEST_BODY_BYTES, SMALL_BODY_BYTES, USUAL_BODY_BYTES
from anthropic_proxy.engine.turns import Turns
from anthropic_proxy.errors import MethodNotAllowed, ProxyError, RequestTimeout
from anthropic_proxy.gateway.error_catalog import error_help_headers
from anthropic_proxy.gateway.server.auth import MAX_REQUEST_BYTES, build_size_error
from anthropic_proxy.gateway.server.http1.cycle import RequestResponseCycle
from anthropic_proxy.gateway.server.path_prefix import add_prefix
from anthropic_proxy.gateway.services import Services
from anthropic_proxy.plugins import Receipt, RouteResponse

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Scope = Mapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_WITHOUT_BODY = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
READ_TIMEOUT_SECONDS = 30.0
"""Maximum time between two received pieces of a request body. A longer pause is rejected with 408."""
COUNTED_READ_TIMEOUT_SECONDS = 15.0
"""The same for a body that holds memory which others may need."""
BODY_TIMEOUT_SECONDS = 300.0
"""Maximum time for a complete request body, enough for 32 MB at 1 Mbit/s. A slower body is rejected with 408."""
MIN_RATE, MIN_RATE_AFTER_SECONDS = 128 * 1024, 10.0
"""Bytes a second that a body has, from that time on, while others wait for its memory. A slower one is rejected with
408."""


class BodyMemory(Struct, eq=False):
    """The part of `Services.body_memory` that one request has until its body is no longer needed."""

    services: Services
    payer: str = ""
    size: int = 0
    """Reserved bytes. 0: the body is small (`endpoints.py`), or was freed."""
    turns: Turns | None = None
    """Of small, usual or large bodies, as was reserved."""
    read_size: int = 0
    """Those of the reserved bytes that are for what was read besides the body."""

    async def grow(self, size: int) -> None:
        """Wait until other bodies have left so much memory in all. Raises `ProxyBusy`."""
        turns = self.services.body_memory[(size > SMALL_BODY_BYTES) + (size > USUAL_BODY_BYTES)]
        if not self.size and turns.acquire_free(self.payer, size):  # the usual case
            self.turns, self.size = turns, size
        else:
            await self._take(turns, size)

    async def _take(self, turns: Turns, size: int, *, may_wait: bool = True) -> None:
        """Have `size` bytes of a part in all. What already has some of a part never waits for more of it: two that
        did would wait for each other.
        """
        held = self.size if self.turns is turns else 0
        if not turns.acquire_free(self.payer, size - held):
            if held or not may_wait:
                raise turns.build_refusal()
            await turns.acquire(self.payer, size)
        if not held:
            self.release()
        self.turns, self.size = turns, size

    def is_waited_for(self) -> bool:
        """Return True if another client waits for memory of this kind."""
        return self.turns is not None and self.turns.is_waited_for(self.payer)

    def release(self, kept: int = 0) -> None:
        if self.turns is not None and self.size > kept:
            self.turns.release(self.payer, self.size - kept)
            self.size = kept

    async def count_read(self, size: int, *, may_wait: bool = True) -> None:
        """The whole memory of the request is then in the part of large bodies. It is never more than that of the
        largest body: the files in a body have little made of them besides. Raises `ProxyBusy`.
        """
        if not self.size:
            self.read_size = 0
        more = min(size, LARGEST_BODY_BYTES - (self.size - self.read_size)) - self.read_size
        if size > SMALL_BODY_BYTES and more > 0:
            await self._take(self.services.body_memory[2], self.size + more, may_wait=may_wait)
            self.read_size += more

    def free(self, size: int) -> None:
        self.services.heap_trimmer.count_freed_bytes(size)
        self.release()


async def read_body(
    receive: Receive,
    memory: BodyMemory,
    content_length: str = "",
    max_bytes: int = MAX_REQUEST_BYTES,
    *,
    read_timeout_seconds: float = READ_TIMEOUT_SECONDS,
    body_timeout_seconds: float = BODY_TIMEOUT_SECONDS,
) -> bytes:
    """Return the request body from ASGI `receive`. Raises `ClientDisconnected`, `RequestTimeout` for a slow client,
    `RequestTooLarge` above `max_bytes`, and `ProxyBusy` if `memory` has no room for it.
    """
    pieces: list[bytes] = []
    size = 0
    announced = int(content_length) if content_length.isdecimal() else 0
    if announced > SMALL_BODY_BYTES:
        if announced > max_bytes:
            raise build_size_error(max_bytes)
        await memory.grow(announced)
    begin = 0.0
    try:
        async with asyncio.timeout(COUNTED_READ_TIMEOUT_SECONDS if memory.size else read_timeout_seconds) as limit:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnected
                piece = message.get("body", b"")
                size += len(piece)
                if size > max_bytes:
                    raise build_size_error(max_bytes)
                pieces.append(piece)
                if size > SMALL_BODY_BYTES and size > memory.size:  # a body without a length
                    limit.reschedule(None)
                    waits_since = asyncio.get_running_loop().time()
                    next_size = USUAL_BODY_BYTES if size <= USUAL_BODY_BYTES else MAX_REQUEST_BYTES
                    await memory.grow(min(next_size, max_bytes))
                    if len(pieces) > 1:
                        begin += asyncio.get_running_loop().time() - waits_since  # the client does not cause it
                if not message.get("more_body"):
                    if memory.size > size:
                        memory.release(size)
                    return piece if len(pieces) == 1 else b"".join(pieces)
                now = asyncio.get_running_loop().time()
                if len(pieces) == 1:
                    begin = now
                seconds = now - begin
                if seconds > MIN_RATE_AFTER_SECONDS and size < MIN_RATE * seconds and memory.is_waited_for():
                    break
                pause = min(read_timeout_seconds, COUNTED_READ_TIMEOUT_SECONDS) if memory.size else read_timeout_seconds
                limit.reschedule(min(now + pause, begin + body_timeout_seconds))
    except TimeoutError:
        pass
    raise RequestTimeout(f"The body was not complete in time: {size} bytes were received.")


class AsgiSink(ResponseSink):
    """The response to an HTTP client, sent with the functions that the HTTP server gives to an ASGI application.

    `cycle`: the request and response of the proxy's own server. None: another ASGI server. `prefix`: path below which
    the client sees the proxy.
    """

    has_exchange_headers = False
    status = 200
    _head: dict[str, Any] | None = None
    """Message with status and headers that another server gets before the first piece. None: none waits."""
    encode_error: Callable[[ProxyError], RouteResponse] | None = None
    """That of the route of a plugin."""

    def __init__(
        self,
        receipt: Receipt,
        receive: Receive,
        send: Send,
        cycle: RequestResponseCycle | None = None,
        prefix: str = "",
    ) -> None:
        super().__init__(receipt)
        self._prefix = prefix
        self._receive = receive
        self._send = send
        self._cycle = cycle
        if cycle is not None:
            cycle.receipt = receipt
        self.began = time.monotonic()

    def start(self, status: int, headers: Collection[tuple[str, str]]) -> None:
        self.status = status
        if self._cycle is not None:
            self._cycle.start_response(status, headers)
            self.started = True
            return
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        self.started = True
        self._head = {"type": "http.response.start", "status": status, "headers": pairs}

    def write(self, data: bytes, *, is_last: bool) -> Awaitable[None]:
        if self._cycle is not None:
            return self._cycle.write_body(data, is_last=is_last)
        return self._write_messages(data, is_last=is_last)

    async def _write_messages(self, data: bytes, *, is_last: bool) -> None:
        head, self._head = self._head, None
        if head is not None:
            await self._send(head)
        await self._send({"type": "http.response.body", "body": data, "more_body": not is_last})

    async def wait_disconnected(self) -> None:
        """Wait until the client has disconnected. Call this only after the request body was read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def send_error_response(self, error: ProxyError) -> None:
        """Does nothing if the response has started."""
        if not self.started:
            await super().send_error_response(error)

    async def send_told_error(self, error: ProxyError) -> None:
        further = error_help_headers(error)
        if isinstance(error, MethodNotAllowed):
            further["allow"] = ", ".join(error.allowed)
        elif error.closes_connection:
            further["connection"] = "close"  # the remaining bytes would be parsed as a request
        if self.encode_error is not None:
            response = self.encode_error(error)
            await self.send_route_response(structs.replace(response, headers={**response.headers, **further}))
            return
        headers, body = encode_error_response(error, self.receipt.request_id)
        await self.send_response(error.status, body, headers | further)

    async def send_route_response(self, response: RouteResponse, *, has_body: bool = True) -> None:
        """Send the response of a route of a plugin. Without `has_body` (HEAD), a stream is not read."""
        if self._prefix:
            response = add_prefix(response, self._prefix)
        lines = {"request-id": [self.receipt.request_id]}
        lines |= {name: [value] if isinstance(value, str) else [*value] for name, value in response.headers.items()}
        chunks = response.body
        if isinstance(chunks, bytes) and response.status not in _WITHOUT_BODY:
            lines["content-length"] = [str(len(chunks))]
        self.start(response.status, [(name, value) for name in lines for value in lines[name]])
        if isinstance(chunks, bytes):
            await self.write(chunks, is_last=True)
            return
        if has_body:
            disconnected = asyncio.ensure_future(self.wait_disconnected())
            following: asyncio.Future[bytes] | None = None
            try:
                while True:
                    following = asyncio.ensure_future(_next_chunk(chunks))
                    await asyncio.wait({following, disconnected}, return_when=asyncio.FIRST_COMPLETED)
                    if disconnected.done() or not (chunk := following.result()):
                        break
                    await self.write(chunk, is_last=False)
            finally:
                for task in (disconnected, following):
                    if task is not None:
                        task.cancel()
                if following is not None:
                    await asyncio.wait({following})
                if isinstance(chunks, AsyncGenerator):
                    await chunks.aclose()
        await self.write(b"", is_last=True)


async def _next_chunk(chunks: AsyncIterator[bytes]) -> bytes:
    """Return the next chunk of a stream that is not empty. b"": the stream has ended."""
    async for chunk in chunks:
        if chunk:
            return chunk
    return b""
