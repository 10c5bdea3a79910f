"""What Anthropic's servers do around the model: they edit the conversation, and turn what it quotes into citations.

The scripted model marks a quotation as `<cite n="2">words</cite>`, with the number of a sentence or block of the
sources in their order.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from messages_conformance.backends.messages.rules import blocks_of
from tests.support.fakes.anthropic.reading import count

CLEARED = "[Old tool result content cleared]"
_MARK = re.compile(r'<cite n="(\d+)">(.*?)</cite>')
_SENTENCE = re.compile(r"[^.]*\.\s*")


def edit_context(body: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the request as the model reads it, and what its edits have removed."""
    applied = []
    edited = json.loads(json.dumps(body))
    for edit in (body.get("context_management") or {}).get("edits", ()):
        change = {"clear_tool_uses_20250919": _clear_tool_uses, "clear_thinking_20251015": _clear_thinking}[
            edit["type"]
        ]
        before = count(edited["messages"])
        if number := change(edited["messages"], edit, before):
            name = "cleared_tool_uses" if change is _clear_tool_uses else "cleared_thinking_turns"
            tokens = before - count(edited["messages"])
            applied.append({"type": edit["type"], name: number, "cleared_input_tokens": tokens})
    return edited, applied


def _clear_tool_uses(messages: list[dict[str, Any]], edit: dict[str, Any], tokens: int) -> int:
    calls = {block["id"]: block for message in messages for block in blocks_of(message) if block["type"] == "tool_use"}
    results = [block for message in messages for block in blocks_of(message) if block["type"] == "tool_result"]
    trigger = edit.get("trigger", {"type": "input_tokens", "value": 100_000})
    if (tokens if trigger["type"] == "input_tokens" else len(results)) <= trigger["value"]:
        return 0
    old = results[: max(len(results) - edit.get("keep", {"value": 3})["value"], 0)]
    cleared = [one for one in old if calls[one["tool_use_id"]]["name"] not in (edit.get("exclude_tools") or ())]
    inputs = edit.get("clear_tool_inputs") or ()
    for result in cleared:
        result["content"] = CLEARED
        call = calls[result["tool_use_id"]]
        if inputs is True or (inputs and call["name"] in inputs):
            call["input"] = {}
    return len(cleared)


def _clear_thinking(messages: list[dict[str, Any]], edit: dict[str, Any], _: int) -> int:
    keep = edit.get("keep", {"value": 1})
    if keep == "all" or keep.get("type") == "all":
        return 0
    turns: list[list[dict[str, Any]]] = [[]]
    for message in messages:
        blocks = blocks_of(message)
        if message["role"] == "user" and all(block["type"] != "tool_result" for block in blocks) and turns[-1]:
            turns.append([])
        if any(block["type"] == "thinking" for block in blocks):
            turns[-1].append(message)
    old = [turn for turn in turns if turn][: -keep["value"]]
    for message in (message for turn in old for message in turn):
        message["content"] = [block for block in message["content"] if block["type"] != "thinking"]
    return len(old)


_EDITS = {
    "clear_tool_uses_20250919": ("cleared_tool_uses", _clear_tool_uses),
    "clear_thinking_20251015": ("cleared_thinking_turns", _clear_thinking),
}
"""Type of an edit → field of its report, and what makes it. Others are not made."""


def split_at_quotations(text: str, body: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the texts of a reply with their citations. A reply to a request without sources has no quotations."""
    passages = [*_list_passages(body["messages"])]
    begin = 0
    for mark in _MARK.finditer(text) if passages else ():
        if mark.start() > begin:
            yield text[begin : mark.start()], []
        yield mark[2], [passages[int(mark[1]) - 1]]
        begin = mark.end()
    if begin < len(text) or not text:
        yield text[begin:], []


def _list_passages(messages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    documents = results = 0
    for block in (block for message in messages for block in blocks_of(message)):
        cites = (block.get("citations") or {}).get("enabled") if block["type"] != "text" else False
        if block["type"] == "document":
            about = {"document_index": documents, "document_title": block.get("title"), "file_id": None}
            documents += 1
            for sentence in _SENTENCE.finditer(block["source"].get("data", "")) if cites else ():
                place = {"start_char_index": sentence.start(), "end_char_index": sentence.end()}
                yield {"type": "char_location", "cited_text": sentence[0], **about, **place}
        elif block["type"] == "search_result":
            source = {"search_result_index": results, "source": block["source"], "title": block["title"]}
            results += 1
            for number, one in enumerate(block["content"] if cites else ()):
                place = {"start_block_index": number, "end_block_index": number + 1}
                yield {"type": "search_result_location", "cited_text": one["text"], **source, **place}
