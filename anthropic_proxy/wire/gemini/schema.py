"""Encoder of JSON Schemas for Gemini: schemas of tools and replies, reduced to the keywords that Gemini supports.

`encode_parameter_schema` encodes the arguments of a tool, `encode_reply_schema` the schema of a reply. The result is
JSON Schema or, for old models, Google's OpenAPI subset. An unsupported keyword is added to the description as text.
`find_unsupported_keywords` returns these keywords.
"""

import re
from collections.abc import Iterator
from typing import Any

from anthropic_proxy.messages.work_budget import WorkBudget, count_json_nodes
from anthropic_proxy.wire.json_schema import (
    EqualityIndex,
    Schema,
    SchemaRules,
    clean_schema,
    encode_if_short,
    merge_all_of,
)

JSON_SCHEMA_KEYWORDS = frozenset(
    (
        *("type", "format", "title", "description", "enum", "minItems", "maxItems", "minimum", "maximum"),
        *("items", "prefixItems", "anyOf", "oneOf", "properties", "required", "additionalProperties", "$defs", "$ref"),
    )
)
"""Keywords that `parametersJsonSchema` supports (reference of GenerationConfig, `responseJsonSchema`, 2026-11)."""
OPENAPI_KEYWORDS = frozenset(
    (
        *("type", "format", "title", "description", "nullable", "enum", "minItems", "maxItems", "minimum", "maximum"),
        *("items", "anyOf", "properties", "required", "minLength", "maxLength", "pattern"),
        *("minProperties", "maxProperties"),
    )
)
"""Keywords that the message `Schema` in `parameters` supports."""
REWRITTEN_KEYWORDS = frozenset(("anyOf", "oneOf", "allOf", "$ref", "prefixItems"))
"""Keywords that the encoder replaces by others if the request field does not support them."""
DROPPED_KEYWORDS = frozenset(
    (
        *("$schema", "$id", "$comment", "$anchor", "$defs", "definitions", "additionalProperties", "additionalItems"),
        *("unevaluatedProperties", "unevaluatedItems", "deprecated", "readOnly", "writeOnly", "nullable"),
    )
)
"""Keywords that are dropped without a note to the user, because they hardly matter to a model."""


def simplify_schema(schema: Schema, index: EqualityIndex) -> Schema:
    """Return a copy of a schema with simpler keywords in place of `allOf`, `const`, `nullable` and others.

    For example, `const` becomes an `enum` with one value.
    """
    plain = merge_all_of(schema, index)
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


def type_names(schema: Schema) -> list[str]:
    """Return the type names in the keyword `type` of a schema. Its value is a string or a list."""
    types = schema.get("type")
    return [one for one in (types if isinstance(types, list) else [types]) if isinstance(one, str)]


def _kinds_of(values: list[Any]) -> str | list[str]:
    names = {str: "string", bool: "boolean", int: "integer", float: "number", dict: "object", list: "array"}
    kinds = list(dict.fromkeys(names.get(type(value), "null") for value in values)) or ["string"]
    return kinds[0] if len(kinds) == 1 else kinds


def add_enum(reduced: Schema, values: Any, description_texts: list[str]) -> None:
    """Add the keyword `enum` with `values` to `reduced`, the schema that is built for Gemini.

    The value null is omitted. Gemini accepts only strings and numbers in `enum`. If there is any other value, a text
    with all values is appended to `description_texts` instead.
    """
    if not isinstance(values, list) or not values:
        return
    kept = [value for value in values if isinstance(value, str | int | float) and not isinstance(value, bool)]
    if kept and len(kept) == sum(value is not None for value in values):
        reduced["enum"] = kept
    else:
        description_texts += describe_keyword("one of", values)


def filter_required_and_add_texts(reduced: Schema, description_texts: list[str]) -> Schema:
    """Return the schema `reduced` with a valid `required`, and with the texts `description_texts` in its description.

    `required` keeps only the names of existing properties, because Gemini rejects others.
    """
    names, required = reduced.get("properties"), reduced.get("required")
    if isinstance(required, list):
        known = names if isinstance(names, dict) else {}
        kept = [
            name for name in required if isinstance(name, str) and name in known
        ]  # Gemini rejects names without a property
        reduced = {key: value for key, value in reduced.items() if key != "required"}
        if kept:
            reduced["required"] = kept
    if description_texts:
        before = reduced.get("description")
        hint = f"({'; '.join(description_texts)})"
        reduced["description"] = f"{before} {hint}" if isinstance(before, str) and before else hint
    return reduced


