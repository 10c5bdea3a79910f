"""Table of the text formats in which models write tool calls: start marker, end marker and readers of each format.

A start marker is a text such as `<tool_call>` at the start of a call. `StartMarker` has its properties. A
`ToolCallReader` is a function that parses the text of a call. `build_format_markers` returns the markers of several
formats as `FormatMarkers`, for the search in streamed text. Some models write calls without markers (unmarked calls),
in a reply that contains nothing else. `can_be_unmarked_calls` checks the beginning of a reply for such calls, and
`read_unmarked_calls` parses the complete reply.
"""

import ast
import functools
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import msgspec
from msgspec import Struct

from anthropic_proxy.wire.tool_call_repair.json_calls import RecoveredCall, read_json_calls
from anthropic_proxy.wire.tool_call_repair.offered_tools import OfferedTools
from anthropic_proxy.wire.tool_call_repair.tagged_calls import (
    read_deepseek_calls,
    read_function_json,
    read_function_tags,
    read_harmony_call,
    read_invoke_calls,
    read_key_value_call,
    read_kimi_calls,
    read_mistral_calls,
    read_tagged_json,
)

_TAG = "<|python_tag|>"
_FENCE = re.compile(r"\A```tool_code[ \t]*\n(.*?)\n?(?:```)?\Z", re.DOTALL)
_PRINTS = "print"
"""Name of the Python function that may enclose a call. `print(name(x=1))` is the call `name(x=1)`."""
_MAX_CHARACTERS = 64 * 1024
"""Maximum number of characters of a text that is parsed as Python. Longer text is not a call."""

_FILE_NAME = "<reply text>"
"""Name of the parsed text in warnings.

It is also the pattern of the filter, so it has no special character of regular expressions.
"""
_FILTER = ("ignore", None, Warning, re.compile(_FILE_NAME), 0)
"""Element of `warnings.filters` that ignores all warnings about the parsed text."""


def read_python_tag(text: str, offered: OfferedTools) -> list[RecoveredCall] | None:
    """Return the calls of `<|python_tag|>{"name": …, "parameters": {…}}` or of `<|python_tag|>name.call(…)`.

    Several JSON objects are separated by `;`. Written by Llama 3.1 (`llama3_1/prompt_format.md`; vLLM's
    `llama_tool_parser`).
    """
    body = text.removeprefix(_TAG)
    return read_json_calls(body, offered) or read_python_calls(body, offered)


def read_tool_code(text: str, offered: OfferedTools) -> list[RecoveredCall] | None:
    """Return the Python calls in a code fence named `tool_code`, with or without `print(…)` around each call.

    Written by Gemma and Gemini ("Function calling with Gemma"; Gemini's namespace `default_api`).
    """
    fenced = _FENCE.match(text)
    return read_python_calls(fenced[1], offered) if fenced else None


def read_python_calls(text: str, offered: OfferedTools) -> list[RecoveredCall] | None:
    """Return the tool calls in `text`, Python code with one call per line or with a list of calls (`[a(x=1), b()]`).

    None: the text has another format. The models Llama 3.2 and 4 write this format, which is named "pythonic".
    """
    # Arguments must be keywords with literal values.
    if len(text) > _MAX_CHARACTERS:
        return None
    try:
        _ignore_warnings()
        tree = ast.parse(text.strip(), filename=_FILE_NAME)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    calls: list[RecoveredCall] = []
    for statement in tree.body:
        if not isinstance(statement, ast.Expr):
            return None
        value = statement.value
        for node in value.elts if isinstance(value, ast.List) else [value]:
            call = _read_call(node, offered)
            if call is None:
                return None
            calls.append(call)
    return calls or None


def _ignore_warnings() -> None:
    """Ignore warnings about a reply text, such as those about a backslash without a valid escape."""
    # `catch_warnings` would restore outdated filters if another thread also uses it
    if list(warnings.filters[:1]) != [_FILTER]:
        warnings.filterwarnings("ignore", module=_FILE_NAME)  # moves the filter to the front


