"""Scripted replies in the form of Responses: one body, or the events of a stream.

The shapes are those of recorded traffic of OpenAI's own server (2025 and 2026).
"""

import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

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
    return {
        "input_tokens": prompt_tokens,
        "input_tokens_details": {"cached_tokens": cached_tokens, "cache_write_tokens": 0},
        "output_tokens": generated.tokens,
        "output_tokens_details": {"reasoning_tokens": generated.reasoning},
        "total_tokens": prompt_tokens + generated.tokens,
    }


def head_of(body: dict[str, Any], model: Model, chance: random.Random) -> dict[str, Any]:
    """Return the fields of its request that every `response` object of a reply repeats."""
    reasoning = {"effort": model.default_effort if model.reasons else None, "summary": None}
    return {
        "id": new_item_id("resp", chance),
        "object": "response",
        "created_at": int(time.time()),
        "background": False,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": {},
        "model": model.snapshot or body["model"],
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "prompt_cache_key": body.get("prompt_cache_key"),
        "reasoning": reasoning | (body.get("reasoning") or {}),
        "service_tier": "default",
        "store": body.get("store", True),
        "temperature": body.get("temperature", 1.0),
        "text": body.get("text") or {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "top_p": body.get("top_p", 1.0),
        "truncation": body.get("truncation", "disabled"),
        "user": None,
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
        encoders = {"reasoning": _thinking, "message": _message, "function_call": _call, "web_search_call": _search}
        encode_item = encoders[item["type"]]
        yield from encode_item(item, pieces, place, chance)
        yield {"type": "response.output_item.done", "output_index": place, "item": item}
    yield {"type": f"response.{output.status}", "response": body_of(output, head)}


def _thinking(item: dict[str, Any], pieces: list[str], place: int, chance: random.Random) -> Iterator[dict[str, Any]]:
    begun = item | {"summary": []}
    if "encrypted_content" in item:
        begun["encrypted_content"] = item["encrypted_content"][:40]  # not complete yet, as the real one's
    yield {"type": "response.output_item.added", "output_index": place, "item": begun}
    if not pieces:
        return
    where = {"item_id": item["id"], "output_index": place, "summary_index": 0}
    event = "response.reasoning_summary"
    yield {"type": f"{event}_part.added", **where, "part": {"type": "summary_text", "text": ""}}
    for piece in pieces:
        yield {"type": f"{event}_text.delta", **where, "delta": piece, **_padding(chance)}
    yield {"type": f"{event}_text.done", **where, "text": "".join(pieces)}
    yield {"type": f"{event}_part.done", **where, "part": {"type": "summary_text", "text": "".join(pieces)}}


def _message(item: dict[str, Any], pieces: list[str], place: int, chance: random.Random) -> Iterator[dict[str, Any]]:
    part = item["content"][0]
    name, kind = ("refusal", "refusal") if part["type"] == "refusal" else ("text", "output_text")
    where = {"item_id": item["id"], "output_index": place, "content_index": 0}
    yield {
        "type": "response.output_item.added",
        "output_index": place,
        "item": item | {"status": "in_progress", "content": []},
    }
    annotations = part.get("annotations") or []
    begun = part | {name: ""} | ({"annotations": []} if annotations else {})
    yield {"type": "response.content_part.added", **where, "part": begun}
    more = {} if kind == "refusal" else {"logprobs": []}
    for piece in pieces:
        yield {"type": f"response.{kind}.delta", **where, "delta": piece, **more, **_padding(chance)}
    for number, annotation in enumerate(annotations):
        event = "response.output_text.annotation.added"
        yield {"type": event, **where, "annotation_index": number, "annotation": annotation}
    yield {"type": f"response.{kind}.done", **where, name: part[name], **more}
    yield {"type": "response.content_part.done", **where, "part": part}


def _call(item: dict[str, Any], pieces: list[str], place: int, chance: random.Random) -> Iterator[dict[str, Any]]:
    begun = item | {"arguments": "", "status": "in_progress"}
    where = {"item_id": item["id"], "output_index": place}
    event = "response.function_call_arguments"
    yield {"type": "response.output_item.added", "output_index": place, "item": begun}
    for piece in pieces:
        yield {"type": f"{event}.delta", **where, "delta": piece, **_padding(chance)}
    yield {"type": f"{event}.done", **where, "arguments": item["arguments"], "name": item["name"]}


def _search(item: dict[str, Any], _: list[str], place: int, __: random.Random) -> Iterator[dict[str, Any]]:
    begun = {name: item[name] for name in ("id", "type")} | {"status": "in_progress"}
    yield {"type": "response.output_item.added", "output_index": place, "item": begun}
    for step in ("in_progress", "searching", "completed"):
        yield {"type": f"response.web_search_call.{step}", "output_index": place, "item_id": item["id"]}


def _padding(chance: random.Random) -> dict[str, Any]:
    return {"obfuscation": new_id("", chance.randint(1, 16), chance)}


def frame(event: dict[str, Any]) -> bytes:
    data = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    return f"event: {event['type']}\ndata: {data}\n\n".encode()
