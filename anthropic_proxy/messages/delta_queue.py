"""`DeltaQueue`: deltas of a reply that wait until the open tool call ends, because blocks of a stream cannot overlap.

Text and arguments of several calls can arrive mixed. `QueuedCall` is a tool call in the queue, with its own arguments.
`append_…` methods add at the end, `pop_oldest` removes from the start. `require_bounded_reply` limits the memory.
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
    """Deltas and tool calls in the order of their arrival.

    The `append_…` methods raise `UpstreamProtocolError` if the queue becomes larger than `MAX_REPLY_CHARACTERS`.
    """

    def __init__(self) -> None:
        self.items: deque[Delta | QueuedCall] = deque()
        """Deltas and calls that wait. Only the methods of this class change it."""
        self._calls: dict[int | str, QueuedCall] = {}
        self._characters = 0

    def append_delta(self, delta: Text | Thinking | Citation | Block) -> None:
        """Add a delta that does not belong to a tool call at the end of the queue."""
        self._count(len(delta.raw if isinstance(delta, Citation | Block) else delta.text))
        self.items.append(delta)

    def append_call(self, call: ToolCall) -> None:
        """Add the start of a tool call at the end of the queue."""
        self._count(len(call.name))
        queued = self._calls[call.key] = QueuedCall(call)
        self.items.append(queued)

    def append_arguments(self, queued: QueuedCall, delta: ToolArgs) -> None:
        """Add a fragment of the arguments to a call that is in the queue."""
        self._count(len(delta.json))
        queued.arguments.append(delta)

    def find_call(self, key: int | str) -> QueuedCall | None:
        """Return the queued call with the key `ToolCall.key`. None: no queued call has this key."""
        return self._calls.get(key)

    def pop_oldest(self) -> Delta | QueuedCall:
        """Remove the oldest delta or call from the queue and return it."""
        item = self.items.popleft()
        if isinstance(item, QueuedCall):
            del self._calls[item.call.key]
        return item

    def _count(self, characters: int) -> None:
        self._characters += characters
        require_bounded_reply(self._characters)


def require_bounded_reply(characters: int) -> None:
    """Raise `UpstreamProtocolError` if `characters`, the length of a reply, is above `MAX_REPLY_CHARACTERS`."""
    if characters > MAX_REPLY_CHARACTERS:
        raise UpstreamProtocolError(f"the reply is larger than {MAX_REPLY_CHARACTERS >> 20} MiB", retryable=False)
