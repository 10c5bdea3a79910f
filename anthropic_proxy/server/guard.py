"""The first look at a request, before its body is read: who asks, from where, and how much comes."""

import functools
import hmac
import ipaddress
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from anthropic_proxy.errors import (
    AddressTooLong,
    AuthenticationFailed,
    ConfigurationError,
    HeadersTooLarge,
    PermissionDenied,
    RequestTooLarge,
    UnreadableRequest,
    UnsupportedEncoding,
)
from anthropic_proxy.hooks import Client, Policy
from anthropic_proxy.server.body import BODY_BYTES
from anthropic_proxy.settings import Settings

HEADER_BYTES = 64 * 1024
ADDRESS_BYTES = 16 * 1024
"""Of path and query; the longest that anybody needs is the name of a model."""
OPEN_PATHS = frozenset({"/", "/health"})
"""Answer without a key: probes of clients and containers know none, and they say nothing."""

_LONGEST_LENGTH = 15
"""Digits of a length that is read as a number."""
_FORWARDED_FOR = re.compile(r"""(?:^|[;,\s])for\s*=\s*("[^"]*"|[^;,\s]+)""", re.IGNORECASE)
"""RFC 7239."""
_HOST = re.compile(r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[^:/@\[\]\s]+))(?::[0-9]{0,5})?", re.ASCII)
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_NEAR_SITES = frozenset({"same-origin", "same-site", "none"})
"""What a browser says in `Sec-Fetch-Site` of a request that no other site's page makes."""
_OF_HOPS = frozenset({"x-forwarded-for", "x-real-ip", "forwarded"})
_LOOPBACK_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost"})


async def identify(
    scope: Mapping[str, Any], headers: Mapping[str, str], settings: Settings, policies: Sequence[Policy]
) -> Client:
    """Say who asks, or refuse: `AuthenticationFailed`, `PermissionDenied`, `RequestTooLarge`, `UnsupportedEncoding`,
    `UnreadableRequest`.
    """
    _expect_clear(scope, headers)
    _limit(scope, headers)
    if scope["path"] in OPEN_PATHS:
        return Client()
    for policy in policies:
        if (client := await policy.identify(headers)) is not None:
            return client
    if settings.proxy_api_keys:
        return _identify_by_key(headers, settings)
    _expect_near(scope, headers, settings)
    return Client(key_forwardable=True)


def expect_guarded(settings: Settings) -> None:
    """Raise `ConfigurationError` where other machines could reach us and nothing decides who of them comes in."""
    if not (is_loopback(settings.host) or settings.proxy_api_keys or settings.allow_unauthenticated):
        raise ConfigurationError(
            f"{settings.host} can be reached from other machines, and no key is asked for. "
            "Set PROXY_API_KEY, or ALLOW_UNAUTHENTICATED=true if something else decides who comes in."
        )


def describe_exposure(settings: Settings, host: str) -> str:
    """Return what whoever started us must know of an address that is listened on, or was called from; empty: nothing.

    An empty address is not known, and nothing is said of it.
    """
    if not host or is_loopback(host) or settings.proxy_api_keys:
        return ""
    if settings.allow_unauthenticated:
        return (
            "NO KEY IS ASKED FOR (ALLOW_UNAUTHENTICATED=true): whoever reaches this port spends your money and uses "
            "your keys. Set PROXY_API_KEY, unless something in front of it decides who comes in."
        )
    return (
        "THIS PORT CAN BE REACHED FROM OTHER MACHINES, and no key is asked for: everybody else than this machine is "
        "refused. Set PROXY_API_KEY to let others in, or listen on 127.0.0.1."
    )


