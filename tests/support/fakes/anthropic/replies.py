"""Scripted replies in the form of the Messages API: as one message, or in the events of a stream.

The shapes are those of recorded traffic of Anthropic's own server (2025 and 2026), with its padding before line ends.
"""

import json
import random
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.support.fakes.anthropic.quotations import split_at_quotations
from tests.support.fakes.anthropic.rules import sign
from tests.support.fakes.scripted_model import Reply, as_json

_LETTERS = string.ascii_letters + string.digits
_PIECE = re.compile(r"\s*\S{1,6}|\s+")
_THOUGHT = "Let me see what is asked of me, and what has been done."
_STOPS = {"length": "max_tokens", "filter": "refusal"}


def new_id(prefix: str, chance: random.Random) -> str:
    return prefix + "01" + "".join(chance.choice(_LETTERS) for _ in range(22))


@dataclass
class GeneratedReply:
    """A reply cut into blocks, each with its pieces of about a token, within the request's limit."""

    blocks: list[tuple[dict[str, Any], list[str]]] = field(default_factory=list)
    """A block as it begins, and the pieces of its text, thought or input."""
    reason: str = "end_turn"
    sequence: str | None = None
    thought: int = 0
    applied_edits: list[dict[str, Any]] | None = None
    """None: the request has no `context_management`."""
    summarized: dict[str, int] | None = None
    """Tokens of the call for a summary. None: there was none."""

    @property
    def tokens(self) -> int:
        written = [pieces for begin, pieces in self.blocks if begin["type"] != "compaction"]
        return sum(len(pieces) for pieces in written) + 4 * len(written)


def cut_reply(reply: Reply, body: dict[str, Any], chance: random.Random) -> GeneratedReply:
    """Return the reply in pieces; where `max_tokens` is reached it ends there."""
    generated = GeneratedReply(reason=_STOPS.get(reply.finish, "tool_use" if reply.calls else "end_turn"))
    text = reply.text
    ends = [(text.index(stop), stop) for stop in body.get("stop_sequences") or () if stop in text]
    if ends:
        text, generated.reason, generated.sequence = text[: min(ends)[0]], "stop_sequence", min(ends)[1]
    left = body["max_tokens"]

    def append_block(begin: dict[str, Any], value: str) -> None:
        nonlocal left
        pieces = _PIECE.findall(value)
        if left > 0 and (pieces or begin["type"] != "text"):
            generated.blocks.append((begin, pieces[:left]))
        left -= len(pieces)

    thinking = body.get("thinking") or {}
    if thinking.get("type") in ("enabled", "adaptive"):
        thought = "" if thinking.get("display") == "omitted" else _THOUGHT
        generated.thought = len(_PIECE.findall(_THOUGHT))
        append_block({"type": "thinking", "thinking": "", "signature": ""}, thought)
    for part, citations in split_at_quotations(text, body):
        append_block({"type": "text", "text": "", **({"citations": citations} if citations else {})}, part)
    for call in () if ends else reply.calls:
        begin = {"type": "tool_use", "id": new_id("toolu_", chance), "name": call.name, "input": {}}
        append_block(begin, as_json(call.arguments) if call.arguments != {} else "")
    if left < 0:
        generated.reason = "max_tokens"
    return generated


def usage_of(generated: GeneratedReply, prompt: int, read: int, written: int) -> dict[str, Any]:
    counts: dict[str, Any] = {
        "input_tokens": max(prompt - read - written, 0),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": generated.tokens,
    }
    iterations = [{"type": "message", **counts}]
    if generated.summarized is not None:
        calls = [{**dict.fromkeys(counts, 0), **generated.summarized, "type": "compaction"}]
        iterations = [*calls, *(iterations if generated.reason != "compaction" else ())]
    return {
        **counts,
        "cache_creation": {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0},
        "output_tokens_details": {"thinking_tokens": generated.thought},
        "service_tier": "standard",
        "inference_geo": "not_available",
        **({"iterations": iterations} if generated.applied_edits is not None or generated.summarized else {}),
    }


def _finished(begin: dict[str, Any], pieces: list[str]) -> dict[str, Any]:
    whole = "".join(pieces)
    if begin["type"] == "thinking":
        return {**begin, "thinking": whole, "signature": sign(whole)}
    if begin["type"] == "text":
        return {**begin, "text": whole}
    if begin["type"] == "compaction":
        return begin
    try:
        return {**begin, "input": json.loads(whole or "{}")}
    except ValueError:  # cut off by the limit
        return begin


def message_of(generated: GeneratedReply, head: dict[str, Any], usage: dict[str, Any]) -> dict[str, Any]:
    """Return the reply that is not streamed."""
    return {
        **head,
        **_management_of(generated),
        "content": [_finished(begin, pieces) for begin, pieces in generated.blocks],
        "stop_reason": generated.reason,
        "stop_sequence": generated.sequence,
        "stop_details": None,
        "usage": usage,
    }


def _delta(begin: dict[str, Any], piece: str) -> dict[str, Any]:
    if begin["type"] == "thinking":
        return {"type": "thinking_delta", "thinking": piece}
    if begin["type"] == "text":
        return {"type": "text_delta", "text": piece}
    return {"type": "input_json_delta", "partial_json": piece}


def _management_of(generated: GeneratedReply) -> dict[str, Any]:
    edits = generated.applied_edits
    return {} if edits is None else {"context_management": {"applied_edits": edits}}


def events_of(generated: GeneratedReply, head: dict[str, Any], usage: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the events of a stream."""
    empty = {"content": [], "stop_reason": None, "stop_sequence": None, "stop_details": None}
    yield {"type": "message_start", "message": {**head, **empty, "usage": {**usage, "output_tokens": 1}}}
    for index, (begin, pieces) in enumerate(generated.blocks):
        citations = begin.get("citations", ())
        block = {**begin, "citations": []} if citations else begin
        is_sent_whole = begin["type"] != "compaction" or "signature" in begin  # a signed summary has no deltas
        block = block if is_sent_whole else {**begin, "content": None}
        yield {"type": "content_block_start", "index": index, "content_block": block}
        if index == 0:
            yield {"type": "ping"}
        for piece in pieces or ([""] if begin["type"] == "tool_use" else []):
            yield {"type": "content_block_delta", "index": index, "delta": _delta(begin, piece)}
        for citation in citations:
            delta = {"type": "citations_delta", "citation": citation}
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        if not is_sent_whole:
            delta = {"type": "compaction_delta", "content": begin["content"], "encrypted_content": None}
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        if begin["type"] == "thinking":
            signature = {"type": "signature_delta", "signature": sign("".join(pieces))}
            yield {"type": "content_block_delta", "index": index, "delta": signature}
        yield {"type": "content_block_stop", "index": index}
    ending = {"stop_reason": generated.reason, "stop_sequence": generated.sequence, "stop_details": None}
    yield {"type": "message_delta", "delta": ending, "usage": usage, **_management_of(generated)}
    yield {"type": "message_stop"}


def frame(event: dict[str, Any], padding: int = 0) -> bytes:
    text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    return f"event: {event['type']}\ndata: {text[:-1]}{' ' * padding}{text[-1]}\n\n".encode()
