"""Encoder of JSON Schemas for Gemini: schemas of tools and replies, reduced to the keywords that Gemini supports.

Theory of operation. Gemini reads two languages. Current models accept JSON Schema (`parametersJsonSchema`,
`responseJsonSchema`) with few keywords, and only references to definitions; others are inlined (`_Reduction`). Models
before 2.0 accept Google's OpenAPI subset (`parameters`, `responseSchema`), which has no references and one type per
schema (`_Lowering`). Each schema of a tree takes three steps: `_simplify` writes keywords with a simpler equal in that
form (`const` as `enum`, `allOf` as one schema), the class of the language copies what its language has, and every other
keyword becomes a text in the description, because the model reads it there.

Why it is not simpler: Gemini rejects a whole request for one wrong keyword, and reads an alternative of `anyOf` without
the keywords beside it. So the lowering copies those into each alternative, splits a schema with several types into one
alternative per type, and makes `null` the field `nullable`. Copies could multiply with each level: a schema that stands
in several places is converted once, and a `WorkBudget` counts the rest.
"""

from collections.abc import Iterator
from typing import Any

from anthropic_proxy.engine.messages.work_budget import WorkBudget, count_json_nodes
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.wires.json_schema import SchemaRules, clean_schema
from anthropic_proxy.engine.wires.schema_parts import (
    EqualityIndex,
    Schema,
    add_texts,
    describe_keyword,
    holds_type,
    merge_all_of,
    required_names,
)

_INLINED = SchemaRules(inlines_references=True)
_JSON_SCHEMA_KEYWORDS = frozenset(
    (
        *("type", "format", "title", "description", "enum", "minItems", "maxItems", "minimum", "maximum"),
        *("items", "prefixItems", "anyOf", "oneOf", "properties", "required", "additionalProperties", "$defs", "$ref"),
    )
)
"""Keywords that `parametersJsonSchema` supports (reference of GenerationConfig, `responseJsonSchema`, 2026-11)."""
_OPENAPI_KEYWORDS = frozenset(
    (
        *("type", "format", "title", "description", "nullable", "enum", "minItems", "maxItems", "minimum", "maximum"),
        *("items", "anyOf", "properties", "required", "minLength", "maxLength", "pattern"),
        *("minProperties", "maxProperties"),
    )
)
_REWRITTEN_KEYWORDS = frozenset(("anyOf", "oneOf", "allOf", "$ref", "prefixItems"))
"""Keywords that the encoder replaces by others if the request field does not support them."""
_DROPPED_KEYWORDS = frozenset(
    (
        *("$schema", "$id", "$comment", "$anchor", "$defs", "definitions", "additionalProperties", "additionalItems"),
        *("unevaluatedProperties", "unevaluatedItems", "deprecated", "readOnly", "writeOnly", "nullable"),
    )
)
"""Keywords that are dropped without a note to the user, because they hardly matter to a model."""


def encode_parameter_schema(schema: Any, budget: WorkBudget | None = None, *, as_openapi: bool) -> Schema | None:
    """Return the schema of a tool's arguments as JSON Schema, or in Google's OpenAPI subset if `as_openapi`.

    In the OpenAPI subset, the result is None for a tool without arguments, because Gemini rejects empty `properties`.
    Raises `WorkLimitExceeded`.
    """
    budget = budget or WorkBudget("schema")
    lowered = _lower(schema, budget) if as_openapi else _reduce(schema, budget, is_root_object=True)
    return lowered if not as_openapi or lowered.get("properties") else None


def encode_reply_schema(schema: Any, budget: WorkBudget | None = None, *, as_openapi: bool) -> Schema:
    """Return the schema of a structured reply for the request field `responseJsonSchema`.

    If `as_openapi` is True, the result is in Google's OpenAPI subset, for the field `responseSchema`. Raises
    `WorkLimitExceeded`.
    """
    budget = budget or WorkBudget("schema")
    return _lower(schema, budget) if as_openapi else _reduce(schema, budget, is_root_object=False)


def find_unsupported_keywords(schema: Any, budget: WorkBudget, *, as_openapi: bool) -> frozenset[str]:
    """Return the keywords of a schema that Gemini does not support. They are sent as text in descriptions."""
    index = EqualityIndex(budget)
    used = {key for one in _walk(schema, budget) for key in _simplify(one, index)}
    supported = _OPENAPI_KEYWORDS if as_openapi else _JSON_SCHEMA_KEYWORDS
    return frozenset(used - supported - _DROPPED_KEYWORDS - _REWRITTEN_KEYWORDS)


def _walk(schema: Any, budget: WorkBudget) -> Iterator[Schema]:
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


# JSON Schema with few keywords

