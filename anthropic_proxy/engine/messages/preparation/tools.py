"""Tools of a request: which tools and which tool choice are sent to the model, and who runs server tools.

Four things change the tools of a client: tool additions and removals in its messages; server tools that the proxy runs
or that nobody runs; deferred tools, which are hidden from the model until a tool search finds them; and names that the
provider does not allow, which get an alias.

Server tools are tools that the client does not run, such as web search, code execution and MCP toolsets. The provider
or the proxy runs them. The model calls a server tool of the proxy as a function. In the history, the client sees such
calls as calls of server tools, so they become function calls again (`restore_function_calls`).
"""

import functools
import hashlib
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.loaded_tools import (
    CALLER,
    CALLER_NAME,
    NOWHERE,
    PLACEHOLDER_NAME,
    DeferredToolPlaces,
    LoadedToolForm,
    place_loaded_tools,
)
from anthropic_proxy.engine.messages.models import (
    Block,
    CleanMessages,
    CompactionBlock,
    Message,
    MessagesRequest,
    ServerToolResultBlock,
    ServerToolUseBlock,
    Tool,
    ToolAdditionBlock,
    ToolChoice,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolUseBlock,
    decode_nested_content,
)
from anthropic_proxy.engine.messages.models.client_json import decode_values
from anthropic_proxy.engine.messages.models.raw_json import quote_text
from anthropic_proxy.engine.messages.models.tools import (
    MAX_TOOL_NAME_LENGTH,
    TOOL_NAME_PATTERN,
    ToolList,
    are_client_tools,
    implied_toolsets,
    is_client_tool,
    list_tool_names,
    share_tools,
)
from anthropic_proxy.engine.messages.preparation.cleaning import result_as_text
from anthropic_proxy.engine.messages.preparation.request import ProxyTool, SearchState, TargetLimits
from anthropic_proxy.engine.messages.preparation.tool_changes import apply_tool_changes
from anthropic_proxy.engine.messages.server_blocks import domain_names
from anthropic_proxy.engine.messages.server_tools import PROXY_TOOLS, SERVER_TOOLS, Function, ServerToolKind
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.errors import InvalidRequest, UnsupportedFeature

_MAX_CACHED_NAME = 256
"""Maximum number of characters of a tool name whose alias is cached."""
_MAX_KEPT_CHARACTERS = 50
"""Maximum number of characters that an alias copies from the beginning of the tool name."""
_INVALID_CHARACTER = compile_later(r"[^a-zA-Z0-9_]")


class ToolNames(Struct, eq=False):
    """Conversion of the tool names of one client request to names that the provider allows.

    An allowed name matches `pattern` and has at most `length` characters. Any other name gets an alias.
    """

    pattern: str
    length: int
    aliases: dict[str, str] = {}
    _upstream_names: dict[str, str] = {}

    def allow(self, called: Iterable[str], offered: Sequence[Tool]) -> bool:
        """Return True if the provider allows the names of all called tools. It allows those of the offered ones."""
        others = {*called} - list_tool_names(offered)
        return all(self.upstream_name(name) == name for name in others)

    def upstream_name(self, name: str) -> str:
        """Return the name to send upstream: `name` itself if the provider allows it, otherwise its alias."""
        upstream = self._upstream_names.get(name)
        if upstream is None:
            upstream = self._upstream_names[name] = name_or_alias(name, self.pattern, self.length)
            if upstream != name:
                self.aliases[upstream] = name
        return upstream


def name_or_alias(name: str, pattern: str, length: int) -> str:
    """Return `name` if it is allowed, otherwise a replacement (alias) that is allowed.

    An allowed name matches `pattern` and has at most `length` characters.
    """
    return (_find_alias_cached if len(name) <= _MAX_CACHED_NAME else _find_alias)(name, pattern, length)


def valid_name(name: str) -> str:
    """Return `name` if the Messages API allows it, otherwise an alias that it allows."""
    return name_or_alias(name, TOOL_NAME_PATTERN, MAX_TOOL_NAME_LENGTH)


