"""Structs of Ollama's responses, with the fields that the proxy reads (`ChatResponse` in `api/types.go`).

`Frame` is one JSON object: one line of a streamed response, or the body of a response that is not streamed. It contains
a `ChatMessage`, the complete reply or a fragment of the reply. `decode_frame` decodes one object. `decode_strict_frame`
is faster, but rejects token counts that are no integers.
"""

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.wire.json_repair import parse_token_count

ABSENT = Raw(b"")
"""Value of a raw JSON field that the server did not send."""


class FunctionCall(Struct, gc=False):
    """Name of the called tool and arguments of a tool call."""

    name: str | None = None
    """Name of the called tool, as it was sent upstream."""
    arguments: Raw = ABSENT
    """Arguments as a JSON object. `ABSENT`: omitted, as by Ollama's parser for older models."""


class ToolCallField(Struct, gc=False):
    """Entry of `tool_calls`: a complete tool call."""

    function: FunctionCall | None = None
    """Name and arguments of the call. None: an empty entry."""
    id: str | None = None
    """Id of the tool call. None: the server is older than Ollama 0.12."""


class ChatMessage(Struct, gc=False):
    """The reply of the model, or its next fragment in a stream."""

    content: str | None = None
    """Text of the reply, or its next fragment."""
    thinking: str | None = None
    """Reasoning of the model, or its next fragment."""
    tool_calls: list[ToolCallField] | None = None
    """Complete tool calls of the model."""


class Frame(Struct, gc=False):
    """One NDJSON line of a stream, or one complete body."""

    message: ChatMessage | None = None
    """Fragment of the reply, or the complete reply if not streamed."""
    done: bool = False
    """True in the last line of the reply."""
    done_reason: str | None = None
    """Reason for the end of the reply: `stop`, `length`, `load`, … None: the reply goes on."""
    prompt_eval_count: int | None = None
    """Number of input tokens. None: before Ollama 0.5, if the prompt was cached."""
    eval_count: int | None = None
    """Number of output tokens. None: not the last line."""
    error: Raw = ABSENT
    """Error that replaces the reply, as JSON. `ABSENT`: no error."""


decode_strict_frame = msgspec.json.Decoder(Frame).decode
"""Decode a line or body. Raises `msgspec.ValidationError` for unexpected types."""
_COUNTS = ("prompt_eval_count", "eval_count")


def decode_frame(data: bytes) -> Frame:
    """Decode a line of a stream, or a complete body. Token counts may be strings or fractions.

    A token count of another type becomes None. Raises `msgspec.DecodeError` for invalid JSON, and if any other field
    has an unexpected type.
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
