"""Requests to webhooks of the company: headers, answers, and the pauses after which they are repeated.

The headers are those of Standard Webhooks (standardwebhooks.com, read on 2026-11-27).
"""

import base64
import hmac
from collections.abc import Mapping, Sequence

from msgspec import Struct

from anthropic_proxy.engine.wires.purposes import OperatorPurpose
from anthropic_proxy.errors import ProxyError
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.push_tables import decode_webhook_secret
from anthropic_proxy.plugins import Gateway
from anthropic_proxy.secrets import Secret

LEASE_SECONDS = 60.0
"""Time for which what a process sends belongs to it: longer than the time limit of a request."""
POLL_SECONDS = 30.0
"""Maximum pause after which a process looks for what another one could not send."""
_FIRST_PAUSE_SECONDS = 5.0


def build_headers(message_id: str, at: int, body: bytes, secrets: Sequence[Secret]) -> dict[str, str]:
    """Each of `secrets` signs, so that a receiver can replace its secret at any time. `at`: seconds since the epoch."""
    headers = {
        "content-type": "application/json",
        "user-agent": "anthropic-proxy",
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
    }
    signed = f"{message_id}.{at}.".encode() + body
    keys = [key for secret in secrets if (key := decode_webhook_secret(secret.reveal())) is not None]
    digests = [base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys]
    return {**headers, "webhook-signature": " ".join(f"v1,{digest}" for digest in digests)} if digests else headers


class Delivery(Struct, frozen=True):
    """What became of a request."""

    problem: str = ""
    """Why it was not accepted. "": it was."""
    status: int = 0
    """0: there was no answer."""
    body: bytes = b""
    retry_after: float = 0.0
    """Seconds for which the receiver wants no other request."""


async def deliver(
    gateway: Gateway[Settings],
    url: Secret,
    headers: Mapping[str, str],
    body: bytes,
    *,
    purpose: OperatorPurpose,
    max_bytes: int = 0,
) -> Delivery:
    """`max_bytes`: how much of the answer is read."""
    try:
        reply = await gateway.send_http("POST", url.reveal(), headers, body, max_bytes=max_bytes, purpose=purpose)
    except ProxyError as error:  # its text has the origin of the address only
        return Delivery(error.message)
    problem = "" if 200 <= reply.status < 300 else f"status {reply.status}"
    return Delivery(problem, reply.status, reply.body, reply.retry_after or 0.0)


def find_pause(attempts: int, longest: float, retry_after: float = 0.0) -> float:
    """Return the time in seconds until the next attempt after `attempts` failed ones."""
    return max(min(_FIRST_PAUSE_SECONDS * 2.0 ** min(attempts - 1, 20), longest), retry_after)