def _find_alias(name: str, pattern: str, length: int) -> str:
    if len(name) <= length and compile_anchored(pattern).fullmatch(name):
        return name
    # equal arguments always give the same alias, so nothing is stored between requests
    mark = hashlib.sha256(name.encode()).hexdigest()[:8]
    start = _INVALID_CHARACTER.sub("_", name)[: min(_MAX_KEPT_CHARACTERS, length - len(mark) - 1)]
    alias = f"{start}_{mark}"
    return alias if compile_anchored(pattern).fullmatch(alias) else f"t{alias[1:]}"


_find_alias_cached = functools.lru_cache(maxsize=4096)(_find_alias)


# Server tools

_NOTHING: frozenset[ServerToolKind] = frozenset()
_CLIENT_TYPE = compile_anchored(r"(?:bash|text_editor|computer|memory)_\d+")
_MAX_SHOWN, _MAX_SHOWN_CHARACTERS = 3, 60
"""Maximum number of domains in an error message, and maximum number of characters of each domain."""


class ToolOffer(Struct):
    """Decision about the tools of a client request: the tools to offer to the model, and the tools that are dropped."""

    tools: list[Tool]
    """Functions, and server tools that the provider runs, in the order of the request, without aliases."""
    proxy_tools: Mapping[str, ProxyTool]
    dropped: list[Tool]
    deferred: list[Tool] = []
    """All deferred tools of the client, found by a tool search or not."""
    loaded: Mapping[str, Sequence[Tool]] = {}
    """Tools that searches of the client have loaded and that are not in `tools`, by the id of the tool result."""
    places: DeferredToolPlaces = NOWHERE
    """Where the deferred tools are that searches of the client load (`place_loaded_tools`)."""


def server_tool_kind(tool: Tool) -> ServerToolKind | Literal[""]:
    """Return the kind of a server tool from its type. "": a tool of the client, or one that only Anthropic knows.

    >>> server_tool_kind(Tool(type="web_search_20250305", name="web_search"))
    'web_search'
    """
    kind = tool.type
    if not kind:  # nearly all tools
        return ""
    return next((row.kind for row in SERVER_TOOLS.values() if kind.startswith(row.type_prefix)), "")


def server_tool_kinds(tools: Sequence[Tool]) -> frozenset[ServerToolKind]:
    if not tools or are_client_tools(tools):
        return _NOTHING
    return frozenset(kind for tool in tools if not is_client_tool(tool) and (kind := server_tool_kind(tool)))


_SEARCH_PROBLEMS: Mapping[SearchState, str] = {
    "none": "SEARCH_URL is not set",
    "forbidden": "the rules of the request exclude the search service",
}


def assign_server_tools(declared: list[Tool], limits: TargetLimits, notes: list[FidelityNote]) -> ToolOffer:
    """Decide where each server tool runs, and return the tools to offer to the model.

    Raises `InvalidRequest` if a tool has an invalid domain, or both allowed and blocked domains.
    """
    proxy_tools: dict[str, ProxyTool] = {}
    offer = ToolOffer([], proxy_tools, [])
    used_names = {tool.name for tool in declared if is_client_tool(tool)}
    alone = limits.server_tools_exclusive and any(
        is_client_tool(tool)
        or ((kind := server_tool_kind(tool)) in limits.proxy_tool_kinds and kind not in limits.server_tools)
        for tool in declared
    )
    for place, tool in enumerate(declared):
        kind = server_tool_kind(tool)
        _require_valid_domains(tool, place)
        if is_client_tool(tool) or (kind in limits.server_tools and not alone):
            offer.tools.append(tool)
        elif kind and kind in limits.proxy_tool_kinds:
            name = tool.name or kind
            count = 1
            while name in used_names:
                count += 1
                name = f"{tool.name or kind}_{count}"
            used_names.add(name)
            proxy_tools[name] = ProxyTool(kind, tool.name or kind, tool)
            offer.tools.append(_build_function(PROXY_TOOLS[kind].find_function(tool.type or ""), name))
            field = _field(tool, place)
            reason = _drop_reason(tool, kind, limits)
            if SERVER_TOOLS[kind].service == "search" and limits.search != "allowed":
                reason = f"{reason}, and {_SEARCH_PROBLEMS[limits.search]}, so each search fails"
                notes.append(FidelityNote("dropped", field, reason))
            else:
                notes.append(FidelityNote("emulated", field, f"the proxy runs it; {reason}"))
            # settings without effect if the proxy runs the tool
            if b"true" in bytes(tool.citations):
                reason = "no other provider is known to cite fetched pages"
                notes.append(FidelityNote("dropped", f"{field}.citations", reason))
            if len(tool.user_location):
                notes.append(FidelityNote("approximated", f"{field}.user_location", "the user's location is not sent"))
            if len(tool.url_sources):
                reason = "every URL in the conversation may be fetched"
                notes.append(FidelityNote("dropped", f"{field}.url_sources", reason))
        else:
            offer.dropped.append(tool)
            notes.append(FidelityNote("dropped", _field(tool, place), _drop_reason(tool, kind, limits)))
    return offer


