"""The stop-sequence cutter: the proxy enforces stop sequences, because no foreign wire says which one matched."""

import re
from collections.abc import Iterable, Sequence

from anthropic_proxy.messages.deltas import Block, Citation, Delta, Stop, Text, Thinking, ToolCall, Usage

_ENDING: frozenset[type] = frozenset((Thinking, ToolCall, Block, Stop))
"""Deltas behind which no text goes on."""


class StopCutter:
    """Cuts the answer's text before the first stop sequence in it.

    The earliest position wins, then the order of the list. A match may span deltas but not blocks. Text is held back
    only as long as it may still become a match, so where the text was cut in pieces makes no difference.
    """

    def __init__(self, sequences: Sequence[str]) -> None:
        self.matched: str | None = None
        """The sequence that ended the answer."""
        # Sequences of white space alone would cut at the first word, so they are ignored.
        self._sequences = list(dict.fromkeys(sequence for sequence in sequences if sequence.strip()))
        self._pattern = re.compile("|".join(map(re.escape, self._sequences))) if self._sequences else None
        self._first_characters = {sequence[0] for sequence in self._sequences}
        self._longest = max(map(len, self._sequences), default=0)
        self._held = ""
        self._citations: list[Delta] = []  # that came after the text which is held

    def feed(self, deltas: Iterable[Delta]) -> list[Delta]:
        """Return what may go on to the client; after a match only what the answer cost."""
        free: list[Delta] = []
        for delta in deltas:
            if self._pattern is None:
                free.append(delta)
            elif self.matched is not None:
                if isinstance(delta, Usage):
                    free.append(delta)
            elif isinstance(delta, Text):
                self._feed_text(delta, free)
            elif isinstance(delta, Citation) and self._held:
                self._citations.append(delta)
            else:
                if type(delta) in _ENDING:
                    self._release(self._held, free, final=True)
                if self.matched is None:
                    free.append(delta)
        return free

    def finish(self) -> list[Delta]:
        """Return what was held back: no text follows that could complete a match."""
        free: list[Delta] = []
        if self.matched is None:
            self._release(self._held, free, final=True)
        return free

    def _feed_text(self, delta: Text, free: list[Delta]) -> None:
        if self._held:
            self._release(self._held + delta.text, free, final=False)
            return
        end, sequence = self._find_end(delta.text, final=False)
        if end == len(delta.text):
            free.append(delta)
        else:
            self._cut(delta.text, end, sequence, free)

    def _release(self, text: str, free: list[Delta], *, final: bool) -> None:
        if text:
            end, sequence = self._find_end(text, final=final)
            self._cut(text, end, sequence, free)

    def _cut(self, text: str, end: int, sequence: str | None, free: list[Delta]) -> None:
        if end:
            free.append(Text(text[:end]))
            free.extend(self._citations)
            self._citations.clear()
        if sequence is None:
            self._held = text[end:]
        else:
            self._held = ""
            self.matched = sequence
            free.append(Stop("stop_sequence", sequence))

    def _find_end(self, text: str, *, final: bool) -> tuple[int, str | None]:
        """Return how many characters are free, and the sequence that follows them, if one does for certain.

        A match is not certain while text before it, or at the same place for a sequence that stands earlier in the
        list, may still become one.
        """
        assert self._pattern is not None
        match = self._pattern.search(text)
        found = self._sequences.index(match.group()) if match else 0
        end = match.start() if match else len(text)
        if not final:
            for start in range(max(0, len(text) - self._longest + 1), min(end + 1, len(text))):
                rivals = self._sequences if start < end else self._sequences[:found]
                if text[start] in self._first_characters and self._may_become(text[start:], rivals):
                    return start, None
        return end, match.group() if match else None

    @staticmethod
    def _may_become(tail: str, sequences: Sequence[str]) -> bool:
        return any(len(sequence) > len(tail) and sequence.startswith(tail) for sequence in sequences)
