"""Tool calls as elements between tags, with their parameters as elements inside: strict, and with missing end tags.

    <function=Read>
    <parameter=path>
    a.py
    </parameter>
    </function>

A value is any text, also one that looks like a tag. The strict reader, which runs while the reply arrives, ends a value
at the first end tag that no start tag inside of the value needs, if another tag of the format follows.

A start tag without its end tag in a value has two possible reasons: it is text (`grep '<parameter=path>'`), or the
model forgot an end tag before it. `read_last_calls` decides at the end of the reply, when the whole text is known. It
reads the text twice: complete, where such a tag is text, and open, where a value ends at the next tag of the format. If
both are possible, the call stays text, unless only the open reading has all required parameters, or the parameters
that it has more are no strings and have the type of their schema.
"""

import re
from collections.abc import Callable, Mapping, Sequence
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
    compile_anchored(r'\s*<(?:[｜|]DSML[｜|])?invoke name="(?P<name>[^"<>]+)"\s*>'),
    compile_anchored(r"\s*</(?:[｜|]DSML[｜|])?invoke>"),
    compile_anchored(r'\s*<(?:[｜|]DSML[｜|])?parameter name="([^"<>]+)"[^<>]*>'),
    compile_later(
        r"</(?:[｜|]DSML[｜|])?parameter>(?=\s*(?:<(?:[｜|]DSML[｜|])?parameter name=|</(?:[｜|]DSML[｜|])?invoke>|\Z))"
    ),
    compile_later(
        r"(?P<closed></(?:[｜|]DSML[｜|])?parameter>)"
        r'|<(?:[｜|]DSML[｜|])?parameter name="(?P<parameter>[^"<>]+)"[^<>]*>'
        r'|<(?:[｜|]DSML[｜|])?invoke name="(?P<call>[^"<>]+)"\s*>|(?P<ended></(?:[｜|]DSML[｜|])?invoke>)'
        r"|</?(?:function_calls|minimax:tool_call|[｜|]DSML[｜|](?:function|tool)_calls|tool_calls?)>"
    ),
)
KEYS = Tags(
    compile_anchored(r"\s*<tool_call>\s*(?P<name>[^<>\s]+)(?=\s*<)"),
    compile_anchored(r"\s*</tool_call>"),
    compile_anchored(r"\s*<arg_key>([^<>]*)</arg_key>\s*<arg_value>"),
    compile_later(r"</arg_value>(?=\s*(?:<arg_key>|</tool_call>|\Z))"),
    compile_later(
        r"(?P<closed></arg_value>)|<arg_key>(?P<parameter>[^<>]*)</arg_key>\s{0,8}<arg_value>"
        r"|<tool_call>\s*(?P<call>[^<>\s]+)(?=\s*<)|(?P<ended></tool_call>)"
    ),
)
XTML = Tags(
    compile_anchored(r'\s*<\|open\|>call tool="(?P<name>[^"<>]+)"[^<>]*<\|sep\|>'),
    compile_anchored(r"\s*<\|close\|>call<\|sep\|>"),
    compile_anchored(r'\s*<\|open\|>argument key="([^"<>]+)"[^<>]*<\|sep\|>'),
    compile_later(r"<\|close\|>argument<\|sep\|>(?=\s*(?:<\|open\|>argument key=|<\|close\|>call<\|sep\|>|\Z))"),
    compile_later(
        r'(?P<closed><\|close\|>argument<\|sep\|>)|<\|open\|>argument key="(?P<parameter>[^"<>]+)"[^<>]*<\|sep\|>'
        r'|<\|open\|>call tool="(?P<call>[^"<>]+)"[^<>]*<\|sep\|>|(?P<ended><\|close\|>call<\|sep\|>)'
        r"|<\|(?:open|close)\|>tools<\|sep\|>"
    ),
)
_WRAPPER = compile_anchored(
    r"\s*</?(?:(?:seed:|minimax:)?tool_calls?|function_calls|[｜|]DSML[｜|](?:function|tool)_calls)>"
)
_LAST_TAG = compile_later(r"</[^<>\s]{1,40}>\s*\Z", most=80)
_END_TAG = compile_later(r"</[^<>\s]{1,40}>")
_MAX_LAST_TAG = 80
_MAX_INDENTATION = 200


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
        end = _find_end(text, begin.end(), tags)
        if end is None:
            return None
        _give(given, begin[1].strip(), text[begin.end() : end.start()], properties)
        position = end.end()
    return msgspec.json.encode(given).decode(), position


def _find_end(text: str, position: int, tags: Tags) -> re.Match[str] | None:
    """Return the end tag of the value at index `position`. Start tags inside of the value have their end tags."""
    opened: list[re.Match[str]] = []
    for tag in tags.tag.finditer(text, position):
        if not opened and tag.lastgroup == "closed" and tags.parameter_end.match(text, tag.start()):
            return tag
        _follow(opened, tag)
    return None