def describe_keyword(key: str, value: Any) -> list[str]:
    """Return the text `key: value` for the description of a schema, as a list with one element.

    The list is empty if the model does not need the keyword `key`, or if the text would be too long.
    """
    if key in DROPPED_KEYWORDS and not (key == "additionalProperties" and isinstance(value, dict) and value):
        return []
    text = encode_if_short(value)
    return [] if text is None else [f"{key}: {text}"]


_SIMPLE_KEYWORDS = JSON_SCHEMA_KEYWORDS - {"$ref", "properties", "$defs", "anyOf", "oneOf", "prefixItems"}
"""Keywords that are sent with any value. The others are sent only with a value of the type that Gemini accepts."""
_REFERENCE = re.compile(r"#/(?:\$defs|definitions)/([^/~%]+)")
"""Pattern of the references (`$ref`) that Gemini resolves. If a schema has others, its references are replaced by the
schemas that they name."""
_INLINED = SchemaRules(inlines_references=True)


def encode_parameter_schema(schema: Any, budget: WorkBudget | None = None, *, as_openapi: bool) -> Schema | None:
    """Return the schema of a tool's arguments as JSON Schema, or in Google's OpenAPI subset if `as_openapi`.

    In the OpenAPI subset, the result is None for a tool without arguments, because Gemini rejects empty `properties`.
    Raises `WorkLimitExceeded` if the schema causes too much work.
    """
    budget = budget or WorkBudget("schema")
    if not as_openapi:
        return _standard(schema if isinstance(schema, dict) else {}, budget, is_root_object=True)
    cleaned = encode_openapi_schema(clean_schema(schema, _INLINED, budget)[0], budget)
    return cleaned if cleaned.get("properties") else None  # Gemini rejects empty `properties`


def encode_reply_schema(schema: Any, budget: WorkBudget | None = None, *, as_openapi: bool) -> Schema:
    """Return the schema of a structured reply for the request field `responseJsonSchema`.

    If `as_openapi` is True, the result is in Google's OpenAPI subset, for the field `responseSchema`. Raises
    `WorkLimitExceeded` if the schema causes too much work.
    """
    budget = budget or WorkBudget("schema")
    if as_openapi:
        return encode_openapi_schema(clean_schema(schema, _INLINED, budget)[0], budget)
    return _standard(schema if isinstance(schema, dict) else {}, budget, is_root_object=False)


def find_unsupported_keywords(schema: Any, budget: WorkBudget, *, as_openapi: bool) -> frozenset[str]:
    """Return the keywords of a schema that Gemini does not support. They are sent as text in descriptions."""
    index = EqualityIndex(budget)
    used = {key for one in _walk(schema, budget) for key in simplify_schema(one, index)}
    return frozenset(
        used - (OPENAPI_KEYWORDS if as_openapi else JSON_SCHEMA_KEYWORDS) - DROPPED_KEYWORDS - REWRITTEN_KEYWORDS
    )


def _standard(schema: Schema, budget: WorkBudget, *, is_root_object: bool) -> Schema:
    inlines = any(_cannot_refer(one) for one in _walk(schema, budget))
    if is_root_object or inlines:
        schema = clean_schema(schema, _INLINED if inlines else SchemaRules(), budget)[0]
    return _Reduction(budget).reduce(schema)


def _walk(schema: Any, budget: WorkBudget) -> Iterator[Schema]:
    """Yield a schema and all its subschemas, in no particular order."""
    open_schemas = [schema]
    while open_schemas:
        one = open_schemas.pop()
        if not isinstance(one, dict):
            continue
        budget.count_steps(1 + len(one))
        yield one
        for key, value in one.items():
            if key in ("properties", "$defs", "definitions") and isinstance(value, dict):
                open_schemas += value.values()
            elif key in ("anyOf", "oneOf", "allOf", "prefixItems", "items", "additionalProperties"):
                open_schemas += value if isinstance(value, list) else [value]


def _cannot_refer(schema: Schema) -> bool:
    """Return True if a schema has a reference that Gemini cannot resolve."""
    reference, parts = schema.get("$ref"), schema.get("allOf")
    if isinstance(reference, str) and not _REFERENCE.fullmatch(reference):
        return True
    refers = isinstance(parts, list) and any(isinstance(part, dict) and "$ref" in part for part in parts)
    return refers and (len(parts or ()) > 1 or bool(schema.keys() - {"allOf", "description", "title", "default"}))


