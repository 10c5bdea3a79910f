"""The wires of providers: the path for a client of each, and the answer of the upstream of the bench."""

import json
from collections.abc import Callable, Mapping
from functools import partial

from msgspec import Struct

from bench.replies import WHOLE, Kind, Wanted, argument_pieces, piece

Frame = dict[str, object]


class Wire(Struct, frozen=True, kw_only=True, eq=False):
    """One language."""

    name: str
    settings: Mapping[str, str]
    """Which send the proxy there; `{origin}` stands for the address of the upstream."""
    model: str
    """Name of a model in requests to the proxy; `{}` is the place of the wanted upstream reply."""
    path: str
    """Path to which a client of that language posts; `{model}` and `{verb}` where they stand in the path."""
    whole: Callable[[], Frame]
    """The body of an answer that is not streamed."""
    frames: Callable[[Wanted], list[Frame]]
    """Frames of a stream."""
    write_frame: Callable[[Frame], bytes]
    end: bytes = b""
    """Bytes behind the last frame."""
    begins: str
    """Beginning of the paths by which the upstream knows the language."""
    kinds: tuple[Kind, ...] = ("whole", "text", "args")
    """Kinds of reply that this language can stream in pieces."""

    def path_of(self, model: str, wanted: Wanted) -> str:
        """Return where a request for this reply is posted."""
        verb = "streamGenerateContent?alt=sse" if wanted.pieces else "generateContent"
        return self.path.format(model=model, verb=verb)

    def parts(self, wanted: Wanted) -> list[bytes]:
        """Return the body of a stream, as it is sent piece by piece."""
        parts = [self.write_frame(frame) for frame in self.frames(wanted)]
        return [*parts, self.end] if self.end else parts

    def body(self, wanted: Wanted) -> bytes:
        """Return the whole body of an answer."""
        return b"".join(self.parts(wanted)) if wanted.pieces else encode(self.whole())


def encode(value: object) -> bytes:
    """Return a value as compact JSON."""
    return json.dumps(value, separators=(",", ":")).encode()


def _data(frame: Frame) -> bytes:
    return b"data: %b\n\n" % encode(frame)


def _event(frame: Frame) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (str(frame["type"]).encode(), encode(frame))


def _line(frame: Frame) -> bytes:
    return encode(frame) + b"\n"


def _texts(wanted: Wanted) -> list[str]:
    if wanted.kind == "args":
        return argument_pieces(wanted.pieces)
    return [piece(number) for number in range(wanted.pieces)]


def _chat(choices: list[Frame], usage: Frame | None = None) -> Frame:
    head: Frame = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1700000000, "model": "bench"}
    return {**head, "choices": choices, "usage": usage}


_CHAT_USAGE: Frame = {"prompt_tokens": 30000, "completion_tokens": 100, "total_tokens": 30100}


def _chat_choice(delta: Frame, finish_reason: str | None = None) -> Frame:
    return _chat([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}])


def _chat_whole() -> Frame:
    message = {"role": "assistant", "content": WHOLE, "refusal": None}
    choice: Frame = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return {**_chat([choice], _CHAT_USAGE), "object": "chat.completion"}


def _chat_frames(wanted: Wanted) -> list[Frame]:
    first: Frame = {"role": "assistant", "content": "", "refusal": None}
    finish, texts = "stop", _texts(wanted)
    deltas: list[Frame] = [{"content": text} for text in texts]
    if wanted.kind == "think":
        deltas = [*({"reasoning_content": text} for text in texts), {"content": WHOLE}]
    elif wanted.kind == "args":
        deltas = [{"tool_calls": [{"index": 0, "function": {"arguments": text}}]} for text in texts]
        function = {"name": "Tool0", "arguments": ""}
        call = {"index": 0, "id": "call_bench", "type": "function", "function": function}
        first |= {"content": None, "tool_calls": [call]}
        finish = "tool_calls"
    return [*map(_chat_choice, [first, *deltas]), _chat_choice({}, finish), _chat([], _CHAT_USAGE)]


def _gemini(text: str, *, last: bool) -> Frame:
    candidate: Frame = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    usage = {"promptTokenCount": 30000, "candidatesTokenCount": 100, "totalTokenCount": 30100}
    if last:
        candidate["finishReason"] = "STOP"
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "bench", "responseId": "bench"}


def _gemini_frames(wanted: Wanted) -> list[Frame]:
    return [*(_gemini(text, last=False) for text in _texts(wanted)), _gemini("", last=True)]


def _ollama(text: str, *, last: bool) -> Frame:
    frame: Frame = {"model": "bench", "created_at": "2026-09-01T01:45:58.628297108Z"}
    frame["message"] = {"role": "assistant", "content": text}
    frame["done"] = last
    if last:
        frame |= {"done_reason": "stop", "prompt_eval_count": 30000, "eval_count": 100}
    return frame


def _ollama_frames(wanted: Wanted) -> list[Frame]:
    return [*(_ollama(text, last=False) for text in _texts(wanted)), _ollama("", last=True)]


def _part(text: str) -> Frame:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _item(text: str, status: str) -> Frame:
    content = [_part(text)] if text else []
    return {"id": "msg_bench", "type": "message", "role": "assistant", "status": status, "content": content}


def _call(arguments: str, status: str) -> Frame:
    names = {"id": "fc_bench", "type": "function_call", "call_id": "call_bench", "name": "Tool0"}
    return {**names, "arguments": arguments, "status": status}


