"""What stands in a request line, and what to say of one that cannot be read."""

import re

from anthropic_proxy.errors import UnreadableRequest

_TLS_HANDSHAKE = b"\x16"
_WHOLE = re.compile(rb"([^:/?]+)://([^/?]*)(.*)", re.DOTALL)
_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}


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


def describe(data: bytes, error: Exception) -> str:
    """Return in words why bytes are no request; `error` is the parser's."""
    if data.startswith(_TLS_HANDSHAKE):
        return "This is no HTTP but TLS: the address of this proxy begins with http://, not https://."
    return f"The request is not HTTP as it can be read here: {error}."
