"""Encoding of a reply as Chat Completions: chunks of a stream, or one body. Source: OpenAI's API reference, 2026-11."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from anthropic_proxy.upstream.demo.reply import Reply
from anthropic_proxy.upstream.demo.requests import DemoRequest

_TOKEN = re.compile(r"\s*\w{1,6}|\s*[^\w\s]{1,4}|\s+")
_CHARACTERS_PER_TOKEN = 4
MAX_FRAGMENTS = 300
"""Fragments of a text or of arguments, so that a long reply does not stream for minutes."""


def encode_reply(reply: Reply, request: DemoRequest, head: Mapping[str, Any], call_id: str) -> Iterator[bytes]:
    """Return the events of a stream, `[DONE]` last, or one body; the tokens beyond the request's limit are cut.

    `head`: the fields of every chunk.
    """
    limit = 1 << 30 if request.limit is None else request.limit
    texts, spent, cut = _split(reply.text, limit)
    call: dict[str, Any] | None = None
    arguments: list[str] = []
    if reply.call is not None and not cut and spent < limit:
        # The name of a call counts as one token.
        arguments, used, cut = _split(msgspec.json.encode(reply.call.arguments).decode(), limit - spent - 1)
        spent += 1 + used
        call = {"id": call_id, "type": "function", "function": {"name": reply.call.name, "arguments": ""}}
    prompt = request.characters // _CHARACTERS_PER_TOKEN + 8
    usage = {"prompt_tokens": prompt, "completion_tokens": spent, "total_tokens": prompt + spent}
    reason = "length" if cut or (reply.call and not call) else "tool_calls" if call else "stop"
    if request.stream:
        deltas = _list_deltas(texts, call, arguments)
        return _encode_events(head, deltas, reason, usage if request.includes_usage else None)
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) or None, "refusal": None}
    if call:
        call["function"]["arguments"] = "".join(arguments)
        message["tool_calls"] = [call]
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return iter([msgspec.json.encode({**head, "object": "chat.completion", "choices": [choice], "usage": usage})])


def _split(text: str, limit: int) -> tuple[list[str], int, bool]:
    """Return the fragments of a text, its tokens, and whether tokens beyond the limit were cut."""
    tokens = _TOKEN.findall(text)
    kept = tokens[:limit]
    step = 1 + len(kept) // MAX_FRAGMENTS
    fragments = ["".join(kept[place : place + step]) for place in range(0, len(kept), step)]
    return fragments, len(kept), len(kept) < len(tokens)


def _list_deltas(texts: list[str], call: dict[str, Any] | None, arguments: list[str]) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": "" if texts else None, "refusal": None}
    yield from ({"content": text} for text in texts)
    if call:
        yield {"tool_calls": [{"index": 0, **call}]}
        yield from ({"tool_calls": [{"index": 0, "function": {"arguments": text}}]} for text in arguments)


def _encode_events(
    head: Mapping[str, Any], deltas: Iterable[dict[str, Any]], reason: str, usage: Mapping[str, int] | None
) -> Iterator[bytes]:
    fields = {**head, "object": "chat.completion.chunk", **({"usage": None} if usage else {})}
    for delta in deltas:
        yield _encode_event({**fields, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    yield _encode_event({**fields, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    if usage:
        yield _encode_event({**fields, "choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def _encode_event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"
