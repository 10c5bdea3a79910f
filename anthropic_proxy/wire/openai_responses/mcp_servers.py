"""Encoder of MCP servers for the Responses API: the provider itself calls the tools of these servers.

A toolset is an entry of the client's `tools` that names one MCP server. `encode_mcp_server` converts it to a tool of
the type `mcp`. A label is the name of the server in the upstream request. It is the client's name, with other
characters in place of those that the API rejects. `mcp_server_names_by_label` finds the client's name for a label in
the reply. Source: `Mcp` of the official SDK `openai` 3.51; "Remote MCP Tools" of xAI's documentation, 2026-11.
"""

import re
from collections.abc import Mapping
from typing import Any

from anthropic_proxy.errors import InvalidRequest, UnsupportedFeature
from anthropic_proxy.messages.fidelity import FidelityNote
from anthropic_proxy.messages.models import McpServer, Tool
from anthropic_proxy.messages.models.toolsets import Toolset, decode_toolset
from anthropic_proxy.messages.preparation import PreparedRequest
from anthropic_proxy.wire.openai_responses.dialect import Dialect

# Sources: `Mcp` of the official SDK `openai` 3.51; "Remote MCP Tools" of xAI's documentation, 2026-11.
_NOT_IN_LABELS = re.compile(r"[^a-zA-Z0-9_-]")


def mcp_servers_by_name(request: PreparedRequest) -> dict[str, McpServer]:
    """Return the MCP servers of the client request that have a URL, by name.

    If two servers have the same name, the first counts.
    """
    return {server.name: server for server in reversed(request.mcp_servers) if server.url}


def encode_mcp_server(
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
        raise InvalidRequest(f"tools: mcp_toolset: mcp_servers has no server named {name!r} with a url")
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
    """Return a mapping from the label of each MCP server, its name in the upstream request, to the client's name.

    If two servers have the same label, the first counts.
    """
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
            "by default_config and enable the others"
        )
    return None
