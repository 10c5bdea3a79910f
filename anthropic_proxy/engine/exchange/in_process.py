"""One exchange without a server: a program passes the body of a request, and reads the bytes of the response."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, cast

from msgspec import Struct

from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.client_request import ClientRequest
from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.exchange.responses import (
    encode_error,
    encode_events,
    encode_message,
    error_headers,
    json_headers,
    receipt_headers,
    stream_headers,
)
from anthropic_proxy.engine.hooks import Client, Receipt
from anthropic_proxy.engine.messages.events import Event
from anthropic_proxy.engine.messages.models import MessagesResponse
from anthropic_proxy.errors import ProxyError

_MAX_WAITING_PIECES = 16
"""Pieces of a response that wait for the reader. The provider's stream is not read further meanwhile."""


class InProcessResponse(Struct, frozen=True):
    """Response to one request. The body must be read to its end, or closed (`aclose`)."""

    status: int
    headers: Mapping[str, str]
    body: AsyncGenerator[bytes, None]


async def send_request(engine: Engine, body: bytes, headers: Mapping[str, str] | None = None) -> InProcessResponse:
    """Serve the body of a `POST /v1/messages`, and return the response as soon as it begins.

    `headers` are those of the client, with names in lower case. Errors are responses with a status of 400 or more.
    """
    request = ClientRequest(request_id=engine.new_id("req_"), client=Client(), headers=headers or {}, body=body)
    sink = _QueueSink(request.request_id)

    async def run() -> None:
        try:
            await Exchange(engine, request, sink).run()
        finally:
            await sink.put(b"")

    task = asyncio.create_task(run())
    try:
        await asyncio.wait(cast("list[asyncio.Future[Any]]", [sink.head, task]), return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        sink.close()
        raise
    if not sink.head.done():
        await task  # raises what ended it before its response
    status, response_headers = sink.head.result()
    return InProcessResponse(status, response_headers, sink.read(task))


class _QueueSink:
    """It implements `ResponseSink`. b"" is the end of the pieces."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._receipt: Receipt | None = None
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue(_MAX_WAITING_PIECES)
        self._closed = asyncio.Event()
        self.head: asyncio.Future[tuple[int, Mapping[str, str]]] = asyncio.get_running_loop().create_future()

    def attach_receipt(self, receipt: Receipt) -> None:
        self._receipt = receipt

    async def send_events(self, events: Sequence[Event], *, is_last: bool = False) -> None:
        self._open(200, stream_headers(self._request_id))
        await self.put(encode_events(events, self._request_id))

    async def send_relayed_bytes(
        self, data: bytes, headers: Mapping[str, str], *, is_stream: bool, is_last: bool, status: int = 200
    ) -> None:
        own = stream_headers(self._request_id) if is_stream else json_headers(self._request_id)
        self._open(status, {**own, **headers})
        if data:
            await self.put(data)

    async def send_message(self, response: MessagesResponse) -> None:
        self._open(200, json_headers(self._request_id))
        await self.put(encode_message(response))

    async def send_error_response(self, error: ProxyError) -> None:
        self._open(error.status, error_headers(error, self._request_id))
        await self.put(encode_error(error, self._request_id))

    async def wait_disconnected(self) -> None:
        await self._closed.wait()

    async def put(self, piece: bytes) -> None:
        if not self._closed.is_set():
            await self._pieces.put(piece)

    async def read(self, task: asyncio.Task[None]) -> AsyncGenerator[bytes, None]:
        try:
            while piece := await self._pieces.get():
                yield piece
        finally:
            self.close()
            await asyncio.wait({task})

    def close(self) -> None:
        """Drop what is not read. The watchdog then ends the exchange, as after a client that disconnects."""
        self._closed.set()
        while not self._pieces.empty():
            self._pieces.get_nowait()

    def _open(self, status: int, headers: Mapping[str, str]) -> None:
        if self.head.done():
            return
        if receipt := self._receipt:
            report = receipt.fidelity if status == 200 else None
            headers = {**headers, **receipt_headers(report, receipt.failed_attempts, receipt.route)}
        self.head.set_result((status, headers))
