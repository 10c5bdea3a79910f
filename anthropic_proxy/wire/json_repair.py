"""Repair of upstream JSON with split characters or invalid UTF-8.

Only frames that a decoder rejected are repaired. Servers that count in UTF-16 split an emoji between two frames;
servers that stream tokens split any character. One unreadable character is better than no reply.
"""

import math
import re
from typing import Any

import msgspec
from msgspec import Raw

from anthropic_proxy.messages.models.decode import replace_lone_surrogates

DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Decoder errors: malformed JSON, other types, invalid UTF-8, or excessive nesting."""
_FIRST_HALF = re.compile(
    rb'((?<!\\)(?:\\\\)*)(\\u[dD][89abAB][0-9a-fA-F]{2}|[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2})"'
)
"""Incomplete character at the end of a string."""
_SECOND_HALF = re.compile(rb'(?<!\\)"(?=\\u[dD][c-fC-F][0-9a-fA-F]{2}|[\x80-\xbf])')
"""Start of a string with the end of a split character."""


_MAX_DIGITS = 20
"""Maximum length of a count written as text. Python rejects thousands of digits."""


class FrameRepair:
    """Repairs the frames of one stream. The first half of a character is kept until the next frame."""

    __slots__ = ("_half",)

    def __init__(self) -> None:
        self._half = b""

    def repair(self, frame: bytes) -> bytes:
        """Return an undecodable frame with complete characters only; an unmatched half is dropped.

        Other malformed frames stay malformed.
        """
        if self._half:
            frame = _SECOND_HALF.sub(lambda _: b'"' + self._half, frame, count=1)
            self._half = b""
        return repair_json(_FIRST_HALF.sub(self._replace_match, frame, count=1))

    def _replace_match(self, match: re.Match[bytes]) -> bytes:
        self._half = match[2]
        return match[1] + b'"'


def repair_json(text: Raw | bytes) -> bytes:
    """Return JSON text with split and invalid characters replaced by U+FFFD."""
    return replace_lone_surrogates(bytes(text).decode(errors="replace"))[0].encode()


def decode_repaired(text: Raw | bytes) -> Any:
    """Return the value of unvalidated JSON text. Undecodable text (1e400) is returned as a string."""
    try:
        return msgspec.json.decode(text)
    except DECODE_ERRORS:
        mended = repair_json(text)
    try:
        return msgspec.json.decode(mended)
    except (msgspec.DecodeError, RecursionError):
        return mended.decode()


def parse_token_count(value: Any) -> int | None:
    """Return a token count given as a number or as text; None: not a number."""
    if isinstance(value, str):
        return int(value) if len(value) <= _MAX_DIGITS and value.isdecimal() and value.isascii() else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return int(value)
