"""Toolsets: entries of the request field `tools` that offer the tools of one MCP server to the model.

An MCP server offers tools over the network, and the provider calls it. `decode_toolset` decodes an entry.
`McpToolPermission` offers or hides one tool of the server. A `PinnedTool` is a tool of the server that the client
defines itself. `implied_toolsets` returns the toolsets that clients of an older beta omit. Source:
`BetaMCPToolsetParam` of the official SDK `anthropic` 2.10.
"""

import msgspec
from msgspec import Struct

from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.messages.models.mcp_servers import McpServer
from anthropic_proxy.messages.models.structs import MessagesRequest, Tool

MCP_TOOLSET_TYPE = "mcp_toolset"
"""`type` of the entry in `tools` that offers the tools of an MCP server."""


class McpToolPermission(Struct):
    """Setting in a toolset that offers a tool of an MCP server to the model, or hides it."""

    enabled: bool | None = None
    """False: the tool is not offered. None: offered."""


class PinnedTool(Struct):
    """A tool of an MCP server that the client defines itself in the toolset. Only its name is decoded."""

    name: str = ""
    """Name of the tool on its MCP server."""


class Toolset(Struct):
    """Entry of the request field `tools` with the type `mcp_toolset`: the offered tools of one MCP server."""

    mcp_server_name: str = ""
    """Name of the MCP server: the `name` of its entry in `mcp_servers`."""
    default_config: McpToolPermission | None = None
    """Permission for tools without an entry in `configs`. None: these tools are offered."""
    configs: dict[str, McpToolPermission] | None = None
    """Tool name → permission of the tool. None: `default_config` applies to all tools."""
    tools: list[PinnedTool] | None = None
    """Tools of the MCP server that the client defines itself. None: the provider queries the server for its tools."""


def decode_toolset(tool: Tool) -> Toolset:
    """Decode an entry of `tools` with the type `mcp_toolset`. Raises `InvalidRequest`."""
    try:
        return msgspec.json.decode(tool.source, type=Toolset)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"tools: {MCP_TOOLSET_TYPE}: {error}") from None


def implied_toolsets(request: MessagesRequest) -> list[Tool]:
    """Return a toolset for each enabled MCP server of the request that has no toolset in `tools`.

    Clients of an older beta list their MCP servers in `mcp_servers`, but send no toolsets.
    """
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
