"""No schema of a client costs more than its size: the work is linear in its text, or it is refused by a limit."""

import asyncio
import gc
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from anthropic_proxy.engine.messages.reply_schema import ReplySchema
from anthropic_proxy.engine.messages.work_budget import CountedWork, WorkBudget, WorkLimitExceeded
from anthropic_proxy.engine.wires.gemini.schema import (
    encode_parameter_schema,
    encode_reply_schema,
    find_unsupported_keywords,
)
from anthropic_proxy.engine.wires.json_schema import (
    BASIC_RULES,
    UNRESTRICTED_RULES,
    clean_schema,
    may_accept_object,
)
from anthropic_proxy.engine.wires.ollama.request import encode_parameters
from anthropic_proxy.engine.wires.schema_parts import Schema
from anthropic_proxy.errors import InvalidRequest
from tests.support.harness import ProxyHarness
from tests.support.reply_schemas import GOOD, Model
from tests.support.schema_languages import SCHEMA_LANGUAGES

FIELD = "tools.t.input_schema"
TOO_MANY_NODES = (
    f"{FIELD}: it has more than 500,000 nodes when its references are written out; that is the limit. "
    "Refer to fewer definitions from each other, or list fewer alternatives."
)
TOO_MANY_STEPS = (
    f"{FIELD}: it needs more than 1,000,000 steps to convert; that is the limit. "
    "Refer to fewer definitions from each other, or list fewer alternatives."
)
TOO_DEEP = (
    f"{FIELD}: it nests schemas more than 200 levels deep when its references are written out; that is the limit."
)
MOONSHOT = SCHEMA_LANGUAGES["moonshot"]


def convert_for_gemini(schema: Schema, budget: WorkBudget, *, lowered: bool) -> None:
    encode_parameter_schema(schema, budget, as_openapi=lowered)
    encode_reply_schema(schema, budget, as_openapi=lowered)
    find_unsupported_keywords(schema, budget, as_openapi=lowered)


CONVERSIONS: dict[str, Callable[[Schema, WorkBudget], Any]] = {
    "standard": lambda schema, budget: clean_schema(schema, UNRESTRICTED_RULES, budget),
    "Moonshot": lambda schema, budget: clean_schema(schema, MOONSHOT, budget),
    "xAI": lambda schema, budget: clean_schema(schema, SCHEMA_LANGUAGES["xai"], budget),
    "basics": lambda schema, budget: clean_schema(schema, BASIC_RULES, budget),
    "Gemini": lambda schema, budget: convert_for_gemini(schema, budget, lowered=False),
    "Gemini 1": lambda schema, budget: convert_for_gemini(schema, budget, lowered=True),
    "Ollama": encode_parameters,
    "object": lambda schema, budget: may_accept_object(encoded(schema), budget),
}


def cost_of(convert: Callable[[Schema, WorkBudget], Any], schema: Schema) -> CountedWork | str:
    """Return the work that a conversion took, or the text with which it was refused."""
    budget = WorkBudget(FIELD)
    try:
        with budget.error_field(FIELD):
            convert(schema, budget)
    except WorkLimitExceeded as refused:
        return refused.message.replace("output_config.format.schema", FIELD)
    return budget.counted_work


def encoded(schema: Schema) -> bytes:
    return json.dumps(schema, separators=(",", ":")).encode()


def chain(levels: int, link: Callable[[Schema], Schema]) -> Schema:
    """Return a property with definitions that each contain the next one. `link`: the content around a reference."""
    defs: Schema = {f"d{n}": link({"$ref": f"#/$defs/d{n + 1}"}) for n in range(levels)}
    return {"properties": {"p": {"$ref": "#/$defs/d0"}}, "$defs": {**defs, f"d{levels}": {"type": "string"}}}


