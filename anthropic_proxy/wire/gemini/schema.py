"""JSON Schemas as this wire takes them: standard keywords only, or lowered to its OpenAPI subset.

What has no keyword here is said in the description, so that the model still knows it. The walk goes by schema position:
a property called `default` or `type` is a name.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from anthropic_proxy.wire.schema import Schema, SchemaRules, clean_schema, merge_parts

_STANDARD = frozenset(
    (
        *("type", "format", "title", "description", "enum", "minItems", "maxItems", "minimum", "maximum"),
        *("items", "prefixItems", "anyOf", "oneOf", "properties", "required", "additionalProperties", "$defs", "$ref"),
    )
)
"""Keywords of `parametersJsonSchema` (reference of GenerationConfig, `responseJsonSchema`, 2026-11)."""
_LOWERED = frozenset(
    (
        *("type", "format", "title", "description", "nullable", "enum", "minItems", "maxItems", "minimum", "maximum"),
        *("items", "anyOf", "properties", "required", "minLength", "maxLength", "pattern"),
        *("minProperties", "maxProperties"),
    )
)
"""Keywords of the message `Schema`."""
_CHOICES = frozenset(("anyOf", "oneOf", "allOf", "$ref", "prefixItems"))
"""Keywords that are said by others where there is no such field."""
_FORMATS = frozenset(("enum", "date-time", "float", "double", "int32", "int64"))
"""Formats that `Schema` takes; others are refused there."""
_SAYS_NOTHING = frozenset(
    (
        *("$schema", "$id", "$comment", "$anchor", "$defs", "definitions", "additionalProperties", "additionalItems"),
        *("unevaluatedProperties", "unevaluatedItems", "deprecated", "readOnly", "writeOnly", "nullable"),
    )
)
"""Keywords that are left out without a word."""
_AROUND = ("type", "properties", "required", "items")
"""Keywords that hold for each of the alternatives beside them."""
_LONGEST_WORDS = 200
"""Characters of JSON that a keyword may add to a description."""
_REFERENCE = re.compile(r"#/(?:\$defs|definitions)/([^/~%]+)")
"""References that stay, by a name without escapes; others are inlined."""
_INLINED = SchemaRules(inlines_references=True)


def parameters_of(schema: Any, *, lowered: bool) -> Schema | None:
    """Return a tool's schema for `parametersJsonSchema`, or lowered for `parameters`; None: it takes no arguments.

    Raises nothing: what is no schema counts as one without properties.
    """
    if not lowered:
        return _standard(schema if isinstance(schema, dict) else {}, is_root_object=True)
    cleaned = _lower(clean_schema(schema, _INLINED)[0])
    return cleaned if cleaned.get("properties") else None  # an empty `properties` is refused


def reply_schema_of(schema: Any, *, lowered: bool) -> Schema:
    """Return the schema of a structured reply; unlike a tool's, its root may be any type."""
    if lowered:
        return _lower(clean_schema(schema, _INLINED)[0])
    return _standard(schema if isinstance(schema, dict) else {}, is_root_object=False)


def keywords_in_words(schema: Any, *, lowered: bool) -> frozenset[str]:
    """Return the keywords of a schema that this wire has no field for: descriptions say them."""
    used = {key for one in _walk(schema) for key in _plain(one)}
    return frozenset(used - (_LOWERED if lowered else _STANDARD) - _SAYS_NOTHING - _CHOICES)


def _standard(schema: Schema, *, is_root_object: bool) -> Schema:
    inlines = any(_cannot_refer(one) for one in _walk(schema))
    if is_root_object or inlines:
        schema = clean_schema(schema, _INLINED if inlines else SchemaRules())[0]
    return _reduce(schema)


def _walk(schema: Any) -> Iterator[Schema]:
    """Yield a schema and all schemas inside it."""
    if not isinstance(schema, dict):
        return
    yield schema
    for key, value in schema.items():
        if key in ("properties", "$defs", "definitions") and isinstance(value, dict):
            inner = list(value.values())
        elif key in ("anyOf", "oneOf", "allOf", "prefixItems", "items", "additionalProperties"):
            inner = value if isinstance(value, list) else [value]
        else:
            continue
        for one in inner:
            yield from _walk(one)


def _cannot_refer(schema: Schema) -> bool:
    """Whether a schema refers to something in a way that only inlining can say."""
    reference, parts = schema.get("$ref"), schema.get("allOf")
    if isinstance(reference, str) and not _REFERENCE.fullmatch(reference):
        return True
    refers = isinstance(parts, list) and any(isinstance(part, dict) and "$ref" in part for part in parts)
    return refers and (len(parts or ()) > 1 or bool(schema.keys() - {"allOf", "description", "title", "default"}))


