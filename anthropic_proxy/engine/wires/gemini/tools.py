"""Encoder of tools and of the tool choice: function declarations for client tools, and the tools that Gemini runs.

Gemini's own tools (`googleSearch`, `urlContext` and `codeExecution`) replace the server tools of the Messages API.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models import Tool
from anthropic_proxy.engine.messages.models.client_json import decode_values
from anthropic_proxy.engine.messages.models.raw_json import quote_text
from anthropic_proxy.engine.messages.models.tools import are_client_tools, is_client_tool
from anthropic_proxy.engine.messages.preparation import PreparedRequest, server_tool_kind
from anthropic_proxy.engine.messages.work_budget import WorkBudget
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.gemini.dialect import Dialect
from anthropic_proxy.engine.wires.gemini.schema import encode_parameter_schema, find_unsupported_keywords
from anthropic_proxy.engine.wires.shared_notes import SINGLE_TOOL_CALL, missing_setting_note
from anthropic_proxy.engine.wires.tools import EncodedTool, emulate_forced_tool, for_each_client_tool, tool_description
from anthropic_proxy.errors import UnsupportedFeature

_OWN: Mapping[str, str] = {"web_search": "googleSearch", "web_fetch": "urlContext", "code_execution": "codeExecution"}
"""Kind of a server tool of the Messages API → field of Google's equivalent in `tools`."""


class GoogleTools(Struct, frozen=True):
    field_names: frozenset[str] = frozenset()
    announces_calls: bool = False
    """True if the provider sends each call of its own tools before the text that uses the result."""
    cites_fetches: bool = False
    allowed_domains: tuple[str, ...] = ()
    blocked_domains: tuple[str, ...] = ()

    @property
    def can_search(self) -> bool:
        return "googleSearch" in self.field_names


_NO_TOOLS = GoogleTools()


def find_google_tools(request: PreparedRequest, dialect: Dialect) -> GoogleTools:
    if are_client_tools(request.tools):
        return _NO_TOOLS
    found = {
        _OWN[server_tool_kind(tool)]: tool
        for tool in request.tools
        if not is_client_tool(tool) and server_tool_kind(tool) in _OWN
    }
    has_functions = any(map(is_client_tool, request.tools))
    if not found or (has_functions and dialect.server_tools_exclusive):
        return _NO_TOOLS
    choice = request.tool_choice
    forced = {name for name, tool in found.items() if choice and choice.type == "tool" and tool.name == choice.name}
    names = frozenset(forced if forced and not has_functions else found)
    search, fetch = found.get("googleSearch"), found.get("urlContext")
    return GoogleTools(
        names,
        announces_calls=has_functions and dialect.search_with_functions == "announced",
        cites_fetches=fetch is not None and b"true" in bytes(fetch.citations),
        allowed_domains=tuple(search.allowed_domains or ()) if search else (),
        blocked_domains=tuple(search.blocked_domains or ()) if search else (),
    )


class ToolFields(Struct, frozen=True):
    tools: list[dict[str, Any]]
    tool_config: dict[str, Any]
    user_instruction: str = ""
    """User text that requests a tool call if the model accepts no forced one. "": none."""


