"""Repair of a tool call: its arguments if they are not a JSON object, and its tool if its name is not an offered one.

The library `json_repair` proposes an object. The proposal is accepted only if it has the same tokens as the model's
text, apart from commas, quote style and closing brackets at the end.
"""

import functools
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from anthropic_proxy.engine.messages.models import Tool
from anthropic_proxy.engine.messages.models.raw_json import replace_lone_escapes
from anthropic_proxy.engine.messages.models.tools import is_client_tool
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.dialect import BaseDialect
from anthropic_proxy.engine.wires.schema_parts import required_names

UNNAMED_TOOL = "unnamed_tool"
"""Tool name in the reply for a call without a name, if its tool cannot be found. A name is necessary, because all
providers reject an empty one in later requests. Clients return an error for the unknown tool, and the model calls
again."""
_ENDING = compile_later(r"(?::\d+)?\s*(?:<[|/\w]|\[ARGS\]).*|:\d+$", re.DOTALL, most=1_000)
"""Pattern of what models append to a tool name: a counter, `functions.Read:0`, tokens of their chat format,
`Read<|channel|>commentary` or `Read</arg_value>` (GLM: Fireworks' python-sdk issue 119), or both (Kimi)."""
_BEGINNING = "[TOOL_CALLS]"
"""Token of Mistral in front of a name."""
_NAMESPACE = compile_anchored(r"[^.:/]*[.:/]")
_MAX_COMPARED = 50_000
"""Maximum number of tools that are compared with all calls without a name of one reply. Each one costs a microsecond on
the event loop; a request may have many thousand tools, and a reply many calls."""
_MAX_NAME_LENGTH = 512
"""Maximum length of a tool name that is searched without its namespaces (`functions.`). Each one costs a lookup."""


class RecoveredCall(Struct, frozen=True):
    """A tool call that the model wrote in its reply text. Its name and arguments were checked."""

    name: str
    """Name of the called tool, as in the client request."""
    arguments: str
    """Arguments of the call: JSON text of an object. Valid JSON of the model is unchanged."""


class _Parameters(Struct, frozen=True):
    """What a tool takes."""

    properties: Mapping[str, Any] = {}
    """Property name → schema."""
    required: frozenset[str] = frozenset()