def wide_definition(references: int, width: int) -> Schema:
    """Return properties that all refer to one definition with many properties."""
    wide = {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(width)}}
    properties = {f"r{number}": {"$ref": "#/properties/wide"} for number in range(references)}
    return {"type": "object", "properties": {"wide": wide, **properties}}


MANY_LEVELS = {
    "$ref": "#/$defs/d0",
    "type": "object",
    "$defs": {
        **{
            f"d{level}": {"anyOf": [{"$ref": f"#/$defs/d{level + 1}", "title": f"{n}"} for n in range(500)]}
            for level in range(8)
        },
        "d8": {"properties": {"x": {"type": "string"}}},
    },
}


@pytest.mark.parametrize("conversion", ["Moonshot", "Gemini 1"])
@pytest.mark.parametrize(
    ("schema", "refusal"),
    [
        pytest.param(wide_definition(800, 800), TOO_MANY_NODES, id="nodes"),
        pytest.param(MANY_LEVELS, TOO_MANY_STEPS, id="steps"),
        pytest.param(chain(300, lambda below: {"properties": {"a": below}}), TOO_DEEP, id="depth"),
    ],
)
def test_a_schema_above_a_limit_is_refused(schema: Schema, refusal: str, conversion: str) -> None:
    assert cost_of(CONVERSIONS[conversion], schema) == refusal


NAMES = ("a", "b", "c")
REFERENCES = st.sampled_from(["#", "#/properties/a", *(f"#/$defs/{name}" for name in NAMES)])
PARTS = st.recursive(
    st.builds(lambda reference: {"$ref": reference}, REFERENCES) | st.just({"type": "string"}),
    lambda part: st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["object", ["object", "array"], ["array", "string", "null"]]),
            "properties": st.dictionaries(st.sampled_from(NAMES), part, max_size=3),
            **{keyword: st.lists(part, max_size=4) for keyword in ("anyOf", "oneOf", "allOf", "prefixItems")},
            **dict.fromkeys(("items", "additionalProperties", "$ref"), part),
        },
    ),
    max_leaves=20,
)
GRAPHS = st.builds(
    lambda root, defs: {**root, "$defs": defs}, PARTS, st.fixed_dictionaries(dict.fromkeys(NAMES, PARTS))
)


@given(GRAPHS, st.sampled_from(["standard", "object"]))
def test_the_steps_of_any_graph_of_references_are_proportional_to_its_text(graph: Schema, conversion: str) -> None:
    cost = cost_of(CONVERSIONS[conversion], graph)
    assert isinstance(cost, CountedWork)
    assert cost.steps <= 20 * len(encoded(graph))


@given(GRAPHS, st.sampled_from([*CONVERSIONS]))
def test_any_graph_of_references_is_converted_or_refused(graph: Schema, conversion: str) -> None:
    assert isinstance(cost_of(CONVERSIONS[conversion], graph), CountedWork | str)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["object", "#/$defs/a", "#/anyOf/" + "9" * 5_000]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("type", "properties", "required", "items", "anyOf", "oneOf", "allOf", "$ref", "enum", "const"),
                    *("$defs", "definitions", "additionalProperties", "prefixItems", "not", "nullable", "description"),
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=15,
)


@example({"$defs": None, "definitions": {}}, "Gemini")
@given(JUNK, st.sampled_from([*CONVERSIONS]))
def test_no_value_of_a_keyword_breaks_a_conversion(junk: Any, conversion: str) -> None:
    schema = junk if isinstance(junk, dict) else {"properties": {"a": junk}}
    assert isinstance(cost_of(CONVERSIONS[conversion], schema), CountedWork | str)


def test_references_that_are_not_inlined_are_reported() -> None:
    schema = chain(20, lambda below: {"type": "object", "properties": dict.fromkeys("ab", below)})
    assert clean_schema(schema, MOONSHOT)[1] == ["references after the first 1,000 became plain objects"]


