"""Limits of attempts for each client address. All workers and instances share the counters."""

import hashlib
import ipaddress

from msgspec import Struct

from anthropic_proxy.plugins import Limit, Reservation, RouteRequest, Store

_FORWARDED_FACTOR = 20
"""Factor of the limits for all addresses together that one reverse proxy forwards."""
_IPV6_NETWORK_BITS = 64
"""Number of bits of an IPv6 address that identify a network. One client can use all addresses of its network."""


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
        place = f"{self.place}/{_name_network(request.address)}"
        forwarded_for = request.headers.get("x-forwarded-for", "")
        limits = self._list_limits(place, _FORWARDED_FACTOR if forwarded_for else 1)
        if forwarded_for:
            own = f"{place}/{_name_network(forwarded_for.rpartition(',')[2].strip())}"
            limits = [*self._list_limits(own, 1), *limits]
        return await store.reserve(limits)

    async def settle(self, store: Store, reservation: Reservation, *, is_success: bool) -> None:
        """Complete the count of an attempt: only a failed one stays counted."""
        await store.settle(reservation, [0 if is_success else 1] * len(reservation.limits))

    def _list_limits(self, place: str, factor: int) -> list[Limit]:
        return [
            Limit(f"{place}/{window.seconds:g}", "rate", 1, window.maximum * factor, window.seconds)
            for window in self.windows
        ]


def _name_network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        name = address
    else:
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped  # of an IPv4 client of a socket for both
        bits = 32 if parsed.version == 4 else _IPV6_NETWORK_BITS
        name = str(ipaddress.ip_network((parsed, bits), strict=False))
    return hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:32]
