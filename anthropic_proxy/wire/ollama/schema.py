"""JSON Schema → the few keywords that the server's struct of a tool has room for.

It reads the rest without a word and forgets it (`ToolProperty` in `api/types.go`, 2026-08), so what a model should know
of the rest is said in descriptions.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from anthropic_proxy.wire.schema import Schema, SchemaRules, clean_schema, merge_parts

_RULES = SchemaRules(inlines_references=True)  # a property has no room for `$ref`
_SAID = frozenset(("type", "description", "enum", "items", "properties", "required", "anyOf"))
_REWRITTEN = frozenset(("const", "oneOf", "allOf"))
_SILENT = frozenset(("title", "deprecated", "readOnly", "writeOnly", "$anchor", "$defs", "definitions"))
"""Keywords that tell a model nothing."""
_OTHERS = frozenset(("additionalProperties", "additionalItems", "unevaluatedProperties", "unevaluatedItems"))
"""Keywords that say something only where they hold a schema."""
_LONGEST_HINT = 200
"""Characters of a keyword's value that a description may repeat."""


def encode_parameters(schema: Any) -> tuple[Schema, str, tuple[str, ...]]:
    """Return `parameters`, what the tool's description must add, and in words what is lost."""
    cleaned, lost = clean_schema(schema, _RULES)
    said = _property(cleaned, lost)
    parameters: Schema = {"type": "object"}
    if "required" in said:
        parameters["required"] = said["required"]
    parameters["properties"] = said.get("properties", {})
    return parameters, said.get("description", ""), tuple(lost)


def keywords_in_words(schema: Any) -> frozenset[str]:
    """Return the keywords of a schema that only descriptions say."""
    found: set[str] = set()
    _collect_hints(clean_schema(schema, _RULES)[0], found)
    return frozenset(found)


def _collect_hints(schema: Any, found: set[str]) -> None:
    if not isinstance(schema, dict):
        return
    schema = merge_parts(schema)
    found |= {key for key, value in schema.items() if _is_hint(key, value)}
    properties, branches = schema.get("properties"), schema.get("anyOf", schema.get("oneOf"))
    inner = list(properties.values()) if isinstance(properties, dict) else []
    for one in (*inner, *(branches if _are(dict, branches) else ())):
        _collect_hints(one, found)


def _property(schema: Any, lost: list[str]) -> Schema:
    if not isinstance(schema, dict):
        return {}
    schema = merge_parts(schema)
    said: Schema = {}
    kind = schema.get("type")
    if isinstance(kind, str) or _are(str, kind):
        said["type"] = kind
    choices = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(choices, list) and choices:
        said["enum"] = choices
    if isinstance(schema.get("items"), dict | list):  # read as it is, whatever it says
        said["items"] = schema["items"]
    branches = schema.get("anyOf", schema.get("oneOf"))
    if _are(dict, branches):
        said["anyOf"] = [_property(branch, lost) for branch in branches]
    properties = schema.get("properties")
    if isinstance(properties, dict):
        said["properties"] = {name: _property(inner, lost) for name, inner in properties.items()}
    if _are(str, schema.get("required")) and schema["required"]:
        said["required"] = schema["required"]
    own = schema.get("description")
    hints = "; ".join(_hints(schema, lost))
    description = " ".join(filter(None, (own if isinstance(own, str) else "", f"({hints})" if hints else "")))
    return {"description": description, **said} if description else said


def _hints(schema: Schema, lost: list[str]) -> Iterable[str]:
    """Give the keywords that the struct has no field for, as `key: value`."""
    for key, value in schema.items():
        if not _is_hint(key, value):
            continue
        shown = value if value and isinstance(value, str) else msgspec.json.encode(value).decode()
        if len(shown) <= _LONGEST_HINT:
            yield f"{key}: {shown}"
        else:
            lost.append(f"{key} is not said: it is too long for a description")


def _is_hint(key: str, value: Any) -> bool:
    if key in _SAID or key in _REWRITTEN or key in _SILENT:
        return False
    return key not in _OTHERS or (isinstance(value, dict) and bool(value))


def _are(kind: type, values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)