def test_alternatives_with_the_same_property_stand_side_by_side() -> None:
    branches = [{"properties": {"kind": {"const": number}}} for number in (1, 2, 3, 1)]
    assert clean_schema({"anyOf": branches})[0]["properties"] == {
        "kind": {"anyOf": [{"const": 1}, {"const": 2}, {"const": 3}]}
    }


def test_a_union_of_types_has_its_keywords_in_its_alternatives_alone() -> None:
    schema = {"type": "object", "properties": {"a": {"type": ["array", "string"], "items": {"type": "integer"}}}}
    parameters = encode_parameter_schema(schema, as_openapi=True)
    assert parameters["properties"]["a"] == {
        "anyOf": [{"type": "ARRAY", "items": {"type": "INTEGER"}}, {"type": "STRING"}]
    }


# Through the proxy

WIRES = {
    "Moonshot": ({"MOONSHOT_API_KEY": "sk-one-0123456789"}, "moonshot/kimi-k2.5"),
    "Ollama": ({"PREFERRED_PROVIDER": "ollama"}, "ollama/qwen3"),
    "Gemini": ({"GEMINI_API_KEY": "AIza-one-0123456789"}, "gemini/gemini-2.5-flash"),
    "Gemini 1": ({"GEMINI_API_KEY": "AIza-one-0123456789"}, "gemini/gemini-1.5-pro"),
}


def tool(name: str, schema: Schema) -> dict[str, Any]:
    return {"name": name, "input_schema": schema}


@pytest.mark.parametrize("wire", WIRES)
async def test_a_tool_above_the_limit_is_refused_by_the_name_that_the_client_gave_it(wire: str) -> None:
    settings, model = WIRES[wire]
    name = "n" * 100 + " größe"
    sink = await ProxyHarness(Model(), **settings).post(model=model, tools=[tool(name, wide_definition(900, 900))])
    assert sink.error.message == TOO_MANY_NODES.replace(FIELD, f"tools.{name}.input_schema")


