"""Scripted replies in the form of Ollama: in lines, or as one body. The shapes are those of recorded traffic."""

import json
import random
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.support.fakes.scripted_model import Reply, as_json

_PIECE = re.compile(r"\s*\S{1,6}|\s+")
_THOUGHT = "Okay, let me see what is wanted here."


@dataclass
class GeneratedReply:
    """A reply cut into pieces of about a token each, within the request's limit."""

    thought: list[str]
    text: list[str]
    calls: list[dict[str, Any]]
    finish: str
    tokens: int


def cut_reply(reply: Reply, limit: int, *, thinks: bool, chance: random.Random) -> GeneratedReply:
    """Return the reply in pieces; where `num_predict` is reached it ends there, for the reason `length`."""
    left = limit if limit > 0 else 1_000_000
    start = left

    def cut_pieces(value: str) -> list[str]:
        nonlocal left
        pieces = _PIECE.findall(value)[: max(left, 0)]
        left -= len(_PIECE.findall(value))
        return pieces

    thought = cut_pieces(_THOUGHT) if thinks else []
    text = cut_pieces(reply.text)
    calls = []
    for index, call in enumerate(reply.calls):
        left -= len(_PIECE.findall(as_json(call.arguments))) + 3
        if left >= 0:  # a call that is not complete is never sent
            identity = "call_" + "".join(chance.choice(string.ascii_lowercase + string.digits) for _ in range(8))
            function = {"index": index, "name": call.name, "arguments": call.arguments}
            calls.append({"id": identity, "function": function})
    cut = left < 0 or reply.finish == "length"
    return GeneratedReply(thought, text, calls, "length" if cut else "stop", start - max(left, 0))


def _frame(head: dict[str, Any], *, done: bool = False, **message: Any) -> dict[str, Any]:
    return head | {"message": {"role": "assistant", "content": "", **message}, "done": done}


def _ending(generated: GeneratedReply, prompt: int) -> dict[str, Any]:
    return {
        "done_reason": generated.finish,
        "total_duration": 4_883_583_458,
        "load_duration": 1_334_875,
        "prompt_eval_count": prompt,
        "prompt_eval_duration": 342_546_000,
        "eval_count": generated.tokens,
        "eval_duration": 4_535_599_000,
    }


def lines_of(generated: GeneratedReply, head: dict[str, Any], prompt: int) -> Iterator[dict[str, Any]]:
    yield from (_frame(head, thinking=piece) for piece in generated.thought)
    yield from (_frame(head, content=piece) for piece in generated.text)
    yield from (_frame(head, tool_calls=[call]) for call in generated.calls)
    yield _frame(head, done=True) | _ending(generated, prompt)


def body_of(generated: GeneratedReply, head: dict[str, Any], prompt: int) -> dict[str, Any]:
    message: dict[str, Any] = {"content": "".join(generated.text)}
    if generated.thought:
        message["thinking"] = "".join(generated.thought)
    if generated.calls:
        message["tool_calls"] = generated.calls
    return _frame(head, done=True, **message) | _ending(generated, prompt)


def line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
