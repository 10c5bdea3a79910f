"""The nine deltas: pieces of a decoded provider response, independent of the provider and of its formatting.

The decoder of a wire creates deltas. `MessageWriter` converts them into events of the Messages API.
"""

from typing import Any

from msgspec import Raw, Struct


class Text(Struct, frozen=True, gc=False):
    """A fragment of the reply's text."""

    text: str
    """The fragment; decoded text, not JSON."""


class Citation(Struct, frozen=True, gc=False):
    """A source cited for the preceding text."""

    raw: Raw
    """One JSON object, the `citation` of a `citations_delta`."""


class Thinking(Struct, frozen=True, gc=False):
    """A fragment of the model's reasoning, or its signature.

    The signature is opaque state of the provider for later requests (`wire/signatures.py`). It is in the last delta of
    a thinking block, even if the block has no text.
    """

    text: str = ""
    """The fragment. "": only a signature."""
    signature: str = ""
    """Signature that ends the thinking block. "": more text may follow."""


class ToolCall(Struct, frozen=True, gc=False):
    """Start of a tool call."""

    key: int | str
    """Key that links `ToolArgs` and `ToolEnd` to this call: an index or item id of the upstream, unique within the
    message. The client does not receive it."""
    id: str
    """Id of the call in the reply to the client. Its tool result refers to this id."""
    name: str
    """Name of the called tool for the client. Decoders replace an upstream alias by the name in the client request."""


class ToolArgs(Struct, frozen=True, gc=False):
    """A fragment of the arguments of a tool call. The text is never parsed."""

    key: int | str
    """`ToolCall.key` of the call."""
    json: str
    """Fragment of JSON text. All fragments of a call together are one JSON object."""


class ToolEnd(Struct, frozen=True, gc=False):
    """End of a tool call. Only the decoder of the wire can detect it."""

    key: int | str
    """`ToolCall.key` of the call."""


class Block(Struct, frozen=True, gc=False):
    """A complete content block, forwarded to the client unchanged."""

    raw: Raw
    """The block: one JSON object with a `type`."""


class Usage(Struct, frozen=True, kw_only=True):
    """Token totals of the upstream call so far. The last reported value of each field is valid. None: not reported.

    `input_tokens` has the meaning of Anthropic's API: input neither read from nor written to a cache.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    thinking_tokens: int | None = None
    web_search_requests: int | None = None
    web_fetch_requests: int | None = None
    service_tier: str | None = None


class Stop(Struct, frozen=True):
    """End of the reply, with a stop reason of the Messages API. A second `Stop` of a reply is ignored."""

    reason: str
    """Stop reason: `end_turn`, `max_tokens`, `tool_use`, …"""
    sequence: str | None = None
    """Stop sequence that ended the reply. None: another reason."""
    details: dict[str, Any] | None = None
    """Object `stop_details` of the reply, for a refusal. None: no details."""


Delta = Text | Citation | Thinking | ToolCall | ToolArgs | ToolEnd | Block | Usage | Stop
"""Any of the nine deltas."""
