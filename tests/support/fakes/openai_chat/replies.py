"""Encoder of a scripted reply in the form of Chat Completions: as one body, or in the chunks of a stream.

The shapes are those of recorded traffic of OpenAI's own server (2025 and 2026).
"""

import json
import random
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.support.fakes.scripted_model import Reply, as_json

_LETTERS = string.ascii_letters + string.digits
_PIECE = re.compile(r"\s*\S{1,6}|\s+")
_REASONING_TOKENS = 64


def new_id(prefix: str, length: int, chance: random.Random) -> str:
    return prefix + "".join(chance.choice(_LETTERS) for _ in range(length))


@dataclass
class GeneratedReply:
    """A reply cut into pieces of about a token each, within the request's limit."""

    text: list[str]
    refusal: list[str]
    calls: list[tuple[str, str, list[str]]]
    """Identifier, name and the pieces of the arguments."""
    finish: str
    reasoning: int

    @property
    def tokens(self) -> int:
        pieces = len(self.text) + len(self.refusal) + sum(len(call[2]) + 3 for call in self.calls)
        return pieces + self.reasoning


def _apply_stop(text: str, stop: list[str]) -> str:
    ends = [text.index(one) for one in stop if one in text]
    return text[: min(ends)] if ends else text


def cut_reply(reply: Reply, body: dict[str, Any], *, reasons: bool, chance: random.Random) -> GeneratedReply:
    """Return the reply in pieces; where `max_tokens` is reached it ends there, with finish reason `length`."""
    stop = body.get("stop") or []
    text = _apply_stop(reply.text, [stop] if isinstance(stop, str) else stop)
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or 1_000_000
    reasoning = min(_REASONING_TOKENS, limit) if reasons else 0
    left = limit - reasoning

    def cut_pieces(value: str) -> list[str]:
        nonlocal left
        pieces = _PIECE.findall(value)
        kept = pieces[: max(left, 0)]
        left -= len(pieces)
        return kept

    spoken, refused = cut_pieces(text), cut_pieces(reply.refusal)
    calls = [
        (new_id("call_", 24, chance), call.name, cut_pieces(as_json(call.arguments)))
        for call in reply.calls
        if left > 0
    ]
    normal = "tool_calls" if reply.calls else "stop"
    finish = {"filter": "content_filter", "length": "length"}.get(reply.finish, normal)
    return GeneratedReply(spoken, refused, calls, "length" if left < 0 else finish, reasoning)


def usage_of(generated: GeneratedReply, prompt_tokens: int, cached_tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": generated.tokens,
        "total_tokens": prompt_tokens + generated.tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": generated.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def body_of(generated: GeneratedReply, head: dict[str, Any], usage: dict[str, Any]) -> dict[str, Any]:
    """Return the reply that is not streamed."""
    message: dict[str, Any] = {"role": "assistant", "content": "".join(generated.text) or None}
    if generated.calls:
        message["tool_calls"] = [
            {"id": identity, "type": "function", "function": {"name": name, "arguments": "".join(pieces)}}
            for identity, name, pieces in generated.calls
        ]
    elif not generated.refusal:
        message["content"] = "".join(generated.text)
    message |= {"refusal": "".join(generated.refusal) or None, "annotations": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": generated.finish}
    head = head | {"object": "chat.completion"}
    fingerprint = head.pop("system_fingerprint")
    tier = head.pop("service_tier")
    return head | {"choices": [choice], "usage": usage, "service_tier": tier, "system_fingerprint": fingerprint}


def _deltas(generated: GeneratedReply) -> Iterator[dict[str, Any]]:
    opening = None if generated.calls and not generated.text else ""
    yield {"role": "assistant", "content": opening, "refusal": None}
    yield from ({"content": piece} for piece in generated.text)
    yield from ({"refusal": piece} for piece in generated.refusal)
    for index, (identity, name, pieces) in enumerate(generated.calls):
        function = {"name": name, "arguments": ""}
        yield {"tool_calls": [{"index": index, "id": identity, "type": "function", "function": function}]}
        for piece in pieces:
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def chunks_of(
    generated: GeneratedReply, head: dict[str, Any], usage: dict[str, Any] | None, chance: random.Random
) -> Iterator[dict[str, Any]]:
    """Yield the chunks of a stream; with `usage`, where it was asked for, a last one that has no choices."""
    head = head | {"object": "chat.completion.chunk"}
    unsaid = {} if usage is None else {"usage": None}

    def chunk(choices: list[dict[str, Any]], extra: dict[str, Any]) -> dict[str, Any]:
        return head | {"choices": choices} | extra | {"obfuscation": new_id("", chance.randint(1, 16), chance)}

    for delta in _deltas(generated):
        yield chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}], unsaid)
    yield chunk([{"index": 0, "delta": {}, "logprobs": None, "finish_reason": generated.finish}], unsaid)
    if usage is not None:
        yield chunk([], {"usage": usage})


def frame(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
