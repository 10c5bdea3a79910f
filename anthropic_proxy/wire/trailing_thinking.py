"""Buffer for thinking after text or calls. It is held until more of the reply follows."""

from anthropic_proxy.messages.deltas import Block, Delta, Stop, Text, Thinking, ToolCall

_ANSWERS: frozenset[type] = frozenset((Text, ToolCall, Block))
_LATE: frozenset[type] = frozenset((Thinking,))


class TrailingThinkingBuffer:
    """Drops thinking at the end of a reply. The Messages API rejects a reply that ends with thinking.

    Thinking before any other block is passed at once: it may be the complete reply.
    """

    __slots__ = ("_awaited", "_kept")

    def __init__(self) -> None:
        self._awaited = _ANSWERS
        """Delta types that change the state: first reply content, then thinking after it."""
        self._kept: list[Delta] = []

    def feed(self, deltas: list[Delta]) -> list[Delta]:
        """Return the deltas that may be sent now."""
        if not self._kept:
            awaited = self._awaited
            for delta in deltas:
                if type(delta) in awaited:
                    break
            else:
                return deltas
        released: list[Delta] = []
        for delta in deltas:
            self._sort(delta, released)
        return released

    def flush_pending(self) -> list[Delta]:
        """Return the buffered thinking when the reply breaks off."""
        kept, self._kept = self._kept, []
        return kept

    def _sort(self, delta: Delta, released: list[Delta]) -> None:
        if type(delta) is Thinking and self._awaited is _LATE:
            self._kept.append(delta)
            return
        if type(delta) is Stop:
            self._kept = []
        elif type(delta) in _ANSWERS and not (type(delta) is Text and not delta.text):
            self._awaited = _LATE
            released += self._kept
            self._kept = []
        released.append(delta)