_REFERENCE = compile_later(r"#/(?:\$defs|definitions)/([^/~%]+)")
"""Pattern of the references (`$ref`) that Gemini resolves. If a schema has others, all its references are inlined."""
_SIMPLE_KEYWORDS = _JSON_SCHEMA_KEYWORDS - {"$ref", "properties", "$defs", "anyOf", "oneOf", "prefixItems"}
"""Keywords that are sent with any value. The others are sent only with a value of the type that Gemini accepts."""


def _reduce(schema: Any, budget: WorkBudget, *, is_root_object: bool) -> Schema:
    names = _definition_names(schema)
    if not any(_cannot_refer(one, names) for one in _walk(schema, budget)):
        plain = clean_schema(schema, SchemaRules(), budget)[0] if is_root_object else schema
        reduced = _Reduction(budget).reduce(plain)
        if not _needs_itself(reduced, budget):
            return reduced
    return _Reduction(budget).reduce(clean_schema(schema, _INLINED, budget)[0])


def _definition_names(schema: Any) -> frozenset[str]:
    keywords = ("$defs", "definitions") if isinstance(schema, dict) else ()
    return frozenset(name for key in keywords if isinstance(schema.get(key), dict) for name in schema[key])


def _cannot_refer(schema: Schema, names: frozenset[str]) -> bool:
    """Return True if a schema has a reference that Gemini cannot resolve, or one that merging cannot keep.

    `names`: those of the definitions.
    """
    reference, parts = schema.get("$ref"), schema.get("allOf")
    if isinstance(reference, str) and ((found := _REFERENCE.fullmatch(reference)) is None or found[1] not in names):
        return True
    refers = isinstance(parts, list) and any(isinstance(part, dict) and "$ref" in part for part in parts)
    return refers and (len(parts or ()) > 1 or bool(schema.keys() - {"allOf", "description", "title", "default"}))


def _needs_itself(schema: Schema, budget: WorkBudget) -> bool:
    """Return True if a definition of a reduced schema contains itself without an optional property between.

    Gemini unrolls circles of references only inside of optional properties (reference of GenerationConfig,
    `responseJsonSchema`, 2026-11-29).
    """
    definitions: Schema = schema.get("$defs", {})
    open_needs = {name: set(_list_needed(inner, budget)) & definitions.keys() for name, inner in definitions.items()}
    # a definition that needs no other one that is left belongs to no circle
    users: dict[str, list[str]] = {name: [] for name in definitions}
    for name, needed in open_needs.items():
        for other in needed:
            users[other].append(name)
    ended = [name for name, needed in open_needs.items() if not needed]
    for name in ended:  # it grows
        for user in users[name]:
            open_needs[user].discard(name)
            if not open_needs[user]:
                ended.append(user)
    return len(ended) < len(definitions)


def _list_needed(definition: Any, budget: WorkBudget) -> Iterator[str]:
    """Yield the names of the definitions to which a schema refers outside of its optional properties."""
    open_schemas = [definition]
    while open_schemas:
        one = open_schemas.pop()
        if not isinstance(one, dict):
            continue
        budget.count_steps(1 + len(one))
        if isinstance(reference := one.get("$ref"), str) and (found := _REFERENCE.fullmatch(reference)) is not None:
            yield found[1]
        for key, value in one.items():
            if key == "properties" and isinstance(value, dict):
                required = one.get("required")
                needed = required_names(required)
                open_schemas += [inner for name, inner in value.items() if name in needed]
            elif key in ("anyOf", "oneOf", "prefixItems", "items", "additionalProperties"):
                open_schemas += value if isinstance(value, list) else [value]


class _Reduction:
    def __init__(self, budget: WorkBudget) -> None:
        self._budget = budget
        self._index = EqualityIndex(budget)

    def reduce(self, schema: Any) -> Schema:
        if not isinstance(schema, dict):
            return {}
        self._budget.count_steps(1 + len(schema))
        schema = _simplify(schema, self._index)
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
                    kept = [self.reduce(one) for one in value]
                    if key == "prefixItems" or any(kept):
                        reduced[key] = kept
                    else:  # alternatives without a supported keyword
                        words += _describe(key, value)
                case "items":
                    reduced[key] = self.reduce(value)
                case "additionalProperties" if "patternProperties" in schema:
                    pass  # without the patterns, names that match them would count as additional ones
                case "additionalProperties":
                    reduced[key] = value if isinstance(value, bool) else self.reduce(value)
                case "enum":
                    _add_enum(reduced, value, words)
                case _ if key in _SIMPLE_KEYWORDS:
                    reduced[key] = value
                case _:
                    words += _describe(key, value)
        if "prefixItems" in reduced:
            reduced.setdefault("items", {})
        elif holds_type(reduced.get("type"), "array") and not reduced.get("items"):
            reduced["items"] = {"type": "string"}
        reduced = _filter_required_and_add_texts(reduced, words)
        if "$ref" not in reduced or reduced.keys() <= {"$ref", "$defs"}:
            return reduced
        # Gemini rejects other keywords beside a `$ref`
        beside: Schema = {key: reduced[key] for key in ("title", "description", "$defs") if key in reduced}
        return {"anyOf": [{"$ref": reduced["$ref"]}], **beside}


