"""Tool definitions: the same ones come with every request of a session, so they are read once and kept."""

import functools
from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Raw

from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.messages.types.blocks import DEEP_TEXT, find_flaw, given_fields, is_deep, string_of
from anthropic_proxy.messages.types.refusals import decode_fields, missing, wrong_type
from anthropic_proxy.messages.types.structs import Tool
from anthropic_proxy.messages.types.values import is_object

_KEPT = 1_024
_LONGEST = 32 * 1024
"""Bytes of the longest definition that is kept: `_KEPT` of them are the most that the cache may hold."""
_LISTS_KEPT = 64
_LONGEST_LIST = 256 * 1024
"""Bytes of the longest list of definitions that is kept: `_LISTS_KEPT` of them are the most that their cache holds."""
_TREES = ("input_schema", "citations", "url_sources", "user_location", "input_examples")
"""Fields that can have any shape and are read as a whole later."""
_LIST, _OBJECT = b"[{"
_NO_ARGUMENTS = Raw(b'{"type":"object","properties":{}}')
_SPARE = frozenset(Tool.__struct_encode_fields__) - {"name", "type", "description", "input_schema"}
"""Fields that a tool can do without where they have a type that we do not expect."""

_decode_tool = msgspec.json.Decoder(Tool).decode
_decode_raws = msgspec.json.Decoder(list[Raw]).decode


class _Source(bytes):
    """JSON text as a key: to compare it with a kept one of its length costs less than to hash it."""

    def __hash__(self) -> int:
        return len(self)


class ToolList(list[Tool]):
    """Tools that come again with every request of a session: the same object each time, so that it can be a key.

    Nobody changes it.
    """

    __slots__ = ("all_from_client",)
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __init__(self, tools: Iterable[Tool]) -> None:
        super().__init__(tools)
        self.all_from_client = all(map(is_client_tool, self))
        """Whether the client runs all of them, and describes them by schemas."""


def read_tools(content: Raw) -> list[Tool]:
    """Return the tools of a JSON list in order; a `ToolList` where the same text may come again.

    Raises `InvalidRequest` for what is no list, for a tool that cannot be offered and for names used twice.
    """
    source = _Source(content)
    return _kept_list(source) if len(source) <= _LONGEST_LIST else _read_list(source)


def are_client_tools(tools: Sequence[Tool]) -> bool:
    """Whether the client runs all of these tools."""
    return tools.all_from_client if isinstance(tools, ToolList) else all(map(is_client_tool, tools))


@functools.lru_cache(maxsize=_LISTS_KEPT)
def _kept_list(source: _Source) -> ToolList:
    return ToolList(_read_list(source))


def _read_list(source: bytes) -> list[Tool]:
    if source[0] != _LIST:
        raise wrong_type("tools", "a list", Raw(source))
    raws = _decode_raws(source)
    tools = [_find(bytes(raw)) or _read_slowly(raw, f"tools.{index}") for index, raw in enumerate(raws)]
    names = [tool.name for tool in tools if tool.name]
    if len(set(names)) < len(names):
        raise InvalidRequest("tools: Tool names must be unique.")
    return tools


def read_tool(raw: Raw, path: str) -> Tool:
    """Return the one tool that stands at `path` in the body. Raises `InvalidRequest`."""
    return _find(bytes(raw)) or _read_slowly(raw, path)


def is_client_tool(tool: Tool) -> bool:
    """Whether the client runs the tool and describes it by a schema, as opposed to types that Anthropic defines."""
    return tool.type is None or tool.type == "custom"


def _find(source: bytes) -> Tool | None:
    return _kept(source) if len(source) <= _LONGEST else _load(source)


def _load(source: bytes) -> Tool | None:
    try:
        tool = _decode_tool(source)
    except (msgspec.ValidationError, RecursionError):
        return None
    return _finish(tool, source) if _is_sound(tool) else None


_kept = functools.lru_cache(maxsize=_KEPT)(_load)


def _is_sound(tool: Tool) -> bool:
    if _deep_field(tool):
        return False
    if not is_client_tool(tool):
        return True
    schema = bytes(tool.input_schema)
    return bool(tool.name) and (not schema or (schema[0] == _OBJECT and not find_flaw(schema)))


def _deep_field(tool: Tool) -> str:
    """Return the name of a field that nests too deeply; "" for none."""
    return next((name for name in _TREES if is_deep(bytes(getattr(tool, name)))), "")


def _finish(tool: Tool, source: bytes) -> Tool:
    msgspec.structs.force_setattr(tool, "source", source)
    if is_client_tool(tool) and not len(tool.input_schema):
        msgspec.structs.force_setattr(tool, "input_schema", _NO_ARGUMENTS)
    return tool


def _read_slowly(raw: Raw, path: str) -> Tool:
    if not is_object(raw):
        raise wrong_type(path, "an object", raw)
    fields = given_fields(raw)
    foreign = "type" in fields and string_of(fields["type"]) != "custom"
    spare = _SPARE | {"description", "input_schema"} if foreign else _SPARE
    tool, _ = decode_fields(fields, _decode_tool, spare, path)
    if not foreign and not tool.name:
        raise missing(f"{path}.name")
    if not _is_sound(tool):
        if field := _deep_field(tool):
            raise InvalidRequest(f"{path}.{field}: {DEEP_TEXT}")
        if flaw := find_flaw(bytes(tool.input_schema)):
            raise InvalidRequest(f"{path}.input_schema: {flaw}")
        raise wrong_type(f"{path}.input_schema", "an object", tool.input_schema)
    return _finish(tool, bytes(raw))
