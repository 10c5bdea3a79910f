"""URLs of requests to providers, and the encoding of request lines and headers."""

import base64
import ipaddress
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from urllib.parse import quote, unquote, urlsplit

from msgspec import Struct

_PORTS = {"http": 80, "https": 443}
_PROXY_PORTS = _PORTS | {"socks5": 1080, "socks5h": 1080}
_SAFE_CHARACTERS = "%/:?#[]@!$&'()*+,;=-._~"
"""Characters that stay unencoded in a path or query, so that signed URLs remain valid."""
_DEFAULT_HEADERS = {"accept": "*/*", "accept-encoding": "identity", "user-agent": "anthropic-proxy"}
"""Headers that are added to each request that does not set them itself. `identity`: the reply is not compressed,
because decompressing a stream costs more than it saves."""


class Origin(Struct, frozen=True, cache_hash=True):
    scheme: str
    host: str
    """Host name in ASCII, or IP address without brackets."""
    port: int

    @property
    def uses_tls(self) -> bool:
        return self.scheme == "https"

    @property
    def uses_socks(self) -> bool:
        """True for a SOCKS proxy (RFC 1928)."""
        return self.scheme.startswith("socks")

    @property
    def has_host_name(self) -> bool:
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return True
        return False

    @property
    def host_header(self) -> str:
        """Value of the header `Host`: the host, and the port if it is not the default one."""
        return self._bracketed if self.port == _PROXY_PORTS[self.scheme] else self.host_and_port

    @property
    def host_and_port(self) -> str:
        """Host and port as `host:port`, for a CONNECT request to an HTTP proxy. An IPv6 address is in brackets."""
        return f"{self._bracketed}:{self.port}"

    @property
    def server_name(self) -> str:
        """Host without the zone of an IPv6 address, which has a meaning on this machine only (RFC 6874, section 1)."""
        return self.host.partition("%")[0]

    @property
    def _bracketed(self) -> str:
        return f"[{self.server_name}]" if ":" in self.host else self.host

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_header}"


class Url(Struct, frozen=True):
    origin: Origin
    request_target: str
    """Path and query of the URL, as in a request line: `/v1/models?limit=9`."""
    authorization: str
    """Value of the header `Authorization` (`Basic …`) for the user and password in the URL. "": none."""


@lru_cache(maxsize=1024)
def parse_url(url: str) -> Url:
    """Split a URL into server, path and login. Raises `ValueError` for a URL that is neither HTTP nor HTTPS."""
    return _parse_url(url, _PORTS)


@lru_cache(maxsize=1024)
def parse_proxy_url(url: str) -> Url:
    """Split the URL of a proxy into server and login.

    Raises `ValueError` for a URL that is neither HTTP nor HTTPS nor SOCKS 5.
    """
    return _parse_url(url, _PROXY_PORTS)


def _parse_url(url: str, ports: Mapping[str, int]) -> Url:
    components = urlsplit(url)
    if components.scheme not in ports or not components.hostname:
        raise ValueError("the address does not begin with http:// or https:// and the name of a host")
    host = components.hostname if components.hostname.isascii() else components.hostname.encode("idna").decode()
    if ":" in host:
        host = host.replace("%25", "%", 1)  # before a zone (RFC 6874)
    query = quote(components.query, safe=_SAFE_CHARACTERS)
    credentials = ""
    if components.username is not None:
        user_and_password = f"{unquote(components.username)}:{unquote(components.password or '')}"
        credentials = f"Basic {base64.b64encode(user_and_password.encode()).decode()}"
    return Url(
        Origin(components.scheme, host, components.port or ports[components.scheme]),
        quote(components.path or "/", safe=_SAFE_CHARACTERS) + (f"?{query}" if query else ""),
        credentials,
    )


def join_url(base_url: str, path: str) -> str:
    """A query of the base URL, such as `api-version=…`, stays at the end of the result."""
    if "?" not in base_url:
        return base_url + path
    base, _, query = base_url.partition("?")
    return f"{base}{path}{'&' if '?' in path else '?'}{query}"


def encode_request_head(method: str, target: str, host: str, headers: dict[str, str]) -> bytes:
    """Return request line and headers as bytes, without `content-length` and the final empty line, so that the result
    can be cached. Raises `ValueError` for a line break or NUL in a header.
    """
    lines = encode_header_lines(_DEFAULT_HEADERS | headers)
    return f"{method} {target} HTTP/1.1\r\nhost: {host}\r\n".encode() + lines


def encode_header_lines(headers: Mapping[str, str]) -> bytes:
    """Encode headers as lines of an HTTP message. Raises `ValueError` for a line break or NUL in a header."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers) or "\0" in lines:
        raise ValueError("a header contains a line break")
    return lines.encode()


def find_proxy(url: str, proxies: Mapping[str, str], no_proxy_hosts: str) -> str | None:
    """Return the proxy for a URL. `proxies`: URL scheme → URL of its proxy. None: the requests use no proxy."""
    target = urlsplit(url)
    if target.scheme not in proxies:
        return None
    host, port = (target.hostname or "").removesuffix("."), target.port or _PORTS[target.scheme]
    is_exempt = any(_matches(entry.strip(), host, port) for entry in no_proxy_hosts.split(","))
    return None if is_exempt else proxies[target.scheme]


def _matches(entry: str, host: str, port: int) -> bool:
    """`entry` of NO_PROXY: a domain (`.example.com` and `*.example.com` mean the same), an address, a network, `*`."""
    name, colon, listed_port = entry.lower().rpartition(":")
    if colon and listed_port.isdecimal() and (name.endswith("]") or ":" not in name):
        if int(listed_port) != port:
            return False
    else:
        name = entry.lower()
    name = name.strip("[]")
    if name == "*":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False)
    name = name.removeprefix("*").strip(".")
    return name != "" and f".{host}".endswith(f".{name}")
