"""Replies with a schema that the provider does not enforce: checked, repaired, or requested once more."""

import asyncio
import json
import re
from typing import Any

import pytest

from anthropic_proxy.cli.lint_stream import check_bytes
from anthropic_proxy.engine.messages.reply_schema import ReplySchema
from anthropic_proxy.errors import InvalidRequest
from tests.support.fake_upstream import frame
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink
from tests.support.messages import exactly
from tests.support.reply_schemas import DEEPSEEK, FORMAT, GOOD, WRONG, Model, model_reply

GROQ = {"GROQ_API_KEY": "gsk_two0123456789"}


def called(arguments: str) -> FakeResponse:
    function = {"name": "output", "arguments": arguments}
    delta = {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function}]}
    return FakeResponse(200, frame(delta), frame({}, "tool_calls"), b"data: [DONE]\n\n")


def text_of(sink: RecordingSink) -> str:
    if sink.body:
        return "".join(block.get("text", "") for block in sink.body["content"])
    check_bytes(sink.stream)
    lines = [json.loads(line[6:]) for line in sink.stream.splitlines() if line.startswith(b"data: ")]
    return "".join(line["delta"].get("text", "") for line in lines if line["type"] == "content_block_delta")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("text", [GOOD, f"```json\n{GOOD}\n```", f"Here it is:\n{GOOD}\nI hope that helps."])
async def test_the_client_gets_the_json_alone(text: str, stream: bool) -> None:
    model = Model(text, stream=stream)
    sink = await ProxyHarness(model, **DEEPSEEK).post(stream=stream, **FORMAT)
    assert text_of(sink) == GOOD
    assert len(model.bodies) == 1


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("wrong", [WRONG, "I cannot say.", "", '{"title": "A wa'])
async def test_a_wrong_reply_is_asked_for_once_more_and_both_are_paid_for(wrong: str, stream: bool) -> None:
    model = Model(wrong, GOOD, stream=stream)
    proxy = ProxyHarness(model, **DEEPSEEK)
    sink = await proxy.post(stream=stream, **FORMAT)
    assert text_of(sink) == GOOD
    complaint = model.bodies[1]["messages"][-1]
    assert complaint["role"] == "user"
    assert "not the JSON that was asked for" in complaint["content"]
    if wrong:
        assert model.bodies[1]["messages"][-2] == {"role": "assistant", "content": wrong}
    assert (proxy.receipts[0].input_tokens, proxy.receipts[0].output_tokens) == (20, 10)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_second_wrong_reply_is_an_error_that_names_the_violation(stream: bool) -> None:
    model = Model(WRONG, WRONG, stream=stream)
    proxy = ProxyHarness(model, **DEEPSEEK)
    sink = await proxy.post(stream=stream, **FORMAT)
    assert (sink.error.status, sink.error.error_type) == (502, "api_error")
    assert sink.error.message == (
        "openai returned no valid reply for the schema in output_config.format in two attempts: "
        "$.stars: 'four' is not of type 'integer'."
    )
    assert len(model.bodies) == 2
    assert sink.stream == b""
    receipt = proxy.receipts[0]
    assert (receipt.input_tokens, receipt.output_tokens) == (20, 10), "the provider charges both calls"
    assert [(call.input_tokens, call.output_tokens) for call in receipt.attempts] == [(10, 5), (10, 5)]


async def test_a_reply_that_was_cut_off_is_passed_as_the_api_passes_it() -> None:
    model = Model(model_reply('{"title": "A w', finish="length"))
    sink = await ProxyHarness(model, **DEEPSEEK).post(stream=True, **FORMAT)
    assert text_of(sink) == '{"title": "A w'
    assert b'"stop_reason":"max_tokens"' in sink.stream
    assert len(model.bodies) == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_a_reply_that_the_clients_own_stop_sequence_cut_is_passed_unchecked(stream: bool) -> None:
    model = Model(GOOD, stream=stream)
    sink = await ProxyHarness(model, **DEEPSEEK).post(stream=stream, stop_sequences=[', "stars"'], **FORMAT)
    assert sink.error is None
    assert text_of(sink) == '{"title": "A walk"'
    reason = sink.body["stop_reason"] if sink.body else sink.stream.decode()
    assert "stop_sequence" in reason
    assert len(model.bodies) == 1


async def test_a_call_of_the_clients_tool_is_no_reply_yet() -> None:
    tool = {"name": "look", "input_schema": {"type": "object", "properties": {}}}
    call = {"tool_calls": [{"index": 0, "id": "call_1", "function": {"name": "look", "arguments": "{}"}}]}
    answer = FakeResponse(200, frame({"content": "First "}), frame(call), frame({}, "tool_calls"), b"data: [DONE]\n\n")
    sink = await ProxyHarness(Model(answer), **DEEPSEEK).post(stream=True, tools=[tool], **FORMAT)
    assert text_of(sink) == "First "
    assert b'"name":"look"' in sink.stream
    assert b'"stop_reason":"tool_use"' in sink.stream