def headers_of(scope: Mapping[str, Any]) -> dict[str, str]:
    """Return the request's headers, names in lower case; a repeated one as the list that it is (RFC 9110, 5.3)."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _expect_clear(scope: Mapping[str, Any], headers: Mapping[str, str]) -> None:
    """Refuse what another program on the way may have read in another way (RFC 9112, 3.2 and 6.1)."""
    host = headers.get("host")
    if host is None:
        if scope.get("http_version") == "1.1":
            raise UnreadableRequest("The request has no Host header.")
    elif "," in host:
        raise UnreadableRequest("The request has more than one Host.")
    coding = headers.get("transfer-encoding")
    if coding is not None and (coding.lower() != "chunked" or scope.get("http_version") == "1.0"):
        raise UnreadableRequest(f"transfer-encoding: {coding!r} is not read in HTTP/{scope.get('http_version')}.")


def _limit(scope: Mapping[str, Any], headers: Mapping[str, str]) -> None:
    size = sum(map(len, itertools.chain.from_iterable(scope["headers"])))
    if size > HEADER_BYTES:
        raise HeadersTooLarge(f"The headers have {size:,} bytes; {HEADER_BYTES:,} are allowed.")
    address = len(scope["path"]) + len(scope.get("query_string", b""))
    if address > ADDRESS_BYTES:
        raise AddressTooLong(f"Path and query have {address:,} bytes; {ADDRESS_BYTES:,} are allowed.")
    length = headers.get("content-length", "")
    if length.isdecimal() and (len(length) > _LONGEST_LENGTH or int(length) > BODY_BYTES):
        raise RequestTooLarge(f"The body has {length[:_LONGEST_LENGTH]} bytes; {BODY_BYTES} are allowed (32 MB).")
    encoding = headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedEncoding(f"content-encoding: {encoding!r} is not taken; send the body uncompressed.")


def _identify_by_key(headers: Mapping[str, str], settings: Settings) -> Client:
    presented = _find_presented(headers)
    if not presented:
        raise AuthenticationFailed(
            "This proxy asks for a key: send one of PROXY_API_KEY as x-api-key or as Authorization: Bearer.",
            should_retry=False,
        )
    # every key is compared with all that was presented, each in constant time, so that the time taken says nothing
    keys = [key.reveal().encode() for key in settings.proxy_api_keys]
    matches = [[hmac.compare_digest(offered, key) for key in keys] for offered in presented]
    fitting = next((row for row in matches if any(row)), None)
    if fitting is None:
        raise AuthenticationFailed(
            "invalid x-api-key: the key presented is none of this proxy's (PROXY_API_KEY).", should_retry=False
        )
    return Client(name=f"key {fitting.index(True) + 1}")


def _find_presented(headers: Mapping[str, str]) -> list[bytes]:
    """Return what may be a key: clients that have one of their own may send it beside ours."""
    scheme, _, token = headers.get("authorization", "").strip().partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else "" if token else scheme
    return [key.encode() for key in (headers.get("x-api-key", ""), bearer) if key]


def _expect_near(scope: Mapping[str, Any], headers: Mapping[str, str], settings: Settings) -> None:
    """Refuse callers from elsewhere, and pages in a browser on this machine that a foreign site made call us."""
    peer = scope.get("client")
    if not settings.allow_unauthenticated and peer is not None and not is_loopback(peer[0]):
        raise PermissionDenied(
            f"Callers from {peer[0]} are not served without a key. Set PROXY_API_KEY, or ALLOW_UNAUTHENTICATED=true."
        )
    if not settings.allow_unauthenticated and (hop := _find_foreign_hop(headers)):
        raise PermissionDenied(
            f"Requests that a proxy forwards for {hop} are not served without a key. "
            "Set PROXY_API_KEY, or ALLOW_UNAUTHENTICATED=true."
        )
    host = headers.get("host", "")
    if not _host_allowed(_host_name(host), settings):
        raise PermissionDenied(
            f"Host {host!r} is no name of this proxy. Use localhost, or add it to ALLOWED_HOSTS, or set PROXY_API_KEY."
        )
    origin = headers.get("origin")
    if origin is not None and not _origin_allowed(origin, f"{scope.get('scheme', 'http')}://{host}", settings):
        raise PermissionDenied(f"Requests from the web page {origin!r} are not served without PROXY_API_KEY.")
    if headers.get("sec-fetch-site", "none") not in _NEAR_SITES:  # an image or a form of a page sends no Origin
        raise PermissionDenied("Requests that a page of another site makes are not served without PROXY_API_KEY.")


def _find_foreign_hop(headers: Mapping[str, str]) -> str:
    """Return for whom a proxy on this machine says that it asks, where that is nobody on this machine; else empty."""
    if _OF_HOPS.isdisjoint(headers):
        return ""
    hops = [*headers.get("x-forwarded-for", "").split(","), headers.get("x-real-ip", "")]
    hops += _FORWARDED_FOR.findall(headers.get("forwarded", ""))
    names = (hop.strip().strip('"').strip() for hop in hops)
    return next((name for name in names if name and not is_loopback(_node_name(name))), "")


def _node_name(node: str) -> str:
    return node.lower() if _is_address(node) else _host_name(node)


def _host_allowed(host: str, settings: Settings) -> bool:
    if is_loopback(host) or host in settings.allowed_hosts:
        return True
    # a page cannot rebind an address, only a name, so any address will do where any caller does
    return settings.allow_unauthenticated and _is_address(host)


def _origin_allowed(origin: str, own: str, settings: Settings) -> bool:
    """Return whether a page may call us: one of this machine, of a name that was allowed, or one that came from us.

    That its address is one says nothing, other than at a Host: a page from anywhere has an address as its origin.
    """
    name = _origin_name(origin)
    return is_loopback(name) or name in settings.allowed_hosts or _place(origin) == _place(own)


def _place(origin: str) -> tuple[str, str, str] | None:
    """Return scheme, host and port of an origin; None where it has none of them."""
    scheme, found, host = origin.lower().partition("://")
    name = _host_name(host) if found else ""
    if not name:
        return None
    port = host.rpartition(":")[2] if host[-1:] != "]" and ":" in host else ""
    return scheme, name, port or _DEFAULT_PORTS.get(scheme, "")


@functools.lru_cache(maxsize=16)
def _host_name(host: str) -> str:
    """Return the name or address in a Host header, without port and brackets; empty where it is neither."""
    found = _HOST.fullmatch(host)
    return (found["address"] or found["name"].rstrip(".")).lower() if found else ""


def _origin_name(origin: str) -> str:
    """Return the name or address of an `Origin`; of one that has none, such as `null`, itself."""
    _, found, host = origin.partition("://")
    return _host_name(host) if found else origin


@functools.lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Return whether a name or address can only be this machine."""
    if host in _LOOPBACK_NAMES or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
