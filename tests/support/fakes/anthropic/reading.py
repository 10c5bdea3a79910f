"""Reads a Messages request as a conversation, and counts its tokens as the stand-in bills them."""

import base64
import json
from typing import Any

from messages_conformance.backends.messages.rules import blocks_of
from tests.support.fakes.scripted_model import Call, Conversation, Media, Result, Tool, Turn

MIN_CACHED_TOKENS = 1_024


def count(value: Any) -> int:
    """Return the approximate tokens of a value: four bytes of JSON each. Images count by their bytes too."""

    def shorten(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: "" if key in ("data", "signature") else shorten(inner) for key, inner in part.items()}
        return [shorten(inner) for inner in part] if isinstance(part, list) else part

    text = json.dumps(shorten(value), ensure_ascii=False)
    return (len(text.encode("utf-8", "replace")) + 3) // 4


def _media(source: dict[str, Any]) -> Media:
    if source.get("type") != "base64":
        return Media(source.get("media_type", ""), url=source.get("url", source.get("type", "")))
    return Media(source["media_type"], base64.b64decode(source["data"]))


def _read_content(content: Any) -> list[str | Media]:
    if isinstance(content, str):
        return [content]
    shown = [block for block in content or () if block.get("type") in ("text", "image", "document")]
    return [block["text"] if block["type"] == "text" else _media(block["source"]) for block in shown]


def _turns(body: dict[str, Any]) -> list[Turn]:
    turns = [Turn("system", _read_content(body["system"]))] if body.get("system") else []
    open_calls: dict[str, Result] = {}
    for message in body["messages"]:
        turn = Turn(message["role"], _read_content(message["content"]))
        for block in blocks_of(message):
            if block["type"] == "compaction" and block.get("content"):
                turns.append(Turn("user", [block["content"]]))
            if block["type"] == "tool_use":
                turn.results.append(Result(Call(block["name"], block["input"], block["id"])))
                open_calls[block["id"]] = turn.results[-1]
            elif block["type"] == "tool_result":
                open_calls[block["tool_use_id"]].content = _read_content(block.get("content"))
            elif block["type"] == "thinking":
                turn.thoughts.append(block["thinking"])
        if turn.content or turn.results:
            turns.append(turn)
    return turns


def read_conversation(body: dict[str, Any]) -> Conversation:
    """Return the conversation of a valid request."""
    offered = [tool for tool in body.get("tools") or () if "input_schema" in tool]
    choice = body.get("tool_choice") or {"type": "auto"}
    words = {"auto": "auto", "any": "required", "none": "none"}
    wanted = (body.get("output_config") or {}).get("format") or body.get("output_format") or {}
    return Conversation(
        model=body["model"],
        turns=_turns(body),
        tools={tool["name"]: Tool(tool["name"], tool["input_schema"]) for tool in offered},
        schema=wanted.get("schema"),
        choice=choice["name"] if choice["type"] == "tool" else words[choice["type"]],
        parallel=not choice.get("disable_parallel_tool_use"),
        searches=any(tool.get("type", "").startswith("web_search") for tool in body.get("tools") or ()),
    )


class PromptCache:
    """Cache of prefixes marked with `cache_control`.

    An equal prefix in a later request counts as read, not as written.
    """

    def __init__(self) -> None:
        self.known: set[str] = set()

    def feed(self, body: dict[str, Any]) -> tuple[int, int]:
        """Return how many tokens of this request are read from the cache, and how many are written to it."""
        items: list[Any] = [*(body.get("tools") or ()), *_listed(body.get("system"))]
        items += [block for message in body["messages"] for block in blocks_of(message)]
        marks = [place for place, part in enumerate(items, 1) if isinstance(part, dict) and part.get("cache_control")]
        read = written = 0
        for place in marks:
            plain = [{key: value for key, value in part.items() if key != "cache_control"} for part in items[:place]]
            key, tokens = json.dumps(plain), count(plain)
            if tokens < MIN_CACHED_TOKENS:
                continue
            if key in self.known:
                read = max(read, tokens)
            else:
                self.known.add(key)
                written = max(written, tokens)
        return read, max(written - read, 0)


def _listed(system: Any) -> list[Any]:
    return [{"type": "text", "text": system}] if isinstance(system, str) else system or []
