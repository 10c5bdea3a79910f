"""`encode_openapi_schema`: converts a JSON Schema to Gemini's `Schema`, a subset of OpenAPI.

Models before 2.0 accept no other kind of schema. The result is sent in the request field `parameters` or
`responseSchema`. The JSON Schema must have no references, which `clean_schema` replaces before this step.
"""

from typing import Any

from anthropic_proxy.messages.work_budget import WorkBudget, count_json_nodes
from anthropic_proxy.wire.gemini.keywords import (
    OPENAPI_KEYWORDS,
    add_enum,
    describe_keyword,
    filter_required_and_add_texts,
    simplify_schema,
    type_names,
)
from anthropic_proxy.wire.json_schema import EqualityIndex, Schema, merge_all_of

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
