"""Decoding of the request field `tools`: the tool definitions of a client.

The requests of a session repeat their tools, so decoded lists and definitions are cached, and requests with equal tools
share one immutable `ToolList`. A client tool is a function that the client defines and runs; other tools have types
that Anthropic defines.
"""

import functools
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.messages.models.raw_json import (
    ABSENT,
    MAX_SCHEMA_BYTES,
    TOO_DEEP_MESSAGE,
    build_fields_decoder,
    decode_lenient_fields,
    decode_string,
    find_schema_error,
    find_schema_size_error,
    is_json_object,
    is_json_text_too_deep,
    missing_field_error,
    quote_text,
    require_bounded_members,
    wrong_type_error,
)
from anthropic_proxy.engine.messages.models.structs import MessagesRequest, Tool
from anthropic_proxy.engine.patterns import compile_anchored
from anthropic_proxy.errors import InvalidRequest

TOOL_NAME_PATTERN, MAX_TOOL_NAME_LENGTH = r"[a-zA-Z0-9_-]+", 128
"""Regular expression and maximum length of the tool names that the Messages API allows."""
MAX_ALIASED_NAME_LENGTH = 1_024
"""Maximum length of a name that a provider gets under another one. Each call of a reply has the name again."""
_MAX_CACHED_TOOLS = 1_024
_MAX_CACHED_BYTES = 32 * 1024
_MAX_CACHED_LISTS = 64
_MAX_CACHED_LIST_BYTES = 256 * 1024
_TREES = ("input_schema", "citations", "url_sources", "user_location", "input_examples")
"""Fields of a tool definition with JSON of any type. They are kept as text and decoded later."""
_LIST, _OBJECT = b"[{"
_NO_ARGUMENTS = Raw(b'{"type":"object","properties":{}}')
_OPTIONAL_FIELDS = frozenset(Tool.__struct_encode_fields__) - {"name", "type", "description", "input_schema"}
"""Fields of a tool definition that are dropped if they have an unexpected type."""

_match_call_ids = compile_anchored(r"[a-zA-Z0-9_-]*").fullmatch
STATE_ID_PREFIX, KEPT_ID_PREFIX = "toolu_pxs-", "toolu_pxk-"
"""Beginnings of the ids of tool calls with a state of the provider in the id, and with a kept one
(`engine/messages/call_states.py`). Other ids of the proxy have only letters and digits behind `toolu_`."""
_match_tool_name = compile_anchored(TOOL_NAME_PATTERN).fullmatch
_decode_tool = msgspec.json.Decoder(Tool).decode
_decode_raws = msgspec.json.Decoder(list[Raw]).decode
_decode_fields = build_fields_decoder(set(Tool.__struct_encode_fields__) - {"px.source"})


class ToolList(list[Tool]):
    """Immutable list of tools, of a limited size (`share_tools`). Requests with equal tools share one object, which
    caches use as a key: they keep it, and what they found for it.
    """

    __slots__ = ("all_from_client", "called_by_code", "eager", "has_deferred", "model", "names", "source")
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __init__(self, tools: Iterable[Tool], source: Raw = ABSENT) -> None:
        super().__init__(tools)
        self.names = frozenset(tool.name for tool in self)
        self.all_from_client = all(map(is_client_tool, self))
        self.called_by_code = any(map(_is_called_by_code, self))
        self.has_deferred = any(tool.defer_loading for tool in self)
        self.model = _find_model(self)
        self.eager = _find_eager(self)
        self.source = source
        """JSON text of the list in the client request."""


_shared_lists: dict[int, list[ToolList]] = {}
"""Size of a JSON text → lists of tools with a text of this size."""
_shared_in_order: deque[ToolList] = deque()
"""All shared lists, the oldest first."""


def decode_tools(content: Raw) -> list[Tool]:
    """Decode a JSON list of tool definitions.

    Requests with equal tools may receive the same list, so callers must not change it. Raises `InvalidRequest` for an
    invalid list or tool, or a repeated name.
    """
    # texts are compared, because their hash and a copy of them take longer
    for shared in _shared_lists.get(len(content), ()):
        if shared.source == content:
            return shared
    source = bytes(content)
    if source[0] != _LIST:
        raise wrong_type_error("tools", "a list", Raw(source))
    require_bounded_members(source)
    raws = _decode_raws(source)
    tools = [_find(bytes(raw)) or _decode_field_by_field(raw, f"tools.{index}") for index, raw in enumerate(raws)]
    names = [tool.name for tool in tools if tool.name]
    for index, tool in enumerate(tools):
        if len(tool.name) > MAX_ALIASED_NAME_LENGTH:
            text = (
                f"tools.{index}.name: {len(tool.name):,} characters; at most {MAX_ALIASED_NAME_LENGTH:,} are allowed."
            )
            raise InvalidRequest(text, code="tool-choice")
    if len(set(names)) < len(names):
        raise InvalidRequest("tools: Tool names must be unique.", code="tool-choice")
    decoded = share_tools(tools, content)
    if not isinstance(decoded, ToolList):
        return decoded
    _shared_lists.setdefault(len(content), []).append(decoded)
    _shared_in_order.append(decoded)
    if len(_shared_in_order) > _MAX_CACHED_LISTS:
        oldest = _shared_in_order.popleft()
        _shared_lists[len(oldest.source)].remove(oldest)
    return decoded


