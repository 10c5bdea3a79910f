"""Limits of attempts for each client address. All workers and instances share the counters.

Behind one address of a company (NAT), 300 people sign in at the beginning of a day. So each limit admits what they
need, also if all come within ten minutes, except that of keys: only administrators sign in with one.
"""

import hashlib

from msgspec import Struct

from anthropic_proxy.gateway.server.auth import read_address
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Limit, Reservation, RouteRequest, Store

NETWORK_BITS = 64
"""Number of bits of an IPv6 address that identify a network. One client can use all addresses of its network."""
SITE_BITS = 48
"""Number of bits of an IPv6 address that identify a site. Its owner can use all networks of it (RFC 6177)."""
_SITE_FACTOR = 20
"""Factor of the limits for all networks of a site together."""


class Window(Struct, frozen=True):
    maximum: int
    seconds: float


class AddressLimit(Struct, frozen=True):
    """Limit of attempts for each client address."""

    place: str
    """Beginning of the names of the counters in the store."""
    windows: tuple[Window, ...]

    async def reserve(self, store: Store, request: RouteRequest) -> Reservation:
        """Count an attempt before its check, so that simultaneous ones cannot exceed the limit.

        If `refused` of the result is set, the caller must reject the attempt. `settle` of its result is needed only if
        a success does not count.
        """
        network = name_network(request.address, NETWORK_BITS)
        site = name_network(request.address, SITE_BITS)
        factors = {network: 1} if site == network else {network: 1, site: _SITE_FACTOR}
        limits = [
            Limit(f"{self.place}/{name}/{window.seconds:g}", "rate", 1, window.maximum * factor, window.seconds)
            for name, factor in factors.items()
            for window in self.windows
        ]
        return await store.reserve(limits)

    async def settle(self, store: Store, reservation: Reservation, *, is_success: bool) -> None:
        """Complete the count of an attempt: only a failed one stays counted."""
        await store.settle(reservation, [0 if is_success else 1] * len(reservation.limits))


def explain_limit(request: RouteRequest, settings: Settings) -> str:
    """Return what an administrator should know about the refusal of an address. "": nothing."""
    if settings.trusted_proxies or "x-forwarded-for" not in request.headers:
        return ""
    return " If it is a reverse proxy, name it in TRUSTED_PROXIES, so that its clients have limits of their own."


def name_network(address: str, ipv6_bits: int = NETWORK_BITS) -> str:
    """Return a name that all addresses of a network or a site have in common."""
    parsed = read_address(address)
    name = address if parsed is None else str(parsed)
    if parsed is not None and parsed.version == 6:
        name = f"{int(parsed) >> (128 - ipv6_bits):x}/{ipv6_bits}"
    return hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:32]
