"""The Messages API: paths, replies and events. The shapes are those of Anthropic's own server (2025 and 2026)."""

from collections.abc import Iterator
from dataclasses import replace

from messages_conformance.backends.messages.editing import edit_context
from messages_conformance.backends.messages.rules import check_body
from messages_conformance.backends.reply import (
    SIGNATURE,
    STATUSES,
    Call,
    Failure,
    Incident,
    Reply,
    Text,
    Thinking,
    Usage,
)
from messages_conformance.backends.wire import (
    Answer,
    ContractViolation,
    Frame,
    Json,
    Request,
    answer_gateway,
    answer_json,
    as_list,
    count_tokens,
    named_event,
    render,
    retry_header,
)

PATH = "/v1/messages"
ERRORS = {
    "invalid_request": ("invalid_request_error", "messages: Invalid value"),
    "context_window": ("invalid_request_error", "prompt is too long: 204321 tokens > 200000 maximum"),
    "authentication": ("authentication_error", "invalid x-api-key"),
    "permission": ("permission_error", "Your API key does not have permission to use this resource."),
    "not_found": ("not_found_error", "model: scripted"),
    "too_large": ("request_too_large", "Request exceeds the maximum size"),
    "rate_limit": ("rate_limit_error", "This request would exceed your rate limit."),
    "quota": ("billing_error", "Your credit balance is too low to access the Anthropic API."),
    "server": ("api_error", "Internal server error"),
    "overloaded": ("overloaded_error", "Overloaded"),
}
"""Kind → type and usual text."""
_STATUSES = {"overloaded": 529, "quota": 402}
"""Kinds with another status than elsewhere."""
_STOPS = {"context_window": "model_context_window_exceeded"}
_DELTAS = {"text": "text_delta", "thinking": "thinking_delta", "partial_json": "input_json_delta"}


class Messages:
    """The Messages API."""

    stream_type = "text/event-stream; charset=utf-8"
    alive = b'event: ping\ndata: {"type": "ping"}\n\n'

    def answer(self, request: Request) -> Answer | None:
        if not (request.headers.get("x-api-key") or request.headers.get("authorization")):
            return _refuse(401, "authentication_error", "x-api-key header is required")
        if "anthropic-version" not in request.headers:
            return _refuse(400, "invalid_request_error", "anthropic-version: header is required")
        if request.method == "GET" and request.path.startswith("/v1/models"):
            return _answer_models(request.path.removeprefix("/v1/models").strip("/"))
        if (request.method, request.path) == ("POST", f"{PATH}/count_tokens"):
            violation = next(
                check_body(request.body, counting=True, version=request.headers["anthropic-version"]), None
            )
            return self.refuse(violation) if violation else answer_json(_count(request.body))
        if (request.method, request.path) == ("POST", PATH):
            return None
        return _refuse(404, "not_found_error", "Not Found")

    def check(self, request: Request) -> Iterator[ContractViolation]:
        return check_body(request.body, version=request.headers["anthropic-version"])

    def refuse(self, violation: ContractViolation) -> Answer:
        return _refuse(400, "invalid_request_error", violation.message)

    def fail(self, failure: Failure) -> Answer:
        if failure.kind == "gateway":
            return answer_gateway(failure.status or 502)
        status = failure.status or _STATUSES.get(failure.kind) or STATUSES[failure.kind]
        return answer_json(_failure_of(failure), status, retry_header(failure))

    def stop_sequences(self, request: Request) -> list[str]:
        return as_list(request.body.get("stop_sequences"))

    def takes_one_call(self, request: Request) -> bool:
        return bool((request.body.get("tool_choice") or {}).get("disable_parallel_tool_use"))

    def is_stream(self, request: Request) -> bool:
        return bool(request.body.get("stream"))

    def stream(self, reply: Reply, request: Request, tag: str) -> Iterator[Frame]:
        events: Iterator[Json | Incident]
        if "compaction" in request.body:
            events = _stream_compaction(_compact(reply, request, tag))
        else:
            events = stream_events(_shorten(reply, request), request.body["model"], tag, _management_of(request))
        return render(events, named_event, lambda failure: named_event(_failure_of(failure)))

    def whole(self, reply: Reply, request: Request, tag: str) -> Json:
        if "compaction" in request.body:
            return _compact(reply, request, tag)
        reply = _shorten(reply, request)
        return {**whole_reply(reply, request.body["model"], tag), **_management_of(request)}


def _shorten(reply: Reply, request: Request) -> Reply:
    """Return the reply; with `max_tokens` 0 only the prompt is read."""
    if request.body.get("max_tokens") == 0:
        return replace(reply, parts=(), stop="max_tokens")
    return reply


def _compact(reply: Reply, request: Request, tag: str) -> Json:
    """Return the reply to a request for a compaction: the text of the model as a summary, and nothing else."""
    text = "".join(part.whole for part in reply.parts if isinstance(part, Text))
    block = {"type": "compaction", "content": text, "encrypted_content": None, "signature": SIGNATURE}
    usage = usage_of(reply.usage or Usage(0, 0))
    used = {**dict.fromkeys(usage, 0), "cache_creation": None, "iterations": [{"type": "compaction", **usage}]}
    head = _message(request.body["model"], tag)
    return {**head, "content": [block], "stop_reason": "compaction", "usage": used}


