"""Regular expressions of the package and the texts that are worst for them, which come from their own form."""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import get_context
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import anthropic_proxy
from anthropic_proxy.engine.patterns import LaterPattern, list_patterns
from anthropic_proxy.gateway.prices.package_data import find_data_file, find_model, read_providers
from tests.growth.backtracking import Matcher, Text, TooManySteps
from tests.growth.measure import DOUBTFUL_GROWTH, MAX_GROWTH

_REPEATS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")
_ENDS = ("", "\x00", "!", "x", "\n")
_CATEGORIES = {"DIGIT": "1", "NOT_DIGIT": "a", "SPACE": " ", "NOT_SPACE": "a", "WORD": "a", "NOT_WORD": "-"}


def make_texts(pattern: LaterPattern) -> Sequence[tuple[str, str, str]]:
    """Return texts in three parts: a beginning, what follows again and again, and an end."""
    parsed = parser.parse(pattern.pattern, pattern.flags)
    all_pieces = list(dict.fromkeys(piece for piece in _pieces(parsed) if piece))
    pieces = all_pieces[:24]
    stems = list(dict.fromkeys(["", *_stems(parsed)]))[:8]
    found = [(stem, piece, end) for stem in stems for piece in pieces for end in _ENDS[:1] if stem]
    found += [("", piece, end) for piece in pieces for end in _ENDS]
    found += [(stem, filler, "!") for stem in stems for filler in (" ", "\n", "a", "1")]
    marks = list(dict.fromkeys(one for piece in all_pieces for one in piece if not one.isalnum()))
    found += [("", first + second, "") for first in marks for second in marks]
    return list(dict.fromkeys(found))


def _example(node: Any) -> str:
    """Return one text that a part of a pattern matches."""
    return "".join(_example_of(op, value) for op, value in node)


def _example_of(op: Any, value: Any) -> str:
    name = str(op)
    if name == "LITERAL":
        return chr(value)
    if name == "NOT_LITERAL":
        return "a" if value != ord("a") else "b"
    if name == "ANY":
        return "a"
    if name == "IN":
        return _members(value)[0]
    if name in _REPEATS:
        return _example(value[2]) * min(max(value[0], 1), 50)
    if name == "SUBPATTERN":
        return _example(value[3])
    if name == "ATOMIC_GROUP":
        return _example(value)
    if name == "BRANCH":
        return _example(value[1][0])
    return ""


def _members(items: Any) -> list[str]:
    """Return characters of a class: one of each of its members, or one that is no member of a negated class."""
    negated = str(items[0][0]) == "NEGATE"
    members = []
    for op, value in items[negated:]:
        if str(op) == "LITERAL":
            members.append(chr(value))
        elif str(op) == "RANGE":
            members.append(chr(value[0]))
        elif str(op) == "CATEGORY":
            members.append(_CATEGORIES[str(value).removeprefix("CATEGORY_")])
    if negated:
        return [character for character in "a 1-.{\n" if character not in members] or ["~"]
    return members or ["a"]


def _pieces(node: Any) -> Iterator[str]:
    """Yield texts whose repetition may make the pattern restart or go back: each part, its beginnings, its members."""
    whole = [_example_of(op, value) for op, value in node]
    for place in range(len(whole)):
        yield "".join(whole[: place + 1])
        yield whole[place]
        yield "".join(whole[place : place + 2])
    for op, value in node:
        name = str(op)
        if name == "IN":
            yield from _members(value)[:6]
        for inner in _children(name, value):
            yield from _pieces(inner)


def _stems(node: Any, before: str = "") -> Iterator[str]:
    """Yield the texts that stand before each repeated part."""
    for op, value in node:
        name = str(op)
        if name in _REPEATS:
            yield before
        for inner in _children(name, value):
            yield from _stems(inner, before)
        before += _example_of(op, value)


def _children(name: str, value: Any) -> Sequence[Any]:
    if name in _REPEATS:
        return [value[2]]
    if name == "SUBPATTERN":
        return [value[3]]
    if name == "BRANCH":
        return list(value[1])
    if name == "ATOMIC_GROUP":
        return [value]
    if name in ("ASSERT", "ASSERT_NOT"):
        return [value[1]]
    return []


def repeat(shape: tuple[str, str, str], times: int, like: Text) -> Text:
    """Return the text of a shape with its middle so many times, in the type of a pattern."""
    stem, piece, end = shape
    text = stem + piece * times + end
    return text if isinstance(like, str) else text.encode("latin-1", "replace")


MOST = 4_000
"""The highest bound of a pattern: up to it, the steps may grow with the square."""
_PIECES, _CHARACTERS = 8, 48
"""The smallest text has so many of what follows again and again, and so many characters."""
_MAX_LINEAR_RATIO = 2.02
"""A text of twice the size needs at most so many times the steps if they are in proportion to it."""


def import_all() -> None:
    """Import each module of the package, and read the data of prices, so that all patterns exist."""
    for found in pkgutil.walk_packages(anthropic_proxy.__path__, "anthropic_proxy."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    if (file := find_data_file()) is not None:
        providers = read_providers(file)
        for base_url in ("https://unknown.test", None):
            find_model(providers, base_url, "unknown")


def find_growth(pattern: LaterPattern) -> str:
    """Return the texts for which the steps of a pattern are not in proportion to the length; "": there are none."""
    if pattern.most > MOST:
        return f"a bound of {pattern.most} characters is too high"
    matcher, powers = Matcher(pattern), 2 if pattern.most else 1
    for shape in make_texts(pattern):
        try:
            growth = _measure_growth(matcher, shape, pattern.pattern, DOUBTFUL_GROWTH * powers)
        except TooManySteps:
            return f"the steps for {shape!r} have no end"
        if growth > MAX_GROWTH * powers:
            return f"the steps for {shape!r} grow {growth:.1f} times"
    return ""


def _measure_growth(matcher: Matcher, shape: tuple[str, str, str], like: Text, doubtful: float) -> float:
    """Return how the steps from 2n to 4n have grown, compared with those from n to 2n; 2: linear.

    Where it is doubtful, it is measured again from 4n on: parts with a bound are steep until it is reached.
    """
    piece = shape[1]
    n = max(_PIECES, -(-_CHARACTERS // len(piece)))
    none, once, twice = (matcher.count(repeat(shape, times, like)) for times in (0, n, 2 * n))
    if twice - none <= _MAX_LINEAR_RATIO * (once - none):
        return 2.0
    growth = (matcher.count(repeat(shape, 4 * n, like)) - twice) / max(twice - once, 1)
    if growth <= doubtful:
        return growth
    once, twice, more = (matcher.count(repeat(shape, times * n, like)) for times in (4, 8, 16))
    return (more - twice) / max(twice - once, 1)


_patterns: list[LaterPattern] = []
"""A pattern cannot be sent to a process; a forked one has it already."""


def _measure(place: int) -> str:
    return find_growth(_patterns[place])


def find_all_growth() -> Mapping[str, str]:
    """Return the patterns of the package whose steps are not in proportion to the text, each with such a text."""
    import_all()
    _patterns[:] = list_patterns()
    with get_context("fork").Pool(2) as pool:
        found = pool.map(_measure, range(len(_patterns)), chunksize=4)
    return {repr(pattern.pattern): growth for pattern, growth in zip(_patterns, found, strict=True) if growth}
