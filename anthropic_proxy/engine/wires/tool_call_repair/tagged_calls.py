"""Tool calls as elements between tags, with their parameters as elements inside: strict, and with missing end tags.

    <function=Read>
    <parameter=path>
    a.py
    </parameter>
    </function>

A value is any text, also one that looks like a tag, so the strict reader ends it only at an end tag that another tag of
the format follows. Models forget end tags. A value then seems to contain the next parameter, which would be a wrong
call: the strict reader rejects such a value. At the end of the reply, `read_open_calls` reads the whole text again:
each value ends where the next tag of the format begins. It accepts only a text that consists of such calls from its
first to its last character, and ends with an end tag. All else stays text.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from anthropic_proxy.engine.patterns import AnchoredPattern, compile_anchored, compile_later
from anthropic_proxy.engine.wires.tool_call_repair.calls import OfferedTools, RecoveredCall


class Tags(Struct, frozen=True):
    """The tags of one format. The first group of `parameter` and `inner_tag` is the name of a parameter."""

    begin: AnchoredPattern[str]
    """Start tag of a call, with the group `name`."""
    end: AnchoredPattern[str]
    parameter: AnchoredPattern[str]
    parameter_end: re.Pattern[str]
    """End tag of a parameter, if another tag of the format or the end of the text follows."""
    tag: re.Pattern[str]
    """Any tag of the format. Groups: `parameter` and `call` are the names in start tags, `closed` and `ended` are the
    end tags of both."""


FUNCTIONS = Tags(
    compile_anchored(r"\s*<function=(?P<name>[^<>\s]+)>"),
    compile_anchored(r"\s*</function>"),
    compile_anchored(r"\s*<parameter=([^<>]+)>"),
    compile_later(r"</parameter>(?=\s*(?:<parameter=|</function>|\Z))"),
    compile_later(
        r"(?P<closed></parameter>)|<parameter=(?P<parameter>[^<>]+)>|<function=(?P<call>[^<>\s]+)>|(?P<ended></function>)"
        r"|</?(?:seed:)?tool_call>"
    ),
)
INVOKES = Tags(
    compile_anchored(r'\s*<(?:｜DSML｜)?invoke name="(?P<name>[^"<>]+)"\s*>'),
    compile_anchored(r"\s*</(?:｜DSML｜)?invoke>"),
    compile_anchored(r'\s*<(?:｜DSML｜)?parameter name="([^"<>]+)"[^<>]*>'),
    compile_later(r"</(?:｜DSML｜)?parameter>(?=\s*(?:<(?:｜DSML｜)?parameter name=|</(?:｜DSML｜)?invoke>|\Z))"),
    compile_later(
        r'(?P<closed></(?:｜DSML｜)?parameter>)|<(?:｜DSML｜)?parameter name="(?P<parameter>[^"<>]+)"[^<>]*>'
        r'|<(?:｜DSML｜)?invoke name="(?P<call>[^"<>]+)"\s*>|(?P<ended></(?:｜DSML｜)?invoke>)'
        r"|</?(?:function_calls|minimax:tool_call|｜DSML｜(?:function|tool)_calls|tool_calls?)>"
    ),
)
KEYS = Tags(
    compile_anchored(r"\s*<tool_call>\s*(?P<name>[^<>\s]+)(?=\s*<)"),
    compile_anchored(r"\s*</tool_call>"),
    compile_anchored(r"\s*<arg_key>([^<>]*)</arg_key>\s*<arg_value>"),
    compile_later(r"</arg_value>(?=\s*(?:<arg_key>|\Z))"),
    compile_later(
        r"(?P<closed></arg_value>)|<arg_key>(?P<parameter>[^<>]*)</arg_key>\s{0,8}<arg_value>"
        r"|<tool_call>\s*(?P<call>[^<>\s]+)(?=\s*<)|(?P<ended></tool_call>)"
    ),
)
_WRAPPER = compile_anchored(r"\s*</?(?:(?:seed:|minimax:)?tool_calls?|function_calls|｜DSML｜(?:function|tool)_calls)>")
_LAST_TAG = compile_later(r"</[^<>\s]{1,40}>\s*\Z", most=80)
_INDENTATION = compile_later(r"\n[ \t]*\Z", most=200)
_MAX_LAST_TAG = 80


def read_elements(
    text: str, position: int, tags: Tags, offered: OfferedTools
) -> tuple[list[RecoveredCall], int] | None:
    """Return the calls at index `position`, and the index after them.

    None: a tag is missing, or a tool was not offered.
    """
    calls: list[RecoveredCall] = []
    while begin := tags.begin.match(text, position):
        name = offered.find_tool_name(begin["name"])
        read = read_parameters(text, begin.end(), tags, offered, name) if name is not None else None
        if name is None or read is None or (end := tags.end.match(text, read[1])) is None:
            return None
        calls.append(RecoveredCall(name, read[0]))
        position = end.end()
    return calls, position


def read_parameters(text: str, position: int, tags: Tags, offered: OfferedTools, name: str) -> tuple[str, int] | None:
    """Return the parameters at index `position` of the tool `name` as JSON text of an object, and the index after them.

    None: an end tag is missing.
    """
    properties = offered.schema_properties(name)
    given: dict[str, Any] = {}
    while begin := tags.parameter.match(text, position):
        end = tags.parameter_end.search(text, begin.end())
        if end is None:
            return None
        value = text[begin.end() : end.start()]
        if _hides_tags(value, tags, {*properties} - {*given}, offered):
            return None
        _give(given, begin[1].strip(), value, properties)
        position = end.end()
    return msgspec.json.encode(given).decode(), position


def _hides_tags(value: str, tags: Tags, names: set[str], offered: OfferedTools) -> bool:
    """Return True if a tag in a value can be meant as such: a start tag of the tool's parameters or of an offered tool,
    unless all start tags of the value have their end tags in the right order, as an example has them.
    """
    opened: list[str] = []  # groups of the end tags that are expected
    is_meant = is_wrong = False
    for tag in tags.tag.finditer(value):
        kind = tag.lastgroup
        if kind == "parameter":
            is_meant |= tag["parameter"].strip() in names
            opened.append("closed")
        elif kind == "call":
            is_meant |= offered.find_tool_name(tag["call"]) is not None
            opened.append("ended")
        elif kind is not None and opened:
            is_wrong |= opened.pop() != kind
    return is_meant and (is_wrong or bool(opened))


def read_open_calls(tags: Tags, text: str, offered: OfferedTools) -> list[RecoveredCall] | None:
    """Return the calls of a whole text, in which end tags may be missing.

    None: it has other content, or does not end with an end tag.
    """
    if not _LAST_TAG.search(text[-_MAX_LAST_TAG:]):
        return None
    calls: list[RecoveredCall] = []
    position = _skip(text, 0, tags)
    while begin := tags.begin.match(text, position):
        name = offered.find_tool_name(begin["name"])
        read = None if name is None else _read_open_parameters(text, begin.end(), tags, offered, name)
        if name is None or read is None:
            return None
        calls.append(RecoveredCall(name, read[0]))
        end = tags.end.match(text, read[1])
        position = _skip(text, read[1] if end is None else end.end(), tags)
    return calls if calls and not text[position:].strip() else None


def _skip(text: str, position: int, tags: Tags) -> int:
    """Return the index of the next start tag of a call, behind tags that only enclose calls."""
    while not tags.begin.match(text, position) and (wrapper := _WRAPPER.match(text, position)):
        position = wrapper.end()
    return position


def _read_open_parameters(
    text: str, position: int, tags: Tags, offered: OfferedTools, name: str
) -> tuple[str, int] | None:
    properties = offered.schema_properties(name)
    given: dict[str, Any] = {}
    while begin := tags.parameter.match(text, position):
        key = begin[1].strip()
        if key in given or (properties and key not in properties):
            return None
        end = tags.tag.search(text, begin.end())
        if end is None or not _is_expected(end, {*properties} - {*given, key}, offered):
            return None
        value = text[begin.end() : end.start()]
        is_closed = end["closed"] is not None
        _give(given, key, value if is_closed else _INDENTATION.sub("\n", value), properties)
        position = end.end() if is_closed else end.start()
    return msgspec.json.encode(given).decode(), position


def _is_expected(tag: re.Match[str], names: set[str], offered: OfferedTools) -> bool:
    """Return False for the start tag of a parameter that the tool does not have, and of a call of no offered tool."""
    if tag["parameter"] is not None:
        return tag["parameter"].strip() in names
    return tag["call"] is None or offered.find_tool_name(tag["call"]) is not None


def _give(given: dict[str, Any], name: str, value: str, properties: Mapping[str, Any]) -> None:
    """Add the value of a parameter, without a line break at its start and end."""
    given[name] = _typed(value.removeprefix("\n").removesuffix("\n"), properties.get(name))


def _typed(value: str, schema: Any) -> Any:
    """Return the value of a parameter in the JSON type that its schema requires. `value`: the text of the model.

    The text itself is returned if there is no schema, the schema allows a string, or the text is no JSON value.
    """
    if not isinstance(schema, dict) or schema.get("type") in ("string", ["string"]):
        return value
    kinds = schema.get("type")
    if not isinstance(kinds, list):
        kinds = [kinds] if isinstance(kinds, str) else []
    literal = {"True": "true", "False": "false", "None": "null"}.get(value.strip(), value)
    try:
        read = msgspec.json.decode(literal)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return value
    return value if "string" in kinds and read is not None else read