def share_tools(tools: list[Tool], source: Raw = ABSENT) -> list[Tool]:
    """Return a `ToolList`, or `tools` itself if they are too large to be kept in caches.

    `source`: JSON text of the list in the client request.
    """
    size = len(source) or sum(len(tool.source) for tool in tools)
    return tools if size > _MAX_CACHED_LIST_BYTES else ToolList(tools, source.copy())


def are_client_tools(tools: Sequence[Tool]) -> bool:
    return tools.all_from_client if isinstance(tools, ToolList) else all(map(is_client_tool, tools))


def are_called_by_code(tools: Sequence[Tool]) -> bool:
    """Return True if one of the tools may be called only by code that a code execution tool runs."""
    return tools.called_by_code if isinstance(tools, ToolList) else any(map(_is_called_by_code, tools))


def find_tool_model(tools: Sequence[Tool]) -> str:
    """Return the model that a tool names: the advisor. "": none."""
    return tools.model if isinstance(tools, ToolList) else _find_model(tools)


def list_tool_names(tools: Sequence[Tool]) -> frozenset[str]:
    return tools.names if isinstance(tools, ToolList) else frozenset(tool.name for tool in tools)


def list_eager_tools(tools: Sequence[Tool], *, by_default: bool) -> frozenset[str]:
    """Return the names of the tools whose arguments need not be checked: they have `eager_input_streaming`.

    `by_default`: tools without the field have it.
    """
    stated = tools.eager if isinstance(tools, ToolList) else _find_eager(tools)
    if by_default:
        return frozenset(tool.name for tool in tools if stated.get(tool.name, True))
    return frozenset(name for name, is_eager in stated.items() if is_eager) if stated else frozenset()


def are_valid_ids(call_ids: Iterable[str]) -> bool:
    """Return True if the Messages API allows the ids of tool calls, and none has a state for another provider."""
    joined = "".join(call_ids)
    return _match_call_ids(joined) is not None and STATE_ID_PREFIX not in joined


def are_valid_names(called: Collection[str], tools: Sequence[Tool]) -> bool:
    """Return True if the Messages API allows the names of all called tools, apart from the client's own `tools`."""
    others = {*called} - list_tool_names(tools)
    return all(len(name) <= MAX_TOOL_NAME_LENGTH and _match_tool_name(name) for name in others)


class _Called(Struct):
    model: str = ""


_decode_called = msgspec.json.Decoder(_Called).decode


_SIGNS_OF_A_MODEL = (b'"model"', b"\\u")
"""Bytes of a definition that can have the field `model`, whose name may have escapes."""


def _find_model(tools: Iterable[Tool]) -> str:
    for tool in tools:
        if not is_client_tool(tool) and any(map(tool.source.__contains__, _SIGNS_OF_A_MODEL)):
            with suppress(msgspec.ValidationError):
                if model := _decode_called(tool.source).model:
                    return model
    return ""


class _EagerTool(Struct):
    eager_input_streaming: bool | None = None


_decode_eager = msgspec.json.Decoder(_EagerTool).decode
_SIGNS_OF_EAGER = (b'"eager_input_streaming"', b"\\u")


def _find_eager(tools: Iterable[Tool]) -> dict[str, bool]:
    """Return the names of the tools with a valid field `eager_input_streaming`, and its values."""
    eager = {}
    for tool in tools:
        if any(map(tool.source.__contains__, _SIGNS_OF_EAGER)):
            with suppress(msgspec.DecodeError):
                if (stated := _decode_eager(tool.source).eager_input_streaming) is not None:
                    eager[tool.name] = stated
    return eager


def _is_called_by_code(tool: Tool) -> bool:
    return bool(tool.allowed_callers) and "direct" not in (tool.allowed_callers or ())


def decode_tool(raw: Raw, path: str) -> Tool:
    """Decode one tool definition. Raises `InvalidRequest`. `path`: path of the tool in the request body."""
    return _find(bytes(raw)) or _decode_field_by_field(raw, path)


def is_client_tool(tool: Tool) -> bool:
    return tool.type is None or tool.type == "custom"


def are_all_from_client(tools: Sequence[Tool]) -> bool:
    return tools.all_from_client if isinstance(tools, ToolList) else all(map(is_client_tool, tools))


