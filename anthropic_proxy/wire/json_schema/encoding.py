"""`encode_schema`: converts the JSON text of a client's schema to the JSON text that a provider accepts.

The result is an `EncodedSchema`, which also states if OpenAI's strict mode allows the schema. In strict mode, a tool
call always matches its schema. `encode_schema_cached` does the same for the schema of a reply, with a cache.
"""

from typing import NamedTuple

import msgspec
from msgspec import Raw

from anthropic_proxy.messages.work_budget import WorkBudget, WorkCache
from anthropic_proxy.wire.json_schema.cleaning import clean_schema
from anthropic_proxy.wire.json_schema.roots import REPLY_SCHEMA_PATH
from anthropic_proxy.wire.json_schema.rules import UNRESTRICTED_RULES, SchemaRules
from anthropic_proxy.wire.json_schema.strict import qualifies_for_strict

_KEPT = 1_024
"""Maximum number of schemas in the cache. The least recently used one is removed."""
_MAX_KEPT_BYTES = 32 * 1024
"""Maximum size in bytes of the JSON text of a cached schema. A larger schema is encoded for every request."""


class EncodedSchema(NamedTuple):
    """A client's JSON Schema as the provider accepts it, with texts about the main conditions that were lost."""

    schema: Raw
    """The cleaned schema, as JSON text."""
    qualifies_for_strict: bool
    """True if OpenAI's strict mode allows the cleaned schema."""
    losses: tuple[str, ...]
    """Texts for fidelity notes, one for each loss. Only losses at the root of the schema and of references are
    noted."""


def encode_schema(schema: bytes, budget: WorkBudget, rules: SchemaRules = UNRESTRICTED_RULES) -> EncodedSchema:
    """Return a JSON Schema as JSON text, with only the keywords that `rules` permit.

    The result also has texts about the main conditions of the client's schema that were lost. Raises
    `WorkLimitExceeded` if the work exceeds `budget`.
    """
    budget.count_decoding_steps(schema)
    cleaned, lost = clean_schema(msgspec.json.decode(schema) if schema else {}, rules, budget)
    return EncodedSchema(Raw(msgspec.json.encode(cleaned)), qualifies_for_strict(cleaned), tuple(lost))


_encode_kept = WorkCache(encode_schema, bytes, _KEPT).get_or_encode


def encode_schema_cached(schema: bytes, budget: WorkBudget, rules: SchemaRules) -> EncodedSchema:
    """Return the result of `encode_schema` for the schema of a reply, from a cache if it was encoded before.

    Large schemas are not cached. Raises `WorkLimitExceeded` if the work exceeds `budget`.
    """
    with budget.error_field(REPLY_SCHEMA_PATH):
        return (_encode_kept if len(schema) <= _MAX_KEPT_BYTES else encode_schema)(schema, budget, rules)
