"""What the API does with a conversation before its model reads it: edits of the context, and compaction blocks.

Source: API reference, Context editing and Compaction; the types `BetaContextManagementConfigParam` and
`BetaCompactionBlockParam` of the official SDK, read 2026-11.
"""

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any

from messages_conformance.backends.messages.rules import blocks_of
from messages_conformance.backends.wire import Json, count_tokens

CLEARED = "[Old tool result content cleared]"
"""What the model reads in place of a result."""
_TRIGGER: Json = {"type": "input_tokens", "value": 100_000}
_KEPT_USES: Json = {"value": 3}
_KEPT_TURNS: Json = {"value": 1}
_KEEP_ALL = re.compile(r"opus-(?:4[-.][5-9]|[5-9])|sonnet-(?:4[-.][6-9]|[5-9])|fable-|mythos-")
"""Models that keep the thinking of all turns if an edit does not say how many."""


def edit_context(body: Mapping[str, Any]) -> tuple[Json, list[Json]]:
    """Return a request as the model reads it, and the edits that have changed it."""
    messages = _begin_behind_summary(copy.deepcopy(body["messages"]))
    applied = list[Json]()
    for edit in (body.get("context_management") or {}).get("edits") or ():
        if edit["type"] not in _EDITS:
            continue
        count_name, make_edit = _EDITS[edit["type"]]
        if "keep" not in edit and count_name == "cleared_thinking_turns" and _KEEP_ALL.search(body.get("model", "")):
            continue
        before = count_tokens(messages)
        changed = copy.deepcopy(messages)
        count = make_edit(changed, edit, before)
        won = before - count_tokens(changed)
        if count and won >= (edit.get("clear_at_least") or {}).get("value", 0):
            messages = changed
            applied.append({"type": edit["type"], count_name: count, "cleared_input_tokens": won})
    return {**body, "messages": messages}, applied


def _clear_tool_uses(messages: list[Json], edit: Json, tokens: int) -> int:
    blocks = [block for message in messages for block in blocks_of(message)]
    calls = {block["id"]: block for block in blocks if block["type"] == "tool_use"}
    results = [block for block in blocks if block["type"] == "tool_result"]
    trigger = edit.get("trigger") or _TRIGGER
    if (tokens if trigger["type"] == "input_tokens" else len(results)) <= trigger["value"]:
        return 0
    old = results[: max(len(results) - (edit.get("keep") or _KEPT_USES)["value"], 0)]
    cleared = [one for one in old if calls[one["tool_use_id"]]["name"] not in (edit.get("exclude_tools") or ())]
    inputs = edit.get("clear_tool_inputs") or ()
    for result in cleared:
        result["content"] = CLEARED
        call = calls[result["tool_use_id"]]
        if inputs is True or call["name"] in inputs:
            call["input"] = {}
    return len(cleared)


def _clear_thinking(messages: list[Json], edit: Json, _tokens: int) -> int:
    keep = edit.get("keep") or _KEPT_TURNS
    if keep == "all" or keep.get("type") == "all":
        return 0
    turns: list[list[Json]] = [[]]
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


_EDITS: Mapping[str, tuple[str, Callable[[list[Json], Json, int], int]]] = {
    "clear_tool_uses_20250919": ("cleared_tool_uses", _clear_tool_uses),
    "clear_thinking_20251015": ("cleared_thinking_turns", _clear_thinking),
}
"""Type of an edit → name of its count, and what makes it. `compact_20260112` needs more tokens than checks send."""


def _begin_behind_summary(messages: list[Json]) -> list[Json]:
    """Return the messages from the last compaction block on. One without content has no effect."""
    for place in reversed(range(len(messages))):
        blocks = blocks_of(messages[place])
        for number in reversed(range(len(blocks))):
            if blocks[number]["type"] == "compaction" and blocks[number].get("content"):
                return [{**messages[place], "content": blocks[number:]}, *messages[place + 1 :]]
    return messages
