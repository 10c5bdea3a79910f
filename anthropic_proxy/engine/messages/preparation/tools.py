"""Selection of the tools and the tool choice that are sent to the model.

Four things change the tools of a client: tool additions and removals in its messages, server tools that the proxy runs
or that nobody runs, deferred tools, which are hidden from the model until a tool search finds them, and names that the
provider does not allow, which get an alias.
"""

import functools
import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import msgspec
from msgspec.structs import replace

from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.loaded_tools import PLACEHOLDER_NAME, place_loaded_tools
from anthropic_proxy.engine.messages.models import (
    Message,
    MessagesRequest,
    Tool,
    ToolAdditionBlock,
    ToolChoice,
    ToolReferenceBlock,
    ToolRemovalBlock,
    ToolResultBlock,
    ToolSearchResultBlock,
    ToolUseBlock,
    decode_nested_content,
    decode_tool,
)
from anthropic_proxy.engine.messages.models.tools import ToolList, are_client_tools, implied_toolsets
from anthropic_proxy.engine.messages.preparation.request import ProxyTool, TargetLimits
from anthropic_proxy.engine.messages.preparation.server_tools import (
    ToolOffer,
    assign_server_tools,
    require_offered,
    server_tool_kind,
)
from anthropic_proxy.errors import InvalidRequest, UnsupportedFeature

_MAX_KEPT_CHARACTERS = 50
"""Maximum number of characters that an alias copies from the beginning of the tool name."""
_INVALID_CHARACTER = re.compile(r"[^a-zA-Z0-9_]")


class ToolNames:
    """Conversion of the tool names of one client request to names that the provider allows.

    An allowed name matches `pattern` and has at most `length` characters. Any other name gets an alias.
    """

    def __init__(self, pattern: str, length: int) -> None:
        self._pattern = pattern
        self._length = length
        self._upstream_names: dict[str, str] = {}
        self.aliases: dict[str, str] = {}

    def upstream_name(self, name: str) -> str:
        """Return the name to send upstream: `name` itself if the provider allows it, otherwise its alias."""
        upstream = self._upstream_names.get(name)
        if upstream is None:
            upstream = self._upstream_names[name] = name_or_alias(name, self._pattern, self._length)
            if upstream != name:
                self.aliases[upstream] = name
        return upstream


@functools.lru_cache(maxsize=4096)
def name_or_alias(name: str, pattern: str, length: int) -> str:
    """Return `name` if it is allowed, otherwise a replacement (alias) that is allowed.

    An allowed name matches `pattern` and has at most `length` characters.
    """
    if len(name) <= length and re.fullmatch(pattern, name):
        return name
    # equal arguments always give the same alias, so nothing is stored between requests
    mark = hashlib.sha256(name.encode()).hexdigest()[:8]
    start = _INVALID_CHARACTER.sub("_", name)[: min(_MAX_KEPT_CHARACTERS, length - len(mark) - 1)]
    alias = f"{start}_{mark}"
    return alias if re.fullmatch(pattern, alias) else f"t{alias[1:]}"


_REFERENCE = b'"tool_reference'


def resolve_deferred_tools(
    tools: list[Tool], messages: list[Message], forced_name: str | None
) -> tuple[list[Tool], list[Tool]]:
    """Return the tools to offer to the model now, and all deferred tools.

    A deferred tool is offered only if a tool search has found it, if an earlier message calls it, or if its name is
    `forced_name`.
    """
    deferred = {tool.name: tool for tool in tools if tool.defer_loading}
    if not deferred:
        return tools, []
    found = dict.fromkeys(name for name in _found_names(messages) if name in deferred)
    if forced_name in deferred:
        found[forced_name] = None
    offered = [tool for tool in tools if not tool.defer_loading]
    # found tools come last, so that prompt caches still match
    return offered + [deferred[name] for name in found], list(deferred.values())


class _Reference(msgspec.Struct):
    tool_name: str = ""


class _Found(msgspec.Struct):
    tool_references: list[_Reference] = []


def _found_names(messages: list[Message]) -> Iterator[str]:
    for message in messages:
        if isinstance(message.content, str):
            continue
        for block in message.content:
            if isinstance(block, ToolSearchResultBlock):
                with suppress(msgspec.DecodeError):
                    found = msgspec.json.decode(block.content, type=_Found)
                    yield from (reference.tool_name for reference in found.tool_references)
            elif isinstance(block, ToolResultBlock):
                if _REFERENCE in bytes(block.content):
                    inner = decode_nested_content(block.content)
                    yield from (reference.tool_name for reference in inner if isinstance(reference, ToolReferenceBlock))
            elif isinstance(block, ToolUseBlock):
                yield block.name
            elif isinstance(block, ToolAdditionBlock):
                yield block.tool.name


_FREE = ("auto", "none")
_FORCED = ("any", "tool")
_MAX_LISTED = 20


