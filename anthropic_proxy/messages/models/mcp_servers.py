"""Decoding of the request field `mcp_servers`: the MCP servers of a client, which the provider calls.

An MCP server offers tools over the network. `decode_mcp_servers` returns one `McpServer` for each entry of the field.
In an older beta of the API, `McpToolPermissions` restricts the tools of a server; in the newer beta, toolsets do so
(`toolsets.py`). Source: `BetaRequestMCPServerURLDefinitionParam` of the official SDK `anthropic` 2.10.
"""

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.messages.models.raw_kinds import has_too_many_members


class McpToolPermissions(Struct):
    """Permissions for the tools of one MCP server, set in the server's definition (beta `mcp-client-2025-04-04`)."""

    allowed_tools: list[str] | None = None
    """Names of the tools that the model may call. None: all tools of the server."""
    enabled: bool | None = None
    """False if no tool of the server is offered to the model. None: the tools are offered."""


class McpServer(Struct):
    """Entry of the request field `mcp_servers`: an MCP server that the provider calls."""

    name: str = ""
    """Name of the server in this request. Toolsets (entries of `tools`) refer to it. "": missing or invalid."""
    url: str = ""
    """Address of the server. "": missing or invalid."""
    authorization_token: str | None = None
    """Secret of the client for this server only. It is never logged, and redacted in errors."""
    tool_configuration: McpToolPermissions | None = None
    """Permissions for the tools of the server. None: all tools are allowed."""

    def __repr__(self) -> str:
        return f"McpServer(name={self.name!r}, url={self.url!r}, authorization_token='…')"


_NO_SERVER = McpServer()


def decode_mcp_servers(raw: Raw) -> list[McpServer]:
    """Return the MCP servers of a client request.

    An entry of a wrong type raises no error: it becomes a server with the name "" and the URL "". If the field itself
    is not a list, the result is one such server.
    """
    if has_too_many_members(bytes(raw)):
        return [_NO_SERVER]
    try:
        return [_read_server(server) for server in msgspec.json.decode(raw, type=list[Raw])]
    except msgspec.ValidationError:
        return [_NO_SERVER]


def _read_server(raw: Raw) -> McpServer:
    try:
        return msgspec.json.decode(raw, type=McpServer)
    except msgspec.ValidationError:
        return _NO_SERVER
