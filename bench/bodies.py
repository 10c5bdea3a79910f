"""Requests of any size, in the form of the Messages API and of Chat Completions.

The middle one has the shape and the sizes of an agent's request: a system prompt in three blocks, a system message
after the first user message, 20 tools with long descriptions (3 kB each), and a history of calls and results. Sizes are
in bytes of the Messages body, accurate to a few percent.
"""

import json
import random
from typing import Any

from msgspec import Struct

MARKER = "request-number-"
"""Stands before a number that differs in each request; the upstream looks for it, so a lost last message is seen."""
_DIGITS = 8
_TOOLS = 20
_TOOL_BYTES = 3100
_TEXT = (
    "the file is read before it can be changed and a command runs in its own shell unless the session says otherwise so"
    " that output which is longer than the limit will be cut at the end of a line with a note in its place to tell why"
)
_KEYWORDS: tuple[dict[str, Any], ...] = (
    {"type": "string"},
    {"type": "integer", "minimum": 0, "maximum": 9007199254740991},
    {"type": "boolean", "default": False},
    {"type": "string", "enum": ["content", "files_with_matches", "count"]},
    {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 32},
    {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {"id": {"type": "string"}, "status": {"type": "string", "enum": ["open", "done"]}},
            "required": ["id", "status"],
            "additionalProperties": False,
        },
    },
)


class Body(Struct, frozen=True):
    """A request body around the number that distinguishes one request from the next."""

    head: bytes
    tail: bytes

    @property
    def size(self) -> int:
        """Bytes of the whole body."""
        return len(self.head) + _DIGITS + len(self.tail)

    def numbered(self, number: int) -> bytes:
        """Return the body of request `number`; all have the same length."""
        return b"%b%0*d%b" % (self.head, _DIGITS, number, self.tail)


def make_messages(size: int, model: str, *, stream: bool) -> dict[str, Any]:
    """Return a Messages request of about `size` bytes; below 16 kB it is one plain question."""
    chance = random.Random(size)
    request: dict[str, Any] = {"model": model, "max_tokens": 4096, "stream": stream}
    question = f"{prose(chance, 60)} {MARKER}"
    if size < 16_000:
        request["messages"] = [{"role": "user", "content": question}]
        spare = size - len(_encode(request)) - _DIGITS
        request["messages"][0]["content"] = f"{prose(chance, max(spare, 1))} {MARKER}"
        return request
    cached = {"type": "ephemeral"}
    request["system"] = [
        {"type": "text", "text": "You are a coding agent for the terminal."},
        {"type": "text", "text": prose(chance, 200), "cache_control": cached},
        {"type": "text", "text": prose(chance, 5800), "cache_control": cached},
    ]
    request["tools"] = [_tool(chance, number) for number in range(_TOOLS)]
    request["metadata"] = {"user_id": json.dumps({"device_id": "0" * 64, "session_id": "bench"})}
    request["messages"] = [
        {"role": "user", "content": [{"type": "text", "text": prose(chance, 700)}]},
        {"role": "system", "content": prose(chance, 9000)},
    ]
    last = {"type": "text", "text": question, "cache_control": cached}
    spare = size - len(_encode(request)) - len(_encode(last)) - 60
    step = 0
    while spare > 0:
        pair = make_step(chance, step, min(spare, 4000))
        spare -= len(_encode(pair))
        request["messages"] += pair
        step += 1
    request["messages"].append({"role": "user", "content": [last]})
    return request


def with_system_at_the_top(request: dict[str, Any]) -> dict[str, Any]:
    """Return a Messages request with its late system messages at the end of its system prompt."""
    late = [message for message in request["messages"] if message["role"] == "system"]
    if not late:
        return request
    system = [*request["system"], *({"type": "text", "text": message["content"]} for message in late)]
    others = [message for message in request["messages"] if message["role"] != "system"]
    return {**request, "system": system, "messages": others}


def to_chat_body(request: dict[str, Any]) -> dict[str, Any]:
    """Return the same request in the form of Chat Completions, for the direct call and the plain relay."""
    body: dict[str, Any] = {key: request[key] for key in ("model", "max_tokens", "stream")}
    if request["stream"]:
        body["stream_options"] = {"include_usage": True}
    system = "\n\n".join(block["text"] for block in request.get("system", ()))
    body["messages"] = [{"role": "system", "content": system}] if system else []
    for message in request["messages"]:
        body["messages"] += _encode_message(message)
    if "tools" in request:
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool["name"],
                    "description": tool["description"],
                    "parameters": tool["input_schema"],
                },
            }
            for tool in request["tools"]
        ]
    return body


def cut_at_number(request: dict[str, Any]) -> Body:
    """Encode a request and cut it where its number belongs."""
    head, tail = _encode(request).split(MARKER.encode())
    return Body(head + MARKER.encode(), tail)


def prose(chance: random.Random, size: int) -> str:
    """Return about `size` characters that no compressor, cache or tokenizer finds too easy."""
    words = _TEXT.split()
    text = ""
    while len(text) < size:
        text += chance.choice(words) + (f" {chance.randrange(10_000)}" if chance.random() < 0.1 else "") + " "
        if chance.random() < 0.05:
            text = text.rstrip() + '.\n"'
    return text[:size]


def _encode(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _tool(chance: random.Random, number: int) -> dict[str, Any]:
    names = [f"field_{place}" for place in range(2 + number % 6)]
    tool = {
        "name": f"Tool{number}",
        "description": "",
        "input_schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                name: {"description": prose(chance, 90), **_KEYWORDS[(number + place) % len(_KEYWORDS)]}
                for place, name in enumerate(names)
            },
            "required": names[: 1 + number % 3],
            "additionalProperties": False,
        },
    }
    tool["description"] = prose(chance, _TOOL_BYTES - len(_encode(tool)))
    return tool


def make_step(chance: random.Random, number: int, size: int) -> list[dict[str, Any]]:
    """Return a reply with a call, and its result: one step of an agent, of about `size` bytes."""
    use = {
        "type": "tool_use",
        "id": f"toolu_{number:08}",
        "name": f"Tool{number % _TOOLS}",
        "input": {"field_0": prose(chance, 60), "field_1": number},
    }
    reply = [{"type": "text", "text": prose(chance, 120)}, use]
    result = {"type": "tool_result", "tool_use_id": use["id"], "content": prose(chance, max(size - 500, 20))}
    return [{"role": "assistant", "content": reply}, {"role": "user", "content": [result]}]


def _encode_message(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    if isinstance(content, str):
        return [message]
    texts = "\n\n".join(block["text"] for block in content if block["type"] == "text")
    results = [
        {"role": "tool", "tool_call_id": block["tool_use_id"], "content": block["content"]}
        for block in content
        if block["type"] == "tool_result"
    ]
    calls = [
        {
            "id": block["id"],
            "type": "function",
            "function": {"name": block["name"], "arguments": json.dumps(block["input"])},
        }
        for block in content
        if block["type"] == "tool_use"
    ]
    body = {"role": message["role"], "content": texts, **({"tool_calls": calls} if calls else {})}
    return [*results, *([body] if texts or calls else [])]
