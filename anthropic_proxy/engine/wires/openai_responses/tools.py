"""Tools in the Responses API: definitions and `tool_choice` of requests, and tool calls and their results in replies.

Client tools are functions that the client runs (`ToolCallItemDecoder`). Server tools and the tools of MCP servers run
at the provider, which sends their results with its reply (`ServerToolItemDecoder`, `WebSearchDecoder`).

Sources for MCP: `Mcp` of the official SDK `openai` 3.51; "Remote MCP Tools" of xAI's documentation, 2026-11.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.messages.deltas import Citation, Delta, Text, ToolArgs, ToolCall, ToolEnd, Usage
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models import McpServer, Tool, ToolChoice
from anthropic_proxy.engine.messages.models.client_json import decode_values
from anthropic_proxy.engine.messages.models.raw_json import ABSENT, quote_text
from anthropic_proxy.engine.messages.models.tool_arguments import (
    ArgumentsReader,
    divide_arguments,
    is_truncated_object,
    means_no_arguments,
    repeats_arguments,
)
from anthropic_proxy.engine.messages.models.tools import are_client_tools, decode_toolset, is_client_tool
from anthropic_proxy.engine.messages.preparation import PreparedRequest, server_tool_kind
from anthropic_proxy.engine.messages.server_blocks import (
    MCP_TOOL_ID_PREFIX,
    SERVER_TOOL_ID_PREFIX,
    SearchResultPage,
    describe_generated_image,
    encode_citation,
    encode_code_execution_call,
    encode_code_execution_error,
    encode_code_result,
    encode_failed_search,
    encode_mcp_call,
    encode_mcp_result,
    encode_search_call,
    encode_search_call_and_result,
    encode_search_result,
    is_domain_allowed,
)
from anthropic_proxy.engine.messages.work_budget import WorkBudget
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.delivered_text import DeliveredText
from anthropic_proxy.engine.wires.failures import is_error_stated
from anthropic_proxy.engine.wires.json_repair import decode_or_empty
from anthropic_proxy.engine.wires.json_schema import SchemaRules, find_schema_rules
from anthropic_proxy.engine.wires.openai_responses.dialect import Dialect
from anthropic_proxy.engine.wires.openai_responses.reply import OutputContent, OutputItem
from anthropic_proxy.engine.wires.openai_shared import encode_function
from anthropic_proxy.engine.wires.shared_notes import missing_setting_note
from anthropic_proxy.engine.wires.tool_call_repair import ToolCallRepair
from anthropic_proxy.engine.wires.tools import (
    EncodedTool,
    ToolCallIds,
    build_forced_tool_error,
    emulate_forced_tool,
    for_each_client_tool,
    is_other_call,
    is_parallel_wrapper,
    list_blocked_domains,
    name_forced_tools,
    split_wrapper,
)
from anthropic_proxy.errors import InvalidRequest, UnsupportedFeature


class ToolFields(Struct):
    """Request fields for tools, and properties of the offered tools on which other request fields depend."""

    definitions: list[Any]
    tool_choice: Any = None
    can_search: bool = False
    max_searches: int | None = None
    """Maximum number of searches per reply, sent as `max_tool_calls`. None: no limit."""
    runs_code: bool = False
    user_instruction: str = ""
    """User text that requests a tool call if the model accepts no forced one. "": none."""
    notes: list[FidelityNote] = []


def encode_tools(call: TranslatedCall[Dialect], budget: WorkBudget) -> ToolFields:
    asked, dialect = call.request.tools, call.dialect
    options = find_schema_rules(dialect.schema_rules, dialect.schema_language), dialect.sends_strict
    are_plain = are_client_tools(asked)
    definitions, notes = _encode_functions(asked, budget, *options) if are_plain and asked else ((), ())
    tools = ToolFields([*definitions], notes=[*notes])
    offered: dict[str, dict[str, str]] = {}  # tool name → `tool_choice` that forces the tool
    servers = {} if are_plain else {one.name: one for one in reversed(call.request.mcp_servers) if one.url}
    for tool in () if are_plain else asked:
        kind = None if is_client_tool(tool) else server_tool_kind(tool)
        if kind is None:
            definitions, notes = _encode_functions([tool], budget, *options)
            tools.definitions += definitions
            tools.notes += notes
        elif kind == "web_search":
            tools.definitions.append(_encode_search(tool, dialect, tools.notes))
            tools.can_search = True
            tools.max_searches = tool.max_uses
            offered[tool.name] = {"type": "web_search"}
        elif kind == "code_execution":
            container = {"container": {"type": "auto"}} if dialect.sends_container else {}
            tools.definitions.append({"type": "code_interpreter", **container})
            tools.runs_code = True
            offered[tool.name] = {"type": "code_interpreter"}
        elif kind == "mcp_toolset" and (definition := _encode_mcp_server(tool, servers, dialect, tools.notes)):
            tools.definitions.append(definition)
            label = definition["server_label"]
            offered[f"mcp:{label}"] = {"type": "mcp", "server_label": label}
    if call.request.tool_choice is not None:
        offered |= {tool.name: {"type": "function", "name": tool.name} for tool in asked if is_client_tool(tool)}
        tools.tool_choice = _choose(call.request.tool_choice, offered, call)
        thinks = dialect.is_thinking_at_effort(call.request.effort)
        accepted = dialect.accepts_forced_tool
        emulated = emulate_forced_tool(call.request.tool_choice, accepted, call.provider_prefix, thinks=thinks)
        if emulated is not None:
            tools.tool_choice = "required" if emulated.type == "any" else "auto"
            tools.user_instruction = emulated.user_instruction
            tools.notes.append(emulated.note)
    # `max_tool_calls` limits all server tools, so it is sent only if web search is the only one.
    only_searches = all(tool["type"] in ("function", "web_search") for tool in offered.values())
    if tools.max_searches is not None and not (dialect.sends_max_tool_calls and only_searches):
        tools.max_searches = None
        why = "limits all of its tools as one" if dialect.sends_max_tool_calls else "has no such limit"
        tools.notes.append(FidelityNote("approximated", "tools.web_search.max_uses", f"{call.provider_prefix} {why}"))
    return tools


def encode_loaded_tools(
    call: TranslatedCall[Dialect], budget: WorkBudget, notes: list[FidelityNote]
) -> dict[str, Sequence[Raw]]:
    """Return the definitions of loaded tools by the id of the tool result that has loaded them."""
    dialect = call.dialect
    definitions: dict[str, Sequence[Raw]] = {}
    for call_id, tools in call.request.loaded_tools.items() if dialect.loaded_tool_form == "items" else ():
        rules = find_schema_rules(dialect.schema_rules, dialect.schema_language)
        definitions[call_id], lost = _encode_functions(tools, budget, rules, dialect.sends_strict)
        notes += lost
    return definitions


@for_each_client_tool
def _encode_functions(tool: Tool, budget: WorkBudget, rules: SchemaRules, sends_strict: bool) -> EncodedTool:
    fields, strict, losses = encode_function(tool, budget, rules, sends_strict=sends_strict)
    # even if it is false, because its default is true (API reference)
    form = {"strict": strict} if sends_strict else {}
    return EncodedTool(Raw(msgspec.json.encode({"type": "function", **fields, **form})), losses)


def _encode_search(tool: Tool, dialect: Dialect, notes: list[FidelityNote]) -> dict[str, Any]:
    definition: dict[str, Any] = {"type": "web_search"}
    if tool.allowed_domains:
        definition["filters"] = {"allowed_domains": tool.allowed_domains}
    elif tool.blocked_domains and dialect.accepts_excluded_domains:
        definition["filters"] = {"excluded_domains": tool.blocked_domains}
    if tool.blocked_domains and "excluded_domains" not in definition.get("filters", ()):
        why = "the provider's search has no known setting for it; they are removed from its results"
        notes.append(FidelityNote("approximated", f"tools.{tool.name}.blocked_domains", why))
    given: Any = decode_values(tool.user_location) if tool.user_location else None
    names = ("city", "region", "country", "timezone") if isinstance(given, dict) else ()
    place = {name: given[name] for name in names if isinstance(given.get(name), str)}
    if place and dialect.sends_user_location:
        definition["user_location"] = {"type": "approximate", **place}
    elif place:
        notes.append(missing_setting_note(tool.name, "user_location"))
    return definition


def _choose(choice: ToolChoice, offered: dict[str, dict[str, str]], call: TranslatedCall[Dialect]) -> Any:
    if choice.type in ("none", "auto"):
        return choice.type if offered else None
    if not offered or (choice.type == "tool" and choice.name not in offered):
        raise build_forced_tool_error(call, f"a tool that it does not support: {name_forced_tools(call)}.")
    wanted = offered.get(choice.name or "")
    if choice.type == "any" or wanted is None:
        return "required"
    if wanted["type"] == "function":
        return wanted
    if len(offered) == 1:
        return "required"
    if not call.dialect.accepts_forced_server_tool:
        raise build_forced_tool_error(call, f"its own {wanted['type']} if there are other tools.")
    return {"type": "allowed_tools", "mode": "required", "tools": [wanted]}


_CUT_ARGUMENTS = "{"
"""Arguments of a call of which none have arrived. Without any, the client would run it with an empty object."""
_NOT_IN_LABELS = compile_later(r"[^a-zA-Z0-9_-]")


def _encode_mcp_server(
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
        raise InvalidRequest(
            f"tools: mcp_toolset: mcp_servers has no server named {name!r} with a url",
            code="tool-choice",
            quotes=quote_text(repr(name)),
        )
    configs = toolset.configs or {}
    refused = [name for name, config in configs.items() if config.enabled is False]
    allowed: list[str] | None = None  # all of its tools
    if toolset.default_config is not None and toolset.default_config.enabled is False:
        allowed = [name for name, config in configs.items() if config.enabled]
    elif toolset.tools is not None:
        allowed = [tool.name for tool in toolset.tools if tool.name not in refused]
    elif refused:
        raise UnsupportedFeature(
            f"tools: mcp_toolset: configs: this provider has a list of allowed tools for {name!r}, but no list of "
            f"forbidden ones ({', '.join(refused)}); disable all by default_config and enable the others",
            code="mcp-tools",
            quotes=quote_text(repr(name)) | quote_text(", ".join(refused)),
        )
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
    """Return a mapping: label of an MCP server in the upstream request → its name. The first of a label counts."""
    return {_label_of(server.name): server.name for server in reversed(request.mcp_servers)}


def _label_of(name: str) -> str:
    """Return an MCP server name as a label that the API accepts: a letter, then letters, digits, `_` and `-`."""
    label = _NOT_IN_LABELS.sub("_", name)
    return label if label[:1].isalpha() else f"mcp_{label}"


class ToolCallItemDecoder:
    """Decoder of one client tool call, from the first event of its output item to the last."""

    __slots__ = (
        *("_announced", "_arguments", "_began", "_call_id", "_ended", "_key", "_may_repeat", "_name", "_reader"),
        *("_rest", "_streams", "_written", "is_done"),
    )

    def __init__(self, reader: "ToolCallContext") -> None:
        self._reader = reader
        self._key = reader.new_call_key()
        self._began = self._ended = False
        self._streams = True
        self._may_repeat = False
        """True if an earlier call has this id and name, so that the arguments show whether this is another one."""
        self._name = ""
        self._call_id = ""
        self._announced = ""
        """Arguments in the event that announces the call. They count if no other event has any."""
        self._written = DeliveredText()
        """Arguments so far."""
        self._arguments = ArgumentsReader()
        self._rest: list[str] = []
        """Fragments of the arguments of further calls that the server joined to this one."""
        self.is_done = False
        """True after an event that ends the arguments or the item without any: the call has none, or the complete
        response has them."""

    @property
    def has_arguments(self) -> bool:
        return bool(self._written.size or self._announced)

    def may_have(self, arguments: str) -> bool:
        """Return True if these may be the complete arguments of the call, which has not ended."""
        return not self._ended and arguments.startswith(self._written.text)

    def start_call(self, item: OutputItem, deltas: list[Delta]) -> None:
        """Start the call once its name is known. Custom calls, parallel wrappers and calls that may repeat another one
        start when they are complete.
        """
        self._announced = item.arguments or ""
        self._call_id = self._call_id or item.call_id or ""
        if self._began or self._ended or not item.name:
            return
        self._name = item.name
        self._streams = item.type == "function_call" and not is_parallel_wrapper(item.name, self._reader.call)
        self._may_repeat = self._reader.ids.ended_calls.has(self._call_id, item.name)
        if self._streams and not self._may_repeat:
            self._began = True
            deltas.append(self._reader.build_tool_call(self._key, item.call_id, item.name))
            if text := self._arguments.passed:
                deltas.append(ToolArgs(self._key, text))

    def add_arguments_fragment(self, fragment: str, deltas: list[Delta]) -> None:
        """Append a fragment of the arguments, if the tool call has started. Otherwise, it is stored."""
        if not self._ended and (text := self._written.add(fragment)):
            self._read(text, deltas)

    def _read(self, fragment: str, deltas: list[Delta]) -> None:
        if self._rest:
            self._rest.append(fragment)
            return
        if self._arguments.take(fragment):  # the usual fragment
            passed = fragment
        else:
            passed, end = self._arguments.feed(fragment)
            if end < len(fragment):
                self._rest.append(fragment[end:])
        if passed and self._began:
            deltas.append(ToolArgs(self._key, passed))

    def add_complete_arguments(
        self, arguments: str, deltas: list[Delta], *, may_be_cut: bool = False, is_other: bool = False
    ) -> None:
        """Append what the fragments lack of the complete arguments. `is_other`: they are those of another call, or of
        the same one under another id.

        Raises `UpstreamProtocolError` if the fragments are other arguments: one is lost, repeated or in another place.
        """
        if means_no_arguments(arguments):
            return
        missing = None if self._ended or is_other else self._written.complete(arguments)
        if missing:
            self._read(missing, deltas)
        elif (
            missing is None
            and not may_be_cut
            and not repeats_arguments("".join((self._arguments.text, *self._rest)), arguments, is_named=not is_other)
        ):
            raise self._reader.call.build_call_error("its fragments differ from its complete arguments")

    def end_call(self, item: OutputItem | None, deltas: list[Delta], *, reply_ended_early: bool = False) -> None:
        """Append the remaining deltas of the tool call.

        `item` is None if the reply ended before the complete item arrived. Raises `UpstreamProtocolError` if the
        complete item has no name, or contradicts what the call had before.
        """
        if item is not None and not self._ended and not self._began:
            self.start_call(item, deltas)
        whole = "" if item is None else (item.input if item.type == "custom_tool_call" else item.arguments) or ""
        if whole == "" and not self._written.size:
            whole = self._announced
        is_cut = item is not None and item.status == "incomplete"
        if item is not None and item.name and item.name != self._name:
            raise self._reader.call.build_call_error(f"it has two names, {self._name!r} and {item.name!r}")
        is_other = item is not None and is_other_call(item.call_id, self._call_id)
        self.add_complete_arguments(whole, deltas, may_be_cut=is_cut, is_other=is_other)
        if self._ended:
            return
        text = self._written.text
        if self._reader.ids.ended_calls.repeats(self._call_id, self._name, text or whole, deltas) and self._may_repeat:
            self._ended = True
            return
        if self._may_repeat and self._streams:
            self._began = True
            deltas.append(self._reader.build_tool_call(self._key, self._call_id, self._name))
            if passed := self._arguments.passed:
                deltas.append(ToolArgs(self._key, passed))
        if item is not None and not self._streams:
            self._reader.emit_complete_call(self._key, item, text, deltas)
        elif self._began:
            written = "".join(self._rest) or self._arguments.text
            if item is not None:
                is_incomplete = is_cut or is_truncated_object(item.arguments or written)
            else:
                is_whole = written.rstrip().endswith("}") or (self.is_done and not written)
                is_incomplete = reply_ended_early or not is_whole
            if held := self._arguments.finish():
                deltas.append(ToolArgs(self._key, held))
            elif is_incomplete and not written and not self.is_done:
                deltas.append(ToolArgs(self._key, _CUT_ARGUMENTS))
            deltas.append(ToolEnd(self._key))
            if self._rest:
                _, *others = divide_arguments(self._arguments.text + "".join(self._rest))
                if others and is_truncated_object(others[-1]):
                    if means_no_arguments(whole) or len(divide_arguments(whole)) > len(others):
                        is_incomplete = True
                    else:  # the complete item does not have it
                        others.pop()
                for position, text in enumerate(others):
                    self._reader.emit(f"{self._key}.{position}", None, self._name, text, deltas)
            if is_incomplete:
                self._reader.has_cut_call = True
        elif item is not None:
            raise self._reader.call.build_protocol_error(" sent a tool call without a name.")
        self._ended = True


class ToolCallContext:
    """State that all tool calls of one reply share: keys, ids, tool names, and names of MCP servers."""

    def __init__(self, call: TranslatedCall[Dialect]) -> None:
        self.call = call
        self.ids = ToolCallIds(call)
        self.repair = ToolCallRepair(call, names=False)
        self.has_cut_call = False
        """True if a call ended early: its item has the status `incomplete`, or its arguments are cut."""
        self._count = 0
        self._servers: dict[str, str] | None = None

    def new_call_key(self) -> int:
        self._count += 1
        return self._count - 1

    def find_mcp_server_name(self, label: str) -> str:
        """Return the client's name of an MCP server, or `label` itself if it is unknown."""
        if self._servers is None:
            self._servers = mcp_server_names_by_label(self.call.request)
        return self._servers.get(label, label)

    def build_tool_call(self, key: int | str, upstream_id: str | None, name: str) -> ToolCall:
        return ToolCall(key, self.ids.assign_client_id(upstream_id), self.repair.repair_name(name))

    def emit_complete_call(self, key: int, item: OutputItem, arguments: str, deltas: list[Delta]) -> None:
        """Append the deltas of a custom tool call, or of all calls in a parallel wrapper."""
        name = item.name or ""
        is_custom = item.type == "custom_tool_call"
        if is_custom:
            arguments = msgspec.json.encode({"input": item.input or ""}).decode()
        wrapped = None if is_custom else split_wrapper(item.call_id, arguments)
        if wrapped is None:
            self.emit(key, item.call_id, name, arguments, deltas)
        for position, one in enumerate(wrapped or ()):
            self.emit(f"{key}.{position}", one.upstream_id, one.name, one.arguments, deltas)

    def emit(self, key: int | str, upstream_id: str | None, name: str, arguments: str, deltas: list[Delta]) -> None:
        """Append the deltas of a whole call."""
        deltas += self.ids.build_whole_call(key, upstream_id, self.repair.repair_name(name), arguments)


