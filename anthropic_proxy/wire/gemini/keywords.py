"""Keywords of JSON Schema in Gemini requests: sets of supported keywords, and functions that change one schema.

Gemini has two request fields for the schema of a tool: `parametersJsonSchema` accepts a subset of JSON Schema,
`parameters` a subset of OpenAPI. An unsupported keyword is added to the description as text, so that the model can
follow it. `simplify_schema` replaces keywords by simpler ones. The other functions read or add single keywords and
texts.
"""

from typing import Any

from anthropic_proxy.wire.json_schema import EqualityIndex, Schema, encode_if_short, merge_all_of

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
