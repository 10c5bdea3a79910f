"""Reduction of a client's JSON Schema (tool input or reply) to the keywords that a provider accepts.

A key counts as a keyword only where JSON Schema expects one. A property with the name `default` or `type` is therefore
kept. Values of `enum`, `const`, `default` and `examples` are copied unchanged. A small schema can cause unlimited work
through its references. A `WorkBudget` therefore counts the work, and raises `WorkLimitExceeded` above a limit.
"""

from anthropic_proxy.wire.json_schema.cleaning import clean_schema
from anthropic_proxy.wire.json_schema.encoding import encode_schema, encode_schema_cached
from anthropic_proxy.wire.json_schema.equality import EqualityIndex
from anthropic_proxy.wire.json_schema.merging import merge_all_of
from anthropic_proxy.wire.json_schema.roots import REPLY_SCHEMA_PATH, may_accept_object
from anthropic_proxy.wire.json_schema.rules import BASIC_RULES, UNRESTRICTED_RULES, Schema, SchemaRules
from anthropic_proxy.wire.json_schema.strict import qualifies_for_strict
from anthropic_proxy.wire.json_schema.texts import MAX_TEXT_CHARACTERS, encode_if_short

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
