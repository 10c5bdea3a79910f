"""Keywords of JSON Schema, grouped by the kind of their value, and restrictions of providers.

The groups define which keywords contain further schemas. `SchemaRules` describes the features of JSON Schema that one
provider or API accepts.
"""

from typing import Any

from msgspec import Struct

Schema = dict[str, Any]
"""A JSON Schema, decoded to a dictionary."""

SCHEMA_MAP_KEYWORDS = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
"""Keywords with a mapping from names to schemas as value."""
SCHEMA_LIST_KEYWORDS = ("anyOf", "oneOf", "allOf", "prefixItems")
"""Keywords with a list of schemas as value."""
SINGLE_SCHEMA_KEYWORDS = ("items", "contains", "not", "if", "then", "else", "propertyNames")
"""Keywords with one schema as value. In old drafts, `items` may be a list of schemas."""
SCHEMA_OR_BOOLEAN_KEYWORDS = ("additionalProperties", "additionalItems", "unevaluatedProperties", "unevaluatedItems")
"""Keywords with a schema or a boolean as value. A boolean is kept unchanged."""
DROPPED_KEYWORDS = frozenset(("$schema", "$id", "$comment"))
"""Keywords that are removed for all providers."""
ALTERNATIVE_KEYWORDS = ("anyOf", "oneOf", "allOf")
"""Keywords with a list of schemas, of which at least one, exactly one or all must match."""


class SchemaRules(Struct, frozen=True, kw_only=True, cache_hash=True):
    """Features of JSON Schema that upstream requests may use, for all servers of an API (wire) or for one provider."""

    inlines_references: bool = False
    """True if each reference (`$ref`) is replaced by the schema that it names. A recursive one becomes a plain
    object."""
    allows_type_beside_alternatives: bool = True
    """True if `type` is accepted beside `anyOf`. False: `type` is moved into each alternative."""
    allows_basics_only: bool = False
    """True if only types, descriptions, properties, required names, items, enums and references are accepted. Of
    several alternatives, the first that is not `null` is kept."""


UNRESTRICTED_RULES = SchemaRules()
"""Rules without restrictions. Keywords in `DROPPED_KEYWORDS` are removed nevertheless, and the root becomes a plain
object."""
BASIC_RULES = SchemaRules(inlines_references=True, allows_basics_only=True)
"""Rules for basic keywords only, without references. They are used after a server rejected a schema."""
