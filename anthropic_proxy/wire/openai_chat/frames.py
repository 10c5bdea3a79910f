"""Structs of Chat Completions response chunks and bodies, with only the fields that the decoder reads.

`decode_chunk` normalizes values of unexpected JSON types (a number as text, content as a list of parts). A missing
field is None, or `ABSENT` if its value is kept as raw JSON.
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct, structs

ABSENT = Raw(b"")
"""Value of a raw JSON field that the provider did not send."""


class FunctionCall(Struct, gc=False):
    """Function name and arguments (JSON text) of a tool call, or fragments of them."""

    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(Struct, gc=False):
    """Entry of `tool_calls`: a tool call, or in a stream a fragment of a tool call."""

    index: int | None = None
    id: str | None = None
    function: FunctionCall | None = None
    extra_content: Raw = ABSENT


class ChoiceDelta(Struct, gc=False):
    """The `delta` of a streamed choice, or the `message` of a choice that is not streamed."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: Raw = ABSENT
    refusal: str | None = None
    tool_calls: list[ToolCallDelta] | None = None
    extra_content: Raw = ABSENT
    executed_tools: Raw = ABSENT
    annotations: Raw = ABSENT

    @property
    def is_empty(self) -> bool:
        """True if there is no text, no reasoning, no refusal and no tool call."""
        content = self.content or self.reasoning_content or self.reasoning or self.refusal or self.tool_calls
        return not content and not is_present(self.reasoning_details)


class ServerToolCounts(Struct, gc=False):
    """Usage field `server_tool_use_details` of OpenRouter: calls of its server tools (recorded)."""

    web_search_requests: int | None = None


class TokenDetails(Struct, gc=False):
    """Shares of the input or output tokens: `prompt_tokens_details`, `completion_tokens_details`."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None


class ChatUsage(Struct, gc=False):
    """The `usage` object. `cached_tokens` and `prompt_cache_hit_tokens` are alternatives of some servers."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: TokenDetails | None = None
    completion_tokens_details: TokenDetails | None = None
    cached_tokens: int | None = None
    prompt_cache_hit_tokens: int | None = None
    server_tool_use_details: ServerToolCounts | None = None

    @property
    def is_empty(self) -> bool:
        """True if neither input nor output tokens are counted."""
        return self.prompt_tokens is None and self.completion_tokens is None


class Choice(Struct, gc=False):
    """Entry of `choices`. The proxy requests one choice only."""

    delta: ChoiceDelta | None = None
    message: ChoiceDelta | None = None
    finish_reason: str | None = None
    usage: ChatUsage | None = None

    def reply_delta(self) -> ChoiceDelta | None:
        """Return the reply in a body that is not streamed: `message`, or `delta` if `message` is missing or empty.

        Perplexity sends both fields, `delta` without text (recorded 2026).
        """
        if self.message is None or (self.delta is not None and self.message.is_empty):
            return self.delta
        return self.message


class GroqExtension(Struct, gc=False):
    """The chunk field `x_groq` of Groq."""

    usage: ChatUsage | None = None
    error: Raw = ABSENT


class Chunk(Struct, gc=False):
    """One SSE frame of a stream, or a complete body that is not streamed."""

    choices: list[Choice] | None = None
    usage: ChatUsage | None = None
    x_groq: GroqExtension | None = None
    error: Raw = ABSENT


def _fields_of(kind: type[Struct], field_type: object) -> tuple[str, ...]:
    return tuple(field.name for field in structs.fields(kind) if field.type == field_type)


_TEXT_FIELDS = tuple(name for name in _fields_of(ChoiceDelta, str | None) if name != "content")
_RAW_FIELDS = _fields_of(ChoiceDelta, Raw)
_CALL_RAW_FIELDS = _fields_of(ToolCallDelta, Raw)
_COUNTED = frozenset(field.name for field in structs.fields(ChatUsage) if field.type != int | None)
_decode = msgspec.json.Decoder(Chunk).decode


def decode_chunk(data: bytes) -> Chunk:
    """Decode one SSE data field or one complete body. Raises `msgspec.DecodeError` for invalid JSON or fields."""
    try:
        chunk = _decode(data)
    except msgspec.ValidationError:
        chunk = msgspec.convert(_usual(msgspec.json.decode(data)), Chunk, strict=False)
    if chunk.choices is None and chunk.usage is None and chunk.error is ABSENT and _is_bare_error(data):
        chunk.error = Raw(data)
    return chunk


