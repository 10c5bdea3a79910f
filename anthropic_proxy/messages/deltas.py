"""The nine deltas: structs for the pieces of a model's reply, independent of the provider's format.

The decoder of a provider's API creates them. `Text` and `Thinking` add text, `Citation` adds a source of the text.
`ToolCall` starts a tool call, `ToolArgs` adds to its arguments, and `ToolEnd` ends it. `Block` is a complete content
block, and `Usage` has token counts. `Stop` ends the reply with a stop reason. `MessageWriter` converts deltas into
events of the Messages API.
"""

from collections import deque
from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.errors import UpstreamProtocolError


class Text(Struct, frozen=True, gc=False):
    """A fragment of the reply's text."""

    text: str
    """The fragment; decoded text, not JSON."""


class Citation(Struct, frozen=True, gc=False):
    """A source that the model cites for the text of the reply so far."""

    raw: Raw
    """One JSON object: the field `citation` in a `citations_delta` of the Messages API."""


class Thinking(Struct, frozen=True, gc=False):
    """A fragment of the model's reasoning. The last fragment of a thinking block may have a signature."""

    text: str = ""
    """The fragment. "": only a signature."""
    signature: str = ""
    """Signature that ends the thinking block. "": more text may follow."""


class ToolCall(Struct, frozen=True, gc=False):
    """Start of a tool call of the model. Its arguments follow as `ToolArgs`."""

    key: int | str
    """Key that links `ToolArgs` and `ToolEnd` to this call. It is unique within the reply: an index or id of the
    provider. The client does not receive it."""
    id: str
    """Id of the call in the reply to the client. Its tool result refers to this id."""
    name: str
    """Name of the called tool in the client request. Decoders replace the name that was sent upstream."""


class ToolArgs(Struct, frozen=True, gc=False):
    """A fragment of the arguments of a tool call. The decoder does not parse the text: it may be incomplete JSON."""

    key: int | str
    """Key of the call that the fragment belongs to: `ToolCall.key`."""
    json: str
    """Fragment of JSON text. All fragments of one call, joined, are one JSON object."""


class ToolEnd(Struct, frozen=True, gc=False):
    """End of a tool call: all its arguments were received. Each decoder detects it by the rules of its API."""

    key: int | str
    """Key of the call that ends: `ToolCall.key`."""


class Block(Struct, frozen=True, gc=False):
    """A complete content block, such as the result of a server tool, which the client receives unchanged."""

    raw: Raw
    """The content block as JSON: one object with a `type`."""


class Usage(Struct, frozen=True, kw_only=True):
    """Token counts of one upstream call, as reported by the provider.

    A provider may report several times during a reply. Each count is a total since the beginning of the call, so it
    replaces the earlier one. None: the report does not contain the count.
    """

    input_tokens: int | None = None
    """Input tokens that were neither read from nor written to a prompt cache, as in Anthropic's API."""
    output_tokens: int | None = None
    """Output tokens, thinking included."""
    cache_read_tokens: int | None = None
    """Input tokens read from the prompt cache."""
    cache_write_tokens: int | None = None
    """Input tokens written to the prompt cache."""
    cache_write_1h_tokens: int | None = None
    """Part of `cache_write_tokens` that the provider keeps for one hour, at a higher price."""
    thinking_tokens: int | None = None
    """Output tokens of thinking, part of `output_tokens`."""
    web_search_requests: int | None = None
    """Number of web searches that the provider or the proxy ran."""
    web_fetch_requests: int | None = None
    """Number of web fetches that the provider or the proxy ran."""
    service_tier: str | None = None
    """Priority class of the request as the provider reported it: `standard`, `priority`."""
    billed_searches: int | None = None
    """Number of web searches that the provider ran and bills. The client receives `web_search_requests` instead."""
    billed_tier: str | None = None
    """Service tier by which the provider bills the call, in its own words. Unlike `service_tier`, the client does not
    receive it."""
    repeated_input: "Usage | None" = None
    """Input counts of earlier calls for the same reply, which the provider bills in addition to the counts above. The
    client receives only the counts above: clients derive the size of the conversation from them."""


class Stop(Struct, frozen=True):
    """End of the reply, with a stop reason of the Messages API. `merge_stops` says which one of several counts."""

    reason: str
    """Stop reason: `end_turn`, `max_tokens`, `tool_use`, …"""
    sequence: str | None = None
    """Stop sequence that ended the reply. None: another reason."""
    details: dict[str, Any] | None = None
    """Object `stop_details` of the reply, for a refusal. None: no details."""


def merge_stops(before: Stop | None, new: Stop) -> Stop:
    """Return the `Stop` that counts: the first one that is not `end_turn`.

    Old models of Gemini end each frame with `STOP` before they report `RECITATION` (recorded).
    """
    return new if before is None or before.reason == "end_turn" else before


Delta = Text | Citation | Thinking | ToolCall | ToolArgs | ToolEnd | Block | Usage | Stop
"""Union of the nine deltas."""


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
