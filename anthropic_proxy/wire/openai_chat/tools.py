"""Tool definitions and `tool_choice`."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.errors import UnsupportedFeature
from anthropic_proxy.messages.notes import Note
from anthropic_proxy.messages.types import Tool, ToolChoice
from anthropic_proxy.messages.types.tools import is_client_tool
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.definitions import describe, encode_list_once, encode_once, find_strictness
from anthropic_proxy.wire.openai_chat.dialect import Dialect
from anthropic_proxy.wire.openai_chat.hosted import encode_hosted, offers_hosted
from anthropic_proxy.wire.schema import SchemaRules, encode_schema


class Tools(Struct):
    """What a request says of tools."""

    definitions: list[Raw]
    fields: dict[str, Any] = {}
    """Fields of the body that say which of the server's own tools may be used."""
    choice: Any = None
    """`tool_choice` as it is said; None: nothing."""
    asks: str = ""
    """What a user text must ask for, because the server cannot be made to."""
    notes: list[Note] = []


def encode_tools(call: Call, dialect: Dialect) -> Tools:
    """Say the request's tools; raises `UnsupportedFeature` where one is forced that cannot be offered."""
    request = call.request
    definitions, notes = _encode_functions(request.tools, dialect.schema, dialect.says_strict)
    tools = Tools([*definitions], notes=[*notes])
    if dialect.server_tools and offers_hosted(call):
        _add_hosted(call, dialect, tools)
    if tools.definitions and not dialect.offers_tools:
        raise UnsupportedFeature(
            f"{call.provider}: {call.model} takes no tools over Chat Completions. "
            f"Set {call.provider.upper()}_WIRE=responses, or choose another model."
        )
    if request.tool_choice is not None:
        _choose(request.tool_choice, tools, request.tools, call, dialect)
    return tools


def _add_hosted(call: Call, dialect: Dialect, tools: Tools) -> None:
    said = encode_hosted(call, dialect)
    tools.definitions += said.definitions
    tools.fields = said.fields
    tools.notes += said.notes


@encode_list_once
def _encode_functions(
    tools: Sequence[Tool], rules: SchemaRules, says_strict: bool
) -> tuple[tuple[Raw, ...], tuple[Note, ...]]:
    """Return the client's tools, and what of each cannot be said."""
    encoded = [(tool, *_encode_tool(tool, rules, says_strict)) for tool in tools if is_client_tool(tool)]
    notes = [Note("approximated", f"tools.{tool.name}", what) for tool, _, lost in encoded for what in lost]
    return tuple(definition for _, definition, _ in encoded), tuple(notes)


@encode_once
def _encode_tool(tool: Tool, rules: SchemaRules, says_strict: bool) -> tuple[Raw, tuple[str, ...]]:
    parameters, qualifies, lost = encode_schema(bytes(tool.input_schema), rules)
    strict, refused = find_strictness(tool, qualifies=qualifies, says_strict=says_strict)
    function: dict[str, Any] = {"name": tool.name}
    if description := describe(tool):
        function["description"] = description
    function["parameters"] = parameters
    if strict:
        function["strict"] = True
    return Raw(msgspec.json.encode({"type": "function", "function": function})), (*lost, *refused)


def _force_hosted(tool: Tool, tools: Tools, asked: Sequence[Tool], call: Call) -> None:
    if len(asked) > 1:
        raise UnsupportedFeature(
            f"tool_choice: {call.provider} cannot be made to call its own {tool.name} beside others."
        )
    if tools.definitions:
        tools.choice = "required"
    else:
        tools.notes.append(
            Note("approximated", "tool_choice", f"{call.provider} decides itself when to use {tool.name}")
        )


def _choose(choice: ToolChoice, tools: Tools, asked: Sequence[Tool], call: Call, dialect: Dialect) -> None:
    forces = choice.type in ("any", "tool")
    forced = next((tool for tool in asked if choice.type == "tool" and tool.name == choice.name), None)
    if forced is not None and not is_client_tool(forced):
        _force_hosted(forced, tools, asked, call)
        return
    if not tools.definitions:
        if forces:
            name = choice.name or ", ".join(tool.name for tool in asked) or "nothing"
            raise UnsupportedFeature(
                f"tool_choice: {call.provider} cannot be made to call a tool, because none of those given can be "
                f"offered there: {name}."
            )
        return
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
