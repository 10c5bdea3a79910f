"""Stored costs by kind of token, and the same tokens at the price of another model."""

from pathlib import Path

from anthropic_proxy.console.ledger.costs import ModelCosts, calculate_base_cost
from anthropic_proxy.console.ledger.sums import UsageSums
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.settings import CONFIG_FILE, load_settings

OWN = """
[prices."openai/test-model"]
input = 2
output = 8
cache_read = 0.5
long_context = { above = 1000, input = 4, output = 16 }
"""
SUMS = UsageSums(requests=3, input_tokens=1_000, cache_read_tokens=2_000, output_tokens=500, thinking_tokens=125)


def open_costs(folder: Path) -> ModelCosts:
    (folder / CONFIG_FILE).write_text(OWN, encoding="utf-8")
    return ModelCosts(load_settings({}, PROVIDERS, env_file=str(folder / ".env")))


def test_the_kinds_of_tokens_divide_the_stored_cost_completely(tmp_path: Path) -> None:
    costs = open_costs(tmp_path)
    SUMS.cost = 7_000_001  # at the price: 2,000,000 input, 1,000,000 cache, 3,000,000 output, 1,000,000 thinking
    parts = costs.divide_cost("openai", "test-model", SUMS)
    assert parts == {"cache_read": 1_000_000, "input": 2_000_000, "output": 3_000_001, "thinking": 1_000_000}
    assert costs.divide_cost("openai", "without-price", SUMS) == {"": 7_000_001}
    assert costs.divide_cost("openai", "test-model", UsageSums(requests=1)) == {}


def test_summed_tokens_have_the_price_without_a_long_context(tmp_path: Path) -> None:
    price = open_costs(tmp_path).find_price("openai", "test-model")
    assert price is not None
    assert calculate_base_cost(price, SUMS) == 7_000_000


def test_a_requested_model_has_the_price_of_its_vendor(tmp_path: Path) -> None:
    costs = open_costs(tmp_path)
    listed = costs.find_requested_price("claude-sonnet-4-5[1m]", "openai", "test-model")
    assert listed is not None
    assert listed.base.output == 15
    assert costs.find_requested_price("gpt-unknown", "openai", "test-model") is None
