"""Fake of a provider's prefix cache, and of providers that have one: a scripted model behind each wire.

A `CachePolicy` says what a provider documents: at which places the beginning of a prompt can be found again, from which
size on, and by which key a machine is selected. The order is that of the providers: tools, system text, conversation.

`CachingProvider` is an upstream function for the proxy without sockets, and `new_caching_provider` serves it by HTTP.
"""

import hashlib
import itertools
import json
import marshal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from aiohttp import web

from anthropic_proxy.engine.messages.loaded_tools import CALLER_NAME
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from messages_conformance.backends.messages.rules import blocks_of
from messages_conformance.backends.ollama.shapes import check as check_ollama
from tests.support.fakes.anthropic.models import MODELS
from tests.support.fakes.anthropic.rules import check_body
from tests.support.fakes.gemini.shapes import check_request as check_gemini
from tests.support.fakes.openai_chat.shapes import check_fields
from tests.support.fakes.openai_chat.shapes import check_request as check_chat
from tests.support.fakes.openai_responses.rules import ResponsesRequest
from tests.support.fakes.server import ContractViolation, RequestLog, leaks, new_application
from tests.support.harness import FakeResponse

BYTES_PER_TOKEN = 4
Script = list[tuple[str, Mapping[str, Any]] | str]
"""Steps of a model: a tool call (name, arguments), or a text that ends the turn."""
_WITHOUT_REFERENCES = 2
"""Version of the format of `marshal` in which equal values have equal bytes."""
_LOOKBACK = 20
"""Parts before a mark whose ends may be known (platform.claude.com, Prompt caching, read 2026-11)."""


@dataclass(frozen=True)
class CachePolicy:
    """Rules of a provider's cache."""

    unit: Literal["blocks", "requests", "marks"] = "blocks"
    """Places at which a beginning is found again: each block, the end of each whole earlier prompt, or the marks of
    earlier prompts."""
    block: int = 16
    """Tokens of a block."""
    minimum: int = 0
    """Tokens of the shortest prompt that is cached."""
    keys: tuple[str, ...] = ()
    """Request field or header that selects the machine. A request without it reaches a new one. (): one machine."""
    marks: str = ""
    """Name of the field that marks a part of the prompt. The field itself does not belong to the prompt."""
    marks_end: bool = False
    """True if the end of each prompt is marked without a field."""


NO_RULES = CachePolicy()
"""A server at home: blocks of 16 tokens, as in vLLM, on one machine."""


