"""`TrailingThinkingBuffer`: drops thinking at the end of a reply, after its text or tool calls.

The Messages API rejects a later request in which a reply ends with such thinking. A decoder passes all its deltas
(pieces of the reply) through `feed`. `flush_pending` returns the buffered deltas after an interruption.
"""

from anthropic_proxy.messages.deltas import Block, Delta, Stop, Text, Thinking, ToolCall

_ANSWERS: frozenset[type] = frozenset((Text, ToolCall, Block))
_LATE: frozenset[type] = frozenset((Thinking,))


class TrailingThinkingBuffer:
    """Buffers thinking after text or tool calls, and drops it if the reply ends before other content follows."""

    __slots__ = ("_awaited", "_kept")

    # The Messages API rejects a history in which a reply ends with thinking. Thinking alone may be the complete reply.
    def __init__(self) -> None:
        self._awaited = _ANSWERS
        """Types of deltas at which the buffer acts next: first text, calls or blocks, and then thinking."""
        self._kept: list[Delta] = []
        """Buffered thinking deltas, and the deltas after them, until other content or the end of the reply follows."""

    def feed(self, deltas: list[Delta]) -> list[Delta]:
        """Add the next deltas of the reply and return those to send now.

        Thinking after text or tool calls is buffered.
        """
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
        """Return the buffered deltas and empty the buffer. Call this when the provider's response breaks off."""
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
