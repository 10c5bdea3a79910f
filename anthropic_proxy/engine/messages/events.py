"""The SSE events of a streamed reply to the client, with one struct for each event of the Messages API.

A reply is a list of content blocks. A `…Start` event begins a block, a `…Delta` event adds to it, and `BlockStop` ends
it. `index` is the number of the block. Source: the API reference, "Streaming messages", read 2026-11.
"""

from typing import Any, Final, final

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.messages.models import MessagesResponse, UsageBody
from anthropic_proxy.engine.messages.models.client_json import decode_values
from anthropic_proxy.engine.messages.server_tools import SERVER_CALL_TYPES
from anthropic_proxy.errors import ProxyError

COMPACTION: Final = "compaction"
"""Type of a block with a summary, and stop reason of a reply that ends with it."""


@final
class MessageStart(Struct, frozen=True):
    """Event `message_start`: begins the reply."""

    message: MessagesResponse
    """Message without content and stop reason. Its `usage` has the estimated number of input tokens."""


@final
class Ping(Struct, frozen=True):
    pass


@final
class TextStart(Struct, frozen=True, gc=False):
    index: int


@final
class ThinkingStart(Struct, frozen=True, gc=False):
    index: int


@final
class ToolCallStart(Struct, frozen=True, gc=False):
    """Event `content_block_start` of a tool call. The arguments of the call follow as `InputDelta` events."""

    index: int
    id: str
    """Id of the tool call, which its result repeats."""
    name: str


@final
class BlockStart(Struct, frozen=True, gc=False):
    """Event `content_block_start` that contains a complete block, such as a web search result.

    Only the arguments of a server tool call follow in a separate event.
    """

    index: int
    raw: Raw
    """The content block as JSON: one object."""


@final
class TextDelta(Struct, frozen=True, gc=False):
    index: int
    text: str


@final
class CitationDelta(Struct, frozen=True, gc=False):
    index: int
    raw: Raw
    """The citation as JSON: one object."""


@final
class ThinkingDelta(Struct, frozen=True, gc=False):
    index: int
    text: str


@final
class SignatureDelta(Struct, frozen=True, gc=False):
    """Event `content_block_delta` that sets the signature of a thinking block, after the block's text."""

    index: int
    signature: str
    """Opaque text that the client sends back with the thinking block."""


@final
class InputDelta(Struct, frozen=True, gc=False):
    index: int
    json: str


@final
class CompactionDelta(Struct, frozen=True, gc=False):
    """Event `content_block_delta` with the whole text of a summary."""

    index: int
    text: str


@final
class BlockStop(Struct, frozen=True, gc=False):
    index: int


@final
class MessageDelta(Struct, frozen=True):
    """Event `message_delta`: stop reason and usage, after the last block."""

    stop_reason: str
    stop_sequence: str | None
    """Stop sequence that ended the reply. None: another reason."""
    stop_details: dict[str, Any] | None
    """Details of a refusal. None: the field is not sent."""
    usage: UsageBody
    safeguard_results: list[dict[str, Any]] | None = None
    """Checks of the tool calls of the reply. None: the client requested none."""
    applied_edits: list[dict[str, Any]] | None = None
    """Edits of the conversation by `context_management`. None: the client requested none."""


@final
class MessageStop(Struct, frozen=True):
    pass


@final
class ErrorEvent(Struct, frozen=True):
    """Event `error`: end of an incomplete reply."""

    error: ProxyError


Event = (
    MessageStart
    | Ping
    | TextStart
    | ThinkingStart
    | ToolCallStart
    | BlockStart
    | TextDelta
    | CitationDelta
    | ThinkingDelta
    | SignatureDelta
    | InputDelta
    | CompactionDelta
    | BlockStop
    | MessageDelta
    | MessageStop
    | ErrorEvent
)


class _AnyBlock(Struct):
    type: str
    input: Raw = Raw(b"{}")  # immutable


def block_events(index: int, raw: Raw) -> list[Event]:
    """Return the events for a complete content block, from its start to its stop."""
    block = msgspec.json.decode(raw, type=_AnyBlock)
    if block.type == COMPACTION:
        return _compaction_events(index, raw)
    if block.type not in SERVER_CALL_TYPES:
        return [BlockStart(index, raw), BlockStop(index)]
    opened = msgspec.json.decode(raw, type=dict[str, Raw]) | {"input": Raw(b"{}")}
    # clients read the arguments of a server tool call only from this event (observed with Claude Code)
    arguments = InputDelta(index, bytes(block.input).decode())
    return [BlockStart(index, Raw(msgspec.json.encode(opened))), arguments, BlockStop(index)]


def _compaction_events(index: int, raw: Raw) -> list[Event]:
    """A block that gets a signature comes whole, without a delta, and any other with one delta.

    Source: platform.claude.com, "Compaction on demand" ("the block arrives whole […] with no `content_block_delta`
    events") and "Compaction at a token threshold", read 2026-11. The SDKs have their event `compaction` from the delta,
    so also Anthropic's signed block leads to none.
    """
    block = decode_values(raw)
    if "signature" in block:
        from anthropic_proxy.engine.messages.models.compaction import sign_block  # noqa: PLC0415  # few replies

        block["signature"] = sign_block(raw)
        return [BlockStart(index, Raw(msgspec.json.encode(block))), BlockStop(index)]
    content = block["content"]
    start = BlockStart(index, Raw(msgspec.json.encode(block | {"content": None})))
    return [start, *([] if content is None else [CompactionDelta(index, content)]), BlockStop(index)]


def replace_surrogates(text: str) -> str:
    """Return a text that UTF-8 can encode: a surrogate pair may be split between two fragments."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
