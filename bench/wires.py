"""The further languages of providers: where the proxy is sent, and what the upstream of the bench answers there."""

import json
from collections.abc import Callable
from functools import cache, partial

from msgspec import Struct

from bench.replies import WHOLE, Wanted, piece


class Wire(Struct, frozen=True, kw_only=True):
    """One language."""

    name: str
    prefix: str
    """What stands before the name of a model that the proxy is asked for."""
    path: str
    """Where a client of that language posts; `{model}` and `{verb}` where they stand in the path."""
    whole: Callable[[], object]
    """The body of an answer that is not streamed."""
    frames: Callable[[Wanted], list[object]]
    """What a stream of text consists of."""
    write_frame: Callable[[object], bytes]
    begins: tuple[str, ...]
    """How the paths begin by which the upstream knows the language."""

    def path_of(self, model: str, wanted: Wanted) -> str:
        """Return where a request for this reply is posted."""
        verb = "streamGenerateContent?alt=sse" if wanted.pieces else "generateContent"
        return self.path.format(model=model, verb=verb)


def settings_of(upstream: int) -> dict[str, str]:
    """Return the proxy's settings for all of them at once."""
    origin = f"http://127.0.0.1:{upstream}"
    return {
        "PREFERRED_PROVIDER": "openai",
        "OPENAI_API_KEY": "sk-bench-0000",
        "OPENAI_BASE_URL": f"{origin}/v1",
        "OPENAI_WIRE": "responses",
        "GEMINI_API_KEY": "bench-0000",
        "GEMINI_BASE_URL": f"{origin}/v1beta",
        "OLLAMA_API_BASE": origin,
        "ANTHROPIC_API_KEY": "sk-ant-bench-0000",
        "ANTHROPIC_UPSTREAM_URL": origin,
    }


def answer_in(path: str, wanted: Wanted) -> bytes | None:
    """Return the HTTP response in the language of a path; None: it is none of these."""
    for wire in WIRES:
        if path.startswith(wire.begins):
            return _whole(wire) if not wanted.pieces else _stream(wire, wanted)
    return None


def answer_about_models(path: str) -> bytes | None:
    """Return what Ollama says of its models; None: something else was asked."""
    if path == "/api/tags":
        return _response({"models": []})
    if path == "/api/show":
        known = {"general.architecture": "bench", "bench.context_length": 131_072}
        return _response({"capabilities": ["completion", "tools"], "model_info": known})
    return None


@cache
def body_of(wire: Wire, wanted: Wanted) -> bytes:
    """Return the body of an answer, as a plain relay must pass it."""
    if not wanted.pieces:
        return _encode(wire.whole())
    return b"".join(wire.write_frame(frame) for frame in wire.frames(wanted))


@cache
def _whole(wire: Wire) -> bytes:
    return _response(wire.whole())


@cache
def _stream(wire: Wire, wanted: Wanted) -> bytes:
    kind = b"application/x-ndjson" if wire.write_frame is _line else b"text/event-stream"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % kind
    frames = [wire.write_frame(frame) for frame in wire.frames(wanted)]
    return head + b"".join(b"%x\r\n%b\r\n" % (len(frame), frame) for frame in frames) + b"0\r\n\r\n"


def _response(content: object) -> bytes:
    body = _encode(content)
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def _encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _data(frame: object) -> bytes:
    return b"data: %b\n\n" % _encode(frame)


def _event(frame: object) -> bytes:
    assert isinstance(frame, dict)
    return b"event: %b\ndata: %b\n\n" % (frame["type"].encode(), _encode(frame))


def _line(frame: object) -> bytes:
    return _encode(frame) + b"\n"


def _gemini(text: str, *, last: bool) -> dict[str, object]:
    candidate = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    usage = {"promptTokenCount": 30000, "candidatesTokenCount": 100, "totalTokenCount": 30100}
    if last:
        candidate["finishReason"] = "STOP"
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "bench", "responseId": "bench"}


def _gemini_frames(wanted: Wanted) -> list[object]:
    return [*(_gemini(piece(number), last=False) for number in range(wanted.pieces)), _gemini("", last=True)]


def _ollama(text: str, *, last: bool) -> dict[str, object]:
    frame: dict[str, object] = {"model": "bench", "created_at": "2026-09-01T01:45:58.628297108Z"}
    frame["message"] = {"role": "assistant", "content": text}
    frame["done"] = last
    if last:
        frame |= {"done_reason": "stop", "prompt_eval_count": 30000, "eval_count": 100}
    return frame


def _ollama_frames(wanted: Wanted) -> list[object]:
    return [*(_ollama(piece(number), last=False) for number in range(wanted.pieces)), _ollama("", last=True)]


def _part(text: str) -> dict[str, object]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _item(text: str, status: str) -> dict[str, object]:
    content = [_part(text)] if text else []
    return {"id": "msg_bench", "type": "message", "role": "assistant", "status": status, "content": content}


def _response_object(status: str, output: list[object]) -> dict[str, object]:
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


def _responses_frames(wanted: Wanted) -> list[object]:
    text = "".join(piece(number) for number in range(wanted.pieces))
    place = {"item_id": "msg_bench", "output_index": 0, "content_index": 0}
    frames: list[dict[str, object]] = [
        {"type": "response.created", "response": _response_object("in_progress", [])},
        {"type": "response.output_item.added", "output_index": 0, "item": _item("", "in_progress")},
        {"type": "response.content_part.added", **place, "part": _part("")},
        *({"type": "response.output_text.delta", **place, "delta": piece(n)} for n in range(wanted.pieces)),
        {"type": "response.output_text.done", **place, "text": text},
        {"type": "response.content_part.done", **place, "part": _part(text)},
        {"type": "response.output_item.done", "output_index": 0, "item": _item(text, "completed")},
        {"type": "response.completed", "response": _response_object("completed", [])},
    ]
    return [{**frame, "sequence_number": number} for number, frame in enumerate(frames)]


def _message(text: str, stop_reason: str | None) -> dict[str, object]:
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


def _messages_frames(wanted: Wanted) -> list[object]:
    deltas = ({"type": "text_delta", "text": piece(number)} for number in range(wanted.pieces))
    return [
        {"type": "message_start", "message": _message("", None)},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 100},
        },
        {"type": "message_stop"},
    ]


WIRES = (
    Wire(
        name="Gemini",
        prefix="gemini/",
        path="/v1beta/models/{model}:{verb}",
        whole=partial(_gemini, WHOLE, last=True),
        frames=_gemini_frames,
        write_frame=_data,
        begins=("/v1beta/",),
    ),
    Wire(
        name="Ollama",
        prefix="ollama/",
        path="/api/chat",
        whole=partial(_ollama, WHOLE, last=True),
        frames=_ollama_frames,
        write_frame=_line,
        begins=("/api/chat",),
    ),
    Wire(
        name="Responses",
        prefix="openai/",
        path="/v1/responses",
        whole=partial(_response_object, "completed", [_item(WHOLE, "completed")]),
        frames=_responses_frames,
        write_frame=_event,
        begins=("/v1/responses",),
    ),
    Wire(
        name="Messages (relay)",
        prefix="anthropic/",
        path="/v1/messages",
        whole=partial(_message, WHOLE, "end_turn"),
        frames=_messages_frames,
        write_frame=_event,
        begins=("/v1/messages",),
    ),
)
