"""`OutputLimitFilter`: ends a reply at the output limit of the client.

Theory of operation. Some requests go out with a higher output limit than the client's: the server accepts none as low,
or the model reasons, and its reasoning would use up the limit before the first word. The client nevertheless receives
no more text than it asked for. Tokens are estimated from characters, because providers count them only at the end.
Reasoning does not count. A tool call that begins within the limit stays whole, because no client can use a part of it;
a call that would begin later is left out.
"""

from collections.abc import Iterable
from typing import assert_never

from anthropic_proxy.engine.messages.deltas import (
    CHARACTERS_PER_TOKEN,
    Block,
    Citation,
    Delta,
    Stop,
    Text,
    TextEnd,
    Thinking,
    ToolArgs,
    ToolCall,
    ToolEnd,
    Usage,
)


class OutputLimitFilter:
    """Filter of the deltas of one reply, which ends the reply at the client's output limit."""

    def __init__(self, max_tokens: int) -> None:
        self.reached = False
        """True once content was left out."""
        self._left = max_tokens * CHARACTERS_PER_TOKEN
        self._open: set[int | str] = set()
        """Keys of the tool calls that have begun and not ended."""
        self._ended = False

    def feed(self, deltas: Iterable[Delta]) -> list[Delta]:
        """Return the deltas up to the limit, where a `Stop` ends the reply. Later only `Usage` is returned."""
        kept: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, Usage):
                kept.append(delta)
            elif isinstance(delta, ToolArgs | ToolEnd):
                if delta.key in self._open:  # of a call that began within the limit
                    kept.append(delta)
                    if isinstance(delta, ToolArgs):
                        self._left -= len(delta.json)
                    else:
                        self._open.discard(delta.key)
            elif self.reached:
                pass
            elif isinstance(delta, Text):
                if text := delta.text[: max(self._left, 0)]:
                    kept.append(delta if len(text) == len(delta.text) else Text(text))
                self.reached = len(text) < len(delta.text)
                self._left -= len(text)
            elif isinstance(delta, Stop | Citation | TextEnd):
                kept.append(delta)  # there may be several `Stop`: `merge_stops` says which one counts
            elif isinstance(delta, ToolCall | Block | Thinking):
                self.reached = self._left <= 0
                if not self.reached:
                    kept.append(delta)
                    if isinstance(delta, ToolCall):
                        self._open.add(delta.key)
                        self._left -= len(delta.name)
            else:
                assert_never(delta)
            if self.reached and not self._ended and (not self._open or isinstance(delta, Stop)):
                self._ended = True
                kept.append(Stop("max_tokens"))
        return kept
