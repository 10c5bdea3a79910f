"""Key texts, the secrets that clients send: `sk-ap-`, 40 random characters, and a checksum.

A virtual key is a key that the proxy issues to a client. `new_key` returns a random key text. `hash_key` returns its
hash, because the database stores only hashes. `build_key_hint` returns a short form for lists.
"""

import hashlib
import secrets
import string
import zlib

PREFIX = "sk-ap-"
"""Beginning of the text of each virtual key. `sk-` lets redaction and scanners for secrets recognize it."""
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM_CHARACTERS = 40
"""Number of random characters in the text of a key. They have 238 bits of randomness."""
_CHECKSUM_CHARACTERS = 6


def new_key() -> str:
    """Return the text of a new virtual key: prefix, random characters and checksum."""
    random = "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_CHARACTERS))
    return f"{PREFIX}{random}{_find_checksum(random)}"


def hash_key(key: bytes) -> str:
    """Return the SHA-256 hash of a key text (secret), which the database stores instead of the text."""
    # A plain hash suffices, because 238 random bits cannot be guessed (decision 0047).
    return hashlib.sha256(key).hexdigest()


def has_valid_checksum(key: bytes) -> bool:
    """Return True if the text of a virtual key ends with the right checksum.

    False: the text was mistyped or truncated, or is a key of another service.
    """
    text = key.decode("latin-1")
    random = text[len(PREFIX) : -_CHECKSUM_CHARACTERS]
    return text == f"{PREFIX}{random}{_find_checksum(random)}" and len(random) == _RANDOM_CHARACTERS


def build_key_hint(key: str) -> str:
    """Return the beginning and end of the text of a virtual key, for lists: `sk-ap-…4f2a`."""
    return f"{PREFIX}…{key[-4:]}"


def _find_checksum(text: str) -> str:
    number, characters = zlib.crc32(text.encode("latin-1")), ""
    for _ in range(_CHECKSUM_CHARACTERS):
        number, digit = divmod(number, len(_ALPHABET))
        characters += _ALPHABET[digit]
    return characters