# Sources: `ResponseCodeInterpreterToolCall` and `McpCall` of the official SDK `openai` 3.51; recorded by the project
# `vercel/ai` (openai-code-interpreter-tool.1, openai-mcp-tool.1 and xai-code-execution-tool.1 of its fixtures,
# 2026-08).
_PROGRAMS = frozenset(("code_interpreter_call", "code_execution_call"))
SERVER_TOOL_ITEM_TYPES = _PROGRAMS | {"mcp_call"}


class _Output(Struct):
    """Output of a program that the provider ran: printed text, or the URL of an image."""

    type: str = ""
    logs: str | None = None
    url: str | None = None


class _Arguments(Struct):
    """Arguments of xAI's code execution items: the source text of the program (recorded)."""

    code: str = ""


class ServerToolItemDecoder:
    """Decoder of one code execution or MCP call that the provider runs, from the first event to the last."""

    __slots__ = ("_call", "_identifier", "_is_program", "_item", "_shared")

    def __init__(self, call: TranslatedCall[Dialect], item: OutputItem, shared: ToolCallContext) -> None:
        self._call = call
        self._shared = shared
        self._item = item
        self._is_program = item.type in _PROGRAMS
        self._identifier = ""

    def start_call(self, program_or_arguments: str) -> list[Delta]:
        """Return the block that begins the call. Empty list: the block was already returned.

        `program_or_arguments` is the program of a code execution, or the JSON arguments of an MCP call.
        """
        if self._identifier:
            return []
        if self._is_program:
            self._identifier = self._call.new_id(SERVER_TOOL_ID_PREFIX)
            return [encode_code_execution_call(self._identifier, program_or_arguments)]
        self._identifier = self._call.new_id(MCP_TOOL_ID_PREFIX)
        label, name = self._item.server_label or "", self._item.name or ""
        server = self._shared.find_mcp_server_name(label)
        name = name.removeprefix(f"{label}.")  # xAI adds the label as a prefix (documented)
        return [encode_mcp_call(self._identifier, server, name, program_or_arguments)]

    def decode_complete_item(self, item: OutputItem) -> list[Delta]:
        """Return the block with the result, after the block of the call if `start_call` did not return it."""
        self._item = item
        if self._is_program:
            code = item.code or ""
            if item.code is None and item.arguments:
                code = str(decode_or_empty(Raw(item.arguments.encode(errors="replace")), _Arguments).code)
            announced = self.start_call(code)
            outputs: list[_Output] = [decode_or_empty(raw, _Output) for raw in item.outputs or ()]
            printed = "\n".join(
                text
                for one in outputs
                if (text := describe_generated_image(one.url) if one.type == "image" and one.url else one.logs)
            )
            if item.status not in ("failed", "incomplete"):
                return [*announced, encode_code_result(self._identifier, stdout=printed)]
            if printed:
                return [*announced, encode_code_result(self._identifier, stderr=printed, return_code=1)]
            return [*announced, *self.abort_call()]
        announced = self.start_call(item.arguments or "")
        failure = decode_or_empty(item.error, object) if item.error is not ABSENT else None
        has_failed = is_error_stated(failure)
        words = _in_words(failure) if has_failed else item.output or ""
        is_error = has_failed or item.status in ("failed", "incomplete")
        return [*announced, encode_mcp_result(self._identifier, words, is_error=is_error)]

    def abort_call(self) -> list[Delta]:
        """Return an error block in place of the missing result. Empty list: the client received no call block."""
        if not self._identifier:
            return []
        if self._is_program:
            return [encode_code_execution_error(self._identifier, "unavailable")]
        return [encode_mcp_result(self._identifier, "the answer was cut before the result", is_error=True)]


