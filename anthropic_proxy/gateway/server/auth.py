"""Checks of a client request before its body is read: the form of its head, and who sent it.

If the proxy has keys for its clients, such as `PROXY_API_KEY`, every request to the API needs one. Otherwise only
clients on this machine are served, unless `ALLOW_UNAUTHENTICATED` is set.
"""

import functools
import hmac
import ipaddress
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import structs

from anthropic_proxy.engine.memory_plan import LARGEST_BODY_BYTES
from anthropic_proxy.engine.options import format_origin_in_sentence
from anthropic_proxy.engine.passed_proxies import require_no_loop
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.errors import (
    AuthenticationFailed,
    ConfigurationError,
    HeadersTooLarge,
    MalformedHttp,
    PermissionDenied,
    RequestTooLarge,
    UnsupportedEncoding,
    UriTooLong,
)
from anthropic_proxy.gateway.permissions import PROBE_PATHS, PUBLIC_PATHS, find_permission, require_access
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Client, Policy, Route
from anthropic_proxy.secrets import Secret

MAX_REQUEST_BYTES = LARGEST_BODY_BYTES
"""Maximum size of a request body, as in the Anthropic API. A larger body is rejected with 413."""
MAX_HEADER_BYTES = 64 * 1024
"""Maximum total size of the header names and values of a client request. Larger headers are rejected with 431."""
MAX_TARGET_BYTES = 16 * 1024
"""Maximum size of the URL path and query of a client request. A larger one is rejected with 414."""
_MAX_CONTENT_LENGTH_DIGITS = 15
_FORWARDED_FOR = compile_later(r"""(?:^|[;,\s])for\s*=\s*("[^"]*"|[^;,\s]+)""", re.IGNORECASE)
"""Pattern of the client addresses in the header `Forwarded` (RFC 7239)."""
_HOST = compile_anchored(r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[^:/@\[\]\s]+))(?::[0-9]{0,5})?", re.ASCII)
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_SAME_SITE_VALUES = frozenset({"same-origin", "same-site", "none"})
_FORWARDING_HEADERS = frozenset({"x-forwarded-for", "x-real-ip", "forwarded"})
_LOOPBACK_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost"})