def require_offered(choice: ToolChoice, offer: ToolOffer, limits: TargetLimits) -> None:
    """Raise `UnsupportedFeature` if the tool choice forces a dropped server tool."""
    forced = [tool for tool in offer.dropped if choice.type == "any" or tool.name == choice.name]
    if not forced or choice.type not in ("any", "tool") or (choice.type == "any" and offer.tools):
        return
    listed = ", ".join(f"{tool.name or tool.type!r} ({tool.type})" for tool in forced)
    text = f"tool_choice: '{choice.type}' forces {listed}, which {limits.provider} is not known to run"
    raise UnsupportedFeature(text, code="forced-tool")


def _drop_reason(tool: Tool, kind: str, limits: TargetLimits) -> str:
    if kind in limits.server_tools:
        return f"{limits.provider} is not known to run {tool.type} together with functions"
    return f"{limits.provider} is not known to run {tool.type}"


def _require_valid_domains(tool: Tool, place: int) -> None:
    """Raise `InvalidRequest` for an invalid domain, or a tool with both allowed and blocked domains.

    `place`: index of the tool in the request. Source: Anthropic's pages on the web search and the web fetch tool,
    "Domain filtering", read 2026-11.
    """
    allowed, blocked = tool.allowed_domains, tool.blocked_domains
    if allowed and blocked:
        raise InvalidRequest(
            f"{_field(tool, place)}: allowed_domains {_listed(allowed)} and blocked_domains "
            f"{_listed(blocked)} cannot be used together; use one of them",
            code="domains",
            quotes=quote_text(_listed(allowed)) | quote_text(_listed(blocked)),
        )
    for name, entries in (("allowed_domains", allowed), ("blocked_domains", blocked)):
        try:
            domain_names(entries or ())
        except ValueError as error:
            text = f"{_field(tool, place)}.{name}: {error}"
            raise InvalidRequest(text, code="invalid-field", quotes=quote_text(str(error))) from None


def _listed(entries: Sequence[str]) -> str:
    more = f" and {len(entries) - _MAX_SHOWN} more" if len(entries) > _MAX_SHOWN else ""
    return f"{[entry[:_MAX_SHOWN_CHARACTERS] for entry in entries[:_MAX_SHOWN]]}{more}"


def _field(tool: Tool, place: int) -> str:
    return f"tools.{tool.name}" if tool.name else f"tools[{place}]"


@functools.cache
def _load_definitions() -> dict[str, Any]:
    """Return the tables of `tool_definitions.toml`."""
    found = tomllib.loads(Path(__file__).with_name("tool_definitions.toml").read_text("utf-8"))
    for name, table in found.items():
        if below := found.get(table.get("like")):
            found[name] = {**below, **table, "properties": {**below["properties"], **table.get("properties", {})}}
    return found


@functools.lru_cache(maxsize=64)
def _build_client_function(kind: str, name: str, addition: str) -> Tool:
    """Return the function for a table. `addition`: a sentence after its description."""
    definition = _load_definitions()[kind]
    description = f"{definition['description']}{addition}"
    return _encode_function(name or definition["name"], description, definition["properties"], definition["required"])


def _build_function(function: Function, name: str) -> Tool:
    return _encode_function(name, function.description, function.properties, function.required)


def _encode_function(
    name: str, description: str, properties: Mapping[str, Mapping[str, str]], required: Sequence[str]
) -> Tool:
    schema = {"type": "object", "properties": properties, "required": required}
    source = msgspec.json.encode({"name": name, "description": description, "input_schema": schema})
    return msgspec.structs.replace(msgspec.json.decode(source, type=Tool), source=source)


