"""Chat Completions: paths, replies and streams. The shapes are those of OpenAI's own server (2025 and 2026)."""

from collections.abc import Iterator
from typing import Any

from messages_conformance.backends.openai import errors
from messages_conformance.backends.openai.rules import check_body
from messages_conformance.backends.reply import Call, Failure, Incident, Reply, Text, Thinking, Usage
from messages_conformance.backends.wire import (
    Answer,
    ContractViolation,
    Frame,
    Json,
    Request,
    answer_json,
    as_list,
    interleave,
    render,
    sse,
)

PATH = "/v1/chat/completions"
CREATED = 1_795_000_000
"""Time of every reply, so that two runs give the same bytes."""
FINISHES = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "context_window": "length",
    "refusal": "content_filter",
    "pause_turn": "stop",
}


class OpenAIServer:
    """What both APIs for calls of a model have in common at OpenAI's server."""

    path: str
    """That of the calls of a model."""
    stream_type = "text/event-stream; charset=utf-8"
    alive = b": keep-alive\n\n"

    def answer(self, request: Request) -> Answer | None:
        if refusal := errors.refuse_key(request.headers.get("authorization", "")):
            return refusal
        if (request.method, request.path) == ("POST", self.path):
            return None
        return answer_models(request) or self.count(request) or errors.refuse_path(request.method, request.path)

    def count(self, _request: Request) -> Answer | None:
        """Return a count of tokens. None: the API has none, or something else is asked for."""
        return None

    def refuse(self, violation: ContractViolation) -> Answer:
        return errors.refuse(violation)

    def fail(self, failure: Failure) -> Answer:
        return errors.fail(failure)

    def takes_one_call(self, request: Request) -> bool:
        return request.body.get("parallel_tool_calls") is False

    def is_stream(self, request: Request) -> bool:
        return bool(request.body.get("stream"))


class OpenAI(OpenAIServer):
    """Chat Completions, as OpenAI and most local servers speak it."""

    path = PATH

    def check(self, request: Request) -> Iterator[ContractViolation]:
        return check_body(request.body)

    def stop_sequences(self, request: Request) -> list[str]:
        return as_list(request.body.get("stop"))

    def stream(self, reply: Reply, request: Request, tag: str) -> Iterator[Frame]:
        includes_usage = bool((request.body.get("stream_options") or {}).get("include_usage"))
        events = stream_chunks(reply, _head_of(reply, request, tag), includes_usage=includes_usage)
        yield from render(events, sse, lambda failure: sse({"error": _failure_of(failure)}))
        if not reply.has_failure():
            yield b"data: [DONE]\n\n"

    def whole(self, reply: Reply, request: Request, tag: str) -> Json:
        return whole_reply(reply, _head_of(reply, request, tag))


def _failure_of(failure: Failure) -> Any:
    known = errors.failure_of(failure)
    return known["message"] if failure.is_bare else known


def _head_of(reply: Reply, request: Request, tag: str) -> Json:
    return head_of(request.body["model"], tag) | ({"service_tier": "default"} if reply.names_tier else {})


def answer_models(request: Request) -> Answer | None:
    """Return the list of models, or any model that is asked for by its name. None: something else is asked for."""
    if request.method != "GET" or not request.path.startswith("/v1/models"):
        return None
    name = request.path.removeprefix("/v1/models").strip("/")
    model = {"id": name or "scripted", "object": "model", "created": CREATED, "owned_by": "system"}
    return answer_json(model if name else {"object": "list", "data": [model]})


def head_of(model: str, tag: str) -> Json:
    """Return the fields that each chunk and each reply repeats."""
    head = {"id": f"chatcmpl-{tag}", "object": "", "created": CREATED, "model": model}
    return {**head, "system_fingerprint": None}


def usage_of(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.thinking,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def stream_chunks(reply: Reply, head: Json, *, includes_usage: bool) -> Iterator[Json | Incident]:
    """Yield the chunks of a stream, with incidents between them."""
    head = {**head, "object": "chat.completion.chunk"}
    unsaid = {"usage": None} if includes_usage else {}

    def chunk(delta: Json, finish: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**head, "choices": [choice], **unsaid}

    yield chunk({"role": "assistant", "content": "" if _begins_with_text(reply) else None, "refusal": None})
    for event in _deltas(reply):
        yield chunk(event) if isinstance(event, dict) else event
    yield chunk({}, FINISHES[reply.reason])
    if includes_usage and reply.usage is not None:
        yield {**head, "choices": [], "usage": usage_of(reply.usage)}


def _begins_with_text(reply: Reply) -> bool:
    return any(isinstance(part, Text) for part in reply.parts) or not reply.calls


def _deltas(reply: Reply) -> Iterator[Json | Incident]:
    calls = reply.calls
    for part in reply.parts:
        if isinstance(part, Call):
            if not reply.mixes_calls:
                yield from _call_deltas(calls.index(part), part)
            elif part is calls[-1]:
                yield from interleave(_call_deltas(index, call) for index, call in enumerate(calls))
        elif isinstance(part, Text | Thinking):
            name = "content" if isinstance(part, Text) else "reasoning_content"
            yield from ({name: piece} if isinstance(piece, str) else piece for piece in part.pieces)
        else:
            yield part


def _call_deltas(index: int, call: Call) -> Iterator[Json | Incident]:
    function = {"name": call.name, "arguments": ""}
    yield {"tool_calls": [{"index": index, "id": call.id, "type": "function", "function": function}]}
    for piece in call.pieces:
        if isinstance(piece, str):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
        else:
            yield piece


def whole_reply(reply: Reply, head: Json) -> Json:
    """Return the reply that is not streamed."""
    text = join(reply, Text)
    message: Json = {"role": "assistant", "content": text if _begins_with_text(reply) else None, "refusal": None}
    if thoughts := join(reply, Thinking):
        message["reasoning_content"] = thoughts
    if reply.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.whole}}
            for call in reply.calls
        ]
    message["annotations"] = []
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": FINISHES[reply.reason]}
    usage = {} if reply.usage is None else {"usage": usage_of(reply.usage)}
    return {**head, "object": "chat.completion", "choices": [choice], **usage}


def join(reply: Reply, kind: type[Text] | type[Thinking]) -> str:
    """Return all texts of a reply, or all its thinking."""
    return "".join(part.whole for part in reply.parts if isinstance(part, kind))
