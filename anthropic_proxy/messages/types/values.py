"""What kind of value a `Raw` holds, told by its first character.

`Raw` cannot be indexed, and to take a view of it for one byte costs three times as much as to compare it.
"""

from msgspec import Raw

_ABOVE_STRINGS = bytearray(b"#")
"""A JSON string is less than this, and no other value is: `"` is the lowest character that one begins with."""
_LEAST_OBJECT = bytearray(b"{")
"""No other value than an object is as great: `{` is the highest of them."""


def is_text(raw: Raw) -> bool:
    """Whether a value is a JSON string, or `ABSENT`."""
    return raw < _ABOVE_STRINGS


def is_object(raw: Raw) -> bool:
    """Whether a value is a JSON object."""
    return raw >= _LEAST_OBJECT
