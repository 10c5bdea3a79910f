"""Enforcement of `disable_parallel_tool_use` for backends that ignore it."""

from anthropic_proxy.messages.deltas import Block, Delta, Text, Thinking, ToolArgs, ToolCall, ToolEnd


class SingleToolCallFilter:
    """Filter that drops all tool calls after the first.

    Thinking after the first call is held: it is dropped together with a dropped call that follows.
    """

    def __init__(self) -> None:
        self._key: int | str | None = None
        self._thoughts: list[Delta] = []

    def feed(self, deltas: list[Delta]) -> list[Delta]:
        """Return the remaining deltas of one read."""
        kept: list[Delta] = []
        for delta in deltas:
            self._sort(delta, kept)
        return kept

    def flush_pending(self) -> list[Delta]:
        """Return the held thinking at a premature end of the reply."""
        thoughts, self._thoughts = self._thoughts, []
        return thoughts

    def _sort(self, delta: Delta, kept: list[Delta]) -> None:
        if isinstance(delta, ToolCall) and self._key is None:
            self._key = delta.key
        if isinstance(delta, Thinking) and self._key is not None:
            self._thoughts.append(delta)
        elif isinstance(delta, ToolCall | ToolArgs | ToolEnd) and delta.key != self._key:
            self._thoughts = []
        else:
            if isinstance(delta, Text | Block):
                kept += self._thoughts
                self._thoughts = []
            kept.append(delta)
