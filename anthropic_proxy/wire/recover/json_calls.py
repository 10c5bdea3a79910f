"""Calls that a model writes as JSON objects with a name and arguments."""

import json
import re

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.wire.recover.arguments import is_object, mend_arguments
from anthropic_proxy.wire.recover.offered import OfferedTools

_ABSENT = Raw(b"")
_SEPARATORS = re.compile(r"[ \t\r\n,;]*")
_scan = json.JSONDecoder(strict=False).raw_decode


class FoundCall(Struct, frozen=True):
    """A call that was recovered."""

    name: str
    """The client's own name of an offered tool."""
    arguments: str
    """JSON text of an object, as the model wrote it where it could be read so."""


class _Written(Struct):
    """The fields that models use; some put both into an object `function`."""

    name: str | None = None
    function: Raw = _ABSENT
    arguments: Raw = _ABSENT
    parameters: Raw = _ABSENT


_decode = msgspec.json.Decoder(_Written).decode


def read_objects(text: str, offered: OfferedTools, *, bare: bool = False) -> list[FoundCall] | None:
    """Return the calls of a text that is nothing but JSON objects, in a list or side by side; None: it is no such text.

    All must call tools that are offered. `bare`: nothing else marks them as calls, so the arguments must be there.
    """
    objects = _split(text.strip())
    if objects is None and not bare and (mended := mend_arguments(text, alone=True)):
        objects = [mended]
    calls = [_read_object(part, offered, bare=bare) for part in objects or ()]
    found = [call for call in calls if call is not None]
    return found if found and len(found) == len(calls) else None


def read_named(name: str, arguments: str, offered: OfferedTools) -> FoundCall | None:
    """Return the call of a name and the JSON text of its arguments; nothing at all counts as no arguments."""
    known = offered.match(name)
    arguments = arguments.strip() or "{}"
    if known is not None and not is_object(arguments):
        arguments = mend_arguments(arguments, alone=True) or ""
    return FoundCall(known, arguments) if known is not None and arguments else None


def end_of_value(text: str, start: int) -> int | None:
    """Return where the JSON value that begins at `start` ends; None: there is none."""
    try:
        _, end = _scan(text, start)
    except (ValueError, RecursionError):
        return None
    return end


def _split(text: str) -> list[str] | None:
    """Return the objects of a list, or of a sequence of objects, as they were written."""
    if text.startswith("["):
        try:
            return [bytes(part).decode() for part in msgspec.json.decode(text, type=list[Raw])]
        except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
            return None
    parts: list[str] = []
    position = 0
    while position < len(text):
        end = end_of_value(text, position)
        if end is None:
            return None
        parts.append(text[position:end])
        gap = _SEPARATORS.match(text, end)
        position = gap.end() if gap else end
    return parts


def _read_object(text: str, offered: OfferedTools, *, bare: bool) -> FoundCall | None:
    try:
        written = _decode(text)
        if (function := bytes(written.function)).startswith(b"{"):
            written = _decode(function)
        name = written.name or (msgspec.json.decode(function, type=str) if function.startswith(b'"') else "")
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return None
    said = bytes(written.arguments) or bytes(written.parameters)
    if (bare and not said) or not name:
        return None
    return read_named(name, "" if said == b"null" else said.decode(), offered)
