"""Readers of tool calls that a model wrote in its reply text as Python, `name(key="value")`.

The Python code is parsed but never run. Each reader returns the calls, or None for text of another format.
"""

import ast
import re
import warnings
from typing import Any

import msgspec

from anthropic_proxy.wire.tool_call_repair.json_calls import RecoveredCall, read_json_calls
from anthropic_proxy.wire.tool_call_repair.offered_tools import OfferedTools

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
