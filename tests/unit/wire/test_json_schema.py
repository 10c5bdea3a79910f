"""Tool schemas keep their meaning on a wire that accepts fewer keywords."""

import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.engine.wires.json_schema import (
    BASIC_RULES,
    SchemaRules,
    clean_schema,
    qualifies_for_strict,
)

MOONSHOT = SchemaRules(inlines_references=True, allows_type_beside_alternatives=False)
SEARCH = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}


def cleaned(schema: Any, rules: SchemaRules | None = None) -> Any:
    return clean_schema(schema, rules or SchemaRules())[0]


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({}, {"type": "object", "properties": {}}),
        (None, {"type": "object", "properties": {}}),
        (True, {"type": "object", "properties": {}}),
        ({"type": "object"}, {"type": "object", "properties": {}}),
        ({"type": "object", "properties": None}, {"type": "object", "properties": {}}),
        (SEARCH, SEARCH),
        ({"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "x", "$comment": "y", **SEARCH}, SEARCH),
        (
            {"type": "object", "properties": {"any": True, "none": False, "list": {"type": "array", "items": True}}},
            {"type": "object", "properties": {"any": {}, "none": {}, "list": {"type": "array", "items": {}}}},
        ),
        (
            {"type": "object", "properties": {}, "additionalProperties": False},
            {"type": "object", "properties": {}, "additionalProperties": False},
        ),
    ],
)
def test_roots_become_plain_objects(schema: Any, expected: Any) -> None:
    assert cleaned(schema) == expected


def test_properties_named_like_keywords_survive() -> None:
    names = ["$schema", "$id", "$comment", "type", "default", "title", "properties", "anyOf", "enum", "not", "$ref"]
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": names}
    assert cleaned(schema) == schema
    assert cleaned(schema, MOONSHOT) == schema


def test_values_are_not_read_as_schemas() -> None:
    schema = {
        "type": "object",
        "properties": {
            "mode": {
                "enum": [True, {"$schema": "kept"}],
                "default": {"$id": "kept"},
                "examples": [{"$comment": "kept"}],
            }
        },
    }
    assert cleaned(schema) == schema


def test_metadata_is_dropped_at_every_schema_position() -> None:
    dirty = {"type": "string", "$comment": "x"}
    schema = {
        "type": "object",
        "properties": {"a": {"type": "array", "items": dirty, "prefixItems": [dirty]}, "b": {"anyOf": [dirty, True]}},
        "$defs": {"D": dirty},
        "additionalProperties": dirty,
    }
    clean = {"type": "string"}
    assert cleaned(schema) == {
        "type": "object",
        "properties": {"a": {"type": "array", "items": clean, "prefixItems": [clean]}, "b": {"anyOf": [clean, {}]}},
        "$defs": {"D": clean},
        "additionalProperties": clean,
    }


def test_alternatives_at_the_root_become_one_object_with_a_note() -> None:
    by_id = {
        "type": "object",
        "properties": {"id": {"type": "integer"}, "how": {"const": 1}},
        "required": ["id", "how"],
    }
    by_name = {"type": "object", "properties": {"name": {"type": "string"}, "how": {"const": 2}}, "required": ["how"]}
    schema, lost = clean_schema({"oneOf": [by_id, by_name], "description": "Find."})
    assert schema == {
        "description": "Find.",
        "type": "object",
        "properties": {
            "id": {"type": "integer"},
            "how": {"anyOf": [{"const": 1}, {"const": 2}]},
            "name": {"type": "string"},
        },
        "required": ["how"],
    }
    assert lost == ["oneOf at the root became one object with all its properties"]


def test_parts_at_the_root_join_without_loss() -> None:
    schema, lost = clean_schema(
        {
            "allOf": [{"$ref": "#/$defs/Base"}, {"properties": {"b": {"type": "string"}}, "required": ["b"]}],
            "properties": {"c": {"type": "null"}},
            "$defs": {"Base": SEARCH},
        }
    )
    assert set(schema["properties"]) == {"query", "b", "c"}
    assert sorted(schema["required"]) == ["b", "query"]
    assert lost == []


def test_a_reference_at_the_root_is_followed() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}
    assert cleaned({"$ref": "#/$defs/Node", "$defs": {"Node": node}}) == {**node, "$defs": {"Node": node}}


@pytest.mark.parametrize("keyword", ["enum", "const", "not"])
def test_keywords_rejected_at_the_root_are_dropped_with_a_note(keyword: str) -> None:
    schema, lost = clean_schema({**SEARCH, keyword: [{}]})
    assert schema == SEARCH
    assert lost == [f"{keyword} at the root was removed"]


