"""Encoder of tools for the Responses API: definitions of client tools and server tools, and `tool_choice`.

Client tools are functions that the client runs. Server tools (web search …) and the tools of MCP servers run at the
provider. Sources for MCP: `Mcp` of the official SDK `openai` 3.51; "Remote MCP Tools" of xAI's documentation, 2026-11.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models import McpServer, Tool, ToolChoice
from anthropic_proxy.engine.messages.models.tools import Toolset, are_client_tools, decode_toolset, is_client_tool
from anthropic_proxy.engine.messages.preparation import PreparedRequest, server_tool_kind
from anthropic_proxy.engine.messages.work_budget import WorkBudget
from anthropic_proxy.engine.wires.contract import Call
from anthropic_proxy.engine.wires.json_schema import SchemaRules, encode_schema
from anthropic_proxy.engine.wires.openai_responses.dialect import Dialect
from anthropic_proxy.engine.wires.shared_notes import missing_setting_note
from anthropic_proxy.engine.wires.tools import cached_encoder, cached_list_encoder, resolve_strict, tool_description
from anthropic_proxy.errors import InvalidRequest, UnsupportedFeature


class ToolFields(Struct):
    """Request fields for tools, and properties of the offered tools on which other request fields depend."""

    definitions: list[Any]
    tool_choice: Any = None
    can_search: bool = False
    max_searches: int | None = None
    """Maximum number of searches per reply, sent as `max_tool_calls`. None: no limit."""
    runs_code: bool = False
    notes: list[FidelityNote] = []


def encode_tools(call: Call[Dialect], dialect: Dialect, budget: WorkBudget) -> ToolFields:
    offered: dict[str, dict[str, str]]  # tool name → `tool_choice` that forces the tool
    if are_client_tools(call.request.tools):
        definitions, notes, offered = _encode_functions(
            call.request.tools, budget, dialect.schema_rules, dialect.sends_strict
        )
        tools = ToolFields([*definitions], notes=[*notes])
    else:
        tools, offered = ToolFields([]), {}
        servers = {server.name: server for server in reversed(call.request.mcp_servers) if server.url}
        for tool in call.request.tools:
            if is_client_tool(tool):
                found = _encode_functions([tool], budget, dialect.schema_rules, dialect.sends_strict)
                tools.definitions += found[0]
                tools.notes += found[1]
                offered |= found[2]
            else:
                kind = server_tool_kind(tool)
                if kind == "web_search":
                    tools.definitions.append(_encode_search(tool, dialect, tools.notes))
                    tools.can_search, tools.max_searches = True, tool.max_uses
                    offered[tool.name] = {"type": "web_search"}
                elif kind == "code_execution":
                    container = {"container": {"type": "auto"}} if dialect.sends_container else {}
                    tools.definitions.append({"type": "code_interpreter", **container})
                    tools.runs_code = True
                    offered[tool.name] = {"type": "code_interpreter"}
                elif kind == "mcp_toolset":
                    definition = _encode_mcp_server(tool, servers, dialect, tools.notes)
                    if definition is not None:
                        tools.definitions.append(definition)
                        label = definition["server_label"]
                        offered[f"mcp:{label}"] = {"type": "mcp", "server_label": label}
    if call.request.tool_choice is not None:
        tools.tool_choice = _choose(call.request.tool_choice, offered, call, dialect)
    # `max_tool_calls` limits all server tools, so it is sent only if web search is the only one.
    only_searches = all(tool["type"] in ("function", "web_search") for tool in offered.values())
    if tools.max_searches is not None and not (dialect.sends_max_tool_calls and only_searches):
        tools.max_searches = None
        why = "limits all of its tools as one" if dialect.sends_max_tool_calls else "has no such limit"
        tools.notes.append(FidelityNote("approximated", "tools.web_search.max_uses", f"{call.provider} {why}"))
    return tools


def encode_loaded_tools(
    call: Call[Dialect], dialect: Dialect, budget: WorkBudget, notes: list[FidelityNote]
) -> dict[str, Sequence[Raw]]:
    """Return the definitions of loaded tools by the id of the tool result that has loaded them."""
    definitions: dict[str, Sequence[Raw]] = {}
    for call_id, tools in call.request.loaded_tools.items() if dialect.loaded_tool_form == "items" else ():
        definitions[call_id], lost, _ = _encode_functions(tools, budget, dialect.schema_rules, dialect.sends_strict)
        notes += lost
    return definitions


@cached_list_encoder
def _encode_functions(
    tools: Sequence[Tool], budget: WorkBudget, rules: SchemaRules, sends_strict: bool
) -> tuple[tuple[Raw, ...], tuple[FidelityNote, ...], dict[str, dict[str, str]]]:
    encoded = [(tool, *_encode_tool(tool, budget, rules, sends_strict)) for tool in tools]
    notes = [
        FidelityNote("approximated", f"tools.{budget.client_tool_name(tool.name)}", what)
        for tool, _, lost in encoded
        for what in lost
    ]
    forced = {tool.name: {"type": "function", "name": tool.name} for tool in tools}
    return tuple(definition for _, definition, _ in encoded), tuple(notes), forced


@cached_encoder
def _encode_tool(tool: Tool, budget: WorkBudget, rules: SchemaRules, sends_strict: bool) -> tuple[Raw, tuple[str, ...]]:
    """Encode a client tool. `strict` is sent even if it is false, because its default is true (API reference)."""
    parameters, qualifies, lost = encode_schema(bytes(tool.input_schema), budget, rules)
    strict, refused = resolve_strict(tool, qualifies=qualifies, sends_strict=sends_strict)
    definition: dict[str, Any] = {"type": "function", "name": tool.name}
    if description := tool_description(tool):
        definition["description"] = description
    definition["parameters"] = parameters
    if sends_strict:
        definition["strict"] = strict
    return Raw(msgspec.json.encode(definition)), (*lost, *refused)


def _encode_search(tool: Tool, dialect: Dialect, notes: list[FidelityNote]) -> dict[str, Any]:
    definition: dict[str, Any] = {"type": "web_search"}
    if tool.allowed_domains:
        definition["filters"] = {"allowed_domains": tool.allowed_domains}
    elif tool.blocked_domains and dialect.accepts_excluded_domains:
        definition["filters"] = {"excluded_domains": tool.blocked_domains}
    if tool.blocked_domains and "excluded_domains" not in definition.get("filters", ()):
        notes.append(
            FidelityNote(
                "approximated",
                f"tools.{tool.name}.blocked_domains",
                "the provider's search has no known setting for it; they are removed from its results",
            )
        )
    given: Any = msgspec.json.decode(tool.user_location) if tool.user_location else None
    names = ("city", "region", "country", "timezone") if isinstance(given, dict) else ()
    place = {name: given[name] for name in names if isinstance(given.get(name), str)}
    if place and dialect.sends_user_location:
        definition["user_location"] = {"type": "approximate", **place}
    elif place:
        notes.append(missing_setting_note(tool.name, "user_location"))
    return definition


def _choose(choice: ToolChoice, offered: dict[str, dict[str, str]], call: Call[Dialect], dialect: Dialect) -> Any:
    if choice.type in ("none", "auto"):
        return choice.type if offered else None
    if not offered or (choice.type == "tool" and choice.name not in offered):
        name = choice.name or ", ".join(tool.name for tool in call.request.tools) or "nothing"
        raise UnsupportedFeature(
            f"tool_choice: {call.provider} cannot be forced to call a tool that it does not support: {name}.",
            code="forced-tool",
        )
    wanted = offered.get(choice.name or "")
    if choice.type == "any" or wanted is None:
        return "required"
    if wanted["type"] == "function":
        return wanted
    if len(offered) == 1:
        return "required"
    if not dialect.accepts_forced_server_tool:
        raise UnsupportedFeature(
            f"tool_choice: {call.provider} cannot be forced to call its own {wanted['type']} if there are other tools.",
            code="forced-tool",
        )
    return {"type": "allowed_tools", "mode": "required", "tools": [wanted]}


_NOT_IN_LABELS = re.compile(r"[^a-zA-Z0-9_-]")


def _encode_mcp_server(
    tool: Tool, servers: Mapping[str, McpServer], dialect: Dialect, notes: list[FidelityNote]
) -> dict[str, Any] | None:
    """Return the upstream tool for a toolset, which names one MCP server. None: the toolset enables no tool.

    Raises `InvalidRequest` if `servers` does not contain the server. Raises `UnsupportedFeature` if the toolset only
    disables single tools, because the API has no list of forbidden tools.
    """
    toolset = decode_toolset(tool)
    name = toolset.mcp_server_name
    server = servers.get(name)
    if server is None:
        raise InvalidRequest(
            f"tools: mcp_toolset: mcp_servers has no server named {name!r} with a url", code="tool-choice"
        )
    allowed = _allowed(toolset)
    if allowed == []:
        notes.append(FidelityNote("dropped", f"mcp_servers.{name}", "none of its tools is enabled"))
        return None
    definition: dict[str, Any] = {"type": "mcp", "server_label": _label_of(name), "server_url": server.url}
    if server.authorization_token:
        definition["authorization"] = server.authorization_token
    if allowed is not None:
        definition["allowed_tools"] = allowed
    if dialect.sends_require_approval:
        definition["require_approval"] = "never"
    return definition


def mcp_server_names_by_label(request: PreparedRequest) -> dict[str, str]:
    """Return a mapping: label of an MCP server in the upstream request → its name. The first of a label counts."""
    return {_label_of(server.name): server.name for server in reversed(request.mcp_servers)}


def _label_of(name: str) -> str:
    """Return an MCP server name as a label that the API accepts: a letter, then letters, digits, `_` and `-`."""
    label = _NOT_IN_LABELS.sub("_", name)
    return label if label[:1].isalpha() else f"mcp_{label}"


def _allowed(toolset: Toolset) -> list[str] | None:
    """Return the names of the tools that a toolset enables on its MCP server. None: all tools.

    Raises `UnsupportedFeature` if single tools are disabled.
    """
    configs = toolset.configs or {}
    if toolset.default_config is not None and toolset.default_config.enabled is False:
        return [name for name, config in configs.items() if config.enabled]
    refused = [name for name, config in configs.items() if config.enabled is False]
    if toolset.tools is not None:
        return [tool.name for tool in toolset.tools if tool.name not in refused]
    if refused:
        raise UnsupportedFeature(
            "tools: mcp_toolset: configs: this provider has a list of allowed tools for "
            f"{toolset.mcp_server_name!r}, but no list of forbidden ones ({', '.join(refused)}); disable all "
            "by default_config and enable the others",
            code="mcp-tools",
        )
    return None