class OfferedTools:
    """Index of the client's tools in one request. The tool choice `none` offers none, and one that names a tool only
    this one.
    """

    def __init__(self, call: TranslatedCall[BaseDialect]) -> None:
        choice = call.request.tool_choice
        kind = choice.type if choice is not None else "auto"
        loaded = [tool for tools in call.request.loaded_tools.values() for tool in tools]
        self._given = [*call.request.tools, *loaded] if kind != "none" else []
        if choice is not None and kind == "tool":
            self._given = [tool for tool in self._given if tool.name == choice.name]
        self._aliases = call.client_tool_names
        self._parameters: dict[str, _Parameters] = {}
        """Those that were needed: a schema may be large, and a reply may have many calls."""
        self._compared = 0

    def __bool__(self) -> bool:
        """Return True if at least one tool of the client is offered."""
        return any(map(is_client_tool, self._given))

    @functools.cached_property
    def _tools(self) -> dict[str, Tool]:
        return {tool.name: tool for tool in self._given if is_client_tool(tool)}

    def find_tool_name(self, name: str) -> str | None:
        """Return the client's name of the tool that a model calls `name`. None: no tool matches, or several."""
        if name in self._tools:
            return self._aliases.get(name, name)
        if len(name) > _MAX_NAME_LENGTH:
            return None
        # the name without its ending and with ever fewer namespaces (`a.b.c:0`: `a.b.c`, `b.c`, `c`),
        # then with upper and lower case, `-` and `_` equal
        endings = [_ENDING.sub("", name.strip().removeprefix(_BEGINNING).lstrip())]
        while namespace := _NAMESPACE.match(endings[-1]):
            endings.append(endings[-1][namespace.end() :])
        endings = [ending for ending in endings if ending]
        for ending in endings:
            if ending in self._tools:
                return self._aliases.get(ending, ending)
        for ending in endings:
            if found := self._names_by_fold.get(_fold(ending)):
                return next(iter(found)) if len(found) == 1 else None
        return None

    def find_tool_name_by_arguments(self, arguments: str) -> str | None:
        """Return the client's name of the tool for a call without a name. None: no tool fits, or several.

        A single offered tool always fits. Otherwise, the arguments must fit the schema of the tool.
        """
        if len(self._tools) == 1:
            name = next(iter(self._tools))
            return self._aliases.get(name, name)
        try:
            given = msgspec.json.decode(replace_lone_escapes(arguments) or "{}", type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError):
            return None
        self._compared += len(self._tools)
        if self._compared > _MAX_COMPARED:
            return None
        fitting: list[str] = []
        for name in self._tools:
            known = self._parameters_of(name)
            if known.required <= given.keys() <= known.properties.keys():
                fitting.append(name)
        return self._aliases.get(fitting[0], fitting[0]) if len(fitting) == 1 else None

    def required_properties(self, name: str) -> frozenset[str]:
        """Return the names of the properties that a call of a tool must have. `name`: the client's name."""
        return self._parameters_of(self._sent_names.get(name, "")).required

    def schema_properties(self, name: str) -> Mapping[str, Any]:
        """Return the properties in the input schema of a tool: property name → schema. `name`: the client's name.

        Empty: the tool is not offered, or has no properties.
        """
        return self._parameters_of(self._sent_names.get(name, "")).properties

    @functools.cached_property
    def _sent_names(self) -> Mapping[str, str]:
        """The client's name of each tool → the name that the provider has."""
        return {self._aliases.get(name, name): name for name in reversed(self._tools)}

    def _parameters_of(self, name: str) -> _Parameters:
        if (known := self._parameters.get(name)) is None:
            known = self._parameters[name] = _read_parameters(self._tools.get(name))
        return known

    @functools.cached_property
    def _names_by_fold(self) -> dict[str, set[str]]:
        names: dict[str, set[str]] = {}
        for sent_name in self._tools:
            own = self._aliases.get(sent_name, sent_name)
            for spelling in (sent_name, own):
                names.setdefault(_fold(spelling), set()).add(own)
        return names


def _read_parameters(tool: Tool | None) -> _Parameters:
    schema = msgspec.json.decode(tool.input_schema) if tool is not None and tool.input_schema else None
    if not isinstance(schema, dict):
        return _Parameters()
    properties = schema.get("properties")
    return _Parameters(
        properties if isinstance(properties, dict) else {}, frozenset(required_names(schema.get("required")))
    )


def _fold(name: str) -> str:
    return name.casefold().replace("-", "_")


MAX_REPAIRED_CHARACTERS = 64 * 1024
"""Maximum length of arguments that are repaired, in characters. Longer arguments stay unchanged, because a repair takes
up to 0.2 s."""
MAX_REPAIRED_ON_LOOP = 8 * 1024
"""Maximum size of arguments, or of what may have them, that are repaired on the event loop: about 20 ms."""
_MAX_DEPTH = 200
"""Maximum nesting of arguments that are repaired. Deeper text takes the library too much time."""

_TOKEN = compile_anchored(
    r"""
    (?P<space>[\s\ufeff]+)
  | (?P<string>"[^"\\]*(?:\\.[^"\\]*)*" | '[^'\\]*(?:\\.[^'\\]*)*')
  | (?P<number>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![\w.]))
  | (?P<word>[A-Za-z_$][\w$-]*)
  | (?P<mark>[{}\[\]:,])
    """,
    re.VERBOSE | re.DOTALL,
)
_LITERALS: Mapping[str, Any] = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_QUOTED = compile_later(r"""["'{}\[\]]""")
"""Characters that must not stand before or after the JSON object in a text. The object could otherwise be a part of a
larger value."""
_ESCAPE = compile_later(r"\\.|\"", re.DOTALL)
_OPENERS = ("{", "[")
_CLOSERS = ("}", "]")
_COLON = compile_anchored(r"\s*:")
_SPACE = compile_anchored(r"\s*")
_scan = json.JSONDecoder(strict=False).raw_decode