def restore_function_calls(messages: list[Message], tools: Mapping[str, ProxyTool]) -> list[Message]:
    """Return the messages with calls of proxy tools as function calls, as the upstream model has made them.

    Their results become results of function calls.
    """
    if isinstance(messages, CleanMessages):
        return messages
    # the keys of `tools` are the names by which the model calls them
    names = {tool.name: name for name, tool in tools.items()}
    replayed: list[Message] = []
    for message in messages:
        blocks = message.content if message.role == "assistant" and isinstance(message.content, list) else []
        if any(isinstance(block, ServerToolUseBlock) and block.name in names for block in blocks):
            replayed += _split_reply(blocks, names)
        else:
            replayed.append(message)
    return replayed


def find_pending_calls(messages: list[Message], tools: Mapping[str, ProxyTool]) -> list[ServerToolUseBlock]:
    last = messages[-1]
    if last.role != "assistant" or isinstance(last.content, str):
        return []
    names = {tool.name for tool in tools.values()}
    answered = {block.tool_use_id for block in last.content if isinstance(block, ServerToolResultBlock)}
    calls: list[ServerToolUseBlock] = []
    for block in reversed(last.content):
        if isinstance(block, ServerToolUseBlock) and block.name in names:
            if block.id not in answered:
                calls.append(block)
        elif not isinstance(block, ServerToolResultBlock):
            break
    return calls[::-1]


def ends_with_paused_reply(messages: list[Message]) -> bool:
    """Return True if the last message is a reply that ends with a server tool call or its result.

    The client then requests the continuation of this reply.
    """
    last = messages[-1] if messages else None
    if last is None or last.role != "assistant" or isinstance(last.content, str) or not last.content:
        return False
    return isinstance(last.content[-1], ServerToolUseBlock | ServerToolResultBlock)


def _split_reply(content: list[Block], names: Mapping[str, str]) -> list[Message]:
    """Return the messages that replace one assistant message with calls of proxy-run tools.

    Messages with calls and messages with their results alternate. `names`: tool name of the client → name in upstream
    calls.
    """
    steps: list[Message] = []
    blocks: list[Block] = []
    results: list[Block] = []
    called: set[str] = set()
    for block in content:
        if isinstance(block, ServerToolResultBlock) and block.tool_use_id in called:
            found = decode_values(block.content) if len(block.content) else None
            failed = isinstance(found, dict) and "error_code" in found
            if isinstance(found, dict) and isinstance(fetched := found.get("content"), dict):  # may be a PDF
                # the note on citations belongs to the tool
                document = {name: value for name, value in fetched.items() if name != "citations"}
                shown: object = [{"type": "text", "text": str(found.get("url", ""))}, document]
            else:
                shown = result_as_text(block)
            results.append(ToolResultBlock(block.tool_use_id, Raw(msgspec.json.encode(shown)), failed or None))
            continue
        if results:
            steps += [Message("assistant", blocks), Message("user", results)]
            blocks, results = [], []
        if isinstance(block, ServerToolUseBlock) and block.name in names:
            called.add(block.id)
            blocks.append(ToolUseBlock(block.id, names[block.name], block.input))
        else:
            blocks.append(block)
    steps.append(Message("assistant", blocks))
    return [*steps, Message("user", results)] if results else steps


# Selection

_REFERENCE = b'"tool_reference'


def resolve_deferred_tools(
    tools: list[Tool], messages: list[Message], forced_name: str | None, form: LoadedToolForm
) -> tuple[list[Tool], list[Tool], Mapping[str, Sequence[Tool]]]:
    """Return the tools to list for the model now, all deferred tools, and the tools that a search has found and that
    are not in the list, by the id of the search.

    A deferred tool is offered only if a tool search has found it, if an earlier message calls it, or if its name is
    `forced_name`.
    """
    deferred = {tool.name: tool for tool in tools if tool.defer_loading}
    if not deferred:
        return tools, [], {}
    if any(tool.name == CALLER_NAME for tool in tools):
        form = "listed"
    listed = {forced_name: None} if forced_name in deferred else {}
    loaded: dict[str, list[Tool]] = {}
    placed: set[str] = set()
    for search_id, name in _found_names(messages):
        if name not in deferred or name in listed or name in placed:
            continue
        if form == "listed" or not search_id:
            listed[name] = None
        else:
            loaded.setdefault(search_id, []).append(deferred[name])
            placed.add(name)
    offered = [tool for tool in tools if not tool.defer_loading]
    # found tools come last, so that prompt caches still match
    offered += [*([CALLER] if form == "caller" else ()), *(deferred[name] for name in listed if name is not None)]
    return offered, list(deferred.values()), loaded


