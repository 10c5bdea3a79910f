"""Frames and bodies as structs that declare only what we read; unusual shapes are made usual first."""

from typing import Any

import msgspec
from msgspec import Raw, Struct

ABSENT = Raw(b"")


class Function(Struct, gc=False):
    """Name and arguments of a call, or fragments of them."""

    name: str | None = None
    arguments: str | None = None


class CallPiece(Struct, gc=False):
    """A call, or a fragment of one."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None
    extra_content: Raw = ABSENT


class Piece(Struct, gc=False):
    """A `delta`, or the `message` of a whole answer."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: Raw = ABSENT
    refusal: str | None = None
    tool_calls: list[CallPiece] | None = None
    extra_content: Raw = ABSENT
    executed_tools: Raw = ABSENT
    annotations: Raw = ABSENT


class ServerToolCounts(Struct, gc=False):
    """`server_tool_use_details` of OpenRouter (recorded)."""

    web_search_requests: int | None = None


class Details(Struct, gc=False):
    """Parts of a token count."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None


class Counts(Struct, gc=False):
    """`usage`, with the fields that some servers add at its top."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: Details | None = None
    completion_tokens_details: Details | None = None
    cached_tokens: int | None = None
    prompt_cache_hit_tokens: int | None = None
    server_tool_use_details: ServerToolCounts | None = None


class Choice(Struct, gc=False):
    """The answer; we never ask for more than one."""

    delta: Piece | None = None
    message: Piece | None = None
    finish_reason: str | None = None
    usage: Counts | None = None


class GroqExtra(Struct, gc=False):
    """`x_groq`."""

    usage: Counts | None = None
    error: Raw = ABSENT


class Chunk(Struct, gc=False):
    """One frame, or one whole body."""

    choices: list[Choice] | None = None
    usage: Counts | None = None
    x_groq: GroqExtra | None = None
    error: Raw = ABSENT


_COUNTED = ("prompt_tokens_details", "completion_tokens_details", "server_tool_use_details")
_decode = msgspec.json.Decoder(Chunk).decode


def decode_chunk(data: bytes) -> Chunk:
    """Read a frame or body. Raises `msgspec.DecodeError` (or its `ValidationError`) where it is none."""
    try:
        return _decode(data)
    except msgspec.ValidationError:
        return msgspec.convert(_usual(msgspec.json.decode(data)), Chunk, strict=False)


def is_said(raw: Raw) -> bool:
    """Whether a field is there and not null."""
    return raw is not ABSENT and bytes(raw) != b"null"


def _usual(content: Any) -> Any:
    """Return a frame with every field in its usual type; what has no meaning for us is left out."""
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
    if isinstance(content, list):  # Mistral: a list of parts, reasoning among them
        usual["content"] = "".join(_text_of(part) for part in content if not _is_thinking(part))
        usual["reasoning_content"] = "".join(_text_of(part) for part in content if _is_thinking(part))
    elif isinstance(content, str):
        usual["content"] = content
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
