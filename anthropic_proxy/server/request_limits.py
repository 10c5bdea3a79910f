"""Checks of the path, the headers and the announced body size of a client request, before its body is read.

`require_within_limits` protects memory. `reject_ambiguous_framing` prevents request smuggling, in which two HTTP
programs find different ends of the same request. The checks also apply if another ASGI server runs the application.
"""

import itertools
from collections.abc import Mapping
from typing import Any

from anthropic_proxy.errors import HeadersTooLarge, MalformedHttp, RequestTooLarge, UnsupportedEncoding, UriTooLong
from anthropic_proxy.server.request_body import MAX_BODY_BYTES

MAX_HEADER_BYTES = 64 * 1024
"""Maximum total size of the header names and values of a client request. Larger headers are rejected with 431."""
MAX_TARGET_BYTES = 16 * 1024
"""Maximum size of the URL path and query of a client request. A larger one is rejected with 414."""
_MAX_CONTENT_LENGTH_DIGITS = 15
"""Maximum number of digits of the header `Content-Length`. A longer number is rejected with 413."""


def decode_headers(scope: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers of a client request as a dictionary, with names in lower case.

    The values of a repeated header are joined with commas (RFC 9110, 5.3).
    """
    received = scope["headers"]
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in received}
    if len(headers) == len(received):
        return headers
    values: dict[str, list[str]] = {}  # joined at the end, because joining in the loop would take quadratic time
    for name, value in received:
        values.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    return {name: ", ".join(lines) for name, lines in values.items()}


def reject_ambiguous_framing(scope: Mapping[str, Any], headers: Mapping[str, str]) -> None:
    """Raise `MalformedHttp` for a request with an unclear end or host (RFC 9112, 3.2 and 6.1).

    Two HTTP programs could otherwise find different ends (request smuggling).
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


def require_within_limits(scope: Mapping[str, Any], headers: Mapping[str, str]) -> None:
    """Raise an error for a client request that is too large or has a compressed body.

    The errors are `HeadersTooLarge`, `UriTooLong`, `RequestTooLarge` and `UnsupportedEncoding`.
    """
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
