"""Decision for each server tool of a request: run by the provider, run by the proxy, or dropped.

Server tools are tools that the client does not run, such as web search, code execution and MCP toolsets. The model
calls a server tool of the proxy as a function. In the history, the client sees such calls as calls of server tools, so
they become function calls again (`restore_function_calls`).
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models import (
    Block,
    CleanMessages,
    Message,
    ServerToolUseBlock,
    Tool,
    ToolChoice,
    ToolResultBlock,
    ToolSearchResultBlock,
    ToolUseBlock,
    WebFetchResultBlock,
    WebSearchResultBlock,
)
from anthropic_proxy.engine.messages.models.tools import are_client_tools, is_client_tool
from anthropic_proxy.engine.messages.preparation.block_text import result_as_text
from anthropic_proxy.engine.messages.preparation.request import ProxyTool, ServerToolKind, TargetLimits
from anthropic_proxy.engine.messages.server_blocks import domain_names
from anthropic_proxy.errors import InvalidRequest, UnsupportedFeature

_TYPE_PREFIXES: tuple[tuple[str, ServerToolKind], ...] = (
    ("web_search_", "web_search"),
    ("web_fetch_", "web_fetch"),
    ("code_execution_", "code_execution"),
    ("mcp_toolset", "mcp_toolset"),
    ("tool_search_tool_", "tool_search"),
)
_NOTHING: frozenset[str] = frozenset()
_BM25 = "tool_search_tool_bm25"
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


def server_tool_kind(tool: Tool) -> ServerToolKind:
    """Return the kind of a server tool from its type. "": any other tool.

    >>> server_tool_kind(Tool(type="web_search_20250305", name="web_search"))
    'web_search'
    """
    kind = tool.type or ""
    return next((name for prefix, name in _TYPE_PREFIXES if kind.startswith(prefix)), "")


def server_tool_kinds(tools: Sequence[Tool]) -> frozenset[str]:
    if are_client_tools(tools):
        return _NOTHING
    return frozenset({server_tool_kind(tool) for tool in tools if not is_client_tool(tool)} - {""})


def assign_server_tools(declared: list[Tool], limits: TargetLimits, notes: list[FidelityNote]) -> ToolOffer:
    """Decide where each server tool runs, and return the tools to offer to the model.

    Raises `InvalidRequest` if a tool has an invalid domain, or both allowed and blocked domains.
    """
    offer = ToolOffer([], {}, [])
    proxy_tools: dict[str, ProxyTool] = {}
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
        elif kind in limits.proxy_tool_kinds:
            name, count = tool.name or kind, 1
            while name in used_names:
                count += 1
                name = f"{tool.name or kind}_{count}"
            used_names.add(name)
            proxy_tools[name] = ProxyTool(kind, tool.name or kind, tool)
            offer.tools.append(_function(tool.type or "", kind, name))
            field, reason = _field(tool, place), _drop_reason(tool, kind, limits)
            if kind == "web_search" and not limits.can_search:
                reason = f"{reason}, and SEARCH_URL is not set, so each search fails"
                notes.append(FidelityNote("dropped", field, reason))
            else:
                notes.append(FidelityNote("emulated", field, f"the proxy runs it; {reason}"))
            # settings without effect if the proxy runs the tool
            if b"true" in bytes(tool.citations):
                reason = "no other provider is known to cite fetched pages"
                notes.append(FidelityNote("dropped", f"{field}.citations", reason))
            if len(tool.user_location):
                reason = "the user's location is not sent"
                notes.append(FidelityNote("approximated", f"{field}.user_location", reason))
            if len(tool.url_sources):
                reason = "every URL in the conversation may be fetched"
                notes.append(FidelityNote("dropped", f"{field}.url_sources", reason))
        else:
            offer.dropped.append(tool)
            notes.append(FidelityNote("dropped", _field(tool, place), _drop_reason(tool, kind, limits)))
    offer.proxy_tools = proxy_tools
    return offer


def require_offered(choice: ToolChoice, offer: ToolOffer, limits: TargetLimits) -> None:
    """Raise `UnsupportedFeature` if the tool choice forces a dropped server tool."""
    forced = [tool for tool in offer.dropped if choice.type == "any" or tool.name == choice.name]
    if not forced or choice.type not in ("any", "tool") or (choice.type == "any" and offer.tools):
        return
    listed = ", ".join(f"{tool.name or tool.type!r} ({tool.type})" for tool in forced)
    raise UnsupportedFeature(
        f"tool_choice: '{choice.type}' forces {listed}, which {limits.provider} is not known to run",
        code="forced-tool",
    )


def _drop_reason(tool: Tool, kind: ServerToolKind, limits: TargetLimits) -> str:
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
        )
    for name, entries in (("allowed_domains", allowed), ("blocked_domains", blocked)):
        try:
            domain_names(entries or ())
        except ValueError as error:
            raise InvalidRequest(f"{_field(tool, place)}.{name}: {error}", code="invalid-field") from None


def _listed(entries: Sequence[str]) -> str:
    more = f" and {len(entries) - _MAX_SHOWN} more" if len(entries) > _MAX_SHOWN else ""
    return f"{[entry[:_MAX_SHOWN_CHARACTERS] for entry in entries[:_MAX_SHOWN]]}{more}"


def _field(tool: Tool, place: int) -> str:
    return f"tools.{tool.name}" if tool.name else f"tools[{place}]"


_QUERY = {"type": "string", "description": "What to look for."}
_LIMIT = {"type": "integer", "description": "How many tools to return at most; 5 if not given."}
_FUNCTIONS: Mapping[str, tuple[str, dict[str, Any], str]] = {
    "web_search": (
        "Searches the web and returns titles, addresses and passages of the pages found. Use it for what is recent or "
        "what you do not know for certain, and name the addresses that the answer rests on.",
        {"query": _QUERY},
        "query",
    ),
    "web_fetch": (
        "Fetches a page or a PDF and returns its content. Only addresses that stand in the conversation already can be "
        "fetched: those that the user gave, and those that earlier searches and fetches returned.",
        {"url": {"type": "string", "description": "The whole address, with its scheme."}},
        "url",
    ),
    "tool_search_tool_regex": (
        "Finds further tools, which can be called once they are found. Takes a regular expression in Python's syntax, "
        "which is looked for in the names, descriptions and arguments of all tools; `(?i)` makes it blind to case.",
        {
            "pattern": {"type": "string", "description": "At most 200 characters: `weather`, `get_.*_data`."},
            "limit": _LIMIT,
        },
        "pattern",
    ),
    _BM25: (
        "Finds further tools, which can be called once they are found. Takes words that say what the tool should do, "
        "which are looked for in the names, descriptions and arguments of all tools.",
        {"query": {"type": "string", "description": "What the tool should do, in words."}, "limit": _LIMIT},
        "query",
    ),
}
"""Function definition for each tool that the proxy runs: kind → description, JSON Schema properties, required argument.
"""


@functools.lru_cache(maxsize=64)
def _function(declared_type: str, kind: ServerToolKind, name: str) -> Tool:
    key = kind if kind in _FUNCTIONS else _BM25 if declared_type.startswith(_BM25) else "tool_search_tool_regex"
    description, properties, required = _FUNCTIONS[key]
    schema = {"type": "object", "properties": properties, "required": [required]}
    source = msgspec.json.encode({"name": name, "description": description, "input_schema": schema})
    return msgspec.structs.replace(msgspec.json.decode(source, type=Tool), source=source)


ServerResult = WebSearchResultBlock | WebFetchResultBlock | ToolSearchResultBlock
"""Result blocks of the server tools that the proxy runs."""


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
        content = message.content
        if (
            message.role == "assistant"
            and not isinstance(content, str)
            and any(isinstance(block, ServerToolUseBlock) and block.name in names for block in content)
        ):
            replayed += _split_reply(content, names)
        else:
            replayed.append(message)
    return replayed


def find_pending_calls(messages: list[Message], tools: Mapping[str, ProxyTool]) -> list[ServerToolUseBlock]:
    last = messages[-1]
    if last.role != "assistant" or isinstance(last.content, str):
        return []
    names = {tool.name for tool in tools.values()}
    answered = {block.tool_use_id for block in last.content if isinstance(block, ServerResult)}
    calls: list[ServerToolUseBlock] = []
    for block in reversed(last.content):
        if isinstance(block, ServerToolUseBlock) and block.name in names:
            if block.id not in answered:
                calls.append(block)
        elif not isinstance(block, ServerResult):
            break
    return calls[::-1]


def ends_with_paused_reply(messages: list[Message]) -> bool:
    """Return True if the last message is a reply that ends with a server tool call or its result.

    The client then requests the continuation of this reply.
    """
    last = messages[-1] if messages else None
    if last is None or last.role != "assistant" or isinstance(last.content, str) or not last.content:
        return False
    return isinstance(last.content[-1], ServerToolUseBlock | ServerResult)


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
        if isinstance(block, ServerResult) and block.tool_use_id in called:
            found = msgspec.json.decode(block.content) if len(block.content) else None
            failed = isinstance(found, dict) and "error_code" in found
            if isinstance(found, dict) and isinstance(fetched := found.get("content"), dict):  # may be a PDF
                # the note on citations belongs to the tool
                document = {name: value for name, value in fetched.items() if name != "citations"}
                shown: object = [{"type": "text", "text": str(found.get("url", ""))}, document]
            else:
                shown = result_as_text(block)
            results.append(
                ToolResultBlock(block.tool_use_id, Raw(msgspec.json.encode(shown)), True if failed else None)
            )
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
