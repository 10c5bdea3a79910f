"""Reading of request bodies, with limits of size and time."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from anthropic_proxy.errors import RequestTimeout, RequestTooLarge

MAX_BODY_BYTES = 32 * 1024 * 1024
"""Limit of a request body, equal to that of the Anthropic API."""
READ_TIMEOUT_SECONDS = 30.0
"""Maximum pause within a request body. A slower client has disconnected or only occupies the connection."""
BODY_TIMEOUT_SECONDS = 300.0
"""Time limit of a complete request body: 32 MB at 1 Mbit/s."""
COMPLETE_BODY_EXTENSION = "anthropic_proxy.whole_body"
"""Name of an ASGI extension of `server/http1`: a function that returns the complete body, or None if incomplete."""


def body_if_complete(scope: Mapping[str, Any]) -> bytes | None:
    """Return the body if it is complete, without waiting. None: incomplete, or another server."""
    pop = scope.get("extensions", {}).get(COMPLETE_BODY_EXTENSION)
    return None if pop is None else pop()


async def read_body(
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    *,
    read_timeout_seconds: float = READ_TIMEOUT_SECONDS,
    body_timeout_seconds: float = BODY_TIMEOUT_SECONDS,
) -> bytes | None:
    """Read and return a request body. None: the client disconnected before its end.

    `read_timeout_seconds`: limit of a pause. Raises `RequestTooLarge` or
    `RequestTimeout`.
    """
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(read_timeout_seconds) as limit:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                piece = message.get("body", b"")
                size += len(piece)
                if size > MAX_BODY_BYTES:
                    raise RequestTooLarge(f"The body is larger than {MAX_BODY_BYTES:,} bytes (32 MB).")
                pieces.append(piece)
                if not message.get("more_body"):
                    return piece if len(pieces) == 1 else b"".join(pieces)
                now = asyncio.get_running_loop().time()
                if len(pieces) == 1:
                    end = now + body_timeout_seconds
                limit.reschedule(min(now + read_timeout_seconds, end))
    except TimeoutError:
        raise RequestTimeout(f"The body was not complete in time: {size} bytes were received.") from None
