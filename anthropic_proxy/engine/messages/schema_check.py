"""`check_schema`: whether a JSON value is a JSON Schema of the draft 2020-12, in one pass over it.

The library `jsonschema` checks a schema by the schema of schemas, in ten to twenty steps for each keyword: a schema of
1 MB takes seconds. This module has the same rules as functions (`_KEYWORDS`; source: json-schema.org, the vocabularies
of the draft 2020-12). It does not say what is wrong: the library does that, for the few schemas that are invalid.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from anthropic_proxy.engine.messages.work_budget import WorkBudget
from anthropic_proxy.engine.patterns import compile_later

_MEMBERS_PER_STEP = 16
_TYPES = frozenset(("array", "boolean", "integer", "null", "number", "object", "string"))
_ID = compile_later(r"^[^#]*#?$")
_ANCHOR = compile_later(r"^[A-Za-z_][-A-Za-z0-9._]*$")
_NAMED_PLACES = frozenset(("$id", "$anchor", "$dynamicAnchor"))
"""Keywords that give a place in a schema a name, to which references may point."""


class SchemaForm(NamedTuple):
    is_valid: bool
    names_places: bool
    """True if references may point to names. All others are paths."""


def check_schema(schema: Any, budget: WorkBudget) -> SchemaForm:
    """Raises `WorkLimitExceeded`."""
    names_places = False
    waiting = [(schema, 0)]
    while waiting:
        one, depth = waiting.pop()
        if isinstance(one, bool):
            continue
        if not isinstance(one, dict):
            return SchemaForm(is_valid=False, names_places=names_places)
        budget.require_allowed_depth(depth)
        members = len(one)
        for keyword, value in one.items():
            if isinstance(value, dict | list):
                members += len(value)
            if (find_schemas := _SCHEMAS.get(keyword)) is not None:
                inner = find_schemas(value)
                if inner is None:
                    return SchemaForm(is_valid=False, names_places=names_places)
                waiting += [(each, depth + 1) for each in inner]
            elif (check := _KEYWORDS.get(keyword)) is not None and not check(value):
                return SchemaForm(is_valid=False, names_places=names_places)
        names_places = names_places or not _NAMED_PLACES.isdisjoint(one)
        budget.count_steps(1 + members // _MEMBERS_PER_STEP)
    return SchemaForm(is_valid=True, names_places=names_places)


def _one(value: Any) -> list[Any]:
    return [value]


def _dependent(value: Any) -> list[Any] | None:
    if not isinstance(value, dict):
        return None
    lists = [one for one in value.values() if isinstance(one, list)]
    return [one for one in value.values() if not isinstance(one, list)] if all(map(_are_names, lists)) else None


def _are_names(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    return all(isinstance(name, str) for name in value) and len(set(value)) == len(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and (isinstance(value, int) or value.is_integer())


def _is_type(value: Any) -> bool:
    if isinstance(value, str):
        return value in _TYPES
    return bool(value) and _are_names(value) and _TYPES.issuperset(value)


_SCHEMAS: Mapping[str, Callable[[Any], list[Any] | None]] = {
    **dict.fromkeys(("items", "contains", "not", "if", "then", "else", "propertyNames", "contentSchema"), _one),
    **dict.fromkeys(("additionalProperties", "unevaluatedItems", "unevaluatedProperties"), _one),
    **dict.fromkeys(
        ("allOf", "anyOf", "oneOf", "prefixItems"), lambda value: value if isinstance(value, list) and value else None
    ),
    **dict.fromkeys(
        ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions"),
        lambda value: [*value.values()] if isinstance(value, dict) else None,
    ),
    "dependencies": _dependent,
}
"""Keyword → function that returns the schemas in its value. None: the value is invalid."""
_KEYWORDS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("$schema", "$ref", "$dynamicRef", "$recursiveRef", "$comment", "title", "description"), _is_text),
    **dict.fromkeys(("pattern", "format", "contentEncoding", "contentMediaType"), _is_text),
    **dict.fromkeys(("deprecated", "readOnly", "writeOnly", "uniqueItems"), _is_boolean),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"), _is_number),
    **dict.fromkeys(("maxLength", "minLength", "maxItems", "minItems", "maxContains", "minContains"), _is_count),
    **dict.fromkeys(("maxProperties", "minProperties"), _is_count),
    **dict.fromkeys(
        ("$anchor", "$dynamicAnchor", "$recursiveAnchor"),
        lambda value: isinstance(value, str) and _ANCHOR.search(value) is not None,
    ),
    **dict.fromkeys(("enum", "examples"), lambda value: isinstance(value, list)),
    "$id": lambda value: isinstance(value, str) and _ID.search(value) is not None,
    "$vocabulary": lambda value: isinstance(value, dict) and all(map(_is_boolean, value.values())),
    "multipleOf": lambda value: _is_number(value) and value > 0,
    "required": _are_names,
    "dependentRequired": lambda value: isinstance(value, dict) and all(map(_are_names, value.values())),
    "type": _is_type,
}
"""Keyword → function that returns True if its value is valid. Other keywords may have any value."""
FIELDS_OF_SCHEMAS = frozenset((*_SCHEMAS, *_KEYWORDS, "const", "default", "nullable"))
"""Fields of a schema that JSON Schema defines, and `nullable` of OpenAPI."""
