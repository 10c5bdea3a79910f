"""Reads a request as Ollama's Go structs do (`api/types.go`, 2026-08), and names every field that they do not have."""

import re
from collections.abc import Iterator
from typing import Any

from messages_conformance.backends.wire import ContractViolation

_DURATION = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))*|[-+]?0")
_GO_NAMES = {str: "string", bool: "bool", int: "number", float: "number", dict: "object", list: "array"}

STRUCTS: dict[str, dict[str, str]] = {
    "ChatRequest": {
        "model": "string",
        "messages": "[]Message",
        "stream": "bool",
        "format": "any",
        "keep_alive": "duration",
        "tools": "[]Tool",
        "options": "Options",
        "think": "think",
        "truncate": "bool",
        "shift": "bool",
        "logprobs": "bool",
        "top_logprobs": "int",
    },
    "Message": {
        "role": "string",
        "content": "string",
        "thinking": "string",
        "images": "[]string",
        "tool_calls": "[]ToolCall",
        "tool_name": "string",
        "tool_call_id": "string",
    },
    "ToolCall": {"id": "string", "function": "ToolCallFunction"},
    "ToolCallFunction": {"index": "int", "name": "string", "arguments": "map"},
    "Tool": {"type": "string", "items": "any", "function": "ToolFunction"},
    "ToolFunction": {"name": "string", "description": "string", "parameters": "ToolFunctionParameters"},
    "ToolFunctionParameters": {
        "type": "string",
        "$defs": "any",
        "items": "any",
        "required": "[]string",
        "properties": "map of ToolProperty",
    },
    "ToolProperty": {
        "anyOf": "[]ToolProperty",
        "type": "string or []string",
        "items": "any",
        "description": "string",
        "enum": "[]any",
        "properties": "map of ToolProperty",
        "required": "[]string",
    },
    "Options": {
        **dict.fromkeys(("num_keep", "seed", "num_predict", "top_k", "repeat_last_n", "num_ctx", "num_batch"), "int"),
        **dict.fromkeys(("num_gpu", "main_gpu", "num_thread", "draft_num_predict"), "int"),
        **dict.fromkeys(("top_p", "min_p", "typical_p", "temperature", "repeat_penalty"), "float"),
        **dict.fromkeys(("presence_penalty", "frequency_penalty"), "float"),
        "stop": "[]string",
        "use_mmap": "bool",
    },
    "ShowRequest": {
        "model": "string",
        "system": "string",
        "template": "string",
        "verbose": "bool",
        "options": "Options",
        "name": "string",
    },
}
REQUIRED = {
    "ChatRequest": ("model", "messages"),
    "Message": ("role", "content"),
    "ToolCall": ("function",),
    "ToolCallFunction": ("name", "arguments"),
    "Tool": ("type", "function"),
    "ToolFunction": ("name", "parameters"),
    "ToolFunctionParameters": ("type", "properties"),
    "ShowRequest": ("model",),
}
"""Fields without which the real server works with an empty value, which is never intended."""


def _wrong(value: Any, path: str, kind: str) -> ContractViolation:
    given = "null" if value is None else _GO_NAMES.get(type(value), type(value).__name__)
    return ContractViolation("type", f"json: cannot unmarshal {given} into Go struct field {path} of type {kind}", path)


def _fits(value: Any, kind: str) -> bool:
    if kind == "int":
        return type(value) is int
    expected = {"string": str, "bool": bool, "map": dict}.get(kind)
    return isinstance(value, expected) if expected else type(value) in (int, float)


def check(value: Any, kind: str, path: str) -> Iterator[ContractViolation]:
    """Yield the paths of values with another type than the struct `kind`, or the Go type."""
    if kind == "any":
        return
    if kind == "think":
        yield from _check_think(value)
    elif kind == "duration":
        yield from _check_duration(value)
    elif kind == "string or []string":
        yield from check(value, "[]string" if isinstance(value, list) else "string", path)
    elif kind.startswith("[]"):
        if not isinstance(value, list):
            yield _wrong(value, path, kind)
            return
        for inner in value:
            yield from check(inner, kind[2:], path)
    elif kind.startswith("map of "):
        if not isinstance(value, dict):
            yield _wrong(value, path, "map")
            return
        for name, inner in value.items():
            yield from check(inner, kind[7:], f"{path}.{name}")
    elif kind in STRUCTS:
        yield from _check_struct(value, kind, path)
    elif not _fits(value, kind):
        yield _wrong(value, path, kind)


def _check_struct(value: Any, kind: str, path: str) -> Iterator[ContractViolation]:
    if not isinstance(value, dict):
        yield _wrong(value, path, f"api.{kind}")
        return
    fields = STRUCTS[kind]
    for name, inner in value.items():
        if name in fields:
            yield from check(inner, fields[name], f"{path}.{name}")
        else:
            yield ContractViolation("unknown_field", f"json: unknown field {name!r} in {path}", f"{path}.{name}")
    for name in REQUIRED.get(kind, ()):
        if name not in value:
            yield ContractViolation("missing", f"{path}.{name} is missing", f"{path}.{name}")


def _check_think(value: Any) -> Iterator[ContractViolation]:
    if isinstance(value, bool) or value in ("high", "medium", "low", "max"):
        return
    allowed = '"high", "medium", "low", "max", true, or false'
    if isinstance(value, str):
        yield ContractViolation("think", f'invalid think value: "{value}" (must be {allowed})', "think")
    else:
        yield ContractViolation("think", f"think must be a boolean or string ({allowed})", "think")


def _check_duration(value: Any) -> Iterator[ContractViolation]:
    if isinstance(value, str):
        if not _DURATION.fullmatch(value):
            yield ContractViolation("duration", f'time: invalid duration "{value}"', "keep_alive")
    elif not _fits(value, "float"):
        yield ContractViolation("duration", f"Unsupported type: '{type(value).__name__}'", "keep_alive")
