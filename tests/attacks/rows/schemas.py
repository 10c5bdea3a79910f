"""JSON Schemas with conversion or evaluation costs that grow faster than their text."""

from collections.abc import Callable
from itertools import cycle
from typing import Any

from tests.attacks.lab import Attack, Row, ordinary
from tests.attacks.upstream import reply_text
from tests.faults.client import Answer

Schema = dict[str, Any]
WIRES = {
    "chat": "openai/gpt-4.1",
    "responses": "openai/gpt-5.5",
    "gemini": "gemini/gemini-3.6-flash",
    "gemini lowered": "gemini/gemini-1.5-pro",
    "ollama": "ollama/llama3",
    "groq": "groq/llama-3.3-70b-versatile",
    "relay": "claude-sonnet-4-5",
    "demo": "demo/demo",
}
_WIRES_WITH_CHECKS = ("openai/gpt-4.1", "groq/llama-3.3-70b-versatile", "gemini/gemini-3.6-flash", "ollama/llama3")


def as_tool(schema: Schema, name: str = "probe") -> Schema:
    """Return a tool definition with this input schema."""
    return {"name": name, "description": "d", "input_schema": schema}


def nest(depth: int, build: Callable[[Any], Any], leaf: Any) -> Any:
    """Apply `build` to its own result `depth` times."""
    for _ in range(depth):
        leaf = build(leaf)
    return leaf


def _root(keyword: str, count: int) -> Schema:
    return {"type": "object", keyword: [{"$ref": "#"}] * count}


def _cycle(count: int) -> Schema:
    refs = [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}] * count
    both = {"type": "object", "anyOf": refs}
    return {"type": "object", "anyOf": refs, "$defs": {"a": both, "b": both}}


def _doubling(levels: int, combine: Callable[[Schema], Schema]) -> Schema:
    defs = {f"d{i}": combine({"$ref": f"#/$defs/d{i + 1}"}) for i in range(levels)}
    return {
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/d0"}},
        "required": ["x"],
        "$defs": {**defs, f"d{levels}": {"type": "string"}},
    }


def _pair(below: Schema) -> Schema:
    return {"type": "object", "properties": {"l": below, "r": below}, "required": ["l", "r"]}


def _large_references(references: int, properties: int) -> Schema:
    large = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(properties)}}
    uses = {f"r{i}": {"$ref": "#/properties/large"} for i in range(references)}
    return {"type": "object", "properties": {"large": large, **uses}}


def _large_definitions(references: int, properties: int) -> Schema:
    large = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(properties)}}
    uses = {f"r{i}": {"$ref": "#/$defs/large"} for i in range(references)}
    return {"type": "object", "properties": uses, "$defs": {"large": large}}


def _one(schema: Any) -> Schema:
    return {"type": "object", "properties": {"a": schema}, "required": ["a"]}


_KINDS = cycle(("string", "number", "boolean", "array"))
SHAPES: dict[str, Schema] = {
    **{f"root {keyword} × 10 references to the root": _root(keyword, 10) for keyword in ("anyOf", "oneOf", "allOf")},
    "two definitions that refer to each other 20 times": _cycle(10),
    "definitions that double on 30 levels": _doubling(30, _pair),
    "allOf that doubles on 30 levels": _doubling(30, lambda below: {"allOf": [below, below]}),
    "anyOf with properties that doubles on 30 levels": _doubling(
        30, lambda below: {"properties": {"k": {"type": "string"}}, "anyOf": [below, below]}
    ),
    "type lists around items, 24 levels": _one(
        nest(24, lambda below: {"type": ["array", "string", "object"], "items": below}, {"type": "string"})
    ),
    "type lists around items and additionalProperties, 11 levels": _one(
        nest(11, lambda b: {"type": ["array", "object"], "items": b, "additionalProperties": b}, {"type": "string"})
    ),
    "anyOf around properties, 24 levels": _one(
        nest(
            24,
            lambda b: {"type": "object", "properties": {"n": b}, "anyOf": [{"required": ["n"]}, {"minProperties": 1}]},
            {"type": "string"},
        )
    ),
    "oneOf of oneOf, 24 levels": _one(nest(24, lambda b: {"oneOf": [b, {"type": "null"}]}, {"type": "string"})),
    "8,000 prefixItems": _one(
        {"type": "array", "prefixItems": [{"const": i, "type": next(_KINDS)} for i in range(8_000)]}
    ),
    "400 references to 5,000 properties": _large_references(400, 5_000),
    "400 references to a definition of 5,000 properties": _large_definitions(400, 5_000),
    "400 nested properties": _one(nest(400, _one, {"type": "string"})),
    "20,000 properties": {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(20_000)}},
    "enum of 60,000": _one({"enum": [f"v{i}" for i in range(60_000)]}),
    "required of 40,000": {"type": "object", "required": [f"p{i}" for i in range(40_000)]},
    "enum of 20,000 kinds": _one({"enum": [{"k": i} if i % 2 else [i] for i in range(20_000)]}),
    "20,000 unique items": _one(
        {"type": "array", "minItems": 20_000, "uniqueItems": True, "items": {"type": "integer"}}
    ),
    "minLength 10⁹": _one({"type": "string", "minLength": 10**9}),
    "minLength 10¹⁸": _one({"type": "string", "minLength": 10**18}),
    "minItems 10⁷": _one({"type": "array", "minItems": 10**7, "items": {"type": "string", "minLength": 1000}}),
    "minimum 10⁴⁰⁰": _one({"type": "number", "minimum": 10**400}),
    "300 strings of 4 MB": {
        "type": "object",
        "properties": {f"p{i}": {"type": "string", "minLength": 4_000_000} for i in range(300)},
        "required": [f"p{i}" for i in range(300)],
    },
    "catastrophic pattern": _one({"type": "string", "pattern": "(.*)*(.*)*(.*)*x{9}y"}),
    "catastrophic patternProperties": _one(
        {"type": "object", "patternProperties": {"^(a|a)*(a+)+$": {"type": "string"}}, "required": ["a" * 40]}
    ),
    "required a and b that refer to the root": {
        "type": "object",
        "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}},
        "required": ["a", "b"],
    },
    "dynamic and recursive references": {
        "$recursiveAnchor": True,
        "type": "object",
        "properties": {"a": {"$dynamicRef": "#x"}, "b": {"$recursiveRef": "#"}},
        "$dynamicAnchor": "x",
        "required": ["a", "b"],
    },
    "if, then, else and not around each other, 7 levels": _one(
        nest(7, lambda below: {"if": {"not": below}, "then": below, "else": below}, {"type": "string"})
    ),
}


