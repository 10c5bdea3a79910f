"""Values of keywords as short JSON texts for a description."""

from itertools import islice
from typing import Any

import msgspec

MAX_TEXT_CHARACTERS = 200
"""Characters of JSON that a keyword may add to a description."""


def encode_short(value: Any) -> str | None:
    """Return a value as JSON text; None for a text of more than `MAX_TEXT_CHARACTERS`.

    A large value is not encoded: each of its members takes at least one character.
    """
    if not _may_be_short(value):
        return None
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= MAX_TEXT_CHARACTERS else None


def _may_be_short(value: Any) -> bool:
    remaining, open_values = MAX_TEXT_CHARACTERS, [value]
    while open_values and remaining >= 0:
        one = open_values.pop()
        remaining -= len(one) if isinstance(one, str) else 1
        if isinstance(one, dict):
            remaining -= len(one)
            open_values += islice(one.values(), MAX_TEXT_CHARACTERS)
        elif isinstance(one, list):
            remaining -= len(one)
            open_values += islice(one, MAX_TEXT_CHARACTERS)
    return remaining >= 0