class _Reduction:
    """Reduction of one schema to the keywords that `parametersJsonSchema` accepts."""

    def __init__(self, budget: WorkBudget) -> None:
        self._budget = budget
        self._index = EqualityIndex(budget)

    def reduce(self, schema: Any) -> Schema:
        """Return a schema with only the keywords of `JSON_SCHEMA_KEYWORDS`. Other keywords become text."""
        if not isinstance(schema, dict):
            return {}
        self._budget.count_steps(1 + len(schema))
        schema = simplify_schema(schema, self._index)
        words: list[str] = []
        reduced: Schema = {}
        for key, value in schema.items():
            match key:
                case "$ref" if isinstance(value, str):
                    reduced[key] = _REFERENCE.sub(r"#/$defs/\1", value)
                case "properties" | "$defs" | "definitions" if isinstance(value, dict):
                    name = "$defs" if key == "definitions" else key
                    reduced[name] = reduced.get(name, {}) | {one: self.reduce(inner) for one, inner in value.items()}
                case "items" if isinstance(value, list):
                    reduced["prefixItems"] = [self.reduce(one) for one in value]
                case "anyOf" | "oneOf" | "prefixItems" if isinstance(value, list):
                    _keep_list(reduced, key, [self.reduce(one) for one in value], value, words)
                case "items":
                    reduced[key] = self.reduce(value)
                case "additionalProperties":
                    reduced[key] = value if isinstance(value, bool) else self.reduce(value)
                case "enum":
                    add_enum(reduced, value, words)
                case _ if key in _SIMPLE_KEYWORDS:
                    reduced[key] = value
                case _:
                    words += describe_keyword(key, value)
        return _around_reference(filter_required_and_add_texts(reduced, words))


def _keep_list(reduced: Schema, key: str, kept: list[Schema], alternatives: list[Any], words: list[str]) -> None:
    if key == "prefixItems" or any(kept):
        reduced[key] = kept
    else:
        words += describe_keyword(key, alternatives)  # alternatives without a supported keyword


def _around_reference(reduced: Schema) -> Schema:
    """Return a schema with no other keywords beside `$ref`, because Gemini rejects them."""
    beside = {key: value for key, value in reduced.items() if key != "$ref" and not key.startswith("$")}
    if "$ref" not in reduced or not beside:
        return reduced
    annotations: Schema = {key: beside[key] for key in ("title", "description") if key in beside}
    definitions = {"$defs": reduced["$defs"]} if "$defs" in reduced else {}
    return {"anyOf": [{"$ref": reduced["$ref"]}], **annotations, **definitions}


_FORMATS = frozenset(("enum", "date-time", "float", "double", "int32", "int64"))
"""Values of the keyword `format` that Gemini accepts. Gemini rejects a schema with any other value."""
_AROUND = ("type", "properties", "required", "items")
"""Keywords that are copied from a schema into each alternative of its `anyOf`."""
_OF_KIND = {"array": ("items", "prefixItems", "minItems", "maxItems"), "object": ("properties", "required")}
"""JSON type → keywords that concern only values of this type. If a schema has several types, each type gets its own
alternative with these keywords."""


def encode_openapi_schema(schema: Schema, budget: WorkBudget) -> Schema:
    """Return a JSON Schema without references as Gemini's `Schema`, a subset of OpenAPI.

    Raises `WorkLimitExceeded` if the schema causes too much work.
    """
    lowered = _Lowering(budget).lower(schema, 0)
    budget.count_nodes(count_json_nodes(lowered))
    return lowered


