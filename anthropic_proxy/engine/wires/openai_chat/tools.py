"""Encoder of tools for the Chat Completions API: definitions of client tools and server tools, and `tool_choice`.

Client tools are functions that the client runs. Server tools (web search …) run at the provider.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models import Tool, ToolChoice
from anthropic_proxy.engine.messages.models.tools import are_client_tools, is_client_tool
from anthropic_proxy.engine.messages.preparation import server_tool_kind
from anthropic_proxy.engine.messages.work_budget import WorkBudget
from anthropic_proxy.engine.wires.contract import Call
from anthropic_proxy.engine.wires.json_schema import SchemaRules, encode_schema
from anthropic_proxy.engine.wires.openai_chat.dialect import Dialect
from anthropic_proxy.engine.wires.shared_notes import missing_setting_note
from anthropic_proxy.engine.wires.tools import cached_encoder, cached_list_encoder, resolve_strict, tool_description
from anthropic_proxy.errors import UnsupportedFeature


class ToolFields(Struct):
    definitions: list[Raw]
    body_fields: dict[str, Any] = {}
    """Top-level fields of the request body that enable server tools."""
    tool_choice: Any = None
    user_instruction: str = ""
    """User text that requests a tool call if the server cannot force it. "": none."""
    notes: list[FidelityNote] = []


def encode_tools(call: Call[Dialect], dialect: Dialect, budget: WorkBudget) -> ToolFields:
    """Return the request fields for the client's tools and tool choice.

    Raises `UnsupportedFeature` if the model does not support tools. The same error is raised if `tool_choice` requires
    an unsupported tool, or a server tool beside other tools.
    """
    request = call.request
    definitions, notes = _encode_functions(request.tools, budget, dialect.schema_rules, dialect.sends_strict)
    tools = ToolFields([*definitions], notes=[*notes])
    if dialect.server_tools and offers_server_tools(call):
        known = dict(dialect.server_tool_names)
        enabled: list[str] = []
        for tool in call.request.tools:
            if is_client_tool(tool) or server_tool_kind(tool) not in known:
                continue
            name, settings = known[server_tool_kind(tool)], _settings_of(tool, dialect, tools.notes)
            if dialect.server_tool_form == "enabled":
                enabled.append(name)
                tools.body_fields |= {"search_settings": settings} if settings else {}
            else:
                definition = {"type": name} | ({"parameters": settings} if settings else {})
                tools.definitions.append(Raw(msgspec.json.encode(definition)))
        if enabled:
            tools.body_fields["compound_custom"] = {"tools": {"enabled_tools": enabled}}
    if tools.definitions and not dialect.accepts_tools:
        raise UnsupportedFeature(
            f"{call.provider}: {call.model} does not support tools over Chat Completions. "
            f"Set {call.provider.upper()}_WIRE=responses, or choose another model.",
            code="tools-over-chat",
        )
    if request.tool_choice is not None:
        _choose(request.tool_choice, tools, request.tools, call, dialect)
    return tools


@cached_list_encoder
def _encode_functions(
    tools: Sequence[Tool], budget: WorkBudget, rules: SchemaRules, sends_strict: bool
) -> tuple[tuple[Raw, ...], tuple[FidelityNote, ...]]:
    encoded = [(tool, *_encode_tool(tool, budget, rules, sends_strict)) for tool in tools if is_client_tool(tool)]
    notes = [
        FidelityNote("approximated", f"tools.{budget.client_tool_name(tool.name)}", what)
        for tool, _, lost in encoded
        for what in lost
    ]
    return tuple(definition for _, definition, _ in encoded), tuple(notes)


@cached_encoder
def _encode_tool(tool: Tool, budget: WorkBudget, rules: SchemaRules, sends_strict: bool) -> tuple[Raw, tuple[str, ...]]:
    parameters, qualifies, lost = encode_schema(bytes(tool.input_schema), budget, rules)
    strict, refused = resolve_strict(tool, qualifies=qualifies, sends_strict=sends_strict)
    function: dict[str, Any] = {"name": tool.name}
    if description := tool_description(tool):
        function["description"] = description
    function["parameters"] = parameters
    if strict:
        function["strict"] = True
    return Raw(msgspec.json.encode({"type": "function", "function": function})), (*lost, *refused)


def offers_server_tools(call: Call[Dialect]) -> bool:
    return not are_client_tools(call.request.tools)


def _settings_of(tool: Tool, dialect: Dialect, notes: list[FidelityNote]) -> dict[str, Any]:
    """Return the settings of a server tool under the provider's names."""
    location = msgspec.json.decode(tool.user_location) if len(tool.user_location) else None
    values = {
        "max_uses": tool.max_uses,
        "allowed_domains": tool.allowed_domains,
        "blocked_domains": tool.blocked_domains,
        "user_location": location,
    }
    names = dict(dialect.server_tool_setting_names) if server_tool_kind(tool) == "web_search" else {}
    given = {name: value for name, value in values.items() if value}
    notes += [missing_setting_note(tool.name, name) for name in given if name not in names]
    return {names[name]: value for name, value in given.items() if name in names}


def _choose(
    choice: ToolChoice, tools: ToolFields, asked: Sequence[Tool], call: Call[Dialect], dialect: Dialect
) -> None:
    forces = choice.type in ("any", "tool")
    forced = next((tool for tool in asked if choice.type == "tool" and tool.name == choice.name), None)
    if forced is not None and not is_client_tool(forced):
        if len(asked) > 1:
            raise UnsupportedFeature(
                f"tool_choice: {call.provider} cannot be forced to call its own {forced.name} if there are other "
                "tools.",
                code="forced-tool",
            )
        if tools.definitions:
            tools.tool_choice = "required"
        else:
            why = f"{call.provider} decides itself when to use {forced.name}"
            tools.notes.append(FidelityNote("approximated", "tool_choice", why))
        return
    if not tools.definitions:
        if forces:
            name = choice.name or ", ".join(tool.name for tool in asked) or "nothing"
            raise UnsupportedFeature(
                f"tool_choice: {call.provider} cannot be forced to call a tool, because it supports none of "
                f"the given tools: {name}.",
                code="forced-tool",
            )
        return
    thinking = dialect.is_thinking_at_effort(call.request.effort)
    may_force = dialect.accepts_forced_tool == "always" or (
        dialect.accepts_forced_tool == "not_thinking" and not thinking
    )
    may_force = may_force or (dialect.accepts_forced_tool == "any" and choice.type == "any")
    if forces and not may_force:
        tools.tool_choice = "required" if dialect.accepts_forced_tool == "any" else "auto"
        tools.user_instruction = (
            f"Call the tool {choice.name} now." if choice.type == "tool" else "Call one of the tools now."
        )
        why = f"{call.provider} is not known to force tool calls"
        why += {"not_thinking": " while the model reasons", "any": " by name"}.get(dialect.accepts_forced_tool, "")
        tools.notes.append(FidelityNote("emulated", "tool_choice", f"{why}; a user text asks for the call"))
    elif choice.type == "tool":
        tools.tool_choice = {"type": "function", "function": {"name": choice.name}}
    else:
        tools.tool_choice = {"any": "required", "none": "none"}.get(choice.type, "auto")
