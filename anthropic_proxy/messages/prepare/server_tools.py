"""Who runs a tool that Anthropic's API runs itself: the provider, the proxy (`exchange/turns`), or nobody."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from anthropic_proxy.errors import InvalidRequest, UnsupportedFeature
from anthropic_proxy.messages.domains import hosts_of
from anthropic_proxy.messages.notes import Note
from anthropic_proxy.messages.prepare.request import Kind, Limits, OwnedTool
from anthropic_proxy.messages.types import Tool, ToolChoice
from anthropic_proxy.messages.types.tools import are_client_tools, is_client_tool

_BEGINNINGS: tuple[tuple[str, Kind], ...] = (
    ("web_search_", "web_search"),
    ("web_fetch_", "web_fetch"),
    ("code_execution_", "code_execution"),
    ("mcp_toolset", "mcp_toolset"),
    ("tool_search_tool_", "tool_search"),
)
_NOTHING: frozenset[str] = frozenset()
_BM25 = "tool_search_tool_bm25"
_SHOWN, _SHOWN_CHARACTERS = 3, 60
"""Domains that a refusal shows, and how much of each."""


class Offer(Struct):
    """The tools of a request after the decision."""

    tools: list[Tool]
    """Functions, and the server tools that the provider runs; in the order of the request, not yet under aliases."""
    owned: Mapping[str, OwnedTool]
    """Name that a call in the reply bears → the server tool that the proxy runs for it."""
    dropped: list[Tool]
    deferred: list[Tool] = []
    """All that wait to be found, those that were found among them."""


def kind_of(tool: Tool) -> Kind:
    """Return what a server tool does.

    >>> kind_of(Tool(type="web_search_20250305", name="web_search"))
    'web_search'
    """
    kind = tool.type or ""
    return next((said for beginning, said in _BEGINNINGS if kind.startswith(beginning)), "")


def kinds_of(tools: Sequence[Tool]) -> frozenset[str]:
    """Return what the server tools among these do."""
    if are_client_tools(tools):
        return _NOTHING
    return frozenset({kind_of(tool) for tool in tools if not is_client_tool(tool)} - {""})


def decide(declared: list[Tool], limits: Limits, notes: list[Note]) -> Offer:
    """Return what is offered for the declared tools: native, as a function of ours, or not at all, with a note.

    A provider's own tool is preferred, unless it may not stand beside functions and there are some. Raises
    `InvalidRequest` for domains that the API refuses, whoever would run the tool.
    """
    offer = Offer([], {}, [])
    owned: dict[str, OwnedTool] = {}
    taken = {tool.name for tool in declared if is_client_tool(tool)}
    alone = limits.server_tools_alone and any(_becomes_function(tool, limits) for tool in declared)
    for place, tool in enumerate(declared):
        kind = kind_of(tool)
        _expect_domains(tool, place)
        if is_client_tool(tool) or (kind in limits.server_tools and not alone):
            offer.tools.append(tool)
        elif kind in limits.owned_tools:
            name = _free_name(tool.name or kind, taken)
            taken.add(name)
            owned[name] = OwnedTool(kind, tool.name or kind, tool)
            offer.tools.append(_function(tool.type or "", kind, name))
            notes.append(_note_on_owned(tool, kind, place, limits))
            notes += _lost(tool, place)
        else:
            offer.dropped.append(tool)
            notes.append(Note("dropped", _field(tool, place), _why(tool, kind, limits)))
    offer.owned = owned
    return offer


def expect_offered(choice: ToolChoice, offer: Offer, limits: Limits) -> None:
    """Raise `UnsupportedFeature` where the choice forces a tool that nobody runs."""
    forced = [tool for tool in offer.dropped if choice.type == "any" or tool.name == choice.name]
    if not forced or choice.type not in ("any", "tool") or (choice.type == "any" and offer.tools):
        return
    listed = ", ".join(f"{tool.name or tool.type!r} ({tool.type})" for tool in forced)
    raise UnsupportedFeature(f"tool_choice: '{choice.type}' forces {listed}, which {limits.provider} does not run")


def _becomes_function(tool: Tool, limits: Limits) -> bool:
    if is_client_tool(tool):
        return True
    kind = kind_of(tool)
    return kind in limits.owned_tools and kind not in limits.server_tools


def _why(tool: Tool, kind: Kind, limits: Limits) -> str:
    if kind in limits.server_tools:
        return f"{limits.provider} does not run {tool.type} beside functions"
    return f"{limits.provider} does not run {tool.type}"


def _expect_domains(tool: Tool, place: int) -> None:
    """Raise `InvalidRequest` for a domain that is none, and where some are allowed and others blocked.

    Source: Anthropic's pages on the web search and the web fetch tool, "Domain filtering", read 2026-11.
    """
    allowed, blocked = tool.allowed_domains, tool.blocked_domains
    if allowed and blocked:
        raise InvalidRequest(
            f"{_field(tool, place)}: allowed_domains {_listed(allowed)} and blocked_domains {_listed(blocked)} cannot "
            "be used together; one of them may be given"
        )
    for name, entries in (("allowed_domains", allowed), ("blocked_domains", blocked)):
        try:
            hosts_of(entries or ())
        except ValueError as error:
            raise InvalidRequest(f"{_field(tool, place)}.{name}: {error}") from None


def _listed(entries: Sequence[str]) -> str:
    more = f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    return f"{[entry[:_SHOWN_CHARACTERS] for entry in entries[:_SHOWN]]}{more}"


def _lost(tool: Tool, place: int) -> Iterator[Note]:
    """Yield what the proxy does not heed where it runs a tool."""
    if b"true" in bytes(tool.citations):
        yield Note("dropped", f"{_field(tool, place)}.citations", "only Anthropic cites what was fetched")
    if len(tool.user_location):
        yield Note("approximated", f"{_field(tool, place)}.user_location", "no service is told where the user is")
    if len(tool.url_sources):
        yield Note("dropped", f"{_field(tool, place)}.url_sources", "every address in the conversation may be fetched")


def _field(tool: Tool, place: int) -> str:
    return f"tools.{tool.name}" if tool.name else f"tools[{place}]"


def _note_on_owned(tool: Tool, kind: Kind, place: int, limits: Limits) -> Note:
    if kind == "web_search" and not limits.searches:
        why = "no search service is set (SEARCH_URL), so each search is answered with an error"
        return Note("dropped", _field(tool, place), f"{_why(tool, kind, limits)}, and {why}")
    return Note("emulated", _field(tool, place), f"the proxy runs it; {_why(tool, kind, limits)}")


def _free_name(name: str, taken: set[str]) -> str:
    free, count = name, 1
    while free in taken:
        count += 1
        free = f"{name}_{count}"
    return free


_QUERY = {"type": "string", "description": "What to look for."}
_LIMIT = {"type": "integer", "description": "How many tools to return at most; 5 if not given."}
_SHAPES: Mapping[str, tuple[str, dict[str, Any], str]] = {
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
"""Tool → description, arguments and the one that must be given."""


@functools.lru_cache(maxsize=64)
def _function(declared_type: str, kind: Kind, name: str) -> Tool:
    shape = kind if kind in _SHAPES else _BM25 if declared_type.startswith(_BM25) else "tool_search_tool_regex"
    description, properties, required = _SHAPES[shape]
    schema = {"type": "object", "properties": properties, "required": [required]}
    source = msgspec.json.encode({"name": name, "description": description, "input_schema": schema})
    return msgspec.structs.replace(msgspec.json.decode(source, type=Tool), source=source)
