"""`StopSequenceFilter`: ends a reply at the first stop sequence, a text that the client lists in its request.

Theory of operation. The proxy does this itself, because only Anthropic's API reports the matched sequence. A sequence
may be cut at any place between two deltas, so text that may begin a sequence is held back. The search reads each
character once, also for thousands of sequences (Aho-Corasick). Its states are made when a text first reaches them,
because most of them are never reached.
"""

import re
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Sequence

from anthropic_proxy.engine.messages.deltas import (
    Block,
    Citation,
    Delta,
    Stop,
    Text,
    TextEnd,
    Thinking,
    ToolCall,
    Usage,
)
from anthropic_proxy.engine.patterns import compile_later


class _State:
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
        self.match: _State | None = None
        """State of the longest searched string that ends at this position of the text. None: no string ends here."""
        self.fallback: _State = self
        """State of the longest proper suffix of this state's text that also begins a searched string. `_Automaton.step`
        continues there if no string has the next character."""
        self.following: dict[str, _State | None] = {}
        """Next character → next state, computed when a text first reaches it. None: no searched string continues with
        this character."""


class _Automaton:
    """Search for several strings in a text, which `step` reads character by character.

    The state after each character shows whether a searched string ends there.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        # the strings differ, and none is empty
        self._order = {string: place for place, string in enumerate(strings)}
        self._sorted = sorted(self._order)
        self.root = _State(0, len(self._sorted), 0)

    def step(self, state: _State, character: str) -> _State:
        made: list[_State] = []
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

    def matched_string(self, match: _State) -> str:
        """Return the longest searched string that ends at the current character of the text.

        `match` is the attribute `match` of the current state, which is not None.
        """
        return self._sorted[match.low]

    def find_string_index(self, string: str) -> int:
        return self._order[string]

    def min_string_index(self, state: _State) -> int:
        """Return the lowest index of the searched strings that begin with the text of `state`.

        Each of these strings is complete at the current character, or the next characters may complete it. The index
        of a string is its position in the list given to the constructor.
        """
        return min(map(self._order.__getitem__, self._sorted[state.low : state.high]))

    def _make(self, state: _State, character: str) -> _State | None:
        place = state.depth

        def at_place(string: str) -> str:
            return string[place : place + 1]

        low = bisect_left(self._sorted, character, state.low, state.high, key=at_place)
        high = bisect_right(self._sorted, character, low, state.high, key=at_place)
        new = _State(low, high, place + 1) if low < high else None
        state.following[character] = new
        return new


_ENDING: frozenset[type] = frozenset((TextEnd, Thinking, ToolCall, Block, Stop))
"""Types of deltas that end a text block. No stop sequence spans such a delta."""
_BETWEEN: frozenset[type] = frozenset((Citation, TextEnd))
"""Types of deltas that keep their place between texts in which a stop sequence may begin."""


class StopSequenceFilter:
    """Filter of the deltas of one reply, which ends the reply before the first stop sequence.

    A match may span several deltas, but only one content block of the model.
    """

    def __init__(self, sequences: Sequence[str], *, splits_texts: bool = False) -> None:
        """`splits_texts`: texts end at statements with citations, of which the model knows nothing."""
        self._ending = _ENDING - {TextEnd} if splits_texts else _ENDING
        self.matched: str | None = None
        """Stop sequence that ended the reply. None: no stop sequence has matched."""
        # Sequences of white space alone would cut at the first word, so they are ignored.
        self._sequences = list(dict.fromkeys(sequence for sequence in sequences if sequence.strip()))
        self._automaton = _Automaton(self._sequences)
        self._first_character = compile_later("|".join({re.escape(sequence[0]) for sequence in self._sequences}))
        self._state = self._automaton.root
        self._read = 0
        self._found = ""
        """Stop sequence found so far. "": none. A sequence that begins earlier may still be completed and replace
        it."""
        self._found_at = 0
        self._held: deque[str | Delta] = deque()
        """Buffered fragments of text that may still become a stop sequence, and what stands between them."""
        self._passed = 0
        """Number of characters of the text that were already returned."""
        self._skipped = 0
        """Number of characters of the first fragment in `_held` that were already returned."""

    def feed(self, deltas: Iterable[Delta]) -> list[Delta]:
        """Return the deltas to forward to the client. `deltas`: deltas of one network read.

        Text that may begin a stop sequence is held back until a later call. At a complete stop sequence, the text
        before it and a `Stop` are returned. Later deltas are dropped, except `Usage`.
        """
        released: list[Delta] = []
        for delta in deltas:
            if not self._sequences:
                released.append(delta)
            elif self.matched is not None:
                if isinstance(delta, Usage):
                    released.append(delta)
            elif isinstance(delta, Text):
                is_certain = self._search(delta.text)
                if not (is_certain or self._held or self._state.depth):
                    self._passed = self._read
                    released.append(delta)
                    continue
                self._held.append(delta.text)
                if is_certain:
                    self._stop(released)
                else:
                    self._pass_until(self._read - self._state.depth, released)
            elif self._held and type(delta) in _BETWEEN and type(delta) not in self._ending:
                self._held.append(delta)
            else:
                if type(delta) in self._ending:
                    self._end_text(released)
                if self.matched is None:
                    released.append(delta)
        return released

    def flush(self) -> list[Delta]:
        """Return the text that is still held back. Call this at the end of the reply.

        If this text contains a stop sequence, only the text before it and a `Stop` are returned. If a stop sequence
        has already ended the reply, the list is empty.
        """
        released: list[Delta] = []
        if self.matched is None:
            self._end_text(released)
        return released

    def _search(self, text: str) -> bool:
        """Search the next fragment of text. Return True if a stop sequence has matched for certain.

        Before that, a sequence that begins earlier can still replace a match.
        """
        automaton, state = self._automaton, self._state
        place = 0
        size = len(text)
        while place < size:
            if state is automaton.root:
                beginning = self._first_character.search(text, place)
                if beginning is None:
                    break
                place = beginning.start()
            state = automaton.step(state, text[place])
            place += 1
            if state.match is not None:
                # a match is replaced only by an earlier one, or at the same place by one earlier in the client's list
                start = self._read + place - state.match.depth
                match = automaton.matched_string(state.match)
                rank = start, automaton.find_string_index(match)
                if not self._found or rank < (self._found_at, automaton.find_string_index(self._found)):
                    self._found = match
                    self._found_at = start
            if self._found:
                begun = self._read + place - state.depth
                if begun > self._found_at or (
                    begun == self._found_at
                    and automaton.min_string_index(state) >= automaton.find_string_index(self._found)
                ):
                    return True
        self._state = state
        self._read += size
        return False

    def _end_text(self, released: list[Delta]) -> None:
        """Append the buffered text to `released` at the end of a text block, up to the first stop sequence."""
        if self._found:
            self._stop(released)
        else:
            self._pass_until(self._read, released)
            self._state = self._automaton.root

    def _stop(self, released: list[Delta]) -> None:
        self._pass_until(self._found_at, released)
        self._held.clear()
        self.matched = self._found
        released.append(Stop("stop_sequence", self._found))

    def _pass_until(self, end: int, released: list[Delta]) -> None:
        """Append the buffered deltas before the character `end` to `released`."""
        pieces: list[str] = []
        while self._held:
            piece = self._held[0]
            if not isinstance(piece, str):
                self._held.popleft()
                _release(pieces, released)
                released.append(piece)
                continue
            if self._passed >= end:
                break
            stop = min(len(piece), self._skipped + end - self._passed)
            pieces.append(piece[self._skipped : stop])
            self._passed += stop - self._skipped
            self._skipped = stop
            if stop == len(piece):
                self._held.popleft()
                self._skipped = 0
        _release(pieces, released)


def _release(pieces: list[str], released: list[Delta]) -> None:
    if text := "".join(pieces):
        released.append(Text(text))
    pieces.clear()
