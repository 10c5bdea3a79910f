"""The nine deltas: values of a decoded provider response, without formatting.

The decoder of a wire creates them. `MessageWriter` converts them into events of the Messages API.
"""

from typing import Any

from msgspec import Raw, Struct


class Text(Struct, frozen=True, gc=False):
    """A fragment of the answer."""

    text: str


class Citation(Struct, frozen=True, gc=False):
    """A citation for the preceding text."""

    raw: Raw
    """One JSON object, the `citation` of a `citations_delta`."""


class Thinking(Struct, frozen=True, gc=False):
    """A fragment of reasoning.

    The signature is opaque provider data for later requests (`wire/signatures.py`). It comes last, even without text.
    """

    text: str = ""
    signature: str = ""


class ToolCall(Struct, frozen=True, gc=False):
    """Start of a tool call."""

    key: int | str
    """Index or item of the upstream, unique within the message."""
    id: str
    name: str


class ToolArgs(Struct, frozen=True, gc=False):
    """A fragment of the arguments of a call: JSON text, never parsed."""

    key: int | str
    json: str


class ToolEnd(Struct, frozen=True, gc=False):
    """End of a tool call. Only the wire can detect it."""

    key: int | str


class Block(Struct, frozen=True, gc=False):
    """A complete content block, forwarded unchanged."""

    raw: Raw
    """One JSON object with a `type`."""


class Usage(Struct, frozen=True, kw_only=True):
    """Totals of this upstream call so far, in tokens. The last value of each field wins. None: not reported.

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
    """End of the reply, with a stop reason of the Messages API. The first one counts."""

    reason: str
    sequence: str | None = None
    details: dict[str, Any] | None = None


Delta = Text | Citation | Thinking | ToolCall | ToolArgs | ToolEnd | Block | Usage | Stop
