"""The structure of an exchange without its texts: shapes, lengths and types stay, texts and names are replaced.

Each character of a text becomes `x`. Names and ids become others of the same form, the same at each place. What
stays is the vocabulary of the API: types, roles, stop reasons, names of models, and numbers of fields that it defines.
"""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from anthropic_proxy.engine.patterns import compile_anchored, compile_later

_WORD_FIELDS = frozenset(
    ("type", "role", "stop_reason", "media_type", "model", "service_tier", "ttl", "effort", "display", "format", "mode")
)
"""Fields whose texts are words of the API, not of the user."""
_NAME_FIELDS = frozenset(("name", "tool_name", "server_name", "mcp_server_name"))
_BYTES_FIELDS = frozenset(("data",))
_WORD = compile_anchored(r"[A-Za-z0-9][A-Za-z0-9_.:/+\[\]-]{0,63}")
_FIELD = compile_anchored(r"[A-Za-z$][A-Za-z0-9_-]{0,63}")
_ID = compile_anchored(r"((?:srvtoolu|mcptoolu|toolu|call|msg|req|resp|fc|file)_)?(.*)")
_SCHEMA_FIELDS = frozenset(("input_schema", "schema"))
_VALUE_FIELDS = frozenset(("input", "input_examples"))
_NAMED_SCHEMAS = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))
_POINTER_WORDS = frozenset(("#", "", *_NAMED_SCHEMAS))
_SCHEMA_VALUES = frozenset(("enum", "const", "default", "examples"))
_SENTENCES = frozenset(("value", "field"))
"""Kinds of names that may be whole sentences. Of the others, special characters stay: servers refuse some of them."""
_CHARACTER = compile_later(r"[^\n]")
_WEB = "https://"


class Structure:
    """The replacements of one exchange. A name has the same one in the request and in the reply."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self._replaced: dict[tuple[str, str], str] = {}
        tools = request.get("tools")
        self._counts = Counter[str]()
        self._api_names = {
            tool.get("name")
            for tool in (tools if isinstance(tools, list) else ())
            if isinstance(tool, dict) and tool.get("type") not in (None, "custom")
        }
        """Names of tools that the API defines."""

    def outline(self, value: Any, field: str = "") -> Any:
        """Return a value of the API. `field`: the name of the field with it."""
        if isinstance(value, str):
            return self._outline_text(value, field)
        if isinstance(value, list):
            return [self.outline(item, field) for item in value]
        if not isinstance(value, dict):
            return value
        return {self._outline_field(name): self._outline_member(name, inner) for name, inner in value.items()}

    def _outline_member(self, name: str, value: Any) -> Any:
        if name in _SCHEMA_FIELDS and isinstance(value, dict):
            return self._outline_schema(value)
        if name in _VALUE_FIELDS:
            return self._outline_value(value)
        return self.outline(value, name)

    def _outline_field(self, name: str) -> str:
        return name if _FIELD.fullmatch(name) else self._rename("field", name)

    def _outline_text(self, text: str, field: str) -> str:
        if field in _WORD_FIELDS and _WORD.fullmatch(text):
            return text
        if field in _NAME_FIELDS:
            return text if text in self._api_names else self._rename("name", text)
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
        return {self._outline_field(name): self._outline_keyword(name, value) for name, value in schema.items()}

    def _outline_keyword(self, name: str, value: Any) -> Any:
        if name in _NAMED_SCHEMAS and isinstance(value, dict):
            return {self._rename("property", key): self._outline_schema(inner) for key, inner in value.items()}
        if name == "required" and isinstance(value, list):
            return self._rename_all("property", value)
        if name == "dependentRequired" and isinstance(value, dict):
            return {
                self._rename("property", key): self._rename_all("property", needed) for key, needed in value.items()
            }
        if name in ("type", "format"):
            return self.outline(value, name)
        if name == "$ref" and isinstance(value, str):
            parts = value.split("/")
            return "/".join(part if part in _POINTER_WORDS else self._rename("property", part) for part in parts)
        if name == "$schema":
            return value if isinstance(value, str) and "://json-schema.org/" in value else ""
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


def hide_text(text: str) -> str:
    """Return a text with the same number of characters and the same lines."""
    return _CHARACTER.sub("x", text)
