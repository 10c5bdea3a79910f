"""Aho-Corasick automaton over many strings. States are built when a text reaches them.

A search takes time linear in the text, regardless of the number and length of the strings. Construction only sorts the
strings.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence


class State:
    """The longest suffix of the searched text that is a prefix of at least one string."""

    __slots__ = ("depth", "fallback", "following", "high", "low", "match")

    def __init__(self, low: int, high: int, depth: int) -> None:
        self.low = low
        self.high = high
        """`low` to `high`: range of the sorted strings that begin with the text of this state."""
        self.depth = depth
        """Characters of the text of this state."""
        self.match: State | None = None
        """State of the longest string that ends here. None: no string ends here."""
        self.fallback: State = self
        """State of the longest proper suffix of the text of this state."""
        self.following: dict[str, State | None] = {}
        """Next character → state, as far as needed. None: no string continues with it."""


class Automaton:
    """Finds the strings that end at each character of a text."""

    def __init__(self, strings: Sequence[str]) -> None:
        """`strings` must differ and must not be empty."""
        self._order = {string: place for place, string in enumerate(strings)}
        self._sorted = sorted(self._order)
        self.root = State(0, len(self._sorted), 0)
        """The state before any text."""

    def step(self, state: State, character: str) -> State:
        """Return the state after another character."""
        made: list[State] = []
        target = self.root
        while True:
            if character in state.following:
                known = state.following[character]
                if known is not None:
                    target = known
                    break
            elif (new := self._make(state, character)) is not None:
                made.append(new)
            if state is self.root:
                break
            state = state.fallback
        for new in reversed(made):
            new.fallback, target = target, new
            new.match = new if len(self._sorted[new.low]) == new.depth else new.fallback.match
        return target

    def matched_string(self, match: State) -> str:
        """Return the string that is the text of a matching state."""
        return self._sorted[match.low]

    def order_of(self, string: str) -> int:
        """Return the index of a string in the list given to the constructor. Raises `KeyError` for another string."""
        return self._order[string]

    def min_order(self, state: State) -> int:
        """Return the lowest index in the constructor's list of a string that begins with the text of a state."""
        return min(map(self._order.__getitem__, self._sorted[state.low : state.high]))

    def _make(self, state: State, character: str) -> State | None:
        place = state.depth

        def at_place(string: str) -> str:
            return string[place : place + 1]

        low = bisect_left(self._sorted, character, state.low, state.high, key=at_place)
        high = bisect_right(self._sorted, character, low, state.high, key=at_place)
        new = State(low, high, place + 1) if low < high else None
        state.following[character] = new
        return new
