"""Small replies of providers on every wire, built from the same parts. The fakes have complete ones."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from msgspec import Struct

Frame = dict[str, Any]
ABSENT = object()
"""Count of a reply without usage."""


class Reply(Struct, frozen=True, kw_only=True):
    """The content of one reply: thinking, then text, then tool calls, each in pieces."""

    thoughts: Sequence[str] = ()
    texts: Sequence[str] = ()
    calls: Sequence[tuple[str, str, Sequence[str]]] = ()
    """Id, tool name and pieces of the arguments."""
    count: Any = 7
    """Every number of tokens."""

    def usage(self, *names: str) -> Frame | None:
        return None if self.count is ABSENT else dict.fromkeys(names, self.count)


class ReplyForm(Struct, frozen=True):
    """The form of a reply on one wire: the records of a stream, and a whole body."""

    stream: Callable[[Reply], list[bytes]]
    whole: Callable[[Reply], bytes]


def encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def sse(frame: Frame) -> bytes:
    return b"data: %b\n\n" % encode(frame)


def event(frame: Frame) -> bytes:
    return b"event: %b\n%b" % (frame["type"].encode(), sse(frame))


def _chat(choices: list[Frame], kind: str = "chat.completion.chunk", **fields: Any) -> Frame:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": "m", "choices": choices, **fields}


def _chat_choice(delta: Frame, finish: str | None = None, **fields: Any) -> Frame:
    return _chat([{"index": 0, "delta": delta, "finish_reason": finish}], **fields)


def _chat_usage(reply: Reply) -> Frame | None:
    return reply.usage("prompt_tokens", "completion_tokens", "total_tokens")


def _chat_calls(reply: Reply) -> list[tuple[Frame, Sequence[str]]]:
    return [
        ({"id": id_, "type": "function", "function": {"name": name, "arguments": ""}}, pieces)
        for id_, name, pieces in reply.calls
    ]


def _chat_stream(reply: Reply, *, is_groq: bool = False) -> list[bytes]:
    deltas: list[Frame] = [{"role": "assistant", "content": ""}]
    deltas += [{"reasoning_content": piece} for piece in reply.thoughts]
    deltas += [{"content": piece} for piece in reply.texts]
    for index, (call, pieces) in enumerate(_chat_calls(reply)):
        deltas.append({"tool_calls": [{"index": index, **call}]})
        deltas += [{"tool_calls": [{"index": index, "function": {"arguments": piece}}]} for piece in pieces]
    finish, usage = "tool_calls" if reply.calls else "stop", _chat_usage(reply)
    last = [_chat_choice({}, finish)] if usage is None else [_chat_choice({}, finish), _chat([], usage=usage)]
    if is_groq and usage is not None:
        last = [_chat_choice({}, finish, x_groq={"id": "req_1", "usage": usage})]
    return [*map(sse, [*map(_chat_choice, deltas), *last]), b"data: [DONE]\n\n"]


def _chat_whole(reply: Reply) -> bytes:
    message: Frame = {"role": "assistant", "content": "".join(reply.texts)}
    if reply.thoughts:
        message["reasoning_content"] = "".join(reply.thoughts)
    for call, pieces in _chat_calls(reply):
        call["function"]["arguments"] = "".join(pieces)
        message.setdefault("tool_calls", []).append(call)
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if reply.calls else "stop"}
    usage = _chat_usage(reply)
    return encode(_chat([choice], "chat.completion", **({} if usage is None else {"usage": usage})))


def _gemini(reply: Reply, parts: Sequence[Frame], *, is_last: bool = True) -> Frame:
    candidate: Frame = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
    if not is_last:
        return {"candidates": [candidate], "modelVersion": "m"}
    usage = reply.usage("promptTokenCount", "candidatesTokenCount")
    frame = {"candidates": [{**candidate, "finishReason": "STOP"}], "modelVersion": "m"}
    return frame if usage is None else {**frame, "usageMetadata": usage}


def _gemini_parts(reply: Reply) -> list[Frame]:
    calls = [{"id": id_, "name": name, "args": json.loads("".join(pieces))} for id_, name, pieces in reply.calls]
    return [
        *({"text": piece, "thought": True} for piece in reply.thoughts),
        *({"text": piece} for piece in reply.texts),
        *({"functionCall": call} for call in calls),
    ]


def _gemini_stream(reply: Reply) -> list[bytes]:
    frames = [_gemini(reply, [part], is_last=False) for part in _gemini_parts(reply)]
    return [*map(sse, frames), sse(_gemini(reply, [{"text": ""}]))]


def _ollama(reply: Reply, message: Frame, *, is_last: bool = True) -> bytes:
    frame: Frame = {"model": "m", "message": {"role": "assistant", "content": "", **message}, "done": is_last}
    usage = reply.usage("prompt_eval_count", "eval_count") or {}
    return encode(frame | {"done_reason": "stop", **usage} if is_last else frame)


def _ollama_calls(reply: Reply) -> list[Frame]:
    return [{"function": {"name": name, "arguments": json.loads("".join(p))}} for _, name, p in reply.calls]


def _ollama_stream(reply: Reply) -> list[bytes]:
    messages: list[Frame] = [{"thinking": piece} for piece in reply.thoughts]
    messages += [{"content": piece} for piece in reply.texts]
    messages += [{"tool_calls": [call]} for call in _ollama_calls(reply)]
    lines = [*(_ollama(reply, message, is_last=False) for message in messages), _ollama(reply, {})]
    return [line + b"\n" for line in lines]


def _ollama_whole(reply: Reply) -> bytes:
    message: Frame = {"content": "".join(reply.texts), "thinking": "".join(reply.thoughts)}
    return _ollama(reply, message | ({"tool_calls": _ollama_calls(reply)} if reply.calls else {}))


def _items(reply: Reply) -> list[tuple[Frame, str, str, Sequence[str]]]:
    """Return for each item of Responses its end, the field that is filled, the kind of its events and the pieces."""
    items: list[tuple[Frame, str, str, Sequence[str]]] = []
    if reply.thoughts:
        summary = [{"type": "summary_text", "text": "".join(reply.thoughts)}]
        item: Frame = {"type": "reasoning", "id": "rs_1", "summary": summary}
        items.append((item, "summary", "reasoning_summary_text", reply.thoughts))
    if reply.texts:
        part = {"type": "output_text", "text": "".join(reply.texts), "annotations": []}
        item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}
        items.append((item, "content", "output_text", reply.texts))
    for number, (id_, name, pieces) in enumerate(reply.calls):
        item = {"type": "function_call", "id": f"fc_{number}", "call_id": id_, "name": name, "status": "completed"}
        items.append(({**item, "arguments": "".join(pieces)}, "arguments", "function_call_arguments", pieces))
    return items


def _response(reply: Reply, status: str, items: list[Frame]) -> Frame:
    usage = reply.usage("input_tokens", "output_tokens") if status == "completed" else None
    return {"id": "resp_1", "object": "response", "status": status, "model": "m", "output": items, "usage": usage}


def _responses_stream(reply: Reply) -> list[bytes]:
    frames: list[Frame] = [{"type": "response.created", "response": _response(reply, "in_progress", [])}]
    for index, (item, field, events, pieces) in enumerate(_items(reply)):
        begun = {**item, field: type(item[field])()}
        frames.append({"type": "response.output_item.added", "output_index": index, "item": begun})
        place: Frame = {"item_id": item["id"], "output_index": index}
        if field != "arguments":
            place[f"{field}_index"] = 0
            part = {**item[field][0], "text": ""}
            name = "content_part" if field == "content" else "reasoning_summary_part"
            frames.append({"type": f"response.{name}.added", **place, "part": part})
        frames += [{"type": f"response.{events}.delta", **place, "delta": piece} for piece in pieces]
        frames.append({"type": "response.output_item.done", "output_index": index, "item": item})
    items = [item for item, *_ in _items(reply)]
    frames.append({"type": "response.completed", "response": _response(reply, "completed", items)})
    return [event({**frame, "sequence_number": number}) for number, frame in enumerate(frames)]


def _responses_whole(reply: Reply) -> bytes:
    return encode(_response(reply, "completed", [item for item, *_ in _items(reply)]))


def _blocks(reply: Reply) -> list[tuple[Frame, str, str, Sequence[str]]]:
    """Return for each block its begin, the type and the field of its deltas, and the pieces."""
    blocks: list[tuple[Frame, str, str, Sequence[str]]] = []
    if reply.thoughts:
        begin: Frame = {"type": "thinking", "thinking": "", "signature": ""}
        blocks.append((begin, "thinking_delta", "thinking", reply.thoughts))
    if reply.texts:
        blocks.append(({"type": "text", "text": ""}, "text_delta", "text", reply.texts))
    for id_, name, pieces in reply.calls:
        begin = {"type": "tool_use", "id": id_, "name": name, "input": {}}
        blocks.append((begin, "input_json_delta", "partial_json", pieces))
    return blocks


def _message(content: list[Frame], stop: str | None, usage: Frame | None) -> Frame:
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": content}
    message = {**head, "stop_reason": stop, "stop_sequence": None}
    return message if usage is None else {**message, "usage": usage}


def _messages_stream(reply: Reply) -> list[bytes]:
    frames: list[Frame] = [
        {"type": "message_start", "message": _message([], None, {"input_tokens": 7, "output_tokens": 1})}
    ]
    for index, (begin, kind, field, pieces) in enumerate(_blocks(reply)):
        frames.append({"type": "content_block_start", "index": index, "content_block": begin})
        deltas = [{"type": kind, field: piece} for piece in pieces]
        frames += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        frames.append({"type": "content_block_stop", "index": index})
    end: Frame = {"stop_reason": "tool_use" if reply.calls else "end_turn", "stop_sequence": None}
    usage = reply.usage("output_tokens")
    frames.append({"type": "message_delta", "delta": end} | ({} if usage is None else {"usage": usage}))
    return [event(frame) for frame in [*frames, {"type": "message_stop"}]]


def _messages_whole(reply: Reply) -> bytes:
    content = []
    for begin, _, field, pieces in _blocks(reply):
        whole = "".join(pieces)
        content.append({**begin, "input": json.loads(whole)} if "input" in begin else {**begin, field: whole})
    usage = reply.usage("input_tokens", "output_tokens")
    return encode(_message(content, "tool_use" if reply.calls else "end_turn", usage))


CHAT = ReplyForm(_chat_stream, _chat_whole)
GROQ = ReplyForm(partial(_chat_stream, is_groq=True), _chat_whole)
GEMINI = ReplyForm(_gemini_stream, lambda reply: encode(_gemini(reply, _gemini_parts(reply))))
OLLAMA = ReplyForm(_ollama_stream, _ollama_whole)
RESPONSES = ReplyForm(_responses_stream, _responses_whole)
MESSAGES = ReplyForm(_messages_stream, _messages_whole)
