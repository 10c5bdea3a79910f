"""Structs of Ollama's response lines and bodies, with the fields that are read (`ChatResponse` in `api/types.go`)."""

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.wire.json_repair import parse_token_count

ABSENT = Raw(b"")
"""Value of a raw JSON field that the server did not send."""


class FunctionCall(Struct, gc=False):
    """Function name and arguments of a tool call."""

    name: str = ""
    arguments: Raw = ABSENT
    """A JSON object. `ABSENT`: omitted by Ollama's parser for an older model."""


class ToolCallField(Struct, gc=False):
    """Entry of `tool_calls`: always a complete tool call."""

    function: FunctionCall
    id: str | None = None
    """Missing before Ollama 0.12."""


class ChatMessage(Struct, gc=False):
    """The reply message, or in a stream the new part of the message."""

    content: str | None = None
    thinking: str | None = None
    tool_calls: list[ToolCallField] | None = None


class Frame(Struct, gc=False):
    """One NDJSON line of a stream, or one complete body."""

    message: ChatMessage | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: int | None = None
    """Number of input tokens. None: before Ollama 0.5, if the prompt was cached."""
    eval_count: int | None = None
    error: Raw = ABSENT


decode_strict_frame = msgspec.json.Decoder(Frame).decode
"""Decodes a line or body. Raises `msgspec.ValidationError` for unexpected types; `decode_frame` accepts more."""
_COUNTS = ("prompt_eval_count", "eval_count")


def decode_frame(data: bytes) -> Frame:
    """Decode a line or body. Token counts may also be text or fractions.

    Raises `msgspec.DecodeError` for invalid JSON or other unexpected types.
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
