"""Rules and budgets of a key apply to each model that a request names: advisors, fallbacks, and what they have cost."""

from typing import Any

import pytest

from anthropic_proxy.console.keys.queries import read_all_spending
from anthropic_proxy.engine.messages.deltas import Iteration
from anthropic_proxy.gateway.settings.key_rules import Rules, decode_budget
from anthropic_proxy.plugins import AdmissionTarget
from tests.support.virtual_keys import Keys, change_team

HAIKU, OPUS = "claude-haiku-4-5", "claude-opus-4-5"


def name(model: str, field: str, **facts: Any) -> AdmissionTarget:
    return AdmissionTarget(prefix="anthropic", model=model, max_output_tokens=1_000, field=field, **facts)


def targets(*named: AdmissionTarget, **facts: Any) -> dict[str, Any]:
    own = AdmissionTarget(prefix="anthropic", model=HAIKU, max_output_tokens=1_000, named_models=named, **facts)
    return {"targets": [own], "model": HAIKU}


async def read_used(keys: Keys) -> list[int]:
    """Return the used and reserved amounts of the budgets of the only key with some."""
    (found,) = await read_all_spending(keys.store, keys.table.list_scopes_with_budgets(), keys.now)
    return [one.used for one in found]


ADVISED = targets(name(OPUS, "tools.0.model", max_calls=2))


@pytest.mark.parametrize(
    ("models", "field"),
    [(("claude-haiku-*",), "tools.0.model"), (("anthropic/claude-haiku-4-5",), "fallbacks.1.model")],
)
async def test_a_key_without_the_named_model_is_refused(keys: Keys, models: tuple[str, ...], field: str) -> None:
    key = await keys.create("ci", rules=Rules(models=models))
    assert (await keys.refuse(key, 403, **targets(name(OPUS, field)))).message == (
        f"The key 'ci' does not allow the model 'claude-opus-4-5', which the field {field} names. "
        f"Allowed: {models[0]}. Another list:  anthropic-proxy keys change ci --models LIST"
    )
    await keys.admit(key, **targets(name(HAIKU, field)))


@pytest.mark.parametrize("model", [f"{HAIKU},{OPUS}", f"{HAIKU}, {OPUS}"])
async def test_a_pattern_matches_no_list_of_models(keys: Keys, model: str) -> None:
    key = await keys.create("ci", rules=Rules(models=("claude-haiku-*", "anthropic/claude-haiku-*")))
    target = AdmissionTarget(prefix="anthropic", model=model, max_output_tokens=1_000)
    error = await keys.refuse(key, 403, model=model, normalized_model=model, targets=[target])
    assert error.message == (
        f"The key 'ci' does not allow the model '{model}' (anthropic/{model}). Allowed: claude-haiku-*, "
        "anthropic/claude-haiku-*. Another list:  anthropic-proxy keys change ci --models LIST"
    )


@pytest.mark.parametrize("pattern", ["claude-*", OPUS, "anthropic/claude-opus-4-5", "anthropic/*"])
async def test_a_key_with_the_named_model_is_admitted(keys: Keys, pattern: str) -> None:
    key = await keys.create("ci", rules=Rules(models=("claude-haiku-4-5", pattern)))
    await keys.admit(key, **ADVISED)


async def test_the_rules_of_a_team_apply_to_named_models(keys: Keys) -> None:
    key = await keys.create("ci", team="build")
    change_team(keys.administration, "build", {"models": ["claude-haiku-*"]})
    await keys.table.refresh()
    assert "The team 'build' does not allow the model 'claude-opus-4-5', which the field tools.0.model names." in (
        (await keys.refuse(key, 403, **ADVISED)).message
    )


async def test_a_named_model_without_a_price_is_refused_for_a_budget_in_dollars(keys: Keys) -> None:
    key = await keys.create("ci", rules=Rules(budgets=(decode_budget("1USD/day"),)))
    error = await keys.refuse(key, 403, **targets(name("claude-of-next-year", "tools.3.model")))
    assert error.message == (
        "The key 'ci' has a budget in dollars, and the price of anthropic/claude-of-next-year, which the field "
        'tools.3.model names, is unknown. Add a table [prices."anthropic/claude-of-next-year"] to '
        "anthropic-proxy.toml, or use a budget in tokens."
    )
    tokens = await keys.create("tokens", rules=Rules(budgets=(decode_budget("1000000tokens/day"),)))
    await keys.admit(tokens, **targets(name("claude-of-next-year", "tools.3.model")))


