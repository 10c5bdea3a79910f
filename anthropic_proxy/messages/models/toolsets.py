"""Toolsets: permissions for the tools of MCP servers.

Source: `BetaMCPToolsetParam` of the official SDK `anthropic` 2.10.
"""

import msgspec
from msgspec import Struct

from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.messages.models.mcp_servers import McpServer
from anthropic_proxy.messages.models.structs import MessagesRequest, Tool

MCP_TOOLSET_TYPE = "mcp_toolset"
"""`type` of the entry in `tools` that offers the tools of an MCP server."""


class McpToolPermission(Struct):
    """Permission for one tool of an MCP server."""

    enabled: bool | None = None
    """False: the tool is not offered. None: offered."""


class PinnedTool(Struct):
    """A tool of an MCP server that the client defines in its toolset. Only the name is decoded."""

    name: str = ""


class Toolset(Struct):
    """Entry of `tools` with the type `mcp_toolset`."""

    mcp_server_name: str = ""
    """`name` of the entry in `mcp_servers`."""
    default_config: McpToolPermission | None = None
    """Permission for tools without an entry in `configs`."""
    configs: dict[str, McpToolPermission] | None = None
    """Tool name → permission."""
    tools: list[PinnedTool] | None = None
    """Tools of the server that the client defines. None: the provider lists them."""


def decode_toolset(tool: Tool) -> Toolset:
    """Decode a toolset from its entry in `tools`. Raises `InvalidRequest`."""
    try:
        return msgspec.json.decode(tool.source, type=Toolset)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"tools: {MCP_TOOLSET_TYPE}: {error}") from None


def implied_toolsets(request: MessagesRequest) -> list[Tool]:
    """Return a toolset for each enabled MCP server without a toolset in `tools` (beta `mcp-client-2025-04-04`)."""
    named = {decode_toolset(tool).mcp_server_name for tool in request.tools if tool.type == MCP_TOOLSET_TYPE}
    return [_toolset_of(server) for server in request.mcp_servers if server.name not in named and _is_on(server)]


def _is_on(server: McpServer) -> bool:
    return server.tool_configuration is None or server.tool_configuration.enabled is not False


def _toolset_of(server: McpServer) -> Tool:
    toolset: dict[str, object] = {"type": MCP_TOOLSET_TYPE, "mcp_server_name": server.name}
    allowed = server.tool_configuration.allowed_tools if server.tool_configuration else None
    if allowed is not None:
        toolset |= {"default_config": {"enabled": False}, "configs": {name: {"enabled": True} for name in allowed}}
    return Tool(type=MCP_TOOLSET_TYPE, source=msgspec.json.encode(toolset))