def encode_tools(call: TranslatedCall[Dialect], notes: list[FidelityNote], budget: WorkBudget) -> ToolFields:
    """Return the request fields for the tools and the tool choice.

    Raises `UnsupportedFeature` if a forced tool cannot be offered. Notes on smaller losses are appended to `notes`.
    """
    request, dialect = call.request, call.dialect
    own = find_google_tools(request, dialect)
    declarations, losses = _declare_functions(request.tools, budget, dialect.schema_form == "lowered")
    notes += losses
    tools: list[dict[str, Any]] = [{"functionDeclarations": declarations}] if declarations else []
    for tool in request.tools if own.field_names else ():
        if is_client_tool(tool) or _OWN.get(kind := server_tool_kind(tool)) not in own.field_names:
            continue
        field = f"tools.{tool.name or tool.type}"
        lost = [limit for limit in ("max_uses", "max_content_tokens") if getattr(tool, limit)]
        settings: dict[str, Any] = {}
        domains = [name for name in ("allowed_domains", "blocked_domains") if getattr(tool, name)]
        if kind == "web_search":
            if len(tool.user_location) > len(b"null"):
                lost.append("user_location")
            if tool.blocked_domains and dialect.accepts_excluded_domains:
                settings["excludeDomains"] = tool.blocked_domains
                domains.remove("blocked_domains")
            why = "the provider's search has no known setting for it; other pages are removed from its results"
            notes += [FidelityNote("approximated", f"{field}.{name}", why) for name in domains]
        else:
            lost += domains
        notes += [missing_setting_note(tool.name or kind, name) for name in lost]
        tools.append({_OWN[kind]: settings})
    instruction = ""
    if declarations and (choice := request.tool_choice) is not None:
        thinks = dialect.always_reasons or request.effort != "none"
        emulated = emulate_forced_tool(choice, dialect.accepts_forced_tool, call.provider_prefix, thinks=thinks)
        if emulated is not None:
            instruction = emulated.user_instruction
            notes.append(emulated.note)
            request = replace(request, tool_choice=replace(choice, type=emulated.type, name=None))
    config = _encode_choice(request, bool(declarations), own, notes)
    if own.announces_calls:
        config["includeServerSideToolInvocations"] = True
    if declarations and request.tool_choice is not None and request.tool_choice.disable_parallel_tool_use:
        notes.append(SINGLE_TOOL_CALL)
    return ToolFields(tools, config, instruction)


def _encode_choice(
    request: PreparedRequest, has_functions: bool, own: GoogleTools, notes: list[FidelityNote]
) -> dict[str, Any]:
    choice = request.tool_choice
    if choice is None or choice.type == "auto":
        return {}
    if choice.type == "tool" and not any(is_client_tool(tool) and tool.name == choice.name for tool in request.tools):
        forced = next((tool for tool in request.tools if tool.name == choice.name), None)
        if has_functions or forced is None or _OWN.get(server_tool_kind(forced)) not in own.field_names:
            where = "with functions" if has_functions and forced is not None else "at this backend"
            text = f"tool_choice: {choice.name} cannot be forced {where}"
            raise UnsupportedFeature(text, code="forced-tool", quotes=quote_text(choice.name or ""))
        why = f"{choice.name} is the only tool; it cannot be forced"
        notes.append(FidelityNote("approximated", "tool_choice", why))
        return {}
    if not has_functions:
        if choice.type == "any" and not own.field_names:
            raise UnsupportedFeature(
                "tool_choice: any requires a tool, and none of the given tools is available", code="forced-tool"
            )
        if choice.type == "any":
            notes.append(FidelityNote("approximated", "tool_choice", "the provider's own tools cannot be forced"))
        return {}
    calling: dict[str, Any] = {"mode": "NONE" if choice.type == "none" else "ANY"}
    if choice.type == "tool":
        calling["allowedFunctionNames"] = [choice.name]
    return {"functionCallingConfig": calling}


@for_each_client_tool
def _declare_functions(tool: Tool, budget: WorkBudget, as_openapi: bool) -> EncodedTool:
    declaration: dict[str, Any] = {"name": tool.name}
    if (description := tool_description(tool)) or tool.description is not None:
        declaration["description"] = description
    budget.count_decoding_steps(tool.input_schema)
    schema = decode_values(tool.input_schema) if tool.input_schema else {}
    parameters = encode_parameter_schema(schema, budget, as_openapi=as_openapi)
    if parameters is not None:
        declaration["parameters" if as_openapi else "parametersJsonSchema"] = parameters
    losses = ("the server has no known strict mode",) if tool.strict else ()
    keywords = find_unsupported_keywords(schema, budget, as_openapi=as_openapi)
    return EncodedTool(Raw(msgspec.json.encode(declaration)), losses, keywords, ".strict")
