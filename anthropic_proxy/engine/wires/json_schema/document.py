"""Keywords of JSON Schema by the form of their value, the rules of providers, and references inside a schema.

A reference (`$ref`) such as `#/$defs/place` points to a schema inside the document, which is called its target.
"""

from typing import Any
from urllib.parse import unquote

from msgspec import Struct

from anthropic_proxy.engine.messages.work_budget import CHARACTERS_PER_NODE, WorkBudget

Schema = dict[str, Any]

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


_MAX_INDEX_DIGITS = 9
"""Maximum number of digits of a list index in a reference. A longer index is invalid."""
_MISSING = object()


class SchemaDocument:
    def __init__(self, root: Schema, budget: WorkBudget) -> None:
        self.root = root
        self.budget = budget
        self._targets: dict[str, Any] = {}

    def find_target(self, reference: str) -> Any:
        """Return the value that `#/$defs/Name` points to. None: missing, or in another document."""
        target = self._targets.get(reference, _MISSING)
        if target is _MISSING:
            self.budget.count_steps(1 + len(reference) // CHARACTERS_PER_NODE + reference.count("/"))
            target = self._targets[reference] = self._resolve(reference)
        return target

    def inline_reference(self, schema: Schema) -> Schema:
        """Replace `$ref` by the keywords of its target. Keywords beside it take precedence. Not recursive."""
        seen: set[str] = set()
        while isinstance(reference := schema.get("$ref"), str) and reference not in seen:
            seen.add(reference)
            beside = {key: value for key, value in schema.items() if key != "$ref"}
            target = self.find_target(reference)
            schema = {**target, **beside} if isinstance(target, dict) else beside
            self.budget.count_steps(1 + len(schema))
        return {key: value for key, value in schema.items() if key != "$ref"}

    def _resolve(self, reference: str) -> Any:
        if not reference.startswith("#"):
            return None
        found: Any = self.root
        for step in reference[1:].split("/")[1:]:
            is_index = step.isdecimal() and len(step) <= _MAX_INDEX_DIGITS
            if isinstance(found, list) and is_index and int(step) < len(found):
                found = found[int(step)]
            elif isinstance(found, dict):
                spellings = (step, unquote(step))  # some clients do not percent-encode names
                names = (spelling.replace("~1", "/").replace("~0", "~") for spelling in spellings)
                found = next((found[name] for name in names if name in found), None)
            else:
                return None
        return found
