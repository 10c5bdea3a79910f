"""Tools and the choice among them: function declarations, search and URL context."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.errors import UnsupportedFeature
from anthropic_proxy.messages.notes import Note
from anthropic_proxy.messages.prepare import PreparedRequest, kind_of
from anthropic_proxy.messages.types import Tool
from anthropic_proxy.messages.types.tools import is_client_tool
from anthropic_proxy.wire.definitions import encode_once
from anthropic_proxy.wire.gemini.dialect import Dialect
from anthropic_proxy.wire.gemini.schema import parameters_of

_OWN: Mapping[str, str] = {"web_search": "googleSearch", "web_fetch": "urlContext"}
"""Kind of a server tool → the provider's own."""
_MODES = {"any": "ANY", "none": "NONE"}


class Toolbox(Struct, frozen=True):
    """What a request says about tools."""

    tools: list[dict[str, Any]]
    config: dict[str, Any]
    """`toolConfig`; empty: nothing to say."""
    searches: bool
    """Whether the provider may search the web."""


def pack_tools(request: PreparedRequest, dialect: Dialect, notes: list[Note]) -> Toolbox:
    """Return the tools as this wire says them.

    Raises `UnsupportedFeature` where the request forces a tool that cannot be offered.
    """
    declarations = [_declare(tool, dialect.schema_style) for tool in request.tools if is_client_tool(tool)]
    own = _server_tools(request, dialect, bool(declarations), notes)
    tools: list[dict[str, Any]] = [{"functionDeclarations": declarations}] if declarations else []
    tools += [{name: settings} for name, settings in own.items()]
    config = _encode_choice(request, bool(declarations), own)
    if declarations and own and dialect.search_with_functions == "announced":
        config["includeServerSideToolInvocations"] = True
    return Toolbox(tools, config, "googleSearch" in own)


def searches_the_web(request: PreparedRequest, dialect: Dialect) -> bool:
    """Whether the request, once encoded, lets the provider search the web."""
    return pack_tools(request, dialect, []).searches if any(map(_is_search, request.tools)) else False


def _is_search(tool: Tool) -> bool:
    return not is_client_tool(tool) and kind_of(tool) == "web_search"


def _server_tools(
    request: PreparedRequest, dialect: Dialect, has_functions: bool, notes: list[Note]
) -> dict[str, dict[str, Any]]:
    own: dict[str, dict[str, Any]] = {}
    if has_functions and dialect.server_tools_alone:
        return own
    for place, tool in enumerate(request.tools):
        if not is_client_tool(tool) and (name := _OWN.get(kind_of(tool))):
            own[name] = {}
            notes += [
                Note("dropped", f"tools[{place}].{limit}", "the provider's own tool has no such limit")
                for limit in ("allowed_domains", "blocked_domains", "max_uses")
                if getattr(tool, limit)
            ]
    return own


def _encode_choice(request: PreparedRequest, has_functions: bool, own: dict[str, Any]) -> dict[str, Any]:
    choice = request.tool_choice
    if choice is None or choice.type == "auto":
        return {}
    if choice.type == "tool" and not any(is_client_tool(tool) and tool.name == choice.name for tool in request.tools):
        forced = next((tool for tool in request.tools if tool.name == choice.name), None)
        if forced is not None and _OWN.get(kind_of(forced)) in own:
            return {}  # a tool of the provider's own cannot be forced; alone in the request it is used anyway
        raise UnsupportedFeature(f"tool_choice: {choice.name} cannot be forced, it is not available at this backend")
    if not has_functions:
        if choice.type == "any" and not own:
            raise UnsupportedFeature("tool_choice: any needs a tool, and none of those given is available here")
        return {}
    calling: dict[str, Any] = {"mode": _MODES.get(choice.type, "ANY")}
    if choice.type == "tool":
        calling["allowedFunctionNames"] = [choice.name]
    return {"functionCallingConfig": calling}


@encode_once
def _declare(tool: Tool, style: str) -> Raw:
    """Return the function declaration of a tool."""
    declaration: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        declaration["description"] = tool.description
    schema = msgspec.json.decode(tool.input_schema) if memoryview(tool.input_schema).nbytes else {}
    parameters = parameters_of(schema, lowered=style == "lowered")
    if parameters is not None:
        declaration["parameters" if style == "lowered" else "parametersJsonSchema"] = parameters
    return Raw(msgspec.json.encode(declaration))
