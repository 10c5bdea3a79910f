"""The check of a schema in one pass says the same as the schema of schemas, and its work grows with the size only."""

import json
from random import Random
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]

from anthropic_proxy.engine.messages.reply_schema import ReplySchema
from anthropic_proxy.engine.messages.schema_check import _KEYWORDS, _SCHEMAS, check_schema
from anthropic_proxy.engine.messages.work_budget import WorkBudget
from anthropic_proxy.errors import InvalidRequest

KNOWN = sorted({*_KEYWORDS, *_SCHEMAS, "const", "default", "x-of-our-own"})
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2.0, 2.5, 1e300, "", "a", "a#", "#", "string", "integer", "a b", "1a"),
    *([], ["a"], ["a", "a"], ["string", "null"], ["string", "string"], ["odd"], [1], [True], [{}], [{}, {"type": 1}]),
    *(
        {},
        {"a": {}},
        {"a": True},
        {"a": 1},
        {"a": ["b"]},
        {"a": ["b", "b"]},
        {"a": {"type": "string"}},
        {"type": "odd"},
    ),
]
META = Draft202012Validator(Draft202012Validator.META_SCHEMA)


def is_valid(schema: Any) -> bool:
    return check_schema(schema, WorkBudget("schema")).is_valid


@pytest.mark.parametrize("keyword", KNOWN)
def test_each_keyword_has_the_values_of_the_standard(keyword: str) -> None:
    for value in VALUES:
        assert is_valid({keyword: value}) == META.is_valid({keyword: value}), value


def test_each_keyword_of_the_standard_is_known() -> None:
    known = set[str]()
    for part in ("core", "applicator", "unevaluated", "validation", "meta-data", "format-annotation", "content"):
        uri = f"https://json-schema.org/draft/2020-12/meta/{part}"
        known |= REGISTRY.contents(uri)["properties"].keys()
    known |= Draft202012Validator.META_SCHEMA["properties"].keys()
    assert known - {"const", "default"} == _KEYWORDS.keys() | _SCHEMAS.keys()


@pytest.mark.parametrize("seed", range(40))
def test_random_schemas_are_valid_as_the_standard_says(seed: int) -> None:
    chance = Random(seed)

    def build(depth: int) -> Any:
        if depth == 0 or chance.random() < 0.1:
            return chance.choice(VALUES)
        schema = dict[str, Any]()
        for _ in range(chance.randrange(4)):
            keyword = chance.choice(KNOWN)
            inner = build(depth - 1)
            schema[keyword] = chance.choice([inner, [inner], {"a": inner}, chance.choice(VALUES)])
        return schema

    for _ in range(40):
        schema = build(3)
        assert is_valid(schema) == META.is_valid(schema), schema


LARGE: dict[str, Any] = {
    "properties": {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(30_000)}},
    "alternatives": {"anyOf": [{} for _ in range(200_000)]},
    "references": {"$defs": {"d": {}}, "properties": {f"p{n}": {"$ref": "#/$defs/d"} for n in range(30_000)}},
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_schema_takes_a_step_for_each_schema_in_it(name: str) -> None:
    schema = LARGE[name]
    inner = json.dumps(schema).count("{")
    budget = WorkBudget("schema")
    assert check_schema(schema, budget).is_valid
    assert budget.counted_work.steps <= 1.2 * inner
    ReplySchema(json.dumps(schema).encode())


def test_what_is_wrong_in_a_large_schema_is_told_in_few_steps() -> None:
    with pytest.raises(InvalidRequest) as caught:
        ReplySchema(json.dumps({"type": "odd"}).encode())
    assert caught.value.message == (
        "output_config.format.schema: $.type: 'odd' is not valid under any of the given schemas"
    )
    wrong = LARGE["properties"] | {"required": "p1"}
    with pytest.raises(InvalidRequest) as caught:
        ReplySchema(json.dumps(wrong).encode())
    assert caught.value.message == (
        "output_config.format.schema: it needs more than 20,000 steps to read; that is the limit. Refer to fewer "
        "definitions from each other, or list fewer alternatives."
    )
