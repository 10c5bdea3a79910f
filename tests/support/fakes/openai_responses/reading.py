"""Reads a Responses request as a conversation."""

from typing import Any

from messages_conformance.backends.responses.items import kind_of
from messages_conformance.backends.responses.rules import as_items
from tests.support.fakes.openai_chat.reading import arguments_of, media_of
from tests.support.fakes.scripted_model import Call, Conversation, Media, Result, Tool, Turn


def _read_content(content: Any) -> list[str | Media]:
    if isinstance(content, str):
        return [content]
    pieces: list[str | Media] = []
    for part in content:
        if part["type"] in ("input_text", "output_text"):
            pieces.append(part["text"])
        elif url := part.get("image_url") or part.get("file_data") or part.get("file_url"):
            pieces.append(media_of(url))
    return pieces


def _turns(items: list[dict[str, Any]]) -> list[Turn]:
    turns: list[Turn] = []
    open_calls: dict[str, Result] = {}
    thoughts: list[str] = []
    is_answered = False  # whether the calls of the last turn were: the next one is of another reply
    for item in items:
        kind = kind_of(item)
        if kind == "message":
            role = "system" if item["role"] == "developer" else item["role"]
            turns.append(Turn(role, _read_content(item["content"]), [], _pop_thoughts(thoughts)))
            is_answered = False
        elif kind == "reasoning":
            thoughts.append(item.get("encrypted_content") or "")
        elif kind == "function_call":
            result = Result(Call(item["name"], arguments_of(item["arguments"]), item["call_id"]))
            open_calls[item["call_id"]] = result
            if is_answered or not turns or turns[-1].role != "assistant":
                turns.append(Turn("assistant"))
                is_answered = False
            turns[-1].results.append(result)
            turns[-1].thoughts += _pop_thoughts(thoughts)
        elif kind == "function_call_output":
            open_calls[item["call_id"]].content = _read_content(item["output"])
            is_answered = True
    return turns


def _pop_thoughts(thoughts: list[str]) -> list[str]:
    """Return the thoughts that came before an item, and forget them: the item has them now."""
    popped = thoughts.copy()
    thoughts.clear()
    return popped


def read_conversation(body: dict[str, Any]) -> Conversation:
    """Return the conversation of a valid request."""
    items = as_items(body)
    placed = [tool for item in items if kind_of(item) == "additional_tools" for tool in item["tools"]]
    offered = [tool for tool in (*(body.get("tools") or ()), *placed) if tool["type"] == "function"]
    choice = body.get("tool_choice", "auto")
    wanted = (body.get("text") or {}).get("format") or {}
    instructions = [Turn("system", [body["instructions"]])] if body.get("instructions") else []
    forced = choice.get("name", "required") if isinstance(choice, dict) else choice
    return Conversation(
        model=body["model"],
        turns=[*instructions, *_turns(items)],
        tools={tool["name"]: Tool(tool["name"], tool.get("parameters") or {}) for tool in offered},
        schema=wanted.get("schema") if wanted.get("type") == "json_schema" else None,
        choice=forced,
        parallel=body.get("parallel_tool_calls", True),
        searches=any(tool["type"].startswith("web_search") for tool in body.get("tools") or ()),
    )