def _read_call(node: ast.expr, offered: OfferedTools) -> RecoveredCall | None:
    if not isinstance(node, ast.Call):
        return None
    written = ast.unparse(node.func)
    if written == _PRINTS and len(node.args) == 1 and not node.keywords:
        return _read_call(node.args[0], offered)
    name = offered.find_tool_name(written) or offered.find_tool_name(written.removesuffix(".call"))
    if name is None or node.args:
        return None
    given: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            return None
        try:
            given[keyword.arg] = ast.literal_eval(keyword.value)
            msgspec.json.encode(given)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, OverflowError):
            return None
    return RecoveredCall(name, msgspec.json.encode(given).decode())


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
"""Names of the text formats. The docstring of each reader function shows the format and its source. `bare_json` and
`bare_python` have no markers, and the reply consists only of calls. Examples: `{"name": …, "parameters": {…}}` (Llama
3.1 and later), `[name(key="value")]` (Llama 3.2 and 4)."""
TOOL_CALL_FORMATS: tuple[ToolCallFormat, ...] = get_args(ToolCallFormat)
"""All text formats, in the order of `ToolCallFormat`."""

ToolCallReader = Callable[[str, OfferedTools], list[RecoveredCall] | None]
"""Function that parses a text from a start marker to an end marker and returns its tool calls. None: another format, or
a tool that was not offered."""


class StartMarker(Struct, frozen=True):
    """Properties of one start marker, a text such as `<tool_call>` at the start of a tool call."""

    end_marker: str
    """End marker of the call. "": the call ends at the end of the reply."""
    readers: tuple[tuple[ToolCallFormat, ToolCallReader], ...]
    """Pairs of a format and its reader. They are tried in this order."""
    requires_name: bool = True
    """True if a tool name or a bracket must follow the marker. Any other text after it is no call."""


class FormatMarkers(NamedTuple):
    """Start and end markers of several tool call formats, with regular expressions to find them in streamed text."""

    start_markers: Mapping[str, StartMarker]
    """Mapping from each start marker to its properties."""
    start_pattern: re.Pattern[str] | None
    """Pattern of all start markers. A marker after a backtick (quoted text) does not match. None: no start markers."""
    dropped_end_markers: frozenset[str]
    """End markers that are removed from the reply text if they follow directly after a call."""
    first_characters: frozenset[str]
    """The first character of each start marker."""
    candidate_pattern: re.Pattern[str]
    """Pattern of the characters at which a marker, a code fence or a line break may begin. Other text needs no
    search."""
    max_marker_length: int
    """Number of characters of the longest start marker. 0: no start markers."""
    marker_prefixes: frozenset[str]
    """All prefixes of the start markers, the complete markers included."""

    def find_partial_marker(self, text: str, offset: int, end: int) -> int:
        """Return the index at which an incomplete start marker at the end of `text` begins.

        The rest of the marker may follow in the next fragment of the reply. Only a marker that begins at `offset` or
        later, and before `end`, is found. If there is none, the length of `text` is returned.
        """
        for start in range(max(offset, len(text) - self.max_marker_length + 1), end):
            if (
                text[start] in self.first_characters
                and (start == 0 or text[start - 1] != "`")
                and text[start:] in self.marker_prefixes
            ):
                return start
        return len(text)


_ROWS: Sequence[tuple[str, str, tuple[tuple[ToolCallFormat, ToolCallReader], ...]]] = (
    (
        "<tool_call>",
        "</tool_call>",
        (
            ("hermes", read_tagged_json),
            ("functions", read_function_tags),
            ("keys", read_key_value_call),
            ("invoke", read_invoke_calls),
        ),
    ),
    ("<function=", "</function>", (("functions", read_function_tags), ("function_json", read_function_json))),
    ("<|python_tag|>", "", (("python_tag", read_python_tag),)),
    ("[TOOL_CALLS]", "", (("listed", read_mistral_calls),)),
    ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", (("section", read_kimi_calls),)),
    ("<|tool_call_begin|>", "<|tool_call_end|>", (("section", read_kimi_calls),)),
    ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", (("barred", read_deepseek_calls),)),
    ("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", (("barred", read_deepseek_calls),)),
    ("```tool_code", "\n```", (("tool_code", read_tool_code),)),
    ("<|channel|>commentary to=", "<|call|>", (("channel", read_harmony_call),)),
    ("<|channel|>analysis to=", "<|call|>", (("channel", read_harmony_call),)),
    ("<|start|>assistant<|channel|>commentary to=", "<|call|>", (("channel", read_harmony_call),)),
    ("<|start|>assistant to=", "<|call|>", (("channel", read_harmony_call),)),
    ("<function_calls>", "</function_calls>", (("invoke", read_invoke_calls),)),
    ("<invoke name=", "</invoke>", (("invoke", read_invoke_calls),)),
    ("<minimax:tool_call>", "</minimax:tool_call>", (("invoke", read_invoke_calls),)),
    ("<｜DSML｜function_calls>", "</｜DSML｜function_calls>", (("invoke", read_invoke_calls),)),
)
_NAMELESS = ("```tool_code", "<｜tool▁call▁begin｜>")
"""Start markers after which another word, such as `print(`, may precede the tool name."""

