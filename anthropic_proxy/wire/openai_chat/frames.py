"""Frames and bodies as structs that declare only what we read; unusual shapes are made usual first."""

from typing import Any

import msgspec
from msgspec import Raw, Struct

ABSENT = Raw(b"")


class FunctionCall(Struct, gc=False):
    """Name and arguments of a call, or fragments of them."""

    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(Struct, gc=False):
    """A call, or a fragment of one."""

    index: int | None = None
    id: str | None = None
    function: FunctionCall | None = None
    extra_content: Raw = ABSENT


class ChoiceDelta(Struct, gc=False):
    """A `delta`, or the `message` of a whole answer."""

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
        """Return True if there is no text, no reasoning and no call."""
        content = self.content or self.reasoning_content or self.reasoning or self.refusal or self.tool_calls
        return not content and not is_present(self.reasoning_details)


class ServerToolCounts(Struct, gc=False):
    """`server_tool_use_details` of OpenRouter (recorded)."""

    web_search_requests: int | None = None


class TokenDetails(Struct, gc=False):
    """Parts of a token count."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None


class ChatUsage(Struct, gc=False):
    """`usage`, with the fields that some servers add at its top."""

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
        """Return True if there are neither input nor output counts."""
        return self.prompt_tokens is None and self.completion_tokens is None


class Choice(Struct, gc=False):
    """The answer; we never ask for more than one."""

    delta: ChoiceDelta | None = None
    message: ChoiceDelta | None = None
    finish_reason: str | None = None
    usage: ChatUsage | None = None

    def reply_delta(self) -> ChoiceDelta | None:
        """Return the reply of a body that is not streamed: the message, unless only the delta brings anything.

        Perplexity sends both, the delta without text (recorded 2026).
        """
        if self.message is None or (self.delta is not None and self.message.is_empty):
            return self.delta
        return self.message


class GroqExtension(Struct, gc=False):
    """`x_groq`."""

    usage: ChatUsage | None = None
    error: Raw = ABSENT


class Chunk(Struct, gc=False):
    """One frame, or one whole body."""

    choices: list[Choice] | None = None
    usage: ChatUsage | None = None
    x_groq: GroqExtension | None = None
    error: Raw = ABSENT


_COUNTED = ("prompt_tokens_details", "completion_tokens_details", "server_tool_use_details")
_decode = msgspec.json.Decoder(Chunk).decode


def decode_chunk(data: bytes) -> Chunk:
    """Read a frame or body. Raises `msgspec.DecodeError` (or its `ValidationError`) where it is none."""
    try:
        chunk = _decode(data)
    except msgspec.ValidationError:
        chunk = msgspec.convert(_usual(msgspec.json.decode(data)), Chunk, strict=False)
    if chunk.choices is None and chunk.usage is None and chunk.error is ABSENT and _is_bare_error(data):
        chunk.error = Raw(data)
    return chunk


def _is_bare_error(data: bytes) -> bool:
    """Return whether a frame is itself the object that others have under `error`.

    Sources: vLLM before 0.10 (`"object": "error"`, serving_engine.py); gateways with events of the type `error` (read
    2026-11).
    """
    content = msgspec.json.decode(data)
    if not isinstance(content, dict) or not isinstance(content.get("message"), str):
        return False
    return content.get("object") == "error" or not content.keys().isdisjoint(("code", "type", "status"))


def is_present(raw: Raw) -> bool:
    """Return True if a field is present and not null."""
    return raw is not ABSENT and bytes(raw) != b"null"


def _usual(content: Any) -> Any:
    """Return a frame with every field in its usual type; fields without a meaning for us are omitted."""
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
    for name in ("reasoning_content", "reasoning", "refusal"):
        if isinstance(piece.get(name), str):
            usual[name] = piece[name]
    for name in ("reasoning_details", "extra_content", "executed_tools", "annotations"):
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
        name, arguments = function.get("name"), function.get("arguments")
        if arguments is not None and not isinstance(arguments, str):  # some servers send the object itself
            arguments = msgspec.json.encode(arguments).decode()
        usual["function"] = {"name": name if isinstance(name, str) else None, "arguments": arguments}
    if call.get("extra_content") is not None:
        usual["extra_content"] = msgspec.Raw(msgspec.json.encode(call["extra_content"]))
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
