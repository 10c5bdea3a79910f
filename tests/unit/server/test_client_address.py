"""The address of a client: that of the connection, or behind reverse proxies that the settings name."""

from ipaddress import ip_network

import pytest

from anthropic_proxy.gateway.server.auth import find_client_address
from anthropic_proxy.gateway.settings import Settings

LOCAL, INNER = "127.0.0.1", "10.0.0.0/8"


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded_for", "expected"),
    [
        ((), LOCAL, "192.0.2.1", LOCAL),
        ((INNER,), LOCAL, "192.0.2.1", LOCAL),
        ((LOCAL,), LOCAL, "", LOCAL),
        ((LOCAL,), LOCAL, "192.0.2.1", "192.0.2.1"),
        ((LOCAL,), LOCAL, "198.51.100.7, 192.0.2.1", "192.0.2.1"),
        ((LOCAL, INNER), LOCAL, "198.51.100.7, 192.0.2.1, 10.0.0.9", "192.0.2.1"),
        ((LOCAL, INNER), LOCAL, "10.0.0.8, 10.0.0.9", "10.0.0.8"),
        ((INNER,), "::ffff:10.0.0.9", "192.0.2.1", "192.0.2.1"),
        (("fd00::/8",), "fd00::9", "2001:db8::1", "2001:db8::1"),
        ((LOCAL,), LOCAL, "192.0.2.1:4711", "192.0.2.1"),
        ((LOCAL,), LOCAL, "[2001:db8::1]:4711", "2001:db8::1"),
        ((LOCAL,), LOCAL, "192.0.2.1, unknown", LOCAL),
        ((LOCAL, INNER), LOCAL, "192.0.2.1, x, 10.0.0.9", "10.0.0.9"),
        ((LOCAL,), LOCAL, "192.0.2.1,", LOCAL),
        ((LOCAL,), "unix:", "192.0.2.1", "unix:"),
    ],
)
def test_only_named_proxies_state_the_address_of_a_client(
    trusted: tuple[str, ...], peer: str, forwarded_for: str, expected: str
) -> None:
    settings = Settings(trusted_proxies=tuple(map(ip_network, trusted)))
    headers = {"x-forwarded-for": forwarded_for} if forwarded_for else {}
    assert find_client_address({"client": (peer, 1)}, headers, settings) == expected


def test_a_client_without_an_address_has_none() -> None:
    settings = Settings(trusted_proxies=(ip_network("0.0.0.0/0"),))
    assert find_client_address({"client": None}, {"x-forwarded-for": "192.0.2.1"}, settings) == ""
