"""Identifiers of requests, messages and tool calls."""

import random
import time
from collections.abc import Mapping

_BASE_62 = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_RANDOM_CHARACTERS: Mapping[str, int] = {"req_": 14, "toolu_px": 22}
"""Prefix of an id → number of its random characters, if it is not 24. The time of a request has ten."""
_ID_CHARACTERS = bytes(_BASE_62[byte % len(_BASE_62)] for byte in range(256))


def new_id(prefix: str) -> str:
    """Return the prefix and 24 letters and digits. They can be predicted, so an id is no secret.

    Those of a request begin with the time, because a database adds ids in ascending order at one place of its index.
    Only 22 follow the prefix `toolu_px`, so that the id is as long as one with the prefix `toolu_`.
    """
    length = _RANDOM_CHARACTERS.get(prefix, 24)
    if prefix == "req_":
        prefix = f"req_{int(time.time() * 256):x}"
    return prefix + random.getrandbits(8 * length).to_bytes(length, "little").translate(_ID_CHARACTERS).decode()
