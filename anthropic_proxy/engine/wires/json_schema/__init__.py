"""Reduction of a client's JSON Schema (tool input or reply) to the keywords that a provider accepts.

Theory of operation: providers read different parts of JSON Schema (`SchemaRules`), and reject a request with any other
keyword. `clean_schema` builds a copy in two passes. The first makes the root a plain object, because all providers
require one: alternatives at the root are merged into one object with all their properties (`_RootFlattener`). The
second walks over the rest, drops keywords, and inlines references if the provider accepts none. What is lost at the
root is described in texts for fidelity notes. A key counts as a keyword only where JSON Schema expects one, so a
property with the name `default` or `type` is kept.

Why it is not simpler: a small schema can cause unlimited work through its references and alternatives. So every list
of alternatives and every reference is read once, equal values are found by numbers instead of comparisons
(`EqualityIndex`), and a `WorkBudget` counts the rest and raises `WorkLimitExceeded` above a limit.
"""

from typing import NamedTuple

import msgspec
from msgspec import Raw

from anthropic_proxy.engine.messages.work_budget import WorkBudget, WorkCache
from anthropic_proxy.engine.wires.json_schema.cleaning import (
    MAX_TEXT_CHARACTERS,
    REPLY_SCHEMA_PATH,
    clean_schema,
    encode_if_short,
    may_accept_object,
    qualifies_for_strict,
)
from anthropic_proxy.engine.wires.json_schema.document import BASIC_RULES, UNRESTRICTED_RULES, Schema, SchemaRules
from anthropic_proxy.engine.wires.json_schema.merging import EqualityIndex, merge_all_of

__all__ = [
    "BASIC_RULES",
    "MAX_TEXT_CHARACTERS",
    "REPLY_SCHEMA_PATH",
    "UNRESTRICTED_RULES",
    "EqualityIndex",
    "Schema",
    "SchemaRules",
    "clean_schema",
    "encode_if_short",
    "encode_schema",
    "encode_schema_cached",
    "may_accept_object",
    "merge_all_of",
    "qualifies_for_strict",
]


_KEPT = 1_024
"""Maximum number of schemas in the cache. The least recently used one is removed."""
_MAX_KEPT_BYTES = 32 * 1024
"""Maximum size in bytes of the JSON text of a cached schema. A larger schema is encoded for every request."""


class EncodedSchema(NamedTuple):
    """A client's JSON Schema as the provider accepts it, with texts about the main conditions that were lost."""

    schema: Raw
    qualifies_for_strict: bool
    """True if OpenAI's strict mode allows the cleaned schema."""
    losses: tuple[str, ...]
    """Texts for fidelity notes, one for each loss. Only losses at the root of the schema and of references are
    noted."""


def encode_schema(schema: bytes, budget: WorkBudget, rules: SchemaRules = UNRESTRICTED_RULES) -> EncodedSchema:
    """Return a JSON Schema with only the keywords that `rules` permit. Raises `WorkLimitExceeded`."""
    budget.count_decoding_steps(schema)
    cleaned, lost = clean_schema(msgspec.json.decode(schema) if schema else {}, rules, budget)
    return EncodedSchema(Raw(msgspec.json.encode(cleaned)), qualifies_for_strict(cleaned), tuple(lost))


_encode_kept = WorkCache(encode_schema, bytes, _KEPT).get_or_encode


def encode_schema_cached(schema: bytes, budget: WorkBudget, rules: SchemaRules) -> EncodedSchema:
    """Return the result of `encode_schema` for the schema of a reply, from a cache if it was encoded before."""
    with budget.error_field(REPLY_SCHEMA_PATH):
        return (_encode_kept if len(schema) <= _MAX_KEPT_BYTES else encode_schema)(schema, budget, rules)
