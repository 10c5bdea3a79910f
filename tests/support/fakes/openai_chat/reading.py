"""Reads a Chat Completions request as a conversation, and counts its tokens as the stand-in bills them."""

import json
from typing import Any

from messages_conformance.backends.openai.messages import decode_data_url
from tests.support.fakes.scripted_model import Call, Conversation, Media, Result, Tool, Turn

PICTURE_TOKENS = 765
_CACHE_STEP = 128
_MIN_CACHED_TOKENS = 1024


def count(text: str) -> int:
    """Return about how many tokens a text has: four bytes each."""
    return (len(text.encode("utf-8", "replace")) + 3) // 4


def media_of(url: str) -> Media:
    """Return the content of an image URL. A data URL contains it; other URLs are returned unchanged."""
    decoded = decode_data_url(url)
    return Media("", url=url) if decoded is None else Media(*decoded)


def _read_content(message: dict[str, Any]) -> list[str | Media]:
    content = message.get("content") or []
    if isinstance(content, str):
        return [content]
    pieces: list[str | Media] = []
    for part in content:
        if part["type"] == "text":
            pieces.append(part["text"])
        elif part["type"] == "image_url":
            pieces.append(media_of(part["image_url"]["url"]))
        elif part["type"] == "file":
            pieces.append(media_of(part["file"]["file_data"]))
        elif part["type"] == "document_url":
            pieces.append(media_of(part["document_url"]))
    return pieces


def arguments_of(text: str) -> Any:
    """Return the value of a call's arguments; text that is no JSON stays text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _turns(messages: list[dict[str, Any]]) -> list[Turn]:
    turns: list[Turn] = []
    open_calls: dict[str, Result] = {}
    for message in messages:
        if message["role"] == "tool":
            open_calls[message["tool_call_id"]].content = _read_content(message)
            continue
        calls = [
            Call(call["function"]["name"], arguments_of(call["function"]["arguments"]), call["id"])
            for call in message.get("tool_calls") or ()
            if "function" in call
        ]
        results = [Result(call) for call in calls]
        open_calls |= {result.call.id: result for result in results}
        role = "system" if message["role"] == "developer" else message["role"]
        turns.append(Turn(role, _read_content(message), results, _thoughts(message)))
    return turns


def _thoughts(message: dict[str, Any]) -> list[str]:
    """Return reasoning in every form that some server of this wire knows."""
    # Local servers read one of the two names, so the proxy sends the same text under both.
    thoughts = list(dict.fromkeys(message[name] for name in ("reasoning_content", "reasoning") if message.get(name)))
    chunks = message["content"] if isinstance(message.get("content"), list) else []
    thoughts += [text["text"] for chunk in chunks if chunk["type"] == "thinking" for text in chunk["thinking"]]
    thoughts += [entry.get("data") or json.dumps(entry) for entry in message.get("reasoning_details") or ()]
    extras = [call.get("extra_content") or {} for call in message.get("tool_calls") or ()]
    return thoughts + [extra["google"]["thought_signature"] for extra in extras if "google" in extra]


def read_conversation(body: dict[str, Any]) -> Conversation:
    """Return the conversation of a valid request."""
    offered = [tool["function"] for tool in body.get("tools") or () if "function" in tool]
    choice = body.get("tool_choice", "auto")
    wanted = body.get("response_format") or {}
    return Conversation(
        model=body["model"],
        turns=_turns(body["messages"]),
        tools={tool["name"]: Tool(tool["name"], tool.get("parameters") or {}) for tool in offered},
        schema=wanted["json_schema"].get("schema", {}) if wanted.get("type") == "json_schema" else None,
        choice=choice["function"]["name"] if isinstance(choice, dict) else choice,
        parallel=body.get("parallel_tool_calls", True),
    )


def prompt_of(body: dict[str, Any]) -> tuple[str, int]:
    """Return the billed text, in the order in which a beginning of it is cached, and the number of pictures."""
    pictures = 0

    def shorten(value: Any) -> Any:
        nonlocal pictures
        if isinstance(value, dict):
            return {key: shorten(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [shorten(inner) for inner in value]
        if isinstance(value, str) and value.startswith("data:") and ";base64," in value:
            pictures += 1
            return f"data of {len(value)}"
        return value

    prompt_items = [shorten(body.get("tools") or []), *(shorten(message) for message in body["messages"])]
    return "\n".join(json.dumps(part, ensure_ascii=False) for part in prompt_items), pictures


class PromptCache:
    """Remembers prompts, so that a repeated beginning is billed as cached: a client that keeps it stable can see so."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def feed(self, prompt: str) -> int:
        """Return how many tokens at the start of this prompt were seen before, in the provider's steps."""
        max_shared = 0
        for known in self.prompts:
            low, high = 0, min(len(known), len(prompt))
            while low < high:
                middle = (low + high + 1) // 2
                low, high = (middle, high) if known.startswith(prompt[:middle]) else (low, middle - 1)
            max_shared = max(max_shared, low)
        self.prompts = [*self.prompts[-15:], prompt]
        tokens = count(prompt[:max_shared]) // _CACHE_STEP * _CACHE_STEP
        return tokens if tokens >= _MIN_CACHED_TOKENS else 0