def select_offered_tools(
    request: MessagesRequest, limits: TargetLimits, names: ToolNames, notes: list[FidelityNote]
) -> ToolOffer:
    """Return the tools to offer to the model, after the changes that the target (provider and model) requires.

    Replacements of tool names are added to `names`.
    """
    declared = _with_changes(request)
    if request.mcp_servers and "mcp_toolset" in limits.server_tools:
        declared = [*declared, *implied_toolsets(request)]
    if not declared:
        return ToolOffer([], {}, [])
    if not limits.accepts_tools:
        notes.append(FidelityNote("dropped", "tools", "the model does not support tools"))
        return ToolOffer([], {}, [])
    forced_name = request.tool_choice.name if request.tool_choice else None
    declared, loaded = place_loaded_tools(declared, request.messages, limits.loaded_tools, forced_name)
    if limits.loaded_tools == "items":
        loaded = {call_id: [_under_alias(tool, names) for tool in tools] for call_id, tools in loaded.items()}
    if isinstance(declared, ToolList) and declared.all_from_client:
        tools, aliases = _functions(declared, limits)
        names.aliases.update(aliases)
        return ToolOffer(tools, {}, [], loaded=loaded)
    offer = assign_server_tools([_defined(tool) for tool in declared if tool.name != PLACEHOLDER_NAME], limits, notes)
    offer.loaded = loaded
    if any(tool.kind == "tool_search" for tool in offer.proxy_tools.values()):
        offer.tools, offer.deferred = resolve_deferred_tools(offer.tools, request.messages, forced_name)
    offer.tools = [_under_alias(tool, names) for tool in offer.tools]
    return offer


def list_visible_tools(request: MessagesRequest) -> list[Tool]:
    """Return the tools that the model can see.

    If the request has a tool search, deferred tools that were not found yet are left out.
    """
    tools = _with_changes(request)
    if not any(tool.defer_loading for tool in tools):
        return tools
    tools = [tool for tool in tools if tool.name != PLACEHOLDER_NAME]
    if not any(server_tool_kind(tool) == "tool_search" for tool in tools):
        return tools
    return resolve_deferred_tools(tools, request.messages, request.tool_choice.name if request.tool_choice else None)[0]


def resolve_proxy_tools(request: MessagesRequest, limits: TargetLimits) -> Mapping[str, ProxyTool]:
    """Return the server tools, such as web search, that the proxy would run itself for this request and target.

    The keys are the names by which the model calls the tools.
    """
    if not limits.accepts_tools or are_client_tools(request.tools):
        return {}
    return assign_server_tools([_defined(tool) for tool in _with_changes(request)], limits, []).proxy_tools


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
        raise InvalidRequest(
            f"tool_choice: '{choice.type}' forces a tool call, but no tool is offered in tools", code="tool-choice"
        )
    if choice.type != "tool":
        return choice
    upstream = names.upstream_name(choice.name or "")
    if all(tool.name != upstream for tool in tools):
        listed = ", ".join(names.aliases.get(tool.name, tool.name) for tool in tools[:_MAX_LISTED])
        more = f" and {len(tools) - _MAX_LISTED} more" if len(tools) > _MAX_LISTED else ""
        raise InvalidRequest(
            f"tool_choice.name: no tool named {choice.name!r} is offered; there are: {listed}{more}", code="tool-choice"
        )
    return choice if upstream == choice.name else replace(choice, name=upstream)


@functools.lru_cache(maxsize=64)
def _functions(tools: ToolList, limits: TargetLimits) -> tuple[ToolList, Mapping[str, str]]:
    """Return the client's tools with names that the provider accepts, and a mapping: alias → name of the client.

    Requests with the same tools share both results.
    """
    names = ToolNames(limits.tool_name_pattern, limits.max_tool_name_length)
    offered = assign_server_tools([tool for tool in tools if tool.name != PLACEHOLDER_NAME], limits, []).tools
    return ToolList(_under_alias(tool, names) for tool in offered), names.aliases


def _defined(tool: Tool) -> Tool:
    """Return the function definition for a tool that Anthropic defines and the client runs, and any other tool."""
    if tool.type is None or not _CLIENT_TYPE.fullmatch(tool.type):
        return tool
    return _function(tool.type, tool.name, tool.display_width_px, tool.display_height_px)


def _under_alias(tool: Tool, names: ToolNames) -> Tool:
    upstream = names.upstream_name(tool.name) if tool.name else ""
    if upstream == tool.name:
        return tool
    # caches use the source as a key
    return replace(tool, name=upstream, source=_source_under(tool.source, upstream))


@functools.lru_cache(maxsize=512)
def _source_under(source: bytes, name: str) -> bytes:
    return b"%b %b" % (name.encode(), source)


def _with_changes(request: MessagesRequest) -> list[Tool]:
    """Return the tools of a client request after the tool additions and removals in its system messages."""
    changes = [
        block
        for message in request.messages
        if message.role == "system" and not isinstance(message.content, str)
        for block in message.content
        if isinstance(block, ToolAdditionBlock | ToolRemovalBlock)
    ]
    if not changes:
        return request.tools
    tools = {tool.name: tool for tool in request.tools}
    removed = set()
    for change in changes:
        name = change.tool.name
        if isinstance(change, ToolRemovalBlock):
            removed.add(name)
        elif len(change.tool.definition):
            tool = decode_tool(change.tool.definition, "messages.tool_addition.tool.definition")
            tools[tool.name] = tool
            removed.discard(tool.name)
        else:
            removed.discard(name)
    return [tool for name, tool in tools.items() if name not in removed]


