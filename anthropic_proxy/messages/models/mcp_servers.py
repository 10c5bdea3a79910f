"""MCP servers of a request.

Source: `BetaRequestMCPServerURLDefinitionParam` of the official SDK `anthropic` 2.10.
"""

import msgspec
from msgspec import Raw, Struct


class ServerTools(Struct):
    """Permissions in the definition of a server without a toolset (beta `mcp-client-2025-04-04`)."""

    allowed_tools: list[str] | None = None
    enabled: bool | None = None


class McpServer(Struct):
    """Entry of `mcp_servers`."""

    name: str = ""
    url: str = ""
    authorization_token: str | None = None
    """Secret of the client for this server only. It is never logged, and redacted in errors."""
    tool_configuration: ServerTools | None = None

    def __repr__(self) -> str:
        return f"McpServer(name={self.name!r}, url={self.url!r}, authorization_token='…')"


_NO_SERVER = McpServer()


def read_servers(raw: Raw) -> list[McpServer]:
    """Return the servers of a request. An invalid definition becomes a server without a name."""
    try:
        return [_read_server(server) for server in msgspec.json.decode(raw, type=list[Raw])]
    except msgspec.ValidationError:
        return [_NO_SERVER]


def _read_server(raw: Raw) -> McpServer:
    try:
        return msgspec.json.decode(raw, type=McpServer)
    except msgspec.ValidationError:
        return _NO_SERVER
