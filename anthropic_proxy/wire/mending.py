"""JSON of upstreams that cut characters in two, or send bytes that are no UTF-8, made readable.

Only what a decoder has refused comes here. Servers that count in UTF-16 cut an emoji between two frames, servers that
pass on tokens cut any character; one unreadable character is better than no reply.
"""

import math
import re
from typing import Any

import msgspec
from msgspec import Raw

from anthropic_proxy.messages.surrogates import replace_halves

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a decoder raises for what it cannot read: malformed, of other types, no UTF-8, or nested too deeply."""
_FIRST_HALF = re.compile(
    rb'((?<!\\)(?:\\\\)*)(\\u[dD][89abAB][0-9a-fA-F]{2}|[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2})"'
)
"""The beginning of a character at the end of a string."""
_SECOND_HALF = re.compile(rb'(?<!\\)"(?=\\u[dD][c-fC-F][0-9a-fA-F]{2}|[\x80-\xbf])')
"""Where a string begins with what can only be the end of a character."""


_MOST_DIGITS = 20
"""Of a count written as text; Python refuses to read thousands of digits."""


class FrameMender:
    """Mends the frames of one stream: half a character waits for the frame that brings the other half."""

    __slots__ = ("_half",)

    def __init__(self) -> None:
        self._half = b""

    def mend(self, frame: bytes) -> bytes:
        """Return a frame that could not be decoded with whole characters only; a half whose other never comes is lost.

        What is malformed otherwise stays so.
        """
        if self._half:
            frame = _SECOND_HALF.sub(lambda _: b'"' + self._half, frame, count=1)
            self._half = b""
        return mend_json(_FIRST_HALF.sub(self._take, frame, count=1))

    def _take(self, match: re.Match[bytes]) -> bytes:
        self._half = match[2]
        return match[1] + b'"'


def mend_json(text: Raw | bytes) -> bytes:
    """Return JSON text in which halves of characters, and bytes that are none, are replaced by U+FFFD."""
    return replace_halves(bytes(text).decode(errors="replace"))[0].encode()


def decode_mended(text: Raw | bytes) -> Any:
    """Return the value of JSON text that nobody has looked into yet; what no reader takes (1e400), as that text."""
    try:
        return msgspec.json.decode(text)
    except UNREADABLE:
        mended = mend_json(text)
    try:
        return msgspec.json.decode(mended)
    except (msgspec.DecodeError, RecursionError):
        return mended.decode()


def read_count(value: Any) -> int | None:
    """Return a number of tokens, however it is written; None where it is none."""
    if isinstance(value, str):
        return int(value) if len(value) <= _MOST_DIGITS and value.isdecimal() and value.isascii() else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return int(value)
