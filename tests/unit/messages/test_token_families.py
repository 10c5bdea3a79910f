"""The token estimate by family of models."""

import json
from typing import Any

import pytest

from anthropic_proxy.engine.messages.models import decode_request
from anthropic_proxy.engine.messages.tokens import (
    DEFAULT_FAMILY,
    MAX_TOKENS,
    TokenFacts,
    TokenFamily,
    count_image_units,
    estimate_request_tokens,
    estimate_tokens,
)
from anthropic_proxy.engine.providers.token_families import FAMILIES, find_token_family
from bench.token_counts import fit_families, read_table
from tests.support.golden_texts import Check

NOTHING = TokenFacts(text=0, messages=0, calls=0, results=0, tools=0, tool_text=0, tool_marks=0, images=[], pages=0)


def test_the_constants_are_those_that_the_recorded_counts_give() -> None:
    assert fit_families(read_table()) == FAMILIES


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_part_of_a_request_costs_a_limited_number_of_tokens(family: TokenFamily) -> None:
    assert 0 <= family.per_message <= 12
    assert 0 <= family.per_call <= 30
    assert 0 <= family.per_result <= 30
    assert 0.9 <= family.text <= 1.7
    assert 1 <= estimate_tokens(NOTHING, family) <= 100


def test_golden_families(golden: Check) -> None:
    """`golden_texts/token_families`: the family of a model, and the units of an image of a size."""

    def show(given: str) -> str:
        family, colon, size = given.partition(": ")
        if colon:
            numbers = [int(number) for number in size.split(" × ")] if "×" in size else None
            return str(count_image_units((numbers[0], numbers[1]) if numbers else None, FAMILIES[family]))
        return find_token_family(given).name

    golden("token_families", show)


def request(**fields: Any) -> Any:
    return decode_request(json.dumps({"model": "m", "max_tokens": 1, **fields}).encode())


def test_claude_adds_text_to_a_request_with_tools() -> None:
    """A provider reported 592 input tokens for a question with one small tool."""
    tool = {"name": "get_weather", "description": "Weather of a city", "input_schema": {"type": "object"}}
    asked = request(messages=[{"role": "user", "content": "Weather in Rome?"}], tools=[tool])
    assert estimate_request_tokens(asked) < 100
    assert 530 < estimate_request_tokens(asked, FAMILIES["claude"]) < 620


def test_an_estimate_has_a_maximum() -> None:
    facts = TokenFacts(
        text=1e30, messages=1, calls=0, results=0, tools=0, tool_text=0, tool_marks=0, images=[], pages=10**20
    )
    assert estimate_tokens(facts, DEFAULT_FAMILY) == MAX_TOKENS
