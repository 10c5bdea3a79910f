"""Reading of the bodies of client requests, with limits of size and time.

`read_body` waits for the complete body. `pop_complete_body` returns a body that has already arrived.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from anthropic_proxy.errors import RequestTimeout, RequestTooLarge

MAX_BODY_BYTES = 32 * 1024 * 1024
"""Maximum size of a request body, equal to that of the Anthropic API. A larger body is rejected with 413."""
READ_TIMEOUT_SECONDS = 30.0
"""Maximum time between two received pieces of a request body. A longer pause is rejected with 408."""
BODY_TIMEOUT_SECONDS = 300.0
"""Maximum time for a complete request body, enough for 32 MB at 1 Mbit/s. A slower body is rejected with 408."""
COMPLETE_BODY_EXTENSION = "anthropic_proxy.whole_body"
"""Key in the ASGI `scope["extensions"]` of a function that returns the complete body, or None if it is incomplete.

Only the proxy's own server sets the key.
"""


def pop_complete_body(scope: Mapping[str, Any]) -> bytes | None:
    """Return the request body without waiting if the server has received all of it.

    If the result is None, call `read_body` instead.
    """
    pop = scope.get("extensions", {}).get(COMPLETE_BODY_EXTENSION)
    return None if pop is None else pop()


async def read_body(
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    *,
    read_timeout_seconds: float = READ_TIMEOUT_SECONDS,
    body_timeout_seconds: float = BODY_TIMEOUT_SECONDS,
) -> bytes | None:
    """Return the request body from ASGI `receive`, or None if the client disconnected.

    Raises `RequestTimeout` for a slow client, and `RequestTooLarge` above `MAX_BODY_BYTES`.
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
