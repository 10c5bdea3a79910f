"""Text formats of tool calls that servers leave in the text, one row each."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from msgspec import Struct

from anthropic_proxy.wire.tool_call_repair.json_calls import FoundCall, read_objects
from anthropic_proxy.wire.tool_call_repair.offered_tools import OfferedTools
from anthropic_proxy.wire.tool_call_repair.python_calls import read_calls, read_python_tag, read_tool_code
from anthropic_proxy.wire.tool_call_repair.tagged_calls import (
    read_barred,
    read_channel,
    read_function_json,
    read_functions,
    read_invocations,
    read_keys,
    read_listed,
    read_section,
    read_tagged_json,
)

ToolCallFormat = Literal[
    "hermes",
    "functions",
    "function_json",
    "keys",
    "python_tag",
    "listed",
    "section",
    "barred",
    "tool_code",
    "channel",
    "invoke",
    "bare_json",
    "bare_python",
]
"""Names of formats. The docstrings of the readers show each format and its source.

`bare_json` and `bare_python` have no markers, the call is the complete reply: `{"name": …, "parameters": {…}}` (Llama
3.1 and later), `[name(key="value")]` (Llama 3.2 and 4).
"""
TOOL_CALL_FORMATS: tuple[ToolCallFormat, ...] = get_args(ToolCallFormat)

Reader = Callable[[str, OfferedTools], list[FoundCall] | None]


class StartMarker(Struct, frozen=True):
    """Marker at the start of a tool call in the text."""

    ending: str
    """End marker. "": the end of the reply. It may be missing at the end of the reply."""
    readers: tuple[tuple[ToolCallFormat, Reader], ...]
    """Readers in the order of their attempts."""
    names: bool = True
    """True if a tool name or a bracket follows the marker."""


class FormatMarkers(NamedTuple):
    """Markers of the formats that a server may leave in the text."""

    marks: Mapping[str, StartMarker]
    pattern: re.Pattern[str] | None
    strays: frozenset[str]
    """End markers that are dropped if no call is open."""
    firsts: frozenset[str]
    spark: re.Pattern[str]
    """Pattern for text that must be examined. Other text passes."""
    max_length: int
    prefixes: frozenset[str]
    """Prefixes of the markers, complete markers included."""

    def find_partial_mark(self, text: str, offset: int, end: int) -> int:
        """Return the start, before `end`, of a partial marker at the end of a text. Length of the text: no marker."""
        for start in range(max(offset, len(text) - self.max_length + 1), end):
            if text[start] in self.firsts and (start == 0 or text[start - 1] != "`") and text[start:] in self.prefixes:
                return start
        return len(text)


_ROWS: Sequence[tuple[str, str, tuple[tuple[ToolCallFormat, Reader], ...]]] = (
    (
        "<tool_call>",
        "</tool_call>",
        (
            ("hermes", read_tagged_json),
            ("functions", read_functions),
            ("keys", read_keys),
            ("invoke", read_invocations),
        ),
    ),
    ("<function=", "</function>", (("functions", read_functions), ("function_json", read_function_json))),
    ("<|python_tag|>", "", (("python_tag", read_python_tag),)),
    ("[TOOL_CALLS]", "", (("listed", read_listed),)),
    ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", (("section", read_section),)),
    ("<|tool_call_begin|>", "<|tool_call_end|>", (("section", read_section),)),
    ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", (("barred", read_barred),)),
    ("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", (("barred", read_barred),)),
    ("```tool_code", "\n```", (("tool_code", read_tool_code),)),
    ("<|channel|>commentary to=", "<|call|>", (("channel", read_channel),)),
    ("<|channel|>analysis to=", "<|call|>", (("channel", read_channel),)),
    ("<|start|>assistant<|channel|>commentary to=", "<|call|>", (("channel", read_channel),)),
    ("<|start|>assistant to=", "<|call|>", (("channel", read_channel),)),
    ("<function_calls>", "</function_calls>", (("invoke", read_invocations),)),
    ("<invoke name=", "</invoke>", (("invoke", read_invocations),)),
    ("<minimax:tool_call>", "</minimax:tool_call>", (("invoke", read_invocations),)),
    ("<｜DSML｜function_calls>", "</｜DSML｜function_calls>", (("invoke", read_invocations),)),
)
_NAMELESS = ("```tool_code", "<｜tool▁call▁begin｜>")
"""Markers that other words may follow before the name: `print(`, `function`."""

_KEYS = ("name", "type", "function", "parameters", "arguments", "id")
"""First keys of an object that is a call."""
_IDENTIFIER = re.compile(r"[\w.]*")


def _marks_of(conventions: Sequence[ToolCallFormat]) -> Mapping[str, StartMarker]:
    """Return start marker → properties, with the readers of these formats only."""
    marks = {}
    for begin, ending, readers in _ROWS:
        wanted = tuple(reader for reader in readers if reader[0] in conventions)
        if wanted:
            marks[begin] = StartMarker(ending, wanted, begin not in _NAMELESS)
    return marks


@functools.lru_cache(maxsize=64)
def markers_of(conventions: tuple[ToolCallFormat, ...]) -> FormatMarkers:
    """Return the markers of these formats."""
    marks = _marks_of(conventions)
    firsts = frozenset(begin[0] for begin in marks)
    return FormatMarkers(
        marks=marks,
        pattern=re.compile("(?<!`)(?:" + "|".join(map(re.escape, marks)) + ")") if marks else None,
        strays=frozenset(mark.ending for mark in marks.values() if len(mark.ending) > len("\n```")),
        firsts=firsts,
        spark=re.compile("[" + re.escape("".join(sorted(firsts | {"`", "~", "\r", "\n"}))) + "]"),
        max_length=max(map(len, marks), default=0),
        prefixes=frozenset(begin[:size] for begin in marks for size in range(1, len(begin) + 1)),
    )


def read_bare(
    text: str, conventions: Sequence[ToolCallFormat], offered: OfferedTools
) -> tuple[ToolCallFormat, list[FoundCall]] | None:
    """Return the calls of a reply that consists of calls only."""
    if "bare_json" in conventions and (calls := read_objects(text, offered, bare=True)):
        return "bare_json", calls
    if "bare_python" in conventions and text.lstrip().startswith("[") and (calls := read_calls(text, offered)):
        return "bare_python", calls
    return None


def can_be_bare(text: str, conventions: Sequence[ToolCallFormat], offered: OfferedTools) -> bool:
    """Return True if a reply with this beginning may consist of calls only. False is final for any longer text."""
    remainder = text.lstrip()
    listed = remainder.startswith("[")
    remainder = remainder.removeprefix("[").lstrip() if listed else remainder
    if not remainder:
        return listed
    if remainder[0] == "{":
        return "bare_json" in conventions and _may_be_call_object(remainder[1:].lstrip())
    name = _IDENTIFIER.match(remainder)
    if not listed or "bare_python" not in conventions or name is None or not name.group():
        return False
    return name.end() == len(remainder) or (remainder[name.end()] == "(" and offered.match(name.group()) is not None)


def _may_be_call_object(inside: str) -> bool:
    if not inside:
        return True
    key, quote, _ = inside[1:].partition('"')
    return inside[0] == '"' and (key in _KEYS if quote else any(name.startswith(key) for name in _KEYS))
