"""Reading the body of a request, with a limit of the memory for large bodies."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from anthropic_proxy.engine.exchange.watchdog import ClientDisconnected
from anthropic_proxy.engine.routing.call_limits import RETRY_AFTER_SECONDS
from anthropic_proxy.errors import ProxyBusy, RequestTimeout, RequestTooLarge
from anthropic_proxy.gateway.server.auth import MAX_REQUEST_BYTES
from anthropic_proxy.gateway.server.http1.cycle import MAX_BUFFERED_BODY_BYTES
from anthropic_proxy.gateway.services import Services
from anthropic_proxy.plugins import Receipt

READ_TIMEOUT_SECONDS = 30.0
"""Maximum time between two received pieces of a request body. A longer pause is rejected with 408."""
BODY_MEMORY_TIMEOUT_SECONDS = 30.0
"""Maximum time for which a large request body waits for memory. A longer wait is rejected with 529."""
BODY_TIMEOUT_SECONDS = 300.0
"""Maximum time for a complete request body, enough for 32 MB at 1 Mbit/s. A slower body is rejected with 408."""


class BodyMemory:
    """The part of `Services.body_memory` that the body of one request has until it is no longer needed."""

    def __init__(self, services: Services, receipt: Receipt) -> None:
        self._services, self._receipt = services, receipt
        self.size = 0
        """Reserved bytes. 0: the body is small, or was freed."""

    async def reserve(self, size: int) -> None:
        """Wait until other bodies have left so much memory. Raises `ProxyBusy`."""
        try:
            async with asyncio.timeout(BODY_MEMORY_TIMEOUT_SECONDS):
                await self._services.body_memory.acquire(self._receipt.client.name, size)
        except TimeoutError:
            limit = self._services.settings.max_body_memory_mb
            raise ProxyBusy(
                f"The bodies of other requests need the {limit} MB for large bodies (MAX_BODY_MEMORY_MB). Try again in "
                "a moment.",
                code="body-memory",
                retry_after=RETRY_AFTER_SECONDS,
            ) from None
        self.size = size

    def release(self, kept: int = 0) -> None:
        if self.size > kept:
            self._services.body_memory.release(self.size - kept)
            self.size = kept

    def free(self, size: int) -> None:
        self._services.heap_trimmer.count_freed_bytes(size)
        self.release()


async def read_body(
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    memory: BodyMemory,
    content_length: str = "",
    *,
    read_timeout_seconds: float = READ_TIMEOUT_SECONDS,
    body_timeout_seconds: float = BODY_TIMEOUT_SECONDS,
) -> bytes:
    """Return the request body from ASGI `receive`. Raises `ClientDisconnected`, `RequestTimeout` for a slow client,
    `RequestTooLarge` above `MAX_REQUEST_BYTES`, and `ProxyBusy` if `memory` has no room for it.
    """
    pieces: list[bytes] = []
    size = 0
    if content_length.isdecimal() and int(content_length) > MAX_BUFFERED_BODY_BYTES:
        await memory.reserve(int(content_length))
    try:
        async with asyncio.timeout(read_timeout_seconds) as limit:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnected
                piece = message.get("body", b"")
                size += len(piece)
                if size > MAX_REQUEST_BYTES:
                    raise RequestTooLarge(f"The body is larger than {MAX_REQUEST_BYTES:,} bytes (32 MB).")
                pieces.append(piece)
                if size > max(memory.size, MAX_BUFFERED_BODY_BYTES):  # a body without a length
                    limit.reschedule(None)
                    await memory.reserve(MAX_REQUEST_BYTES)
                if not message.get("more_body"):
                    memory.release(size)
                    return piece if len(pieces) == 1 else b"".join(pieces)
                now = asyncio.get_running_loop().time()
                if len(pieces) == 1:
                    end = now + body_timeout_seconds
                limit.reschedule(min(now + read_timeout_seconds, end))
    except TimeoutError:
        raise RequestTimeout(f"The body was not complete in time: {size} bytes were received.") from None
