"""`clean_schema`: removes and replaces JSON Schema keywords that a provider does not accept.

The schemas describe the arguments of client tools, or the reply. `SchemaRules` has the restrictions of the provider.
The result is a `CleanedSchema`: the schema, and texts for the main losses. A loss is a condition of the client's schema
that the cleaned schema no longer contains. Some providers accept no references (`$ref`). Each reference is then
replaced by the schema that it names. `MAX_INLINED_REFERENCES` limits the number of replacements.
"""

from typing import Any, NamedTuple

from anthropic_proxy.messages.work_budget import CHARACTERS_PER_NODE, WorkBudget, count_json_nodes
from anthropic_proxy.wire.json_schema.document import (
    DROPPED_KEYWORDS,
    SCHEMA_LIST_KEYWORDS,
    SCHEMA_MAP_KEYWORDS,
    SCHEMA_OR_BOOLEAN_KEYWORDS,
    SINGLE_SCHEMA_KEYWORDS,
    UNRESTRICTED_RULES,
    Schema,
    SchemaDocument,
    SchemaRules,
)
from anthropic_proxy.wire.json_schema.merging import EqualityIndex, merge_all_of
from anthropic_proxy.wire.json_schema.roots import flatten_root

MAX_INLINED_REFERENCES = 1_000
"""Maximum number of references (`$ref`) in one schema that are replaced by their targets. Each further one becomes a
plain object (`{"type": "object"}`). Definitions that contain each other would otherwise grow without end."""
_BASICS = frozenset(("type", "description", "properties", "required", "items", "enum", "$ref"))


class CleanedSchema(NamedTuple):
    """A decoded JSON Schema, reduced to the keywords that a provider accepts."""

    schema: Schema
    """The schema. Its root is an object with `properties`."""
    losses: list[str]
    """Texts for fidelity notes, one for each loss. Only losses at the root of the schema and of references are
    noted."""


def clean_schema(
    schema: Any, rules: SchemaRules = UNRESTRICTED_RULES, budget: WorkBudget | None = None
) -> CleanedSchema:
    """Return a copy of a schema with only the keywords that `rules` permit, and a text for each loss.

    Raises `WorkLimitExceeded` if the work exceeds `budget`.
    """
    budget = budget or WorkBudget("schema")
    lost: list[str] = []
    document = SchemaDocument(schema if isinstance(schema, dict) else {}, budget)
    index = EqualityIndex(budget)
    root = flatten_root(document, index, lost)
    walk = _Walk(SchemaDocument(root, budget), index, rules)
    cleaned = walk.clean(root, (), 0)
    if rules.inlines_references:
        cleaned.pop("$defs", None)
        cleaned.pop("definitions", None)
    if walk.inlined > MAX_INLINED_REFERENCES:
        lost.append(f"references after the first {MAX_INLINED_REFERENCES:,} became plain objects")
    return CleanedSchema(cleaned, list(dict.fromkeys(lost)))


