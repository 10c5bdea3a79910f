"""Replies of Ollama's models: what they say within their limits. The conformance suite writes them."""

import random
import re
import string
from dataclasses import dataclass

from messages_conformance.backends.reply import Call as ScriptedCall
from messages_conformance.backends.reply import Part, Text, Thinking, Usage
from messages_conformance.backends.reply import Reply as ScriptedReply
from tests.support.fakes.scripted_model import Reply, as_json

_PIECE = re.compile(r"\s*\S{1,6}|\s+")
_THOUGHT = "Okay, let me see what is wanted here."


@dataclass
class GeneratedReply:
    """A reply cut into pieces of about a token each, within the request's limit."""

    thought: list[str]
    text: list[str]
    calls: list[ScriptedCall]
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
    for call in reply.calls:
        left -= len(_PIECE.findall(as_json(call.arguments))) + 3
        if left >= 0:  # a call that is not complete is never sent
            identity = "call_" + "".join(chance.choice(string.ascii_lowercase + string.digits) for _ in range(8))
            calls.append(ScriptedCall(call.name, (as_json(call.arguments),), identity))
    cut = left < 0 or reply.finish == "length"
    return GeneratedReply(thought, text, calls, "length" if cut else "stop", start - max(left, 0))


def script(generated: GeneratedReply, prompt: int) -> ScriptedReply:
    """Return the reply in the terms of the conformance suite, which writes it."""
    parts: list[Part] = [Thinking(tuple(generated.thought)), Text(tuple(generated.text)), *generated.calls]
    stop = "max_tokens" if generated.finish == "length" else ""
    return ScriptedReply(parts=tuple(parts), stop=stop, usage=Usage(prompt, generated.tokens))
