"""Sink of an HTTP response: sends events, messages or an error to the client through ASGI."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

from anthropic_proxy.errors import MethodNotAllowed, ProxyError, UpstreamError
from anthropic_proxy.exchange.forwarding import JsonReply
from anthropic_proxy.messages.events import Event
from anthropic_proxy.messages.models import MessagesResponse
from anthropic_proxy.plugins import Receipt
from anthropic_proxy.server.responses import (
    encode_error,
    encode_events,
    encode_message,
    error_headers,
    fidelity_headers,
    json_headers,
    stream_headers,
)

Scope = Mapping[str, Any]
"""ASGI scope, `receive` and `send`."""
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class AsgiSink:
    """Sink of one HTTP response. It implements `exchange.pipeline.ResponseSink`."""

    def __init__(self, receive: Receive, send: Send, request_id: str) -> None:
        self._receive = receive
        self._send = send
        self._request_id = request_id
        self._started = False
        self._receipt: Receipt | None = None

    def attach_receipt(self, receipt: Receipt) -> None:
        """Set the receipt that the response headers are built from. Call this before any other method."""
        self._receipt = receipt

    async def send_events(self, events: Sequence[Event], *, last: bool = False) -> None:
        """Send events as one body message. The first call sends status 200 and the stream headers before."""
        if not self._started:
            await self._open(200, stream_headers(self._request_id))
        body = encode_events(events, self._request_id)
        await self._send({"type": "http.response.body", "body": body, "more_body": not last})

    async def send_relayed(self, data: bytes, headers: Mapping[str, str], *, streams: bool, last: bool) -> None:
        """Send unchanged bytes of an upstream, the first with its headers. `last`: the response is complete."""
        if not streams:
            await self.send_response(200, data, {**json_headers(self._request_id), **headers})
            return
        if not self._started:
            await self._open(200, {**stream_headers(self._request_id), **headers})
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def send_message(self, response: MessagesResponse) -> None:
        """Send a complete Messages API response as JSON, with status 200."""
        await self.send_response(200, encode_message(response))

    async def send_json_reply(self, reply: JsonReply) -> None:
        """Send a JSON body of a provider unchanged, with the provider's headers and status 200."""
        await self.send_response(200, reply.body, {**json_headers(self._request_id), **reply.headers})

    async def send_response(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send a complete response with `content-length`. `headers`: None: those of a JSON response."""
        headers = headers or json_headers(self._request_id)
        await self._open(status, {**headers, "content-length": str(len(body))})
        await self._send({"type": "http.response.body", "body": body})

    async def send_error(self, error: ProxyError) -> None:
        """Send an error response with its status and headers. Nothing is sent if a response has started."""
        if self._started:
            return
        headers = error_headers(error, self._request_id)
        if isinstance(error, MethodNotAllowed):
            headers["allow"] = ", ".join(error.allowed)
        elif error.closes_connection:
            headers["connection"] = "close"  # the remaining bytes would be parsed as a request
        body = encode_error(error, self._request_id)
        if isinstance(error, UpstreamError):
            body, headers = error.body or body, {**headers, **error.headers}
        await self.send_response(error.status, body, headers)

    @property
    def started(self) -> bool:
        """True if the response head has been sent."""
        return self._started

    async def wait_disconnected(self) -> None:
        """Return when the client disconnects."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _open(self, status: int, headers: Mapping[str, str]) -> None:
        if receipt := self._receipt:
            headers = {
                **headers,
                **fidelity_headers(receipt.fidelity if status == 200 else None, receipt.failed_attempts),
            }
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        self._started = True
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})
