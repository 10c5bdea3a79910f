"""`DeltaQueue`: deltas of a reply that wait until the open tool call ends, because blocks of a stream cannot overlap.

`QueuedCall` is a tool call in the queue, with its own deltas.
"""

from collections import deque

import msgspec

from anthropic_proxy.errors import UpstreamProtocolError
from anthropic_proxy.messages.deltas import Block, Citation, Delta, Text, Thinking, ToolArgs, ToolCall

MAX_REPLY_CHARACTERS = 64 * 1024 * 1024
"""Maximum number of characters of a reply that are held in memory: in this queue, or as a message without streaming."""


class QueuedCall(msgspec.Struct):
    """A tool call that started while another call was open. Its deltas are queued until the open call ends."""

    call: ToolCall
    arguments: list[ToolArgs] = []  # a struct copies it
    ended: bool = False


class DeltaQueue:
    """Deltas and tool calls in the order of their arrival."""

    def __init__(self) -> None:
        self.items: deque[Delta | QueuedCall] = deque()
        """Deltas and calls that wait. Only the methods of this class change it."""
        self._calls: dict[int | str, QueuedCall] = {}
        self._characters = 0

    def append(self, delta: Text | Thinking | Citation | Block) -> None:
        """Add a delta. Raises `UpstreamProtocolError` if the queue becomes too large, as the next methods do."""
        self._count(len(delta.raw if isinstance(delta, Citation | Block) else delta.text))
        self.items.append(delta)

    def append_call(self, call: ToolCall) -> None:
        """Add a tool call."""
        self._count(len(call.name))
        queued = self._calls[call.key] = QueuedCall(call)
        self.items.append(queued)

    def append_arguments(self, queued: QueuedCall, delta: ToolArgs) -> None:
        """Add a fragment of the arguments of a queued call."""
        self._count(len(delta.json))
        queued.arguments.append(delta)

    def find_call(self, key: int | str) -> QueuedCall | None:
        """Return the queued call with this key."""
        return self._calls.get(key)

    def pop(self) -> Delta | QueuedCall:
        """Remove and return the oldest delta or call."""
        item = self.items.popleft()
        if isinstance(item, QueuedCall):
            del self._calls[item.call.key]
        return item

    def _count(self, characters: int) -> None:
        self._characters += characters
        require_bounded_reply(self._characters)


def require_bounded_reply(characters: int) -> None:
    """Raise `UpstreamProtocolError` if a reply of this many characters is too large to be held in memory."""
    if characters > MAX_REPLY_CHARACTERS:
        raise UpstreamProtocolError(f"the reply is larger than {MAX_REPLY_CHARACTERS >> 20} MiB", retryable=False)