_ENDS = {"parameter": "closed", "call": "ended"}


def _follow(opened: list[re.Match[str]], tag: re.Match[str]) -> None:
    """Add a start tag to the open ones, or remove the one that an end tag ends. Other end tags are text."""
    if tag.lastgroup in _ENDS:
        opened.append(tag)
    elif opened and _ENDS[opened[-1].lastgroup or ""] == tag.lastgroup:
        opened.pop()


class _ReadCall(Struct):
    name: str
    given: dict[str, Any]


class _Missing(Struct, frozen=True):
    """The parameters of a tool that a call does not have. It is no set, because a tool may have many parameters."""

    properties: Mapping[str, Any]
    given: Mapping[str, Any]
    key: str = ""
    """A parameter that the call has too."""

    def __contains__(self, name: object) -> bool:
        return name in self.properties and name not in self.given and name != self.key


_ReadValue = Callable[[str, int, Tags, _Missing, OfferedTools], tuple[str, int] | None]
"""Function that returns the value at an index of a text, and the index after it and its end tag. The parameters are
those that may follow. None: there is no value in this reading."""


def begins_call(tags: Tags, text: str, offered: OfferedTools) -> bool:
    """Return True if a text begins with a call of an offered tool and its first parameter, so that all tags behind can
    be text of its parameters.
    """
    begin = tags.begin.match(text, _skip(text, 0, tags))
    is_offered = begin is not None and offered.find_tool_name(begin["name"]) is not None
    return begin is not None and is_offered and tags.parameter.match(text, begin.end()) is not None


def read_last_calls(
    tags: Tags, text: str, offered: OfferedTools, *, is_end_of_reply: bool = True
) -> list[RecoveredCall] | None:
    """Return the calls of a whole text, in which end tags may be missing, or values have start tags as text.

    None: it has other content, does not end with an end tag, or can have two meanings. `is_end_of_reply`: False if
    other text of the reply follows, so that no end tag may be missing.
    """
    if not _LAST_TAG.search(text[-_MAX_LAST_TAG:]):
        return None
    open_calls = _read_calls(text, tags, offered, _read_open_value)
    complete = _read_calls(text, tags, offered, _read_complete_value)
    if complete is None or (open_calls is not None and _is_better(open_calls, complete, tags, offered)):
        calls = open_calls if is_end_of_reply else None
    elif open_calls is not None or any(_may_hide_tags(call, tags, offered) for call in complete):
        calls = None
    else:
        calls = complete
    return [RecoveredCall(call.name, msgspec.json.encode(call.given).decode()) for call in calls] if calls else None


def _has_tag_in_line(call: _ReadCall, tags: Tags) -> bool:
    texts = (value for value in call.given.values() if isinstance(value, str))
    return any(
        tag.lastgroup in _ENDS and not _begins_line(text, tag.start())
        for text in texts
        for tag in tags.tag.finditer(text)
    )


def _is_better(
    open_calls: Sequence[_ReadCall], complete: Sequence[_ReadCall], tags: Tags, offered: OfferedTools
) -> bool:
    """Return True if the parameters themselves show that start tags in values are meant as such."""
    if [call.name for call in open_calls] != [call.name for call in complete]:
        return False
    for call, whole in zip(open_calls, complete, strict=True):
        properties = offered.schema_properties(call.name)
        is_usable = offered.required_properties(call.name) <= whole.given.keys()
        more = call.given.keys() - whole.given.keys()
        if is_usable and (any(_may_be_text(properties.get(key)) for key in more) or _has_tag_in_line(whole, tags)):
            return False
    return True


def _may_hide_tags(call: _ReadCall, tags: Tags, offered: OfferedTools) -> bool:
    """Return True if a start tag in a value can be meant as such: on a line of its own, or with the end tags that the
    complete reading takes for those of the call.
    """
    missing = _Missing(offered.schema_properties(call.name), call.given)
    for value in call.given.values():
        opened: list[re.Match[str]] = []
        for tag in tags.tag.finditer(value) if isinstance(value, str) else ():
            _follow(opened, tag)
        if [tag.lastgroup for tag in opened[-2:]] == ["call", "parameter"]:
            return True
        if any(_begins_line(value, tag.start()) and _is_expected(tag, missing, offered) for tag in opened):
            return True
    return False


def _begins_line(text: str, position: int) -> bool:
    """Return True if only spaces stand between a line break, or the start of the text, and index `position`."""
    before = text[max(0, position - _MAX_INDENTATION) : position].rstrip(" \t")
    return before.endswith("\n") or (position <= _MAX_INDENTATION and not before)


