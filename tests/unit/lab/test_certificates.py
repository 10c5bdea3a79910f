"""The doctor compares the certificates of all addresses at which persons sign in from Claude Code."""

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trustme

from anthropic_proxy.console.doctor.certificates import GatewayCheck, check_gateway, judge_fingerprints
from anthropic_proxy.gateway.settings import Settings, SignInSettings
from anthropic_proxy.secrets import Secret

URL = "https://proxy.example.org"
FIRST, SECOND = "0123456789abcdef" * 4, "fedcba9876543210" * 4
SIGN_IN = SignInSettings(secrets=(Secret("a" * 32),))


def test_equal_certificates_have_one_fingerprint_as_claude_code_shows_it() -> None:
    found = judge_fingerprints(URL, {"10.0.0.1": FIRST, "10.0.0.2": FIRST})
    assert found == GatewayCheck("0123456789abcdef at 10.0.0.1 and 10.0.0.2 (https://proxy.example.org)", [])


def test_each_problem_of_an_address_is_stated() -> None:
    given = {"10.0.0.1": FIRST, "10.0.0.2": SECOND, "10.0.0.3": OSError("no answer"), "203.0.114.5": FIRST}
    found = judge_fingerprints(URL, given)
    assert found == GatewayCheck(
        "",
        [
            "10.0.0.3 of https://proxy.example.org presents no certificate: no answer. Persons who meet it cannot sign "
            "in.",
            "203.0.114.5 of https://proxy.example.org is a public address. Claude Code signs in at private addresses "
            "only. Let the host name lead to a private one inside the company.",
            "The instances behind https://proxy.example.org present different certificates: 10.0.0.1 0123456789abcdef, "
            "10.0.0.2 fedcba9876543210, 203.0.114.5 0123456789abcdef. Claude Code trusts one for each host name, and "
            "signs the person out at another one. Give all instances the same certificate.",
        ],
    )


@asynccontextmanager
async def serving_tls() -> AsyncIterator[tuple[int, str]]:
    """Yield the port of a server on 127.0.0.1, and the fingerprint of its certificate."""
    certificate = trustme.CA().issue_cert("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0, ssl=context)
    leaf = ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())
    async with server:
        yield server.sockets[0].getsockname()[1], hashlib.sha256(leaf).hexdigest()


async def test_the_certificate_of_a_server_is_read_without_its_authority() -> None:
    async with serving_tls() as (port, fingerprint):
        url = f"https://127.0.0.1:{port}"
        found = await check_gateway(Settings(dashboard_url=url, sign_in=SIGN_IN))
    assert found == GatewayCheck(f"{fingerprint[:16]} at 127.0.0.1 ({url})", [])


async def test_a_server_that_is_not_there_is_a_problem() -> None:
    async with serving_tls() as (port, _):
        pass
    url = f"https://127.0.0.1:{port}"
    found = await check_gateway(Settings(dashboard_url=url, sign_in=SIGN_IN))
    text = f"127.0.0.1 of {url} presents no certificate: connection refused. Persons who meet it cannot sign in."
    assert found == GatewayCheck("", [text])


@pytest.mark.parametrize(
    "settings", [Settings(dashboard_url=URL), Settings(dashboard_url="http://127.0.0.1:8082", sign_in=SIGN_IN)]
)
async def test_nothing_is_asked_without_a_sign_in_or_without_tls(settings: Settings) -> None:
    assert await check_gateway(settings) == GatewayCheck()
