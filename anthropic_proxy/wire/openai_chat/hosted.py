"""Tools that the server runs itself, as its dialect says them: among the tools, or as settings of the request."""

from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.messages.notes import Note
from anthropic_proxy.messages.prepare import kind_of
from anthropic_proxy.messages.types import Tool
from anthropic_proxy.messages.types.tools import are_client_tools, is_client_tool
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.openai_chat.dialect import Dialect
from anthropic_proxy.wire.standing_notes import unlimited


class Hosted(Struct):
    """What a request says of them."""

    definitions: list[Raw]
    """Entries of `tools`."""
    fields: dict[str, Any]
    """Fields of the body."""
    names: list[str]
    """As the client calls them."""
    notes: list[Note]


def offers_hosted(call: Call) -> bool:
    """Whether the server may run tools of its own for this request."""
    return not are_client_tools(call.request.tools)


def encode_hosted(call: Call, dialect: Dialect) -> Hosted:
    """Say the server's own tools that the request offers."""
    said = Hosted([], {}, [], [])
    known = dict(dialect.server_tool_names)
    enabled: list[str] = []
    for tool in call.request.tools:
        if is_client_tool(tool) or kind_of(tool) not in known:
            continue
        said.names.append(tool.name)
        name, settings = known[kind_of(tool)], _settings_of(tool, dialect, said.notes)
        if dialect.server_tool_form == "enabled":
            enabled.append(name)
            said.fields |= {"search_settings": settings} if settings else {}
        else:
            said.definitions.append(_definition(name, settings))
    if enabled:
        said.fields["compound_custom"] = {"tools": {"enabled_tools": enabled}}
    return said


def _definition(name: str, settings: dict[str, Any]) -> Raw:
    return Raw(msgspec.json.encode({"type": name} | ({"parameters": settings} if settings else {})))


def _settings_of(tool: Tool, dialect: Dialect, notes: list[Note]) -> dict[str, Any]:
    """Return what the server is told of a tool's limits; a note for each that it is not."""
    location = msgspec.json.decode(tool.user_location) if len(tool.user_location) else None
    values = {
        "max_uses": tool.max_uses,
        "allowed_domains": tool.allowed_domains,
        "blocked_domains": tool.blocked_domains,
        "user_location": location,
    }
    known = dict(dialect.server_tool_settings) if kind_of(tool) == "web_search" else {}
    given = {name: value for name, value in values.items() if value}
    lost = [name for name in given if name not in known]
    notes += [unlimited(tool.name, name) for name in lost]
    return {known[name]: value for name, value in given.items() if name in known}
