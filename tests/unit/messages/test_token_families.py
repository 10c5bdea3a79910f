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


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("claude-sonnet-4-5-20250929", "claude"),
        ("us.anthropic.claude-sonnet-4-6", "claude"),
        ("anthropic/claude-3.7-sonnet", "claude"),
        ("claude-3-5-sonnet-latest", "claude"),
        ("claude-opus-4.8", "claude-5"),
        ("claude-sonnet-5", "claude-5"),
        ("global.anthropic.claude-fable-5-v1:0", "claude-5"),
        ("gpt-4o-mini", "openai-mini"),
        ("gpt-5-nano-2025-08-07", "openai-nano"),
        ("us.amazon.nova-pro-v1:0", "nova"),
        ("us.amazon.nova-2-lite-v1:0", "nova-2"),
        ("meta-llama/llama-4-scout-17b-16e-instruct", "llama-4"),
        ("openai/gpt-5.6-sol", "openai"),
        ("o3", "openai"),
        ("openai/gpt-oss-120b", "gpt-oss"),
        ("gemini-2.0-flash", "gemini-2"),
        ("google/gemini-2.5-pro", "gemini-2.5"),
        ("gemini-3-flash-preview", "gemini-3"),
        ("deepseek-v4-flash", "deepseek"),
        ("deepseek-r1-distill-llama-70b", "other"),
        ("my-deployment", "other"),
        ("", "other"),
    ],
)
def test_the_family_follows_from_the_model(model: str, family: str) -> None:
    assert find_token_family(model).name == family


def request(**fields: Any) -> Any:
    return decode_request(json.dumps({"model": "m", "max_tokens": 1, **fields}).encode())


def test_claude_adds_text_to_a_request_with_tools() -> None:
    """A provider reported 592 input tokens for a question with one small tool."""
    tool = {"name": "get_weather", "description": "Weather of a city", "input_schema": {"type": "object"}}
    asked = request(messages=[{"role": "user", "content": "Weather in Rome?"}], tools=[tool])
    assert estimate_request_tokens(asked) < 100
    assert 530 < estimate_request_tokens(asked, FAMILIES["claude"]) < 620


@pytest.mark.parametrize(
    ("family", "size", "units"),
    [
        ("gemini-2", (300, 200), 1),
        ("gemini-2", (540, 360), 7),
        ("gemini-2", (3008, 2000), 13),
        ("gemini-2", (65_000, 1), 65),
        ("gemini-2", (2**32 - 1, 2**32 - 1), 65),
        ("gemini-2.5", (597, 566), 1),
        ("openai", (3008, 2000), 6),
        ("openai", (1, 2**32 - 1), 4),
        ("openai-mini", (540, 360), 204),
        ("openai-mini", (0, 0), 1),
        ("openai-nano", (540, 360), 204),
        ("llama-4", (300, 200), 1),
        ("llama-4", (400, 301), 3),
        ("llama-4", (597, 566), 5),
        ("llama-4", (3008, 2000), 16),
        ("llama-4", (2**32 - 1, 1), 17),
        ("llama-4", None, 17),
        ("nova", (3008, 2000), 1),
        ("claude", (597, 566), 450),
        ("claude", (3008, 2000), 1_600),
        ("claude-5", (3008, 2000), 4_784),
        ("claude-5", None, 4_784),
    ],
)
def test_an_image_has_limited_units(family: str, size: tuple[int, int] | None, units: int) -> None:
    assert count_image_units(size, FAMILIES[family]) == units


def test_an_estimate_has_a_maximum() -> None:
    facts = TokenFacts(
        text=1e30, messages=1, calls=0, results=0, tools=0, tool_text=0, tool_marks=0, images=[], pages=10**20
    )
    assert estimate_tokens(facts, DEFAULT_FAMILY) == MAX_TOKENS
