"""Functions for `Raw` values, which are JSON text that is not decoded.

`is_string_or_absent` and `is_json_object` detect the JSON type by the first character. `json_string` encodes a text as
a JSON string.
"""

import msgspec
from msgspec import Raw

_ABOVE_STRINGS = bytearray(b"#")
"""Upper bound of JSON strings. A `Raw` below it is a string or absent, because `"` is the lowest first character of a
JSON value."""
_MIN_OBJECT = bytearray(b"{")
"""Lower bound of JSON objects. A `Raw` below it is no object, because `{` is the highest first character of a JSON
value."""


def is_string_or_absent(raw: Raw) -> bool:
    """Return True if the `Raw` value is a JSON string, or `ABSENT` (the client did not send the field)."""
    return raw < _ABOVE_STRINGS


def is_json_object(raw: Raw) -> bool:
    """Return True if the `Raw` value is a JSON object."""
    return raw >= _MIN_OBJECT


def json_string(text: str) -> Raw:
    """Encode a text as a JSON string, with quotes and escapes."""
    return Raw(msgspec.json.encode(text))
