"""Reads a request's body, within a size and a time."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from anthropic_proxy.errors import RequestTimeout, RequestTooLarge

BODY_BYTES = 32 * 1024 * 1024
"""What a request body may have, as at Anthropic's own API."""
PAUSE_SECONDS = 30.0
"""The longest pause between two pieces: who makes a longer one has gone, or only wants to hold the connection."""
WHOLE_SECONDS = 300.0
"""The longest time for all of it: 32 MB over a line of 1 Mbit/s."""
WHOLE_BODY = "anthropic_proxy.whole_body"
"""What our own server adds to ASGI: a function that returns the body, if it is whole already, else None."""


def take_body(scope: Mapping[str, Any]) -> bytes | None:
    """Return the body, where the server has it whole: nothing is waited for then, so no time needs a limit."""
    take = scope.get("extensions", {}).get(WHOLE_BODY)
    return None if take is None else take()


async def read_body(
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    *,
    pause: float = PAUSE_SECONDS,
    whole: float = WHOLE_SECONDS,
) -> bytes | None:
    """Return the body, or None where the client left before it was whole; times are in seconds.

    Raises `RequestTooLarge` or `RequestTimeout`.
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
                if size > BODY_BYTES:
                    raise RequestTooLarge(f"The body is larger than {BODY_BYTES:,} bytes (32 MB).")
                pieces.append(piece)
                if not message.get("more_body"):
                    return piece if len(pieces) == 1 else b"".join(pieces)
                now = asyncio.get_running_loop().time()
                if len(pieces) == 1:
                    end = now + whole
                limit.reschedule(min(now + pause, end))
    except TimeoutError:
        raise RequestTimeout(
            f"The body was not complete in time: {size} bytes had come when it was given up."
        ) from None
