"""Function definitions for tools that Anthropic defines and the client runs, such as `bash_20250124`.

A request names such a tool only by its type, without a JSON Schema. `function_for_client_tool` returns a function with
description and schema, which any model can call. Source: the tool pages of the API reference and the types of the
official SDK, read 2026-11.
"""

import functools
import re
from typing import Any

import msgspec

from anthropic_proxy.messages.models import Tool

_TEXT = {"type": "string"}
_INTEGER = {"type": "integer"}
_POINT = {"type": "array", "items": _INTEGER, "minItems": 2, "maxItems": 2}
_LINES = {"type": "array", "items": _INTEGER, "minItems": 2, "maxItems": 2}


def _choice(*values: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(values)}


def _schema(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


_SCREEN_ACTIONS = (
    *("key", "type", "mouse_move", "left_click", "left_click_drag", "right_click", "middle_click", "double_click"),
    *("screenshot", "cursor_position"),
)
_LATER_ACTIONS = ("left_mouse_down", "left_mouse_up", "scroll", "hold_key", "wait", "triple_click")


def _editor(*commands: str, **more: Any) -> dict[str, Any]:
    return _schema(
        ["command", "path"],
        command=_choice(*commands),
        path=_TEXT,
        file_text={"type": "string", "description": "Content of the file that `create` writes."},
        old_str={"type": "string", "description": "Text that `str_replace` replaces; must occur exactly once."},
        insert_line={"type": "integer", "description": "Line after which `insert` inserts; 0: at the beginning."},
        view_range={**_LINES, "description": "First and last line that `view` shows; -1: to the end."},
        **more,
    )


def _computer(*actions: str) -> dict[str, Any]:
    return _schema(
        ["action"],
        action=_choice(*actions),
        coordinate={**_POINT, "description": "x and y in pixels from the top left corner."},
        start_coordinate={**_POINT, "description": "Where `left_click_drag` begins."},
        text={"type": "string", "description": "Text to type, or keys to press: `ctrl+s`."},
        scroll_direction=_choice("up", "down", "left", "right"),
        scroll_amount=_INTEGER,
        duration={"type": "number", "description": "Seconds, for `wait` and `hold_key`."},
        region={"type": "array", "items": _INTEGER, "description": "Corners that `zoom` shows: x0, y0, x1, y1."},
    )


_BASH = _schema(
    [],
    command={"type": "string", "description": "The command to run."},
    restart={"type": "boolean", "description": "Whether to restart the shell instead."},
)
_MEMORY = _schema(
    ["command"],
    command=_choice("view", "create", "str_replace", "insert", "delete", "rename"),
    path={"type": "string", "description": "A path below /memories."},
    view_range=_LINES,
    file_text=_TEXT,
    old_str=_TEXT,
    new_str=_TEXT,
    insert_line=_INTEGER,
    insert_text=_TEXT,
    old_path=_TEXT,
    new_path=_TEXT,
)

_EDITOR = "Views, creates and edits text files."
_COMPUTER = "Looks at a screen and uses mouse and keyboard."
_REPLACEMENT = {"type": "string", "description": "Text that `str_replace` puts in its place."}
_INSERTED = {"type": "string", "description": "Text that `insert` inserts."}
_BOTH = {"type": "string", "description": "Text that `str_replace` puts in its place, or that `insert` inserts."}
_OLD_EDITOR = _editor("view", "create", "str_replace", "insert", "undo_edit", new_str=_BOTH)
_NEW_EDITOR = _editor("view", "create", "str_replace", "insert", new_str=_REPLACEMENT, insert_text=_INSERTED)
_KINDS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("bash_", "bash", "Runs a command in a shell that lives through the conversation.", _BASH),
    ("text_editor_20241022", "str_replace_editor", _EDITOR, _OLD_EDITOR),
    ("text_editor_20250124", "str_replace_editor", _EDITOR, _OLD_EDITOR),
    ("text_editor_", "str_replace_based_edit_tool", _EDITOR, _NEW_EDITOR),
    ("computer_20241022", "computer", _COMPUTER, _computer(*_SCREEN_ACTIONS)),
    ("computer_", "computer", _COMPUTER, _computer(*_SCREEN_ACTIONS, *_LATER_ACTIONS, "zoom")),
    ("memory_", "memory", "Keeps notes in files under /memories; look there first.", _MEMORY),
)
"""Tools that Anthropic defines and the client runs. Rows: prefix of `type`, default name, description, JSON Schema. The
first row with a matching prefix is used."""
_CLIENT_TYPE = re.compile(r"(?:bash|text_editor|computer|memory)_\d+")


def function_for_client_tool(tool: Tool) -> Tool | None:
    """Return the function definition for a tool that Anthropic defines and the client runs. None: any other tool."""
    if tool.type is None or not _CLIENT_TYPE.fullmatch(tool.type):
        return None
    return _function(tool.type, tool.name, tool.display_width_px, tool.display_height_px)


@functools.lru_cache(maxsize=64)
def _function(kind: str, name: str, width: int | None, height: int | None) -> Tool:
    _, usual, description, schema = next(row for row in _KINDS if kind.startswith(row[0]))
    if width and height:
        description = f"{description} The screen is {width} × {height} pixels."
    shown = {"name": name or usual, "description": description, "input_schema": schema}
    source = msgspec.json.encode(shown)
    return msgspec.structs.replace(msgspec.json.decode(source, type=Tool), source=source)
