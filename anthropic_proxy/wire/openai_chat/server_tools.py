"""Encoder of server tools, which the provider runs itself, for Chat Completions requests.

An example of a server tool is web search. `encode_server_tools` returns the request fields as `ServerToolFields`. Names
and settings of the tools differ by provider, and are fields of the `Dialect`. `offers_server_tools` is True if the
client request has a server tool.
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.messages.fidelity import FidelityNote
from anthropic_proxy.messages.models import Tool
from anthropic_proxy.messages.models.tools import are_client_tools, is_client_tool
from anthropic_proxy.messages.preparation import server_tool_kind
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.openai_chat.dialect import Dialect
from anthropic_proxy.wire.shared_notes import missing_setting_note


class ServerToolFields(Struct):
    """Request fields that enable server tools, which the provider runs, and notes on lost settings."""

    definitions: list[Raw]
    """Encoded server tools: entries of the request field `tools`, as JSON objects."""
    body_fields: dict[str, Any]
    """Top-level fields of the request body that enable server tools: `compound_custom`, `search_settings`."""
    notes: list[FidelityNote]
    """Notes on settings of server tools that the provider does not have."""


def offers_server_tools(call: Call[Dialect]) -> bool:
    """Return True if the client request offers a server tool (web search …), which the client does not run itself."""
    return not are_client_tools(call.request.tools)


def encode_server_tools(call: Call[Dialect], dialect: Dialect) -> ServerToolFields:
    """Return the request fields for the client's server tools (web search …) that this provider has.

    Notes on settings that are not sent are included.
    """
    encoded = ServerToolFields([], {}, [])
    known = dict(dialect.server_tool_names)
    enabled: list[str] = []
    for tool in call.request.tools:
        if is_client_tool(tool) or server_tool_kind(tool) not in known:
            continue
        name, settings = known[server_tool_kind(tool)], _settings_of(tool, dialect, encoded.notes)
        if dialect.server_tool_form == "enabled":
            enabled.append(name)
            encoded.body_fields |= {"search_settings": settings} if settings else {}
        else:
            encoded.definitions.append(_definition(name, settings))
    if enabled:
        encoded.body_fields["compound_custom"] = {"tools": {"enabled_tools": enabled}}
    return encoded


def _definition(name: str, settings: dict[str, Any]) -> Raw:
    return Raw(msgspec.json.encode({"type": name} | ({"parameters": settings} if settings else {})))


def _settings_of(tool: Tool, dialect: Dialect, notes: list[FidelityNote]) -> dict[str, Any]:
    """Return the settings of a server tool under the provider's names. Adds a note for each unsupported setting."""
    location = msgspec.json.decode(tool.user_location) if len(tool.user_location) else None
    values = {
        "max_uses": tool.max_uses,
        "allowed_domains": tool.allowed_domains,
        "blocked_domains": tool.blocked_domains,
        "user_location": location,
    }
    known = dict(dialect.server_tool_setting_names) if server_tool_kind(tool) == "web_search" else {}
    given = {name: value for name, value in values.items() if value}
    lost = [name for name in given if name not in known]
    notes += [missing_setting_note(tool.name, name) for name in lost]
    return {known[name]: value for name, value in given.items() if name in known}
