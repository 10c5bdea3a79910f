"""Short JSON texts of keyword values in a JSON Schema, for keywords that a provider does not support.

`encode_if_short` returns the text of a value. The caller adds the text to the `description` of the schema, so that the
model can still follow the keyword.
"""

from itertools import islice
from typing import Any

import msgspec

MAX_TEXT_CHARACTERS = 200
"""Maximum length of the JSON text of one keyword value. A longer value is not added to a description."""


def encode_if_short(value: Any) -> str | None:
    """Return a decoded JSON value as JSON text. None: the text has more than `MAX_TEXT_CHARACTERS` characters."""
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
