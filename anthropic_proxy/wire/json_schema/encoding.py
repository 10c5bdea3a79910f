"""`encode_schema`: encodes a client's JSON Schema for a provider. JSON text in, cleaned JSON text out, with a cache.

The budget (`WorkBudget`) limits the work for one client request. In strict mode (OpenAI), a call always matches its
schema.
"""

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


def encode_schema(
    schema: bytes, budget: WorkBudget, rules: SchemaRules = UNRESTRICTED_RULES
) -> tuple[Raw, bool, tuple[str, ...]]:
    """Return a schema cleaned by `rules` as JSON text, True if strict mode allows the result, and a text for each loss.

    `schema` is JSON text. b"": no schema; the result is an object without properties. Raises `WorkLimitExceeded` above
    the budget.
    """
    budget.count_json(schema)
    cleaned, lost = clean_schema(msgspec.json.decode(schema) if schema else {}, rules, budget)
    return Raw(msgspec.json.encode(cleaned)), qualifies_for_strict(cleaned), tuple(lost)


_encode_kept = WorkCache(encode_schema, bytes, _KEPT).get_or_encode


def encode_schema_cached(schema: bytes, budget: WorkBudget, rules: SchemaRules) -> tuple[Raw, bool, tuple[str, ...]]:
    """Return the result of `encode_schema` for a client's reply schema, from a cache if possible.

    A session repeats its reply schema in every request. Error messages name `output_config.format.schema`.
    """
    with budget.error_field(REPLY_SCHEMA_PATH):
        return (_encode_kept if len(schema) <= _MAX_KEPT_BYTES else encode_schema)(schema, budget, rules)
