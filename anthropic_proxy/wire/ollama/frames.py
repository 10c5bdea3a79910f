"""Lines and bodies as structs that declare only what we read (`ChatResponse` in `api/types.go`, 2026-08)."""

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.wire.json_repair import parse_token_count

ABSENT = Raw(b"")


class FunctionCall(Struct, gc=False):
    """A call's name and arguments."""

    name: str = ""
    arguments: Raw = ABSENT
    """An object; older models' parsers may leave it out."""


class ToolCallField(Struct, gc=False):
    """A whole call."""

    function: FunctionCall
    id: str | None = None
    """Missing before Ollama 0.12."""


class ChatMessage(Struct, gc=False):
    """A message, or the new part of a streamed message."""

    content: str | None = None
    thinking: str | None = None
    tool_calls: list[ToolCallField] | None = None


class Frame(Struct, gc=False):
    """One line, or one whole body."""

    message: ChatMessage | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: int | None = None
    """All of the input; missing where the whole prompt was still in memory (before 0.5)."""
    eval_count: int | None = None
    error: Raw = ABSENT


decode_strict_frame = msgspec.json.Decoder(Frame).decode
"""Reads a line or body as Ollama writes it; `decode_frame` reads what this refuses, where it can."""
_COUNTS = ("prompt_eval_count", "eval_count")


def decode_frame(data: bytes) -> Frame:
    """Read a line or body; a count in an unusual form is read too.

    Raises `msgspec.DecodeError` (or its `ValidationError`) where it is none.
    """
    try:
        return decode_strict_frame(data)
    except msgspec.ValidationError:
        content = msgspec.json.decode(data)
        if not isinstance(content, dict) or content.keys().isdisjoint(_COUNTS):
            raise
        return decode_strict_frame(
            msgspec.json.encode(content | {name: parse_token_count(content.get(name)) for name in _COUNTS})
        )