def _find(source: bytes) -> Tool | None:
    return _load_cached(source) if len(source) <= _MAX_CACHED_BYTES else _load(source)


def _load(source: bytes) -> Tool | None:
    try:
        tool = _decode_tool(source)
    except (msgspec.ValidationError, RecursionError):
        return None
    return _finish(tool, source) if _is_sound(tool) else None


_load_cached = functools.lru_cache(maxsize=_MAX_CACHED_TOOLS)(_load)


def _is_sound(tool: Tool) -> bool:
    if len(tool.input_schema) > MAX_SCHEMA_BYTES or _deep_field(tool):
        return False
    if not is_client_tool(tool):
        return True
    schema = bytes(tool.input_schema)
    return bool(tool.name) and (not schema or (schema[0] == _OBJECT and not find_schema_error(schema)))


def _deep_field(tool: Tool) -> str:
    return next((name for name in _TREES if is_json_text_too_deep(bytes(getattr(tool, name)))), "")


def _finish(tool: Tool, source: bytes) -> Tool:
    msgspec.structs.force_setattr(tool, "source", source)
    if is_client_tool(tool) and not len(tool.input_schema):
        msgspec.structs.force_setattr(tool, "input_schema", _NO_ARGUMENTS)
    return tool


def _decode_field_by_field(raw: Raw, path: str) -> Tool:
    if not is_json_object(raw):
        raise wrong_type_error(path, "an object", raw)
    fields = _decode_fields(raw)
    foreign = "type" in fields and decode_string(fields["type"]) != "custom"
    optional = _OPTIONAL_FIELDS | {"description", "input_schema"} if foreign else _OPTIONAL_FIELDS
    tool, _ = decode_lenient_fields(fields, _decode_tool, optional, path)
    if not foreign and not tool.name:
        raise missing_field_error(f"{path}.name")
    if not _is_sound(tool):
        if large := find_schema_size_error(tool.input_schema):
            raise InvalidRequest(f"{path}.input_schema: {large}", code="tool-schema")
        if field := _deep_field(tool):
            raise InvalidRequest(f"{path}.{field}: {TOO_DEEP_MESSAGE}", code="request-body")
        if flaw := find_schema_error(bytes(tool.input_schema)):
            raise InvalidRequest(f"{path}.input_schema: {flaw}", code="tool-schema")
        raise wrong_type_error(f"{path}.input_schema", "an object", tool.input_schema)
    return _finish(tool, bytes(raw))


MCP_TOOLSET_TYPE = "mcp_toolset"
"""`type` of the entry in `tools` that offers the tools of an MCP server."""


class McpToolPermission(Struct):
    """Setting in a toolset that offers a tool of an MCP server to the model, or hides it."""

    enabled: bool | None = None
    """False: the tool is not offered. None: offered."""


class PinnedTool(Struct):
    """A tool of an MCP server that the client defines itself in the toolset. Only its name is decoded."""

    name: str = ""


class Toolset(Struct):
    mcp_server_name: str = ""
    """The `name` of its entry in `mcp_servers`."""
    default_config: McpToolPermission | None = None
    """Permission for tools without an entry in `configs`. None: these tools are offered."""
    configs: dict[str, McpToolPermission] | None = None
    tools: list[PinnedTool] | None = None
    """Tools that the client defines itself. None: the provider queries the server for its tools."""


def decode_toolset(tool: Tool) -> Toolset:
    """Decode an entry of `tools` with the type `mcp_toolset`. Raises `InvalidRequest`."""
    try:
        return msgspec.json.decode(tool.source, type=Toolset)
    except msgspec.ValidationError as error:
        text = f"tools: {MCP_TOOLSET_TYPE}: {error}"
        raise InvalidRequest(text, code="invalid-field", quotes=quote_text(str(error))) from None


def implied_toolsets(request: MessagesRequest) -> list[Tool]:
    """Return a toolset for each enabled MCP server without one: older clients list servers, but no toolsets."""
    named = {decode_toolset(tool).mcp_server_name for tool in request.tools if tool.type == MCP_TOOLSET_TYPE}
    toolsets = []
    for server in request.mcp_servers:
        permissions = server.tool_configuration
        if server.name in named or (permissions is not None and permissions.enabled is False):
            continue
        toolset: dict[str, object] = {"type": MCP_TOOLSET_TYPE, "mcp_server_name": server.name}
        if permissions is not None and permissions.allowed_tools is not None:
            toolset["default_config"] = {"enabled": False}
            toolset["configs"] = {name: {"enabled": True} for name in permissions.allowed_tools}
        toolsets.append(Tool(type=MCP_TOOLSET_TYPE, source=msgspec.json.encode(toolset)))
    return toolsets