def _is_bare_error(data: bytes) -> bool:
    """Return True if the frame itself is the error object, without the field `error` around it.

    Sources: vLLM before 0.10 (`"object": "error"`, serving_engine.py); gateways with events of the type `error` (read
    2026-11).
    """
    content = msgspec.json.decode(data)
    if not isinstance(content, dict) or not isinstance(content.get("message"), str):
        return False
    return content.get("object") == "error" or not content.keys().isdisjoint(("code", "type", "status"))


def is_present(raw: Raw) -> bool:
    """Return True if a raw JSON field was sent and is not null."""
    return raw is not ABSENT and bytes(raw) != b"null"


def _usual(content: Any) -> Any:
    """Return a decoded frame with each field in the type of its struct. Undeclared fields may be omitted."""
    if not isinstance(content, dict):
        return content
    usual: dict[str, Any] = {}
    if content.get("error") is not None:
        usual["error"] = msgspec.Raw(msgspec.json.encode(content["error"]))
    choices = content.get("choices")
    if isinstance(choices, list):
        usual["choices"] = [_usual_choice(choice) for choice in choices if isinstance(choice, dict)]
    groq = content.get("x_groq")
    if isinstance(groq, dict):
        usual["x_groq"] = {"usage": _usual_counts(groq.get("usage"))}
    usual["usage"] = _usual_counts(content.get("usage"))
    return usual


def _usual_choice(choice: dict[str, Any]) -> dict[str, Any]:
    reason = choice.get("finish_reason")
    return {
        "delta": _usual_piece(choice.get("delta")),
        "message": _usual_piece(choice.get("message")),
        "finish_reason": reason if isinstance(reason, str) else None,
        "usage": _usual_counts(choice.get("usage")),
    }


def _usual_piece(piece: Any) -> dict[str, Any] | None:
    if not isinstance(piece, dict):
        return None
    usual: dict[str, Any] = {}
    content = piece.get("content")
    parts = content if isinstance(content, list) else [content]
    if all(isinstance(part, str) or (isinstance(part, dict) and isinstance(part.get("type"), str)) for part in parts):
        # Mistral: a list of parts, reasoning among them
        usual["content"] = "".join(_text_of(part) for part in parts if not _is_thinking(part))
        usual["reasoning_content"] = "".join(_text_of(part) for part in parts if _is_thinking(part))
    elif content is not None:  # Cloudflare Workers AI with a schema: the value itself (recorded 2026)
        usual["content"] = msgspec.json.encode(content).decode()
    for name in _TEXT_FIELDS:
        if isinstance(piece.get(name), str):
            usual[name] = piece[name]
    for name in _RAW_FIELDS:
        if piece.get(name) is not None:
            usual[name] = msgspec.Raw(msgspec.json.encode(piece[name]))
    calls = piece.get("tool_calls")
    if isinstance(calls, list):
        usual["tool_calls"] = [_usual_call(call) for call in calls if isinstance(call, dict)]
    return usual


def _usual_call(call: dict[str, Any]) -> dict[str, Any]:
    usual: dict[str, Any] = {}
    index, call_id, function = call.get("index"), call.get("id"), call.get("function")
    if isinstance(index, int | str) and str(index).isdecimal():
        usual["index"] = int(index)
    if isinstance(call_id, str | int):
        usual["id"] = str(call_id)
    if isinstance(function, dict):
        called, arguments = function.get("name"), function.get("arguments")
        if arguments is not None and not isinstance(arguments, str):  # some servers send the object itself
            arguments = msgspec.json.encode(arguments).decode()
        usual["function"] = {"name": called if isinstance(called, str) else None, "arguments": arguments}
    for name in _CALL_RAW_FIELDS:
        if call.get(name) is not None:
            usual[name] = msgspec.Raw(msgspec.json.encode(call[name]))
    return usual


def _usual_counts(counts: Any) -> dict[str, Any] | None:
    if not isinstance(counts, dict):
        return None
    usual: dict[str, Any] = {}
    for name, value in counts.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            usual[name] = int(value)
        elif isinstance(value, dict) and name in _COUNTED:
            usual[name] = _usual_counts(value)
    return usual


def _is_thinking(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "thinking"


def _text_of(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return ""
    inner = part.get("thinking") if _is_thinking(part) else part.get("text")
    return "".join(map(_text_of, inner)) if isinstance(inner, list) else inner if isinstance(inner, str) else ""
