"""Removal of the credential in use from upstream errors. Some providers quote it, and errors are logged.

Wires redact key patterns. Here the key itself is known, so its format does not matter.
"""

from collections.abc import Iterable

from anthropic_proxy.errors import ProxyError, UpstreamError
from anthropic_proxy.redaction import is_redactable, redact_secret
from anthropic_proxy.wire.contract import Credential


def redact_error(error: UpstreamError, credential: Credential | None) -> None:
    """Remove the credential of an attempt from all texts of an error that are sent to the client or logged."""
    if (secret := _secret_of(credential)) is None:
        return
    error.message = redact_secret(error.message, secret)
    error.args = (error.message,)
    if error.parameter is not None:
        error.parameter = redact_secret(error.parameter, secret)
    if error.body is not None:
        error.body = _redact_in_bytes(error.body, secret)
    if notes := getattr(error, "__notes__", None):
        notes[:] = [redact_secret(note, secret) for note in notes]


def redact_secrets_in(error: ProxyError, secrets: Iterable[str]) -> None:
    """Remove these secrets from all texts of an error that are sent to the client or logged."""
    for secret in secrets:
        if isinstance(error, UpstreamError):
            redact_error(error, Credential("", secret))
        elif is_redactable(secret):
            error.message = redact_secret(error.message, secret)
            error.args = (error.message,)


def redact_bytes(data: bytes, credential: Credential | None) -> bytes:
    """Return bytes of a relayed response without the credential."""
    secret = _secret_of(credential)
    return data if secret is None else _redact_in_bytes(data, secret)


def _secret_of(credential: Credential | None) -> str | None:
    if credential is None:
        return None
    value = credential.value
    if credential.header == "authorization":
        value = value.partition(" ")[2] or value
    return value if is_redactable(value) else None


def _redact_in_bytes(data: bytes, secret: str) -> bytes:
    return redact_secret(data.decode(errors="surrogateescape"), secret).encode(errors="surrogateescape")
