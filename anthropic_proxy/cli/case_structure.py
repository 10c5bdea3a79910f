"""The structure of an exchange without its texts: shapes, lengths and types stay, texts and names are replaced.

Each character of a text becomes `x`. Names and ids become others of the same form, the same at each place. What
stays is the vocabulary of the API and no other word: the fields that it defines with their numbers, and the values that
it defines for a field, such as types, roles and stop reasons (`case_words.json`, written from the types of the official
SDK). A name of a model keeps the parts that stand in names of known models.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from anthropic_proxy.engine.messages.schema_check import FIELDS_OF_SCHEMAS
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.providers.model_facts import cached_with_facts, list_model_names
from anthropic_proxy.engine.providers.vendors import list_vendor_tables
from anthropic_proxy.engine.wires.anthropic.api_fields import load_places

_FURTHER_WORDS: Mapping[str, tuple[str, ...]] = {
    # in the API reference (Streaming, Errors), and not in the types of the SDK
    "type": ("ping", "request_too_large", "conflict_error", "dangerous_tool_use"),
    "role": ("developer",),  # of clients that mix two APIs
}
_TYPES_OF_SCHEMAS = frozenset(("string", "number", "integer", "boolean", "object", "array", "null"))
_FORMATS_OF_SCHEMAS = frozenset(
    (  # of JSON Schema and OpenAPI
        "date",
        "date-time",
        "time",
        "duration",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "uri",
        "uri-reference",
        "uuid",
        "regex",
        "json-pointer",
        "int32",
        "int64",
        "float",
        "double",
        "byte",
        "binary",
        "enum",
    )
)
_SCHEMA_LANGUAGE = compile_anchored(r"https?://json-schema\.org/(?:draft-0[3-7]|draft/20[0-9]{2}-[0-9]{2})/schema#?")
_NAME_FIELDS = frozenset(("name", "tool_name", "server_name", "mcp_server_name"))
_BYTES_FIELDS = frozenset(("data",))
_VERSION = compile_anchored(r"(.+)_20[0-9]{6}")
"""The date behind a type of tool or edit."""
_MODEL_PART = compile_later(r"[^\W_]+")
_ID = compile_anchored(r"((?:srvtoolu|mcptoolu|toolu|call|msg|req|resp|fc|file)_)?(.*)")
_SCHEMA_FIELDS = frozenset(("input_schema", "schema"))
_VALUE_FIELDS = frozenset(("input", "input_examples", "classifier_context"))
_NAMED_SCHEMAS = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))
_POINTER_WORDS = frozenset(("#", "", *_NAMED_SCHEMAS))
_SCHEMA_VALUES = frozenset(("enum", "const", "default", "examples"))
_SENTENCES = frozenset(("value", "field"))
"""Kinds of names that may be whole sentences. Of the others, special characters stay: servers refuse some of them."""
_CHARACTER = compile_later(r"[^\n]")
_WEB = "https://"


class Structure:
    """The replacements of one exchange. A name has the same one in the request and in the reply."""

    def __init__(self) -> None:
        self._replaced: dict[tuple[str, str], str] = {}
        self._counts = Counter[str]()

    def outline(self, value: Any, field: str = "") -> Any:
        """Return a value of the API. `field`: the name of the field with it."""
        if isinstance(value, str):
            return self._outline_text(value, field)
        if isinstance(value, list):
            return [self.outline(item, field) for item in value]
        if not isinstance(value, dict):
            return value
        return {
            name if name in _load_words() else self._rename("field", name): self._outline_member(name, inner)
            for name, inner in value.items()
        }

    def outline_stream(self, events: Sequence[Any]) -> list[Any]:
        """Return the events of a stream. The arguments of a call are replaced as a whole, and cut as they came."""
        outlined = [self.outline(event) for event in events]
        for numbers in _group_arguments(events):
            pieces = [events[number]["delta"]["partial_json"] for number in numbers]
            left = self._outline_arguments("".join(pieces))
            for number, piece in zip(numbers, pieces, strict=True):
                size = len(left) if number == numbers[-1] else len(piece)
                outlined[number]["delta"]["partial_json"] = left[:size]
                left = left[size:]
        return outlined

    def _outline_member(self, name: str, value: Any) -> Any:
        if name in _SCHEMA_FIELDS and isinstance(value, dict):
            return self._outline_schema(value)
        if name in _VALUE_FIELDS or name not in _load_words():
            return self._outline_value(value)
        return self.outline(value, name)

    def _outline_text(self, text: str, field: str) -> str:
        if _is_word(text, field):
            return text
        if field == "model":
            return outline_model(text)
        if field in _NAME_FIELDS:
            return self._rename("name", text)
        if field == "id" or field.endswith("_id"):
            return self._rename_id(text)
        if field == "partial_json":
            return self._outline_arguments(text)
        if field in _BYTES_FIELDS:
            return "A" * (len(text) // 4 * 4)
        if text.startswith(_WEB):
            return f"{_WEB}example.com/{hide_text(text[len(_WEB) :])}"
        return hide_text(text)

    def _outline_arguments(self, text: str) -> str:
        """Return the arguments of a call, as JSON if they are."""
        try:
            return json.dumps(self._outline_value(json.loads(text)))
        except (ValueError, RecursionError):
            return hide_text(text)

    def _outline_value(self, value: Any) -> Any:
        """Return a value that the user or the model has chosen, with the names of its fields."""
        if isinstance(value, str):
            return hide_text(value)
        if isinstance(value, list):
            return [self._outline_value(item) for item in value]
        if isinstance(value, dict):
            return {self._rename("property", name): self._outline_value(inner) for name, inner in value.items()}
        if isinstance(value, bool) or value is None:
            return value
        return 1.5 if isinstance(value, float) else int("1" * min(len(str(abs(value))), 15)) * (-1 if value < 0 else 1)

    def _outline_schema(self, schema: Any) -> Any:
        if isinstance(schema, list):
            return [self._outline_schema(item) for item in schema]
        if not isinstance(schema, dict):
            return hide_text(schema) if isinstance(schema, str) else schema
        return {
            name if name in FIELDS_OF_SCHEMAS else self._rename("field", name): self._outline_keyword(name, value)
            for name, value in schema.items()
        }

    def _outline_keyword(self, name: str, value: Any) -> Any:
        if name in _NAMED_SCHEMAS and isinstance(value, dict):
            return {self._rename("property", key): self._outline_schema(inner) for key, inner in value.items()}
        if name == "required" and isinstance(value, list):
            return self._rename_all("property", value)
        if name == "dependentRequired" and isinstance(value, dict):
            return {
                self._rename("property", key): self._rename_all("property", needed) for key, needed in value.items()
            }
        if name == "type":
            names = value if isinstance(value, list) else [value]
            kept = [each if _is_type(each) else self._outline_value(each) for each in names]
            return kept if isinstance(value, list) else kept[0]
        if name == "format" and isinstance(value, str) and value in _FORMATS_OF_SCHEMAS:
            return value
        if name == "$ref" and isinstance(value, str):
            parts = value.split("/")
            return "/".join(part if part in _POINTER_WORDS else self._rename("property", part) for part in parts)
        if name == "$schema":
            return value if isinstance(value, str) and _SCHEMA_LANGUAGE.fullmatch(value) else ""
        if name not in FIELDS_OF_SCHEMAS:
            return self._outline_value(value)
        if name in _SCHEMA_VALUES:
            return self._rename_all("value", value) if name == "enum" else self._outline_value(value)
        return self._outline_schema(value)

    def _rename_all(self, kind: str, names: Any) -> Any:
        if not isinstance(names, list):
            return self._outline_value(names)
        return [self._rename(kind, name) if isinstance(name, str) else self._outline_value(name) for name in names]

    def _rename_id(self, text: str) -> str:
        match = _ID.fullmatch(text)
        beginning, rest = match.groups() if match else ("", text)
        return f"{beginning or ''}{self._rename('id', rest)}"

    def _rename(self, kind: str, text: str) -> str:
        """Return another name with the same length, as far as it can be unique, and the same special characters."""
        if not text:
            return text
        key = kind, text
        if (known := self._replaced.get(key)) is not None:
            return known
        self._counts[kind] += 1
        number = str(self._counts[kind])
        places = [place for place, character in enumerate(text) if kind in _SENTENCES or character.isalnum()]
        characters = list(text)
        for place in places:
            characters[place] = "x"
        if len(places) > len(number):
            for place, digit in zip(places[-len(number) :], number, strict=True):
                characters[place] = digit
        else:
            characters.append(number)
        name = self._replaced[key] = "".join(characters)
        return name


def outline_type(text: str) -> str:
    """Return the type of an event or error, if the API defines it."""
    return text if _is_word(text, "type") else hide_text(text)


def _is_type(value: Any) -> bool:
    return isinstance(value, str) and value in _TYPES_OF_SCHEMAS


def _is_word(text: str, field: str) -> bool:
    """Tell whether the API defines a text as a value of a field, or an earlier or later version of it."""
    words = _load_words().get(field, frozenset())
    version = _VERSION.fullmatch(text)
    return text in words or (version is not None and version[1] in words)


@cache
def _load_words() -> Mapping[str, frozenset[str]]:
    """Return field of the API → the texts that it defines as its values, each also without its date."""
    file = Path(__file__).with_name("case_words.json")
    words = {name: {*values} for name, values in json.loads(file.read_text("utf-8")).items()}
    for fields in load_places().values():
        for name in fields:
            words.setdefault(name, set())
    for name, further in _FURTHER_WORDS.items():
        words[name].update(further)
    for values in words.values():
        values.update([version[1] for value in values if (version := _VERSION.fullmatch(value)) is not None])
    return {name: frozenset(values) for name, values in words.items()}


def outline_model(name: str) -> str:
    """Return the name of a model without the parts that stand in no name of a known model: `ft:gpt-4.1:xxxx::xxxxx`."""
    known = _list_model_parts()
    return _MODEL_PART.sub(lambda part: part[0] if part[0].lower() in known else "x" * len(part[0]), name)


@cached_with_facts()
def _list_model_parts() -> frozenset[str]:
    names = (*list_model_names(), *_load_words().get("model", ()), *list_vendor_tables(), "ft", "latest")
    return frozenset(part for name in names for part in _MODEL_PART.findall(name.lower()))


def _group_arguments(events: Iterable[Any]) -> list[list[int]]:
    """Return for each call of a stream the numbers of the events with its arguments."""
    groups = dict[str, list[int]]()
    ended = list[list[int]]()
    for number, event in enumerate(events):
        if not isinstance(event, dict):
            continue
        place = json.dumps(event.get("index"))
        delta = event.get("delta")
        if event.get("type") == "content_block_start" and place in groups:
            ended.append(groups.pop(place))
        elif isinstance(delta, dict) and isinstance(delta.get("partial_json"), str):
            groups.setdefault(place, []).append(number)
    return [*ended, *groups.values()]


def hide_text(text: str) -> str:
    """Return a text with the same number of characters and the same lines."""
    return _CHARACTER.sub("x", text)
