"""Readers of tool calls that a model wrote in its reply text as JSON objects with a name and arguments.

`read_json_calls` returns the calls as `RecoveredCall` objects. `resolve_call` checks name and arguments of one call.
`find_value_end` finds the end of a JSON value. The offered tools are the client tools of the request. A marker is a
text such as `<tool_call>` around a call.
"""

import json
import re

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.wire.tool_call_repair.arguments import is_json_object, repair_arguments
from anthropic_proxy.wire.tool_call_repair.offered_tools import OfferedTools

_ABSENT = Raw(b"")
_SEPARATORS = re.compile(r"[ \t\r\n,;]*")
_scan = json.JSONDecoder(strict=False).raw_decode


class RecoveredCall(Struct, frozen=True):
    """A tool call that the model wrote in its reply text. Its name and arguments were checked."""

    name: str
    """Name of the called tool, as in the client request."""
    arguments: str
    """Arguments of the call: JSON text of an object. Valid JSON of the model is unchanged."""


class _Written(Struct):
    """JSON fields of a tool call as the model wrote it. Some models put them into an object `function`."""

    name: str | None = None
    function: Raw = _ABSENT
    arguments: Raw = _ABSENT
    parameters: Raw = _ABSENT


_decode = msgspec.json.Decoder(_Written).decode


def read_json_calls(text: str, offered: OfferedTools, *, without_markers: bool = False) -> list[RecoveredCall] | None:
    """Return the tool calls of a text that consists only of JSON objects, each of which is a call.

    None: the text has other content, an object is no valid call, or the client request has no such tool.
    """
    objects = _split(text.strip())
    # Without markers, invalid JSON is not repaired, and each object must have arguments.
    if objects is None and not without_markers and (mended := repair_arguments(text, between_markers=True)):
        objects = [mended]
    calls = [_read_object(part, offered, without_markers=without_markers) for part in objects or ()]
    found = [call for call in calls if call is not None]
    return found if found and len(found) == len(calls) else None


def resolve_call(name: str, arguments: str, offered: OfferedTools) -> RecoveredCall | None:
    """Return the tool call for a name and arguments that a model wrote.

    None: the client offers no such tool, or the repair of the arguments failed.
    """
    known = offered.find_tool_name(name)
    arguments = arguments.strip() or "{}"
    if known is not None and not is_json_object(arguments):
        arguments = repair_arguments(arguments, between_markers=True) or ""
    return RecoveredCall(known, arguments) if known is not None and arguments else None


def find_value_end(text: str, start: int) -> int | None:
    """Return the index after the JSON value that begins at index `start`. None: no complete value."""
    try:
        _, end = _scan(text, start)
    except (ValueError, RecursionError):
        return None
    return end


def _split(text: str) -> list[str] | None:
    """Return the JSON text of each value in a JSON list, or in a sequence of values.

    None: the text has other content.
    """
    if text.startswith("["):
        try:
            return [bytes(part).decode() for part in msgspec.json.decode(text, type=list[Raw])]
        except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
            return None
    parts: list[str] = []
    position = 0
    while position < len(text):
        end = find_value_end(text, position)
        if end is None:
            return None
        parts.append(text[position:end])
        gap = _SEPARATORS.match(text, end)
        position = gap.end() if gap else end
    return parts


def _read_object(text: str, offered: OfferedTools, *, without_markers: bool) -> RecoveredCall | None:
    try:
        written = _decode(text)
        if (function := bytes(written.function)).startswith(b"{"):
            written = _decode(function)
        name = written.name or (msgspec.json.decode(function, type=str) if function.startswith(b'"') else "")
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return None
    arguments = bytes(written.arguments) or bytes(written.parameters)
    if (without_markers and not arguments) or not name:
        return None
    return resolve_call(name, "" if arguments == b"null" else arguments.decode(), offered)
