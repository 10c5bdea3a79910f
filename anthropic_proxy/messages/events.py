"""The events of a streamed reply, as facts; `server/replies.py` owns their bytes.

`MessageWriter` makes all of them but `Ping`, which belongs to the corridor. An event is one frame of the stream
(source: the API reference, "Streaming messages", read 2026-11).
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.errors import ProxyError
from anthropic_proxy.messages.types import MessagesResponse


class MessageStart(Struct, frozen=True):
    """`message_start`: the reply begins."""

    message: MessagesResponse
    """Without content and stop reason; its usage holds the estimate of the input."""


class Ping(Struct, frozen=True):
    """`ping`: still here."""


class TextStart(Struct, frozen=True, gc=False):
    """`content_block_start` of a text."""

    index: int


class ThinkingStart(Struct, frozen=True, gc=False):
    """`content_block_start` of a thinking block."""

    index: int


class CallStart(Struct, frozen=True, gc=False):
    """`content_block_start` of a tool call; its input follows as `InputDelta`."""

    index: int
    id: str
    name: str


class BlockStart(Struct, frozen=True, gc=False):
    """`content_block_start` of a block that is complete as it stands."""

    index: int
    raw: Raw
    """The block: one JSON object."""


class TextDelta(Struct, frozen=True, gc=False):
    """`content_block_delta` that adds text."""

    index: int
    text: str


class CitationDelta(Struct, frozen=True, gc=False):
    """`content_block_delta` that adds a citation to the text."""

    index: int
    raw: Raw
    """The citation: one JSON object."""


class ThinkingDelta(Struct, frozen=True, gc=False):
    """`content_block_delta` that adds reasoning."""

    index: int
    text: str


class SignatureDelta(Struct, frozen=True, gc=False):
    """`content_block_delta` that signs a thinking block: once, and last in it."""

    index: int
    signature: str


class InputDelta(Struct, frozen=True, gc=False):
    """`content_block_delta` that adds to a call's arguments."""

    index: int
    json: str
    """A fragment of JSON text."""


class BlockStop(Struct, frozen=True, gc=False):
    """`content_block_stop`."""

    index: int


class Totals(Struct, frozen=True, kw_only=True):
    """`usage` of a `message_delta`: totals of the whole message, every count an integer ≥ 0, in tokens."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: dict[str, int]
    """`{"thinking_tokens": …}`; they are part of `output_tokens`."""
    server_tool_use: dict[str, int] | msgspec.UnsetType = msgspec.UNSET
    """`{"web_search_requests": …, "web_fetch_requests": …}`; unset where there were none."""
    service_tier: str | msgspec.UnsetType = msgspec.UNSET
    """What the upstream said; unset where it said nothing."""


class MessageDelta(Struct, frozen=True):
    """`message_delta`: why the reply ended, and what it cost."""

    stop_reason: str
    stop_sequence: str | None
    stop_details: dict[str, Any] | None
    """Sent only where there are any."""
    usage: Totals


class MessageStop(Struct, frozen=True):
    """`message_stop`: the reply is complete."""


class Failure(Struct, frozen=True):
    """`error`: the reply ends here and is not complete."""

    error: ProxyError


Event = (
    MessageStart
    | Ping
    | TextStart
    | ThinkingStart
    | CallStart
    | BlockStart
    | TextDelta
    | CitationDelta
    | ThinkingDelta
    | SignatureDelta
    | InputDelta
    | BlockStop
    | MessageDelta
    | MessageStop
    | Failure
)


def mend(text: str) -> str:
    """Return text that can be encoded: half a surrogate pair becomes U+FFFD.

    Such halves come from upstreams that cut a character in two; one unreadable character is better than no reply.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


_CALLED = frozenset(("server_tool_use", "mcp_tool_use"))
"""Types of blocks that are calls which the API ran."""


class _Called(Struct):
    type: str
    input: Raw = Raw(b"{}")  # immutable


def spell_block(index: int, raw: Raw) -> list[Event]:
    """Return the events that stream a block which is finished already.

    Clients take the input of a call that the API ran from `input_json_delta` alone, as Anthropic sends it; what stands
    in its `content_block_start` they ignore (observed on Claude Code).
    """
    called = msgspec.json.decode(raw, type=_Called)
    if called.type not in _CALLED:
        return [BlockStart(index, raw), BlockStop(index)]
    opened = msgspec.json.decode(raw, type=dict[str, Raw]) | {"input": Raw(b"{}")}
    given = InputDelta(index, bytes(called.input).decode())
    return [BlockStart(index, Raw(msgspec.json.encode(opened))), given, BlockStop(index)]