def _response(status: str, output: list[Frame]) -> Frame:
    usage = {"input_tokens": 30000, "output_tokens": 100, "total_tokens": 30100} if status == "completed" else None
    return {
        "id": "resp_bench",
        "object": "response",
        "status": status,
        "model": "bench",
        "output": output,
        "error": None,
        "incomplete_details": None,
        "usage": usage,
    }


def _responses_text(texts: list[str]) -> list[Frame]:
    whole, place = "".join(texts), {"item_id": "msg_bench", "output_index": 0, "content_index": 0}
    return [
        {"type": "response.output_item.added", "output_index": 0, "item": _item("", "in_progress")},
        {"type": "response.content_part.added", **place, "part": _part("")},
        *({"type": "response.output_text.delta", **place, "delta": text} for text in texts),
        {"type": "response.output_text.done", **place, "text": whole},
        {"type": "response.content_part.done", **place, "part": _part(whole)},
        {"type": "response.output_item.done", "output_index": 0, "item": _item(whole, "completed")},
    ]


def _responses_call(texts: list[str]) -> list[Frame]:
    whole, place = "".join(texts), {"item_id": "fc_bench", "output_index": 0}
    return [
        {"type": "response.output_item.added", "output_index": 0, "item": _call("", "in_progress")},
        *({"type": "response.function_call_arguments.delta", **place, "delta": text} for text in texts),
        {"type": "response.function_call_arguments.done", **place, "arguments": whole},
        {"type": "response.output_item.done", "output_index": 0, "item": _call(whole, "completed")},
    ]


def _responses_frames(wanted: Wanted) -> list[Frame]:
    output = (_responses_call if wanted.kind == "args" else _responses_text)(_texts(wanted))
    frames: list[Frame] = [
        {"type": "response.created", "response": _response("in_progress", [])},
        *output,
        {"type": "response.completed", "response": _response("completed", [])},
    ]
    return [{**frame, "sequence_number": number} for number, frame in enumerate(frames)]


def _message(text: str, stop_reason: str | None) -> Frame:
    return {
        "id": "msg_bench",
        "type": "message",
        "role": "assistant",
        "model": "bench",
        "content": [{"type": "text", "text": text}] if text else [],
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": 30000, "output_tokens": 100},
    }


def _messages_frames(wanted: Wanted) -> list[Frame]:
    calls = wanted.kind == "args"
    block: Frame = {"type": "text", "text": ""}
    deltas: list[Frame] = [{"type": "text_delta", "text": text} for text in _texts(wanted)]
    if calls:
        block = {"type": "tool_use", "id": "toolu_bench", "name": "Tool0", "input": {}}
        deltas = [{"type": "input_json_delta", "partial_json": text} for text in _texts(wanted)]
    ending = {"stop_reason": "tool_use" if calls else "end_turn", "stop_sequence": None}
    return [
        {"type": "message_start", "message": _message("", None)},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": ending, "usage": {"output_tokens": 100}},
        {"type": "message_stop"},
    ]


CHAT = Wire(
    name="Chat Completions",
    settings={
        "PREFERRED_PROVIDER": "openai",
        "OPENAI_API_KEY": "sk-bench-0000",
        "OPENAI_BASE_URL": "{origin}/v1",
        "OPENAI_WIRE": "chat",
    },
    model="openai/gpt-4.1-{}",  # a model of OpenAI's own, so that no quirk of other servers is looked for
    path="/v1/chat/completions",
    whole=_chat_whole,
    frames=_chat_frames,
    write_frame=_data,
    end=b"data: [DONE]\n\n",
    begins="/v1/chat/completions",
    kinds=("whole", "text", "args", "think"),
)
OTHERS = (
    Wire(
        name="Gemini",
        settings={
            "PREFERRED_PROVIDER": "google",
            "GEMINI_API_KEY": "bench-0000",
            "GEMINI_BASE_URL": "{origin}/v1beta",
        },
        model="gemini/gemini-2.5-flash-{}",
        path="/v1beta/models/{model}:{verb}",
        whole=partial(_gemini, WHOLE, last=True),
        frames=_gemini_frames,
        write_frame=_data,
        begins="/v1beta/",
        kinds=("whole", "text"),
    ),
    Wire(
        name="Ollama",
        settings={"PREFERRED_PROVIDER": "ollama", "OLLAMA_API_BASE": "{origin}"},
        model="ollama/{}",
        path="/api/chat",
        whole=partial(_ollama, WHOLE, last=True),
        frames=_ollama_frames,
        write_frame=_line,
        begins="/api/chat",
        kinds=("whole", "text"),
    ),
    Wire(
        name="Responses",
        settings={**CHAT.settings, "OPENAI_WIRE": "responses"},
        model=CHAT.model,
        path="/v1/responses",
        whole=partial(_response, "completed", [_item(WHOLE, "completed")]),
        frames=_responses_frames,
        write_frame=_event,
        begins="/v1/responses",
    ),
    Wire(
        name="Messages (relay)",
        settings={
            "PREFERRED_PROVIDER": "anthropic",
            "ANTHROPIC_API_KEY": "sk-ant-bench-0000",
            "ANTHROPIC_UPSTREAM_URL": "{origin}",
        },
        model="claude-sonnet-4-5-{}",
        path="/v1/messages",
        whole=partial(_message, WHOLE, "end_turn"),
        frames=_messages_frames,
        write_frame=_event,
        begins="/v1/messages",
    ),
)
RELAY = OTHERS[-1]
"""The one that passes the bytes unchanged."""
ALL = (CHAT, *OTHERS)
