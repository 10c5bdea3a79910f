"""Responses: paths, replies and events. The shapes are those of OpenAI's own server (2025 and 2026)."""

from collections.abc import Iterator

from messages_conformance.backends.openai import errors
from messages_conformance.backends.openai.wire import CREATED, OpenAIServer
from messages_conformance.backends.reply import Call, Failure, Incident, Piece, Reply, Text, Thinking, Usage
from messages_conformance.backends.responses.rules import check_body, check_count
from messages_conformance.backends.wire import (
    Answer,
    ContractViolation,
    Frame,
    Json,
    Request,
    answer_json,
    count_tokens,
    named_event,
    render,
)

PATH = "/v1/responses"
COUNT_PATH = f"{PATH}/input_tokens"
ENCRYPTED = "reasoning.encrypted_content"
REASONS = {"max_tokens": "max_output_tokens", "context_window": "max_output_tokens", "refusal": "content_filter"}
"""Stop → why a response is incomplete."""
Item = tuple[Json, tuple[Piece, ...]]
"""A complete item, and the pieces in which its text comes."""


class Responses(OpenAIServer):
    """Responses, as OpenAI speaks it."""

    path = PATH

    def count(self, request: Request) -> Answer | None:
        if (request.method, request.path) != ("POST", COUNT_PATH):
            return None
        if violation := next(check_count(request.body or {}), None):
            return self.refuse(violation)
        return answer_json({"object": "response.input_tokens", "input_tokens": count_tokens(request.body)})

    def check(self, request: Request) -> Iterator[ContractViolation]:
        return check_body(request.body)

    def stop_sequences(self, _request: Request) -> list[str]:
        return []  # the protocol has none

    def stream(self, reply: Reply, request: Request, tag: str) -> Iterator[Frame]:
        head, number = _head_of(reply, request, tag), 0

        def frame(event: Json) -> bytes:
            nonlocal number
            numbered = {"type": event["type"], "sequence_number": number, **event}
            number += 1
            return named_event(numbered)

        def fail(failure: Failure) -> bytes:
            return b"".join(map(frame, _failed(failure, head)))

        yield from render(stream_events(reply, head), frame, fail)

    def whole(self, reply: Reply, request: Request, tag: str) -> Json:
        return whole_reply(reply, _head_of(reply, request, tag))


def _head_of(reply: Reply, request: Request, tag: str) -> Json:
    return head_of(request.body, tag) | ({"service_tier": "default"} if reply.names_tier else {})


def head_of(body: Json, tag: str) -> Json:
    """Return the fields of its request that every `response` object of a reply repeats."""
    reasoning = {"effort": None, "summary": None, **(body.get("reasoning") or {})}
    return {
        "id": f"resp_{tag}",
        "object": "response",
        "created_at": CREATED,
        "background": False,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": {},
        "model": body["model"],
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "prompt_cache_key": body.get("prompt_cache_key"),
        "reasoning": reasoning,
        "store": body.get("store", True),
        "temperature": body.get("temperature", 1.0),
        "text": body.get("text") or {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "top_p": body.get("top_p", 1.0),
        "truncation": body.get("truncation", "disabled"),
        "user": None,
        "encrypts": ENCRYPTED in (body.get("include") or ()),
    }


def usage_of(usage: Usage) -> Json:
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.written},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.thinking},
        "total_tokens": usage.input + usage.output,
    }


def _items(reply: Reply, head: Json) -> Iterator[Item | Incident]:
    status = "incomplete" if reply.reason in REASONS else "completed"
    tag = head["id"].removeprefix("resp_")
    for number, part in enumerate(reply.parts):
        if isinstance(part, Thinking):
            summary = [{"type": "summary_text", "text": part.whole}] if part.whole else []
            item: Json = {"id": f"rs_{tag}{number}", "type": "reasoning", "summary": summary}
            if head["encrypts"]:
                item["encrypted_content"] = part.signature or f"gAAAAABp{tag}{number}"
            yield item, part.pieces
        elif isinstance(part, Text):
            content = [{"type": "output_text", "text": part.whole, "annotations": [], "logprobs": []}]
            item = {"id": f"msg_{tag}{number}", "type": "message", "role": "assistant", "content": content}
            yield {**item, "status": status}, part.pieces
        elif isinstance(part, Call):
            item = {"id": f"fc_{tag}{number}", "type": "function_call", "call_id": part.id, "name": part.name}
            yield {**item, "arguments": part.whole, "status": "completed"}, part.pieces
        else:
            yield part


def _response(head: Json, status: str, output: list[Json], **fields: object) -> Json:
    shown = {name: value for name, value in head.items() if name != "encrypts"}
    known = {"error": None, "incomplete_details": None, "output": output, "usage": None}
    return {**shown, "status": status, **known, **fields}


