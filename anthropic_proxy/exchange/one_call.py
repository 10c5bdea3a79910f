"""At most one tool call a reply, where the client asked for that and the backend does not keep to it."""

from anthropic_proxy.messages.deltas import Block, Delta, Text, Thinking, ToolArgs, ToolCall, ToolEnd


class OneCall:
    """Drops every tool call after the first, where the client disabled parallel ones and the backend made some.

    Thinking after the first call waits for what follows it: it goes with a call that is dropped.
    """

    def __init__(self) -> None:
        self._key: int | str | None = None
        self._thoughts: list[Delta] = []

    def feed(self, deltas: list[Delta]) -> list[Delta]:
        """Return what is left of one read's deltas."""
        kept: list[Delta] = []
        for delta in deltas:
            self._sort(delta, kept)
        return kept

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
