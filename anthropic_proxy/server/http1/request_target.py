"""Functions for the head of a client request (request line and headers): target, upgrade headers, parse errors.

The target is the address in the request line: a path with a query, or a complete URL. Upgrade headers offer a change to
another protocol, such as HTTP/2. The server ignores this offer: `encode_head_without_upgrade` encodes the head again
without these headers, and the parser then reads the result in place of the received head.
"""

import re
import urllib.parse
from functools import lru_cache

import httptools

from anthropic_proxy.errors import MalformedHttp

_TLS_HANDSHAKE = b"\x16"
_UPGRADE_HEADERS = frozenset((b"connection", b"upgrade", b"http2-settings"))
_ABSOLUTE_FORM = re.compile(rb"([^:/?]+)://([^/?]*)(.*)", re.DOTALL)
_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}


@lru_cache(maxsize=16)
def split_target(target: bytes) -> tuple[str, bytes, bytes]:
    """Return three values of a request target: the percent-decoded path, the path as received, and the query.

    Raises `MalformedHttp` for an invalid target.
    """
    try:
        url = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError:
        raise MalformedHttp("The address in the request line is neither a path nor a complete URL.") from None
    path = url.path.decode("ascii")
    return urllib.parse.unquote(path) if "%" in path else path, url.path, url.query or b""


def normalize_request_target(target: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return the request target with the path `/` added to a URL without a path.

    Raises `MalformedHttp` if a URL contradicts the `Host` header (RFC 9112, 3.2.2).
    """
    found = _ABSOLUTE_FORM.fullmatch(target)
    if found is None:
        return target
    scheme, authority, remainder = found.groups()
    port = _DEFAULT_PORTS.get(scheme.lower(), b":")
    for name, value in headers:
        if name == b"host" and value.lower().removesuffix(port) != authority.lower().removesuffix(port):
            raise MalformedHttp("The address in the request line names another host than the Host header.")
    return target if remainder[:1] == b"/" else b"%b://%b/%b" % (scheme, authority, remainder)


def encode_head_without_upgrade(
    method: bytes, target: bytes, version: str, headers: list[tuple[bytes, bytes]]
) -> bytes:
    """Return the encoded head of a request without its upgrade headers, which offer another protocol.

    The parser reads this head in place of the received one, because the server supports no other protocol. `version` is
    `1.1` or `1.0`. A header `Connection: close` is kept.
    """
    closes = any(name == b"connection" and b"close" in value.lower() for name, value in headers)
    kept = [header for header in headers if header[0] not in _UPGRADE_HEADERS]
    if closes:
        kept.append((b"connection", b"close"))
    lines = b"".join(b"%b: %b\r\n" % header for header in kept)
    return b"%b %b HTTP/%b\r\n%b\r\n" % (method, target, version.encode(), lines)


def describe_parse_error(data: bytes | memoryview, error: str) -> str:
    """Return the error message for bytes that are no valid HTTP request. `error` is the text of the parser."""
    if data[:1] == _TLS_HANDSHAKE:
        return "The request is TLS instead of HTTP: the address of this proxy begins with http://, not https://."
    return f"The request is not valid HTTP: {error}."
