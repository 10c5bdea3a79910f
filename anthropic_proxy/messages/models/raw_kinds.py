"""Types of JSON values in `Raw`, detected by a comparison of their first character.

`Raw` has no index access. A memoryview of one byte costs three times as much as a comparison.
"""

import msgspec
from msgspec import Raw

_ABOVE_STRINGS = bytearray(b"#")
"""Upper bound of JSON strings: `"` is the lowest first character of a JSON value."""
_MIN_OBJECT = bytearray(b"{")
"""Lower bound of JSON objects: `{` is the highest first character of a JSON value."""


def is_string_or_absent(raw: Raw) -> bool:
    """Return True for a JSON string and for `ABSENT`."""
    return raw < _ABOVE_STRINGS


def is_json_object(raw: Raw) -> bool:
    """Return True for a JSON object."""
    return raw >= _MIN_OBJECT


def json_string(text: str) -> Raw:
    """Encode a text as a JSON string, with quotes and escapes."""
    return Raw(msgspec.json.encode(text))