def decode_headers(scope: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers of an ASGI scope as text, with names in lower case.

    The values of a repeated header are joined with commas (RFC 9110, 5.3).
    """
    received = scope["headers"]
    headers = {}
    for name, value in received:
        headers[name.decode("latin-1")] = value.decode("latin-1")
    if len(headers) == len(received):
        return headers
    values: dict[str, list[str]] = {}  # joined at the end, because joining in the loop would take quadratic time
    for name, value in received:
        values.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    return {name: ", ".join(lines) for name, lines in values.items()}


def require_valid_head(
    scope: Mapping[str, Any], headers: Mapping[str, str], *, accepts_compressed: bool = False
) -> None:
    """Reject a head that another HTTP program could read differently, or that exceeds a limit.

    Raises `MalformedHttp` for an unclear end or host, which permits request smuggling (RFC 9112, 3.2 and 6.1),
    `HeadersTooLarge`, `UriTooLong`, `RequestTooLarge`, `UnsupportedEncoding` for a compressed body, unless it is
    accepted, and `LoopDetected`.
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
    require_no_loop(headers)
    size = sum(map(len, itertools.chain.from_iterable(scope["headers"])))
    if size > MAX_HEADER_BYTES:
        raise HeadersTooLarge(f"The headers have {size:,} bytes; {MAX_HEADER_BYTES:,} are allowed.")
    address = len(scope["path"]) + len(scope.get("query_string", b""))
    if address > MAX_TARGET_BYTES:
        raise UriTooLong(f"Path and query have {address:,} bytes; {MAX_TARGET_BYTES:,} are allowed.")
    require_accepted_length(headers.get("content-length", ""))
    encoding = headers.get("content-encoding", "identity")
    if encoding.lower() != "identity" and not accepts_compressed:
        raise UnsupportedEncoding(f"content-encoding: {encoding!r} is not supported; send the body uncompressed.")


def require_accepted_length(length: str) -> None:
    """Raise `RequestTooLarge` if the header `content-length` states a body above the limit."""
    if length.isdecimal() and (len(length) > _MAX_CONTENT_LENGTH_DIGITS or int(length) > MAX_REQUEST_BYTES):
        raise build_size_error(MAX_REQUEST_BYTES)


def build_size_error(max_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(f"The body is larger than {max_bytes:,} bytes.")


async def authenticate(
    scope: Mapping[str, Any],
    headers: Mapping[str, str],
    settings: Settings,
    policies: Sequence[Policy],
    route: Route | None = None,
    *,
    is_public: bool = False,
) -> Client:
    """Check the head of a request, and return the client that its key identifies.

    `route`: that of a plugin, which may check keys itself, as a sign-in page does. `is_public`: the path needs no key,
    like `PUBLIC_PATHS`. Raises `AuthenticationFailed` (401) for a missing or wrong key, and `PermissionDenied` (403)
    for a path that the client may not use, or an address that may not connect. If the proxy has no keys, requests from
    other machines and from web pages of other sites are denied too.
    """
    require_valid_head(scope, headers, accepts_compressed=route is not None and route.decompresses)
    if settings.allowed_networks and scope["path"] not in PROBE_PATHS:
        _require_allowed_network(scope, headers, settings)
    if is_public or scope["path"] in PUBLIC_PATHS:
        if settings.requires_client_key or policies:  # ALLOW_UNAUTHENTICATED is ignored
            settings = structs.replace(settings, allow_unauthenticated=False)
        try:
            _require_local_client(scope, headers, settings)
        except PermissionDenied:
            return Client(address=find_client_address(scope, headers, settings))
        return Client(address_trusted=True, address=find_client_address(scope, headers, settings))
    try:
        client = await _identify(scope, headers, settings, policies)
    except AuthenticationFailed:
        if not _is_for_scim(scope):
            raise
        client = None  # a policy knows no token of SCIM
    if client is None:
        if route is not None and route.checks_key and not find_credentials(headers):
            return Client(name="", address=find_client_address(scope, headers, settings))
        raise _explain_missing_token(headers) if _is_for_scim(scope) else _explain_missing_key(headers, settings)
    require_access(client, scope["method"], scope["path"], settings)
    return client


async def _identify(
    scope: Mapping[str, Any], headers: Mapping[str, str], settings: Settings, policies: Sequence[Policy]
) -> Client | None:
    """None: the request needs a key, and has none or a wrong one."""
    if settings.monitor_api_keys:
        number = find_matching_key(find_credentials(headers), settings.monitor_api_keys)
        if number is not None:
            return Client(name=f"monitor key {number}", role="monitor")
    if settings.scim_tokens:
        number = find_matching_key(find_credentials(headers), settings.scim_tokens)
        if number is not None:
            return Client(name=f"SCIM token {number}", role="provisioner")
    for policy in policies:
        if (client := await policy.identify(headers)) is not None:
            return client
    if settings.requires_client_key:
        number = find_matching_key(find_credentials(headers), settings.proxy_api_keys)
        return None if number is None else Client(name=f"key {number}")
    _require_local_client(scope, headers, settings)
    return Client(
        credential_forwardable=True, address_trusted=True, address=find_client_address(scope, headers, settings)
    )


def _is_for_scim(scope: Mapping[str, Any]) -> bool:
    return find_permission(scope["method"], scope["path"]) == "provision people"


def _explain_missing_token(headers: Mapping[str, str]) -> AuthenticationFailed:
    if find_credentials(headers):
        return AuthenticationFailed("The token is not one of SCIM_TOKEN.", should_retry=False, code="proxy-key-wrong")
    return AuthenticationFailed(
        "People and groups need one of SCIM_TOKEN, sent as Authorization: Bearer.",
        should_retry=False,
        code="proxy-key-missing",
    )


def _explain_missing_key(headers: Mapping[str, str], settings: Settings) -> AuthenticationFailed:
    if find_credentials(headers):
        return AuthenticationFailed(
            "The key is not one of this proxy's keys (PROXY_API_KEY).", should_retry=False, code="proxy-key-wrong"
        )
    if settings.virtual_keys:
        return AuthenticationFailed(
            "This proxy requires a key: send yours as the API key (ANTHROPIC_API_KEY) or as Authorization: Bearer "
            "(ANTHROPIC_AUTH_TOKEN).",
            remedy="Its administrator creates one:  anthropic-proxy keys create LABEL",
            wish="a key",
            should_retry=False,
            code="proxy-key-missing",
        )
    return AuthenticationFailed(
        "This proxy requires a key: send one of PROXY_API_KEY as the API key (ANTHROPIC_API_KEY) or as "
        "Authorization: Bearer (ANTHROPIC_AUTH_TOKEN).",
        should_retry=False,
        code="proxy-key-missing",
    )


def require_auth_if_exposed(settings: Settings) -> None:
    """Raise `ConfigurationError` if the proxy listens for other machines without a key or `ALLOW_UNAUTHENTICATED`."""
    if not (is_loopback(settings.host) or settings.requires_client_key or settings.allow_unauthenticated):
        origin = settings.placeholders.get("PROXY_API_KEY", "")
        place = f" in {'the environment' if origin == 'environment' else format_origin_in_sentence(origin)}"
        cause = f": PROXY_API_KEY{place} is still the placeholder of an example" if origin else ""
        raise ConfigurationError(
            f"{settings.host} can be reached from other machines, and no key is required{cause}. "
            "Set PROXY_API_KEY, or ALLOW_UNAUTHENTICATED=true if access is controlled elsewhere.",
            code="open-to-network",
        )


def claude_code_command(address: str, settings: Settings) -> str:
    """Return the shell command that starts Claude Code with this proxy. It contains a placeholder for the key."""
    token = "local"
    if settings.proxy_api_keys:
        token = "'one of PROXY_API_KEY'"
    elif settings.virtual_keys:
        token = "'your key'"
    return f"ANTHROPIC_BASE_URL={address} ANTHROPIC_AUTH_TOKEN={token} claude"


def exposure_warning(settings: Settings, host: str) -> str:
    """Return a warning if other machines can reach the proxy and no key is required. "": none, or `host` is unknown."""
    if not host or is_loopback(host) or settings.requires_client_key:
        return ""
    if settings.allow_unauthenticated:
        return (
            "NO KEY IS REQUIRED (ALLOW_UNAUTHENTICATED=true): every client that reaches this port uses your "
            "provider keys at your expense. Set PROXY_API_KEY, unless access is controlled elsewhere."
        )
    return (
        "OTHER MACHINES CAN REACH THIS PORT, and no key is required: only clients on this machine are served. "
        "Set PROXY_API_KEY to serve others, or listen on 127.0.0.1."
    )


def _require_allowed_network(scope: Mapping[str, Any], headers: Mapping[str, str], settings: Settings) -> None:
    """Raise `PermissionDenied` for an address that is in none of `ALLOWED_NETWORKS`. A program on this machine that
    forwards no other address is always allowed.
    """
    text = find_client_address(scope, headers, settings)
    address = read_address(text)
    is_own = scope.get("client") is None or (address is not None and address.is_loopback)
    if is_own and _FORWARDING_HEADERS.isdisjoint(headers):
        return
    if address is None or not any(address in network for network in settings.allowed_networks):
        raise PermissionDenied(
            f"The address {text or 'of the client, which is unknown,'} may not connect to this proxy.",
            remedy="Add its network to ALLOWED_NETWORKS. Behind a reverse proxy, TRUSTED_PROXIES names that proxy.",
            wish="access from this network",
            code="network",
        )


def _require_local_client(scope: Mapping[str, Any], headers: Mapping[str, str], settings: Settings) -> None:
    """Raise `PermissionDenied` for a request from another machine, or from a foreign web page in a local browser."""
    peer = scope.get("client")
    if not settings.allow_unauthenticated and peer is not None and not is_loopback(peer[0]):
        raise PermissionDenied(
            f"Callers from {peer[0]} are not served without a key. Set PROXY_API_KEY, or ALLOW_UNAUTHENTICATED=true.",
            code="other-machine",
        )
    if not (settings.allow_unauthenticated or _FORWARDING_HEADERS.isdisjoint(headers)) and (
        hop := _find_remote_forwarded_client(headers)
    ):
        raise PermissionDenied(
            f"Requests that a proxy forwards for {hop} are not served without a key. "
            "Set PROXY_API_KEY, or ALLOW_UNAUTHENTICATED=true.",
            code="other-machine",
        )
    host = headers.get("host", "")
    name = _host_name(host)
    # DNS rebinding needs a host name, so every IP address is accepted if every client is
    has_known_name = is_loopback(name) or name in settings.allowed_hosts
    if not (has_known_name or (settings.allow_unauthenticated and read_address(name) is not None)):
        raise PermissionDenied(
            f"Host {host!r} is not a name of this proxy. Use localhost, or add it to ALLOWED_HOSTS, or set "
            "PROXY_API_KEY.",
            code="host-name",
        )
    origin = headers.get("origin")
    if origin is not None and not _origin_allowed(origin, f"{scope.get('scheme', 'http')}://{host}", settings):
        raise PermissionDenied(
            f"Requests from the web page {origin!r} are not served without PROXY_API_KEY.", code="web-page"
        )
    if headers.get("sec-fetch-site", "none") not in _SAME_SITE_VALUES:  # images and forms of a page send no Origin
        raise PermissionDenied(
            "Requests from a web page of another site are not served without PROXY_API_KEY.", code="web-page"
        )


def _find_remote_forwarded_client(headers: Mapping[str, str]) -> str:
    hops = [*headers.get("x-forwarded-for", "").split(","), headers.get("x-real-ip", "")]
    hops += _FORWARDED_FOR.findall(headers.get("forwarded", ""))
    names = (hop.strip().strip('"').strip() for hop in hops)
    for name in filter(None, names):
        if not is_loopback(name.lower() if read_address(name) is not None else _host_name(name)):
            return name
    return ""


def _origin_allowed(origin: str, own: str, settings: Settings) -> bool:
    """Allowed are pages of this machine, of the names in `ALLOWED_HOSTS`, and of the proxy itself (`own`)."""
    # an IP address is accepted as `Host`, but not as origin: any web site can have an address as its origin
    _, found, host = origin.partition("://")
    name = _host_name(host) if found else origin  # `null`
    return is_loopback(name) or name in settings.allowed_hosts or _split_origin(origin) == _split_origin(own)


def _split_origin(origin: str) -> tuple[str, str, str] | None:
    """Return scheme, host and port of an `Origin` header. None: the origin has no host, for example `null`."""
    scheme, found, host = origin.lower().partition("://")
    name = _host_name(host) if found else ""
    if not name:
        return None
    port = host.rpartition(":")[2] if host[-1:] != "]" and ":" in host else ""
    return scheme, name, port or _DEFAULT_PORTS.get(scheme, "")


@functools.lru_cache(maxsize=16)
def _host_name(host: str) -> str:
    """Return the name or IP address in a `Host` header in lower case, without port and brackets. "": invalid."""
    found = _HOST.fullmatch(host)
    return (found["address"] or found["name"].rstrip(".")).lower() if found else ""


@functools.lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Return True if a host name or IP address always means this machine: `localhost`, `127.0.0.1`, `::1`."""
    if host in _LOOPBACK_NAMES or host.endswith(".localhost"):
        return True
    address = read_address(host)
    return address is not None and address.is_loopback


def read_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An IPv4 address that is written as an IPv6 address becomes itself. None: no IP address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def find_client_address(scope: Mapping[str, Any], headers: Mapping[str, str], settings: Settings) -> str:
    """Return the IP address of the client, for limits, messages and `ALLOWED_NETWORKS`. "": unknown.

    It is the last address in `X-Forwarded-For` that is not of `TRUSTED_PROXIES`: each of these adds the address from
    which it was called, and a client can invent only what stands before. Without a trusted peer, the header is ignored.
    """
    found = str((scope.get("client") or ("",))[0])
    if not settings.trusted_proxies:
        return found
    hops = headers.get("x-forwarded-for", "").split(",")
    while hops and (peer := read_address(found)) and any(peer in network for network in settings.trusted_proxies):
        hop = hops.pop().strip()
        address = hop if read_address(hop) is not None else _host_name(hop)  # some proxies add the port
        if read_address(address) is None:  # the proxy does not know its client
            break
        found = address
    return found


def find_credentials(headers: Mapping[str, str]) -> list[bytes]:
    """Return the keys that a client sent in `x-api-key` and as bearer token in `authorization`."""
    scheme, _, token = headers.get("authorization", "").strip().partition(" ")
    bearer = token.strip()
    if scheme.lower() != "bearer":  # another scheme, which is ignored, or a key without a scheme
        bearer = "" if token else scheme
    # a client may send its own Anthropic key in one header and the key of the proxy in the other
    return [key.encode() for key in (headers.get("x-api-key", "").strip(), bearer) if key]


def find_matching_key(presented: Sequence[bytes], keys: Sequence[Secret]) -> int | None:
    """Return the position, from 1, of the key in `keys` that the client presented. None: no key matches."""
    expected = [key.reveal().encode() for key in keys]
    # all pairs are compared, in constant time, so that the duration reveals nothing about the keys
    matches = [[hmac.compare_digest(offered, key) for key in expected] for offered in presented]
    matching = next((row for row in matches if any(row)), None)
    return None if matching is None else matching.index(True) + 1
