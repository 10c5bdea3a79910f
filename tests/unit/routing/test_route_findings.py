"""Findings about the targets of routes: unknown prefixes, guesses, missing keys and prices. Documented routes load."""

import re
from pathlib import Path

import pytest

from anthropic_proxy.engine.advice import list_texts
from anthropic_proxy.engine.options import list_condition_texts
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.routing.problems import find_route_problems
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.services import require_route_prices
from tests.support.paths import ROOT
from tests.support.provider_lists import OFFERED_PREFIXES, join_with_or
from tests.support.routes import load_routes

TARGETS = """
[[routes]]
name = "a"
when.tier = "opus"
targets = ["grok/grok-3", "gpt-9", "haiku"]

[[routes]]
name = "b"
targets = ["groq/llama-3.3-70b-versatile"]
"""
COST = """
[prices."openai/gpt-4.1"]
input = 2
output = 8

[[routes]]
name = "cheap"
targets = ["openai/gpt-4.1", "openai/unlisted-model"]
balance = "cost"
"""


def test_targets_that_cannot_serve_or_are_guessed_are_reported_with_a_remedy(tmp_path: Path) -> None:
    found = find_route_problems(load_routes(tmp_path, TARGETS), Catalog())
    assert [text.replace(f"{tmp_path}/", "") for text in list_texts(one for one in found if one.is_error)] == [
        'targets of route "a" contains "grok/grok-3", but grok/ is the prefix of no provider, and openai has no such '
        f"model. Use {join_with_or(OFFERED_PREFIXES)} as the prefix. "
        "Set in anthropic-proxy.toml, line 5. Did you mean:  xai/grok-3",
        'The route "b" (anthropic-proxy.toml line 7): groq has no key: GROQ_API_KEY is not set. Set it in .env and '
        "reload the proxy, or in the environment and start it again.",
    ]
    assert [text.replace(f"{tmp_path}/", "") for text in list_texts(one for one in found if not one.is_error)] == [
        'targets of route "a" contains "gpt-9", which has no prefix and is in no model list, so it is sent to openai. '
        "Write openai/gpt-9, or the prefix of another provider. Set in anthropic-proxy.toml, line 5."
    ]


def test_a_target_without_a_price_is_reported_with_both_remedies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_routes(tmp_path, COST)
    monkeypatch.setattr("anthropic_proxy.gateway.prices.price_list.has_price_package", lambda: False)
    with pytest.raises(ConfigurationError) as caught:
        require_route_prices(settings)
    assert [text.replace(f"{tmp_path}/", "") for text in caught.value.messages] == [
        'The route "cheap" (anthropic-proxy.toml, line 6) has balance = "cost", but openai/unlisted-model has no known '
        'price. Add [prices."openai/unlisted-model"] with input and output to anthropic-proxy.toml, or install the '
        "price list:  anthropic-proxy add prices"
    ]
    assert require_route_prices(load_routes(tmp_path, TARGETS)).routes


def test_the_documented_routes_are_valid(tmp_path: Path) -> None:
    page = (ROOT / "docs/guide/routes.md").read_text(encoding="utf-8")
    introduction, *recipes = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert load_routes(tmp_path, introduction).routes[0].when.input_above == 200_000
    found = load_routes(tmp_path, "\n".join(recipes))
    assert found.warnings == ()
    assert [route.name for route in found.routes][:4] == ["long context", "background", "images", "trial"]
    assert list_condition_texts(found.routes[-1].when.key) == ("ci-*",)