class _Lowering:
    """Conversion of one JSON Schema to Gemini's `Schema`. A schema used in several places is converted once."""

    def __init__(self, budget: WorkBudget) -> None:
        self._budget = budget
        self._index = EqualityIndex(budget)
        self._lowered: dict[int, tuple[Any, Schema]] = {}
        """`id()` of a schema → the schema and its converted form. The schema is kept so that its id is not reused."""

    def lower(self, schema: Any, depth: int) -> Schema:
        """Return a schema as Gemini's `Schema`. A value that is no object counts as the empty schema."""
        self._budget.require_allowed_depth(depth)
        if not isinstance(schema, dict):
            schema = {}
        known = self._lowered.get(id(schema))
        if known is None:
            self._budget.count_steps(1 + len(schema))
            known = self._lowered[id(schema)] = schema, self._lower(schema, depth)
        return known[1]

    def _lower(self, schema: Schema, depth: int) -> Schema:
        words: list[str] = []
        schema = self._with_whole_alternatives(simplify_schema(schema, self._index), words)
        lowered, moved = self._lower_kind(schema, depth)
        for key, value in schema.items():
            match key:
                case "type" | "anyOf" | "oneOf":
                    pass
                case _ if key in moved:
                    pass
                case "properties" if isinstance(value, dict):
                    lowered[key] = {name: self.lower(inner, depth + 1) for name, inner in value.items()}
                case "items" | "prefixItems":
                    self._lower_items(lowered, value if isinstance(value, list) else [value], depth)
                case "enum":
                    add_enum(lowered, value, words)
                case "format" if value not in _FORMATS:
                    words += describe_keyword(key, value)
                case _ if key in OPENAPI_KEYWORDS and key != "nullable":
                    lowered[key] = value
                case _:
                    words += describe_keyword(key, value)
        return _finish_kind(lowered, words)

    def _with_whole_alternatives(self, schema: Schema, words: list[str]) -> Schema:
        """Copy a schema's own keywords into the alternatives of its `anyOf`, and return the changed schema.

        Gemini reads alternatives as separate schemas. Alternatives with only `type` and `required` become text in the
        description instead.
        """
        key = next((key for key in ("anyOf", "oneOf") if isinstance(schema.get(key), list)), None)
        kinds = type_names(schema) or (["object"] if "properties" in schema else [])
        kind = [one for one in kinds if one != "null"]
        if key is None or len(kind) != 1:
            return schema
        others = {name: value for name, value in schema.items() if name not in (key, *_AROUND)}
        around = {"type": kind[0], **{name: schema[name] for name in _AROUND[1:] if name in schema}}
        if all(isinstance(one, dict) and one.keys() <= {"type", "required"} for one in schema[key]):
            words += describe_keyword(key, schema[key])
            return {**others, **around, "type": kinds if len(kinds) > 1 else kind[0]}
        alternatives = [
            merge_all_of({"allOf": [around, one]}, self._index)
            if isinstance(one, dict) and one.get("type", kind[0]) == kind[0]
            else one
            for one in schema[key]
        ]
        return {**others, key: alternatives, "type": [one for one in kinds if one == "null"]}

    def _lower_kind(self, schema: Schema, depth: int) -> tuple[Schema, frozenset[str]]:
        """Return a new schema with the types of a schema, and the keywords that moved into an alternative.

        A list of types becomes alternatives in `anyOf`. The type null becomes `nullable`.
        """
        kinds = type_names(schema)
        branches = schema.get("anyOf") or schema.get("oneOf")
        branches = [one for one in branches if isinstance(one, dict)] if isinstance(branches, list) else []
        lowered: Schema = {}
        if "null" in kinds or any(one.get("type") == "null" for one in branches):
            lowered["nullable"] = True
        kinds = [kind for kind in kinds if kind != "null"]
        branches = [one for one in branches if one.get("type") != "null"]
        moved: frozenset[str] = frozenset()
        if len(kinds) > 1 and not branches:
            branches = [{**_only_of(schema, kind), "type": kind} for kind in kinds]
            moved = frozenset(name for kind in kinds for name in _OF_KIND.get(kind, ()))
        if len(branches) > 1:
            return lowered | {"anyOf": [self.lower(one, depth + 1) for one in branches]}, moved
        if branches:
            return self.lower(branches[0], depth + 1) | lowered, moved
        return lowered | {"type": (kinds[0] if kinds else _kind_of(schema)).upper()}, moved

    def _lower_items(self, lowered: Schema, items: list[Any], depth: int) -> None:
        kinds = {self._index.assign_equality_number(one): one for one in (self.lower(one, depth + 1) for one in items)}
        alternatives = list(kinds.values())
        if len(alternatives) > 1:
            lowered["items"] = {"anyOf": alternatives}
        else:
            lowered["items"] = alternatives[0] if alternatives else {"type": "STRING"}


def _finish_kind(lowered: Schema, words: list[str]) -> Schema:
    if lowered.get("type") == "ARRAY":
        lowered.setdefault("items", {"type": "STRING"})
    if not lowered.get("properties"):
        lowered.pop("properties", None)  # Gemini rejects an empty object
    is_text = lowered.get("type") == "STRING" and all(isinstance(one, str) for one in lowered.get("enum", ()))
    if "enum" in lowered and not is_text:
        # rejected for other types, and text would change the argument's type
        words += describe_keyword("one of", lowered.pop("enum"))
    return filter_required_and_add_texts(lowered, words)


def _only_of(schema: Schema, kind: str) -> Schema:
    """Return the keywords of a schema that concern only values of the JSON type `kind`."""
    return {name: schema[name] for name in _OF_KIND.get(kind, ()) if name in schema}


def _kind_of(schema: Schema) -> str:
    if "properties" in schema or "additionalProperties" in schema:
        return "object"
    return "array" if "items" in schema or "prefixItems" in schema else "string"