def _stream_compaction(message: Json) -> Iterator[Json]:
    """Yield the events: the block comes whole (platform.claude.com, "Compaction on demand", read 2026-11)."""
    (block,) = message["content"]
    yield {"type": "message_start", "message": {**message, "content": [], "stop_reason": None}}
    yield {"type": "content_block_start", "index": 0, "content_block": block}
    yield {"type": "content_block_stop", "index": 0}
    ending = {"stop_reason": "compaction", "stop_sequence": None}
    yield {"type": "message_delta", "delta": ending, "usage": message["usage"]}
    yield {"type": "message_stop"}


def _management_of(request: Request) -> Json:
    """Return the field about the edits of a request. {}: it asks for none."""
    if "context_management" not in request.body:
        return {}
    return {"context_management": {"applied_edits": edit_context(request.body)[1]}}


def _count(body: Json) -> Json:
    tokens = count_tokens(body["messages"])
    rest = count_tokens({name: value for name, value in body.items() if name not in ("messages", "compaction")})
    if "context_management" not in body:
        return {"input_tokens": tokens + rest}
    edited = count_tokens(edit_context(body)[0]["messages"])
    return {"input_tokens": edited + rest, "context_management": {"original_input_tokens": tokens + rest}}


def _answer_models(name: str) -> Answer:
    known = {"type": "model", "display_name": name or "Scripted", "created_at": "2026-05-14T00:00:00Z"}
    model = {"id": name or "scripted", **known}
    return answer_json(
        model if name else {"data": [model], "has_more": False, "first_id": "scripted", "last_id": "scripted"}
    )


def _error(kind: str, message: str) -> Json:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_scripted"}


def _refuse(status: int, kind: str, message: str) -> Answer:
    return answer_json(_error(kind, message), status)


def _failure_of(failure: Failure) -> Json:
    kind, text = ERRORS.get(failure.kind, ERRORS["server"])
    return _error(kind, failure.message or text)


def usage_of(usage: Usage) -> Json:
    return {
        "input_tokens": usage.input - usage.cached - usage.written,
        "cache_creation_input_tokens": usage.written,
        "cache_read_input_tokens": usage.cached,
        "cache_creation": {"ephemeral_5m_input_tokens": usage.written, "ephemeral_1h_input_tokens": 0},
        "output_tokens": usage.output,
    }


def _message(model: str, tag: str) -> Json:
    head = {"id": f"msg_{tag}", "type": "message", "role": "assistant", "model": model, "content": []}
    return {**head, "stop_reason": None, "stop_sequence": None}


def _begin(part: Text | Thinking | Call) -> Json:
    if isinstance(part, Text):
        return {"type": "text", "text": "", **({"citations": []} if part.citations else {})}
    if isinstance(part, Thinking):
        return {"type": "thinking", "thinking": "", "signature": ""}
    return {"type": "tool_use", "id": part.id, "name": part.name, "input": {}}


def _ending(reply: Reply) -> Json:
    return {"stop_reason": _STOPS.get(reply.reason, reply.reason), "stop_sequence": reply.stop_sequence or None}


def stream_events(reply: Reply, model: str, tag: str, management: Json | None = None) -> Iterator[Json | Incident]:
    """Yield the events of a stream, with incidents between them. `management`: what the last one says about edits."""
    usage = {} if reply.usage is None else {"usage": usage_of(reply.usage)}
    tier = {"service_tier": "standard"} if reply.names_tier else {}
    begun = {**usage_of(reply.usage or Usage(0, 0)), "output_tokens": 1, **tier}
    yield {"type": "message_start", "message": {**_message(model, tag), "usage": begun}}
    index = 0
    for part in reply.parts:
        if not isinstance(part, Text | Thinking | Call):
            yield part
            continue
        yield {"type": "content_block_start", "index": index, "content_block": _begin(part)}
        if index == 0:
            yield {"type": "ping"}
        yield from _block_events(part, index)
        yield {"type": "content_block_stop", "index": index}
        index += 1
    yield {"type": "message_delta", "delta": _ending(reply), **usage, **(management or {})}
    yield {"type": "message_stop"}


def _block_events(part: Text | Thinking | Call, index: int) -> Iterator[Json | Incident]:
    name = {Text: "text", Thinking: "thinking", Call: "partial_json"}[type(part)]
    for piece in part.pieces:
        if isinstance(piece, str):
            delta = {"type": _DELTAS[name], name: piece}
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        else:
            yield piece
    if isinstance(part, Text):
        for citation in part.citations:
            cited = {"type": "citations_delta", "citation": citation}
            yield {"type": "content_block_delta", "index": index, "delta": cited}
    if isinstance(part, Thinking) and part.signature:
        signature = {"type": "signature_delta", "signature": part.signature}
        yield {"type": "content_block_delta", "index": index, "delta": signature}


def whole_reply(reply: Reply, model: str, tag: str) -> Json:
    """Return the reply that is not streamed."""
    content = []
    for part in reply.parts:
        if isinstance(part, Call):
            content.append({**_begin(part), "input": part.arguments})
        elif isinstance(part, Thinking):
            content.append({**_begin(part), "thinking": part.whole, "signature": part.signature})
        elif isinstance(part, Text):
            citations = {"citations": list(part.citations)} if part.citations else {}
            content.append({**_begin(part), "text": part.whole, **citations})
    tier = {"service_tier": "standard"} if reply.names_tier else {}
    usage = {} if reply.usage is None else {"usage": {**usage_of(reply.usage), **tier}}
    return {**_message(model, tag), "content": content, **_ending(reply), **usage}
