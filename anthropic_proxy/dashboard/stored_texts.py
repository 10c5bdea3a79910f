"""Stored texts of requests and replies in a form that people read.

A reply is stored as the client received it: one line of JSON, or the events of a stream. A page shows its blocks.
"""

import json
from collections.abc import Iterator
from typing import Any

import msgspec

_TITLES = {"text": "Text", "thinking": "Thinking", "tool_use": "Tool call", "server_tool_use": "Server tool"}
_FRAGMENTS = ("text", "thinking", "partial_json")
"""Fields of a delta with a fragment of the text of a block."""


def format_request(data: bytes) -> str:
    """Return a stored request as indented JSON. Text that is no complete JSON is returned unchanged."""
    try:
        return msgspec.json.format(data, indent=2).decode("utf-8", "replace")
    except (msgspec.MsgspecError, RecursionError):
        return data.decode("utf-8", "replace")


def format_reply(data: bytes) -> str:
    """Return the blocks of a stored reply as text: `Tool call Read`, then its input as indented JSON.

    An error, or a reply in an unknown form, is returned as indented JSON.
    """
    try:
        blocks = list(_list_blocks(data))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        blocks = []
    return "\n\n".join(blocks) if blocks else format_request(data)


def _list_blocks(data: bytes) -> Iterator[str]:
    text = data.decode("utf-8", "replace")
    if text.startswith("{"):
        for block in json.loads(text)["content"]:
            yield _format_block(block, "")
        return
    opened: dict[int, tuple[dict[str, Any], list[str]]] = {}
    for line in text.splitlines():
        if not line.startswith("data: "):
            continue
        try:
            event = msgspec.json.decode(line.removeprefix("data: ").encode())
        except msgspec.DecodeError:  # only the beginning of the reply is stored
            break
        if event["type"] == "content_block_start":
            opened[event["index"]] = event["content_block"], []
        elif event["type"] == "content_block_delta":
            pieces = opened[event["index"]][1]
            pieces += [event["delta"][name] for name in _FRAGMENTS if name in event["delta"]]
        elif event["type"] == "error":
            yield f"Error\n{event['error']['message']}"
    yield from (_format_block(block, "".join(pieces)) for block, pieces in opened.values())


def _format_block(block: dict[str, Any], streamed: str) -> str:
    kind = block["type"]
    title = f"{_TITLES.get(kind, kind)} {block.get('name', '')}".rstrip()
    body = streamed or block.get(kind, "")
    if not isinstance(body, str) or not body or "input" in block:
        value = body if "input" in block and streamed else json.dumps(block.get("input", block), ensure_ascii=False)
        body = format_request(value.encode())
    return f"{title}\n{body}"
