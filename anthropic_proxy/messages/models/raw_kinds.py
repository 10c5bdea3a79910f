"""Functions for `Raw` values, which are JSON text that is not decoded.

`is_string_or_absent` and `is_json_object` detect the JSON type by the first character. `json_string` encodes a text as
a JSON string. `has_too_many_members` limits the work of decoding.
"""

from itertools import accumulate, compress
from operator import countOf

import msgspec
from msgspec import Raw

MAX_MEMBERS = 250_000
"""Maximum number of list elements and object members in a request body. Decoding one takes up to 250 bytes and 2 µs,
and a call of the decoder blocks all other threads until it returns."""
MIN_COUNTED_BYTES = 1 << 21
"""Size of a body in bytes from which its parts are counted before it is decoded. The parts of a smaller one are few, so
only the lists and objects that may be decoded twice are counted."""
_COUNTED_BYTES = 1 << 16
"""Size of the pieces in which the parts of a text are counted. Other threads run between two pieces."""
_AS_LIST = bytes.maketrans(b"{}", b"[]")
_DEPTH_STEPS = bytes.maketrans(b"[],", b"\x01\xff\x00")
"""Change of the depth at each character, as signed bytes."""
_IS_COMMA = bytes.maketrans(b"[],", b"\x00\x00\x01")
_NO_STRUCTURE = bytes(set(range(256)) - set(b"[]{},"))

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


def has_too_many_members(text: bytes, *, counts_nested: bool = True) -> bool:
    """Return True if JSON text has more than `MAX_MEMBERS` commas outside of its strings. It is not decoded.

    If `counts_nested` is False, only the commas between the members of the outermost list or object count.
    """
    if len(text) < 2 * MAX_MEMBERS or text.count(b",") < MAX_MEMBERS:
        return False
    text = text.replace(rb"\\", b"").replace(rb"\"", b"")  # then each quote begins or ends a string
    members = depth = 0
    open_quote = b""
    for start in range(0, len(text), _COUNTED_BYTES):
        texts = (open_quote + text[start : start + _COUNTED_BYTES]).split(b'"')
        open_quote = b"" if len(texts) % 2 else b'"'
        structure = b"".join(texts[::2]).translate(_AS_LIST, _NO_STRUCTURE)
        if counts_nested:
            members += structure.count(b",")
        else:
            while len(collapsed := structure.replace(b"[]", b"")) < 0.9 * len(structure):
                structure = collapsed
            steps = memoryview(structure.translate(_DEPTH_STEPS)).cast("b")
            depths = accumulate(steps, initial=depth)
            members += countOf(compress(depths, structure.translate(_IS_COMMA)), 1)
            depth += structure.count(b"[") - structure.count(b"]")
        if members >= MAX_MEMBERS:
            return True
    return False


def json_string(text: str) -> Raw:
    """Encode a text as a JSON string, with quotes and escapes."""
    return Raw(msgspec.json.encode(text))
