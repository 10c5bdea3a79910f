"""Scripted replies in the form of Responses: one body, or the events of a stream.

The shapes are those of recorded traffic of OpenAI's own server (2025 and 2026).
"""

import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from messages_conformance.backends.reply import Usage
from messages_conformance.backends.responses import wire
from tests.support.fakes.openai_chat.models import Model
from tests.support.fakes.openai_chat.replies import GeneratedReply, new_id

_PAGES = ("https://example.org/a", "https://example.org/b")
_SUMMARY = ("**Looking at the request**\n\nI look at ", "what was asked, ", "and do it.")


def new_item_id(prefix: str, chance: random.Random) -> str:
    return f"{prefix}_" + "".join(chance.choice("0123456789abcdef") for _ in range(48))


@dataclass
class Output:
    """Items of a reply, the streamed fragments of each, and the end of the reply."""

    generated: GeneratedReply
    usage: dict[str, Any]
    items: list[tuple[dict[str, Any], list[str]]] = field(default_factory=list)
    """Each complete item, and the pieces in which its text arrives."""

    @property
    def status(self) -> str:
        return "incomplete" if self.generated.finish in ("length", "content_filter") else "completed"

    @property
    def reason(self) -> str | None:
        return {"length": "max_output_tokens", "content_filter": "content_filter"}.get(self.generated.finish)


def new_output(
    generated: GeneratedReply,
    usage: dict[str, Any],
    *,
    summarizes: bool,
    gives_reasoning: bool,
    chance: random.Random,
    query: str = "",
) -> Output:
    """Return the reply as items, with identifiers and encrypted reasoning of their own."""
    output = Output(generated, usage)
    if generated.reasoning:
        pieces = list(_SUMMARY) if summarizes else []
        summary = [{"type": "summary_text", "text": "".join(pieces)}] if pieces else []
        item: dict[str, Any] = {"id": new_item_id("rs", chance), "type": "reasoning", "summary": summary}
        if gives_reasoning:
            item["encrypted_content"] = new_id("gAAAAABp", 300, chance) + "=="
        output.items.append((item, pieces))
    if query:
        output.items.append((_search_call(query, chance), []))
    for kind, pieces in (("output_text", generated.text), ("refusal", generated.refusal)):
        if pieces or (
            kind == "output_text" and not generated.calls and not generated.refusal and output.status == "completed"
        ):
            part: dict[str, Any] = {"type": kind, "text" if kind == "output_text" else "refusal": "".join(pieces)}
            if kind == "output_text":
                part |= {"annotations": _citations(part["text"]) if query else [], "logprobs": []}
            item = {"id": new_item_id("msg", chance), "type": "message", "role": "assistant", "content": [part]}
            output.items.append((item | {"status": output.status}, pieces))
    for identity, name, pieces in generated.calls:
        item = {"id": new_item_id("fc", chance), "type": "function_call", "call_id": identity, "name": name}
        output.items.append((item | {"arguments": "".join(pieces), "status": "completed"}, pieces))
    return output


def _search_call(query: str, chance: random.Random) -> dict[str, Any]:
    sources = [{"type": "url", "url": url} for url in _PAGES]
    action = {"type": "search", "query": query, "queries": [query], "sources": sources}
    return {"id": new_item_id("ws", chance), "type": "web_search_call", "status": "completed", "action": action}


def _citations(text: str) -> list[dict[str, Any]]:
    page = f"{_PAGES[0]}?utm_source=openai"
    end = text.find(".") + 1
    return [{"type": "url_citation", "start_index": 0, "end_index": end, "url": page, "title": "A page of an example"}]


def usage_of(generated: GeneratedReply, prompt_tokens: int, cached_tokens: int) -> dict[str, Any]:
    usage = Usage(prompt_tokens, generated.tokens, cached=cached_tokens, thinking=generated.reasoning)
    return wire.usage_of(usage)


def head_of(body: dict[str, Any], model: Model, chance: random.Random) -> dict[str, Any]:
    """Return the fields of its request that every `response` object of a reply repeats."""
    head = wire.head_of(body, new_item_id("", chance).removeprefix("_"))
    del head["encrypts"]
    effort = {"effort": model.default_effort if model.reasons else None, "summary": None}
    return head | {
        "created_at": int(time.time()),
        "model": model.snapshot or body["model"],
        "reasoning": effort | (body.get("reasoning") or {}),
        "service_tier": "default",
    }


def body_of(output: Output, head: dict[str, Any]) -> dict[str, Any]:
    """Return the unstreamed reply, which is also the content of the last event."""
    reason = output.reason
    return head | {
        "status": output.status,
        "error": None,
        "incomplete_details": {"reason": reason} if reason else None,
        "output": [item for item, _ in output.items],
        "usage": output.usage,
    }


def _begun(head: dict[str, Any]) -> dict[str, Any]:
    return head | {"status": "in_progress", "error": None, "incomplete_details": None, "output": [], "usage": None}


def events_of(output: Output, head: dict[str, Any], chance: random.Random) -> Iterator[dict[str, Any]]:
    for number, event in enumerate(_events(output, head, chance)):
        yield {"type": event.pop("type"), "sequence_number": number, **event}


def _events(output: Output, head: dict[str, Any], chance: random.Random) -> Iterator[dict[str, Any]]:
    yield {"type": "response.created", "response": _begun(head)}
    yield {"type": "response.in_progress", "response": _begun(head)}
    for place, (item, pieces) in enumerate(output.items):
        if item["type"] == "web_search_call":
            yield from _search(item, place)
            continue
        for event in wire.item_events(item, tuple(pieces), place):
            assert isinstance(event, dict)
            yield event | (_padding(chance) if event["type"] in _PADDED else {})
    yield {"type": f"response.{output.status}", "response": body_of(output, head)}


def _search(item: dict[str, Any], place: int) -> Iterator[dict[str, Any]]:
    begun = {name: item[name] for name in ("id", "type")} | {"status": "in_progress"}
    yield {"type": "response.output_item.added", "output_index": place, "item": begun}
    for step in ("in_progress", "searching", "completed"):
        yield {"type": f"response.web_search_call.{step}", "output_index": place, "item_id": item["id"]}
    yield {"type": "response.output_item.done", "output_index": place, "item": item}


_PADDED = frozenset(
    f"response.{kind}.delta" for kind in ("output_text", "refusal", "reasoning_summary_text", "function_call_arguments")
)
"""Events whose length says nothing about their content."""


def _padding(chance: random.Random) -> dict[str, Any]:
    return {"obfuscation": new_id("", chance.randint(1, 16), chance)}


def frame(event: dict[str, Any]) -> bytes:
    data = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    return f"event: {event['type']}\ndata: {data}\n\n".encode()
