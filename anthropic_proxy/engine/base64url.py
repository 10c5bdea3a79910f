"""Base64 with `-` and `_`, and without the `=` at its end (RFC 4648, section 5), as in ids and signatures."""

import base64


def encode_base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode_base64url(text: str) -> bytes:
    """Raises `ValueError` for another text."""
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
