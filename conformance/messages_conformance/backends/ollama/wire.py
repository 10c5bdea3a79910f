"""Ollama: paths, replies and lines. The shapes are those of Ollama 0.32 (2026)."""

from collections.abc import Iterator, Mapping

from messages_conformance.backends.ollama.rules import check_body
from messages_conformance.backends.reply import STATUSES, Call, Failure, Incident, Reply, Text, Thinking, Usage
from messages_conformance.backends.wire import (
    Answer,
    ContractViolation,
    Frame,
    Json,
    Request,
    answer_gateway,
    answer_json,
    as_list,
    encode,
    render,
    retry_header,
)

CREATED = "2026-09-01T01:45:58.628297108Z"
_FULL = (
    '{"error":{"code":400,"message":"request (12321 tokens) exceeds the available context size (8192 tokens), try '
    'increasing it","type":"exceed_context_size_error","n_prompt_tokens":12321,"n_ctx":8192}}'
)
TEXTS = {
    "invalid_request": "invalid request",
    "context_window": _FULL,
    "authentication": "unauthorized",
    "permission": "ollama cloud is disabled: remote inference is unavailable",
    "not_found": "model 'scripted' not found",
    "too_large": "request body too large",
    "rate_limit": "you've reached your hourly usage limit",
    "quota": "you've reached your weekly usage limit",
    "server": "llama runner process has terminated: exit status 2",
    "overloaded": "server busy, please try again.  maximum pending requests exceeded",
}
"""Kind → usual text."""


class Ollama:
    """Ollama's own API."""

    stream_type = "application/x-ndjson"
    alive = b""

    def answer(self, request: Request) -> Answer | None:
        match request.method, request.path:
            case "POST", "/api/chat":
                return None
            case "GET" | "HEAD", "/":
                return Answer(200, b"Ollama is running", {"content-type": "text/plain; charset=utf-8"})
            case "GET", "/api/version":
                return answer_json({"version": "0.32.9"})
            case "GET", "/api/tags":
                return answer_json({"models": [_listed("scripted:latest")]})
            case "POST", "/api/show":
                return answer_json(_SHOWN)
            case _:
                return Answer(404, b"404 page not found", {"content-type": "text/plain"})

    def check(self, request: Request) -> Iterator[ContractViolation]:
        return check_body(request.body)

    def refuse(self, violation: ContractViolation) -> Answer:
        return answer_json({"error": violation.message}, 400)

    def fail(self, failure: Failure) -> Answer:
        if failure.kind == "gateway":
            return answer_gateway(failure.status or 502)
        status = failure.status or STATUSES[failure.kind]
        return answer_json({"error": _text_of(failure)}, status, retry_header(failure))

    def stop_sequences(self, request: Request) -> list[str]:
        return as_list((request.body.get("options") or {}).get("stop"))

    def takes_one_call(self, _request: Request) -> bool:
        return False

    def is_stream(self, request: Request) -> bool:
        return request.body.get("stream") is not False

    def stream(self, reply: Reply, request: Request, tag: str) -> Iterator[Frame]:
        lines = stream_lines(reply, request.body["model"])
        return render(lines, write_line, lambda failure: write_line({"error": _text_of(failure)}))

    def whole(self, reply: Reply, request: Request, tag: str) -> Json:
        return whole_reply(reply, request.body["model"])


def _text_of(failure: Failure) -> str:
    return failure.message or TEXTS.get(failure.kind, TEXTS["server"])


def write_line(value: Mapping[str, object]) -> bytes:
    return encode(value) + b"\n"


_DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "qwen3",
    "families": ["qwen3"],
    "parameter_size": "8.2B",
    "quantization_level": "Q4_K_M",
}
_SHOWN = {
    "modified_at": CREATED,
    "details": _DETAILS,
    "model_info": {"general.architecture": "qwen3", "qwen3.context_length": 40_960},
    "capabilities": ["completion", "tools", "thinking", "vision"],
}


def _listed(name: str) -> Json:
    known = {"name": name, "model": name, "modified_at": CREATED, "size": 5_225_388_164, "digest": "5" * 64}
    return {**known, "details": _DETAILS}


def _frame(model: str, message: Json, *, done: bool = False) -> Json:
    content = {"role": "assistant", "content": "", **message}
    return {"model": model, "created_at": CREATED, "message": content, "done": done}


def _ending(reply: Reply) -> Json:
    reason = "length" if reply.reason in ("max_tokens", "context_window") else "stop"
    times = {"total_duration": 4_883_583_458, "load_duration": 1_334_875}
    return {"done_reason": reason, **times, **({} if reply.usage is None else usage_of(reply.usage))}


def usage_of(usage: Usage) -> Json:
    return {
        "prompt_eval_count": usage.input,
        "prompt_eval_duration": 342_546_000,
        "eval_count": usage.output,
        "eval_duration": 4_535_599_000,
    }


def _call(index: int, call: Call) -> Json:
    return {"id": call.id, "function": {"index": index, "name": call.name, "arguments": call.arguments}}


def stream_lines(reply: Reply, model: str) -> Iterator[Json | Incident]:
    """Yield the lines of a stream; calls come whole."""
    for part in reply.parts:
        if isinstance(part, Call):
            yield from (piece for piece in part.pieces if not isinstance(piece, str))
            yield _frame(model, {"tool_calls": [_call(reply.calls.index(part), part)]})
        elif isinstance(part, Text | Thinking):
            name = "content" if isinstance(part, Text) else "thinking"
            for piece in part.pieces:
                yield _frame(model, {name: piece}) if isinstance(piece, str) else piece
        else:
            yield part
    yield {**_frame(model, {}, done=True), **_ending(reply)}


def whole_reply(reply: Reply, model: str) -> Json:
    """Return the reply that is not streamed."""
    message: Json = {"content": "".join(part.whole for part in reply.parts if isinstance(part, Text))}
    if thinking := "".join(part.whole for part in reply.parts if isinstance(part, Thinking)):
        message["thinking"] = thinking
    if reply.calls:
        message["tool_calls"] = [_call(index, call) for index, call in enumerate(reply.calls)]
    return {**_frame(model, message, done=True), **_ending(reply)}
