"""Thinking that comes after text or calls, kept back until more of the answer follows it."""

from anthropic_proxy.messages.deltas import Block, Delta, Stop, Text, Thinking, ToolCall


class LateThinking:
    """Lets the deltas of one answer out so that its last block is no thinking, which the Messages API refuses.

    Thinking before anything else was said is not kept back: it may be all that there is.
    """

    __slots__ = ("_answering", "_kept")

    def __init__(self) -> None:
        self._answering = False
        self._kept: list[Delta] = []

    def feed(self, deltas: list[Delta]) -> list[Delta]:
        """Return what may be said now; where nothing is kept back that is the list itself."""
        if not self._kept:
            for delta in deltas:
                if type(delta) is Thinking:
                    break
            else:
                self._answering = self._answering or any(map(_answers, deltas))
                return deltas
        said: list[Delta] = []
        for delta in deltas:
            self._sort(delta, said)
        return said

    def _sort(self, delta: Delta, said: list[Delta]) -> None:
        if isinstance(delta, Thinking) and self._answering:
            self._kept.append(delta)
            return
        if isinstance(delta, Stop):
            self._kept = []
        elif _answers(delta):
            self._answering = True
            said += self._kept
            self._kept = []
        said.append(delta)


def _answers(delta: Delta) -> bool:
    return isinstance(delta, ToolCall | Block) or (isinstance(delta, Text) and bool(delta.text))
