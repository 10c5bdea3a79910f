"""The nine deltas: what a provider's answer says, as facts, free of any formatting.

A wire's decoder makes them, `MessageWriter` turns them into Anthropic's events. All text is `str`.
"""

from typing import Any

from msgspec import Raw, Struct


class Text(Struct, frozen=True, gc=False):
    """A fragment of the answer."""

    text: str


class Citation(Struct, frozen=True, gc=False):
    """An API citation for the text before it."""

    raw: Raw
    """One JSON object, the `citation` of a `citations_delta`."""


class Thinking(Struct, frozen=True, gc=False):
    """A fragment of reasoning.

    The signature, opaque provider data to carry back later (`wire/carry.py`), comes last, with or without text.
    """

    text: str = ""
    signature: str = ""


class ToolCall(Struct, frozen=True, gc=False):
    """A tool call begins."""

    key: int | str
    """The upstream's own index or item, unique in this message only."""
    id: str
    name: str


class ToolArgs(Struct, frozen=True, gc=False):
    """A fragment of a call's arguments, as JSON text; never parsed on the way."""

    key: int | str
    json: str


class ToolEnd(Struct, frozen=True, gc=False):
    """The call is complete. Only the wire knows this, so only the wire says it."""

    key: int | str


class Block(Struct, frozen=True, gc=False):
    """A finished content block that we do not model, passed as it came."""

    raw: Raw
    """One JSON object with a `type`."""


class Usage(Struct, frozen=True, kw_only=True):
    """Running totals of this upstream call, in tokens; not increments.

    None means "not said"; per field, the last one said wins.
    `input_tokens` means what Anthropic means: input that was neither read from nor written to a cache.
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
    """The answer ended, for an Anthropic stop reason; the first one counts."""

    reason: str
    sequence: str | None = None
    details: dict[str, Any] | None = None


Delta = Text | Citation | Thinking | ToolCall | ToolArgs | ToolEnd | Block | Usage | Stop
