"""SHA-256 of a text (`digest`), used as a name in the store, or to detect that a text has changed."""

import hashlib


def digest(text: str) -> str:
    """Return the SHA-256 of `text` as hexadecimal digits. Characters that UTF-8 cannot encode are hashed as `?`."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
