"""`AsgiSink`: sends events, a message or an error to the client through the ASGI function `send`."""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    MutableMapping,
    Sequence,
)
from typing import Any

from anthropic_proxy.engine.exchange.forwarding import JsonReply
from anthropic_proxy.engine.exchange.responses import (
    encode_error_response,
    encode_events,
    encode_message,
    exchange_headers,
    json_headers,
    stream_headers,
)
from anthropic_proxy.engine.messages.events import Event
from anthropic_proxy.engine.messages.models import MessagesResponse
from anthropic_proxy.errors import MethodNotAllowed, ProxyError
from anthropic_proxy.gateway.error_catalog import error_help_headers
from anthropic_proxy.plugins import Receipt, RouteResponse

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class AsgiSink:
    """It implements `ResponseSink` of the package `exchange`."""

    def __init__(self, receive: Receive, send: Send, request_id: str) -> None:
        self._receive = receive
        self._send = send
        self._request_id = request_id
        self._started = False
        self._status = 200
        self._receipt: Receipt | None = None

    def attach_receipt(self, receipt: Receipt) -> None:
        """Add the headers of an exchange, which follow from its receipt, to the response."""
        self._receipt = receipt

    def attach_body_recorder(self, record: Callable[[bytes], None]) -> None:
        """Call this before the first piece is sent."""
        send = self._send

        async def record_and_send(message: MutableMapping[str, Any]) -> None:
            if piece := message.get("body"):
                record(piece)
            await send(message)

        self._send = record_and_send

    async def send_events(self, events: Sequence[Event], *, is_last: bool = False) -> None:
        if not self._started:
            await self._open(200, stream_headers(self._request_id))
        body = encode_events(events, self._request_id)
        await self._send({"type": "http.response.body", "body": body, "more_body": not is_last})

    async def send_relayed_bytes(
        self, data: bytes, headers: Mapping[str, str], *, is_stream: bool, is_last: bool, status: int = 200
    ) -> None:
        if not is_stream:
            await self.send_response(status, data, {**json_headers(self._request_id), **headers})
            return
        if not self._started:
            await self._open(status, {**stream_headers(self._request_id), **headers})
        await self._send({"type": "http.response.body", "body": data, "more_body": not is_last})

    async def send_message(self, response: MessagesResponse) -> None:
        await self.send_response(200, encode_message(response))

    async def send_json_reply(self, reply: JsonReply) -> None:
        await self.send_response(200, reply.body, {**json_headers(self._request_id), **reply.headers})

    async def send_response(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Without `headers`, those of a JSON response are sent."""
        headers = headers or json_headers(self._request_id)
        length = {} if status == 204 else {"content-length": str(len(body))}  # RFC 9110, 8.6: a 204 has no length
        await self._open(status, {**headers, **length})
        await self._send({"type": "http.response.body", "body": body})

    async def send_route_response(self, response: RouteResponse, *, has_body: bool = True) -> None:
        """Without `has_body` (HEAD), a stream is not read."""
        lines = {"request-id": [self._request_id]}
        lines |= {name: [value] if isinstance(value, str) else [*value] for name, value in response.headers.items()}
        chunks = response.body
        if isinstance(chunks, bytes):
            lines["content-length"] = [str(len(chunks))]
        await self._start(response.status, [(name, value) for name in lines for value in lines[name]])
        if isinstance(chunks, bytes):
            await self._send({"type": "http.response.body", "body": chunks})
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
                    await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
            finally:
                for task in (disconnected, following):
                    if task is not None:
                        task.cancel()
                if following is not None:
                    await asyncio.wait({following})
                if isinstance(chunks, AsyncGenerator):
                    await chunks.aclose()
        await self._send({"type": "http.response.body", "body": b""})

    async def send_error_response(self, error: ProxyError) -> None:
        """Does nothing if the response has started."""
        if self._started:
            return
        headers, body = encode_error_response(error, self._request_id)
        headers |= error_help_headers(error)
        if isinstance(error, MethodNotAllowed):
            headers["allow"] = ", ".join(error.allowed)
        elif error.closes_connection:
            headers["connection"] = "close"  # the remaining bytes would be parsed as a request
        await self.send_response(error.status, body, headers)

    @property
    def started(self) -> bool:
        return self._started

    @property
    def status(self) -> int:
        """200 before the response has started."""
        return self._status

    async def wait_disconnected(self) -> None:
        """Call this only after the request body was read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    # no coroutines of their own, because they run for each request: the caller awaits that of `_send`
    def _open(self, status: int, headers: Mapping[str, str]) -> Awaitable[None]:
        if receipt := self._receipt:
            headers = {**headers, **exchange_headers(receipt, status)}
        return self._start(status, headers.items())

    def _start(self, status: int, headers: Iterable[tuple[str, str]]) -> Awaitable[None]:
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        self._started, self._status = True, status
        return self._send({"type": "http.response.start", "status": status, "headers": pairs})


async def _next_chunk(chunks: AsyncIterator[bytes]) -> bytes:
    """Return the next chunk of a stream that is not empty. b"": the stream has ended."""
    async for chunk in chunks:
        if chunk:
            return chunk
    return b""
