"""Replies with a schema that the provider does not enforce: checked, repaired, or requested once more."""

import asyncio
import json
from typing import Any

import pytest

from anthropic_proxy.engine.messages.reply_schema import ReplySchema
from anthropic_proxy.errors import InvalidRequest
from tests.support.harness import ProxyHarness
from tests.support.messages import exactly
from tests.support.reply_schemas import DEEPSEEK, GOOD, Model


def doubling(keyword: str, levels: int) -> dict[str, Any]:
    defs: dict[str, Any] = {
        f"a{level}": {keyword: [{"$ref": f"#/$defs/a{level + 1}"}, {"$ref": f"#/$defs/a{level + 1}"}]}
        for level in range(levels)
    }
    return {"$ref": "#/$defs/a0", "$defs": {**defs, f"a{levels}": {"type": "object", "required": ["b"]}}}


async def test_a_schema_without_a_bound_for_its_check_is_refused_by_its_name() -> None:
    schema = {"type": "object", **doubling("allOf", 60)}
    output = {"format": {"type": "json_schema", "schema": schema}}
    asked = asyncio.ensure_future(ProxyHarness(Model(GOOD), **DEEPSEEK).post(output_config=output))
    others = 0
    while not asked.done():
        await asyncio.sleep(0)
        others += 1
    sink = asked.result()
    assert (sink.error.status, sink.error.error_type) == (400, "invalid_request_error")
    assert others > 20, "nobody else was served while the schema was checked"
    assert sink.error.message == (
        "output_config.format.schema: it needs more than 64,400 steps to check; that is the limit. Refer to "
        "fewer definitions from each other, or list fewer alternatives."
    )


@pytest.mark.parametrize(
    "schema",
    [
        doubling("anyOf", 60),
        doubling("oneOf", 60),
        {**doubling("allOf", 60), "unevaluatedProperties": False},
        {"items": {"anyOf": [False] * 200}},
        {"allOf": [{"contains": False}] * 100},
        {"anyOf": [{"enum": [["b"] * 9_000]}] * 100},
        {"anyOf": [{"type": "string"}] * 100},
        {"allOf": [{"uniqueItems": False}] * 100},
    ],
)
def test_whatever_makes_a_check_long_counts(schema: dict[str, Any]) -> None:
    shape = ReplySchema(json.dumps(schema).encode(), max_steps=30_000)
    with pytest.raises(
        InvalidRequest,
        match=exactly(
            "output_config.format.schema: it needs more than 30,000 steps to check; that is the limit. Refer "
            "to fewer definitions from each other, or list fewer alternatives."
        ),
    ):
        shape.extract_json(json.dumps({"a": 1} if "$defs" in schema else ["b"] * 9_000 + [1]))


def test_a_schema_without_a_bound_for_its_decoding_is_refused() -> None:
    with pytest.raises(
        InvalidRequest,
        match=exactly(
            "output_config.format.schema: it needs more than 10,000 steps to read; that is the limit. "
            "Refer to fewer definitions from each other, or list fewer alternatives."
        ),
    ):
        ReplySchema(json.dumps({"anyOf": [{"type": "string"}] * 10_000}).encode(), max_steps=10_000)


def test_a_large_reply_of_an_ordinary_schema_is_checked_to_its_end() -> None:
    day = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "hours": {"type": "array", "items": {"type": "integer"}}},
        "required": ["name", "hours"],
        "additionalProperties": False,
    }
    other = {"type": "object", "properties": {"other": {"type": "string"}}, "required": ["other"]}
    items = {"anyOf": [{"$ref": "#/$defs/other"}, {"$ref": "#/$defs/day"}]}
    shape = ReplySchema(json.dumps({"type": "array", "items": items, "$defs": {"day": day, "other": other}}).encode())
    days: list[Any] = [{"name": "a day of some kind", "hours": [8, 9, 10]} for _ in range(2_000)]
    text = json.dumps(days)
    assert shape.extract_json(text) == (text, "")
    assert shape.extract_json(text) == (text, ""), "each check has its own steps"
    days[-1]["hours"] = "late"
    assert shape.extract_json(json.dumps(days))[1].startswith("$[1999]")
