"""Tokens of a text, judged by a sample.

The sample is at most `_SAMPLE` bytes in short stretches from the whole text. Its words, letters, capitals, digits,
marks and characters of other scripts are each worth a fraction of a token.
"""

import re

_SAMPLE = 4_096
_STRETCH = 128
"""Bytes that are read at a time, so that words stay whole."""

_CAPITALS = bytes(range(ord("A"), ord("Z") + 1))
_LETTERS = _CAPITALS + _CAPITALS.lower()
_DIGITS = b"0123456789"
_ASCII = bytes(range(128))
_LETTERS_ALONE = bytes(byte if byte in _LETTERS else ord(" ") for byte in range(256))
_NOT_FIRST_OF_TWO = bytes(byte for byte in range(256) if not 0xC2 <= byte < 0xE0)
_NOT_FIRST_OF_THREE = bytes(byte for byte in range(256) if not 0xE0 <= byte < 0xF0)
_NOT_FIRST_OF_FOUR = bytes(byte for byte in range(256) if byte < 0xF0)
_ESCAPED = re.compile(rb"\\u(?:(0[0-9a-fA-F])|[0-9a-fA-F]{2})[0-9a-fA-F]{2}")
"""A character as its number: of the scripts that take two bytes (the group), or of the others."""


def tokens_in(text: bytes) -> float:
    """Return the tokens of JSON string text (escapes as they stand) or of JSON."""
    if len(text) <= _SAMPLE:
        return _weigh(text)
    step = len(text) * _STRETCH // _SAMPLE
    sample = b"".join([text[start : start + _STRETCH] for start in range(0, len(text), step)])
    return _weigh(sample) * len(text) / len(sample)


def _weigh(text: bytes) -> float:
    if rb"\u" in text:
        text = _ESCAPED.sub(lambda match: b"\xd0\xb0" if match[1] else b"\xe4\xb8\x80", text)
    words = len(text.translate(_LETTERS_ALONE).split())
    rest = text.translate(None, _LETTERS)
    letters = len(text) - len(rest)
    capitals = len(text) - len(text.translate(None, _CAPITALS))
    digits = len(rest) - len(rest.translate(None, _DIGITS))
    spaces = rest.count(b" ")
    escapes = rest.count(b"\\")
    marks = len(rest) - digits - spaces - escapes
    tokens = 0.363 * words + 0.107 * letters + 0.329 * capitals + 0.621 * digits + 0.17 * spaces + 0.215 * escapes
    if not rest.isascii():
        others = rest.translate(None, _ASCII)
        marks -= len(others)
        tokens += 0.256 * len(others.translate(None, _NOT_FIRST_OF_TWO))
        tokens += 0.707 * len(others.translate(None, _NOT_FIRST_OF_THREE))
        tokens += 2.685 * len(others.translate(None, _NOT_FIRST_OF_FOUR))
    return tokens + 0.531 * marks
