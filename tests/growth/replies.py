"""Replies of providers, built from the same parts for every wire."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

Frame = dict[str, Any]


class Reply(Struct, frozen=True, kw_only=True):
    """The content of one reply: thinking, then text, then tool calls, each in pieces."""

    thoughts: Sequence[str] = ()
    texts: Sequence[str] = ()
    calls: Sequence[tuple[str, str, Sequence[str]]] = ()
    """Id, tool name and pieces of the arguments."""


class ReplyWire(Struct, frozen=True):
    """The form of a reply on one wire: the chunks of a stream, and a whole body."""

    stream: Callable[[Reply], list[bytes]]
    whole: Callable[[Reply], bytes]


def encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def sse(frame: Frame) -> bytes:
    name = b"event: %b\n" % frame["type"].encode() if "type" in frame else b""
    return b"%bdata: %b\n\n" % (name, encode(frame))


def _chat_chunk(delta: Frame, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return sse({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]})


def _chat_stream(reply: Reply) -> list[bytes]:
    chunks = [_chat_chunk({"role": "assistant", "content": ""})]
    chunks += [_chat_chunk({"reasoning_content": piece}) for piece in reply.thoughts]
    chunks += [_chat_chunk({"content": piece}) for piece in reply.texts]
    for index, (call_id, name, pieces) in enumerate(reply.calls):
        function = {"name": name, "arguments": ""}
        begin = {"index": index, "id": call_id, "type": "function", "function": function}
        chunks.append(_chat_chunk({"tool_calls": [begin]}))
        chunks += [_chat_chunk({"tool_calls": [{"index": index, "function": {"arguments": p}}]}) for p in pieces]
    return [*chunks, _chat_chunk({}, "tool_calls" if reply.calls else "stop"), b"data: [DONE]\n\n"]


def _chat_whole(reply: Reply) -> bytes:
    message: Frame = {"role": "assistant", "content": "".join(reply.texts)}
    if reply.thoughts:
        message["reasoning_content"] = "".join(reply.thoughts)
    if reply.calls:
        message["tool_calls"] = [
            {"id": call_id, "type": "function", "function": {"name": name, "arguments": "".join(pieces)}}
            for call_id, name, pieces in reply.calls
        ]
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if reply.calls else "stop"}
    return encode({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})


def _gemini_parts(reply: Reply) -> list[Frame]:
    return [
        *({"text": piece, "thought": True} for piece in reply.thoughts),
        *({"text": piece} for piece in reply.texts),
        *(
            {"functionCall": {"id": call_id, "name": name, "args": json.loads("".join(pieces))}}
            for call_id, name, pieces in reply.calls
        ),
    ]


def _gemini_frame(parts: Sequence[Frame], finish: str | None = None) -> Frame:
    candidate: Frame = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    usage = {"promptTokenCount": 3, "candidatesTokenCount": 1, "totalTokenCount": 4}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "m", "responseId": "r"}


def _gemini_stream(reply: Reply) -> list[bytes]:
    frames = [_gemini_frame([part]) for part in _gemini_parts(reply)]
    return [b"data: %b\n\n" % encode(frame) for frame in [*frames, _gemini_frame([{"text": ""}], "STOP")]]


def _gemini_whole(reply: Reply) -> bytes:
    return encode(_gemini_frame(_gemini_parts(reply), "STOP"))


def _ollama_frame(message: Frame, *, done: bool) -> Frame:
    frame: Frame = {"model": "m", "created_at": "2026-09-01T01:45:58Z", "message": {"role": "assistant", **message}}
    frame["done"] = done
    if done:
        frame |= {"done_reason": "stop", "prompt_eval_count": 3, "eval_count": 1}
    return frame


def _ollama_calls(reply: Reply) -> list[Frame]:
    return [{"function": {"name": name, "arguments": json.loads("".join(p))}} for _, name, p in reply.calls]


def _ollama_stream(reply: Reply) -> list[bytes]:
    messages: list[Frame] = [{"content": "", "thinking": piece} for piece in reply.thoughts]
    messages += [{"content": piece} for piece in reply.texts]
    messages += [{"content": "", "tool_calls": [call]} for call in _ollama_calls(reply)]
    frames = [_ollama_frame(message, done=False) for message in messages]
    return [encode(frame) + b"\n" for frame in [*frames, _ollama_frame({"content": ""}, done=True)]]


def _ollama_whole(reply: Reply) -> bytes:
    message: Frame = {"content": "".join(reply.texts), "thinking": "".join(reply.thoughts)}
    if reply.calls:
        message["tool_calls"] = _ollama_calls(reply)
    return encode(_ollama_frame(message, done=True))


def _items(reply: Reply) -> list[Frame]:
    items: list[Frame] = []
    if reply.thoughts:
        summary = [{"type": "summary_text", "text": "".join(reply.thoughts)}]
        items.append({"type": "reasoning", "id": "rs_1", "summary": summary})
    if reply.texts:
        part = {"type": "output_text", "text": "".join(reply.texts), "annotations": []}
        items.append({"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]})
    for number, (call_id, name, pieces) in enumerate(reply.calls):
        call = {"type": "function_call", "id": f"fc_{number}", "call_id": call_id, "name": name}
        items.append({**call, "arguments": "".join(pieces), "status": "completed"})
    return items


def _response(status: str, output: list[Frame]) -> Frame:
    usage = {"input_tokens": 3, "output_tokens": 1, "total_tokens": 4}
    head = {"id": "resp_1", "object": "response", "status": status, "model": "m", "error": None}
    return {**head, "output": output, "usage": usage if status == "completed" else None}


def _item_events(item: Frame, index: int, reply: Reply) -> list[Frame]:
    place = {"item_id": item["id"], "output_index": index}
    kind, pieces, begun = "", reply.texts, {**item, "status": "in_progress"}
    if item["type"] == "message":
        place, kind, begun["content"] = {**place, "content_index": 0}, "output_text", []
        part = {"type": "output_text", "text": "", "annotations": []}
        before = [{"type": "response.content_part.added", **place, "part": part}]
    elif item["type"] == "reasoning":
        place, kind, begun["summary"] = {**place, "summary_index": 0}, "reasoning_summary_text", []
        pieces = reply.thoughts
        part = {"type": "summary_text", "text": ""}
        before = [{"type": "response.reasoning_summary_part.added", **place, "part": part}]
    else:
        kind, begun["arguments"], before = "function_call_arguments", "", []
        pieces = next(pieces for call_id, _, pieces in reply.calls if call_id == item["call_id"])
    return [
        {"type": "response.output_item.added", "output_index": index, "item": begun},
        *before,
        *({"type": f"response.{kind}.delta", **place, "delta": piece} for piece in pieces),
        {"type": "response.output_item.done", "output_index": index, "item": item},
    ]


def _responses_stream(reply: Reply) -> list[bytes]:
    frames: list[Frame] = [{"type": "response.created", "response": _response("in_progress", [])}]
    items = _items(reply)
    for index, item in enumerate(items):
        frames += _item_events(item, index, reply)
    frames.append({"type": "response.completed", "response": _response("completed", items)})
    return [sse({**frame, "sequence_number": number}) for number, frame in enumerate(frames)]


def _responses_whole(reply: Reply) -> bytes:
    return encode(_response("completed", _items(reply)))


def _blocks(reply: Reply) -> list[tuple[Frame, str, str, Sequence[str]]]:
    """Return for each block its begin, the type and the field of its deltas, and the pieces."""
    blocks: list[tuple[Frame, str, str, Sequence[str]]] = []
    if reply.thoughts:
        begin = {"type": "thinking", "thinking": "", "signature": ""}
        blocks.append((begin, "thinking_delta", "thinking", reply.thoughts))
    if reply.texts:
        blocks.append(({"type": "text", "text": ""}, "text_delta", "text", reply.texts))
    for call_id, name, pieces in reply.calls:
        begin = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
        blocks.append((begin, "input_json_delta", "partial_json", pieces))
    return blocks


def _message(content: list[Frame], stop: str | None) -> Frame:
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": content}
    return {**head, "stop_reason": stop, "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 1}}


def _messages_stream(reply: Reply) -> list[bytes]:
    stop = "tool_use" if reply.calls else "end_turn"
    frames: list[Frame] = [{"type": "message_start", "message": _message([], None)}]
    for index, (begin, kind, field, pieces) in enumerate(_blocks(reply)):
        frames.append({"type": "content_block_start", "index": index, "content_block": begin})
        deltas = [{"type": kind, field: piece} for piece in pieces]
        frames += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        frames.append({"type": "content_block_stop", "index": index})
    frames.append({"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 1}})
    return [sse(frame) for frame in [*frames, {"type": "message_stop"}]]


def _messages_whole(reply: Reply) -> bytes:
    content = []
    for begin, _, field, pieces in _blocks(reply):
        whole = "".join(pieces)
        content.append({**begin, "input": json.loads(whole)} if "input" in begin else {**begin, field: whole})
    return encode(_message(content, "tool_use" if reply.calls else "end_turn"))


CHAT = ReplyWire(_chat_stream, _chat_whole)
GEMINI = ReplyWire(_gemini_stream, _gemini_whole)
OLLAMA = ReplyWire(_ollama_stream, _ollama_whole)
RESPONSES = ReplyWire(_responses_stream, _responses_whole)
MESSAGES = ReplyWire(_messages_stream, _messages_whole)


class Wire(Struct, frozen=True, kw_only=True):
    """One way to a provider: the settings that choose it and how its replies are written."""

    name: str
    settings: Mapping[str, str]
    model: str
    replies: ReplyWire


_OPENAI = {"PREFERRED_PROVIDER": "openai", "OPENAI_API_KEY": "sk-growth-0000"}
_LOCAL = {**_OPENAI, "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
_GOOGLE = {"PREFERRED_PROVIDER": "google", "GEMINI_API_KEY": "growth-0000"}

WIRES = {
    wire.name: wire
    for wire in (
        Wire(name="chat", settings={**_OPENAI, "OPENAI_WIRE": "chat"}, model="openai/gpt-4.1", replies=CHAT),
        Wire(name="server", settings={**_LOCAL, "OPENAI_WIRE": "chat"}, model="openai/local", replies=CHAT),
        Wire(
            name="responses",
            settings={**_OPENAI, "OPENAI_WIRE": "responses"},
            model="openai/gpt-5.5",
            replies=RESPONSES,
        ),
        Wire(name="gemini", settings=_GOOGLE, model="gemini/gemini-2.5-flash", replies=GEMINI),
        Wire(name="gemini 1", settings=_GOOGLE, model="gemini/gemini-1.5-pro", replies=GEMINI),
        Wire(name="ollama", settings={"PREFERRED_PROVIDER": "ollama"}, model="ollama/qwen3", replies=OLLAMA),
        Wire(name="messages", settings={**_LOCAL, "OPENAI_WIRE": "messages"}, model="openai/local", replies=MESSAGES),
        Wire(
            name="relay",
            settings={"PREFERRED_PROVIDER": "anthropic", "ANTHROPIC_API_KEY": "sk-ant-growth-0000"},
            model="claude-sonnet-4-5",
            replies=MESSAGES,
        ),
        Wire(
            name="groq",
            settings={"PREFERRED_PROVIDER": "groq", "GROQ_API_KEY": "gsk_growth0000"},
            model="groq/llama-3.3-70b-versatile",
            replies=CHAT,
        ),
        Wire(name="demo", settings={"PREFERRED_PROVIDER": "demo"}, model="demo/demo", replies=CHAT),
    )
}
"""All wires by name. `server` is a local server of Chat Completions; its replies are searched for calls in text."""
