"""Tools in the Chat Completions API: definitions and `tool_choice` of requests, and results of server tools in replies.

Client tools are functions that the client runs; `stream.py` decodes their calls. Server tools (web search …) run at the
provider, which sends their results with its reply (`ServerToolDecoder`).
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.messages.deltas import Delta, Usage
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models import Tool, ToolChoice
from anthropic_proxy.engine.messages.models.client_json import decode_values
from anthropic_proxy.engine.messages.models.raw_json import is_present
from anthropic_proxy.engine.messages.models.tools import are_client_tools, is_client_tool
from anthropic_proxy.engine.messages.preparation import server_tool_kind
from anthropic_proxy.engine.messages.server_blocks import (
    SERVER_TOOL_ID_PREFIX,
    SearchResultPage,
    describe_generated_file,
    encode_citation,
    encode_code_execution_call,
    encode_code_result,
    encode_fetch_call_and_result,
    encode_search_call,
    encode_search_call_and_result,
    encode_search_result,
    is_domain_allowed,
)
from anthropic_proxy.engine.messages.work_budget import WorkBudget
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.json_repair import decode_or_empty
from anthropic_proxy.engine.wires.json_schema import SchemaRules, find_schema_rules
from anthropic_proxy.engine.wires.openai_chat.dialect import Dialect
from anthropic_proxy.engine.wires.openai_chat.reply import ChoiceDelta
from anthropic_proxy.engine.wires.openai_shared import encode_function
from anthropic_proxy.engine.wires.shared_notes import missing_setting_note
from anthropic_proxy.engine.wires.tools import (
    EncodedTool,
    build_forced_tool_error,
    emulate_forced_tool,
    for_each_client_tool,
    list_blocked_domains,
    name_forced_tools,
)
from anthropic_proxy.errors import UnsupportedFeature


class ToolFields(Struct):
    definitions: list[Raw]
    body_fields: dict[str, Any] = {}
    """Top-level fields of the request body that enable server tools."""
    tool_choice: Any = None
    user_instruction: str = ""
    """User text that requests a tool call if the server cannot force it. "": none."""
    notes: list[FidelityNote] = []


def encode_tools(call: TranslatedCall[Dialect], budget: WorkBudget) -> ToolFields:
    """Return the request fields for the client's tools and tool choice.

    Raises `UnsupportedFeature` if the model does not support tools. The same error is raised if `tool_choice` requires
    an unsupported tool, or a server tool beside other tools.
    """
    request, dialect = call.request, call.dialect
    rules = find_schema_rules(dialect.schema_rules, dialect.schema_language)
    definitions, notes = _encode_functions(request.tools, budget, rules, dialect.sends_strict)
    tools = ToolFields([*definitions], notes=[*notes])
    if dialect.server_tools and offers_server_tools(call):
        known = dict(dialect.server_tool_names)
        enabled: list[str] = []
        for tool in call.request.tools:
            kind = server_tool_kind(tool)
            if is_client_tool(tool) or not kind or kind not in known:
                continue
            name = known[kind]
            location = decode_values(tool.user_location) if len(tool.user_location) else None
            values = {
                "max_uses": tool.max_uses,
                "allowed_domains": tool.allowed_domains,
                "blocked_domains": tool.blocked_domains,
                "user_location": location,
            }
            names = dict(dialect.server_tool_setting_names) if kind == "web_search" else {}
            given = {name: value for name, value in values.items() if value}
            tools.notes += [missing_setting_note(tool.name, field) for field in given if field not in names]
            settings = {names[field]: value for field, value in given.items() if field in names}
            if dialect.server_tool_form == "enabled":
                enabled.append(name)
                tools.body_fields |= {"search_settings": settings} if settings else {}
            else:
                definition = {"type": name} | ({"parameters": settings} if settings else {})
                tools.definitions.append(Raw(msgspec.json.encode(definition)))
        if enabled:
            tools.body_fields["compound_custom"] = {"tools": {"enabled_tools": enabled}}
    if tools.definitions and not dialect.accepts_tools:
        remedy = f"Set {call.responses_setting}, or choose" if call.responses_setting else "Choose"
        raise UnsupportedFeature(
            f"{call.provider_prefix}: {call.model} does not support tools over Chat Completions. "
            f"{remedy} another model.",
            code="tools-over-chat",
        )
    if request.tool_choice is not None:
        _choose(request.tool_choice, tools, call)
    return tools


@for_each_client_tool
def _encode_functions(tool: Tool, budget: WorkBudget, rules: SchemaRules, sends_strict: bool) -> EncodedTool:
    function, strict, losses = encode_function(tool, budget, rules, sends_strict=sends_strict)
    function |= {"strict": True} if strict else {}
    return EncodedTool(Raw(msgspec.json.encode({"type": "function", "function": function})), losses)


def offers_server_tools(call: TranslatedCall[Dialect]) -> bool:
    return not are_client_tools(call.request.tools)


def _choose(choice: ToolChoice, tools: ToolFields, call: TranslatedCall[Dialect]) -> None:
    asked, dialect = call.request.tools, call.dialect
    forces = choice.type in ("any", "tool")
    forced = next((tool for tool in asked if choice.type == "tool" and tool.name == choice.name), None)
    if forced is not None and not is_client_tool(forced):
        if len(asked) > 1:
            raise build_forced_tool_error(call, f"its own {forced.name} if there are other tools.")
        if tools.definitions:
            tools.tool_choice = "required"
        else:
            why = f"{call.provider_prefix} decides itself when to use {forced.name}"
            tools.notes.append(FidelityNote("approximated", "tool_choice", why))
        return
    if not tools.definitions:
        if forces:
            names = name_forced_tools(call)
            raise build_forced_tool_error(call, f"a tool, because it supports none of the given tools: {names}.")
        return
    thinks = dialect.is_thinking(call.request)
    emulated = emulate_forced_tool(choice, dialect.accepts_forced_tool, call.provider_prefix, thinks=thinks)
    if emulated is not None:
        tools.tool_choice = "required" if emulated.type == "any" else "auto"
        tools.user_instruction = emulated.user_instruction
        tools.notes.append(emulated.note)
    elif choice.type == "tool":
        tools.tool_choice = {"type": "function", "function": {"name": choice.name}}
    else:
        tools.tool_choice = {"any": "required", "none": "none"}.get(choice.type, "auto")


class _Found(Struct):
    url: str | None = None
    title: str | None = None
    content: str | None = None
    end_index: int | None = None


class _SearchResults(Struct):
    results: list[_Found] | None = None


class _Printed(Struct):
    text: str | None = None
    png: str | None = None


class _Executed(Struct):
    index: int = 0
    arguments: str = ""
    output: str | None = None
    search_results: _SearchResults | None = None
    browser_results: list[_Found] | None = None
    code_results: list[_Printed] | None = None


class _Arguments(Struct):
    query: str | None = None
    code: str | None = None
    url: str | None = None


class _Annotation(Struct):
    type: str = ""
    url_citation: _Found | None = None


# Groq sends each run first without and then with its result. Both forms were recorded by the project
# `pydantic/pydantic-ai` (cassettes test_groq_model_web_search_tool_stream and
# test_openrouter_web_search_annotations_stream, 2026-08).
class ServerToolDecoder:
    """Decodes the results of server tools (web search …) in one reply into deltas."""

    def __init__(self, call: TranslatedCall[Dialect]) -> None:
        self._new_id = call.new_id
        self._blocked = list_blocked_domains(call)
        self._open: dict[int, str] = {}
        """Index of a search without a result so far → id of its call block in the reply to the client."""
        self._done: set[int] = set()
        self._found: dict[str, _Found] = {}
        self._reported: set[str] = set()
        self._searches = 0
        self._fetches = 0

    def decode_choice_delta(self, choice_delta: ChoiceDelta) -> list[Delta]:
        """Return the deltas of the server tools in one chunk. Send them before the text of the chunk."""
        deltas: list[Delta] = []
        if is_present(choice_delta.executed_tools):
            for executed in decode_or_empty(choice_delta.executed_tools, list[_Executed]):
                deltas += self._read_executed(executed)
        if is_present(choice_delta.annotations):
            marks: list[_Annotation] = decode_or_empty(choice_delta.annotations, list[_Annotation])
            for result in (mark.url_citation for mark in marks):
                if result is None or not result.url or not is_domain_allowed(result.url, (), self._blocked):
                    continue
                self._found.setdefault(result.url, result)
                if result.end_index:
                    deltas.append(encode_citation(result.url, result.title, result.content or ""))
        if choice_delta.content:
            deltas += self._emit_search()
        return deltas

    def finish_searches(self) -> list[Delta]:
        """Return the remaining deltas of the searches at the end of the text. A missing result becomes an empty one."""
        deltas = self._emit_search()
        for identifier in self._open.values():
            deltas.append(encode_search_result(identifier, ()))
        self._open = {}
        return deltas

    def _read_executed(self, executed: _Executed) -> list[Delta]:
        index = executed.index
        if index in self._done:
            return []
        try:
            arguments = msgspec.json.decode(executed.arguments, type=_Arguments)
        except (msgspec.DecodeError, RecursionError):
            arguments = _Arguments()
        is_complete = executed.output is not None
        if arguments.query is not None:
            deltas: list[Delta] = []
            if index not in self._open:
                self._open[index] = self._new_id(SERVER_TOOL_ID_PREFIX)
                deltas.append(encode_search_call(self._open[index], arguments.query))
            if is_complete:
                self._done.add(index)
                self._searches += 1
                found = executed.search_results.results if executed.search_results else None
                results = [*(found or ()), *(executed.browser_results or ())]
                deltas.append(encode_search_result(self._open.pop(index), self._shown(results)))
                deltas.append(Usage(web_search_requests=self._searches, billed_searches=self._searches))
            return deltas
        if not is_complete:
            return []
        self._done.add(index)
        identifier = self._new_id(SERVER_TOOL_ID_PREFIX)
        if arguments.code is not None:
            images = [one.png for one in executed.code_results or () if one.png]
            described = [describe_generated_file("image/png", len(image)) for image in images]
            printed = "\n".join(filter(None, (executed.output, *described)))
            call = encode_code_execution_call(identifier, arguments.code)
            return [call, encode_code_result(identifier, stdout=printed)]
        if not arguments.url:
            return []
        self._fetches += 1
        return [*encode_fetch_call_and_result(identifier, arguments.url), Usage(web_fetch_requests=self._fetches)]

    def _emit_search(self) -> list[Delta]:
        """Return a search with the pages not returned before. OpenRouter reports no query."""
        results = [result for url, result in self._found.items() if url not in self._reported]
        self._reported.update(self._found)
        identifier = self._new_id(SERVER_TOOL_ID_PREFIX) if results else ""
        return encode_search_call_and_result(identifier, "", self._shown(results)) if results else []

    def _shown(self, results: Iterable[_Found]) -> list[SearchResultPage]:
        shown: dict[str, SearchResultPage] = {}
        for result in results:
            if result.url and is_domain_allowed(result.url, (), self._blocked):
                shown[result.url] = SearchResultPage(result.url, result.title, result.content or "")
        return list(shown.values())
