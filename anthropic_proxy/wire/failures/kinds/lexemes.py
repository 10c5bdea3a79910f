"""`read_lexemes`: splits a provider's error text into lexemes (words, numbers and signs), to find token counts.

`split_identifier` splits a name such as `maxOutputTokens` into words.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

from msgspec import Struct

_LEXEME = re.compile(
    r"(?P<skipped>[0-9]{4}-[0-9]{2}-[0-9]{2}[T ]?[0-9:.]{0,16}Z?|[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?"
    r"|[0-9]{1,6}\.[0-9]{1,6}(?:\.[0-9]{1,6}){1,4})"
    r"|(?P<number>[0-9]+(?:[,_][0-9]+)*(?:\.[0-9]+)?)(?P<factor>[kKmM]?)(?![^\W_])"
    r"|(?P<mixed>[0-9]\w*)"
    r"|(?P<word>[^\W\d]\w*(?:[-./]\w+)*)"
    r"|(?P<sign><=|>=|=<|=>|≤|≥|[<>+=\[\]()\-–/.;:,%\n!?])"
)
_JOINT = re.compile(r"[-./]")
_GROUPED = re.compile(r"[0-9]{1,3}(?:[,_][0-9]{3})+")
_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")
_MAX_DIGITS = 15
_FACTORS = {"": 1, "k": 1_000, "m": 1_000_000}


class Lexeme(Struct, frozen=True):
    """A word, a sign or a number of a provider's error text."""

    text: str
    """The word or sign as written. "#": a number."""
    value: int | None = None
    """The number, with the factor `k` or `M` applied. None: a word or a sign."""


def read_lexemes(text: str) -> Iterator[Lexeme]:
    """Yield the words, numbers and signs of an error text in order.

    Dates, times, versions and words that begin with a digit are omitted.
    """
    previous = ""
    for match in _LEXEME.finditer(text):
        kind, found = match.lastgroup, match[0]
        if kind in ("number", "factor"):
            for value in _values(match["number"], match["factor"].lower(), previous):
                yield Lexeme("#", value)
        elif kind == "word":
            yield from (Lexeme(word) for word in _split(found))
        elif kind == "sign":
            yield Lexeme(found)
        previous = found


@lru_cache(maxsize=1024)
def split_identifier(word: str) -> tuple[str, ...]:
    """Return the words of an identifier in lower case: `maxOutputTokens` becomes `max`, `output`, `tokens`."""
    return tuple(part.lower() for part in _PART.findall(word))


def _split(word: str) -> list[str]:
    """Return the words of a compound joined by `-`, `.` or `/`. A compound with a digit (model name) is not split."""
    return [word] if any(character.isdigit() for character in word) else _JOINT.split(word)


def _values(number: str, factor: str, previous: str) -> Iterator[int]:
    if len(number) > _MAX_DIGITS + 6:
        return
    whole, _, fraction = number.partition(".")
    if fraction and (factor or not fraction.strip("0")):
        yield int(float(f"{whole.replace(',', '')}.{fraction}") * _FACTORS[factor])
    elif not fraction and "," in number and (previous == "[" or not _GROUPED.fullmatch(number)):
        yield from (int(part) * _FACTORS[factor] for part in number.split(",") if part.isdecimal())
    elif not fraction:
        yield int(whole.replace(",", "").replace("_", "")) * _FACTORS[factor]
