"""What stands in the head of a request, and what to say of one that cannot be read."""

import re
import urllib.parse
from functools import lru_cache

import httptools

from anthropic_proxy.errors import UnreadableRequest

_TLS_HANDSHAKE = b"\x16"
_OF_AN_UPGRADE = frozenset((b"connection", b"upgrade", b"http2-settings"))
_WHOLE = re.compile(rb"([^:/?]+)://([^/?]*)(.*)", re.DOTALL)
_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}


@lru_cache(maxsize=16)
def cut_target(target: bytes) -> tuple[str, bytes, bytes]:
    """Return the path of a request line's target, the same as it stands there, and the query.

    Raises httptools' own error where it is none.
    """
    url = httptools.parse_url(target)
    path = url.path.decode("ascii")
    return urllib.parse.unquote(path) if "%" in path else path, url.path, url.query or b""


def with_path(target: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return the target of a request line, with the path of one that is a whole address.

    Raises `UnreadableRequest` where it names another host than the headers: a program on the way may have gone by
    either of the two (RFC 9112, 3.2.2).
    """
    found = _WHOLE.fullmatch(target)
    if found is None:
        return target
    scheme, authority, rest = found.groups()
    port = _DEFAULT_PORTS.get(scheme.lower(), b":")
    for name, value in headers:
        if name == b"host" and value.lower().removesuffix(port) != authority.lower().removesuffix(port):
            raise UnreadableRequest("The address in the request line names another host than the Host header.")
    return target if rest[:1] == b"/" else b"%b://%b/%b" % (scheme, authority, rest)


def encode_without_upgrade(method: bytes, target: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return the head of a request without its offer to speak another protocol."""
    closes = any(name == b"connection" and b"close" in value.lower() for name, value in headers)
    kept = [header for header in headers if header[0] not in _OF_AN_UPGRADE]
    if closes:
        kept.append((b"connection", b"close"))
    lines = b"".join(b"%b: %b\r\n" % header for header in kept)
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, lines)


def describe(data: bytes, error: Exception) -> str:
    """Return in words why bytes are no request; `error` is the parser's."""
    if data.startswith(_TLS_HANDSHAKE):
        return "This is no HTTP but TLS: the address of this proxy begins with http://, not https://."
    return f"The request is not HTTP as it can be read here: {error}."
