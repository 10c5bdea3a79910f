"""Tool definitions and `tool_choice`."""

import functools
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.errors import UnsupportedFeature
from anthropic_proxy.messages.notes import Note
from anthropic_proxy.messages.types import Tool, ToolChoice
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.openai_chat.dialect import Dialect
from anthropic_proxy.wire.schema import SchemaRules, clean_schema, qualifies_for_strict

_CACHED = 1_024
"""Encoded tools and schemas that are kept: a session has dozens, and repeats them in every request."""
_LONGEST = 32 * 1024
"""Bytes of the longest definition or schema that is kept."""


class Tools(Struct):
    """What a request says of tools."""

    definitions: list[Raw]
    choice: Any = None
    """`tool_choice` as it is said; None: nothing."""
    asks: str = ""
    """What a user text must ask for, because the server cannot be made to."""
    notes: list[Note] = []


def encode_tools(call: Call, dialect: Dialect) -> Tools:
    """Say the request's tools; raises `UnsupportedFeature` where one is forced that cannot be offered."""
    request = call.request
    tools = Tools([])
    for tool in request.tools:
        if tool.type not in (None, "custom"):
            tools.notes.append(Note("dropped", f"tools.{tool.name}", f"{call.provider} does not run {tool.type}"))
            continue
        encode = _encode_kept if len(tool.source) <= _LONGEST else _encode_tool
        definition, lost = encode(_Definition(tool), dialect.schema, dialect.says_strict)
        tools.definitions.append(definition)
        for what in lost:
            tools.notes.append(Note("approximated", f"tools.{tool.name}", what))
    if tools.definitions and not dialect.offers_tools:
        raise UnsupportedFeature(
            f"{call.provider}: {call.model} takes no tools over Chat Completions. "
            f"Set {call.provider.upper()}_WIRE=responses, or choose another model."
        )
    if request.tool_choice is not None:
        _choose(request.tool_choice, tools, request.tools, call, dialect)
    return tools


class _Definition:
    """A tool as a key: equal where the sources are, which Python hashes once."""

    __slots__ = ("source", "tool")

    def __init__(self, tool: Tool) -> None:
        self.tool = tool
        self.source = tool.source

    def __hash__(self) -> int:
        return hash(self.source)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Definition) and other.source == self.source


def encode_schema(schema: bytes, rules: SchemaRules) -> tuple[Raw, bool, tuple[str, ...]]:
    """Return a cleaned schema, whether it qualifies for strict mode, and what it no longer says."""
    return (_clean_kept if len(schema) <= _LONGEST else _clean)(schema, rules)


def _clean(schema: bytes, rules: SchemaRules) -> tuple[Raw, bool, tuple[str, ...]]:
    cleaned, lost = clean_schema(msgspec.json.decode(schema) if schema else {}, rules)
    return Raw(msgspec.json.encode(cleaned)), qualifies_for_strict(cleaned), tuple(lost)


def _encode_tool(definition: _Definition, rules: SchemaRules, says_strict: bool) -> tuple[Raw, tuple[str, ...]]:
    tool = definition.tool
    parameters, strict, lost = _clean(bytes(tool.input_schema), rules)
    function: dict[str, Any] = {"name": tool.name}
    description = tool.description or ""
    examples = bytes(tool.input_examples)
    if examples not in (b"", b"[]", b"null"):
        shown = msgspec.json.format(examples, indent=-1).decode()
        description = f"{description}\n\nExamples of input: {shown}".strip()
    if description:
        function["description"] = description
    function["parameters"] = parameters
    if tool.strict:
        if says_strict and strict:
            function["strict"] = True
        else:
            why = "the schema has what strict mode refuses" if says_strict else "the server has no strict mode"
            lost = (*lost, f"strict was not asked for: {why}")
    return Raw(msgspec.json.encode({"type": "function", "function": function})), lost


_clean_kept = functools.lru_cache(maxsize=_CACHED)(_clean)
_encode_kept = functools.lru_cache(maxsize=_CACHED)(_encode_tool)


def _choose(choice: ToolChoice, tools: Tools, asked: Sequence[Tool], call: Call, dialect: Dialect) -> None:
    forces = choice.type in ("any", "tool")
    if not tools.definitions:
        if forces:
            name = choice.name or ", ".join(tool.name for tool in asked) or "nothing"
            raise UnsupportedFeature(
                f"tool_choice: {call.provider} cannot be made to call a tool, because none of those given can be "
                f"offered there: {name}."
            )
        return
    if choice.type == "tool" and any(tool.name == choice.name and tool.type not in (None, "custom") for tool in asked):
        raise UnsupportedFeature(f"tool_choice: {call.provider} does not run the tool {choice.name!r}.")
    thinking = dialect.is_thinking(call.request.effort)
    may_force = dialect.forces_tools == "always" or (dialect.forces_tools == "not_thinking" and not thinking)
    if forces and not may_force:
        tools.choice = "auto"
        tools.asks = f"Call the tool {choice.name} now." if choice.type == "tool" else "Call one of the tools now."
        why = f"{call.provider} does not force tool calls"
        why += " while the model reasons" if dialect.forces_tools == "not_thinking" else ""
        tools.notes.append(Note("emulated", "tool_choice", f"{why}; a user text asks for the call"))
    elif choice.type == "tool":
        tools.choice = {"type": "function", "function": {"name": choice.name}}
    else:
        tools.choice = {"any": "required", "none": "none"}.get(choice.type, "auto")
