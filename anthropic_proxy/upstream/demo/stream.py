"""An answer as Chat Completions says it: chunks of a stream, or one body. Source: the API reference, read 2026-11."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from anthropic_proxy.upstream.demo.conversation import Conversation
from anthropic_proxy.upstream.demo.reply import Answer

_TOKEN = re.compile(r"\s*\w{1,6}|\s*[^\w\s]{1,4}|\s+")
_CHARACTERS_PER_TOKEN = 4
_TOKENS_PER_IMAGE = 85


class Spoken(Struct, frozen=True, kw_only=True):
    """An answer cut into tokens, and at the limit."""

    pieces: list[str]
    calls: list[tuple[str, str, list[str]]]
    """Identifier, name, and the pieces of the arguments."""
    finish_reason: str
    usage: dict[str, Any]


def speak(answer: Answer, conversation: Conversation, call_ids: list[str]) -> Spoken:
    """Cut an answer into tokens. What lies beyond the limit is not said, as a real model would not."""
    budget = conversation.limit if conversation.limit is not None else 1 << 30
    cut = False
    said: list[str] = _TOKEN.findall(answer.text)
    pieces = said[:budget]
    cut = len(pieces) < len(said)
    spent = len(pieces)
    calls = []
    for call, call_id in zip(answer.calls, call_ids, strict=False):
        if cut or spent >= budget:
            cut = True
            break
        said = _TOKEN.findall(msgspec.json.encode(call.arguments).decode())
        # A call's name costs one token.
        kept = said[: budget - spent - 1]
        cut = len(kept) < len(said)
        spent += 1 + len(kept)
        calls.append((call_id, call.name, kept))
    prompt = conversation.size // _CHARACTERS_PER_TOKEN + conversation.images * _TOKENS_PER_IMAGE + 8
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": spent,
        "total_tokens": prompt + spent,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }
    reason = "length" if cut else "tool_calls" if calls else "stop"
    return Spoken(pieces=pieces, calls=calls, finish_reason=reason, usage=usage)


def encode_chunks(spoken: Spoken, conversation: Conversation, reply_id: str, created: int) -> Iterator[bytes]:
    """Give the stream, one event at a time, with `[DONE]` at the end."""
    head = {"id": reply_id, "object": "chat.completion.chunk", "created": created, "model": conversation.model}
    if conversation.includes_usage:
        head["usage"] = None
    opening: dict[str, Any] = {"role": "assistant", "content": "" if spoken.pieces else None, "refusal": None}
    yield _chunk(head, opening)
    for piece in spoken.pieces:
        yield _chunk(head, {"content": piece})
    for index, (call_id, name, pieces) in enumerate(spoken.calls):
        function = {"name": name, "arguments": ""}
        yield _chunk(head, {"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]})
        for piece in pieces:
            yield _chunk(head, {"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    yield _chunk(head, {}, spoken.finish_reason)
    if conversation.includes_usage:
        yield _event({**head, "choices": [], "usage": spoken.usage})
    yield b"data: [DONE]\n\n"


def encode_completion(spoken: Spoken, conversation: Conversation, reply_id: str, created: int) -> bytes:
    """Return the whole reply as one JSON body."""
    message: dict[str, Any] = {"role": "assistant", "content": "".join(spoken.pieces) or None, "refusal": None}
    if spoken.calls:
        message["tool_calls"] = [
            {"id": call_id, "type": "function", "function": {"name": name, "arguments": "".join(pieces)}}
            for call_id, name, pieces in spoken.calls
        ]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": spoken.finish_reason}
    head = {"id": reply_id, "object": "chat.completion", "created": created, "model": conversation.model}
    return msgspec.json.encode({**head, "choices": [choice], "usage": spoken.usage})


def _chunk(head: dict[str, Any], delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return _event({**head, "choices": [choice]})


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"
