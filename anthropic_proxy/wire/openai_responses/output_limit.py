"""Output limit that the proxy enforces, if `max_tokens` of the client is below the minimum of the server.

Tokens are estimated from the number of characters.
"""

from msgspec.structs import replace

from anthropic_proxy.messages.deltas import Delta, Stop, Text, Thinking, ToolArgs, ToolCall, ToolEnd, Usage

CHARACTERS_PER_TOKEN = 4
"""Estimated characters per token. Clients with such limits probe the connection and need no exact cut."""


class LocalOutputLimit:
    """Filter for the deltas of one reply that cuts the reply at its output limit."""

    def __init__(self, max_tokens: int) -> None:
        self._left = max_tokens * CHARACTERS_PER_TOKEN
        self._open: int | str | None = None  # key of the tool call in progress
        self._reached = False

    def cut_deltas(self, deltas: list[Delta]) -> list[Delta]:
        """Return the given deltas up to the limit, then a stop. After the limit only usage is returned."""
        kept: list[Delta] = []
        for delta in deltas:
            if self._reached:
                if isinstance(delta, Usage):
                    kept.append(delta)
            else:
                self._keep(delta, kept)
        return kept

    def _keep(self, delta: Delta, kept: list[Delta]) -> None:
        if isinstance(delta, Text | Thinking):
            text = delta.text[: self._left]
            self._left -= len(delta.text)
            if text == delta.text:
                kept.append(delta)
            elif text:
                kept.append(replace(delta, text=text, **({"signature": ""} if isinstance(delta, Thinking) else {})))
        elif isinstance(delta, ToolArgs):
            if delta.json[: self._left]:
                kept.append(replace(delta, json=delta.json[: self._left]))
            self._left -= len(delta.json)
        else:
            kept.append(delta)
            if isinstance(delta, ToolCall):
                self._open = delta.key
                self._left -= len(delta.name)
            elif isinstance(delta, ToolEnd):
                self._open = None
        if self._left < 0:
            self._reach(kept)

    def _reach(self, kept: list[Delta]) -> None:
        self._reached = True
        if self._open is not None:
            kept.append(ToolEnd(self._open))
        kept.append(Stop("max_tokens"))