def _in_words(error: Any) -> str:
    """Return the text of an MCP error. xAI sends a string, OpenAI an object with a message or the tool's output."""
    if isinstance(error, str):
        return error
    if isinstance(error, list):
        return "\n".join(map(_in_words, error))
    if isinstance(error, dict):
        for name in ("message", "text", "content"):
            if error.get(name):
                return _in_words(error[name])
    return msgspec.json.encode(error).decode()


_TRACKING = "utm_source="
"""Start of a query parameter that OpenAI adds to URLs of citations (recorded). The proxy removes it."""

_AROUND = " -*•"
"""Characters that are removed from both ends of a cited line, such as the mark of a list entry."""


class _Source(Struct):
    url: str | None = None


class _Action(Struct):
    """Action of a search item: a search, or the opening of a page. xAI sends this object in `arguments` (recorded)."""

    type: str = ""
    query: str | None = None
    queries: list[str] | None = None
    sources: list[_Source] | None = None
    url: str | None = None


class _Mark(Struct):
    """Annotation of reply text, such as a citation. Only annotations of type `url_citation` are decoded."""

    type: str = ""
    url: str | None = None
    title: str | None = None
    start_index: int = 0
    end_index: int = 0


class _Found(Struct):
    """Placeholder in the buffer for the result block of a search, until the pages of the search are known."""

    call: str
    urls: list[str]


