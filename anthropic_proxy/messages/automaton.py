"""Search for many strings at once in one text, with the Aho-Corasick algorithm.

An `Automaton` is built from the list of searched strings. Its method `step` reads one character of the text and returns
the `State` of the search after it. If a searched string ends at this character, the state has a `match`, and
`matched_string` returns the string. `find_string_index` and `min_string_index` return indexes in the list of searched
strings, by which a caller selects one of several matches. The search time is linear in the length of the text.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence


class State:
    """State of a search after some characters of the text were read.

    The last of these characters may be the beginning of a searched string. The longest such beginning is called the
    text of the state.
    """

    __slots__ = ("depth", "fallback", "following", "high", "low", "match")

    def __init__(self, low: int, high: int, depth: int) -> None:
        self.low = low
        self.high = high
        """Start of an index range in the sorted list of strings; `high` is its end, excluded. The range has the strings
        that begin with the text of this state."""
        self.depth = depth
        """Number of characters of the text of this state."""
        self.match: State | None = None
        """State of the longest searched string that ends at this position of the text. None: no string ends here."""
        self.fallback: State = self
        """State of the longest proper suffix of this state's text that also begins a searched string. `Automaton.step`
        continues there if no string has the next character."""
        self.following: dict[str, State | None] = {}
        """Next character → next state, computed when a text first reaches it. None: no searched string continues with
        this character."""


class Automaton:
    """Search for several strings in a text, which `step` reads character by character.

    The state after each character shows whether a searched string ends there.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        """Prepare a search for `strings`. The strings must differ, and none may be empty."""
        self._order = {string: place for place, string in enumerate(strings)}
        self._sorted = sorted(self._order)
        self.root = State(0, len(self._sorted), 0)
        """State at the start of a search, before the first character of a text."""

    def step(self, state: State, character: str) -> State:
        """Return the state after one more character of the text. `state`: the state before this character."""
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
        """Return the longest searched string that ends at the current character of the text.

        `match` is the attribute `match` of the current state, which is not None.
        """
        return self._sorted[match.low]

    def find_string_index(self, string: str) -> int:
        """Return the index of a string in the list given to the constructor. Raises `KeyError` for another string."""
        return self._order[string]

    def min_string_index(self, state: State) -> int:
        """Return the lowest index of the searched strings that begin with the text of `state`.

        Each of these strings is complete at the current character, or the next characters may complete it. The index
        of a string is its position in the list given to the constructor.
        """
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