class PrefixCache:
    """What the machines of a provider have read."""

    def __init__(self, policy: CachePolicy) -> None:
        self.policy = policy
        self._known: dict[str, dict[int, set[bytes]]] = {}

    def feed(self, parts: Sequence[bytes], machine: str = "", marked: Sequence[int] = ()) -> tuple[int, int]:
        """Return the tokens of a prompt, and how many at its beginning are cached. The prompt is then cached itself.

        `marked`: positions of marked parts.
        """
        prompt = b"".join(part + b"\n" for part in parts)
        ends = list(itertools.accumulate(len(part) + 1 for part in parts))
        tokens, known = len(prompt) // BYTES_PER_TOKEN, self._known.setdefault(machine, {})
        size = self.policy.block * BYTES_PER_TOKEN
        if self.policy.unit == "blocks":
            places = readable = [*range(size, len(prompt) + 1, size)]
        elif self.policy.unit == "requests":
            places, readable = [len(prompt)], sorted(length for length in known if length <= len(prompt))
        else:
            marked = sorted({*marked, *([len(parts) - 1] if self.policy.marks_end else [])})
            places = [ends[place] for place in marked]
            readable = sorted({end for place in marked for end in ends[max(0, place - _LOOKBACK) : place + 1]})
        digest, done, found = hashlib.sha256(), 0, 0
        hashes: dict[int, bytes] = {}
        for length in sorted({*places, *readable}):
            digest.update(prompt[done:length])
            done, hashes[length] = length, digest.digest()
        if tokens >= self.policy.minimum:
            for length in readable:
                if hashes[length] in known.get(length, ()):
                    found = length
                elif self.policy.unit == "blocks":
                    break
            for length in places:
                known.setdefault(length, set()).add(hashes[length])
        return tokens, min(tokens, found // BYTES_PER_TOKEN)


@dataclass
class CachedCall:
    """What one request cost."""

    tokens: int
    cached: int


@dataclass
class CachingProvider:
    """An upstream function with a prefix cache, whose model makes the calls of a script."""

    script: Script
    policy: CachePolicy = NO_RULES
    calls: list[CachedCall] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cache = PrefixCache(self.policy)

    def __call__(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        if not (wire := wire_of(request.path)):  # a question about the server or the model
            return FakeResponse(404, b'{"error":"not found"}')
        body = json.loads(request.body)
        assert not (breaches := _check(wire, base_url, body, request.headers)), breaches
        return FakeResponse(
            200,
            json.dumps(self.reply(wire, body, request.headers)).encode(),
            headers={"content-type": "application/json"},
        )

    async def answer(self, request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        """Answer a streamed request by HTTP. The journal has the rules that it violates."""
        wire = wire_of(request.path)
        body = json.loads(raw) if wire else None
        exchange = journal.open(request, body)
        if body is None:
            return web.json_response({"error": "not found"}, status=404)
        exchange.breaches += _check(wire, f"https://{request.host}/v1", body, exchange.headers)
        if wire != "messages":  # which is forwarded
            exchange.breaches += self._leaks(exchange.headers, raw)
        stream = b"".join(STREAMS[wire](self.reply(wire, body, request.headers)))
        kind = "application/x-ndjson" if wire == "ollama" else "text/event-stream"
        return web.Response(body=stream, headers={"content-type": kind})

    def _leaks(self, headers: Mapping[str, str], raw: bytes) -> list[ContractViolation]:
        """Return what only the client may know. The marks of the policy are for the provider."""
        marks = f'"{self.policy.marks}"'
        return [one for one in leaks(headers, raw) if not self.policy.marks or marks not in one.message]

    def reply(self, wire: str, body: dict[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
        parts = _blocks(body) if wire == "messages" else _list_parts(wire, body)
        read = [_read_part(marshal.dumps(part, _WITHOUT_REFERENCES), self.policy.marks) for part in parts]
        marked = [place for place, (_, is_marked) in enumerate(read) if is_marked]
        prompt = [text for text, _ in read]
        given = {**{name.lower(): value for name, value in headers.items()}, **body}
        machines = [str(given[key]) for key in self.policy.keys if key in given]
        machine = machines[0] if machines else str(len(self.calls)) if self.policy.keys else ""
        tokens, cached = self.cache.feed(prompt, machine, marked)
        self.calls.append(CachedCall(tokens, cached))
        step = self.next_step(body)
        if not isinstance(step, str):
            step = _offered(step, body)
        return _REPLIES[wire](step, tokens, cached, f"call_{len(self.calls)}")

    def next_step(self, body: dict[str, Any]) -> tuple[str, Mapping[str, Any]] | str:
        """Return what the model does. The request is counted already."""
        return self.script[len(self.calls) - 1]


def _list_parts(wire: str, body: dict[str, Any]) -> list[Any]:
    return [part for name in _ORDER[wire] if name in body for part in _parts(body[name])]


def _blocks(body: dict[str, Any]) -> list[Any]:
    """Return the parts of a prompt of the Messages API: tools that are not deferred, system text, blocks."""
    tools = [tool for tool in body.get("tools") or () if not tool.get("defer_loading")]
    system = body.get("system") or []
    system = [{"type": "text", "text": system}] if isinstance(system, str) else system
    messages = [[message["role"], block] for message in body["messages"] for block in blocks_of(message)]
    return [*tools, *system, *messages]


@lru_cache(maxsize=10_000)
def _read_part(part: bytes, mark: str) -> tuple[bytes, bool]:
    """Return the text of a part of a prompt, and whether it has a mark. Each request repeats the parts before it."""
    value = marshal.loads(part)
    is_marked = bool(mark) and f'"{mark}": ' in json.dumps(value)
    return json.dumps(_without(value, mark), ensure_ascii=False).encode(), is_marked


def _without(value: Any, name: str) -> Any:
    """Return a part without the field `name`. A text is the same to a model alone and as the only part of a list."""
    if isinstance(value, list):
        return [_without(one, name) for one in value]
    if isinstance(value, dict):
        fields = {key: _without(one, name) for key, one in value.items() if key != name}
        match fields.get("content"):
            case [{"type": "text", "text": str(text), **rest}] if not rest:
                fields["content"] = text
        return fields
    return value


def new_caching_provider(provider: CachingProvider) -> web.Application:
    return new_application(provider.answer, RequestLog())


def wire_of(path: str) -> str:
    return next((name for part, name in _PATHS.items() if part in path and not path.endswith("_tokens")), "")


def _check(wire: str, base_url: str, body: dict[str, Any], headers: Mapping[str, str]) -> list[ContractViolation]:
    if wire == "messages":
        return list(check_body(body, MODELS["claude-opus-4-6"], headers.get("anthropic-beta", "")))
    check = _CHECKS.get(f"openai {wire}" if base_url == "https://api.openai.com/v1" else wire)
    return list(check(body)) if check else []


def _parts(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _offered(step: tuple[str, Mapping[str, Any]], body: dict[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the call as the model must make it: by the tool's own name if a definition of it was sent as a tool."""
    name, arguments = step
    listed = [*_parts(body.get("tools") or [])]
    listed += [tool for item in body.get("input") or () for tool in item.get("tools") or ()]
    names = set[str]()
    for tool in listed:
        names |= {one["name"] for one in tool.get("functionDeclarations") or [tool.get("function") or tool]}
    if name in names:
        return step
    assert CALLER_NAME in names, f"{name} is not offered"
    return CALLER_NAME, {"name": name, "arguments": arguments}


def _chat_reply(step: Any, tokens: int, cached: int, call_id: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": step if isinstance(step, str) else None}
    if not isinstance(step, str):
        function = {"name": step[0], "arguments": json.dumps(step[1])}
        message["tool_calls"] = [{"id": call_id, "type": "function", "function": function}]
    usage = {"prompt_tokens": tokens, "completion_tokens": 20, "total_tokens": tokens + 20}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {"index": 0, "message": message, "finish_reason": "stop" if isinstance(step, str) else "tool_calls"}
        ],
        "usage": usage | {"prompt_tokens_details": {"cached_tokens": cached}},
    }


def _responses_reply(step: Any, tokens: int, cached: int, call_id: str) -> dict[str, Any]:
    if isinstance(step, str):
        part = {"type": "output_text", "text": step, "annotations": []}
        item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    else:
        item = {"id": "fc_1", "type": "function_call", "call_id": call_id, "name": step[0], "status": "completed"}
        item["arguments"] = json.dumps(step[1])
    usage = {
        "input_tokens": tokens,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": tokens + 20,
    }
    return {"id": "resp_1", "object": "response", "status": "completed", "model": "m", "output": [item], "usage": usage}


def _gemini_reply(step: Any, tokens: int, cached: int, call_id: str) -> dict[str, Any]:
    if isinstance(step, str):
        part: dict[str, Any] = {"text": step}
    else:  # the names of an object come in alphabetical order
        part = {"functionCall": {"name": step[0], "args": dict(sorted(step[1].items())), "id": call_id}}
    return {
        "candidates": [{"content": {"parts": [part], "role": "model"}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {
            "promptTokenCount": tokens,
            "cachedContentTokenCount": cached,
            "candidatesTokenCount": 20,
            "totalTokenCount": tokens + 20,
        },
        "modelVersion": "m",
        "responseId": "r",
    }


def _ollama_reply(step: Any, tokens: int, cached: int, call_id: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": step if isinstance(step, str) else ""}
    if not isinstance(step, str):
        message["tool_calls"] = [{"id": call_id, "function": {"name": step[0], "arguments": step[1]}}]
    counts = {"prompt_eval_count": tokens, "eval_count": 20}
    return {"model": "m", "created_at": "2026-11-01T00:00:00Z", "message": message, "done": True} | {
        "done_reason": "stop",
        **counts,
    }


def _message_reply(step: Any, tokens: int, cached: int, call_id: str) -> dict[str, Any]:
    if isinstance(step, str):
        block = {"type": "text", "text": step}
    else:
        block = {"type": "tool_use", "id": f"toolu_{call_id}", "name": step[0], "input": step[1]}
    return {
        "id": f"msg_{call_id}",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [block],
        "stop_reason": "end_turn" if isinstance(step, str) else "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 0,
            "cache_creation_input_tokens": tokens - cached,
            "cache_read_input_tokens": cached,
            "output_tokens": 20,
        },
    }


def _frame(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _chat_stream(reply: dict[str, Any]) -> Iterable[bytes]:
    (choice,) = reply["choices"]
    delta = choice.pop("message")
    if calls := delta.get("tool_calls"):
        delta |= {"tool_calls": [{"index": index, **call} for index, call in enumerate(calls)]}
    chunk = reply | {"object": "chat.completion.chunk", "usage": None}
    yield _frame(chunk | {"choices": [choice | {"delta": delta}]})
    yield _frame(chunk | {"choices": [], "usage": reply["usage"]})
    yield b"data: [DONE]\n\n"


def _responses_stream(reply: dict[str, Any]) -> Iterable[bytes]:
    events: list[dict[str, Any]] = [{"type": "response.created", "response": reply | {"status": "in_progress"}}]
    for index, item in enumerate(reply["output"]):
        place = {"output_index": index, "item_id": item["id"]}
        begun = item | {"message": {"content": []}, "function_call": {"arguments": ""}}.get(item["type"], {})
        events.append({"type": "response.output_item.added", "output_index": index, "item": begun})
        if item["type"] == "reasoning":
            pass
        elif item["type"] == "message":
            (part,) = item["content"]
            events.append({"type": "response.output_text.delta", **place, "content_index": 0, "delta": part["text"]})
        else:
            events.append({"type": "response.function_call_arguments.delta", **place, "delta": item["arguments"]})
        events.append({"type": "response.output_item.done", "output_index": index, "item": item})
    events.append({"type": "response.completed", "response": reply})
    for number, event in enumerate(events):
        yield f"event: {event['type']}\n".encode() + _frame(event | {"sequence_number": number})


def _message_stream(reply: dict[str, Any]) -> Iterable[bytes]:
    (block,) = reply["content"]
    if block["type"] == "text":
        begin, delta = block | {"text": ""}, {"type": "text_delta", "text": block["text"]}
    else:
        begin, delta = block | {"input": {}}, {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
    end = {"stop_reason": reply["stop_reason"], "stop_sequence": None}
    for event in (
        {"type": "message_start", "message": reply | {"content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": begin},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": end, "usage": {"output_tokens": 20}},
        {"type": "message_stop"},
    ):
        yield f"event: {event['type']}\n".encode() + _frame(event)


_PATHS = {
    "/messages": "messages",
    "/responses": "responses",
    "/chat/completions": "chat",
    "/api/chat": "ollama",
    "enerateContent": "gemini",
}
_ORDER = {
    "responses": ("tools", "instructions", "input"),
    "chat": ("tools", "messages"),
    "ollama": ("tools", "messages"),
    "gemini": ("tools", "toolConfig", "systemInstruction", "contents"),
}
"""Wire → fields of its prompt, in the order in which providers read them."""
_CHECKS: dict[str, Callable[[dict[str, Any]], Iterable[ContractViolation]]] = {
    "openai responses": lambda body: check_fields(body, ResponsesRequest),
    "openai chat": check_chat,
    "gemini": lambda body: check_gemini(body, vertex=False),
    "ollama": lambda body: check_ollama(body, "ChatRequest", "ChatRequest"),
}
"""Wire → check of the fields of a request. `openai`: at OpenAI itself."""
_REPLIES = {
    "responses": _responses_reply,
    "chat": _chat_reply,
    "ollama": _ollama_reply,
    "messages": _message_reply,
    "gemini": _gemini_reply,
}
STREAMS: dict[str, Callable[[dict[str, Any]], Iterable[bytes]]] = {
    "responses": _responses_stream,
    "chat": _chat_stream,
    "messages": _message_stream,
    "ollama": lambda reply: [json.dumps(reply).encode() + b"\n"],
    "gemini": lambda reply: [_frame(reply)],
}
