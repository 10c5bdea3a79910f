"""`DeltaQueue`: queue for pieces of a model's reply (deltas) that arrive while a tool call is open.

A stream to the client has only one open content block, so text and other calls wait until the open call ends. A
`QueuedCall` is a tool call in the queue, with the arguments that have arrived for it. The `append_…` methods add to the
end of the queue, and `pop_oldest` removes from its start. `require_bounded_reply` limits the memory for one reply.
"""

from collections import deque

import msgspec

from anthropic_proxy.errors import UpstreamProtocolError
from anthropic_proxy.messages.deltas import Block, Citation, Delta, Text, Thinking, ToolArgs, ToolCall

MAX_REPLY_CHARACTERS = 64 * 1024 * 1024
"""Maximum number of characters of one reply in memory. The limit applies to the queue, and to a reply without
streaming."""


class QueuedCall(msgspec.Struct):
    """A tool call that started while another call was open. Its deltas are queued until the open call ends."""

    call: ToolCall
    arguments: list[ToolArgs] = []  # a struct copies it
    ended: bool = False


class DeltaQueue:
    """Queue of deltas (pieces of a reply) and tool calls, in the order of their arrival.

    Each reply has its own queue. The `append_…` methods raise `UpstreamProtocolError` if they have added more than
    `MAX_REPLY_CHARACTERS` in total.
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
        """Add a fragment of the arguments to `queued`, a tool call that waits in the queue."""
        self._count(len(delta.json))
        queued.arguments.append(delta)

    def find_call(self, key: int | str) -> QueuedCall | None:
        """Return the queued tool call with this `ToolCall.key`. None: no queued call has the key."""
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
