"""Keywords of JSON Schema by the kind of their value, and the rules of a wire's schema language."""

from typing import Any

from msgspec import Struct

Schema = dict[str, Any]

NAMED = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
"""Keywords with a map from names to schemas."""
LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
"""Keywords with a list of schemas."""
SINGLE = ("items", "contains", "not", "if", "then", "else", "propertyNames")
"""Keywords with one schema (`items` may be a list in old drafts)."""
SWITCHES = ("additionalProperties", "additionalItems", "unevaluatedProperties", "unevaluatedItems")
"""Keywords with a schema or a boolean that has a meaning."""
DROPPED = frozenset(("$schema", "$id", "$comment"))
CHOICES = ("anyOf", "oneOf", "allOf")


class SchemaRules(Struct, frozen=True, kw_only=True, cache_hash=True):
    """Limits of a wire's schema language."""

    inlines_references: bool = False
    """True if `$ref` must be replaced by its target. A cycle becomes a plain object."""
    types_beside_choices: bool = True
    """False: `type` may not stand beside `anyOf`; it moves into the alternatives."""
    basics_only: bool = False
    """True if only types, descriptions, properties, items and enums are accepted. One of several alternatives is
    kept."""


STANDARD = SchemaRules()
BASICS = SchemaRules(inlines_references=True, basics_only=True)
"""Rules that every server accepts."""
