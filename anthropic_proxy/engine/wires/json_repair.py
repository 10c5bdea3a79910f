"""JSON text of provider responses: repair of half characters, invalid UTF-8 and numbers that JSON does not have, and
counts sent as strings.

Some servers split an emoji or another character between two frames of a stream. An unreadable character becomes U+FFFD,
so that the reply continues. Servers in Python write `NaN` and `Infinity`, which becomes null.
"""

import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from anthropic_proxy.engine.messages.models.raw_json import ABSENT, replace_lone_surrogates
from anthropic_proxy.engine.patterns import compile_later

_Decoded = TypeVar("_Decoded")

DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Exceptions of `msgspec.json.decode` for malformed JSON, unexpected types, invalid UTF-8 and excessive nesting."""
_FIRST_HALF = compile_later(
    rb'((?<!\\)(?:\\\\)*)(\\u[dD][89abAB][0-9a-fA-F]{2}|[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2})"'
)
"""Pattern of the first half of a split character at the end of a JSON string."""
_SECOND_HALF = compile_later(rb'(?<!\\)"(?=\\u[dD][c-fC-F][0-9a-fA-F]{2}|[\x80-\xbf])')
"""Pattern of the start of a JSON string that begins with the second half of a split character."""
_NON_NUMBER = compile_later(rb'"(?:[^"\\]|\\.)*+"?|-?\b(NaN|Infinity)\b', re.DOTALL)
"""Pattern of a string, or of a number that JSON does not have, which is the group."""
_MAX_DIGITS = 20


class FrameRepair:
    """Repairs the frames of one provider stream, in which a character may be split between two frames."""

    __slots__ = ("_half",)

    def __init__(self) -> None:
        self._half = b""

    def repair(self, frame: bytes) -> bytes:
        """Return `frame` as valid UTF-8 with complete characters. Use it for a frame that is not valid JSON.

        The first half of a split character is moved to the next repaired frame. Decoding the result may still raise one
        of `DECODE_ERRORS`.
        """
        if self._half:
            frame = _SECOND_HALF.sub(lambda _: b'"' + self._half, frame, count=1)
            self._half = b""
        if match := _FIRST_HALF.search(frame):
            self._half = match[2]
            frame = b'%b%b"%b' % (frame[: match.start()], match[1], frame[match.end() :])
        return repair_json(frame)


def repair_json(text: Raw | bytes) -> bytes:
    """Return JSON text as valid UTF-8. Invalid bytes and lone surrogate escapes are replaced by U+FFFD, and numbers
    that JSON does not have by null.
    """
    return replace_non_numbers(replace_lone_surrogates(bytes(text).decode(errors="replace").encode())[0])


def replace_non_numbers(text: bytes) -> bytes:
    """Return JSON text with null in place of `NaN`, `Infinity` and `-Infinity`."""
    if b"NaN" not in text and b"Infinity" not in text:
        return text
    return _NON_NUMBER.sub(lambda match: match[0] if match[1] is None else b"null", text)


def decode_repaired(text: Raw | bytes) -> Any:
    """Return the decoded value of JSON text from a provider, repaired if necessary. Never raises. Text that is still
    invalid after the repair is returned as a `str`.
    """
    try:
        return msgspec.json.decode(text)
    except DECODE_ERRORS:
        mended = repair_json(text)
    try:
        return msgspec.json.decode(mended)
    except (msgspec.DecodeError, RecursionError):
        return mended.decode()


def decode_or_empty(raw: Raw, result_type: type[Any]) -> Any:
    """Return an empty `result_type()` if the text is absent or cannot be decoded."""
    if raw is ABSENT:
        return result_type()
    try:
        return msgspec.json.decode(raw, type=result_type)
    except UnicodeDecodeError:
        return decode_or_empty(Raw(repair_json(raw)), result_type)
    except (msgspec.DecodeError, RecursionError):
        return result_type()


def decode_or_repair(decode: Callable[[Any], _Decoded], data: Any, repair: Callable[[bytes], bytes]) -> _Decoded:
    """Decode; if that fails, repair the bytes and decode again. Raises one of `DECODE_ERRORS`.

    Excessive nesting is not repaired.
    """
    try:
        return decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return decode(repair(data))


def parse_token_count(value: Any) -> int | None:
    """Return a token count or an index from decoded JSON: a number, or a string of digits. None: another value."""
    if isinstance(value, str):
        return int(value) if len(value) <= _MAX_DIGITS and value.isdecimal() and value.isascii() else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return None if isinstance(value, float) and not math.isfinite(value) else int(value)
