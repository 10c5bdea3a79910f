"""Tool calls whose arguments are nested values in a notation of the model's own, which is no JSON.

    <|tool_call>call:Read{path:<|"|>a.py<|"|>,lines:[1,2]}<tool_call|>

    ]<]minimax[>[<invoke name="Read">]<]minimax[>[<path>a.py]<]minimax[>[</path>]<]minimax[>[</invoke>

A value has the type of its schema. A call with a parameter that its tool does not have is no call: its notation would
be ambiguous, because only marks tell values from names.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.wires.tool_call_repair.calls import OfferedTools, RecoveredCall
from anthropic_proxy.engine.wires.tool_call_repair.tagged_calls import schema_types, typed_value

_MAX_DEPTH = 64
_scan = json.JSONDecoder(strict=False).raw_decode


def read_gemma_calls(text: str, offered: OfferedTools) -> list[RecoveredCall] | None:
    """Return the calls of one or more `<|tool_call>call:name{key:<|"|>text<|"|>,other:1}<tool_call|>`.

    Written by Gemma 4 ("Gemma 4 prompt formatting"; vLLM's `gemma4` parser), with `<start_function_call>` and
    `<escape>` by FunctionGemma (vLLM's `functiongemma`). A server that drops special tokens leaves `call:name{key:1}`.
    """
    calls: list[RecoveredCall] = []
    position = 0
    while begin := _BRACE_CALL.match(text, position):
        name = offered.find_tool_name(begin["name"])
        if name is None:
            return None
        properties = offered.schema_properties(name)
        try:
            given, position = _read_braces(text, begin.end(), {"properties": properties}, _MAX_DEPTH)
            if properties and not given.keys() <= properties.keys():
                return None
            arguments = msgspec.json.encode(given).decode()
        except (ValueError, RecursionError, UnicodeEncodeError):
            return None
        calls.append(RecoveredCall(name, arguments))
        end = _BRACE_CALL_END.match(text, position)
        position = end.end() if end else position
    return calls if position == len(text) else None


_BRACE_CALL = compile_anchored(
    r"\s*+(?:<\|tool_call>\s*+|<start_function_call>\s*+)?call:(?P<name>[\w.:/-]{1,128})\s*+\{"
)
_BRACE_CALL_END = compile_anchored(
    r"(?:\s++|<tool_call\|>|<end_function_call>|<turn\|>|<\|tool_response>|<start_function_response>)*+"
)
_QUOTE = r'(?:<\|"\|>|<escape>|")?'
_KEY = compile_anchored(rf'{_QUOTE}(?P<name>[^\s:,{{}}\[\]<>"]++){_QUOTE}\s*+:\s*+')
_GAP = compile_anchored(r"[\s,]*+")
_BARE = compile_anchored(r'[^,{}\[\]<>"]++')
_QUOTES = ('<|"|>', "<escape>")


def _read_braces(text: str, position: int, schema: Any, depth: int) -> tuple[dict[str, Any], int]:
    """Return the object whose members begin at index `position`, and the index after its brace.

    Raises `ValueError` for another text.
    """
    if not depth:
        raise ValueError
    given: dict[str, Any] = {}
    while True:
        gap = _GAP.match(text, position)
        position = gap.end() if gap else position
        if text.startswith("}", position):
            return given, position + 1
        key = _KEY.match(text, position)
        if key is None or key["name"] in given:
            raise ValueError
        inner = _member_schema(schema, key["name"])
        given[key["name"]], position = _read_value(text, key.end(), inner, depth - 1)


def _read_value(text: str, position: int, schema: Any, depth: int) -> tuple[Any, int]:
    for quote in _QUOTES:
        if text.startswith(quote, position):
            end = text.index(quote, position + len(quote))
            return text[position + len(quote) : end], end + len(quote)
    if text.startswith("{", position):
        return _read_braces(text, position + 1, schema, depth)
    if text.startswith("[", position):
        items: list[Any] = []
        position += 1
        while True:
            gap = _GAP.match(text, position)
            position = gap.end() if gap else position
            if text.startswith("]", position):
                return items, position + 1
            if not depth:
                raise ValueError
            item, position = _read_value(text, position, _item_schema(schema), depth - 1)
            items.append(item)
    if text.startswith('"', position):
        value, end = _scan(text, position)
        return value, end
    bare = _BARE.match(text, position)
    if bare is None or not (written := bare[0].strip()):
        raise ValueError
    return typed_value(written, schema if schema_types(schema) else _ANY), bare.end()


_ANY = {"type": ["boolean", "number", "null"]}
"""Schema for a value without quotes whose schema names no type: it is read as JSON if it is JSON."""


def _member_schema(schema: Any, name: str) -> Any:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return properties.get(name) if isinstance(properties, Mapping) else None


def _item_schema(schema: Any) -> Any:
    return schema.get("items") if isinstance(schema, dict) else None


_MARK = re.escape("]<]minimax[>[")
_INVOKE = compile_anchored(rf'\s*+(?:{_MARK}\s*+)?<invoke name="(?P<name>[^"<>]++)">')
_INVOKE_END = compile_anchored(rf"\s*+(?:{_MARK}\s*+)?</invoke>")
_WRAPPER = compile_anchored(rf"\s*+(?:{_MARK}\s*+)?<tool_call>")
_WRAPPER_END = compile_anchored(rf"\s*+(?:{_MARK}\s*+)?</tool_call>")
_TAG = compile_later(rf"{_MARK}\s*+<(?P<end>/?)(?P<name>[^<>]{{1,200}})>")


class _Element(Struct):
    name: str
    schema: Any
    start: int
    """Index of the text after the start tag, or after the end tag of the latest inner element."""
    inner: list[tuple[str, Any]] = []


def read_minimax_calls(text: str, offered: OfferedTools) -> list[RecoveredCall] | None:
    """Return the calls of one or more `<invoke name="…">` with the mark `]<]minimax[>[` before each tag.

    The name of a parameter is that of its tag. Members of an object and items of a list (`<item>`) are tags within it.
    Written by MiniMax M3 (chat template; vLLM's `minimax_m3` and SGLang's `minimax-m3` parsers), in the wild also
    without the mark before `<tool_call>` and `<invoke>`.
    """
    wrapper = _WRAPPER.match(text)
    position = wrapper.end() if wrapper else 0
    calls: list[RecoveredCall] = []
    while begin := _INVOKE.match(text, position):
        name = offered.find_tool_name(begin["name"])
        if name is None:
            return None
        properties = offered.schema_properties(name)
        read = _read_tags(text, begin.end(), {"properties": properties})
        if read is None or (properties and not read[0].keys() <= properties.keys()):
            return None
        calls.append(RecoveredCall(name, msgspec.json.encode(read[0]).decode()))
        position = read[1]
    if calls and (end := _WRAPPER_END.match(text, position)):
        position = end.end()
    return calls if not text[position:].strip() else None


def _read_tags(text: str, position: int, schema: Any) -> tuple[dict[str, Any], int] | None:
    """Return the parameters at index `position`, and the index after the end tag of their call. None: another text."""
    root = _Element("", schema, position)
    opened = [root]
    if end := _INVOKE_END.match(text, position):
        return {}, end.end()
    for tag in _TAG.finditer(text, position):
        element = opened[-1]
        name = tag["name"].strip()
        is_inside = len(opened) == 1 or bool(element.inner) or not tag["end"]
        if is_inside and not text[element.start : tag.start()].isspace() and element.start != tag.start():
            return None
        if not tag["end"]:
            if len(opened) > _MAX_DEPTH:
                return None
            is_list = _is_list(element.schema, [name])
            inner = _item_schema(element.schema) if is_list else _member_schema(element.schema, name)
            opened.append(_Element(name, inner, tag.end(), []))
            continue
        if len(opened) == 1 or name != element.name:
            return None
        opened.pop()
        parent = opened[-1]
        value = _build_value(element, text[element.start : tag.start()])
        if value is _REPEATED:
            return None
        parent.inner.append((name, value))
        parent.start = tag.end()
        if parent is root and (end := _INVOKE_END.match(text, tag.end())):
            given = dict(root.inner)
            return (given, end.end()) if len(given) == len(root.inner) else None
    return None


_REPEATED = object()
"""Value of an element that has two members with one name."""


def _build_value(element: _Element, text: str) -> Any:
    if not element.inner:
        types = schema_types(element.schema)
        if not text.strip() and types in (["array"], ["object"]):
            return [] if types == ["array"] else {}
        return typed_value(text.removeprefix("\n").removesuffix("\n"), element.schema)
    names = [name for name, _ in element.inner]
    if _is_list(element.schema, names):
        return [value for _, value in element.inner]
    return dict(element.inner) if len({*names}) == len(names) else _REPEATED


def _is_list(schema: Any, names: list[str]) -> bool:
    types = schema_types(schema)
    return "array" in types or (not types and all(name == "item" for name in names))