class _Reference(msgspec.Struct):
    tool_name: str = ""


class _Found(msgspec.Struct):
    tool_references: list[_Reference] = []


def list_loaded_tools(request: MessagesRequest) -> list[str]:
    """Return the names of deferred tools that the messages have loaded, without repetitions."""
    deferred = {tool.name for tool in request.tools if tool.defer_loading}
    return [*dict.fromkeys(name for _, name in _found_names(request.messages) if name in deferred)] if deferred else []


def _found_names(messages: list[Message]) -> Iterator[tuple[str, str]]:
    """Yield the id of a search that the proxy has run ("": another place), and the name of a tool."""
    for message in messages:
        if isinstance(message.content, str):
            continue
        for block in message.content:
            if isinstance(block, ServerToolResultBlock):
                if block.kind != "tool_search":
                    continue
                with suppress(msgspec.DecodeError):
                    found = msgspec.json.decode(block.content, type=_Found)
                    yield from ((block.tool_use_id, reference.tool_name) for reference in found.tool_references)
            elif isinstance(block, ToolResultBlock):
                if _REFERENCE in bytes(block.content):
                    inner = decode_nested_content(block.content)
                    yield from (("", one.tool_name) for one in inner if isinstance(one, ToolReferenceBlock))
            elif isinstance(block, ToolUseBlock):
                yield "", block.name
            elif isinstance(block, ToolAdditionBlock):
                yield "", block.tool.name
            elif isinstance(block, CompactionBlock):
                yield from (("", one.tool.name) for one in block.tool_changes or () if type(one) is ToolAdditionBlock)


_FREE = ("auto", "none")
_FORCED = ("any", "tool")
_MAX_LISTED = 20


def select_offered_tools(
    request: MessagesRequest,
    limits: TargetLimits,
    names: ToolNames,
    notes: list[FidelityNote],
    earlier: DeferredToolPlaces = NOWHERE,
) -> ToolOffer:
    """Return the tools to offer to the model, after the changes that the target requires.

    Replacements of tool names are added to `names`.
    """
    declared = apply_tool_changes(request)
    if request.mcp_servers and "mcp_toolset" in limits.server_tools:
        declared = [*declared, *implied_toolsets(request)]
    if not declared:
        return ToolOffer([], {}, [])
    if not limits.accepts_tools:
        notes.append(FidelityNote("dropped", "tools", "the model does not support tools"))
        return ToolOffer([], {}, [])
    forced_name = request.tool_choice.name if request.tool_choice else None
    declared, loaded, places = place_loaded_tools(declared, request.messages, limits.loaded_tools, forced_name, earlier)
    if limits.loaded_tools == "items":
        loaded = {call_id: [_under_alias(tool, names) for tool in tools] for call_id, tools in loaded.items()}
    if isinstance(declared, ToolList) and declared.all_from_client:
        tools, aliases = _functions(declared, limits)
        names.aliases.update(aliases)
        return ToolOffer(tools, {}, [], loaded=loaded, places=places)
    asked = [define_function(tool) for tool in declared if tool.name != PLACEHOLDER_NAME]
    offer = assign_server_tools(asked, limits, notes)
    offer.loaded, offer.places = loaded, places
    if any(tool.kind == "tool_search" for tool in offer.proxy_tools.values()):
        offer.tools, offer.deferred, found = resolve_deferred_tools(
            offer.tools, request.messages, forced_name, limits.loaded_tools
        )
        if limits.loaded_tools == "items":
            found = {call_id: [_under_alias(tool, names) for tool in tools] for call_id, tools in found.items()}
        offer.loaded = {**loaded, **found}
    offer.tools = [_under_alias(tool, names) for tool in offer.tools]
    return offer