async def test_a_budget_reserves_all_calls_of_a_named_model(keys: Keys) -> None:
    rules = Rules(budgets=(decode_budget("100USD/day"), decode_budget("1000000tokens/day")))
    key = await keys.create("ci", rules=rules)
    await keys.admit(key, estimate_input_tokens=lambda: 1_000, **ADVISED)
    # haiku: 1,000 × 2 (written for an hour) + 1,000 × 5; twice opus: 1,000 × 10 + 1,000 × 25
    assert await read_used(keys) == [(7_000 + 2 * 35_000) * 1_000, 2_000 + 2 * 2_000]


async def test_a_region_and_its_factor_are_reserved(keys: Keys) -> None:
    key = await keys.create("ci", rules=Rules(budgets=(decode_budget("100USD/day"),)))
    await keys.admit(key, estimate_input_tokens=lambda: 1_000, **targets(region="us"))
    assert await read_used(keys) == [7_700 * 1_000]


@pytest.mark.parametrize(
    "facts", [{"region": "eu"}, {"service_tier": "fast"}, {"region": "eu", "service_tier": "fast"}]
)
async def test_in_a_region_or_tier_without_a_price_the_usual_one_is_reserved(keys: Keys, facts: dict[str, str]) -> None:
    key = await keys.create("ci", rules=Rules(budgets=(decode_budget("100USD/day"),)))
    await keys.admit(key, estimate_input_tokens=lambda: 1_000, **targets(**facts))
    assert await read_used(keys) == [7_000 * 1_000]


async def test_budgets_get_what_each_model_has_cost(keys: Keys) -> None:
    by_model = ("50USD/day for claude-opus-*", "50USD/day for claude-haiku-*", "9000tokens/day for claude-opus-*")
    budgets = ("100USD/day", *by_model)
    key = await keys.create("ci", rules=Rules(budgets=tuple(map(decode_budget, budgets))))
    admitted = await keys.admit(key, **ADVISED)
    advisor = Iteration(kind="advisor_message", model=OPUS, input_tokens=100, cache_read_tokens=1_000, output_tokens=20)
    used = {"provider": "anthropic", "prefix": "anthropic", "model": HAIKU}
    counts = {"input_tokens": 150, "cache_read_tokens": 1_000, "output_tokens": 30}
    await keys.finish(admitted, **used, **counts, iterations=(advisor,))
    opus, haiku = 100 * 5 + 1_000 * 0.5 + 20 * 25, 50 * 1 + 10 * 5
    assert await read_used(keys) == [(opus + haiku) * 1_000, opus * 1_000, haiku * 1_000, 120]


async def test_a_model_without_a_price_that_the_provider_calls_counts_at_the_price_of_the_called_one(
    keys: Keys,
) -> None:
    key = await keys.create("ci", rules=Rules(budgets=(decode_budget("100USD/day"),)))
    admitted = await keys.admit(key, **targets())
    unknown = Iteration(kind="review", model="claude-of-next-year", input_tokens=10, output_tokens=10)
    used = {"provider": "anthropic", "prefix": "anthropic", "model": HAIKU}
    await keys.finish(admitted, **used, input_tokens=60, output_tokens=20, iterations=(unknown,))
    assert await read_used(keys) == [(60 + 20 * 5) * 1_000]


RESTRICTING: dict[str, bool] = {
    "1USD/day": True,
    "1USD/month soft": True,
    "9tokens/day for claude-opus-*": True,
    "9tokens/day": False,
}


@pytest.mark.parametrize("budget", RESTRICTING)
@pytest.mark.parametrize("has_team", [True, False])
async def test_a_budget_that_depends_on_the_model_restricts_what_is_relayed(
    keys: Keys, budget: str, has_team: bool
) -> None:
    budgets = (decode_budget(budget),)
    key = await keys.create("ci", team="build", rules=Rules() if has_team else Rules(budgets=budgets))
    if has_team:
        change_team(keys.administration, "build", {"budgets": budgets})
        await keys.table.refresh()
    client = await keys.policy.identify({"x-api-key": key})
    assert client is not None
    assert client.is_restricted == RESTRICTING[budget]