def _read_calls(text: str, tags: Tags, offered: OfferedTools, read_value: _ReadValue) -> list[_ReadCall] | None:
    """Return the calls of a whole text. None: it has other content."""
    calls: list[_ReadCall] = []
    position = _skip(text, 0, tags)
    while begin := tags.begin.match(text, position):
        name = offered.find_tool_name(begin["name"])
        given: dict[str, Any] = {}
        after = (
            None
            if name is None
            else _read_given(text, begin.end(), tags, offered, name=name, given=given, read_value=read_value)
        )
        if name is None or after is None:
            return None
        calls.append(_ReadCall(name, given))
        end = tags.end.match(text, after)
        if end is None and read_value is _read_complete_value:
            return None
        position = _skip(text, after, tags) if end is None else _skip(text, end.end(), tags, end[0].strip())
    return calls if calls and not text[position:].strip() else None


def _read_given(
    text: str,
    position: int,
    tags: Tags,
    offered: OfferedTools,
    *,
    name: str,
    given: dict[str, Any],
    read_value: _ReadValue,
) -> int | None:
    """Add the parameters at index `position` to `given`. Return the index after them."""
    properties = offered.schema_properties(name)
    while begin := tags.parameter.match(text, position):
        key = begin[1].strip()
        if key in given or (properties and key not in properties):
            return None
        read = read_value(text, begin.end(), tags, _Missing(properties, given, key), offered)
        if read is None:
            return None
        _give(given, key, read[0], properties)
        if read_value is _read_open_value and not _has_type(given[key], properties.get(key)):
            return None
        position = read[1]
    return position


def _read_complete_value(
    text: str, position: int, tags: Tags, missing: _Missing, offered: OfferedTools
) -> tuple[str, int] | None:
    end = tags.parameter_end.search(text, position)
    return (text[position : end.start()], end.end()) if end is not None else None


def _read_open_value(
    text: str, position: int, tags: Tags, missing: _Missing, offered: OfferedTools
) -> tuple[str, int] | None:
    tag = tags.tag.search(text, position)
    if tag is None or not _is_expected(tag, missing, offered):
        return None
    value = text[position : tag.start()]
    if tag.lastgroup == "closed":
        return value, tag.end()
    if not value or value.isspace():
        return None
    if not _begins_line(text, tag.start()) and not (
        (tag.lastgroup == "parameter" and "\n" not in value) or _is_end(text, tag.start())
    ):
        return None
    head = value.rstrip(" \t")
    return (head if head.endswith("\n") else value), tag.start()


def _is_end(text: str, position: int) -> bool:
    """Return True if only end tags follow, each once."""
    rest = text[position:][: 8 * _MAX_LAST_TAG + 1]
    ends = _END_TAG.findall(rest)
    return len(rest) <= 8 * _MAX_LAST_TAG and len({*ends}) == len(ends) and not _END_TAG.sub("", rest).strip()


def _skip(text: str, position: int, tags: Tags, last: str = "") -> int:
    """Return the index of the next start tag of a call, behind tags that only enclose calls, each once. `last`: the tag
    before index `position`.
    """
    skipped = {last}
    while not tags.begin.match(text, position) and (wrapper := _WRAPPER.match(text, position)):
        if (name := wrapper[0].strip()) in skipped:
            break
        skipped.add(name)
        position = wrapper.end()
    return position


def _is_expected(tag: re.Match[str], missing: _Missing, offered: OfferedTools) -> bool:
    """Return False for the start tag of a parameter that the tool does not have, and of a call of no offered tool."""
    if tag["parameter"] is not None:
        return tag["parameter"].strip() in missing
    return tag["call"] is None or offered.find_tool_name(tag["call"]) is not None


def _give(given: dict[str, Any], name: str, value: str, properties: Mapping[str, Any]) -> None:
    """Add the value of a parameter, without a line break at its start and end."""
    given[name] = typed_value(value.removeprefix("\n").removesuffix("\n"), properties.get(name))


def typed_value(value: str, schema: Any) -> Any:
    """Return the value of a parameter in the JSON type that its schema requires. `value`: the text of the model.

    The text itself is returned if there is no schema, the schema allows a string, or the text is no JSON value.
    """
    kinds = schema_types(schema)
    if not isinstance(schema, dict) or kinds == ["string"]:
        return value
    literal = {"True": "true", "False": "false", "None": "null"}.get(value.strip(), value)
    try:
        read = msgspec.json.decode(literal)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return value
    return value if "string" in kinds and read is not None else read


def schema_types(schema: Any) -> list[Any]:
    """Return the JSON types that a schema names. Empty: it names none."""
    kinds = schema.get("type") if isinstance(schema, dict) else None
    return kinds if isinstance(kinds, list) else [kinds] if isinstance(kinds, str) else []


def _may_be_text(schema: Any) -> bool:
    kinds = schema_types(schema)
    return not kinds or "string" in kinds


_TYPES: dict[Any, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def _has_type(value: Any, schema: Any) -> bool:
    """Return True if a value has a type that its schema names, or the schema names none or a string."""
    return _may_be_text(schema) or any(
        type(value) in _TYPES.get(kind, ()) for kind in schema_types(schema) if isinstance(kind, str)
    )
