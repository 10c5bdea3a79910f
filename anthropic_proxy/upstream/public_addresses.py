"""`is_public_address`: checks that an IP address is public, so that web fetch reaches no server in a private network.

An IPv4 address inside an IPv6 address is checked too. The tables are our own, because the results of `ipaddress` differ
between Python versions. Sources: IANA's registries of special-purpose addresses (IPv4 and IPv6, read 2026-11), RFC 6052
(NAT64), RFC 4291 (mapped addresses) and the cloud providers' pages on their metadata services.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

IpAddress = IPv4Address | IPv6Address
"""IPv4 or IPv6 address."""
IpNetwork = IPv4Network | IPv6Network
"""IPv4 or IPv6 network: a range of addresses."""

# The tables are our own, because the results of `ipaddress` differ between Python versions. Sources: IANA's registries
# of special-purpose addresses (IPv4 and IPv6, read 2026-11), RFC 6052 (NAT64), RFC 4291 (mapped addresses) and the
# cloud providers' pages on their metadata services.
_PRIVATE_4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network; Linux treats 0.0.0.0 as loopback
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # carrier-grade NAT; Alibaba's metadata
            "127.0.0.0/8",  # loopback
            "168.63.129.16/32",  # Azure's own services, on a public address
            "169.254.0.0/16",  # link-local; the metadata of most clouds
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments; Oracle's metadata
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # 6to4 relays, deprecated
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # measurements
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, broadcast
        ),
    )
)
_GLOBAL_6 = IPv6Network("2000::/3")
"""Public IPv6 addresses (global unicast). All others are loopback, unique local (metadata of AWS and Google),
link-local or multicast."""
_PRIVATE_6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments; Teredo, which wraps IPv4
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4, which wraps IPv4
            "3fff::/20",  # documentation
        ),
    )
)
_MAPPED = IPv6Network("::ffff:0:0/96")
_NAT64 = IPv6Network("64:ff9b::/96")
"""IPv6 addresses that contain an IPv4 address (NAT64), used in networks without IPv4. Only the contained IPv4 address
is checked."""
_LOW_32 = 0xFFFFFFFF


def is_public_address(address: str, allowed: Sequence[IpNetwork] = ()) -> bool:
    """Return True if an IP address is public, or is in one of the networks `allowed`.

    False: a private address, or a text that is no address.
    """
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return any(found in network for network in allowed) or _is_global(found)


def _is_global(address: IpAddress) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _PRIVATE_4)
    if address in _MAPPED or address in _NAT64:
        return _is_global(IPv4Address(int(address) & _LOW_32))
    return address in _GLOBAL_6 and not any(address in network for network in _PRIVATE_6)
