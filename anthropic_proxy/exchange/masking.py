"""The key that was just used, taken out of what a provider says: some repeat it, and errors are shown and logged.

Wires mask what looks like a key, without knowing any. Here the key is known, so its shape does not matter.
"""

from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.redaction import hide, is_secret
from anthropic_proxy.wire.contract import Credential


def hide_key_in(error: UpstreamError, credential: Credential | None) -> None:
    """Take the key out of everything that is told or logged of an error."""
    if (secret := _secret_of(credential)) is None:
        return
    error.message = hide(error.message, secret)
    error.args = (error.message,)
    if error.parameter is not None:
        error.parameter = hide(error.parameter, secret)
    if error.body is not None:
        error.body = _hide_in_bytes(error.body, secret)
    if notes := getattr(error, "__notes__", None):
        notes[:] = [hide(note, secret) for note in notes]


def hide_key(said: bytes, credential: Credential | None) -> bytes:
    """Return bytes that pass as they came, without the key."""
    secret = _secret_of(credential)
    return said if secret is None else _hide_in_bytes(said, secret)


def _secret_of(credential: Credential | None) -> str | None:
    if credential is None:
        return None
    value = credential.value
    if credential.header == "authorization":
        value = value.partition(" ")[2] or value
    return value if is_secret(value) else None


def _hide_in_bytes(said: bytes, secret: str) -> bytes:
    return hide(said.decode(errors="surrogateescape"), secret).encode(errors="surrogateescape")
