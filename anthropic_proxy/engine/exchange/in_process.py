"""One exchange without a server: a program passes the body of a request, and reads the bytes of the response."""

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Self

from msgspec import Struct

from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.client_side import ClientRequest, ResponseSink
from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.hooks import Client, Receipt

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
        self._sink = sink
        self._task = task

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

    `headers`: headers of the client, names in lower case. Errors are responses with a status of 400 or more.
    """
    receipt = Receipt(request_id=engine.new_id("req_"), client=Client(), started_at=engine.clock())
    receipt.trace = None if engine.tracer is None else engine.tracer.start_trace(None)
    request = ClientRequest(
        receipt=receipt, headers=headers or {}, body=body, background=engine.background.of(receipt.client.payer)
    )
    sink = _BufferedSink(receipt)

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


class _BufferedSink(ResponseSink):
    """It keeps pieces until the program reads them.

    The last piece never waits for room: an exchange that is cancelled still ends with an error.
    """

    def __init__(self, receipt: Receipt) -> None:
        super().__init__(receipt)
        self._head: tuple[int, Mapping[str, str]] | None = None
        self._pieces: deque[bytes] = deque()
        self._has_ended = False
        self._closed = asyncio.Event()
        self._ready, self._room = asyncio.Event(), asyncio.Event()

    def start(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        self.started = True
        self._head = (status, dict(headers))
        self._ready.set()

    async def write(self, data: bytes, *, is_last: bool) -> None:
        while len(self._pieces) >= _MAX_WAITING_PIECES and not is_last and not self._closed.is_set():
            self._room.clear()
            await self._room.wait()
        if data and not self._closed.is_set():
            self._pieces.append(data)
            self._ready.set()

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
