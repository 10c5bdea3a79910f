"""Reading of request bodies, with limits of size and time."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from anthropic_proxy.errors import RequestTimeout, RequestTooLarge

MAX_BODY_BYTES = 32 * 1024 * 1024
"""Limit of a request body, equal to that of the Anthropic API."""
READ_TIMEOUT_SECONDS = 30.0
"""Longest pause within a body. A slower client has disconnected or only occupies the connection."""
BODY_TIMEOUT_SECONDS = 300.0
"""Time limit of a complete body: 32 MB at 1 Mbit/s."""
COMPLETE_BODY_EXTENSION = "anthropic_proxy.whole_body"
"""ASGI extension of the server of this proxy: a function that returns the complete body. None: incomplete."""


def body_if_complete(scope: Mapping[str, Any]) -> bytes | None:
    """Return the body if it is complete, without waiting. None: incomplete, or another server."""
    pop = scope.get("extensions", {}).get(COMPLETE_BODY_EXTENSION)
    return None if pop is None else pop()


async def read_body(
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    *,
    pause: float = READ_TIMEOUT_SECONDS,
    whole: float = BODY_TIMEOUT_SECONDS,
) -> bytes | None:
    """Return the body. None: the client disconnected before its end.

    `pause`, `whole`: time limits in seconds of a pause and of the complete body. Raises `RequestTooLarge` or
    `RequestTimeout`.
    """
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(pause) as limit:
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
                    end = now + whole
                limit.reschedule(min(now + pause, end))
    except TimeoutError:
        raise RequestTimeout(f"The body was not complete in time: {size} bytes were received.") from None
