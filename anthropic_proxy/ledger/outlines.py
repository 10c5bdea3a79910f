"""`outline_json`: the structure of a JSON body as text, with `[text, 1,204 characters]` in place of a text.

It shows the request to a provider without the texts of the conversation. Only short strings in fields such as `model`,
`role` and `id` are shown.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

MAX_LIST_ITEMS = 40
"""Maximum number of items of a JSON list that the outline contains: the first and the last ones."""
MAX_WORD_CHARACTERS = 64
"""Maximum number of characters of a string without spaces that the outline contains unchanged."""
_SHOWN_FIELDS = frozenset(
    ("model", "role", "type", "name", "id", "call_id", "tool_call_id", "tool_use_id", "effort", "tool_choice", "mode")
)
"""Names of fields with strings that the outline contains."""
_TOOL_LISTS = frozenset(("tools", "functionDeclarations", "function_declarations"))
_FIRST_ITEMS = 5


def outline_json(body: bytes) -> str:
    """Return the structure of the JSON object `body` as text, with one line for each field or list item.

    "": `body` is no JSON object, or is nested too deeply.
    """
    try:
        fields = msgspec.json.decode(body)
        return "\n".join(["{", *_list_fields(fields), "}"]) if isinstance(fields, dict) else ""
    except (msgspec.DecodeError, RecursionError):
        return ""


def _list_fields(fields: Mapping[str, Any]) -> Iterator[str]:
    for number, (name, value) in enumerate(fields.items(), 1):
        comma = "," if number < len(fields) else ""
        if isinstance(value, list) and value and name not in _TOOL_LISTS and isinstance(value[0], dict):
            yield f"  {_quote(name)}: ["
            items = [_outline(one, name) for one in value]
            yield from (f"    {text}," for text in _shorten(items))
            yield f"  ]{comma}"
        else:
            yield f"  {_quote(name)}: {_outline(value, name)}{comma}"


def _outline(value: Any, name: str) -> str:
    """Return the JSON value `value` on one line, with texts of the conversation replaced by their lengths.

    `name` is the field with this value, which decides whether a string is shown.
    """
    if isinstance(value, str):
        is_word = len(value) <= MAX_WORD_CHARACTERS and not any(map(str.isspace, value))
        return _quote(value) if name in _SHOWN_FIELDS and is_word else f"[text, {len(value):,} characters]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_quote(key)}: {_outline(one, key)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        if name in _TOOL_LISTS:
            return f"[{len(value):,} tools]"
        return "[" + ", ".join(_shorten([_outline(one, name) for one in value])) + "]"
    return json.dumps(value)


def _shorten(items: Sequence[str]) -> Sequence[str]:
    """Return the first and the last of `items`, the lines of a JSON list, if they exceed `MAX_LIST_ITEMS`.

    A line between them states the number of omitted items.
    """
    hidden = len(items) - MAX_LIST_ITEMS
    if hidden <= 0:
        return items
    return [*items[:_FIRST_ITEMS], f"[{hidden:,} more]", *items[_FIRST_ITEMS + hidden :]]


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
