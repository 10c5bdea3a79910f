"""Replies in another form than the client asked for, and messages that are not streamed.

Some servers ignore `stream`: `convert_message_to_events` and `convert_events_to_message` write their reply in the form
that was asked for. `repair_message` completes a message that `is_valid_message` does not accept, by the rules of
streams (`StreamRepair`): it becomes a stream, which becomes a message again.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from anthropic_proxy.engine.wires.framing import SSEReader
from anthropic_proxy.engine.wires.json_repair import DECODE_ERRORS, decode_repaired

if TYPE_CHECKING:
    from anthropic_proxy.engine.wires.anthropic.stream_repair import StreamRepair

_OF_THE_END = ("stop_details", "safeguard_results")
"""Further fields of a message that a stream has in `message_delta`."""
_TEXTS = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}
"""Type of a delta → field of the delta and of its block."""


def convert_message_to_events(body: bytes, repair: "StreamRepair") -> bytes:
    """Return a message as the events of a stream. `body` is an object with `content`, which may be a text."""
    message = decode_repaired(body)
    ending = {"stop_reason": message.get("stop_reason") or "end_turn", "stop_sequence": message.get("stop_sequence")}
    ending |= {name: message.pop(name) for name in _OF_THE_END if name in message}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**message, "stop_reason": None, "stop_sequence": None}},
        {"type": "message_delta", "delta": ending, "usage": message.get("usage")},
        {"type": "message_stop"},
    ]
    from anthropic_proxy.engine.wires.anthropic.stream_repair import encode_event  # noqa: PLC0415  # few replies

    return repair.feed(b"".join(map(encode_event, events)))


def convert_events_to_message(body: bytes, repair: "StreamRepair") -> bytes:
    """Return the message of a stream, or the error in it. A body that is no complete stream is returned unchanged.

    Raises the error of `StreamRepair` for a call that cannot be run.
    """
    events = repair.feed(body.rstrip() + b"\n\n") + repair.finish()
    if repair.error is not None:
        raise repair.error
    return _fold(events) or body


def _fold(events: bytes) -> bytes:
    """Return the message of a valid stream, or the error in it. b"": it is not complete."""
    reader = SSEReader()
    message: dict[str, Any] | None = None
    cited = dict[int, list[Any]]()
    blocks = dict[int, dict[str, Any]]()
    pieces = dict[tuple[int, str], list[str]]()
    """Texts of the deltas, by the index of the block and the field."""
    for frame in reader.feed(events):
        event = decode_repaired(frame)
        if not isinstance(event, dict):
            continue
        match event:
            case {"error": dict()} | {"type": "error"}:
                return frame
            case {"type": "message_start", "message": dict(begun)}:
                message = begun
            case {"type": "content_block_start", "index": index, "content_block": dict(block)}:
                blocks[index] = block
            case {"type": "content_block_delta", "index": index, "delta": dict(values)}:
                match values:
                    case {"partial_json": str(text)}:
                        pieces.setdefault((index, "input"), []).append(text)
                    case {"citation": citation}:
                        cited.setdefault(index, []).append(citation)
                    case {"text": str(text)} | {"thinking": str(text)} | {"signature": str(text)} if (
                        values["type"] in _TEXTS
                    ):
                        pieces.setdefault((index, _TEXTS[values["type"]]), []).append(text)
                    case _:
                        blocks[index].update({**values, "type": blocks[index]["type"]})
            case {"type": "message_delta", "delta": dict(ending), "usage": dict(counts)} if message is not None:
                message |= ending
                message["usage"] = {**message["usage"], **counts}
    if message is None or not message.get("stop_reason"):
        return b""
    for (index, field), texts in pieces.items():
        if field == "input":
            blocks[index][field] = decode_repaired("".join(texts).encode() or b"{}")
        else:
            blocks[index][field] = str(blocks[index].get(field) or "") + "".join(texts)
    for index, citations in cited.items():
        blocks[index]["citations"] = citations
    message["content"] = list(blocks.values())
    return msgspec.json.encode(message)


_Name = Annotated[str, Meta(min_length=1)]


class _Usage(Struct, gc=False):
    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class _Text(Struct, tag_field="type", tag="text", gc=False):
    text: str


class _Thinking(Struct, tag_field="type", tag="thinking", gc=False):
    thinking: str
    signature: _Name


class _Call(Struct, tag_field="type", tag="tool_use", gc=False):
    id: _Name
    name: _Name
    input: dict[str, Raw]


class _Message(Struct, gc=False):
    id: _Name
    type: Literal["message"]
    role: Literal["assistant"]
    model: _Name
    content: list[_Text | _Thinking | _Call]
    stop_reason: Literal["end_turn", "tool_use", "max_tokens", "refusal", "pause_turn", "model_context_window_exceeded"]
    usage: _Usage
    stop_sequence: None = None


_decode_message = msgspec.json.Decoder(_Message).decode


def is_valid_message(body: bytes) -> bool:
    """Return True for a message of the usual blocks as the API defines it."""
    try:
        message = _decode_message(body)
    except DECODE_ERRORS:
        return False
    if _Call not in map(type, message.content):
        return message.stop_reason != "tool_use"
    calls = [block.id for block in message.content if type(block) is _Call]
    return message.stop_reason != "end_turn" and len({*calls}) == len(calls)


def repair_message(body: bytes, repair: "StreamRepair") -> bytes:
    """Return a message as the API defines it. What is no message is returned unchanged.

    Raises the error of `StreamRepair` for a call that cannot be run.
    """
    given = decode_repaired(body)
    if not isinstance(given, dict) or given.get("error") is not None or not _is_message(given):
        return body
    content, texts = given.get("content"), (str, list)
    if (
        not isinstance(content, texts)
        and len(others := [each for each in given.values() if isinstance(each, list)]) == 1
    ):
        content = others[0]
    events = convert_message_to_events(msgspec.json.encode({**given, "content": content}), repair)
    if repair.error is not None:
        raise repair.error
    repaired = msgspec.json.decode(_fold(events))
    return body if repaired == {"stop_sequence": None, **given} else msgspec.json.encode(repaired)


def _is_message(given: dict[str, Any]) -> bool:
    return given.get("type") == "message" or given.get("role") == "assistant"