_TEXT = {"type": "string"}
_INTEGER = {"type": "integer"}
_POINT = {"type": "array", "items": _INTEGER, "minItems": 2, "maxItems": 2}
_LINES = {"type": "array", "items": _INTEGER, "minItems": 2, "maxItems": 2}


def _choice(*values: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(values)}


def _schema(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


_SCREEN_ACTIONS = (
    *("key", "type", "mouse_move", "left_click", "left_click_drag", "right_click", "middle_click", "double_click"),
    *("screenshot", "cursor_position"),
)
_LATER_ACTIONS = ("left_mouse_down", "left_mouse_up", "scroll", "hold_key", "wait", "triple_click")


def _editor(*commands: str, **more: Any) -> dict[str, Any]:
    return _schema(
        ["command", "path"],
        command=_choice(*commands),
        path=_TEXT,
        file_text={"type": "string", "description": "Content of the file that `create` writes."},
        old_str={"type": "string", "description": "Text that `str_replace` replaces; must occur exactly once."},
        insert_line={"type": "integer", "description": "Line after which `insert` inserts; 0: at the beginning."},
        view_range={**_LINES, "description": "First and last line that `view` shows; -1: to the end."},
        **more,
    )


def _computer(*actions: str) -> dict[str, Any]:
    return _schema(
        ["action"],
        action=_choice(*actions),
        coordinate={**_POINT, "description": "x and y in pixels from the top left corner."},
        start_coordinate={**_POINT, "description": "Where `left_click_drag` begins."},
        text={"type": "string", "description": "Text to type, or keys to press: `ctrl+s`."},
        scroll_direction=_choice("up", "down", "left", "right"),
        scroll_amount=_INTEGER,
        duration={"type": "number", "description": "Seconds, for `wait` and `hold_key`."},
        region={"type": "array", "items": _INTEGER, "description": "Corners that `zoom` shows: x0, y0, x1, y1."},
    )


_BASH = _schema(
    [],
    command={"type": "string", "description": "The command to run."},
    restart={"type": "boolean", "description": "Whether to restart the shell instead."},
)
_MEMORY = _schema(
    ["command"],
    command=_choice("view", "create", "str_replace", "insert", "delete", "rename"),
    path={"type": "string", "description": "A path below /memories."},
    view_range=_LINES,
    file_text=_TEXT,
    old_str=_TEXT,
    new_str=_TEXT,
    insert_line=_INTEGER,
    insert_text=_TEXT,
    old_path=_TEXT,
    new_path=_TEXT,
)

_EDITOR = "Views, creates and edits text files."
_COMPUTER = "Looks at a screen and uses mouse and keyboard."
_REPLACEMENT = {"type": "string", "description": "Text that `str_replace` puts in its place."}
_INSERTED = {"type": "string", "description": "Text that `insert` inserts."}
_BOTH = {"type": "string", "description": "Text that `str_replace` puts in its place, or that `insert` inserts."}
_OLD_EDITOR = _editor("view", "create", "str_replace", "insert", "undo_edit", new_str=_BOTH)
_NEW_EDITOR = _editor("view", "create", "str_replace", "insert", new_str=_REPLACEMENT, insert_text=_INSERTED)
_KINDS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("bash_", "bash", "Runs a command in a shell that lives through the conversation.", _BASH),
    ("text_editor_20241022", "str_replace_editor", _EDITOR, _OLD_EDITOR),
    ("text_editor_20250124", "str_replace_editor", _EDITOR, _OLD_EDITOR),
    ("text_editor_", "str_replace_based_edit_tool", _EDITOR, _NEW_EDITOR),
    ("computer_20241022", "computer", _COMPUTER, _computer(*_SCREEN_ACTIONS)),
    ("computer_", "computer", _COMPUTER, _computer(*_SCREEN_ACTIONS, *_LATER_ACTIONS, "zoom")),
    ("memory_", "memory", "Keeps notes in files under /memories; look there first.", _MEMORY),
)
"""Tools that Anthropic defines and the client runs. Rows: prefix of `type`, default name, description, JSON Schema. The
first row with a matching prefix is used."""
_CLIENT_TYPE = re.compile(r"(?:bash|text_editor|computer|memory)_\d+")


@functools.lru_cache(maxsize=64)
def _function(kind: str, name: str, width: int | None, height: int | None) -> Tool:
    _, usual, description, schema = next(row for row in _KINDS if kind.startswith(row[0]))
    if width and height:
        description = f"{description} The screen is {width} × {height} pixels."
    shown = {"name": name or usual, "description": description, "input_schema": schema}
    source = msgspec.json.encode(shown)
    return msgspec.structs.replace(msgspec.json.decode(source, type=Tool), source=source)
