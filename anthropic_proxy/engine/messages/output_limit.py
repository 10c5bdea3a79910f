"""`ReplyEnd`: ends a reply at a stop sequence or at the output limit of the client, whichever comes first.

Theory of operation. Some requests go out with a higher output limit than the client's: the server accepts none as low,
or the model reasons, and its reasoning would use up the limit before the first word. The client nevertheless receives
no more text than it asked for. Tokens are estimated from characters, because providers count them only at the end.
Reasoning does not count. A tool call that begins within the limit stays whole, because no client can use a part of it;
a call that would begin later is left out.
"""

from collections.abc import Iterable, Sequence
from typing import assert_never

from anthropic_proxy.engine.messages.deltas import (
    CHARACTERS_PER_TOKEN,
    Block,
    Citation,
    Delta,
    Stop,
    Text,
    Thinking,
    ToolArgs,
    ToolCall,
    ToolEnd,
    Usage,
)
from anthropic_proxy.engine.messages.stop_sequences import StopSequenceFilter


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
            elif isinstance(delta, Stop | Citation):
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


class ReplyEnd:
    """Filter of the deltas of one reply, which may end it before the provider does."""

    def __init__(self, stop_sequences: Sequence[str], max_tokens: int | None) -> None:
        """`max_tokens`: limit of the client. None: the provider keeps it."""
        self._stops = StopSequenceFilter(stop_sequences) if stop_sequences else None
        self._limit = OutputLimitFilter(max_tokens) if max_tokens is not None else None

    @property
    def matched(self) -> bool:
        """True if a stop sequence has ended the reply."""
        return self._stops is not None and self._stops.matched is not None

    @property
    def is_cut(self) -> bool:
        """True if the output limit has ended the reply. The provider may still report its token usage."""
        return self._limit is not None and self._limit.reached

    def feed(self, deltas: list[Delta]) -> list[Delta]:
        if self._stops is not None:
            deltas = self._stops.feed(deltas)
        return deltas if self._limit is None else self._limit.feed(deltas)

    def flush(self) -> list[Delta]:
        """Return the text that is still held back. Call this at the end of the reply."""
        deltas = self._stops.flush() if self._stops is not None else []
        return deltas if self._limit is None else self._limit.feed(deltas)
