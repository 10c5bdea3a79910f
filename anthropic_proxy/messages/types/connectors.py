"""Servers of the Model Context Protocol that the client wants called for it.

Source: `BetaRequestMCPServerURLDefinitionParam` of the official SDK `anthropic` 2.10.
"""

import msgspec
from msgspec import Raw, Struct


class ServerTools(Struct):
    """What a server's definition allows that no toolset names (beta `mcp-client-2025-04-04`)."""

    allowed_tools: list[str] | None = None
    enabled: bool | None = None


class McpServer(Struct):
    """One of `mcp_servers`."""

    name: str = ""
    url: str = ""
    authorization_token: str | None = None
    """A secret of the client's, meant for that server alone: never logged, and masked in errors."""
    tool_configuration: ServerTools | None = None

    def __repr__(self) -> str:
        return f"McpServer(name={self.name!r}, url={self.url!r}, authorization_token='…')"


_NO_SERVER = McpServer()


def read_servers(raw: Raw) -> list[McpServer]:
    """Return the servers of a request; a definition of another shape is one without a name, which nobody can call."""
    try:
        return [_read_server(server) for server in msgspec.json.decode(raw, type=list[Raw])]
    except msgspec.ValidationError:
        return [_NO_SERVER]


def _read_server(raw: Raw) -> McpServer:
    try:
        return msgspec.json.decode(raw, type=McpServer)
    except msgspec.ValidationError:
        return _NO_SERVER