def test_roots_that_contain_themselves_end() -> None:
    assert cleaned({"anyOf": [{"$ref": "#"}, SEARCH]})["properties"] == SEARCH["properties"]
    assert cleaned({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}})["type"] == "object"


def test_a_root_that_is_no_object_leaves_nothing_of_itself_behind() -> None:
    schema = {
        "type": "array",
        "items": {"$ref": "#/$defs/A"},
        "minItems": 1,
        "description": "Names.",
        "$defs": {"A": {}},
    }
    assert clean_schema(schema) == (
        {"type": "object", "properties": {}, "description": "Names.", "$defs": {"A": {}}},
        ["type array at the root became object"],
    )
    assert cleaned({"type": ["object", "null"], **SEARCH}) == SEARCH


def test_references_are_inlined_where_the_wire_has_none() -> None:
    schema = {
        "type": "object",
        "properties": {"where": {"$ref": "#/$defs/Place", "description": "Here."}, "lost": {"$ref": "#/$defs/None"}},
        "$defs": {"Place": {"type": "object", "properties": {"inside": {"$ref": "#/$defs/Place"}}}},
    }
    assert cleaned(schema, MOONSHOT) == {
        "type": "object",
        "properties": {
            "where": {"type": "object", "properties": {"inside": {"type": "object"}}, "description": "Here."},
            "lost": {"type": "object"},
        },
    }


@pytest.mark.parametrize("name", ["A/B C", "A~B", "Ä", "100%", "a%20b"])
def test_a_name_in_a_reference_may_be_escaped(name: str) -> None:
    escaped = name.replace("~", "~0").replace("/", "~1")
    for reference in (escaped, quote(escaped)):
        schema = {"properties": {"a": {"$ref": f"#/$defs/{reference}"}}, "$defs": {name: {"type": "integer"}}}
        assert cleaned(schema, MOONSHOT)["properties"] == {"a": {"type": "integer"}}


def test_types_move_into_the_alternatives_where_the_wire_wants_it() -> None:
    schema = {"properties": {"a": {"type": "string", "anyOf": [{"minLength": 2}, {"type": "null"}]}}}
    assert cleaned(schema, MOONSHOT)["properties"]["a"] == {
        "anyOf": [{"type": "string", "minLength": 2}, {"type": "null"}]
    }


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        ({"type": "object", "properties": {}, "additionalProperties": False}, True),
        ({**SEARCH, "additionalProperties": False}, True),
        (SEARCH, False),
        ({**SEARCH, "additionalProperties": False, "required": []}, False),
        ({**SEARCH, "additionalProperties": False, "allOf": []}, False),
        (
            {
                "type": "object",
                "properties": {"a": {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/D"}}, {"type": "null"}]}},
                "required": ["a"],
                "additionalProperties": False,
                "$defs": {"D": {"enum": ["x"]}},
            },
            True,
        ),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "object", "properties": {}}},
                "required": ["a"],
                "additionalProperties": False,
            },
            False,
        ),
        ({"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False}, False),
    ],
)
def test_strict_mode_is_claimed_only_where_it_holds(schema: Any, strict: bool) -> None:
    assert qualifies_for_strict(schema) is strict


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
def test_any_schema_becomes_an_object_and_cleaning_again_changes_nothing(schema: Any, rules: SchemaRules) -> None:
    once = cleaned(schema, rules)
    assert once["type"] == "object"
    assert isinstance(once["properties"], dict)
    assert not {"$ref", "anyOf", "oneOf", "allOf"} & set(once)
    assert cleaned(once, rules) == once


def test_the_basics_are_what_every_server_understands() -> None:
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": ["null", "integer"], "minimum": 1, "description": "how many"},
            "b": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/word"}], "title": "B"},
            "c": {"allOf": [{"type": "object", "properties": {"x": {"const": 1}}}, {"properties": {"y": True}}]},
            "d": {"type": "array", "items": {"oneOf": [{"type": "string", "pattern": "a"}, {"type": "number"}]}},
        },
        "required": ["a"],
        "additionalProperties": False,
        "$defs": {"word": {"type": "string", "minLength": 1, "enum": ["a", "b"]}},
    }
    before = json.dumps(schema)
    assert clean_schema(schema, BASIC_RULES)[0] == {
        "type": "object",
        "properties": {
            "a": {"type": "integer", "description": "how many"},
            "b": {"type": "string", "enum": ["a", "b"]},
            "c": {"type": "object", "properties": {"x": {"enum": [1]}, "y": {}}},
            "d": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["a"],
    }
    assert json.dumps(schema) == before
