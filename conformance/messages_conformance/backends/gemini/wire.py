"""Gemini: paths, replies and streams. The shapes are those of AI Studio (2025 and 2026).

Every chunk repeats the usage so far, calls come whole, and a signature stands at the part after the thinking.
"""

import json
import re
from collections.abc import Iterator, Mapping

from messages_conformance.backends.gemini import errors
from messages_conformance.backends.gemini.rules import check_body, check_count
from messages_conformance.backends.gemini.shapes import in_camel_case
from messages_conformance.backends.reply import Call, Failure, Incident, Reply, Text, Thinking, Usage
from messages_conformance.backends.wire import (
    Answer,
    ContractViolation,
    Frame,
    Json,
    Request,
    answer_json,
    as_list,
    count_tokens,
    encode,
    render,
)

_CALL = re.compile(r"/v1(?:beta|alpha)?/models/([^:/]+):(\w+)")
_LIST = re.compile(r"/v1(?:beta|alpha)?/models(?:/([^/:]+))?")
FINISHES = {
    "end_turn": "STOP",
    "stop_sequence": "STOP",
    "tool_use": "STOP",
    "max_tokens": "MAX_TOKENS",
    "context_window": "MAX_TOKENS",
    "refusal": "SAFETY",
    "pause_turn": "STOP",
}


class Gemini:
    """The Gemini API, as AI Studio speaks it."""

    stream_type = "text/event-stream"
    alive = b""

    def answer(self, request: Request) -> Answer | None:
        key = request.headers.get("x-goog-api-key") or request.query.get("key")
        if refusal := errors.refuse_key(key or request.headers.get("authorization")):
            return refusal
        if request.method == "GET" and (listed := _LIST.fullmatch(request.path)):
            model = _model(listed[1] or "scripted")
            return answer_json(model if listed[1] else {"models": [model]})
        call = _CALL.fullmatch(request.path)
        if call is None or request.method != "POST":
            return errors.refuse_path(request.path)
        if call[2] == "countTokens":
            violation = next(check_count(request.body, call[1], vertex=False), None)
            return errors.refuse(violation) if violation else answer_json({"totalTokens": count_tokens(request.body)})
        return None if call[2] in ("generateContent", "streamGenerateContent") else errors.refuse_path(request.path)

    def check(self, request: Request) -> Iterator[ContractViolation]:
        return check_body(in_camel_case(request.body))

    def refuse(self, violation: ContractViolation) -> Answer:
        return errors.refuse(violation)

    def fail(self, failure: Failure) -> Answer:
        return errors.fail(failure)

    def stop_sequences(self, request: Request) -> list[str]:
        return as_list((request.body.get("generationConfig") or {}).get("stopSequences"))

    def takes_one_call(self, _request: Request) -> bool:
        return False

    def is_stream(self, request: Request) -> bool:
        return request.path.endswith(":streamGenerateContent")

    def stream(self, reply: Reply, request: Request, tag: str) -> Iterator[Frame]:
        chunks = stream_chunks(reply, _tail(request, tag))
        if request.query.get("alt") == "sse":
            yield from render(chunks, _frame, lambda failure: _frame(errors.failure_of(failure)))
            return
        # Without `alt=sse`, the stream is one JSON array that comes in pieces.
        separators = iter([b"["])
        elements = render(chunks, _element, lambda failure: _element(errors.failure_of(failure)))
        for element in elements:
            yield next(separators, b",\r\n") + element if isinstance(element, bytes) else element
        if not reply.has_failure():
            yield b"]"

    def whole(self, reply: Reply, request: Request, tag: str) -> Json:
        return whole_reply(reply, _tail(request, tag))


def _frame(value: Mapping[str, object]) -> bytes:
    return b"data: %b\r\n\r\n" % encode(value)


def _element(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=2).encode()


def _model(name: str) -> Json:
    limits = {"inputTokenLimit": 1_048_576, "outputTokenLimit": 65_536}
    methods = ["generateContent", "countTokens"]
    return {"name": f"models/{name}", "displayName": name, **limits, "supportedGenerationMethods": methods}


def _tail(request: Request, tag: str) -> Json:
    call = _CALL.fullmatch(request.path)
    return {"modelVersion": call[1] if call else "scripted", "responseId": tag}


def usage_of(usage: Usage) -> Json:
    """Return the counts; zero counts are omitted."""
    counts: Json = {"promptTokenCount": usage.input}
    if usage.output - usage.thinking:
        counts["candidatesTokenCount"] = usage.output - usage.thinking
    counts["totalTokenCount"] = usage.input + usage.output
    if usage.cached:
        counts["cachedContentTokenCount"] = usage.cached
    counts["promptTokensDetails"] = [{"modality": "TEXT", "tokenCount": usage.input}]
    return counts | ({"thoughtsTokenCount": usage.thinking} if usage.thinking else {})


def _parts(reply: Reply) -> Iterator[Json | Incident]:
    """Yield the parts of the content as they come in a stream, with incidents between them."""
    signature = ""
    for part in reply.parts:
        if isinstance(part, Call):
            yield from (piece for piece in part.pieces if not isinstance(piece, str))
            arguments = part.arguments
            function = {"name": part.name, "args": arguments if isinstance(arguments, dict) else {}, "id": part.id}
            yield {"functionCall": function} | ({"thoughtSignature": signature} if signature else {})
            signature = ""
        elif isinstance(part, Thinking):
            signature = part.signature
            for piece in part.pieces:
                yield {"text": piece, "thought": True} if isinstance(piece, str) else piece
        elif isinstance(part, Text):
            for piece in part.pieces:
                yield {"text": piece} if isinstance(piece, str) else piece
        else:
            yield part
    if signature:
        yield {"text": "", "thoughtSignature": signature}


def _candidate(parts: list[Json], finish: str | None = None) -> Json:
    candidate: Json = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if not parts:
        del candidate["content"]
    return candidate | ({"finishReason": finish} if finish else {})


def _counted(reply: Reply) -> Json:
    return {} if reply.usage is None else {"usageMetadata": usage_of(reply.usage)}


def stream_chunks(reply: Reply, tail: Json) -> Iterator[Json | Incident]:
    """Yield the chunks of a stream; the last one has the reason for the end."""
    for part in _parts(reply):
        if isinstance(part, dict):
            yield {"candidates": [_candidate([part])], **_counted(reply), **tail}
        else:
            yield part
    finish = FINISHES[reply.reason]
    last: list[Json] = [] if finish == "SAFETY" else [{"text": ""}]
    yield {"candidates": [_candidate(last, finish)], **_counted(reply), **tail}


def whole_reply(reply: Reply, tail: Json) -> Json:
    """Return the reply that is not streamed: pieces of text are one part."""
    parts: list[Json] = []
    for part in _parts(reply):
        if not isinstance(part, dict):
            continue
        last = parts[-1] if parts else {}
        if "text" in part and "text" in last and part.get("thought") == last.get("thought"):
            parts[-1] = {**last, **part, "text": last["text"] + part["text"]}
        else:
            parts.append(part)
    return {"candidates": [_candidate(parts, FINISHES[reply.reason])], **_counted(reply), **tail}