def is_json_object(text: str) -> bool:
    """Return True if a text is exactly one valid JSON object. White space around the object is allowed.

    Clients also read objects with lone surrogates.
    """
    try:
        msgspec.json.decode(replace_lone_escapes(text), type=dict)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return False
    return True


def repair_arguments(text: str, *, between_markers: bool = False) -> str | None:
    """Return the arguments of a tool call as a valid JSON object. None: they cannot be repaired with certainty.

    An unfinished string is never closed, because its end may be missing: the client would write half a file.
    `between_markers`: True if `text` stood between the start and end marker of a call, such as `<tool_call>`.

    >>> repair_arguments('{"path": "a",}')
    '{"path": "a"}'
    """
    text = text.strip().removeprefix("\ufeff")
    if len(text) > MAX_REPAIRED_CHARACTERS:
        return None
    for _ in range(2):  # some models send the object as a JSON string
        if is_json_object(text):
            return text
        if text[:1] != '"':
            break
        try:
            inner = msgspec.json.decode(text, type=str)
        except (msgspec.DecodeError, UnicodeEncodeError):
            break
        if not inner:
            break
        text = inner.strip()
    if between_markers:
        return _repair(text) if text.startswith("{") else None
    begin = text.find("{")
    end = text.rfind("}") + 1
    if begin < 0 or _QUOTED.search(text, 0, begin):
        return None
    if whole := _repair(text[begin:]):
        return whole
    inside = text[begin:end]
    if not inside or _QUOTED.search(text, end):
        return None
    return _find_repeated(inside) or _repair(inside)


def _find_repeated(text: str) -> str | None:
    """Return the JSON text of the only object in a text. The object may be repeated.

    None: the text has other content, or different objects. Empty objects before the object are ignored.
    """
    written = ""
    position = 0
    found = None
    while position < len(text):
        try:
            value, end = _scan(text, position)
        except (ValueError, RecursionError):
            return None
        if not isinstance(value, dict) or (found and value != found):
            return None
        written = text[position:end]
        found = value
        gap = _SPACE.match(text, end)
        position = gap.end() if gap else end
    return written if is_json_object(written) else None


class _Token(NamedTuple):
    kind: str
    value: Any


def _repair(text: str) -> str | None:
    """Return the library's repair. None: it failed, or has other tokens than the text."""
    tokens = _read_words(text)
    if tokens is None:
        return None
    import json_repair  # noqa: PLC0415  # most servers never need it

    try:
        repaired = json_repair.loads(text, skip_json_loads=True)
        if not isinstance(repaired, dict):
            return None
        mended = json.dumps(repaired, ensure_ascii=False, allow_nan=False)
        mended.encode()
    except (ValueError, RecursionError):  # a lone surrogate raises a ValueError too
        return None
    return mended if _read_words(mended) == tokens else None


def _read_words(text: str) -> list[_Token] | None:
    """Return the tokens of a text without commas and without closing brackets at its end.

    None: the text has invalid tokens, an unfinished string, or too deep nesting.
    """
    tokens: list[_Token] = []
    position = depth = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            return None
        position = match.end()
        depth += (match.group() in _OPENERS) - (match.group() in _CLOSERS)
        if depth > _MAX_DEPTH:
            return None
        if match.lastgroup == "space" or match.group() == ",":
            continue
        kind, value = str(match.lastgroup), match.group()
        try:
            if kind == "word" and _COLON.match(text, position):
                kind = "string"  # a name without quotes
            elif kind == "word":
                value = _LITERALS[value]
            elif kind == "number":
                value = json.loads(value)
            elif kind == "string":
                inner = _ESCAPE.sub(lambda escape: {"\\'": "'", '"': '\\"'}.get(escape[0], escape[0]), value[1:-1])
                value = json.loads(f'"{inner}"', strict=False)
        except (KeyError, ValueError):  # another word, an invalid escape, or a number with too many digits
            return None
        tokens.append(_Token(kind, value))
    while tokens and tokens[-1].kind == "mark" and tokens[-1].value in _CLOSERS:
        tokens.pop()
    return tokens
