"""Tool definitions, encoded once: a session has dozens of them, and repeats them in every request."""

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar, TypeVarTuple

import msgspec

from anthropic_proxy.messages.types import Tool
from anthropic_proxy.messages.types.tools import ToolList

_KEPT = 1_024
_LISTS_KEPT = 64
_LONGEST = 32 * 1024
"""Bytes of the longest definition that is kept: with `_KEPT` the most that one cache may hold."""

_Rest = TypeVarTuple("_Rest")
_Encoded = TypeVar("_Encoded")


class _Definition:
    """A tool as a key: equal where the sources are, which Python hashes once."""

    __slots__ = ("source", "tool")

    def __init__(self, tool: Tool) -> None:
        self.tool = tool
        self.source = tool.source

    def __hash__(self) -> int:
        return hash(self.source)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Definition) and other.source == self.source


def encode_once(encode: Callable[[Tool, *_Rest], _Encoded]) -> Callable[[Tool, *_Rest], _Encoded]:
    """Return `encode` with a memory of what it gave for tools of the same source and the same further arguments."""

    @functools.lru_cache(maxsize=_KEPT)
    def encode_kept(definition: _Definition, *rest: *_Rest) -> _Encoded:
        return encode(definition.tool, *rest)

    def encode_tool(tool: Tool, *rest: *_Rest) -> _Encoded:
        if len(tool.source) > _LONGEST:
            return encode(tool, *rest)
        return encode_kept(_Definition(tool), *rest)

    return encode_tool


def encode_list_once(
    encode: Callable[[Sequence[Tool], *_Rest], _Encoded],
) -> Callable[[Sequence[Tool], *_Rest], _Encoded]:
    """Return `encode` with a memory of what it gave for a whole list of tools that comes again.

    What it gives is shared between requests.
    """
    encode_kept = functools.lru_cache(maxsize=_LISTS_KEPT)(encode)

    def encode_list(tools: Sequence[Tool], *rest: *_Rest) -> _Encoded:
        return encode_kept(tools, *rest) if isinstance(tools, ToolList) else encode(tools, *rest)

    return encode_list


def describe(tool: Tool, *more: str) -> str:
    """Return a tool's description, then `more`, then its examples of input, which no other language has a field for."""
    examples = bytes(tool.input_examples)
    shown = ""
    if examples not in (b"", b"[]", b"null"):
        shown = f"Examples of input: {msgspec.json.format(examples, indent=-1).decode()}"
    return "\n\n".join(filter(None, (tool.description, *more, shown)))


def find_strictness(tool: Tool, *, qualifies: bool, says_strict: bool) -> tuple[bool, tuple[str, ...]]:
    """Return whether to ask for strict mode, and in words why not where the client wants it.

    `qualifies`: the cleaned schema obeys it. `says_strict`: the server has it.
    """
    if not tool.strict or (qualifies and says_strict):
        return bool(tool.strict), ()
    why = "the schema has what strict mode refuses" if says_strict else "the server has no strict mode"
    return False, (f"strict was not asked for: {why}",)
