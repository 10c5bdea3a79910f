"""Regular expressions of the package and the texts that are worst for them, which come from their own form."""

import importlib
import pkgutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import get_context
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import anthropic_proxy
from anthropic_proxy.engine.patterns import LaterPattern, list_patterns
from anthropic_proxy.gateway.prices.package_data import find_data_file, find_model, read_providers
from tests.growth.measure import MAX_TIME_RATIO, time_plain_search

Text = Any
"""`str` or `bytes`."""
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


def build_reader(pattern: LaterPattern) -> Callable[[Text], object]:
    """Return a function that reads a text as the package does: at its beginning, or with a search at each place."""
    if pattern.is_anchored:
        return lambda text: (pattern.match(text), pattern.fullmatch(text))
    return lambda text: deque(pattern.finditer(text), 0)


def fill(shape: tuple[str, str, str], size: int, like: Text) -> Text:
    stem, piece, end = shape
    text = stem + piece * (size // len(piece) + 1) + end
    return text if isinstance(like, str) else text.encode("latin-1", "replace")


SIZES = (24, 1_000, 4_000)
"""Numbers of characters of a text. The first shows exponential growth before a larger one would not end."""
MORE_SIZES = (*SIZES, 16_000)
MOST = 4_000
"""The highest bound of a pattern: up to it, the time may grow with the square."""
_MAX_BOUNDED_RATIO = 4 * MAX_TIME_RATIO
_MAX_START_RATIO = 4 * MAX_TIME_RATIO
"""Bound of (time of the second size) / (time of a plain search): a bounded part may be tried at each character."""
_ROUNDS = 5
_MAX_SLOWDOWN = 10
"""How many times slower a busy machine may be. A time above it is not measured again."""
_NOISE_CHARACTERS = 16_000
"""Times below that of a plain search of this length are not compared."""
Clock = Callable[[], float]
"""Processor time in seconds."""


def import_all() -> None:
    """Import each module of the package, and read the data of prices, so that all patterns exist."""
    for found in pkgutil.walk_packages(anthropic_proxy.__path__, "anthropic_proxy."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    if (file := find_data_file()) is not None:
        providers = read_providers(file)
        for base_url in ("https://unknown.test", None):
            find_model(providers, base_url, "unknown")


def find_growth(pattern: LaterPattern, sizes: Sequence[int], clock: Clock = time.thread_time) -> str:
    """Return the text for which the time of a pattern is not proportional to its length; "": there is none."""
    if pattern.most > MOST:
        return f"a bound of {pattern.most} characters is too high"
    read = build_reader(pattern)
    noise = min(time_plain_search(_NOISE_CHARACTERS, clock) for _ in range(_ROUNDS))
    sizes = [*dict.fromkeys(min(size, pattern.most or size) for size in sizes)]
    for shape in make_texts(pattern):
        before, earlier = 0.0, fill(shape, 0, pattern.pattern)
        for place, size in enumerate(sizes):
            text = fill(shape, size, pattern.pattern)
            growth = _MAX_BOUNDED_RATIO if pattern.most else MAX_TIME_RATIO if place > 1 else _MAX_START_RATIO
            after = _time(read, text, clock)
            limit = growth * max(before, noise)
            if limit < after <= _MAX_SLOWDOWN * limit:
                after, before, noise = _time_together(read, text, earlier, clock)
                limit = growth * max(before, noise)
            if after > limit:
                return f"{size} characters of {shape!r} take {after / noise:.0f} times as long as a plain search"
            before, earlier = after, text
    return ""


def _time(read: Callable[[Text], object], text: Text, clock: Clock) -> float:
    start = clock()
    read(text)
    return clock() - start


def _time_together(
    read: Callable[[Text], object], text: Text, earlier: Text, clock: Clock
) -> tuple[float, float, float]:
    """Return the shortest times for two texts, and for a plain search.

    The machine may have become slower since the earlier times were measured, so these are measured again, in turns. The
    first turn that is not interrupted has the right ratio.
    """
    turns = [
        (_time(read, text, clock), _time(read, earlier, clock), time_plain_search(_NOISE_CHARACTERS, clock))
        for _ in range(_ROUNDS)
    ]
    after, before, noise = map(min, zip(*turns, strict=True))
    return after, before, noise


_patterns: list[tuple[LaterPattern, Sequence[int]]] = []
"""A pattern cannot be sent to a process; a forked one has it already."""


def _measure(place: int) -> str:
    return find_growth(*_patterns[place])


def find_all_growth(sizes: Sequence[int]) -> Mapping[str, str]:
    """Return the patterns of the package whose time is not proportional to the text, each with such a text."""
    import_all()
    _patterns[:] = [(pattern, sizes) for pattern in list_patterns()]
    with get_context("fork").Pool(2) as pool:
        found = pool.map(_measure, range(len(_patterns)), chunksize=4)
    return {repr(pattern.pattern): growth for (pattern, _), growth in zip(_patterns, found, strict=True) if growth}
