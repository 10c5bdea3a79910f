"""The structure of an exchange without its texts."""

import json
from typing import Any

import pytest

from anthropic_proxy.cli.case_structure import Structure
from tests.support.tables import in_one_test

TOOL = {
    "name": "mcp__acme-billing__find",
    "description": "Finds a bill.",
    "input_schema": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "customer": {"type": "string", "format": "uuid", "pattern": "^acme", "maxLength": 36},
            "kind": {"enum": ["gold", "iron", 7]},
            "next": {"$ref": "#/$defs/bill"},
        },
        "$defs": {"bill": {"type": ["object", "null"], "default": {"customer": "acme"}}},
        "required": ["customer", "kind"],
    },
}


@in_one_test
@pytest.mark.parametrize(
    ("value", "outlined"),
    [
        ({"model": "claude-opus-4-6", "max_tokens": 5}, {"model": "claude-opus-4-6", "max_tokens": 5}),
        ({"model": "/home/ann/m.gguf"}, {"model": "x" * 16}),
        ({"system": "Ann's\nhouse"}, {"system": "xxxxx\nxxxxx"}),
        ({"metadata": {"user_id": "user_ann"}}, {"metadata": {"user_id": "xxxx_xx1"}}),
        ({"type": "tool_use", "id": "toolu_01Ab"}, {"type": "tool_use", "id": "toolu_xxx1"}),
        ({"type": "image", "source": {"data": "aGVsbG8=", "media_type": "image/png"}}, None),
        ({"input": {"a": [1, 12.5, True, None], "bb": -305}}, {"input": {"x1": [1, 1.5, True, None], "x2": -111}}),
        ({"type": "input_json_delta", "partial_json": '{"a": "secret"}'}, None),
        (
            {"type": "input_json_delta", "partial_json": '{"a": "sec'},
            {"type": "input_json_delta", "partial_json": "x" * 10},
        ),
        ({"source": {"url": "https://ann.example/a"}}, {"source": {"url": "https://example.com/xxxxxxxxxxxxx"}}),
        ({"a sentence of Ann": 1}, {"xxxxxxxxxxxxxxxx1": 1}),
        ({"type": "a sentence of Ann"}, {"type": "x" * 17}),
        ({"name": ""}, {"name": ""}),
        ([None, "Ann", 1.5], [None, "xxx", 1.5]),
    ],
)
def test_texts_are_replaced_and_words_of_the_api_stay(value: Any, outlined: Any) -> None:
    given = Structure({}).outline(value)
    if outlined is not None:
        assert given == outlined
    assert not [word for word in ("Ann", "ann", "secret", "aGVs") if word in json.dumps(given)]


def test_names_are_the_same_in_tools_calls_and_schemas() -> None:
    call = {"type": "tool_use", "id": "toolu_01", "name": TOOL["name"], "input": {"customer": "acme", "kind": "gold"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_01", "content": "paid"}
    request = {
        "tools": [TOOL, {"type": "web_search_20250305", "name": "web_search"}],
        "tool_choice": {"type": "tool", "name": TOOL["name"]},
        "messages": [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}],
    }
    outlined = Structure(request).outline(request)
    name = "xxx__xxxx-xxxxxxx__xxx1"
    assert outlined["tools"] == [
        {
            "name": name,
            "description": "x" * 13,
            "input_schema": {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "type": "object",
                "properties": {
                    "xxxxxxx1": {"type": "string", "format": "uuid", "pattern": "xxxxx", "maxLength": 36},
                    "xxx2": {"enum": ["xxx1", "xxx2", 1]},
                    "xxx3": {"$ref": "#/$defs/xxx4"},
                },
                "$defs": {"xxx4": {"type": ["object", "null"], "default": {"xxxxxxx1": "xxxx"}}},
                "required": ["xxxxxxx1", "xxx2"],
            },
        },
        {"type": "web_search_20250305", "name": "web_search"},
    ]
    assert outlined["tool_choice"] == {"type": "tool", "name": name}
    called, answered = (message["content"][0] for message in outlined["messages"])
    assert (called["name"], called["input"]) == (name, {"xxxxxxx1": "xxxx", "xxx2": "xxxx"})
    assert called["id"] == answered["tool_use_id"] == "toolu_x1"


def test_different_names_stay_different() -> None:
    names = ["a", "b", "ab", "a.b", "a-", "é", *(f"n{number}" for number in range(200)), "x1", "x2", "x11"]
    outlined = Structure({}).outline([{"name": name} for name in names])
    assert len({row["name"] for row in outlined}) == len(names)
