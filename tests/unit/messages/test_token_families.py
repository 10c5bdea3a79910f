"""The token estimate by family of models."""

import json
from typing import Any

import pytest
from msgspec.structs import replace

from anthropic_proxy.engine.messages.models import decode_request
from anthropic_proxy.engine.messages.tokens import (
    DEFAULT_FAMILY,
    MAX_TOKENS,
    TokenFacts,
    TokenFamily,
    count_image_units,
    count_text_features,
    estimate_tokens,
)
from anthropic_proxy.engine.providers.token_families import FAMILIES, find_token_family
from bench.token_counts import Errors, list_errors, list_worse, read_table
from tests.support.golden_texts import Check
from tests.support.token_estimate import estimate_request_tokens

NO_TEXT = count_text_features([])
NOTHING = TokenFacts(
    NO_TEXT, messages=0, calls=0, results=0, tools=0, tool_text=NO_TEXT, tool_marks=0, tool_json=0, images=[], pages=0
)


@pytest.fixture(scope="module")
def errors() -> list[Errors]:
    """Return the errors of the constants in use for the recorded counts."""
    rows = read_table()
    estimates = {place: estimate_tokens(row.facts, find_token_family(row.model)) for place, row in enumerate(rows)}
    return list_errors(rows, estimates)


MISSES_GOAL = {"anthropic, text"}
"""Groups of large requests with larger errors than the goal. Decision 0012 says why."""
WORSE_THAN_BEFORE = {"azure, calls", "ollama, tools", "openai, tools", "openrouter, image", "openrouter, pdf"}
WORSE_IF_SMALL = {"huggingface, tools", "openai, calls", "openai, image", "openrouter, text"}


def test_goal_for_large_requests_is_missed_by_the_documented_groups_alone(errors: list[Errors]) -> None:
    """In each other group of at least 10 requests, the median is within 3 %, and 9 of 10 requests within 12 %."""
    groups = [group for group in errors if group.is_large and len(group.after) >= 10]
    assert len(groups) >= 10
    missed = {
        f"{group.provider}, {group.kind}" for group in groups if abs(group.figures[3]) > 3 or group.figures[4] > 12
    }
    assert missed == MISSES_GOAL


def test_the_documented_groups_alone_are_estimated_worse_than_before(errors: list[Errors]) -> None:
    """In the median, the 90th percentile and the mean, of each provider, kind and size, also of single requests."""
    worse = list_worse(errors)
    assert {f"{group.provider}, {group.kind}" for group in worse if group.is_large} == WORSE_THAN_BEFORE
    assert {f"{group.provider}, {group.kind}" for group in worse if not group.is_large} == WORSE_IF_SMALL


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


def test_claude_adds_text_to_a_request_with_thinking() -> None:
    """A provider reported 14 input tokens for this question without thinking, and 43 with it."""
    asked = [{"role": "user", "content": "Reply with the single word: ok"}]
    plain, disabled, enabled = (
        estimate_request_tokens(request(messages=asked, **fields), FAMILIES["claude"])
        for fields in ({}, {"thinking": {"type": "disabled"}}, {"thinking": {"type": "adaptive"}})
    )
    assert 12 <= plain == disabled <= 16
    assert 38 <= enabled <= 46


def test_an_estimate_has_a_maximum() -> None:
    facts = replace(NOTHING, text=tuple(1e30 for _ in NO_TEXT), pages=10**20)
    assert estimate_tokens(facts, DEFAULT_FAMILY) == MAX_TOKENS