def _reduce(schema: Any) -> Schema:
    """Return a schema with the standard keywords that this wire knows."""
    if not isinstance(schema, dict):
        return {}
    schema = _plain(schema)
    words: list[str] = []
    reduced: Schema = {}
    for key, value in schema.items():
        match key:
            case "$ref" if isinstance(value, str):
                reduced[key] = _REFERENCE.sub(r"#/$defs/\1", value)
            case "properties" | "$defs" | "definitions" if isinstance(value, dict):
                name = "$defs" if key == "definitions" else key
                reduced[name] = reduced.get(name, {}) | {one: _reduce(inner) for one, inner in value.items()}
            case "items" if isinstance(value, list):
                reduced["prefixItems"] = [_reduce(one) for one in value]
            case "anyOf" | "oneOf" | "prefixItems" if isinstance(value, list):
                _keep_list(reduced, key, [_reduce(one) for one in value], value, words)
            case "items":
                reduced[key] = _reduce(value)
            case "additionalProperties":
                reduced[key] = value if isinstance(value, bool) else _reduce(value)
            case "enum":
                _keep_values(reduced, value, words)
            case _ if key in _STANDARD:
                reduced[key] = value
            case _:
                words += _in_words(key, value)
    return _around_reference(_finish(reduced, words))


def _lower(schema: Any) -> Schema:
    """Return a schema without references as the message `Schema` says it."""
    words: list[str] = []
    schema = _with_whole_alternatives(_plain(schema), words) if isinstance(schema, dict) else {}
    lowered: Schema = _lower_kind(schema)
    for key, value in schema.items():
        match key:
            case "type" | "anyOf" | "oneOf":
                pass
            case "properties" if isinstance(value, dict):
                lowered[key] = {name: _lower(inner) for name, inner in value.items()}
            case "items" | "prefixItems":
                _lower_items(lowered, value if isinstance(value, list) else [value])
            case "enum":
                _keep_values(lowered, value, words)
            case "format" if value not in _FORMATS:
                words += _in_words(key, value)
            case _ if key in _LOWERED and key != "nullable":
                lowered[key] = value
            case _:
                words += _in_words(key, value)
    if lowered.get("type") == "ARRAY":
        lowered.setdefault("items", {"type": "STRING"})
    if not lowered.get("properties"):
        lowered.pop("properties", None)  # refused where it is empty
    is_text = lowered.get("type") == "STRING" and all(isinstance(one, str) for one in lowered.get("enum", ()))
    if "enum" in lowered and not is_text:
        words += _in_words("one of", lowered.pop("enum"))  # refused there, and text would change the argument's type
    return _finish(lowered, words)


def _with_whole_alternatives(schema: Schema, words: list[str]) -> Schema:
    """Return a schema whose alternatives say themselves what stood around them: here they must stand alone.

    Those that only require properties would be whole copies; they are said in words.
    """
    key = next((key for key in ("anyOf", "oneOf") if isinstance(schema.get(key), list)), None)
    kinds = _kinds_said(schema) or (["object"] if "properties" in schema else [])
    kind = [one for one in kinds if one != "null"]
    if key is None or len(kind) != 1:
        return schema
    rest = {name: value for name, value in schema.items() if name not in (key, *_AROUND)}
    around = {"type": kind[0], **{name: schema[name] for name in _AROUND[1:] if name in schema}}
    if all(isinstance(one, dict) and one.keys() <= {"type", "required"} for one in schema[key]):
        words += _in_words(key, schema[key])
        return {**rest, **around, "type": kinds if len(kinds) > 1 else kind[0]}
    alternatives = [
        merge_parts({"allOf": [around, one]}) if isinstance(one, dict) and one.get("type", kind[0]) == kind[0] else one
        for one in schema[key]
    ]
    return {**rest, key: alternatives, "type": [one for one in kinds if one == "null"]}


def _kinds_said(schema: Schema) -> list[str]:
    """Return the type names of a schema; what is no name says nothing."""
    said = schema.get("type")
    return [one for one in (said if isinstance(said, list) else [said]) if isinstance(one, str)]


def _lower_kind(schema: Schema) -> Schema:
    """Return `type`, `nullable` and `anyOf`; a union of types becomes alternatives."""
    kinds = _kinds_said(schema)
    branches = schema.get("anyOf") or schema.get("oneOf")
    branches = [one for one in branches if isinstance(one, dict)] if isinstance(branches, list) else []
    lowered: Schema = {}
    if "null" in kinds or any(one.get("type") == "null" for one in branches):
        lowered["nullable"] = True
    kinds = [kind for kind in kinds if kind != "null"]
    branches = [one for one in branches if one.get("type") != "null"]
    if len(kinds) > 1 and not branches:
        branches = [{**_only_of(schema, kind), "type": kind} for kind in kinds]
    if len(branches) > 1:
        return lowered | {"anyOf": [_lower(one) for one in branches]}
    if branches:
        return _lower(branches[0]) | lowered
    return lowered | {"type": (kinds[0] if kinds else _kind_of(schema)).upper()}