# Google's OpenAPI subset

_FORMATS = frozenset(("enum", "date-time", "float", "double", "int32", "int64"))
_AROUND = ("type", "properties", "required", "items")
"""Keywords that are copied from a schema into each alternative of its `anyOf`."""
_OF_TYPE = {"array": ("items", "prefixItems", "minItems", "maxItems"), "object": ("properties", "required")}
"""JSON type → keywords that concern only values of this type. If a schema has several types, each type gets its own
alternative with these keywords."""


def _lower(schema: Any, budget: WorkBudget) -> Schema:
    lowered = _Lowering(budget).lower(clean_schema(schema, _INLINED, budget)[0], 0)
    budget.count_nodes(count_json_nodes(lowered))
    return lowered


class _Lowering:
    """Conversion of one JSON Schema without references to Gemini's `Schema`.

    A schema used in several places is converted once.
    """

    def __init__(self, budget: WorkBudget) -> None:
        self._budget = budget
        self._index = EqualityIndex(budget)
        self._lowered: dict[int, tuple[Any, Schema]] = {}
        """`id()` of a schema → the schema and its converted form. The schema is kept so that its id is not reused."""

    def lower(self, schema: Any, depth: int) -> Schema:
        self._budget.require_allowed_depth(depth)
        given: Schema = schema if isinstance(schema, dict) else {}
        if (known := self._lowered.get(id(given))) is not None:
            return known[1]
        self._budget.count_steps(1 + len(given))
        words: list[str] = []
        schema = self._complete_alternatives(_simplify(given, self._index), words)
        lowered, moved = self._lower_types(schema, depth)
        for key, value in schema.items():
            match key:
                case _ if key in ("type", "anyOf", "oneOf", *moved):
                    pass
                case "properties" if isinstance(value, dict):
                    lowered[key] = {name: self.lower(inner, depth + 1) for name, inner in value.items()}
                case "items" if not value and "prefixItems" in schema:
                    pass
                case "items" | "prefixItems":
                    items = [self.lower(one, depth + 1) for one in (value if isinstance(value, list) else [value])]
                    distinct = list({self._index.assign_equality_number(one): one for one in items}.values())
                    if len(distinct) > 1:
                        lowered["items"] = {"anyOf": distinct}
                    else:
                        lowered["items"] = distinct[0] if distinct else {"type": "STRING"}
                case "enum":
                    _add_enum(lowered, value, words)
                case "format" if value not in _FORMATS:
                    words += _describe(key, value)
                case _ if key in _OPENAPI_KEYWORDS and key != "nullable":
                    lowered[key] = value
                case _:
                    words += _describe(key, value)
        _replace_rejected_values(lowered, words)
        lowered = _filter_required_and_add_texts(lowered, words)
        self._lowered[id(given)] = given, lowered
        return lowered

    def _complete_alternatives(self, schema: Schema, words: list[str]) -> Schema:
        """Copy a schema's own keywords into the alternatives of its `anyOf`, and return the changed schema.

        Gemini reads alternatives as separate schemas. Alternatives with only `type` and `required` become text in the
        description instead.
        """
        key = next((key for key in ("anyOf", "oneOf") if isinstance(schema.get(key), list)), None)
        types = _type_names(schema) or (["object"] if "properties" in schema else [])
        values = [one for one in types if one != "null"]
        if key is None or len(values) != 1:
            return schema
        others = {name: value for name, value in schema.items() if name not in (key, *_AROUND)}
        around = {"type": values[0], **{name: schema[name] for name in _AROUND[1:] if name in schema}}
        if all(isinstance(one, dict) and one.keys() <= {"type", "required"} for one in schema[key]):
            words += _describe(key, schema[key])
            return {**others, **around, "type": types if len(types) > 1 else values[0]}
        fits = [isinstance(one, dict) and one.get("type", values[0]) == values[0] for one in schema[key]]
        alternatives = [
            merge_all_of({"allOf": [around, one]}, self._index) if fit else one
            for one, fit in zip(schema[key], fits, strict=True)
        ]
        return {**others, key: alternatives, "type": [one for one in types if one == "null"]}

    def _lower_types(self, schema: Schema, depth: int) -> tuple[Schema, frozenset[str]]:
        """Return the schema's types, and the keywords that moved into an alternative. Null becomes `nullable`."""
        types = _type_names(schema)
        branches = schema.get("anyOf") or schema.get("oneOf")
        branches = [one for one in branches if isinstance(one, dict)] if isinstance(branches, list) else []
        lowered: Schema = {}
        if "null" in types or any(one.get("type") == "null" for one in branches):
            lowered["nullable"] = True
        types = [one for one in types if one != "null"]
        branches = [one for one in branches if one.get("type") != "null"]
        moved: frozenset[str] = frozenset()
        if len(types) > 1 and not branches:
            branches = [
                {**{name: schema[name] for name in _OF_TYPE.get(one, ()) if name in schema}, "type": one}
                for one in types
            ]
            moved = frozenset(name for one in types for name in _OF_TYPE.get(one, ()))
        if len(branches) > 1:
            return lowered | {"anyOf": [self.lower(one, depth + 1) for one in branches]}, moved
        if branches:
            return self.lower(branches[0], depth + 1) | lowered, moved
        if types:
            lowered["type"] = types[0].upper()
        elif "properties" in schema or "additionalProperties" in schema:
            lowered["type"] = "OBJECT"
        else:
            lowered["type"] = "ARRAY" if "items" in schema or "prefixItems" in schema else "STRING"
        return lowered, moved


