"""Tool definitions and `tool_choice`: functions of the client, and what the server runs itself."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.errors import UnsupportedFeature
from anthropic_proxy.messages.notes import Note
from anthropic_proxy.messages.prepare import kind_of
from anthropic_proxy.messages.types import Tool, ToolChoice
from anthropic_proxy.messages.types.tools import are_client_tools, is_client_tool
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.definitions import describe, encode_list_once, encode_once, find_strictness
from anthropic_proxy.wire.openai_responses.connectors import encode_connector
from anthropic_proxy.wire.openai_responses.dialect import Dialect
from anthropic_proxy.wire.schema import SchemaRules, encode_schema
from anthropic_proxy.wire.standing_notes import unlimited

_PLACE = ("city", "region", "country", "timezone")


class Tools(Struct):
    """What a request says of tools."""

    definitions: list[Any]
    choice: Any = None
    """`tool_choice` as it is said; None: nothing."""
    searches: bool = False
    """Whether the server's web search is among them."""
    most_searches: int | None = None
    """How often it may search; None: as often as it likes."""
    runs_programs: bool = False
    """Whether the server may run programs."""
    notes: list[Note] = []


def encode_tools(call: Call, dialect: Dialect) -> Tools:
    """Say the request's tools; raises `UnsupportedFeature` where one is forced that cannot be offered."""
    if are_client_tools(call.request.tools):
        definitions, notes, offered = _encode_functions(call.request.tools, dialect.schema, dialect.says_strict)
        tools = Tools([*definitions], notes=[*notes])
    else:
        tools, offered = _encode_mixed(call, dialect)
    if call.request.tool_choice is not None:
        tools.choice = _choose(call.request.tool_choice, offered, call, dialect)
    if tools.most_searches is not None and not (dialect.search_limit and _only_searches(offered)):
        tools.most_searches = None
        why = "limits all of its tools as one" if dialect.search_limit else "has no such limit"
        tools.notes.append(Note("approximated", "tools.web_search.max_uses", f"{call.provider} {why}"))
    return tools


def _encode_mixed(call: Call, dialect: Dialect) -> tuple[Tools, dict[str, dict[str, str]]]:
    """Say functions and what the server runs itself, in the client's order; the second: how each would be forced."""
    tools = Tools([])
    offered: dict[str, dict[str, str]] = {}
    for tool in call.request.tools:
        if is_client_tool(tool):
            definitions, notes, forced = _encode_functions([tool], dialect.schema, dialect.says_strict)
            tools.definitions += definitions
            tools.notes += notes
            offered |= forced
        else:
            _add_server_tool(tool, call, dialect, tools, offered)
    return tools, offered


@encode_list_once
def _encode_functions(
    tools: Sequence[Tool], rules: SchemaRules, says_strict: bool
) -> tuple[tuple[Raw, ...], tuple[Note, ...], dict[str, dict[str, str]]]:
    """Return the client's tools, what of each cannot be said, and by name how each would be forced."""
    encoded = [(tool, *_encode_tool(tool, rules, says_strict)) for tool in tools]
    notes = [Note("approximated", f"tools.{tool.name}", what) for tool, _, lost in encoded for what in lost]
    forced = {tool.name: {"type": "function", "name": tool.name} for tool in tools}
    return tuple(definition for _, definition, _ in encoded), tuple(notes), forced


def _add_server_tool(
    tool: Tool, call: Call, dialect: Dialect, tools: Tools, offered: dict[str, dict[str, str]]
) -> None:
    kind = kind_of(tool)
    if kind == "web_search":
        tools.definitions.append(_encode_search(tool, dialect, tools.notes))
        tools.searches, tools.most_searches = True, tool.max_uses
        offered[tool.name] = {"type": "web_search"}
    elif kind == "code_execution":
        container = {"container": {"type": "auto"}} if dialect.says_container else {}
        tools.definitions.append({"type": "code_interpreter", **container})
        tools.runs_programs = True
        offered[tool.name] = {"type": "code_interpreter"}
    elif kind == "mcp_toolset":
        said = encode_connector(tool, call.request, dialect, tools.notes)
        if said is not None:
            tools.definitions.append(said)
            label = said["server_label"]
            offered[f"mcp:{label}"] = {"type": "mcp", "server_label": label}


def _only_searches(offered: dict[str, dict[str, str]]) -> bool:
    """Whether the limit of all calls that the server runs is the limit of its searches."""
    return all(tool["type"] in ("function", "web_search") for tool in offered.values())


@encode_once
def _encode_tool(tool: Tool, rules: SchemaRules, says_strict: bool) -> tuple[Raw, tuple[str, ...]]:
    """Say a function. Strictness is always said: left out, it is on (reference of function tools)."""
    parameters, qualifies, lost = encode_schema(bytes(tool.input_schema), rules)
    strict, refused = find_strictness(tool, qualifies=qualifies, says_strict=says_strict)
    said: dict[str, Any] = {"type": "function", "name": tool.name}
    if description := describe(tool):
        said["description"] = description
    said["parameters"] = parameters
    if says_strict:
        said["strict"] = strict
    return Raw(msgspec.json.encode(said)), (*lost, *refused)


def _encode_search(tool: Tool, dialect: Dialect, notes: list[Note]) -> dict[str, Any]:
    said: dict[str, Any] = {"type": "web_search"}
    blocked = f"tools.{tool.name}.blocked_domains"
    if tool.allowed_domains:
        said["filters"] = {"allowed_domains": tool.allowed_domains}
    elif tool.blocked_domains and dialect.search_exclusions:
        said["filters"] = {"excluded_domains": tool.blocked_domains}
    if tool.blocked_domains and "excluded_domains" not in said.get("filters", ()):
        notes.append(Note("approximated", blocked, "the search cannot be told; its results leave them out"))
    place = dict(_place_of(tool.user_location))
    if place and dialect.search_place:
        said["user_location"] = {"type": "approximate", **place}
    elif place:
        notes.append(unlimited(tool.name, "user_location"))
    return said


def _place_of(location: Raw) -> Iterator[tuple[str, str]]:
    known: Any = msgspec.json.decode(location) if location else None
    for name in _PLACE:
        if isinstance(known, dict) and isinstance(known.get(name), str):
            yield name, known[name]


def _choose(choice: ToolChoice, offered: dict[str, dict[str, str]], call: Call, dialect: Dialect) -> Any:
    if choice.type in ("none", "auto"):
        return choice.type if offered else None
    if not offered or (choice.type == "tool" and choice.name not in offered):
        name = choice.name or _names(call.request.tools)
        raise UnsupportedFeature(
            f"tool_choice: {call.provider} cannot be made to call a tool that it does not offer there: {name}."
        )
    wanted = offered.get(choice.name or "")
    if choice.type == "any" or wanted is None:
        return "required"
    if wanted["type"] == "function":
        return wanted
    if len(offered) == 1:
        return "required"
    if not dialect.forces_server_tools:
        raise UnsupportedFeature(
            f"tool_choice: {call.provider} cannot be made to call its own {wanted['type']} beside other tools."
        )
    return {"type": "allowed_tools", "mode": "required", "tools": [wanted]}


def _names(tools: Sequence[Tool]) -> str:
    return ", ".join(tool.name for tool in tools) or "nothing"
