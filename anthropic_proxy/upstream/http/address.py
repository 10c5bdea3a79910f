"""Addresses, taken apart once, and the head of a request to one."""

import base64
import ipaddress
from functools import lru_cache
from urllib.parse import quote, unquote, urlsplit

from msgspec import Struct

_PORTS = {"http": 80, "https": 443}
_SAFE = "%/:?#[]@!$&'()*+,;=-._~"
"""What stays as it is in a path and a query: an address that was signed must arrive as it was signed."""
_USUAL_HEADERS = {"accept": "*/*", "accept-encoding": "identity", "user-agent": "anthropic-proxy"}
"""What is said where the request says nothing else. `identity`: inflating costs more than it saves on a stream."""


class Origin(Struct, frozen=True, cache_hash=True):
    """A server, or a proxy: what connections lead to."""

    scheme: str
    host: str
    """A name in ASCII, or an IP address without brackets."""
    port: int

    @property
    def uses_tls(self) -> bool:
        """Whether connections to it are encrypted."""
        return self.scheme == "https"

    @property
    def is_name(self) -> bool:
        """Whether the host must be looked up."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return True
        return False

    @property
    def netloc(self) -> str:
        """Host and port, which is left out where the scheme says it."""
        return self._bracketed if self.port == _PORTS[self.scheme] else self.authority

    @property
    def authority(self) -> str:
        """Host and port, as a tunnel is asked for."""
        return f"{self._bracketed}:{self.port}"

    @property
    def _bracketed(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}"


class Address(Struct, frozen=True):
    """A whole address."""

    origin: Origin
    target: str
    """Path and query, as a request line says them."""
    credentials: str
    """`Basic …`, for the user and the password that stand in the address; empty: none do."""


@lru_cache(maxsize=1024)
def read_address(url: str) -> Address:
    """Take an address apart. Raises `ValueError` where it is none that can be asked."""
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("the address does not begin with http:// or https:// and the name of a host")
    host = parts.hostname if parts.hostname.isascii() else parts.hostname.encode("idna").decode()
    query = quote(parts.query, safe=_SAFE)
    credentials = ""
    if parts.username is not None:
        said = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        credentials = f"Basic {base64.b64encode(said.encode()).decode()}"
    return Address(
        Origin(parts.scheme, host, parts.port or _PORTS[parts.scheme]),
        quote(parts.path or "/", safe=_SAFE) + (f"?{query}" if query else ""),
        credentials,
    )


def join_address(base_url: str, path: str) -> str:
    """Return the address of a path below a base; a query of the base (Azure's `api-version`) stays at the end."""
    if "?" not in base_url:
        return base_url + path
    base, _, query = base_url.partition("?")
    return f"{base}{path}{'&' if '?' in path else '?'}{query}"


def encode_head(method: str, target: str, host: str, headers: dict[str, str]) -> bytes:
    """Return request line and headers, names in lower case, up to the length of the body and the empty line.

    Raises `ValueError` where a header is more than one line.
    """
    said = _USUAL_HEADERS | headers
    lines = "".join([f"{name}: {value}\r\n" for name, value in said.items()])
    if lines.count("\n") != len(said) or lines.count("\r") != len(said) or "\0" in lines:
        raise ValueError("a header holds a line break")
    return f"{method} {target} HTTP/1.1\r\nhost: {host}\r\n{lines}".encode()
