"""One exchange without a server: a program passes the body of a request, and reads the bytes of the response."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from msgspec import Struct

from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.client_request import ClientRequest, start_recording
from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.exchange.responses import (
    encode_error_response,
    encode_events,
    encode_message,
    exchange_headers,
    json_headers,
    stream_headers,
)
from anthropic_proxy.engine.hooks import Client, Receipt
from anthropic_proxy.engine.messages.events import Event
from anthropic_proxy.engine.messages.models import MessagesResponse
from anthropic_proxy.errors import ProxyError

_MAX_WAITING_PIECES = 16
"""Pieces of a response that wait for the program. The provider's stream is not read further meanwhile."""


class InProcessResponse(Struct, frozen=True):
    """Response to one request."""

    status: int
    headers: Mapping[str, str]
    body: "ResponseBody"
    """Read it to its end, or close it: `await response.body.aclose()`."""


class ResponseBody:
    """Bytes of a response, as they come from the provider."""

    def __init__(self, sink: "_BufferedSink", task: asyncio.Task[None]) -> None:
        self._sink, self._task = sink, task

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if piece := await self._sink.pop():
            return piece
        await self.aclose()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the exchange and the call of the provider, as after a client that disconnects."""
        self._sink.close()
        await asyncio.wait({self._task})


async def send_request(engine: Engine, body: bytes, headers: Mapping[str, str] | None = None) -> InProcessResponse:
    """Serve the body of a `POST /v1/messages`, and return the response as soon as it begins.

    `headers` are those of the client, with names in lower case. Errors are responses with a status of 400 or more.
    """
    receipt = Receipt(request_id=engine.new_id("req_"), client=Client(), started_at=engine.clock())
    receipt.trace = None if engine.tracer is None else engine.tracer.start_trace(None)
    request = ClientRequest(receipt=receipt, headers=headers or {}, body=body)
    sink = _BufferedSink(receipt, start_recording(engine, request) if engine.recorders else None)

    async def run() -> None:
        try:
            await Exchange(engine, request, sink).run()
        finally:
            sink.end()

    task = asyncio.create_task(run())
    try:
        status, response_headers = await sink.wait_for_head()
    except asyncio.CancelledError:
        sink.close()
        raise
    return InProcessResponse(status, response_headers, ResponseBody(sink, task))


class _BufferedSink:
    """It implements `ResponseSink`, and keeps pieces until the program reads them.

    The last piece never waits for room: an exchange that is cancelled still ends with an error.
    """

    def __init__(self, receipt: Receipt, record: Callable[[bytes], None] | None) -> None:
        self._receipt, self._request_id, self._record = receipt, receipt.request_id, record
        self._head: tuple[int, Mapping[str, str]] | None = None
        self._pieces: deque[bytes] = deque()
        self._has_ended = False
        self._closed = asyncio.Event()
        self._ready, self._room = asyncio.Event(), asyncio.Event()

    async def send_events(self, events: Sequence[Event], *, is_last: bool = False) -> None:
        await self._put(200, stream_headers(self._request_id), encode_events(events, self._request_id), is_last=is_last)

    async def send_relayed_bytes(
        self, data: bytes, headers: Mapping[str, str], *, is_stream: bool, is_last: bool, status: int = 200
    ) -> None:
        own = stream_headers(self._request_id) if is_stream else json_headers(self._request_id)
        await self._put(status, {**own, **headers}, data, is_last=is_last)

    async def send_message(self, response: MessagesResponse) -> None:
        await self._put(200, json_headers(self._request_id), encode_message(response), is_last=True)

    async def send_error_response(self, error: ProxyError) -> None:
        headers, body = encode_error_response(error, self._request_id)
        await self._put(error.status, headers, body, is_last=True)

    async def wait_disconnected(self) -> None:
        await self._closed.wait()

    async def wait_for_head(self) -> tuple[int, Mapping[str, str]]:
        """Return status and headers. Raises `CancelledError` if the exchange was cancelled before it had them."""
        await self._ready.wait()
        if self._head is None:
            raise asyncio.CancelledError
        return self._head

    async def pop(self) -> bytes:
        """Return the next piece. b"": the response has ended."""
        while not self._pieces and not self._has_ended and not self._closed.is_set():
            self._ready.clear()
            await self._ready.wait()
        self._room.set()
        return self._pieces.popleft() if self._pieces else b""

    def end(self) -> None:
        self._has_ended = True
        self._ready.set()

    def close(self) -> None:
        """Drop what is not read. The watchdog then ends the exchange."""
        self._closed.set()
        self._pieces.clear()
        self._room.set()
        self._ready.set()

    async def _put(self, status: int, headers: Mapping[str, str], piece: bytes, *, is_last: bool) -> None:
        if self._head is None:
            self._head = status, {**headers, **exchange_headers(self._receipt, status)}
            self._ready.set()
        while len(self._pieces) >= _MAX_WAITING_PIECES and not is_last and not self._closed.is_set():
            self._room.clear()
            await self._room.wait()
        if piece and not self._closed.is_set():
            if self._record is not None:
                self._record(piece)
            self._pieces.append(piece)
            self._ready.set()
