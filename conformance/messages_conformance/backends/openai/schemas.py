"""Demands of OpenAI on a JSON Schema: of a function's parameters, and more of those that are `strict`."""

import re
from collections.abc import Iterator
from typing import Any

_TYPES = {"object", "array", "string", "number", "integer", "boolean", "null"}
_SCHEMAS_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS_OF_SCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SCHEMAS = (
    *("items", "additionalProperties", "not", "if", "then", "else", "propertyNames", "contains", "additionalItems"),
)
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_STRICT_LACKS = ("allOf", "not", "if", "then", "else", "patternProperties", "dependentSchemas", "dependentRequired")


def _inner(schema: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the schemas directly inside one, by position, with their place."""
    for key in _SCHEMAS_BY_NAME:
        for name, inner in schema.get(key, {}).items() if isinstance(schema.get(key), dict) else ():
            yield (key, name), inner
    for key in _LISTS_OF_SCHEMAS:
        for position, inner in enumerate(schema[key]) if isinstance(schema.get(key), list) else ():
            yield (key, str(position)), inner
    for key in _SCHEMAS:
        if key in schema:
            yield (key,), schema[key]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value) and len(set(value)) == len(value)


def _check_values(schema: dict[str, Any]) -> Iterator[str]:
    """Yield keywords of one schema that have a value of the wrong kind."""
    kind = schema.get("type", "object")
    kinds = kind if isinstance(kind, list) and kind else [kind]
    if not all(isinstance(one, str) and one in _TYPES for one in kinds):
        yield f"{kind!r} is not valid under any of the given schemas."
    for key in _SCHEMAS_BY_NAME:
        if not isinstance(schema.get(key, {}), dict):
            yield f"{schema[key]!r} is not of type 'object' ('{key}')."
    for key in _LISTS_OF_SCHEMAS:
        if key in schema and not (isinstance(schema[key], list) and schema[key]):
            yield f"{schema[key]!r} is not a non-empty array ('{key}')."
    if not _is_names(schema.get("required", [])):
        yield f"{schema['required']!r} is not an array of unique strings ('required')."
    if "enum" in schema and not (isinstance(schema["enum"], list) and schema["enum"]):
        yield f"{schema['enum']!r} is not a non-empty array ('enum')."
    for key in _COUNTS:
        if key in schema and not (type(schema[key]) is int and schema[key] >= 0):
            yield f"{schema[key]!r} is not a non-negative integer ('{key}')."
    for key in _NUMBERS:
        if key in schema and not _is_number(schema[key]):
            yield f"{schema[key]!r} is not of type 'number' ('{key}')."
    for key in ("description", "title", "pattern", "format", "$ref"):
        if not isinstance(schema.get(key, ""), str):
            yield f"{schema[key]!r} is not of type 'string' ('{key}')."
    if isinstance(schema.get("pattern"), str):
        try:
            re.compile(schema["pattern"])
        except re.error:
            yield f"{schema['pattern']!r} is not a 'regex'."


def _check_strict(schema: dict[str, Any]) -> Iterator[str]:
    if schema.get("type") == "object" or "properties" in schema:
        if schema.get("additionalProperties") is not False:
            yield "'additionalProperties' is required to be supplied and to be false."
        missing = [name for name in schema.get("properties", {}) if name not in schema.get("required", [])]
        if missing or ("required" not in schema and schema.get("properties")):
            wants = "'required' is required to be supplied and to be an array including every key in properties."
            yield f"{wants} Missing '{missing[0]}'."
    for key in _STRICT_LACKS:
        if key in schema:
            yield f"'{key}' is not permitted."
    if not any(key in schema for key in ("type", "anyOf", "oneOf", "$ref", "enum", "const")):
        yield "schema must have a 'type' key."


def _resolves(reference: str, root: dict[str, Any]) -> bool:
    at: Any = root
    for step in reference.removeprefix("#").split("/")[1:]:
        if not isinstance(at, dict) or step not in at:
            return False
        at = at[step]
    return reference.startswith("#")


def _walk(schema: Any, root: dict[str, Any], strict: bool, place: tuple[str, ...]) -> Iterator[str]:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        yield f"In context={place}, {schema!r} is not of type 'object', 'boolean'."
        return
    found = list(_check_values(schema))
    if schema.get("type") in ("array", ["array", "null"], ["null", "array"]) and "items" not in schema:
        found.append("array schema missing items.")
    if isinstance(schema.get("$ref"), str) and not _resolves(schema["$ref"], root):
        found.append(f"reference to component '{schema['$ref']}' which was not found in the schema.")
    if strict:
        found.extend(_check_strict(schema))
    yield from (f"In context={place}, {text}" for text in found)
    for inner_place, inner in _inner(schema):
        if not strict or inner_place != ("additionalProperties",):
            yield from _walk(inner, root, strict, (*place, *inner_place))


def check_schema(schema: dict[str, Any], *, strict: bool) -> Iterator[str]:
    """Yield the violations in a root schema of a function or a response format, with the real error texts."""
    if schema.get("type") != "object":
        kind = schema.get("type")
        yield f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{kind}\"'."
        return
    for key in ("oneOf", "anyOf", "allOf", "enum", "not"):
        if key in schema:
            yield f"schema must have type 'object' and not have '{key}' at the top level."
    if not isinstance(schema.get("properties"), dict):
        yield "In context=(), object schema missing properties."
        return
    yield from _walk(schema, schema, strict, ())
