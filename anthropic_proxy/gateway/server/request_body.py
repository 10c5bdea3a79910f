"""Reading of the bodies of client requests, with limits of size and time, and checks of the headers."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from anthropic_proxy.errors import (
    HeadersTooLarge,
    MalformedHttp,
    RequestTimeout,
    RequestTooLarge,
    UnsupportedEncoding,
    UriTooLong,
)

MAX_BODY_BYTES = 32 * 1024 * 1024
"""Maximum size of a request body, equal to that of the Anthropic API. A larger body is rejected with 413."""
READ_TIMEOUT_SECONDS = 30.0
"""Maximum time between two received pieces of a request body. A longer pause is rejected with 408."""
BODY_TIMEOUT_SECONDS = 300.0
"""Maximum time for a complete request body, enough for 32 MB at 1 Mbit/s. A slower body is rejected with 408."""
COMPLETE_BODY_EXTENSION = "anthropic_proxy.whole_body"
"""Key in the ASGI `scope["extensions"]` of a function that returns the request body if the server has received all of
it, so that no coroutine is needed, and else None. Only the proxy's own server sets it."""


async def read_body(
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    *,
    read_timeout_seconds: float = READ_TIMEOUT_SECONDS,
    body_timeout_seconds: float = BODY_TIMEOUT_SECONDS,
) -> bytes | None:
    """Return the request body from ASGI `receive`, or None if the client disconnected. Raises `RequestTimeout` for a
    slow client, and `RequestTooLarge` above `MAX_BODY_BYTES`.
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


MAX_HEADER_BYTES = 64 * 1024
"""Maximum total size of the header names and values of a client request. Larger headers are rejected with 431."""
MAX_TARGET_BYTES = 16 * 1024
"""Maximum size of the URL path and query of a client request. A larger one is rejected with 414."""
_MAX_CONTENT_LENGTH_DIGITS = 15


def decode_headers(scope: Mapping[str, Any]) -> dict[str, str]:
    """Names are in lower case. The values of a repeated header are joined with commas (RFC 9110, 5.3)."""
    received = scope["headers"]
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in received}
    if len(headers) == len(received):
        return headers
    values: dict[str, list[str]] = {}  # joined at the end, because joining in the loop would take quadratic time
    for name, value in received:
        values.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    return {name: ", ".join(lines) for name, lines in values.items()}


def require_valid_head(scope: Mapping[str, Any], headers: Mapping[str, str]) -> None:
    """Raises `MalformedHttp` for an unclear end or host, which permits request smuggling (RFC 9112, 3.2 and 6.1),
    `HeadersTooLarge`, `UriTooLong`, `RequestTooLarge`, and `UnsupportedEncoding` for a compressed body.
    """
    host = headers.get("host")
    if host is None:
        if scope.get("http_version") == "1.1":
            raise MalformedHttp("The request has no Host header.")
    elif "," in host:
        raise MalformedHttp("The request has more than one Host.")
    coding = headers.get("transfer-encoding")
    if coding is not None and (coding.lower() != "chunked" or scope.get("http_version") == "1.0"):
        raise MalformedHttp(f"transfer-encoding: {coding!r} is not supported in HTTP/{scope.get('http_version')}.")
    size = sum(map(len, itertools.chain.from_iterable(scope["headers"])))
    if size > MAX_HEADER_BYTES:
        raise HeadersTooLarge(f"The headers have {size:,} bytes; {MAX_HEADER_BYTES:,} are allowed.")
    address = len(scope["path"]) + len(scope.get("query_string", b""))
    if address > MAX_TARGET_BYTES:
        raise UriTooLong(f"Path and query have {address:,} bytes; {MAX_TARGET_BYTES:,} are allowed.")
    length = headers.get("content-length", "")
    if length.isdecimal() and (len(length) > _MAX_CONTENT_LENGTH_DIGITS or int(length) > MAX_BODY_BYTES):
        raise RequestTooLarge(
            f"The body has {length[:_MAX_CONTENT_LENGTH_DIGITS]} bytes; {MAX_BODY_BYTES} are allowed (32 MB)."
        )
    encoding = headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedEncoding(f"content-encoding: {encoding!r} is not supported; send the body uncompressed.")
