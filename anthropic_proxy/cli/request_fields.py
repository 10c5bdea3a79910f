"""Paths of the fields in a request body, such as `thinking.type`, which the command `explain` shows.

`list_fields` returns the values at each path, so that two requests can be compared.
"""

from collections.abc import Iterator, Mapping
from typing import Any

_EXPANDED_LISTS = {"tools": "name", "mcp_servers": "name"}
"""List field → key that names its elements."""


def list_fields(body: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the fields of a request body except `model`: path of the field → its values.

    Content blocks of all messages are grouped by their type: those of the type TYPE are at the path `messages.TYPE`.
    """
    fields: dict[str, list[Any]] = {}
    for field, value in _list_values(body):
        fields.setdefault(field, []).append(value)
    return fields


def _list_values(body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in body.items():
        if name == "messages" and isinstance(value, list):
            for message in value:
                yield from _list_blocks(message)
        elif name in _EXPANDED_LISTS and isinstance(value, list):
            key = _EXPANDED_LISTS[name]
            yield from ((f"{name}.{row.get(key, row.get('type', ''))}", row) for row in value if isinstance(row, dict))
        elif isinstance(value, dict) and value:
            yield from ((f"{name}.{key}", member) for key, member in value.items())
        elif name != "model":
            yield name, value


def _list_blocks(message: Any) -> Iterator[tuple[str, Any]]:
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, str):
        yield "messages.text", {"type": "text", "text": content}
    for block in content if isinstance(content, list) else ():
        if isinstance(block, dict):
            yield f"messages.{block.get('type', '')}", block
