"""Requests to webhooks of the company: their headers, and the pauses after which they are repeated.

The headers are those of Standard Webhooks (standardwebhooks.com, read on 2026-11-27).
"""

import base64
import hmac
from collections.abc import Sequence

from anthropic_proxy.gateway.settings.push_tables import decode_webhook_secret
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


def find_pause(attempts: int, longest: float) -> float:
    """Return the time in seconds until the next attempt after `attempts` failed ones."""
    return min(_FIRST_PAUSE_SECONDS * 2.0 ** min(attempts - 1, 20), longest)