_KEYS = ("name", "type", "function", "parameters", "arguments", "id")
"""Possible first keys of the JSON object of a call. An unmarked call is recognized by them."""
_IDENTIFIER = re.compile(r"[\w.]*")


def _marks_of(formats: Sequence[ToolCallFormat]) -> Mapping[str, StartMarker]:
    """Return a mapping from start marker to properties, with the readers of the given formats only."""
    marks = {}
    for begin, ending, readers in _ROWS:
        wanted = tuple(reader for reader in readers if reader[0] in formats)
        if wanted:
            marks[begin] = StartMarker(ending, wanted, begin not in _NAMELESS)
    return marks


@functools.lru_cache(maxsize=64)
def build_format_markers(formats: tuple[ToolCallFormat, ...]) -> FormatMarkers:
    """Return the markers of the given text formats."""
    marks = _marks_of(formats)
    firsts = frozenset(begin[0] for begin in marks)
    return FormatMarkers(
        start_markers=marks,
        start_pattern=re.compile("(?<!`)(?:" + "|".join(map(re.escape, marks)) + ")") if marks else None,
        dropped_end_markers=frozenset(
            mark.end_marker for mark in marks.values() if len(mark.end_marker) > len("\n```")
        ),
        first_characters=firsts,
        candidate_pattern=re.compile("[" + re.escape("".join(sorted(firsts | {"`", "~", "\r", "\n"}))) + "]"),
        max_marker_length=max(map(len, marks), default=0),
        marker_prefixes=frozenset(begin[:size] for begin in marks for size in range(1, len(begin) + 1)),
    )


def read_unmarked_calls(
    text: str, formats: Sequence[ToolCallFormat], offered: OfferedTools
) -> tuple[ToolCallFormat, list[RecoveredCall]] | None:
    """Return the format and the tool calls of a complete reply that consists only of calls without markers.

    None: the reply is not in one of `formats`.
    """
    if "bare_json" in formats and (calls := read_json_calls(text, offered, without_markers=True)):
        return "bare_json", calls
    if "bare_python" in formats and text.lstrip().startswith("[") and (calls := read_python_calls(text, offered)):
        return "bare_python", calls
    return None


def can_be_unmarked_calls(text: str, formats: Sequence[ToolCallFormat], offered: OfferedTools) -> bool:
    """Return True if a reply that begins with `text` may consist only of tool calls without markers.

    False: it is ordinary text, or its calls are not in one of `formats`.
    """
    remainder = text.lstrip()
    listed = remainder.startswith("[")
    remainder = remainder.removeprefix("[").lstrip() if listed else remainder
    if not remainder:
        return listed
    if remainder[0] == "{":
        return "bare_json" in formats and _may_be_call_object(remainder[1:].lstrip())
    name = _IDENTIFIER.match(remainder)
    if not listed or "bare_python" not in formats or name is None or not name.group():
        return False
    return name.end() == len(remainder) or (
        remainder[name.end()] == "(" and offered.find_tool_name(name.group()) is not None
    )


def _may_be_call_object(inside: str) -> bool:
    if not inside:
        return True
    key, quote, _ = inside[1:].partition('"')
    return inside[0] == '"' and (key in _KEYS if quote else any(name.startswith(key) for name in _KEYS))
