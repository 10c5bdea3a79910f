"""Limit of failed sign-ins to the dashboard, and functions for its cookies.

`SignInLimit` counts the failed sign-ins from each client address. `find_cookie` reads a cookie of a request.
`encode_session_cookie` returns the header that sets the session cookie of a signed-in browser.
"""

import ipaddress

from anthropic_proxy.dashboard.assets import digest
from anthropic_proxy.plugins import Limit, Reservation, RouteRequest, Store
from anthropic_proxy.settings import Settings

COOKIE = "anthropic_proxy_session"
"""Name of the cookie with the session of a signed-in browser."""
MAX_FAILURES = 5
"""Maximum number of failed sign-ins of one address within `FAILURE_SECONDS`. Later sign-ins are rejected, also correct
ones."""
FAILURE_SECONDS = 60.0
MAX_FAILURES_PER_HOUR = 100
"""Maximum number of failed sign-ins of one client address within an hour. Later sign-ins are rejected."""
MAX_PROVIDER_FAILURES = 60
"""Maximum number of failed sign-ins of one client address with the identity provider within `FAILURE_SECONDS`."""
MAX_PROVIDER_FAILURES_PER_HOUR = 600
_FORWARDED_FACTOR = 20
"""Factor of the limits for all addresses together that one reverse proxy forwards."""
_HOUR_SECONDS = 3_600.0
_IPV6_NETWORK_BITS = 64
"""Number of bits of an IPv6 address that identify a network. One client can use all addresses of its network."""


class SignInLimit:
    """Limit of failed sign-ins for each client address.

    All workers share the counters. Each `kind` of sign-in, by a key or by an identity provider, has its own counters.
    """

    def __init__(
        self, kind: str = "key", per_minute: int = MAX_FAILURES, per_hour: int = MAX_FAILURES_PER_HOUR
    ) -> None:
        self._kind = kind
        self._per_minute, self._per_hour = per_minute, per_hour

    async def reserve_sign_in(self, store: Store, address: str, forwarded_for: str = "") -> Reservation:
        """Count a sign-in from the client at `address`, and return the reservation for this sign-in.

        The caller must count a sign-in before its check, so that simultaneous sign-ins cannot exceed the limit. If the
        field `refused` of the result is set, the limit is reached and the caller must reject the sign-in. Otherwise,
        the caller must pass the result of the check to `settle_sign_in`.
        """
        place = f"dashboard/sign-in/{self._kind}/{_find_network(address)}"
        limits = self._list_limits(place, _FORWARDED_FACTOR if forwarded_for else 1)
        if forwarded_for:
            own = f"{place}/{_find_network(forwarded_for.rpartition(',')[2].strip())}"
            limits = [*self._list_limits(own, 1), *limits]
        return await store.reserve(limits)

    def _list_limits(self, place: str, factor: int) -> list[Limit]:
        return [
            Limit(f"{place}/minute", "rate", 1, self._per_minute * factor, FAILURE_SECONDS),
            Limit(f"{place}/hour", "rate", 1, self._per_hour * factor, _HOUR_SECONDS),
        ]

    async def settle_sign_in(self, store: Store, reservation: Reservation, *, is_success: bool) -> None:
        """Complete the count of a sign-in: only a failed one stays counted.

        `store` has the counters. `reservation` is the result of `reserve_sign_in`. `is_success` is True if the sign-in
        succeeded.
        """
        await store.settle(reservation, [0 if is_success else 1] * len(reservation.limits))


def is_https(request: RouteRequest, settings: Settings) -> bool:
    """Return True if the browser uses TLS, for its connection to this server or to a reverse proxy in front of it.

    The reverse proxy uses TLS if `DASHBOARD_URL` begins with `https:`.
    """
    return request.scheme == "https" or settings.dashboard_url.startswith("https:")


def find_cookie(header: str, name: str) -> str:
    """Return the value of the cookie `name` in a request header `Cookie`. "": the cookie is missing."""
    for pair in header.split(";"):
        key, _, value = pair.strip().partition("=")
        if key == name:
            return value
    return ""


def encode_session_cookie(value: str, seconds: int, *, is_https: bool) -> str:
    """Return the header `Set-Cookie` with the session cookie of a signed-in browser.

    With 0 `seconds`, the browser removes the cookie.
    """
    secure = "; Secure" if is_https else ""
    return f"{COOKIE}={value}; Path=/dashboard; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"


def _find_network(address: str) -> str:
    """Return a digest of the IPv4 address `address`, or of the network of an IPv6 address, as name of a counter."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        name = address
    else:
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped  # of an IPv4 client of a socket for both
        bits = 32 if parsed.version == 4 else _IPV6_NETWORK_BITS
        name = str(ipaddress.ip_network((parsed, bits), strict=False))
    return digest(name)[:32]