# OpenAI sends the found pages with each search. Both forms were recorded by the project `vercel/ai` (fixtures
# openai-web-search-tool.1 and xai-web-search-tool.1, 2026-08).
class WebSearchDecoder:
    """Decodes the web searches of one reply into blocks and citations.

    If the found pages of a search are not known yet, all deltas after the search are buffered.
    """

    def __init__(self, call: TranslatedCall[Dialect]) -> None:
        self._call = call
        self._waiting: list[Delta | _Found] = []
        self._found: set[str] = set()
        self._titles: dict[str, str] = {}
        self._text: list[str] = []
        self._place: tuple[int, int] | None = None
        self._cited_to = 0
        self._count = 0
        self._blocked: list[str] | None = None
        self.requires_recorded_text = False
        """True after a search. The caller must then call `record_sent_text` with all text that it sends."""
        self.buffering = False
        """True while the caller must pass all deltas to `buffer_deltas` instead of sending them."""

    def record_source_titles(self, items: Iterable[OutputItem]) -> None:
        """Store the titles of the cited pages of a complete reply, for the result blocks of its searches."""
        for item in items:
            for part in item.content or () if item.type == "message" else ():
                for mark in self._marks_of(part):
                    self._learn(mark)

    def decode_search_item(self, item: OutputItem) -> list[Delta]:
        """Return the deltas to send now for a search item: call block, result block and usage.

        The result block is buffered until the found pages are known. If earlier deltas are still buffered, the call
        block is buffered too, so that only the usage is returned. The list is empty if there is nothing to send now. An
        example is an opened page that an earlier search has found.
        """
        action: _Action = decode_or_empty(item.action, _Action)
        if item.arguments and not (action.query or action.queries or action.url):
            with suppress(msgspec.DecodeError, RecursionError):
                action = msgspec.json.decode(item.arguments, type=_Action)
        pages = [_plain(source.url) for source in action.sources or () if source.url]
        query = action.query or ", ".join(action.queries or ())
        if action.type not in ("search", "") or (action.url and not query):
            url = _plain(action.url or "")
            is_new = url and url not in self._found and self._shows(url)
            if is_new and self.buffering:
                self._add_to_last([url])
            return self._put(url, [url], waits=False) if is_new and not self.buffering else []
        if item.status == "failed":
            identifier = self._call.new_id(SERVER_TOOL_ID_PREFIX)
            return self._keep([encode_search_call(identifier, query), encode_failed_search(identifier)])
        self._count += 1
        self.requires_recorded_text = True
        counted = Usage(web_search_requests=self._count, billed_searches=self._count)
        return [*self._put(query, list(dict.fromkeys(pages)), waits=self.buffering or not pages), counted]

    def buffer_deltas(self, deltas: Iterable[Delta]) -> None:
        self._waiting += deltas

    def record_sent_text(self, text: str, part_indexes: tuple[int, int]) -> None:
        """Store text that was sent to the client, because later citations refer to offsets in it.

        `part_indexes`: index of the output item, and index of the content part in it.
        """
        if part_indexes != self._place:
            self._place = part_indexes
            self._text = []
            self._cited_to = 0
        self._text.append(text)

    def decode_annotation(self, annotation: Raw, part_indexes: tuple[int, int]) -> list[Citation]:
        """Return the citation in an annotation event as a list.

        Empty list: the annotation is no citation, its page is blocked, its text was not recorded, or deltas are
        buffered. `part_indexes`: index of the output item, and index of the content part in it.
        """
        if self.buffering or part_indexes != self._place:
            return []
        mark = decode_or_empty(annotation, _Mark)
        self._text = ["".join(self._text)]
        return self._cited(mark, self._text[0]) if _is_citation(mark) else []

    def split_at_citations(self, part: OutputContent) -> Iterable[Delta]:
        """Yield the deltas of a complete content part: pieces of its text, each followed by its citations."""
        text = part.text or part.refusal or ""
        start = 0
        self._cited_to = 0
        for mark in self._marks_of(part) if self._count else ():
            self._learn(mark)
            end = min(max(mark.end_index, start), len(text)) if mark.end_index else len(text)
            if end > start:
                yield Text(text[start:end])
                start = end
            if start:  # a citation belongs to the text before it
                yield from self._cited(mark, text)
        if text[start:]:
            yield Text(text[start:])

    def decode_remaining_citations(self, parts: Sequence[OutputContent], emitted_citation_count: int) -> list[Delta]:
        """Return the citations of a complete streamed message that were not sent during the stream.

        `emitted_citation_count` is the number of citations already sent. While deltas are buffered, the citations are
        added to the buffer and the list is empty.
        """
        if not self._count:
            return []
        if not self.buffering:
            late = [(mark, part.text or "") for part in parts for mark in self._marks_of(part)][emitted_citation_count:]
            return [citation for mark, text in late for citation in self._cited(mark, text)]
        start = len(self._waiting)
        while start and isinstance(self._waiting[start - 1], Text):
            start -= 1
        waiting = "".join(item.text for item in self._waiting[start:] if isinstance(item, Text))
        whole = "".join(part.text or part.refusal or "" for part in parts)
        is_repeated = waiting.endswith(whole)
        if is_repeated:  # now with its citations
            before = waiting[: len(waiting) - len(whole)]
            self._waiting[start:] = [Text(before)] if before else []
        deltas = [delta for part in parts for delta in self.split_at_citations(part)]  # also records the cited pages
        self._waiting += deltas if is_repeated else []
        return []

    def release_buffered_deltas(self) -> list[Delta]:
        """Return the buffered deltas when the text of the reply has ended.

        Cited pages that are in no search result are first added to the result of the last search.
        """
        if not self.buffering:
            return []
        self._add_to_last([url for url in self._titles if url not in self._found])
        waiting, self._waiting = self._waiting, []
        self.buffering = False
        return [
            encode_search_result(item.call, self._pages(item.urls)) if isinstance(item, _Found) else item
            for item in waiting
        ]

    def _put(self, query: str, urls: list[str], *, waits: bool) -> list[Delta]:
        identifier = self._call.new_id(SERVER_TOOL_ID_PREFIX)
        self._found.update(urls)
        if not waits:
            return encode_search_call_and_result(identifier, query, self._pages(urls))
        kept = self._keep([encode_search_call(identifier, query)])
        self.buffering = True
        self._waiting.append(_Found(identifier, urls))
        return kept

    def _keep(self, deltas: list[Delta]) -> list[Delta]:
        """Return the deltas, to be sent at once. While deltas are buffered, buffer these too and return nothing."""
        if not self.buffering:
            return deltas
        self._waiting += deltas
        return []

    def _pages(self, urls: Iterable[str]) -> Iterable[SearchResultPage]:
        return (SearchResultPage(url, self._titles.get(url)) for url in urls if self._shows(url))

    def _add_to_last(self, urls: list[str]) -> None:
        last = next(item for item in reversed(self._waiting) if isinstance(item, _Found))
        last.urls += urls
        self._found.update(urls)

    def _marks_of(self, part: OutputContent) -> list[_Mark]:
        """Return the citations of a content part in text order. Citations without offsets come last."""
        marks = [decode_or_empty(raw, _Mark) for raw in part.annotations or ()]
        cited = [mark for mark in marks if _is_citation(mark)]
        return sorted(cited, key=lambda mark: mark.end_index or len(part.text or ""))

    def _learn(self, mark: _Mark) -> None:
        url = _plain(mark.url or "")
        if not self._titles.get(url):
            self._titles[url] = _title_of(mark)

    def _cited(self, mark: _Mark, text: str) -> list[Citation]:
        self._learn(mark)
        url = _plain(mark.url or "")
        passage = text[mark.start_index : mark.end_index]
        if "](" in passage:  # the annotation covers only the link after the passage (recorded)
            lines = text[self._cited_to : mark.start_index].rstrip().splitlines()
            passage = lines[-1].strip(_AROUND) if lines else ""
        self._cited_to = max(self._cited_to, mark.end_index)
        return [encode_citation(url, _title_of(mark), passage)] if self._shows(url) else []

    def _shows(self, url: str) -> bool:
        if self._blocked is None:
            self._blocked = list_blocked_domains(self._call)
        return is_domain_allowed(url, (), self._blocked)


def _is_citation(mark: _Mark) -> bool:
    return mark.type == "url_citation" and bool(mark.url)


def _title_of(mark: _Mark) -> str:
    """Return the title of a cited page. "": the title is only a number, as in citations of xAI."""
    return "" if (mark.title or "").isdigit() else mark.title or ""


def _plain(url: str) -> str:
    """Return the URL of a citation without the tracking parameter that OpenAI adds."""
    address, mark, query = url.partition("?")
    if not mark:
        return url
    kept = "&".join(word for word in query.split("&") if not word.startswith(_TRACKING))
    return f"{address}?{kept}" if kept else address
