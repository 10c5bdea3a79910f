"""Check of the address at which persons sign in from Claude Code (`DASHBOARD_URL`).

Claude Code trusts one certificate for each host name, and accepts private addresses only.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.engine.upstream.http.certificates import read_fingerprints
from anthropic_proxy.engine.upstream.http.dialer import is_public_address
from anthropic_proxy.errors import join_with_and
from anthropic_proxy.gateway.settings import Settings

SHOWN_DIGITS = 16
"""Number of digits of a fingerprint that Claude Code shows."""
_HTTPS_PORT = 443


class GatewayCheck(NamedTuple):
    fingerprint: str = ""
    """Sentence about the certificate, as Claude Code shows it. "": not examined."""
    problems: Sequence[str] = ()


async def check_gateway(settings: Settings) -> GatewayCheck:
    """Compare the certificates of all addresses of the host of `DASHBOARD_URL`."""
    url = urlsplit(settings.dashboard_url)
    if settings.sign_in is None or url.scheme != "https" or url.hostname is None:
        return GatewayCheck()
    try:
        found = await read_fingerprints(url.hostname, url.port or _HTTPS_PORT)
    except OSError as error:
        reason = describe_os_error(error)
        return GatewayCheck(problems=[f"Nobody can sign in at {settings.dashboard_url} (DASHBOARD_URL): {reason}."])
    return judge_fingerprints(settings.dashboard_url, found)


def judge_fingerprints(url: str, found: Mapping[str, str | OSError]) -> GatewayCheck:
    """`found`: that of `read_fingerprints`."""
    problems = [
        f"{address} of {url} presents no certificate: {describe_os_error(error)}. Persons who meet it cannot sign in."
        for address, error in found.items()
        if isinstance(error, OSError)
    ]
    problems += [
        f"{address} of {url} is a public address. Claude Code signs in at private addresses only. Let the host name "
        "lead to a private one inside the company."
        for address in found
        if is_public_address(address)
    ]
    known = {address: digits[:SHOWN_DIGITS] for address, digits in found.items() if isinstance(digits, str)}
    prints = list(dict.fromkeys(known.values()))
    if len(prints) > 1:
        listed = ", ".join(f"{address} {digits}" for address, digits in known.items())
        problems.append(
            f"The instances behind {url} present different certificates: {listed}. Claude Code trusts one for each "
            "host name, and signs the person out at another one. Give all instances the same certificate."
        )
        return GatewayCheck(problems=problems)
    shown = f"{prints[0]} at {join_with_and([*known])} ({url})" if prints else ""
    return GatewayCheck(shown, problems)