def list_visible_tools(request: MessagesRequest) -> list[Tool]:
    """Return the tools that the model can see.

    If the request has a tool search, deferred tools that were not found yet are left out.
    """
    tools = apply_tool_changes(request)
    if not tools:
        return tools
    if not (tools.has_deferred if isinstance(tools, ToolList) else any(tool.defer_loading for tool in tools)):
        return tools
    tools = [tool for tool in tools if tool.name != PLACEHOLDER_NAME]
    if not any(server_tool_kind(tool) == "tool_search" for tool in tools):
        return tools
    forced_name = request.tool_choice.name if request.tool_choice else None
    return resolve_deferred_tools(tools, request.messages, forced_name, "listed")[0]


def resolve_proxy_tools(request: MessagesRequest, limits: TargetLimits) -> Mapping[str, ProxyTool]:
    """Return the server tools, such as web search, that the proxy would run itself for this request and target.

    The keys are the names by which the model calls the tools.
    """
    if not limits.accepts_tools or are_client_tools(request.tools):
        return {}
    return assign_server_tools([define_function(tool) for tool in apply_tool_changes(request)], limits, []).proxy_tools


def select_tool_choice(
    request: MessagesRequest, offer: ToolOffer, limits: TargetLimits, names: ToolNames, notes: list[FidelityNote]
) -> ToolChoice | None:
    """Return the tool choice to send, with the upstream tool name. None: no tool choice is sent.

    Raises `InvalidRequest` or `UnsupportedFeature` if a forced tool call is impossible.
    """
    choice, tools = request.tool_choice, offer.tools
    if choice is None:
        return None
    if choice.type not in _FREE + _FORCED:
        notes.append(FidelityNote("dropped", "tool_choice", f"{choice.type!r} is not auto, any, tool or none"))
        return None
    require_offered(choice, offer, limits)
    if not tools:
        if choice.type in _FREE:
            return None
        if request.tools and not limits.accepts_tools:
            raise UnsupportedFeature(
                f"tool_choice: '{choice.type}' forces a tool call, but the model does not support tools",
                code="forced-tool",
            )
        text = f"tool_choice: '{choice.type}' forces a tool call, but no tool is offered in tools"
        raise InvalidRequest(text, code="tool-choice")
    if choice.type != "tool":
        return choice
    upstream = names.upstream_name(choice.name or "")
    if all(tool.name != upstream for tool in tools):
        listed = ", ".join(names.aliases.get(tool.name, tool.name) for tool in tools[:_MAX_LISTED])
        more = f" and {len(tools) - _MAX_LISTED} more" if len(tools) > _MAX_LISTED else ""
        text = f"tool_choice.name: no tool named {choice.name!r} is offered; there are: {listed}{more}"
        raise InvalidRequest(text, code="tool-choice", quotes=quote_text(repr(choice.name)))
    return choice if upstream == choice.name else replace(choice, name=upstream)


@functools.lru_cache(maxsize=64)
def _functions(tools: ToolList, limits: TargetLimits) -> tuple[list[Tool], Mapping[str, str]]:
    """Return the client's tools with names that the provider accepts, and a mapping: alias → name of the client.

    Requests with the same tools share both results.
    """
    names = ToolNames(limits.tool_name_pattern, limits.max_tool_name_length)
    offered = assign_server_tools([tool for tool in tools if tool.name != PLACEHOLDER_NAME], limits, []).tools
    return share_tools([_under_alias(tool, names) for tool in offered]), names.aliases


def define_function(tool: Tool) -> Tool:
    """Return the function definition for a tool that Anthropic defines and the client runs, and any other tool."""
    if tool.type is None or not _CLIENT_TYPE.fullmatch(tool.type):
        return tool
    kind = next(name for name in _load_definitions() if tool.type.startswith(name))
    width, height = tool.display_width_px, tool.display_height_px
    return _build_client_function(
        kind, tool.name, f" The screen is {width} × {height} pixels." if width and height else ""
    )


def _under_alias(tool: Tool, names: ToolNames) -> Tool:
    upstream = names.upstream_name(tool.name) if tool.name else ""
    if upstream == tool.name:
        return tool
    # caches use the source as a key
    return replace(tool, name=upstream, source=b"%b %b" % (upstream.encode(), tool.source))
