"""Sink of one HTTP response: sends events, a message or an error to the client through the ASGI function `send`."""

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
"""ASGI scope: method, path, headers and addresses of one client request."""
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
"""ASGI `receive`: returns the next piece of the request body, or `http.disconnect`."""
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
"""ASGI `send`: sends the head or a piece of the body of the response."""


class AsgiSink:
    """Sink of the response to one client request, through ASGI.

    It implements `exchange.client_request.ResponseSink`, so that exchanges need not import the server.
    """

    def __init__(self, receive: Receive, send: Send, request_id: str) -> None:
        self._receive = receive
        self._send = send
        self._request_id = request_id
        self._started = False
        self._receipt: Receipt | None = None

    def attach_receipt(self, receipt: Receipt) -> None:
        """Set the receipt from which fidelity and failed attempts are sent as response headers. Call this first."""
        self._receipt = receipt

    async def send_events(self, events: Sequence[Event], *, last: bool = False) -> None:
        """Send events of a stream to the client as SSE frames. `last`: the response is complete.

        The first call sends status 200 and the stream headers before the events.
        """
        if not self._started:
            await self._open(200, stream_headers(self._request_id))
        body = encode_events(events, self._request_id)
        await self._send({"type": "http.response.body", "body": body, "more_body": not last})

    async def send_relayed(self, data: bytes, headers: Mapping[str, str], *, streams: bool, last: bool) -> None:
        """Send bytes of a provider response to the client unchanged, with status 200.

        `headers`: provider headers, which the first call sends. `streams`: the bytes are a fragment of a stream; False:
        the complete body. `last`: the response is complete.
        """
        if not streams:
            await self.send_response(200, data, {**json_headers(self._request_id), **headers})
            return
        if not self._started:
            await self._open(200, {**stream_headers(self._request_id), **headers})
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def send_message(self, response: MessagesResponse) -> None:
        """Send a complete reply to a client request without `stream`, as JSON with status 200."""
        await self.send_response(200, encode_message(response))

    async def send_json_reply(self, reply: JsonReply) -> None:
        """Send a JSON body unchanged with status 200. A body from a provider has the provider's headers in `reply`."""
        await self.send_response(200, reply.body, {**json_headers(self._request_id), **reply.headers})

    async def send_response(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send a complete response with the header `content-length`. `headers`: None or empty: headers for JSON."""
        headers = headers or json_headers(self._request_id)
        await self._open(status, {**headers, "content-length": str(len(body))})
        await self._send({"type": "http.response.body", "body": body})

    async def send_error(self, error: ProxyError) -> None:
        """Send an error response in Anthropic's format, with the status and headers of the error.

        Does nothing if the response has started. The body of a relayed provider error is sent unchanged.
        """
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
        """True if status and headers of the response have been sent. An error can then no longer change the status."""
        return self._started

    async def wait_disconnected(self) -> None:
        """Wait until the client disconnects. Call this only after the request body was read."""
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