@pytest.mark.parametrize("reply", [False, True])
async def test_a_schema_of_more_than_four_mebibytes_is_not_read(reply: bool) -> None:
    settings, model = WIRES["Moonshot"]
    schema = {"type": "object", "description": "x" * (4 << 20)}
    output = {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    fields: dict[str, Any] = output if reply else {"tools": [tool("t", schema)]}
    sink = await ProxyHarness(Model(), **settings).post(model=model, **fields)
    path, size = "output_config.format.schema" if reply else "tools.0.input_schema", len(json.dumps(schema))
    assert sink.error.message == f"{path}: has {size:,} bytes; at most 4,194,304 are allowed"


async def test_tools_below_the_limit_do_not_add_up() -> None:
    settings, model = WIRES["Moonshot"]
    proxy = ProxyHarness(Model(), **settings)
    tools = [tool(f"t{number}", wide_definition(120, 120)) for number in range(20)]
    messages = []
    for _ in range(2):
        sink = await proxy.post(model=model, tools=tools)
        messages.append(sink.error.message)
    assert messages[0] == messages[1], "what a cache holds changes nothing"
    assert messages[0].removeprefix("tools.t") == TOO_MANY_NODES.replace(FIELD, "11.input_schema")


async def test_two_hundred_ordinary_tools_are_served_and_nobody_waits_for_them() -> None:
    person = {"type": "object", "properties": {f"p{n}": {"type": "string", "description": "of it"} for n in range(30)}}
    schema = {"type": "object", "properties": {side: {"$ref": "#/$defs/p"} for side in "abcd"}, "$defs": {"p": person}}
    settings, model = WIRES["Moonshot"]
    upstream = Model(GOOD)
    proxy = ProxyHarness(upstream, **settings)
    asked = asyncio.ensure_future(proxy.post(model=model, tools=[tool(f"t{number}", schema) for number in range(200)]))
    others = 0
    while not asked.done():
        await asyncio.sleep(0)
        others += 1
    assert asked.result().error is None
    assert len(upstream.bodies[0]["tools"]) == 200
    assert others > 20, "the event loop did not run while the tools were converted"


# Checking a reply


def alternatives(levels: int) -> bytes:
    """Return a schema with definitions that double at each level."""
    defs = {
        f"d{n}": {"anyOf": [{"required": ["x"], "$ref": f"#/$defs/d{n + 1}"}, {"$ref": f"#/$defs/d{n + 1}"}]}
        for n in range(levels)
    }
    return encoded({"$ref": "#/$defs/d0", "$defs": {**defs, f"d{levels}": {"type": "string"}}})


def test_a_refused_check_leaves_nothing_for_the_garbage_collector() -> None:
    shape = ReplySchema(alternatives(30), max_steps=30_000)
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        with pytest.raises(InvalidRequest) as refused:
            shape.extract_json('{"a": 1}')
        message = str(refused.value)
        del refused
        assert len(gc.get_objects()) - before < 1_000
    finally:
        gc.enable()
    assert message == (
        "output_config.format.schema: it needs more than 30,000 steps to check; that is the limit. "
        "Refer to fewer definitions from each other, or list fewer alternatives."
    )


def test_the_error_of_nested_alternatives_is_the_one_that_explains_best() -> None:
    item = {"anyOf": [{"type": "null"}, {"properties": {"n": {"type": "integer"}}, "required": ["n"]}]}
    shape = ReplySchema(json.dumps({"anyOf": [{"type": "string"}, {"properties": {"a": {"items": item}}}]}).encode())
    assert shape.extract_json('{"a": [{"n": 1}]}') == ('{"a": [{"n": 1}]}', "")
    assert shape.extract_json('{"a": [{"n": 1}, {"n": "x"}]}')[1] == "$.a[1].n: 'x' is not of type 'integer'"
    tied = ReplySchema(b'{"oneOf": [{"type": "string"}, {"type": "null"}]}')
    assert tied.extract_json("[1]")[1] == "$: [1] is not valid under any of the given schemas"


def seconds_for_parts(part: Callable[[int], Schema]) -> float:
    """Return the processor time for an object with many required names and with many schemas in its `allOf`."""
    names = [f"p{number}" for number in range(3_000)]
    schema = {"properties": {"a": {"required": names, "allOf": [part(number) for number in range(3_000)]}}}
    times = []
    for _ in range(3):
        begin = time.process_time()
        clean_schema(schema, MOONSHOT)
        times.append(time.process_time() - begin)
    return min(times)


@pytest.mark.parametrize("names", [[], ["p0"]])
def test_joining_required_names_does_not_read_the_known_ones_again(names: list[str]) -> None:
    without = seconds_for_parts(lambda number: {"minProperties": number})
    assert seconds_for_parts(lambda number: {"required": names}) < 5 * without


def test_required_names_of_alternatives_stay_apart() -> None:
    branches = [{"required": ["b"]}, {"allOf": [{"required": ["c"]}, {"required": ["a", "c"]}]}]
    schema = {"type": "object", "required": ["a"], "properties": {name: {"type": "string"} for name in "abc"}}
    fitted = clean_schema({"properties": {"p": {**schema, "anyOf": branches}}}, MOONSHOT)[0]
    assert [branch["required"] for branch in fitted["properties"]["p"]["anyOf"]] == [["b", "a"], ["c", "a"]]


def test_alternatives_inside_each_other_do_not_multiply() -> None:
    schema: Schema = {"type": "string"}
    for _ in range(30):
        branches = [{"required": ["p"], "title": f"{number}"} for number in range(3)]
        schema = {"type": "object", "properties": {"p": schema}, "anyOf": branches}
    budget = WorkBudget(FIELD)
    lost = clean_schema({"properties": {"p": schema}}, MOONSHOT, budget)[1]
    assert lost == ["alternatives after the first 1,000 with keywords beside them were left out"]
    assert budget.counted_work.steps < 50_000
