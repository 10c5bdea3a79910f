"""`LocalOutputLimit`: cuts a reply at the client's `max_tokens` if the server accepts only higher limits.

`cut_deltas` returns the deltas (pieces of the reply) up to the limit. Tokens are estimated from the number of
characters.
"""

from msgspec.structs import replace

from anthropic_proxy.messages.deltas import Delta, Stop, Text, Thinking, ToolArgs, ToolCall, ToolEnd, Usage

CHARACTERS_PER_TOKEN = 4
"""Estimated number of characters per token. It need not be exact, because clients use such a low limit only for
tests."""


class LocalOutputLimit:
    """Cuts the deltas of one reply at the client's output limit."""

    def __init__(self, max_tokens: int) -> None:
        self._left = max_tokens * CHARACTERS_PER_TOKEN
        self._open: int | str | None = None  # key of the tool call in progress
        self._reached = False

    def cut_deltas(self, deltas: list[Delta]) -> list[Delta]:
        """Return the deltas up to the client's output limit. A `Stop` delta ends the reply at the limit.

        After the limit, only `Usage` is returned.
        """
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