def whole_reply(reply: Reply, head: Json) -> Json:
    """Return the reply that is not streamed, which is also the content of the last event."""
    items = [entry[0] for entry in _items(reply, head) if isinstance(entry, tuple)]
    usage = None if reply.usage is None else usage_of(reply.usage)
    if reason := REASONS.get(reply.reason):
        return _response(head, "incomplete", items, incomplete_details={"reason": reason}, usage=usage)
    return _response(head, "completed", items, usage=usage)


def _failed(failure: Failure, head: Json) -> Iterator[Json]:
    """Yield the events of an error: the one that closes the response holds it too."""
    error = errors.failure_of(failure)
    code = error["code"] or error["type"]
    yield {"type": "error", "code": code, "message": error["message"], "param": error["param"]}
    yield {
        "type": "response.failed",
        "response": _response(head, "failed", [], error={"code": code, "message": error["message"]}),
    }


def stream_events(reply: Reply, head: Json) -> Iterator[Json | Incident]:
    """Yield the events of a stream without their numbers, with incidents between them."""
    begun = _response(head, "in_progress", [])
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    place = 0
    for entry in _items(reply, head):
        if not isinstance(entry, tuple):
            yield entry
            continue
        item, pieces = entry
        yield from item_events(item, pieces, place)
        place += 1
    whole = whole_reply(reply, head)
    yield {"type": f"response.{whole['status']}", "response": whole}


def item_events(item: Json, pieces: tuple[Piece, ...], place: int) -> Iterator[Json | Incident]:
    """Yield the events of one item."""
    yield from _ITEM_EVENTS[item["type"]](item, pieces, place)
    yield {"type": "response.output_item.done", "output_index": place, "item": item}


def _reasoning_events(item: Json, pieces: tuple[Piece, ...], place: int) -> Iterator[Json | Incident]:
    begun = {**item, "summary": []}
    if "encrypted_content" in item:
        begun["encrypted_content"] = item["encrypted_content"][:40]  # not complete yet
    yield {"type": "response.output_item.added", "output_index": place, "item": begun}
    if not item["summary"]:
        yield from (piece for piece in pieces if not isinstance(piece, str))
        return
    where = {"item_id": item["id"], "output_index": place, "summary_index": 0}
    kind, part = "response.reasoning_summary", item["summary"][0]
    yield {"type": f"{kind}_part.added", **where, "part": {"type": "summary_text", "text": ""}}
    for piece in pieces:
        yield {"type": f"{kind}_text.delta", **where, "delta": piece} if isinstance(piece, str) else piece
    yield {"type": f"{kind}_text.done", **where, "text": part["text"]}
    yield {"type": f"{kind}_part.done", **where, "part": part}


def _message_events(item: Json, pieces: tuple[Piece, ...], place: int) -> Iterator[Json | Incident]:
    where = {"item_id": item["id"], "output_index": place, "content_index": 0}
    part = item["content"][0]
    name = "refusal" if part["type"] == "refusal" else "text"
    more: Json = {} if name == "refusal" else {"logprobs": []}
    kind = f"response.{part['type']}"
    begun = {**item, "status": "in_progress", "content": []}
    yield {"type": "response.output_item.added", "output_index": place, "item": begun}
    empty = {**part, name: "", **({"annotations": []} if part.get("annotations") else {})}
    yield {"type": "response.content_part.added", **where, "part": empty}
    for piece in pieces:
        yield {"type": f"{kind}.delta", **where, "delta": piece, **more} if isinstance(piece, str) else piece
    for number, annotation in enumerate(part.get("annotations") or ()):
        yield {"type": f"{kind}.annotation.added", **where, "annotation_index": number, "annotation": annotation}
    yield {"type": f"{kind}.done", **where, name: part[name], **more}
    yield {"type": "response.content_part.done", **where, "part": part}


def _call_events(item: Json, pieces: tuple[Piece, ...], place: int) -> Iterator[Json | Incident]:
    where = {"item_id": item["id"], "output_index": place}
    begun = {**item, "arguments": "", "status": "in_progress"}
    kind = "response.function_call_arguments"
    yield {"type": "response.output_item.added", "output_index": place, "item": begun}
    for piece in pieces:
        yield {"type": f"{kind}.delta", **where, "delta": piece} if isinstance(piece, str) else piece
    yield {"type": f"{kind}.done", **where, "arguments": item["arguments"], "name": item["name"]}


_ITEM_EVENTS = {"reasoning": _reasoning_events, "message": _message_events, "function_call": _call_events}
