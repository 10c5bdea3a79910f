"""Encoder of JSON Schemas for Gemini: schemas of tools and replies, reduced to the keywords that Gemini supports.

`encode_parameter_schema` encodes the arguments of a tool, `encode_reply_schema` the schema of a reply. The result is
JSON Schema or, for old models, Google's OpenAPI subset. An unsupported keyword is added to the description as text.
`find_unsupported_keywords` returns these keywords.
"""

import re
from collections.abc import Iterator
from typing import Any

from anthropic_proxy.messages.work_budget import WorkBudget
from anthropic_proxy.wire.gemini.keywords import (
    DROPPED_KEYWORDS,
    JSON_SCHEMA_KEYWORDS,
    OPENAPI_KEYWORDS,
    REWRITTEN_KEYWORDS,
    add_enum,
    describe_keyword,
    filter_required_and_add_texts,
    simplify_schema,
)
from anthropic_proxy.wire.gemini.lowering import encode_openapi_schema
from anthropic_proxy.wire.json_schema import EqualityIndex, Schema, SchemaRules, clean_schema

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
