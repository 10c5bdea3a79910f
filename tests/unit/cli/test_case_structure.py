"""The structure of an exchange without its texts."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from anthropic_proxy.cli.case_structure import Structure
from tests.support.api_words import read_words
from tests.support.paths import ROOT
from tests.support.tables import in_one_test

FILE = ROOT / "anthropic_proxy/cli/case_words.json"


def test_the_words_are_those_of_the_sdk(request: pytest.FixtureRequest) -> None:
    expected = read_words()  # `--update` writes the file
    if request.config.getoption("--update-golden"):
        FILE.write_text(json.dumps(expected, indent=1) + "\n", "utf-8")
    assert json.loads(FILE.read_text("utf-8")) == expected


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
        ({"model": "/home/ann/m.gguf"}, {"model": "/xxxx/xxx/x.xxxx"}),
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
        ({"metadata": {"ann": {"secret": 4711}}}, {"metadata": {"xx1": {"xxxxx1": 1111}}}),
        ({"type": "a sentence of Ann"}, {"type": "x" * 17}),
        ({"type": "ann"}, {"type": "xxx"}),
        ({"role": "ann", "service_tier": "ann", "effort": "high"}, None),
        ({"type": "web_search_20991231", "name": "web_search"}, {"type": "web_search_20991231", "name": "web_search"}),
        ({"type": "ann_tool", "name": "ann_tool"}, {"type": "xxxxxxxx", "name": "xxx_xxx1"}),
        ({"model": "ft:gpt-4.1:ann-corp:secret:9xY"}, {"model": "ft:gpt-4.1:xxx-xxxx:xxxxxx:xxx"}),
        ({"model": "qwen3:32b-ann"}, {"model": "qwen3:32b-xxx"}),
        ({"name": ""}, {"name": ""}),
        ([None, "Ann", 1.5], [None, "xxx", 1.5]),
    ],
)
def test_texts_are_replaced_and_words_of_the_api_stay(value: Any, outlined: Any) -> None:
    given = Structure().outline(value)
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
    outlined = Structure().outline(request)
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
    outlined = Structure().outline([{"name": name} for name in names])
    assert len({row["name"] for row in outlined}) == len(names)


def test_arguments_in_several_pieces_stay_json() -> None:
    text = '{"customer": "acme of Ann", "count": 12}'
    pieces = [text[:5], text[5:9], text[9:30], text[30:]]
    events: list[Any] = [
        {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "name": "find", "input": {}}},
        *(
            {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": piece}}
            for piece in pieces
        ),
    ]
    outlined = Structure().outline_stream(events)
    found = [event["delta"]["partial_json"] for event in outlined[1:]]
    assert [len(piece) for piece in found[:-1]] == [5, 4, 21]
    assert json.loads("".join(found)) == {"xxxxxxx1": "xxxx xx xxx".replace(" ", "x"), "xxxx2": 11}


MARK = "Zw7Quux"
"""A text of the user that is no word of any API."""
TEXT = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}, "citations": None}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "b", "input": {"c": ["d"]}}
EXCHANGE: list[Any] = [
    {
        "model": "claude-sonnet-4-5",
        "max_tokens": 5,
        "stream": True,
        "temperature": 0.5,
        "stop_sequences": ["a"],
        "metadata": {"user_id": "user_a"},
        "system": [TEXT],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "tools": [TOOL, {"type": "web_search_20250305", "name": "web_search", "allowed_domains": ["a.example"]}],
        "tool_choice": {"type": "tool", "name": TOOL["name"]},
        "mcp_servers": [{"type": "url", "url": "https://a.example/x", "name": "a", "authorization_token": "t"}],
        "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": TOOL["input_schema"]}},
        "messages": [
            {"role": "user", "content": "a"},
            {
                "role": "user",
                "content": [
                    TEXT,
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="}},
                    {"type": "image", "source": {"type": "url", "url": "https://a.example/x"}},
                ],
            },
            {"role": "assistant", "content": [CALL]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [TEXT]}]},
        ],
    },
    {"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant", "model": "m"}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "c2ln"}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"a":'}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '"b"}'}},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None, "stop_details": {"type": "refusal"}},
        "usage": {"output_tokens": 5, "service_tier": "standard"},
    },
    {"type": "error", "error": {"type": "api_error", "message": "m"}, "request_id": "req_1"},
]
"""A request and events of a reply; a mark is put into each place."""


def list_marked(value: Any, mark: str) -> Iterator[Any]:
    """Yield the value with a mark in each place: as a value, behind and before a text, and as a name of a field."""
    if isinstance(value, str):
        yield from (mark, value + mark, f"{mark}_{value}", f"{mark} {value}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            for changed in list_marked(item, mark):
                yield [*value[:number], changed, *value[number + 1 :]]
    elif isinstance(value, dict):
        for name, item in value.items():
            for changed in list_marked(item, mark):
                yield {**value, name: changed}
        yield from ({**value, mark: other} for other in (mark, 5, {mark: mark}, [mark], [{"type": mark}]))
    else:
        yield mark


@pytest.mark.parametrize(
    "mark", [MARK, MARK.lower(), f"mcp__{MARK}__x", f"https://json-schema.org/{MARK}", f"{MARK}_20250101"]
)
def test_no_text_of_the_user_stays_at_any_place(mark: str) -> None:
    count = 0
    for changed in (changed for value in EXCHANGE for changed in list_marked(value, mark)):
        assert mark in json.dumps(changed)
        assert MARK.lower() not in json.dumps(Structure().outline_stream([changed])).lower(), changed
        count += 1
    assert count > 500
