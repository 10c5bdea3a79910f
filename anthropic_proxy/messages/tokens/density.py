"""`estimate_text_tokens`: estimates the tokens of a text from a sample of its bytes, without a tokenizer.

Each word, letter, digit and other character adds a fixed weight to the estimate. The weights were fitted to OpenAI's
o200k vocabulary with 157 texts: prose, code, data and shell output in ten languages. The average error for these texts
is 6 %. Of other texts, 78 % have an error of at most 10 %, and 91 % an error of at most 20 %. The estimate is worst for
random hexadecimal and base64 text: it is 30 % too low.
"""

import re

_SAMPLE = 4_096
_STRETCH = 128
"""Number of bytes of one sampled piece of the text. It has whole words, but leaves space for many pieces in the
sample."""
_LONG_STRETCH = 1_024
_MANY_ESCAPES = 64
"""Maximum Unicode escapes (`\\u0430`) in a sample of short pieces. A text with more is sampled in longer pieces,
because each cut can destroy an escape."""
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
"""Pattern of a character as JSON escape (`u0430` after a backslash). The group: scripts with two bytes in UTF-8."""


def estimate_text_tokens(text: bytes) -> float:
    """Return the estimated tokens of a text, which may be JSON or a part of it.

    A backslash counts as nothing, so an escaped quote counts as one character. A Unicode escape (`\\u0430`) counts as
    one character that is not ASCII.
    """
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
    """Return the estimated tokens of a text.

    A backslash counts as nothing, because an escaped quote is one character.
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