def _only_of(schema: Schema, kind: str) -> Schema:
    """Return the keywords that matter to one type of a union."""
    names = {"array": ("items", "minItems", "maxItems"), "object": ("properties", "required")}.get(kind, ())
    return {name: schema[name] for name in names if name in schema}


def _kind_of(schema: Schema) -> str:
    if "properties" in schema or "additionalProperties" in schema:
        return "object"
    return "array" if "items" in schema or "prefixItems" in schema else "string"


def _lower_items(lowered: Schema, items: list[Any]) -> None:
    kinds = []
    for one in map(_lower, items):
        if one not in kinds:
            kinds.append(one)
    lowered["items"] = kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {"type": "STRING"}


def _plain(schema: Schema) -> Schema:
    """Return the schema in fewer keywords that mean the same: no `allOf`, `const`, `nullable`, bounds left out."""
    plain = merge_parts(schema)
    if plain.get("nullable") is True and isinstance(plain.get("type"), str):
        plain = {**plain, "type": [plain["type"], "null"]}  # OpenAPI's way
    if "const" in plain:
        plain = {key: value for key, value in plain.items() if key != "const"} | {"enum": [plain["const"]]}
    if isinstance(plain.get("enum"), list) and not any(map(plain.get, ("type", "anyOf", "oneOf", "$ref"))):
        plain = {**plain, "type": _kinds_of(plain["enum"])}
    if plain.get("type") == "integer":
        for key, bound, step in (("exclusiveMinimum", "minimum", 1), ("exclusiveMaximum", "maximum", -1)):
            edge = plain.get(key)
            if isinstance(edge, int) and not isinstance(edge, bool) and bound not in plain:
                plain = {name: value for name, value in plain.items() if name != key} | {bound: edge + step}
    return plain


def _kinds_of(values: list[Any]) -> str | list[str]:
    names = {str: "string", bool: "boolean", int: "integer", float: "number", dict: "object", list: "array"}
    kinds = list(dict.fromkeys(names.get(type(value), "null") for value in values)) or ["string"]
    return kinds[0] if len(kinds) == 1 else kinds


def _keep_list(reduced: Schema, key: str, kept: list[Schema], said: list[Any], words: list[str]) -> None:
    if key == "prefixItems" or any(kept):
        reduced[key] = kept
    else:
        words += _in_words(key, said)  # alternatives that differ only in what is not known here


def _keep_values(reduced: Schema, values: Any, words: list[str]) -> None:
    """Keep an `enum` of texts and numbers; a null among them is a matter of the type, others are said in words."""
    if not isinstance(values, list) or not values:
        return
    kept = [value for value in values if isinstance(value, str | int | float) and not isinstance(value, bool)]
    if kept and len(kept) == sum(value is not None for value in values):
        reduced["enum"] = kept
    else:
        words += _in_words("one of", values)


def _around_reference(reduced: Schema) -> Schema:
    """Return a schema in which nothing stands beside `$ref`, which would be refused."""
    beside = {key: value for key, value in reduced.items() if key != "$ref" and not key.startswith("$")}
    if "$ref" not in reduced or not beside:
        return reduced
    said: Schema = {key: beside[key] for key in ("title", "description") if key in beside}
    definitions = {"$defs": reduced["$defs"]} if "$defs" in reduced else {}
    return {"anyOf": [{"$ref": reduced["$ref"]}], **said, **definitions}


def _finish(reduced: Schema, words: list[str]) -> Schema:
    names, required = reduced.get("properties"), reduced.get("required")
    if isinstance(required, list):
        known = names if isinstance(names, dict) else {}
        kept = [name for name in required if isinstance(name, str) and name in known]  # others are refused
        reduced = {key: value for key, value in reduced.items() if key != "required"}
        if kept:
            reduced["required"] = kept
    if words:
        before = reduced.get("description")
        said = f"({'; '.join(words)})"
        reduced["description"] = f"{before} {said}" if isinstance(before, str) and before else said
    return reduced


def _in_words(key: str, value: Any) -> list[str]:
    if key in _SAYS_NOTHING and not (key == "additionalProperties" and isinstance(value, dict) and value):
        return []
    text = msgspec.json.encode(value).decode()
    return [f"{key}: {text}"] if len(text) <= _LONGEST_WORDS else []
