"""`SingleToolCallFilter`: drops all tool calls of a reply after the first one.

It is used if the client requests `disable_parallel_tool_use`. `feed` filters deltas, the decoded fragments of the
reply. Thinking after the first call may belong to a call that is dropped, so it is held back. `flush_pending` returns
such thinking.
"""

from anthropic_proxy.messages.deltas import Block, Delta, Text, Thinking, ToolArgs, ToolCall, ToolEnd


class SingleToolCallFilter:
    """Filter of one reply that drops all tool calls after the first one."""

    def __init__(self) -> None:
        self._key: int | str | None = None
        self._thoughts: list[Delta] = []

    def feed(self, deltas: list[Delta]) -> list[Delta]:
        """Return `deltas`, decoded fragments of a reply, without those of tool calls after the first one.

        Thinking after the first tool call is held back, because it may belong to a call that is dropped. If a text or
        another block follows, this thinking is returned before it. If a further tool call follows, the thinking is
        dropped with that call.
        """
        kept: list[Delta] = []
        for delta in deltas:
            self._sort(delta, kept)
        return kept

    def flush_pending(self) -> list[Delta]:
        """Return the thinking that the filter still holds back. Call this when the reply ends early."""
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
