"""The steps that backtracking takes for a regular expression and a text: `re` counts none, and its time is no number.

A pattern is matched in the order of `re`, from the same parsed form. Its single characters and places are compared by
`re` itself. Bounds of repeats are reduced to `MAX_BOUND`, so that they are constant work at the sizes of the texts.
"""

import re
import sys
from collections.abc import Callable, Sequence
from re import _compiler as compiler  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

from anthropic_proxy.engine.patterns import LaterPattern

Text = Any
"""`str` or `bytes`."""
Span = tuple[int, int]
Next = Callable[[int], int]
"""Matches the rest of the pattern from a place. Returns the end of the match, or -1."""
Part = Callable[[int, Next], int]
MAX_BOUND = 6
MAX_STEPS_A_CHARACTER = 2_000
"""Patterns whose parts are tried for ever are not matched to their end."""
_ONE_CHARACTER = ("LITERAL", "NOT_LITERAL", "ANY", "IN")
_FRAMES = 100_000
"""Python calls of one match: some for each repeat of a group."""


class TooManySteps(Exception):
    """The steps are no longer in proportion to the text."""


class Matcher:
    """Matches one pattern and counts the steps."""

    def __init__(self, pattern: LaterPattern) -> None:
        parsed = reduce_bounds(parser.parse(pattern.pattern, pattern.flags))
        flags = parsed.state.flags
        self.is_anchored = pattern.is_anchored
        self.reduced: re.Pattern[Any] = compiler.compile(parsed, flags)
        """What `re` makes of the same pattern."""
        self.steps = 0
        self._limit = 0
        self._text: Text = ""
        self._groups: dict[int, Span] = {}
        self._state = parsed.state
        self._is_bytes = isinstance(pattern.pattern, bytes)
        self._whole = self._build(parsed, flags)

    def count(self, text: Text) -> int:
        """Return the steps for a text, which is read as the package does: at its beginning, or by a search."""
        self.steps, self._limit, self._text = 0, MAX_STEPS_A_CHARACTER * (len(text) + 1), text
        before = sys.getrecursionlimit()
        sys.setrecursionlimit(_FRAMES)
        try:
            if self.is_anchored:
                self._match_at(0, lambda place: place)
                self._match_at(0, lambda place: place if place == len(text) else -1)
            else:
                self._search()
        finally:
            sys.setrecursionlimit(before)
        return self.steps

    def find_all(self, text: Text) -> Sequence[Span]:
        """Return the places that a search finds, as `re` finds them."""
        self.steps, self._limit, self._text = 0, MAX_STEPS_A_CHARACTER * (len(text) + 1), text
        return self._search()

    def _search(self) -> Sequence[Span]:
        found: list[Span] = []
        place, is_behind_empty = 0, False
        while place <= len(self._text):
            empty = place if is_behind_empty else -1
            end = self._match_at(place, lambda end, empty=empty: -1 if end == empty else end)  # type: ignore[misc]
            if end >= 0:
                found.append((place, end))
            is_behind_empty = end == place
            place = max(place, end) if end >= 0 else place + 1
        return found

    def _match_at(self, place: int, then: Next) -> int:
        self._groups = {}
        return self._whole(place, then)

    def _step(self) -> None:
        self.steps += 1
        if self.steps > self._limit:
            raise TooManySteps

    def _build(self, nodes: Any, flags: int) -> Part:
        parts = [self._build_one(op, value, flags) for op, value in nodes]
        if len(parts) == 1:
            return parts[0]

        def match(place: int, then: Next, number: int = 0) -> int:
            if number == len(parts):
                return then(place)
            return parts[number](place, lambda end: match(end, then, number + 1))

        return match

    def _build_one(self, op: Any, value: Any, flags: int) -> Part:
        name = str(op)
        if name in _ONE_CHARACTER:
            fits = self._compare(op, value, flags)

            def match_one(place: int, then: Next) -> int:
                self._step()
                return then(place + 1) if place < len(self._text) and fits(place) else -1

            return match_one
        if name == "AT":
            at = self._compile(op, value, flags)

            def match_at(place: int, then: Next) -> int:
                self._step()
                return then(place) if at.match(self._text, place) else -1

            return match_at
        if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            least, most, inner = value
            return self._build_repeat(name, least, most, inner, flags)
        if name == "BRANCH":
            choices = [self._build(choice, flags) for choice in value[1]]

            def match_choice(place: int, then: Next) -> int:
                self._step()
                return next((end for choice in choices if (end := choice(place, then)) >= 0), -1)

            return match_choice
        if name == "SUBPATTERN":
            number, added, removed, inner = value
            return self._build_group(number, self._build(inner, (flags | added) & ~removed))
        if name == "ATOMIC_GROUP":
            return self._make_atomic(self._build(value, flags))
        if name in ("ASSERT", "ASSERT_NOT"):
            direction, inner = value
            return self._build_assertion(name == "ASSERT", direction, self._build(inner, flags), inner.getwidth()[0])
        assert name == "GROUPREF", name

        def match_same(place: int, then: Next) -> int:
            self._step()
            start, end = self._groups[value]
            same = self._text[start:end]
            self.steps += len(same)
            return then(place + len(same)) if self._text.startswith(same, place) else -1

        return match_same

    def _compile(self, op: Any, value: Any, flags: int) -> re.Pattern[Any]:
        compiled: re.Pattern[Any] = compiler.compile(parser.SubPattern(self._state, [(op, value)]), flags)
        return compiled

    def _compare(self, op: Any, value: Any, flags: int) -> Callable[[int], bool]:
        one, known = self._compile(op, value, flags), dict[Any, bool]()

        def fits(place: int) -> bool:
            character = self._text[place]
            if character not in known:
                known[character] = one.match(self._text, place) is not None
            return known[character]

        return fits

    def _build_repeat(self, name: str, least: int, most: Any, inner: Any, flags: int) -> Part:
        is_endless = most is parser.MAXREPEAT
        if len(inner) == 1 and str(inner[0][0]) in _ONE_CHARACTER:
            op, value = inner[0]
            part = self._build_run(name, least, None if is_endless else most, self._compare(op, value, flags))
            return self._make_atomic(part) if name == "POSSESSIVE_REPEAT" else part
        once = self._build(inner, flags)

        def match(place: int, then: Next, number: int = 0) -> int:
            self._step()

            def again(end: int) -> int:
                return -1 if end == place and number >= least else match(end, then, number + 1)

            can_repeat = is_endless or number < most
            if number < least:
                return once(place, again)
            if name == "MIN_REPEAT":
                end = then(place)
                return end if end >= 0 or not can_repeat else once(place, again)
            end = once(place, again) if can_repeat else -1
            return end if end >= 0 else then(place)

        return self._make_atomic(match) if name == "POSSESSIVE_REPEAT" else match

    def _build_run(self, name: str, least: int, most: int | None, fits: Callable[[int], bool]) -> Part:
        """Return the repeat of one character, which is a loop in `re`, too."""

        def match_most(place: int, then: Next) -> int:
            last = len(self._text) if most is None else min(len(self._text), place + most)
            end = place
            while end < last and fits(end):
                end += 1
                self._step()
            self._step()
            while end >= place + least:
                if (found := then(end)) >= 0:
                    return found
                end -= 1
                self._step()
            return -1

        def match_least(place: int, then: Next) -> int:
            last = len(self._text) if most is None else min(len(self._text), place + most)
            end = place
            while True:
                self._step()
                if end >= place + least and (found := then(end)) >= 0:
                    return found
                if end >= last or not fits(end):
                    return -1
                end += 1

        return match_least if name == "MIN_REPEAT" else match_most

    def _build_group(self, number: int | None, inner: Part) -> Part:
        if number is None:
            return inner

        def match(place: int, then: Next) -> int:
            def close(end: int) -> int:
                before = self._groups.get(number)
                self._groups[number] = (place, end)
                found = then(end)
                if found < 0 and before is not None:
                    self._groups[number] = before
                return found

            return inner(place, close)

        return match

    @staticmethod
    def _make_atomic(inner: Part) -> Part:
        def match(place: int, then: Next) -> int:
            end = inner(place, lambda end: end)
            return then(end) if end >= 0 else -1

        return match

    def _build_assertion(self, is_positive: bool, direction: int, inner: Part, width: int) -> Part:
        def match(place: int, then: Next) -> int:
            self._step()
            start = place if direction > 0 else place - width
            holds = start >= 0 and inner(start, lambda end: end) >= 0
            return then(place) if holds is is_positive else -1

        return match


def reduce_bounds(parsed: Any) -> Any:
    """Return a parsed pattern whose repeats have at most `MAX_BOUND` as their bounds."""
    for place, (op, value) in enumerate(parsed):
        name = str(op)
        if name.endswith("_REPEAT"):
            least, most, inner = value
            most = most if most is parser.MAXREPEAT else min(most, MAX_BOUND)
            parsed[place] = (op, (min(least, MAX_BOUND), most, reduce_bounds(inner)))
        elif name == "SUBPATTERN":
            parsed[place] = (op, (*value[:3], reduce_bounds(value[3])))
        elif name == "BRANCH":
            parsed[place] = (op, (value[0], [reduce_bounds(choice) for choice in value[1]]))
        elif name == "ATOMIC_GROUP":
            parsed[place] = (op, reduce_bounds(value))
        elif name in ("ASSERT", "ASSERT_NOT"):
            parsed[place] = (op, (value[0], reduce_bounds(value[1])))
    return parsed
