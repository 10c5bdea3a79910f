"""Estimate of the tokens of a text, from a sample.

The sample is at most `_SAMPLE` bytes in short stretches from the whole text. Its words, letters, capitals, digits,
marks and characters of other scripts are each worth a fraction of a token: the fractions that come nearest to OpenAI's
o200k vocabulary on prose, code, data and shell output in ten languages.

Error against that vocabulary: 6 % on average over the 157 texts of the fit; of texts held out of it 78 % are within
10 % and 91 % within 20 %. Random hexadecimal and base64 text is the worst, 30 % too low. Taking a sample adds up to
3 %.
"""

import re

_SAMPLE = 4_096
_STRETCH = 128
"""Number of bytes of one sampled piece of the text: enough for whole words, few enough for many pieces."""
_LONG_STRETCH = 1_024
_MANY_ESCAPES = 64
"""Number of Unicode escapes in a sample above which longer pieces are read. Short pieces would cut many escapes."""
_OF_TWO, _OF_THREE = "\u0430".encode(), "\u4e00".encode()

_CAPITALS = bytes(range(ord("A"), ord("Z") + 1))
_LETTERS = _CAPITALS + _CAPITALS.lower()
_DIGITS = b"0123456789"
_ASCII = bytes(range(128))
_LETTERS_ALIKE = bytes(ord("a") if byte in _LETTERS else ord(" ") for byte in range(256))
_MARKS_ALONE = bytes(byte if byte < 128 and byte not in _LETTERS + _DIGITS else ord(" ") for byte in range(256))
_NOT_FIRST_OF_TWO = bytes(byte for byte in range(256) if not 0xC2 <= byte < 0xE0)
_NOT_FIRST_OF_THREE = bytes(byte for byte in range(256) if not 0xE0 <= byte < 0xF0)
_NOT_FIRST_OF_FOUR = bytes(byte for byte in range(256) if byte < 0xF0)
_ESCAPED = re.compile(rb"\\u(?:(0[0-9a-fA-F])|[0-9a-fA-F]{2})[0-9a-fA-F]{2}")
"""A character as its number: of the scripts that take two bytes (the group), or of the others."""


def estimate_text_tokens(text: bytes) -> float:
    """Return the estimated tokens of JSON, or of the text of JSON strings with its escapes. Reads a sample only."""
    if len(text) <= _SAMPLE:
        return _weigh(text)
    sample = _sampled(text, _STRETCH)
    if sample.count(rb"\u") > _MANY_ESCAPES:
        sample = _sampled(text, _LONG_STRETCH)
    return _weigh(sample) * len(text) / len(sample)


def _sampled(text: bytes, stretch: int) -> bytes:
    step = len(text) * stretch // _SAMPLE
    return b"".join([text[start : start + stretch] for start in range(0, len(text), step)])


def _weigh(text: bytes) -> float:
    """Return the tokens of a text.

    A backslash counts as nothing: an escaped `\\"` counts like `"`.
    """
    if rb"\u" in text:
        text = _ESCAPED.sub(lambda match: _OF_TWO if match[1] else _OF_THREE, text)
    words = (b" " + text.translate(_LETTERS_ALIKE)).count(b" a")  # where they begin
    remainder = text.translate(None, _LETTERS)
    letters = len(text) - len(remainder)
    capitals = len(text) - len(text.translate(None, _CAPITALS))
    digits = len(remainder) - len(remainder.translate(None, _DIGITS))
    spaces = remainder.count(b" ")
    marks = len(remainder) - digits - spaces - remainder.count(b"\\")
    runs = len(text.translate(_MARKS_ALONE, b"\\").split())
    tokens = 0.0
    if not remainder.isascii():
        others = remainder.translate(None, _ASCII)
        marks -= len(others)
        tokens += 0.245 * len(others.translate(None, _NOT_FIRST_OF_TWO))
        tokens += 0.705 * len(others.translate(None, _NOT_FIRST_OF_THREE))
        tokens += 2.69 * len(others.translate(None, _NOT_FIRST_OF_FOUR))
    tokens += 0.49 * words + 0.06 * letters + 0.37 * capitals + 0.55 * digits
    return tokens + 0.46 * runs + 0.33 * marks + 0.20 * spaces
