"""Servers of the client's that the provider calls itself: `mcp` among the tools.

Source: `Mcp` of the official SDK `openai` 3.51; "Remote MCP Tools" of xAI's documentation, 2026-11.
"""

import re
from typing import Any

from anthropic_proxy.errors import InvalidRequest, UnsupportedFeature
from anthropic_proxy.messages.notes import Note
from anthropic_proxy.messages.prepare import PreparedRequest
from anthropic_proxy.messages.types import Tool
from anthropic_proxy.messages.types.toolsets import Toolset, read_toolset
from anthropic_proxy.wire.openai_responses.dialect import Dialect

_NOT_IN_LABELS = re.compile(r"[^a-zA-Z0-9_-]")


def encode_connector(
    tool: Tool, request: PreparedRequest, dialect: Dialect, notes: list[Note]
) -> dict[str, Any] | None:
    """Say a toolset as a server that may be called without asking; None: it allows no tool at all.

    Raises `InvalidRequest` where no such server is defined, `UnsupportedFeature` where what it allows cannot be said.
    """
    toolset = read_toolset(tool)
    name = toolset.mcp_server_name
    server = next((server for server in request.mcp_servers if server.name == name and server.url), None)
    if server is None:
        raise InvalidRequest(f"tools: mcp_toolset: mcp_servers has no server named {name!r} with a url")
    allowed = _allowed(toolset)
    if allowed == []:
        notes.append(Note("dropped", f"mcp_servers.{name}", "none of its tools is enabled"))
        return None
    said: dict[str, Any] = {"type": "mcp", "server_label": _label_of(name), "server_url": server.url}
    if server.authorization_token:
        said["authorization"] = server.authorization_token
    if allowed is not None:
        said["allowed_tools"] = allowed
    if dialect.says_approval:
        said["require_approval"] = "never"
    return said


def server_of(request: PreparedRequest, label: str) -> str:
    """Return the client's own name of a server."""
    return next((server.name for server in request.mcp_servers if _label_of(server.name) == label), label)


def _label_of(name: str) -> str:
    """Return a name as a label: letters, digits, `_` and `-`, a letter first."""
    label = _NOT_IN_LABELS.sub("_", name)
    return label if label[:1].isalpha() else f"mcp_{label}"


def _allowed(toolset: Toolset) -> list[str] | None:
    """Return the names of the tools that may be called; None: all."""
    configs = toolset.configs or {}
    if toolset.default_config is not None and toolset.default_config.enabled is False:
        return [name for name, config in configs.items() if config.enabled]
    refused = [name for name, config in configs.items() if config.enabled is False]
    if toolset.tools is not None:
        return [tool.name for tool in toolset.tools if tool.name not in refused]
    if refused:
        raise UnsupportedFeature(
            f"tools: mcp_toolset: configs: this provider can be told which tools of {toolset.mcp_server_name!r} it may "
            f"call, not which it may not ({', '.join(refused)}); disable all by default_config and enable the others"
        )
    return None
