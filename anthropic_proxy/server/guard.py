"""The first look at a request, before its body is read: who asks, from where, and how much comes."""

import functools
import hmac
import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from anthropic_proxy.errors import AuthenticationFailed, InvalidRequest, PermissionDenied, RequestTooLarge
from anthropic_proxy.hooks import Client, Policy
from anthropic_proxy.settings import Settings

BODY_BYTES = 32 * 1024 * 1024
"""What a request body may have, as at Anthropic's own API."""
HEADER_BYTES = 64 * 1024
OPEN_PATHS = frozenset({"/", "/health"})
"""Answer without a key: probes of clients and containers know none, and they say nothing."""

_LOOPBACK_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost"})


async def identify(
    scope: Mapping[str, Any], headers: Mapping[str, str], settings: Settings, policies: Sequence[Policy]
) -> Client:
    """Say who asks, or refuse: `AuthenticationFailed`, `PermissionDenied`, `RequestTooLarge`, `InvalidRequest`."""
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


def headers_of(scope: Mapping[str, Any]) -> dict[str, str]:
    """Return the request's headers, names in lower case; a repeated one as the list that it is (RFC 9110, 5.3)."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _limit(scope: Mapping[str, Any], headers: Mapping[str, str]) -> None:
    size = sum(len(name) + len(value) for name, value in scope["headers"])
    if size > HEADER_BYTES:
        raise RequestTooLarge(f"The headers have {size:,} bytes; {HEADER_BYTES:,} are allowed.")
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > BODY_BYTES:
        raise RequestTooLarge(f"The body has {int(length):,} bytes; {BODY_BYTES:,} are allowed (32 MB).")
    encoding = headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise InvalidRequest(f"content-encoding: {encoding!r} is not taken; send the body uncompressed.")


def _identify_by_key(headers: Mapping[str, str], settings: Settings) -> Client:
    presented = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ").strip()
    if not presented:
        raise AuthenticationFailed(
            "This proxy asks for a key: send one of PROXY_API_KEY as x-api-key or as Authorization: Bearer.",
            should_retry=False,
        )
    offered = presented.encode()
    # every key is compared, each in constant time, so that the time taken says nothing
    matches = [hmac.compare_digest(offered, key.reveal().encode()) for key in settings.proxy_api_keys]
    if not any(matches):
        raise AuthenticationFailed(
            "invalid x-api-key: the key presented is none of this proxy's (PROXY_API_KEY).", should_retry=False
        )
    return Client(name=f"key {matches.index(True) + 1}")


def _expect_near(scope: Mapping[str, Any], headers: Mapping[str, str], settings: Settings) -> None:
    """Refuse callers from elsewhere, and pages in a browser on this machine that a foreign site made call us."""
    peer = scope.get("client")
    if not settings.allow_unauthenticated and peer is not None and not is_loopback(peer[0]):
        raise PermissionDenied(
            f"Callers from {peer[0]} are not served without a key. Set PROXY_API_KEY, or ALLOW_UNAUTHENTICATED=true."
        )
    host = _host_name(headers.get("host", ""))
    if not _host_allowed(host, settings):
        raise PermissionDenied(
            f"Host {host!r} is no name of this proxy. Use localhost, or add it to ALLOWED_HOSTS, or set PROXY_API_KEY."
        )
    origin = headers.get("origin")
    if origin is not None and not _host_allowed(urlsplit(origin).hostname or origin, settings):
        raise PermissionDenied(f"Requests from the web page {origin!r} are not served without PROXY_API_KEY.")


def _host_allowed(host: str, settings: Settings) -> bool:
    if is_loopback(host) or host in settings.allowed_hosts:
        return True
    # a page cannot rebind an address, only a name, so any address will do where any caller does
    return settings.allow_unauthenticated and _is_address(host)


def _host_name(host: str) -> str:
    """Return the name or address in a Host header, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].rstrip(".").lower()


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