def _post_on_wires(schema: Schema, forced: bool) -> Callable[[Attack], list[Answer]]:
    def run(attack: Attack) -> list[Answer]:
        fields: dict[str, Any] = {"tools": [as_tool(schema)]}
        if forced:
            fields["tool_choice"] = {"type": "any"}
        return [attack.post(ordinary(model, **fields)) for model in WIRES.values()]

    return run


def _check_reply(schema: Schema, reply: str, count: int) -> Callable[[Attack], list[Answer]]:
    def run(attack: Attack) -> list[Answer]:
        attack.upstream.reply = reply_text(reply)
        fields = {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
        answers = []
        for model in _WIRES_WITH_CHECKS:
            answers += attack.post_together([ordinary(model, **fields)] * count)
        return answers

    return run


def _nested_json(depth: int, model: str) -> bytes:
    schema = '{"type":"object","properties":{"a":' * depth + "{}" + "}}" * depth
    tool = '{"name":"t","input_schema":' + schema + "}"
    head = f'{{"model":"{model}","max_tokens":9,"messages":[{{"role":"user","content":"x"}}],"tools":['
    return (head + tool + "]}").encode()


def _deep(depth: int) -> Callable[[Attack], list[Answer]]:
    return lambda attack: [attack.post(_nested_json(depth, model)) for model in WIRES.values()]


def _equal_tools(count: int, schema: Schema) -> Callable[[Attack], list[Answer]]:
    def run(attack: Attack) -> list[Answer]:
        tools = [as_tool({**schema, "description": str(i)}, f"tool{i}") for i in range(count)]
        return [attack.post(ordinary(model, tools=tools)) for model in WIRES.values()]

    return run


_DEMO = {"SERVE_DEMO": "true"}
_ALTERNATIVES = {
    "type": "object",
    "properties": {
        "v": {"type": "array", "items": {"anyOf": [{"const": f"c{i}"} for i in range(2_000)]}},
    },
    "required": ["v"],
}
_REPLY = '{"v": [' + ",".join(f'"x{i}"' for i in range(2_000)) + "]}"

SCHEMAS: tuple[Row, ...] = (
    *(
        Row(name=f"tool schema: {name}", run=_post_on_wires(schema, False), settings=_DEMO)
        for name, schema in SHAPES.items()
    ),
    *(
        Row(name=f"forced tool: {name}", run=_post_on_wires(schema, True), settings=_DEMO)
        for name, schema in SHAPES.items()
    ),
    *(
        Row(
            name=f"reply schema: {name}",
            run=_check_reply(schema, '{"a": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!", "x": {"l": {}}}', 2),
            statuses=frozenset({200, 400, 502}),
        )
        for name, schema in SHAPES.items()
    ),
    Row(
        name="reply schema: 8 checks at once of definitions that double on 30 levels",
        run=_check_reply(_doubling(30, lambda below: {"anyOf": [below, below]}), '{"x": 1}', 8),
        statuses=frozenset({200, 400, 502}),
    ),
    Row(
        name="reply schema: 2,000 alternatives for each of 2,000 values",
        run=_check_reply(_ALTERNATIVES, _REPLY, 1),
        statuses=frozenset({200, 400, 502}),
    ),
    Row(name="tool schema: 10,000 nested objects", run=_deep(10_000), settings=_DEMO),
    Row(name="tool schema: 100,000 nested objects", run=_deep(100_000), settings=_DEMO),
    Row(name="200 tools of 16 root references", run=_equal_tools(200, _root("anyOf", 16)), settings=_DEMO),
    Row(name="50 tools of doubling definitions", run=_equal_tools(50, _doubling(30, _pair)), settings=_DEMO),
    Row(
        name="demo model without SERVE_DEMO",
        run=lambda attack: [
            attack.post(ordinary("demo/x", tools=[as_tool(SHAPES["minLength 10⁹"])], tool_choice={"type": "any"}))
        ],
        statuses=frozenset({400, 404}),
    ),
)
