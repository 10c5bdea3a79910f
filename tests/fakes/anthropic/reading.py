"""Reads a Messages request as a conversation, and counts its tokens as the stand-in bills them."""

import base64
import json
from typing import Any

from tests.fakes.agent import Call, Conversation, Picture, Result, Tool, Turn
from tests.fakes.anthropic.rules import blocks_of

PICTURE_TOKENS = 765
LEAST_CACHED = 1_024


def count(value: Any) -> int:
    """Return about how many tokens a value has: four bytes of its JSON each, whatever a picture weighs."""

    def shorten(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: "" if key in ("data", "signature") else shorten(inner) for key, inner in part.items()}
        return [shorten(inner) for inner in part] if isinstance(part, list) else part

    text = json.dumps(shorten(value), ensure_ascii=False)
    return (len(text.encode("utf-8", "replace")) + 3) // 4


def _picture(source: dict[str, Any]) -> Picture:
    if source.get("type") != "base64":
        return Picture(source.get("type", ""), None)
    data = base64.b64decode(source["data"])
    is_png = source["media_type"] == "image/png"
    size = (int.from_bytes(data[16:20]), int.from_bytes(data[20:24])) if is_png else None
    return Picture(source["media_type"], size)


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(block["text"] for block in content or () if block.get("type") == "text")


def _turns(body: dict[str, Any]) -> list[Turn]:
    turns = [Turn("system", _text_of(body["system"]))] if body.get("system") else []
    open_calls: dict[str, Result] = {}
    for message in body["messages"]:
        turn = Turn(message["role"], _text_of(message["content"]))
        for block in blocks_of(message):
            if block["type"] == "image":
                turn.pictures.append(_picture(block["source"]))
            elif block["type"] == "tool_use":
                turn.results.append(Result(Call(block["name"], block["input"], block["id"]), ""))
                open_calls[block["id"]] = turn.results[-1]
            elif block["type"] == "tool_result":
                result, content = open_calls[block["tool_use_id"]], block.get("content") or ""
                result.text = _text_of(content)
                if not isinstance(content, str):
                    result.pictures = [_picture(one["source"]) for one in content if one["type"] == "image"]
        if turn.text or turn.pictures or turn.results:
            turns.append(turn)
    return turns


def read_conversation(body: dict[str, Any]) -> Conversation:
    """Return what a valid request says."""
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
    )


class PromptCache:
    """Remembers what was marked with `cache_control`; the same beginning is then read, not written."""

    def __init__(self) -> None:
        self.known: set[str] = set()

    def feed(self, body: dict[str, Any]) -> tuple[int, int]:
        """Return how many tokens of this request are read from the cache, and how many are written to it."""
        said: list[Any] = [*(body.get("tools") or ()), *_listed(body.get("system"))]
        said += [block for message in body["messages"] for block in blocks_of(message)]
        marks = [place for place, part in enumerate(said, 1) if isinstance(part, dict) and part.get("cache_control")]
        read = written = 0
        for place in marks:
            plain = [{key: value for key, value in part.items() if key != "cache_control"} for part in said[:place]]
            key, tokens = json.dumps(plain), count(plain)
            if tokens < LEAST_CACHED:
                continue
            if key in self.known:
                read = max(read, tokens)
            else:
                self.known.add(key)
                written = max(written, tokens)
        return read, max(written - read, 0)


def _listed(system: Any) -> list[Any]:
    return [{"type": "text", "text": system}] if isinstance(system, str) else system or []
