"""Thinking that comes after text or calls, kept back until more of the answer follows it."""

from anthropic_proxy.messages.deltas import Block, Delta, Stop, Text, Thinking, ToolCall

_ANSWERS: frozenset[type] = frozenset((Text, ToolCall, Block))
_LATE: frozenset[type] = frozenset((Thinking,))


class LateThinking:
    """Lets the deltas of one answer out so that its last block is no thinking, which the Messages API refuses.

    Thinking before anything else was said is not kept back: it may be all that there is.
    """

    __slots__ = ("_awaited", "_kept")

    def __init__(self) -> None:
        self._awaited = _ANSWERS
        """What must be looked at: first what answers, then thinking that comes after it."""
        self._kept: list[Delta] = []

    def feed(self, deltas: list[Delta]) -> list[Delta]:
        """Return what may be said now."""
        if not self._kept:
            awaited = self._awaited
            for delta in deltas:
                if type(delta) in awaited:
                    break
            else:
                return deltas
        said: list[Delta] = []
        for delta in deltas:
            self._sort(delta, said)
        return said

    def _sort(self, delta: Delta, said: list[Delta]) -> None:
        if type(delta) is Thinking and self._awaited is _LATE:
            self._kept.append(delta)
            return
        if type(delta) is Stop:
            self._kept = []
        elif type(delta) in _ANSWERS and not (type(delta) is Text and not delta.text):
            self._awaited = _LATE
            said += self._kept
            self._kept = []
        said.append(delta)
