"""Cleaned schemas as JSON text."""

import msgspec
from msgspec import Raw

from anthropic_proxy.messages.work_budget import WorkBudget, WorkCache
from anthropic_proxy.wire.json_schema.cleaning import clean_schema
from anthropic_proxy.wire.json_schema.roots import REPLY_SCHEMA
from anthropic_proxy.wire.json_schema.rules import STANDARD, SchemaRules
from anthropic_proxy.wire.json_schema.strict import qualifies_for_strict

_KEPT = 1_024
_MAX_KEPT_BYTES = 32 * 1024
"""Size of the largest schema that is kept: with `_KEPT` it limits the size of the cache."""


def encode_schema(
    schema: bytes, budget: WorkBudget, rules: SchemaRules = STANDARD
) -> tuple[Raw, bool, tuple[str, ...]]:
    """Return a cleaned schema, whether it qualifies for strict mode, and a description of each loss.

    `schema` is JSON text; empty: there is none.
    """
    budget.decode(schema)
    cleaned, lost = clean_schema(msgspec.json.decode(schema) if schema else {}, rules, budget)
    return Raw(msgspec.json.encode(cleaned)), qualifies_for_strict(cleaned), tuple(lost)


_encode_kept = WorkCache(encode_schema, bytes, _KEPT).find


def encode_schema_once(schema: bytes, budget: WorkBudget, rules: SchemaRules) -> tuple[Raw, bool, tuple[str, ...]]:
    """Do the same with a cache: a session repeats the schema of its replies in every request."""
    with budget.work_on(REPLY_SCHEMA):
        return (_encode_kept if len(schema) <= _MAX_KEPT_BYTES else encode_schema)(schema, budget, rules)
