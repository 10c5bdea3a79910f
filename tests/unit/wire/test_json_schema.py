"""Tool schemas keep their meaning on a wire that accepts fewer keywords: `golden_texts/json_schema.txt`.

An input is the name of rules and a schema. The result: the schema, what was lost, and if it qualifies for strict mode.
"""

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from anthropic_proxy.engine.wires.gemini.schema import encode_parameter_schema
from anthropic_proxy.engine.wires.json_schema import (
    BASIC_RULES,
    SchemaRules,
    clean_schema,
    qualifies_for_strict,
)
from anthropic_proxy.engine.wires.typed_schemas import ALL_TYPES
from tests.support.golden_texts import Check
from tests.support.schema_languages import SCHEMA_LANGUAGES

MOONSHOT = SCHEMA_LANGUAGES["moonshot"]
RULES = {
    "plain": SchemaRules(),
    **SCHEMA_LANGUAGES,
    "basic": BASIC_RULES,
    "grammar": SchemaRules(suits_grammars=True),
}


def cleaned(schema: Any, rules: SchemaRules) -> Any:
    return clean_schema(schema, rules)[0]


def show(given: str) -> str:
    name, _, text = given.partition(" ")
    schema = json.loads(text)
    if name in ("openapi", "google"):
        whole = {"type": "object", "properties": {"a": schema}}
        parameters = encode_parameter_schema(whole, as_openapi=name == "openapi")
        return json.dumps(parameters["properties"]["a"], ensure_ascii=False)
    clean, lost = clean_schema(schema, RULES[name])
    assert schema == json.loads(text)
    strict = ["strict"] if qualifies_for_strict(schema) else []
    return "\n".join([json.dumps(clean, ensure_ascii=False), *lost, *strict])


def test_schemas(golden: Check) -> None:
    golden("json_schema", show)


NAMES = st.sampled_from(["a", "type", "$ref", "properties", "enum", "items", "anyOf"])
SCHEMAS = st.recursive(
    st.one_of(
        st.booleans(),
        st.sampled_from([{"type": "string"}, {"$ref": "#/$defs/a"}, {"$ref": "#"}, {"$ref": "#/properties/a"}]),
    ),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["object", "array"]),
            "properties": st.dictionaries(NAMES, inner, max_size=3),
            "$defs": st.dictionaries(NAMES, inner, max_size=2),
            "items": inner,
            "anyOf": st.lists(inner, max_size=2),
            "allOf": st.lists(inner, max_size=2),
            "required": st.lists(NAMES, max_size=2),
            "$comment": st.just("x"),
        },
    ),
    max_leaves=8,
)


@given(SCHEMAS, st.sampled_from([SchemaRules(), MOONSHOT, BASIC_RULES]))
@example({"properties": {"a": {"properties": {}, "$comment": "x", "items": False}}}, BASIC_RULES)
@example({"properties": {"a": {"required": ["b"], "type": ["else"], "items": {"type": "string"}}}}, BASIC_RULES)
@example({"properties": {"a": {"properties": {}, "type": [*ALL_TYPES], "enum": [], "items": False}}}, BASIC_RULES)
def test_any_schema_becomes_an_object_and_cleaning_again_changes_nothing(schema: Any, rules: SchemaRules) -> None:
    once = cleaned(schema, rules)
    assert once["type"] == "object"
    assert isinstance(once["properties"], dict)
    assert not {"$ref", "anyOf", "oneOf", "allOf"} & set(once)
    assert cleaned(once, rules) == once
