"""What vendors document about the variants of JSON Schema that they read, as checks that name each violation.

They are written from the documentation, without the code that converts schemas.
"""

from collections.abc import Iterator
from typing import Any

from anthropic_proxy.engine.providers.vendors import build_config
from anthropic_proxy.engine.wires.json_schema import SchemaRules

SCHEMA_LANGUAGES: dict[str, SchemaRules] = {
    name: build_config(name, "chat").dialect.schema_language for name in ("moonshot", "gemini", "xai")
}
"""Host → the rules of its models' schemas."""
_TYPES = ("null", "boolean", "object", "array", "number", "integer", "string")
_ANNOTATIONS = frozenset(("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"))
_OF_TYPE = {
    "object": {"properties", "required", "additionalProperties", "minProperties", "maxProperties"},
    "array": {"items", "minItems", "maxItems", "uniqueItems"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "boolean": set(),
    "null": set(),
}
"""Type → keywords that stand beside it. Those that Moonshot documents as not yet supported (`pattern`, `format` …) are
allowed: its server accepts them (MoonshotAI/kimi-code kimi-schema.ts, read 2026-11-28)."""


def find_faults_for_moonshot(schema: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Source: MoonshotAI/walle docs/walle.md, docs/mfjs-walle-vs-draft-2020-12.md (read 2026-11-28)."""
    place = f"At path '{'.'.join(path) or 'root'}': "
    if not isinstance(schema, dict):
        yield f"{place}schema must be an object"
        return
    branches = schema.get("anyOf")
    types = schema.get("type", [])
    types = types if isinstance(types, list) else [types]
    if branches is None:
        yield from _find_type_faults(schema, types, place)
    elif not isinstance(branches, list) or not branches:
        yield f"{place}anyOf must have items"
    elif "type" in schema:
        yield f"{place}when using anyOf, type should be defined in anyOf items instead of the parent schema"
    else:
        if others := schema.keys() - {"anyOf"} - _ANNOTATIONS:
            yield f"{place}keywords {sorted(others)} beside anyOf"
        for number, branch in enumerate(branches):
            yield from find_faults_for_moonshot(branch, (*path, "anyOf", str(number)))
            shared = schema.keys() & branch.keys() - {"title", "description"} if isinstance(branch, dict) else ()
            if shared:
                yield f"{place}conflicting keywords found in anyOf with parent: {', '.join(sorted(shared))}"
    if "enum" in schema:
        yield from _find_value_faults(schema["enum"], types, place)
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in properties:
            yield f"{place}required property '{name}' is not defined in properties"
    for name, inner in properties.items():
        yield from find_faults_for_moonshot(inner, (*path, "properties", name))
    if "items" in schema:
        yield from find_faults_for_moonshot(schema["items"], (*path, "items"))
    if not isinstance(further := schema.get("additionalProperties", {}), bool) and further != {}:
        yield from find_faults_for_moonshot(further, (*path, "additionalProperties"))


def _find_type_faults(schema: dict[str, Any], types: list[Any], place: str) -> Iterator[str]:
    if not types:
        yield f"{place}type is not defined"
    elif any(kind not in _TYPES for kind in types) or len(set(types)) != len(types):
        yield f"{place}invalid type"
    else:
        beside = _OF_TYPE[types[0]] if len(types) == 1 else set()
        if unknown := schema.keys() - {"type", "enum"} - _ANNOTATIONS - beside:
            yield f"{place}keywords {sorted(unknown)} beside {types}"


def _find_value_faults(values: Any, types: list[Any], place: str) -> Iterator[str]:
    if not isinstance(values, list) or not values:
        yield f"{place}enum array cannot be empty"
        return
    if len(types) > 1 and (len(types) > 2 or "null" not in types or {"object", "array"} & set(types)):
        yield f"{place}enum beside {types}"
    for value in values:
        if not any(_is_of_type(value, kind) for kind in types):
            yield f"{place}enum value ({value}) does not match any type in {types}"


def _is_of_type(value: Any, kind: str) -> bool:
    if isinstance(value, bool) or value is None:
        return kind == ("null" if value is None else "boolean")
    if isinstance(value, int | float):
        return kind == "number" or (kind == "integer" and value == int(value))
    return isinstance(value, str) and kind == "string"


def find_recursion(schema: Any) -> Iterator[str]:
    """Yield references that lead back to themselves. Source: docs.x.ai, "Structured Outputs" (read 2026-11-28)."""

    def follow(value: Any, trail: tuple[str, ...]) -> Iterator[str]:
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from follow(inner, trail)
        reference = value.get("$ref") if isinstance(value, dict) else None
        if isinstance(reference, str) and reference in trail:
            yield f"{reference} is recursive"
        elif isinstance(reference, str):
            target = schema
            for step in reference.split("/")[1:]:
                target = target[step]
            yield from follow(target, (*trail, reference))

    yield from follow(schema, ())


def find_required_recursion(schema: Any) -> Iterator[str]:
    """Yield references that lead back to themselves without an optional property between.

    Source: ai.google.dev/api/generate-content, `responseJsonSchema` (read 2026-11-29).
    """

    def list_needed(value: dict[str, Any]) -> Iterator[Any]:
        for key, inner in value.items():
            if key == "properties":
                yield from (inner[name] for name in value.get("required", ()) if name in inner)
            elif key in ("anyOf", "oneOf", "prefixItems"):
                yield from inner
            elif key in ("items", "additionalProperties"):
                yield inner

    def follow(value: Any, trail: tuple[str, ...]) -> Iterator[str]:
        reference = value.get("$ref") if isinstance(value, dict) else None
        if isinstance(reference, str) and reference in trail:
            yield f"{reference} is recursive without an optional property"
        elif isinstance(reference, str):
            yield from follow(schema["$defs"][reference.rpartition("/")[2]], (*trail, reference))
        elif isinstance(value, dict):
            for inner in list_needed(value):
                yield from follow(inner, trail)

    for name in schema.get("$defs", {}):
        yield from follow({"$ref": f"#/$defs/{name}"}, ())


def find_empty_texts(schema: Any, path: str = "root") -> Iterator[str]:
    """Yield places of empty texts in `enum`. Source: google-gemini/gemini-cli issue 13326 (read 2026-11-28)."""
    if not isinstance(schema, dict):
        return
    if "" in schema.get("enum", ()):
        yield f"{path}.enum: cannot be empty"
    named = [*schema.get("properties", {}).items(), *schema.get("$defs", {}).items()]
    listed = [schema.get(key, ()) for key in ("anyOf", "oneOf", "allOf", "prefixItems")]
    alone = [schema.get(key) for key in ("items", "additionalProperties", "not", "contains")]
    for name, inner in [*named, *enumerate([*alone, *(one for found in listed for one in found)])]:
        yield from find_empty_texts(inner, f"{path}.{name}")
