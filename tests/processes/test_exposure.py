"""Start-up messages for a proxy that other machines can reach, and the addresses on which it listens."""

import os
import re
import socket
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.support.command_line import run_command as run
from tests.support.process_checks import error_of, port_of
from tests.support.server_process import running_proxy
from tests.support.tls import NO_AUTHORITIES
from tests.support.waiting import WAIT_SECONDS, wait_for

RULE = "!" * 60
REFUSED = "OTHER MACHINES CAN REACH THIS PORT"
OPEN = "NO KEY IS REQUIRED"
KEY = {"PROXY_API_KEY": "the-only-key-123456"}
UVICORN = ("-m", "uvicorn", "server:app", "--port", "{port}", "--host")


@pytest.mark.parametrize(
    ("command", "settings", "warning"),
    [
        ((*UVICORN, "0.0.0.0"), {}, REFUSED),
        ((*UVICORN, "0.0.0.0"), {"ALLOW_UNAUTHENTICATED": "true"}, OPEN),
        ((*UVICORN, "0.0.0.0"), KEY, None),
        ((*UVICORN, "127.0.0.1"), {}, None),
        (("-m", "anthropic_proxy", "serve", "--host", "0.0.0.0"), {"ALLOW_UNAUTHENTICATED": "true"}, OPEN),
        (("-m", "anthropic_proxy", "serve", "--host", "0.0.0.0"), KEY, None),
        (("-m", "anthropic_proxy", "serve"), {"ALLOW_UNAUTHENTICATED": "true"}, None),
    ],
)
def test_an_address_that_others_reach_is_warned_of_at_the_start(
    tmp_path: Path, command: tuple[str, ...], settings: dict[str, str], warning: str | None
) -> None:
    with running_proxy(tmp_path, {**settings, "LOG_LEVEL": "warning"}, command) as proxy:
        wait_for(lambda: warning is None or warning in proxy.log)
        assert proxy.log.count(RULE) == (0 if warning is None else 2)


def own_address() -> str:
    """Return an address of this machine that is none of the loopback ones; empty: it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            return ""
        address = str(probe.getsockname()[0])
    return "" if address.startswith("127.") else address


NETWORKS = {**KEY, "ALLOWED_NETWORKS": "10.1.0.0/16, fd00::/8"}
BEHIND = {**NETWORKS, "TRUSTED_PROXIES": "127.0.0.1"}
DENIED = (
    "The address {} may not connect to this proxy. Add its network to ALLOWED_NETWORKS. Behind a reverse proxy, "
    "TRUSTED_PROXIES names that proxy."
)


@pytest.mark.parametrize(
    ("settings", "forwarded", "path", "denied"),
    [
        (NETWORKS, "", "/v1/models", ""),
        (NETWORKS, "10.1.2.3", "/v1/models", "127.0.0.1"),  # nobody is believed
        (BEHIND, "", "/v1/models", ""),
        (BEHIND, "10.1.2.3", "/v1/models", ""),
        (BEHIND, "fd00::1", "/dashboard", ""),
        (BEHIND, "::ffff:10.1.2.3", "/v1/models", ""),
        (BEHIND, "10.2.0.1", "/v1/models", "10.2.0.1"),
        (BEHIND, "10.1.2.3, 192.0.2.7", "/v1/models", "192.0.2.7"),  # the client has invented the first one
        (BEHIND, "192.0.2.7", "/dashboard/sign-in", "192.0.2.7"),
        (BEHIND, "192.0.2.7", "/api/hello", "192.0.2.7"),
        (BEHIND, "unknown", "/v1/models", "127.0.0.1"),
        (BEHIND, "192.0.2.7", "/readyz", ""),
    ],
)
def test_only_allowed_networks_connect(
    tmp_path: Path, settings: dict[str, str], forwarded: str, path: str, denied: str
) -> None:
    headers = {"x-api-key": KEY["PROXY_API_KEY"], **({"x-forwarded-for": forwarded} if forwarded else {})}
    with running_proxy(tmp_path, settings) as proxy:
        reply = proxy.client(headers=headers).get(path)
    if denied:
        assert (reply.status_code, reply.json()["error"]["message"]) == (403, DENIED.format(denied))
    else:
        assert reply.status_code < 400


@pytest.mark.parametrize("allowed", [False, True])
def test_the_first_remote_client_reveals_an_exposed_server(tmp_path: Path, allowed: bool) -> None:
    address = own_address()
    if not address:
        pytest.skip("platform: this machine has loopback addresses only")
    settings = {"ALLOW_UNAUTHENTICATED": "true"} if allowed else {}
    with running_proxy(tmp_path, settings, ("-c", HIDDEN, "{port}")) as proxy:
        assert RULE not in proxy.log
        for _ in range(2):
            models = f"http://{address}:{port_of(proxy)}/v1/models"
            response = httpx.get(models, trust_env=False, verify=NO_AUTHORITIES, timeout=WAIT_SECONDS)
            assert response.status_code == (200 if allowed else 403)
            if not allowed:
                assert error_of(response)[1] == "permission_error"
        wait_for(lambda: (OPEN if allowed else REFUSED) in proxy.log)
        assert proxy.log.count(RULE) == 2


HIDDEN = """
import sys
import uvicorn
from anthropic_proxy.app import app_from_environment
port = int(sys.argv.pop())
uvicorn.run(app_from_environment(), host="0.0.0.0", port=port)
"""


@pytest.mark.parametrize("more", [(), ("--workers", "3"), ("--reload",)])
def test_an_occupied_port_is_one_line_that_names_it(tmp_path: Path, more: tuple[str, ...]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        ended = run("serve", "--port", port, *more, settings={}, directory=tmp_path)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert re.fullmatch(
        rf"✕ Port {port} is in use by \S+ \(process {os.getpid()}\)\. "
        rf"Stop it, or run:  anthropic-proxy serve {re.escape(' '.join((*more, '--port')))} \d+",
        line,
    )
