"""Gemini's rules on the two kinds of schema: JSON Schema with some keywords, and its own subset of OpenAPI."""

from collections.abc import Iterator
from typing import Any

# Keywords that `parametersJsonSchema` and `responseJsonSchema` are documented to take (Structured output, 2026-11).
_KEYWORDS = {
    *("type", "format", "title", "description", "enum", "items", "prefixItems", "minItems", "maxItems", "minimum"),
    *("maximum", "anyOf", "oneOf", "properties", "additionalProperties", "required", "propertyOrdering", "$id"),
    *("$defs", "$ref", "$anchor"),
}
_TYPES = {"object", "array", "string", "number", "integer", "boolean", "null"}
_FORMATS = {"STRING": {"enum", "date-time"}, "NUMBER": {"float", "double"}, "INTEGER": {"int32", "int64"}}


def check_json_schema(schema: Any, path: str, definitions: Any = None) -> Iterator[str]:
    """Yield the keywords that the server rejects in a JSON Schema."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        yield f"{path}: must be a schema"
        return
    definitions = schema.get("$defs", {}) if definitions is None else definitions
    for name in schema:
        if name not in _KEYWORDS:
            yield f"{path}: the keyword {name!r} is not supported"
    kinds = schema.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind not in _TYPES:
            yield f"{path}: {kind!r} is no type"
    if "array" in kinds and "items" not in schema:
        yield f"{path}.items: missing field."
    if "" in schema.get("enum", []):
        yield f"{path}.enum: cannot be empty"
    target = schema.get("$ref")
    if target not in (None, "#") and not (target.startswith("#/$defs/") and target[8:] in definitions):
        yield f"{path}: {target!r} refers to nothing"
    properties = schema.get("properties", {})
    if not isinstance(properties, dict) or not isinstance(schema.get("required", []), list):
        yield f"{path}: properties must be an object, required an array"
        return
    for name in schema.get("required", []):
        if name not in properties:
            yield f"{path}.required: property {name!r} is not defined"
    named = [*properties.items(), *schema.get("$defs", {}).items()]
    listed = [*schema.get("anyOf", []), *schema.get("oneOf", []), *schema.get("prefixItems", [])]
    alone = [schema[name] for name in ("items", "additionalProperties") if name in schema]
    for name, inner in [*named, *((str(number), one) for number, one in enumerate([*listed, *alone]))]:
        yield from check_json_schema(inner, f"{path}.{name}", definitions)


def check_lowered(schema: dict[str, Any], path: str, *, accepts_empty: bool) -> Iterator[str]:
    """Yield the violations in the server's own kind of schema, as error texts.

    `accepts_empty`: True if objects may have no properties, as for models with JSON Schema.
    """
    kind = str(schema.get("type", "")).upper()
    if not kind and "anyOf" not in schema:
        yield f"{path}.type: must be specified"
    if kind == "OBJECT" and schema.get("properties") == {} and not accepts_empty:
        yield f"{path}.properties: should be non-empty for OBJECT type"
    if kind == "ARRAY" and "items" not in schema:
        yield f"{path}.items: missing field."
    if "enum" in schema and kind != "STRING":
        yield f"{path}.enum: only allowed for STRING type"
    if "" in schema.get("enum", []):
        yield f"{path}.enum: cannot be empty"
    if "format" in schema and kind in _FORMATS and schema["format"] not in _FORMATS[kind]:
        yield f"{path}.format: only {sorted(_FORMATS[kind])} are supported for {kind} type"
    properties = schema.get("properties", {})
    for number, name in enumerate(schema.get("required", [])):
        if name not in properties:
            yield f"{path}.required[{number}]: property is not defined"
    for name, inner in properties.items():
        yield from check_lowered(inner, f"{path}.properties[{name}]", accepts_empty=accepts_empty)
    if "items" in schema:
        yield from check_lowered(schema["items"], f"{path}.items", accepts_empty=accepts_empty)
    for number, inner in enumerate(schema.get("anyOf", [])):
        yield from check_lowered(inner, f"{path}.any_of[{number}]", accepts_empty=accepts_empty)
