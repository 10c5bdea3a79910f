"""Reads a chat request as a conversation."""

import base64
import json
import re
from typing import Any

from tests.support.fakes.scripted_model import Call, Conversation, Media, Result, Tool, Turn

PICTURE_TOKENS = 768
_ASKS = re.compile(r"\s*Call (?:one of the tools|the tool (\S+)) now\.\s*$")


def count(text: str) -> int:
    """Return about how many tokens a text has: four bytes each."""
    return (len(text.encode("utf-8", "replace")) + 3) // 4


def _picture(text: str) -> Media:
    data = base64.b64decode(text)
    if data.startswith(b"\x89PNG"):
        return Media("image/png", data)
    return Media("image/jpeg" if data.startswith(b"\xff\xd8") else "image/other", data)


def _turns(messages: list[dict[str, Any]]) -> list[Turn]:
    turns: list[Turn] = []
    for message in messages:
        if message["role"] == "tool":
            waiting = next((one for one in turns[-1].results if one.call.id == message.get("tool_call_id")), None)
            if waiting is not None:
                waiting.content = [message["content"]]
            continue
        calls = [
            Call(call["function"]["name"], call["function"]["arguments"], call.get("id", ""))
            for call in message.get("tool_calls") or ()
        ]
        content: list[str | Media] = [message["content"]] if message["content"] else []
        content += [_picture(picture) for picture in message.get("images") or ()]
        thoughts = [message["thinking"]] if message.get("thinking") else []
        turns.append(Turn(message["role"], content, [Result(call) for call in calls], thoughts))
    return turns


def read_conversation(body: dict[str, Any]) -> Conversation:
    """Return the conversation of a valid request. A model that is asked for a call in its text makes one."""
    offered = [tool["function"] for tool in body.get("tools") or ()]
    turns = _turns(body["messages"])
    choice = "auto"
    asks = _ASKS.search(turns[-1].text) if offered and turns[-1].role == "user" else None
    if asks is not None:
        choice = asks[1] or "required"
        turns[-1].content[0] = turns[-1].text[: asks.start()]
    return Conversation(
        model=body["model"],
        turns=turns,
        tools={tool["name"]: Tool(tool["name"], tool["parameters"]) for tool in offered},
        schema=body["format"] if isinstance(body.get("format"), dict) else None,
        choice=choice,
    )


def prompt_tokens(body: dict[str, Any]) -> int:
    pictures = sum(len(message.get("images") or ()) for message in body["messages"])
    messages = [{**message, "images": None} for message in body["messages"]]
    return count(json.dumps([body.get("tools"), messages], ensure_ascii=False)) + pictures * PICTURE_TOKENS