# Parts of both languages

_TYPE_NAMES = {str: "string", bool: "boolean", int: "integer", float: "number", dict: "object", list: "array"}


def _simplify(schema: Schema, index: EqualityIndex) -> Schema:
    """Return a copy without `allOf`, `const`, `nullable` and others: `const` becomes an `enum` with one value."""
    plain = merge_all_of(schema, index)
    if plain.get("nullable") is True and isinstance(plain.get("type"), str):
        plain = {**plain, "type": [plain["type"], "null"]}  # OpenAPI's way
    if "const" in plain:
        plain = {key: value for key, value in plain.items() if key != "const"} | {"enum": [plain["const"]]}
    if isinstance(plain.get("enum"), list) and not any(map(plain.get, ("type", "anyOf", "oneOf", "$ref"))):
        types = list(dict.fromkeys(_TYPE_NAMES.get(type(value), "null") for value in plain["enum"])) or ["string"]
        plain = {**plain, "type": types[0] if len(types) == 1 else types}
    if plain.get("type") == "integer":
        for key, bound, step in (("exclusiveMinimum", "minimum", 1), ("exclusiveMaximum", "maximum", -1)):
            edge = plain.get(key)
            if isinstance(edge, int) and not isinstance(edge, bool) and bound not in plain:
                plain = {name: value for name, value in plain.items() if name != key} | {bound: edge + step}
    return plain


def _type_names(schema: Schema) -> list[str]:
    types = schema.get("type")
    return [one for one in (types if isinstance(types, list) else [types]) if isinstance(one, str)]


def _add_enum(reduced: Schema, values: Any, words: list[str]) -> None:
    """Add `enum` to `schema`, or a text to `words`: Gemini accepts only numbers and strings that are not empty."""
    if not isinstance(values, list) or not values:
        return
    kept = [value for value in values if isinstance(value, str | int | float) and not isinstance(value, bool)]
    kept = [value for value in kept if value != ""]
    texts = _describe("one of", values)
    has_only_kept = len(kept) == sum(value is not None for value in values)
    has_only_texts_beside = not texts and all(isinstance(value, str | None) for value in values)
    if kept and (has_only_kept or has_only_texts_beside):  # without its own text, a long list stays, but for ""
        reduced["enum"] = kept
    else:
        words += texts


def _filter_required_and_add_texts(reduced: Schema, words: list[str]) -> Schema:
    names, required = reduced.get("properties"), reduced.get("required")
    if isinstance(required, list):
        known = names if isinstance(names, dict) else {}
        # Gemini rejects names without a property
        kept = [name for name in required if isinstance(name, str) and name in known]
        reduced = {key: value for key, value in reduced.items() if key != "required"}
        if kept:
            reduced["required"] = kept
    add_texts(reduced, words)
    return reduced


def _describe(key: str, value: Any) -> list[str]:
    """Return the text `key: value` in a list. Empty: the model does not need it, or the text is too long."""
    if key in _DROPPED_KEYWORDS and not (key == "additionalProperties" and isinstance(value, dict) and value):
        return []
    text = describe_keyword(key, value)
    return [text] if text else []


def _replace_rejected_values(lowered: Schema, words: list[str]) -> None:
    if lowered.get("type") == "ARRAY":
        lowered.setdefault("items", {"type": "STRING"})
    if not lowered.get("properties"):
        lowered.pop("properties", None)  # Gemini rejects an empty object
    is_text = lowered.get("type") == "STRING" and all(isinstance(one, str) for one in lowered.get("enum", ()))
    if "enum" in lowered and not is_text:
        # rejected for other types, and text would change the argument's type
        words += _describe("one of", lowered.pop("enum"))
