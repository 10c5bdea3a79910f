"""`AsgiSink`: the response to a client request through the ASGI function `send`."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any

from anthropic_proxy.engine.exchange.client_side import ResponseSink, encode_error_response
from anthropic_proxy.errors import MethodNotAllowed, ProxyError
from anthropic_proxy.gateway.error_catalog import error_help_headers
from anthropic_proxy.plugins import Receipt, RouteResponse

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class AsgiSink(ResponseSink):
    def __init__(self, receipt: Receipt, receive: Receive, send: Send) -> None:
        super().__init__(receipt)
        self._receive, self._send = receive, send
        self.has_exchange_headers = False
        self.status = 200

    def start(self, status: int, headers: Iterable[tuple[str, str]]) -> Awaitable[None]:
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        self.started, self.status = True, status
        return self._send({"type": "http.response.start", "status": status, "headers": pairs})

    def write(self, data: bytes, *, is_last: bool) -> Awaitable[None]:
        return self._send({"type": "http.response.body", "body": data, "more_body": not is_last})

    async def wait_disconnected(self) -> None:
        """Call this only after the request body was read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def send_error_response(self, error: ProxyError) -> None:
        """Does nothing if the response has started."""
        if self.started:
            return
        headers, body = encode_error_response(error, self.receipt.request_id)
        headers |= error_help_headers(error)
        if isinstance(error, MethodNotAllowed):
            headers["allow"] = ", ".join(error.allowed)
        elif error.closes_connection:
            headers["connection"] = "close"  # the remaining bytes would be parsed as a request
        await self.send_response(error.status, body, headers)

    async def send_route_response(self, response: RouteResponse, *, has_body: bool = True) -> None:
        """Without `has_body` (HEAD), a stream is not read."""
        lines = {"request-id": [self.receipt.request_id]}
        lines |= {name: [value] if isinstance(value, str) else [*value] for name, value in response.headers.items()}
        chunks = response.body
        if isinstance(chunks, bytes):
            lines["content-length"] = [str(len(chunks))]
        await self.start(response.status, [(name, value) for name in lines for value in lines[name]])
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