class _Walk:
    """Recursive pass over one JSON Schema, which builds the cleaned copy."""

    def __init__(self, document: SchemaDocument, index: EqualityIndex, rules: SchemaRules) -> None:
        self._document = document
        self._index = index
        self._budget = document.budget
        self._rules = rules
        self._sizes: dict[int, int] = {}
        """`id()` of a value that is copied unchanged, such as an `enum` → number of its nodes."""
        self.inlined = 0
        """Number of references found so far, if `rules` require their replacement."""

    def clean(self, schema: Any, trail: tuple[str, ...], depth: int) -> Schema:
        """Return a cleaned copy of a schema at any position. A value that is not a JSON object becomes `{}`.

        `trail`: references that led to this schema, to detect recursion. `depth`: nesting of this schema. Raises
        `WorkLimitExceeded`.
        """
        if not isinstance(schema, dict):
            return {}
        self._budget.require_allowed_depth(depth)
        self._budget.count_nodes(1 + len(schema))
        if self._rules.allows_basics_only:
            schema = self._reduce_to_basics(schema)
        reference = schema.get("$ref")
        if self._rules.inlines_references and isinstance(reference, str):
            return self._inline(schema, reference, trail, depth + 1)
        cleaned: Schema = {}
        for key, value in schema.items():
            if key in DROPPED_KEYWORDS:
                continue
            if key in SCHEMA_MAP_KEYWORDS and isinstance(value, dict):
                self._budget.count_nodes(len(value) + sum(map(len, value)) // CHARACTERS_PER_NODE)
                cleaned[key] = {name: self.clean(inner, trail, depth + 1) for name, inner in value.items()}
            elif isinstance(value, list) and (key in SCHEMA_LIST_KEYWORDS or key in SINGLE_SCHEMA_KEYWORDS):
                cleaned[key] = [self.clean(inner, trail, depth + 1) for inner in value]
            elif key in SINGLE_SCHEMA_KEYWORDS or (key in SCHEMA_OR_BOOLEAN_KEYWORDS and isinstance(value, dict)):
                cleaned[key] = self.clean(value, trail, depth + 1)
            else:
                self._count_data(value)
                cleaned[key] = value
        if not self._rules.allows_type_beside_alternatives and "type" in cleaned and _has_alternatives(cleaned):
            kind = cleaned.pop("type")
            cleaned["anyOf"] = [self._typed(one, kind) for one in cleaned["anyOf"]]
        return cleaned

    def _inline(self, schema: Schema, reference: str, trail: tuple[str, ...], depth: int) -> Schema:
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        target = self._document.find_target(reference)
        self.inlined += 1
        if reference in trail or not isinstance(target, dict) or self.inlined > MAX_INLINED_REFERENCES:
            return {"type": "object", **self.clean(beside, trail, depth)}
        return self.clean({**target, **beside}, (*trail, reference), depth)

    def _count_data(self, value: Any) -> None:
        """Count the nodes of a value that is copied unchanged. Each copy counts, because references can repeat it."""
        if isinstance(value, str):
            if len(value) >= CHARACTERS_PER_NODE:
                self._budget.count_nodes(len(value) // CHARACTERS_PER_NODE)
        elif isinstance(value, list | dict):
            nodes = self._sizes.get(id(value))
            if nodes is None:
                nodes = self._sizes[id(value)] = count_json_nodes(value)
            self._budget.count_nodes(nodes)

    def _reduce_to_basics(self, schema: Schema) -> Schema:
        """Return a schema with basic keywords only. It has one type and no alternatives.

        Schemas inside its `properties` and `items` are not changed.
        """
        whole = merge_all_of(schema, self._index)
        for key in ("anyOf", "oneOf"):
            branches = whole.get(key)
            if isinstance(branches, list):
                known = (one for one in branches if isinstance(one, dict) and one.get("type") != "null")
                whole = {**next(known, {}), **whole}
        if "const" in whole:
            whole = {"enum": [whole["const"]], **whole}
        basics = {key: value for key, value in whole.items() if key in _BASICS}
        if isinstance(kinds := basics.get("type"), list):
            basics["type"] = next((kind for kind in kinds if kind != "null"), "string")
        return basics

    def _typed(self, schema: Schema, kind: Any) -> Schema:
        """Return an alternative of `anyOf` with the type `kind` of the schema that contains it.

        An alternative with `type` or `$ref` is returned unchanged.
        """
        self._budget.count_steps()
        if "type" in schema or "$ref" in schema:
            return schema
        if _has_alternatives(schema):
            return {**schema, "anyOf": [self._typed(one, kind) for one in schema["anyOf"]]}
        return {"type": kind, **schema}


def _has_alternatives(schema: Schema) -> bool:
    return isinstance(schema.get("anyOf"), list) and bool(schema["anyOf"])


_STRICT = frozenset(
    (
        *("type", "properties", "required", "additionalProperties", "items", "anyOf", "enum", "const"),
        *("$ref", "$defs", "definitions", "title", "description", "pattern", "format", "multipleOf"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems"),
    )
)
"""Keywords that OpenAI's strict mode accepts (platform.openai.com, Structured Outputs, "Supported schemas"; 2026-11).
"""


def qualifies_for_strict(schema: Any) -> bool:
    """Return True if a schema, cleaned by `clean_schema`, may be sent with `strict: true`."""
    # Each object must require all its properties and forbid others. Each keyword must be accepted by strict mode.
    open_schemas = [schema]
    while open_schemas:
        one = open_schemas.pop()
        if not isinstance(one, dict) or not _STRICT.issuperset(one) or not _is_closed(one):
            return False
        for key in ("properties", "$defs", "definitions"):
            named = one.get(key, {})
            if not isinstance(named, dict):
                return False
            open_schemas += named.values()
        alternatives = one.get("anyOf", [])
        if not isinstance(alternatives, list):
            return False
        open_schemas += alternatives
        if "items" in one:
            open_schemas.append(one["items"])
    return True


def _is_closed(schema: Schema) -> bool:
    """Return True if a schema has a type. An object must also require all its properties and forbid others.

    `anyOf`, `$ref`, `enum` and `const` count as a type.
    """
    if schema.get("type") == "object" or "properties" in schema:
        names, required = schema.get("properties", {}), schema.get("required")
        if not isinstance(names, dict) or schema.get("additionalProperties") is not False:
            return False
        return names.keys() == {
            name for name in (required if isinstance(required, list) else ()) if isinstance(name, str)
        }
    return "type" in schema or bool({"anyOf", "$ref", "enum", "const"} & schema.keys())
