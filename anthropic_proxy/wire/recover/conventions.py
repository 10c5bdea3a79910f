"""How models write calls where a server leaves them in the text: one row a convention."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from msgspec import Struct

from anthropic_proxy.wire.recover.json_calls import FoundCall, read_objects
from anthropic_proxy.wire.recover.offered import OfferedTools
from anthropic_proxy.wire.recover.python_calls import read_calls, read_python_tag, read_tool_code
from anthropic_proxy.wire.recover.tagged_calls import (
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

TextConvention = Literal[
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
"""Names of conventions; the readers' docstrings show each and name its source.

`bare_json` and `bare_python` are no marks but the whole answer: `{"name": …, "parameters": {…}}` (Llama 3.1 and later),
`[name(key="value")]` (Llama 3.2 and 4).
"""
TEXT_CONVENTIONS: tuple[TextConvention, ...] = get_args(TextConvention)

Reader = Callable[[str, OfferedTools], list[FoundCall] | None]


class Mark(Struct, frozen=True):
    """What a call in the text begins with."""

    ending: str
    """What it ends with; empty: with the answer. Where the answer ends first, the mark may be missing."""
    readers: tuple[tuple[TextConvention, Reader], ...]
    """In the order in which they are tried."""
    names: bool = True
    """Whether a tool's name follows at once, unless a bracket does."""


class Signs(NamedTuple):
    """What the conventions of a server make us look for."""

    marks: Mapping[str, Mark]
    pattern: re.Pattern[str] | None
    strays: frozenset[str]
    """Endings that mean nothing where no call is open."""
    firsts: frozenset[str]
    spark: re.Pattern[str]
    """Matches a text that must be looked at: all others pass."""
    longest: int


_ROWS: Sequence[tuple[str, str, tuple[tuple[TextConvention, Reader], ...]]] = (
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
"""Marks after which other words may come first: `print(`, `function`."""

_KEYS = ("name", "type", "function", "parameters", "arguments", "id")
"""With which an object begins that is a call."""
_IDENTIFIER = re.compile(r"[\w.]*")


def _marks_of(conventions: Sequence[TextConvention]) -> Mapping[str, Mark]:
    """Return how a call may begin → its mark, with the readers of these conventions only."""
    marks = {}
    for begin, ending, readers in _ROWS:
        wanted = tuple(reader for reader in readers if reader[0] in conventions)
        if wanted:
            marks[begin] = Mark(ending, wanted, begin not in _NAMELESS)
    return marks


@functools.lru_cache(maxsize=64)
def signs_of(conventions: tuple[TextConvention, ...]) -> Signs:
    """Return what these conventions make us look for; worked out once."""
    marks = _marks_of(conventions)
    firsts = frozenset(begin[0] for begin in marks)
    return Signs(
        marks=marks,
        pattern=re.compile("(?<!`)(?:" + "|".join(map(re.escape, marks)) + ")") if marks else None,
        strays=frozenset(mark.ending for mark in marks.values() if len(mark.ending) > len("\n```")),
        firsts=firsts,
        spark=re.compile("[" + re.escape("".join(sorted(firsts | {"`", "~", "\r", "\n"}))) + "]"),
        longest=max(map(len, marks), default=0),
    )


def read_bare(
    text: str, conventions: Sequence[TextConvention], offered: OfferedTools
) -> tuple[TextConvention, list[FoundCall]] | None:
    """Return the calls that a whole answer is."""
    if "bare_json" in conventions and (calls := read_objects(text, offered, bare=True)):
        return "bare_json", calls
    if "bare_python" in conventions and text.lstrip().startswith("[") and (calls := read_calls(text, offered)):
        return "bare_python", calls
    return None


def may_be_bare(text: str, conventions: Sequence[TextConvention], offered: OfferedTools) -> bool:
    """Whether an answer that begins so may still be calls alone. Once it says no, no longer text changes that."""
    rest = text.lstrip()
    listed = rest.startswith("[")
    rest = rest.removeprefix("[").lstrip() if listed else rest
    if not rest:
        return listed
    if rest[0] == "{":
        return "bare_json" in conventions and _may_be_call_object(rest[1:].lstrip())
    name = _IDENTIFIER.match(rest)
    if not listed or "bare_python" not in conventions or name is None or not name.group():
        return False
    return name.end() == len(rest) or (rest[name.end()] == "(" and offered.match(name.group()) is not None)


def _may_be_call_object(inside: str) -> bool:
    if not inside:
        return True
    key, quote, _ = inside[1:].partition('"')
    return inside[0] == '"' and (key in _KEYS if quote else any(name.startswith(key) for name in _KEYS))