@pytest.mark.parametrize("pieces", [1, 7])
async def test_where_only_tools_have_schemas_one_is_forced_and_its_arguments_are_the_reply(pieces: int) -> None:
    model = Model(called(GOOD))
    proxy = ProxyHarness(model, **GROQ)
    sink = await proxy.post(stream=True, **FORMAT)
    assert text_of(sink) == GOOD
    assert b'"stop_reason":"end_turn"' in sink.stream
    assert b"tool_use" not in sink.stream
    (tool,) = model.bodies[0]["tools"]
    assert tool["function"]["parameters"]["required"] == ["title", "stars"]
    assert model.bodies[0]["tool_choice"] == {"type": "function", "function": {"name": "output"}}
    assert "output_config.format" in {note.field for note in proxy.receipts[0].fidelity.notes}


async def test_a_forced_call_with_wrong_arguments_is_asked_for_again() -> None:
    model = Model(called(WRONG), called(GOOD))
    sink = await ProxyHarness(model, **GROQ).post(stream=True, **FORMAT)
    assert text_of(sink) == GOOD
    assert len(model.bodies) == 2


async def test_a_provider_that_keeps_to_the_schema_itself_is_streamed_as_it_comes() -> None:
    model = Model(model_reply(*GOOD))
    sink = await ProxyHarness(model, OPENAI_API_KEY="sk-one-0123456789").post(stream=True, **FORMAT)
    assert text_of(sink) == GOOD
    assert sink.stream.count(b"text_delta") == len(GOOD)


async def test_a_schema_that_is_none_is_refused_before_anything_is_sent() -> None:
    model = Model(GOOD)
    wrong: dict[str, Any] = {
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object", "required": 3}}}
    }
    sink = await ProxyHarness(model, **DEEPSEEK).post(stream=True, **wrong)
    assert sink.error.status == 400
    assert sink.error.message.startswith("output_config.format.schema: $.required")
    assert model.bodies == []


def test_a_pattern_of_a_clients_cannot_hold_up_the_process() -> None:
    text = json.dumps("a" * 60 + "b")
    assert ReplySchema(b'{"type": "string", "pattern": "(a+)+$"}').extract_json(text) == (text, "")


@pytest.mark.parametrize("reference", ["https://example.org/schema.json", "urn:none"])
def test_nothing_is_fetched_that_a_schema_refers_to(reference: str) -> None:
    shape = ReplySchema(json.dumps({"type": "object", "properties": {"a": {"$ref": reference}}}).encode())
    with pytest.raises(InvalidRequest, match=re.escape(f"{reference} does not stand in it")):
        shape.extract_json('{"a": 1}')


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
        await asyncio.sleep(0.01)
        others += 1
    sink = asked.result()
    assert (sink.error.status, sink.error.error_type) == (400, "invalid_request_error")
    assert others > 5, "nobody else was served while the reply was checked"
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
        ReplySchema(json.dumps({"anyOf": [{"type": "string"}] * 1_000}).encode(), max_steps=10_000)


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


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"$schema": "http://json-schema.org/draft-07/schema#", "pattern": "(a+)+$"}}},
        {"$schema": "http://json-schema.org/draft-07/schema#", "properties": {"a": {"pattern": "(a+)+$"}}},
        {"patternProperties": {"(a+)+$": {}}, "additionalProperties": False},
        {"patternProperties": {"(a+)+$": {}}, "unevaluatedProperties": False},
    ],
)
def test_no_schema_reaches_a_pattern(schema: dict[str, Any]) -> None:
    text = json.dumps({"a": "a" * 60 + "b", "a" * 60 + "b": 1})
    assert ReplySchema(json.dumps(schema).encode()).extract_json(text) == (text, "")


@pytest.mark.parametrize(
    ("items", "unique"),
    [
        ([1, 2, "1", True, None, [1], {"a": 1}], True),
        ([1, 1.0], False),
        ([{"a": 1, "b": [2]}, {"b": [2.0], "a": 1}], False),
        ([1, True], True),
        ([0, False, "false"], True),
        (["a", "a"], False),
    ],
)
def test_items_are_equal_by_the_rules_of_json_schema(items: list[Any], unique: bool) -> None:
    problem = ReplySchema(b'{"uniqueItems": true}').extract_json(json.dumps(items))[1]
    assert problem == ("" if unique else "$: two of its items are the same")


@pytest.mark.parametrize("reference", ["#day", "urn:days#/$defs/day", "#/$defs/days/$defs/day"])
def test_references_by_name_and_by_place_are_followed(reference: str) -> None:
    days = {"$id": "urn:days", "$defs": {"day": {"type": "integer"}}}
    schema = {"items": {"$ref": reference}, "$defs": {"days": days, "named": {"$anchor": "day", "type": "integer"}}}
    shape = ReplySchema(json.dumps(schema).encode())
    assert shape.extract_json("[1]") == ("[1]", "")
    assert shape.extract_json('["a"]')[1] == "$[0]: 'a' is not of type 'integer'"


@pytest.mark.parametrize(
    "text",
    [
        "```json\n{}\n```",
        "Here: ```json  \n\n  {}\n\n   ```\nI hope {that} helps.",
        "```\r\n{}\r\n```\r\n}",
        "I ran `ls {` and ```cat``` it:\n```json\n{}\n``` }",
    ],
)
def test_the_only_fenced_json_is_the_reply(text: str) -> None:
    assert ReplySchema(b'{"type": "object"}').extract_json(text) == ("{}", "")


def test_of_two_fences_none_is_the_reply() -> None:
    text = "```\n{}\n```\nor\n```\n[]\n```\n}"
    assert ReplySchema(b"{}").extract_json(text) == (text, "it is no JSON")
