"""The events of a streamed reply, one struct each. An event is one SSE frame of the stream to the client.

`MessageWriter` creates all of them except `Ping`, which the pipeline creates. `server/responses.py` encodes them.
`index` is the number of the content block. Source: the API reference, "Streaming messages", read 2026-11.
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.errors import ProxyError
from anthropic_proxy.messages.models import MessagesResponse, UsageBody


class MessageStart(Struct, frozen=True):
    """`message_start`."""

    message: MessagesResponse
    """Message without content and stop reason. Its usage is the estimate of the input."""


class Ping(Struct, frozen=True):
    """`ping`."""


class TextStart(Struct, frozen=True, gc=False):
    """`content_block_start` of a text."""

    index: int


class ThinkingStart(Struct, frozen=True, gc=False):
    """`content_block_start` of a thinking block."""

    index: int


class ToolCallStart(Struct, frozen=True, gc=False):
    """`content_block_start` of a tool call. Its input follows as `InputDelta`."""

    index: int
    id: str
    name: str


class BlockStart(Struct, frozen=True, gc=False):
    """`content_block_start` of a complete block."""

    index: int
    raw: Raw
    """The block: one JSON object."""


class TextDelta(Struct, frozen=True, gc=False):
    """`content_block_delta` that adds text."""

    index: int
    text: str


class CitationDelta(Struct, frozen=True, gc=False):
    """`content_block_delta` with a citation for the text."""

    index: int
    raw: Raw
    """The citation: one JSON object."""


class ThinkingDelta(Struct, frozen=True, gc=False):
    """`content_block_delta` that adds reasoning."""

    index: int
    text: str


class SignatureDelta(Struct, frozen=True, gc=False):
    """`content_block_delta` with the signature of a thinking block: its last delta."""

    index: int
    signature: str


class InputDelta(Struct, frozen=True, gc=False):
    """`content_block_delta` with a fragment of the arguments of a call."""

    index: int
    json: str
    """A fragment of JSON text."""


class BlockStop(Struct, frozen=True, gc=False):
    """`content_block_stop`."""

    index: int


class MessageDelta(Struct, frozen=True):
    """`message_delta`: stop reason and usage."""

    stop_reason: str
    """Stop reason of the reply."""
    stop_sequence: str | None
    """Stop sequence that ended the reply. None: another reason."""
    stop_details: dict[str, Any] | None
    """Details of a refusal. None: the field is not sent."""
    usage: UsageBody
    """Totals of the message. Unset fields were not reported and are not sent."""


class MessageStop(Struct, frozen=True):
    """`message_stop`: end of a complete reply."""


class ErrorEvent(Struct, frozen=True):
    """`error`: end of an incomplete reply."""

    error: ProxyError
    """Error to send: its type and message."""


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
    | BlockStop
    | MessageDelta
    | MessageStop
    | ErrorEvent
)
"""Any event of a streamed reply."""


def replace_surrogates(text: str) -> str:
    """Return a text that UTF-8 can encode: a lone surrogate becomes U+FFFD.

    Some upstreams split a surrogate pair between two fragments.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


_CALLED = frozenset(("server_tool_use", "mcp_tool_use"))
"""Block types of server tool calls."""


class _Called(Struct):
    type: str
    input: Raw = Raw(b"{}")  # immutable


def block_events(index: int, raw: Raw) -> list[Event]:
    """Return the events for a complete block.

    Clients read the input of a server tool call only from `input_json_delta`, as Anthropic sends it. They ignore the
    input in `content_block_start` (observed with Claude Code).
    """
    called = msgspec.json.decode(raw, type=_Called)
    if called.type not in _CALLED:
        return [BlockStart(index, raw), BlockStop(index)]
    opened = msgspec.json.decode(raw, type=dict[str, Raw]) | {"input": Raw(b"{}")}
    given = InputDelta(index, bytes(called.input).decode())
    return [BlockStart(index, Raw(msgspec.json.encode(opened))), given, BlockStop(index)]
