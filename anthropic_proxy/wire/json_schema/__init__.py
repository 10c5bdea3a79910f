"""Reduction of a client's JSON Schema (tool input or reply) to the keywords that a provider accepts.

Keywords are recognized by their position in the schema. A key inside `properties` or `$defs` is a name, never a
keyword, so a property called `default` or `type` is kept. Values of `enum`, `const`, `default` and `examples` are data
and are copied unchanged.

A small schema can cause unlimited work through its references. The functions therefore count their work in a
`WorkBudget`, which raises `WorkLimitExceeded` above a limit.
"""

from anthropic_proxy.wire.json_schema.cleaning import clean_schema
from anthropic_proxy.wire.json_schema.encoding import encode_schema, encode_schema_once
from anthropic_proxy.wire.json_schema.equality import EqualityIndex
from anthropic_proxy.wire.json_schema.merging import merge_parts
from anthropic_proxy.wire.json_schema.roots import REPLY_SCHEMA, admits_object
from anthropic_proxy.wire.json_schema.rules import BASICS, STANDARD, Schema, SchemaRules
from anthropic_proxy.wire.json_schema.strict import qualifies_for_strict
from anthropic_proxy.wire.json_schema.texts import MAX_TEXT_CHARACTERS, encode_short

__all__ = [
    "BASICS",
    "MAX_TEXT_CHARACTERS",
    "REPLY_SCHEMA",
    "STANDARD",
    "EqualityIndex",
    "Schema",
    "SchemaRules",
    "admits_object",
    "clean_schema",
    "encode_schema",
    "encode_schema_once",
    "encode_short",
    "merge_parts",
    "qualifies_for_strict",
]
