"""Costs of requests: a table of 20 cases, calculated by hand from the price lists of the vendors."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs

from anthropic_proxy.console.ledger.costs import (
    Amounts,
    CostCalculator,
    CurrentCosts,
    ModelCosts,
    calculate_base_cost,
    list_used_amounts,
)
from anthropic_proxy.console.ledger.records import UsageSums
from anthropic_proxy.engine.messages.deltas import Iteration, TokenCounts
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.prices.price_list import PRICE_SOURCE, find_price, find_price_package_version
from anthropic_proxy.gateway.settings import CONFIG_FILE, Settings, load_settings
from anthropic_proxy.gateway.telemetry.logged_requests import RequestSnapshot, encode_requests
from anthropic_proxy.gateway.telemetry.requests import RequestFeed, RunningRequests
from anthropic_proxy.plugins import Client, Cost, ModelUsage, Receipt, UpstreamAttempt

NOVEMBER = datetime(2026, 11, 20, 12, tzinfo=UTC)
OWN = """
[prices."openai/own"]
input = 0.1
output = 0.3
cache_read = 0.0125
[prices."openai/free"]
input = 0
output = 0
"""

# requested model, used model, tokens (input, cache read, cache write, output, thinking), cost in nano-dollars of the
# used model, and of the requested model. 1 token at $1 per million costs 1,000 nano-dollars.
CASES = [
    # input, output: 1,000 × 2 + 500 × 8 = 6,000 → $0.006; Claude: 1,000 × 3 + 500 × 15
    ("claude-sonnet-4-6", "openai/gpt-4.1", (1_000, 0, 0, 500, 0), 6_000_000, 10_500_000),
    # cache read at a quarter; Claude: at a tenth: 100 × 3 + 10,000 × 0.3 + 10 × 15
    ("claude-sonnet-4-6", "openai/gpt-4.1", (100, 10_000, 0, 10, 0), 5_280_000, 3_450_000),
    # a cache write without its own price costs the price of input: 3,000 × 2; Claude: 3,000 × 3.75
    ("claude-sonnet-4-6", "openai/gpt-4.1", (0, 0, 3_000, 0, 0), 6_000_000, 11_250_000),
    # thinking is part of the output tokens
    ("claude-sonnet-4-6", "openai/gpt-4.1", (0, 0, 0, 700, 600), 5_600_000, 10_500_000),
    ("claude-haiku-4-5", "openai/gpt-4.1-mini", (1, 1, 0, 1, 0), 2_100, 6_100),
    ("claude-haiku-4-5-20251001", "openai/gpt-4.1-mini", (10, 0, 0, 0, 0), 4_000, 10_000),
    ("claude-opus-4-8[1m]", "openai/gpt-4.1", (1_000_000, 0, 0, 0, 0), 2_000_000_000, 5_000_000_000),
    # gemini-2.5-pro: 200,000 tokens have the low price, one more all of them the high price
    ("claude-opus-4-8", "gemini/gemini-2.5-pro", (200_000, 0, 0, 1_000, 0), 260_000_000, 1_025_000_000),
    ("claude-opus-4-8", "gemini/gemini-2.5-pro", (200_001, 0, 0, 1_000, 0), 515_002_500, 1_025_005_000),
    # cached tokens count for the long context: 1 × 2.5 + 200,000 × 0.25
    ("claude-opus-4-8", "gemini/gemini-2.5-pro", (1, 200_000, 0, 0, 0), 50_002_500, 100_005_000),
    ("claude-opus-4-8", "vertex_ai/gemini-2.5-pro", (1_000, 0, 0, 0, 0), 1_250_000, 5_000_000),
    # Claude itself: both costs are equal
    ("claude-opus-4-8", "anthropic/claude-opus-4-8", (10, 1_000, 100, 20, 0), 1_675_000, 1_675_000),
    # a price with four decimals: 7 × 0.0125 = 0.0875 → 87.5 nano-dollars, rounded up with 3 × 0.1
    ("openai/own", "openai/own", (3, 7, 0, 0, 0), 388, 388),
    ("openai/free", "openai/free", (10, 0, 0, 10, 0), 0, 0),
    ("claude-haiku-4-5", "ollama/qwen3-coder:30b", (1_000, 0, 0, 1_000, 0), 0, 6_000_000),
    ("claude-haiku-4-5", "demo/demo", (1_000, 0, 0, 1_000, 0), 0, 6_000_000),
    # unknown, never zero
    ("claude-haiku-4-5", "openai/no-such-model", (1_000, 0, 0, 1_000, 0), None, 6_000_000),
    ("no-such-model", "openai/gpt-4.1", (1_000, 0, 0, 0, 0), 2_000_000, None),
    ("gpt-4.1", "openai/gpt-4.1", (1_000, 0, 0, 0, 0), 2_000_000, 2_000_000),
    # no tokens, no cost: an error before the reply
    ("claude-haiku-4-5", "openai/no-such-model", (0, 0, 0, 0, 0), 0, 0),
]


def load(folder: Path, prices: str) -> Settings:
    (folder / CONFIG_FILE).write_text(prices, encoding="utf-8")
    return load_settings({}, PROVIDERS, env_file=str(folder / ".env"))


@pytest.fixture
def calculator(tmp_path: Path) -> CostCalculator:
    return CostCalculator(load(tmp_path, OWN))


def receipt(requested: str, used: str, tokens: tuple[int, int, int, int, int]) -> Receipt:
    prefix, _, model = used.partition("/")
    return Receipt(
        request_id="req_1",
        client=Client(),
        started_at=NOVEMBER.timestamp(),
        requested_model=requested,
        prefix=prefix,
        model=model,
        input_tokens=tokens[0],
        cache_read_tokens=tokens[1],
        cache_write_tokens=tokens[2],
        output_tokens=tokens[3],
        thinking_tokens=tokens[4],
    )


@pytest.mark.parametrize(("requested", "used", "tokens", "cost", "requested_cost"), CASES)
def test_the_cost_equals_the_price_list(
    calculator: CostCalculator,
    requested: str,
    used: str,
    tokens: tuple[int, int, int, int, int],
    cost: int | None,
    requested_cost: int | None,
) -> None:
    found = calculator.calculate(receipt(requested, used, tokens))
    assert (found.cost, found.requested_cost) == (cost, requested_cost)


def test_one_calculator_tells_apart_all_on_which_a_cost_depends(calculator: CostCalculator) -> None:
    for requested, used, tokens, cost, requested_cost in (*CASES, *CASES):  # the second ones were kept
        found = calculator.calculate(receipt(requested, used, tokens))
        assert (found.cost, found.requested_cost) == (cost, requested_cost)
    long = receipt("claude-sonnet-4-6", "anthropic/claude-sonnet-4-6", (300_000, 0, 0, 0, 0))
    for month, dollars in ((3, 6), (4, 3), (3, 6)):  # the surcharge of a long context ended in this year
        at = datetime(2026, month, 1, tzinfo=UTC).timestamp()
        found = calculator.calculate(structs.replace(long, started_at=at))
        assert found.cost == found.requested_cost == 300_000 * dollars * 1_000


@pytest.mark.parametrize(
    ("used", "own", "cost"),
    [
        ("anthropic/claude-opus-4-8", "", (300 * 6.25 + 700 * 10) * 1_000),  # 1.25 and 2 times the price of input
        ("openai/own", "cache_write = 1\ncache_write_1h = 3", (300 * 1 + 700 * 3) * 1_000),
        ("openai/own", "cache_write = 1", 1_000 * 1_000),
        ("openai/own", "", 1_000 * 500),
    ],
)
def test_cache_writes_for_one_hour_have_their_own_price(tmp_path: Path, used: str, own: str, cost: int) -> None:
    calculator = CostCalculator(load(tmp_path, f'[prices."openai/own"]\ninput = 0.5\noutput = 1\n{own}\n'))
    written = structs.replace(receipt("x", used, (0, 0, 1_000, 0, 0)), cache_write_1h_tokens=700)
    assert calculator.calculate(written).cost == cost


def test_each_call_of_a_tool_loop_has_the_price_of_its_model_and_context(calculator: CostCalculator) -> None:
    calls = [new_attempt("google", "gemini-2.5-pro", 80_000, 1_000) for _ in range(3)]
    looped = receipt("claude-opus-4-8", "gemini/gemini-2.5-pro", (240_000, 0, 0, 3_000, 0))
    found = calculator.calculate(structs.replace(looped, attempts=calls))
    assert (found.cost, found.requested_cost) == (3 * (100_000_000 + 10_000_000), 3 * (400_000_000 + 25_000_000))
    moved = [new_attempt("google", "gemini-2.5-pro", 80_000, 0), new_attempt("openai", "gpt-4.1", 1_000, 500)]
    looped = receipt("claude-sonnet-4-6", "openai/gpt-4.1", (81_000, 0, 0, 500, 0))
    assert calculator.calculate(structs.replace(looped, attempts=moved)).cost == 100_000_000 + 6_000_000
    unknown = [moved[1], new_attempt("openai", "no-such-model", 80_000, 0)]
    found = calculator.calculate(structs.replace(looped, attempts=unknown))
    assert (found.cost, found.source) == (None, "")


def test_a_request_keeps_its_cost_when_the_prices_change(tmp_path: Path) -> None:
    """The ledger stores the cost soon, and `logs` shows it later."""
    settings = load(tmp_path, OWN)
    finished = receipt("claude-haiku-4-5", "openai/own", (1_000, 0, 0, 1_000, 0))
    stored = CurrentCosts(lambda: settings).calculate(finished)
    assert stored.cost
    settings = load(tmp_path, '[prices."openai/own"]\ninput = 50\noutput = 50\n')
    assert CurrentCosts(lambda: settings).calculate(structs.replace(finished, cost=None)) != stored
    feed = RequestFeed(RunningRequests(), calculate_cost=CurrentCosts(lambda: settings).calculate)
    feed.add_finished(finished)
    snapshot = msgspec.json.decode(encode_requests(feed.build_own_snapshot()), type=RequestSnapshot)  # of a worker
    (shown,) = asyncio.run(feed.add_costs(snapshot.finished))
    assert (shown.cost, shown.receipt.cost) == (stored.cost, stored)


def new_attempt(provider: str, model: str, input_tokens: int, output_tokens: int) -> UpstreamAttempt:
    return UpstreamAttempt(
        provider=provider, model=model, offset_seconds=0, input_tokens=input_tokens, output_tokens=output_tokens
    )


@pytest.mark.parametrize(
    ("base_url", "model", "tokens", "cost"),
    [
        # half of each price: 1,000 × 2.5 + 100 × 12.5
        ("https://api.anthropic.com", "claude-opus-4-8", TokenCounts(input_tokens=1_000, output_tokens=100), 3_750_000),
        # 10,000 × 0.15 + 1,000 × 1.875 + 1,000 × 3 + 100 × 7.5; of 2,000 cache writes, 1,000 are kept for an hour
        (
            "https://api.anthropic.com",
            "claude-sonnet-4-6",
            TokenCounts(
                cache_read_tokens=10_000, cache_write_tokens=2_000, cache_write_1h_tokens=1_000, output_tokens=100
            ),
            7_125_000,
        ),
        # cached input has no discount: 1,000 × 1 + 10,000 × 0.5 + 500 × 4
        (
            "https://api.openai.com/v1",
            "gpt-4.1",
            TokenCounts(input_tokens=1_000, cache_read_tokens=10_000, output_tokens=500, thinking_tokens=400),
            8_000_000,
        ),
        # a long context has half of its own price: 200,001 × 1.25 + 1,000 × 7.5
        (
            "https://generativelanguage.googleapis.com",
            "gemini-2.5-pro",
            TokenCounts(input_tokens=200_001, output_tokens=1_000),
            257_501_250,
        ),
    ],
)
def test_a_batch_has_the_batch_price_of_each_kind_of_token(
    base_url: str, model: str, tokens: TokenCounts, cost: int
) -> None:
    price = find_price(base_url, model, NOVEMBER, tier="batch")
    assert price is not None
    assert price.calculate_cost(tokens) == cost


def test_the_source_of_a_price_is_named(calculator: CostCalculator, tmp_path: Path) -> None:
    sources = [
        calculator.calculate(receipt("x", used, (1, 0, 0, 0, 0))).source
        for used in ("openai/own", "ollama/qwen3:8b", "openai/no-such-model", "no-such-provider/x")
    ]
    assert sources == [f"{tmp_path / CONFIG_FILE} line 2", "local", "", ""]


def test_the_list_price_of_claude_does_not_depend_on_the_address_of_a_gateway() -> None:
    settings = Settings(base_urls={"anthropic": "http://localhost:9000"})
    found = CostCalculator(settings).calculate(
        receipt("claude-opus-4-8", "anthropic/claude-opus-4-8", (1_000, 0, 0, 0, 0))
    )
    assert found == Cost(None, 5_000_000, "")


TOKENS = (1_000, 0, 0, 500, 0)
PACKAGE = find_price_package_version()
OWN_TIERS = """
[prices."openai/own"]
input = 1
output = 2
web_search_per_1000 = 5
tiers.flex = { input = 0.5, output = 1 }
[prices."openai/without"]
input = 1
output = 2
"""


@pytest.mark.parametrize(
    ("used", "searches", "tier", "found"),
    [
        # claude-opus-4-8: 1,000 × 5 + 500 × 25 = $0.0175, and $10 per 1,000 searches
        ("anthropic/claude-opus-4-8", 0, "standard", Cost(17_500_000, 17_500_000, PACKAGE)),
        ("anthropic/claude-opus-4-8", 1, "", Cost(27_500_000, 27_500_000, f"{PACKAGE}, 1 web search")),
        ("anthropic/claude-opus-4-8", 3, "standard", Cost(47_500_000, 47_500_000, f"{PACKAGE}, 3 web searches")),
        # fast mode: $10 and $50
        ("anthropic/claude-opus-4-8", 2, "fast", Cost(55_000_000, 37_500_000, f"{PACKAGE}, tier fast, 2 web searches")),
        ("anthropic/claude-opus-4-8", 0, "priority", Cost(None, 17_500_000, f"{PACKAGE}, no price of tier priority")),
        # gpt-5: $1.25 and $10; flex half, priority twice
        ("openai/gpt-5", 0, "default", Cost(6_250_000, 17_500_000, PACKAGE)),
        ("openai/gpt-5", 0, "flex", Cost(3_125_000, 17_500_000, f"{PACKAGE}, tier flex")),
        ("openai/gpt-5", 2, "priority", Cost(32_500_000, 37_500_000, f"{PACKAGE}, tier priority, 2 web searches")),
        ("openai/gpt-5", 0, "ultrafast", Cost(None, 17_500_000, f"{PACKAGE}, no price of tier ultrafast")),
        # gemini-2.5-flash: $0.30 and $2.50, and $35 per 1,000
        ("gemini/gemini-2.5-flash", 1, "standard", Cost(36_550_000, 27_500_000, f"{PACKAGE}, 1 web search")),
        # the list has no price of xAI's searches
        ("xai/grok-4.5", 2, "default", Cost(None, 37_500_000, f"{PACKAGE}, no price of web searches")),
        (
            "xai/grok-4.5",
            2,
            "priority",
            Cost(None, 37_500_000, f"{PACKAGE}, no price of tier priority, no price of web searches"),
        ),
        ("openai/no-such-model", 2, "flex", Cost(None, 37_500_000, "")),
        ("openai/own", 2, "flex", Cost(11_000_000, 37_500_000, "{file} line 2, tier flex, 2 web searches")),
        ("openai/own", 0, "priority", Cost(None, 17_500_000, "{file} line 2, no price of tier priority")),
        ("openai/without", 0, "", Cost(2_000_000, 17_500_000, "{file} line 7")),
        ("openai/without", 1, "", Cost(None, 27_500_000, "{file} line 7, no price of web searches")),
        ("ollama/qwen3:8b", 0, "priority", Cost(0, 17_500_000, "local, tier priority")),
    ],
)
def test_searches_and_tier_of_the_provider_are_part_of_the_cost(
    tmp_path: Path, used: str, searches: int, tier: str, found: Cost
) -> None:
    calculator = CostCalculator(load(tmp_path, OWN_TIERS))
    billed = structs.replace(receipt("claude-opus-4-8", used, TOKENS), billed_searches=searches, service_tier=tier)
    expected = structs.replace(found, source=found.source.replace("{file}", str(tmp_path / CONFIG_FILE)))
    assert calculator.calculate(billed) == expected
    assert calculator.calculate(billed) == expected, "also the second time, from the cache"


def test_each_call_of_a_tool_loop_has_its_own_tier_and_searches(calculator: CostCalculator) -> None:
    first, second = new_attempt("openai", "gpt-5", 1_000, 0), new_attempt("openai", "gpt-5", 1_000, 100)
    first.service_tier, first.billed_searches, second.billed_searches = "flex", 1, 1
    looped = receipt("claude-opus-4-8", "openai/gpt-5", (2_000, 0, 0, 100, 0))
    attempts = [first, second]
    looped = structs.replace(looped, provider="openai", attempts=attempts, billed_searches=2, service_tier="default")
    # 1,000 × 0.625 + 1,000 × 1.25 + 100 × 10, and two searches
    assert calculator.calculate(looped) == Cost(22_875_000, 32_500_000, f"{PACKAGE}, tier flex, 2 web searches")


def test_a_budget_counts_the_known_part_of_a_cost(tmp_path: Path) -> None:
    costs = ModelCosts(load(tmp_path, OWN_TIERS))
    for used, searches, tier, cost in (
        ("openai/own", 2, "flex", 11_000_000),
        ("openai/own", 2, "priority", 12_000_000),  # the normal price
        ("openai/without", 2, "priority", 2_000_000),
        ("openai/no-such-model", 2, "priority", 0),
    ):
        billed = structs.replace(receipt("x", used, TOKENS), billed_searches=searches, service_tier=tier)
        assert list_used_amounts(costs, billed) == [Amounts(1_500, cost, used)]


def test_a_budget_counts_an_unknown_model_of_the_provider_at_the_price_of_the_called_one_in_its_region(
    tmp_path: Path,
) -> None:
    costs = ModelCosts(load(tmp_path, '[prices."openai/own"]\ninput = 1\noutput = 2\nregions.eu = 1.1\n'))
    unknown = Iteration(kind="fallback_message", model="no-such-model", input_tokens=1_000, output_tokens=500)
    for region, cost in (("eu", 2_200_000), ("", 2_000_000), ("us", 2_200_000), ("mars", 2_000_000)):
        used = structs.replace(receipt("x", "openai/own", TOKENS), region=region, iterations=(unknown,))
        assert list_used_amounts(costs, used) == [Amounts(1_500, cost, "openai/no-such-model")]


TEST_MODEL = """
[prices."openai/test-model"]
input = 2
output = 8
cache_read = 0.5
long_context = { above = 1000, input = 4, output = 16 }
"""
SUMS = UsageSums(requests=3, input_tokens=1_000, cache_read_tokens=2_000, output_tokens=500, thinking_tokens=125)


def test_the_kinds_of_tokens_divide_the_stored_cost_completely(tmp_path: Path) -> None:
    costs = ModelCosts(load(tmp_path, TEST_MODEL))
    SUMS.cost = 7_000_001  # at the price: 2,000,000 input, 1,000,000 cache, 3,000,000 output, 1,000,000 thinking
    parts = costs.divide_cost("openai", "test-model", SUMS, SUMS.cost)
    assert parts == {"cache_read": 1_000_000, "input": 2_000_000, "output": 3_000_001, "thinking": 1_000_000}
    assert costs.divide_cost("openai", "without-price", SUMS, SUMS.cost) == {"": 7_000_001}
    assert costs.divide_cost("openai", "test-model", UsageSums(requests=1), 0) == {}


def test_summed_tokens_have_the_price_without_a_long_context(tmp_path: Path) -> None:
    price = ModelCosts(load(tmp_path, TEST_MODEL)).find_price("openai", "test-model")
    assert price is not None
    assert calculate_base_cost(price, SUMS) == 7_000_000


def test_a_requested_model_has_the_price_of_its_vendor(tmp_path: Path) -> None:
    costs = ModelCosts(load(tmp_path, TEST_MODEL))
    listed = costs.find_requested_price("claude-sonnet-4-5[1m]", "openai", "test-model")
    assert listed is not None
    assert listed.base.output == 15
    assert costs.find_requested_price("gpt-unknown", "openai", "test-model") is None


OPENROUTER = """
[providers.openrouter]
base_url = "https://openrouter.ai/api/v1"
[prices."openrouter/own"]
input = 1
output = 1
"""
GLM = "openrouter/z-ai/glm-5.2"
"""genai-prices 0.2.3: $1.40 and $4.40 per million tokens. A request of 22,000 and 278 tokens costs $0.0320232."""
PUBLISHED = 32_023_200


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that replaces the prices in the model list of OpenRouter."""
    monkeypatch.setattr(PRICE_SOURCE, "listed", {})
    server = "openrouter openrouter.ai"

    def replace(**prices: float) -> None:
        PRICE_SOURCE.replace_listed({server}, {(server, name): prices for name in ("z-ai/glm-5.2", "mystery", "own")})

    return replace


def bill(settings: Settings, used: str, stated: int, **fields: Any) -> tuple[int | None, str, int]:
    """Return the cost in the ledger, its source, and the cost that a budget counts."""
    request = structs.replace(receipt(used, used, (22_000, 0, 0, 278, 0)), stated_cost=stated, **fields)
    cost = CostCalculator(settings).calculate(request)
    assert cost.requested_cost == cost.cost, "the client requested this model"
    (counted,) = list_used_amounts(ModelCosts(settings, needs_published=True), request)
    return cost.cost, cost.source, counted.cost


def test_the_order_of_prices(tmp_path: Path, listed: Callable[..., None]) -> None:
    settings = load(tmp_path, OPENROUTER)
    package, stated, of_list = find_price_package_version(), "stated by the provider", "model list of openrouter.ai"
    assert bill(settings, GLM, 0) == (PUBLISHED, package, PUBLISHED)
    assert bill(settings, GLM, 13_400_000) == (13_400_000, stated, 13_400_000)
    listed(input=0.6, output=2.2, cache_read=0.11)
    assert bill(settings, GLM, 0) == (13_811_600, of_list, 13_811_600)
    assert bill(settings, GLM, 13_400_000) == (13_400_000, stated, 13_400_000)
    own = 22_278_000, f"{tmp_path / CONFIG_FILE} line 4", 22_278_000
    assert bill(settings, "openrouter/own", 0) == own
    assert bill(settings, "openrouter/own", 13_400_000) == own


def test_an_absurd_cost_or_list_of_a_server_is_not_used(tmp_path: Path, listed: Callable[..., None]) -> None:
    settings = load(tmp_path, OPENROUTER)
    package, stated = find_price_package_version(), "stated by the provider"
    for cost in (1, PUBLISHED // 10 - 1, 10 * PUBLISHED + 1, 1_000 * PUBLISHED):
        assert bill(settings, GLM, cost) == (PUBLISHED, package, PUBLISHED)
    for cost in (-(-PUBLISHED // 10), 10 * PUBLISHED):
        assert bill(settings, GLM, cost) == (cost, stated, cost)
    for prices in ({"input": 0, "output": 0}, {"input": 0.01, "output": 0.02}, {"input": 20, "output": 80}):
        listed(**prices)
        assert bill(settings, GLM, 0) == (PUBLISHED, package, PUBLISHED)
        assert bill(settings, GLM, 10 * PUBLISHED + 1) == (PUBLISHED, package, PUBLISHED), "compared with the package"


def test_no_budget_counts_what_only_the_server_states(tmp_path: Path, listed: Callable[..., None]) -> None:
    settings = load(tmp_path, OPENROUTER)
    assert ModelCosts(settings).find_price("openrouter", "mystery") is None
    listed(input=0.6, output=2.2)
    assert bill(settings, "openrouter/mystery", 0) == (13_811_600, "model list of openrouter.ai", 0)
    assert bill(settings, "openrouter/mystery", 5_000) == (5_000, "stated by the provider", 0)
    assert ModelCosts(settings, needs_published=True).find_price("openrouter", "mystery") is None


def test_a_stated_cost_includes_tier_and_searches(tmp_path: Path) -> None:
    settings = load(tmp_path, OPENROUTER)
    stated = 2 * PUBLISHED, "stated by the provider", 2 * PUBLISHED
    assert bill(settings, GLM, 2 * PUBLISHED, service_tier="priority") == stated
    assert bill(settings, GLM, 2 * PUBLISHED, billed_searches=3) == stated
    searched = 10 * (PUBLISHED + 30_000_000)  # an unknown price of searches raises the limit by $0.01 each
    assert bill(settings, GLM, searched, billed_searches=3)[:2] == (searched, "stated by the provider")
    assert bill(settings, GLM, searched + 1, billed_searches=3)[1] != "stated by the provider"


@pytest.mark.parametrize("searches", [0, 3])
def test_another_requested_model_keeps_its_price_beside_a_stated_cost(tmp_path: Path, searches: int) -> None:
    calculator = CostCalculator(load(tmp_path, OPENROUTER))
    request = receipt("claude-haiku-4-5", GLM, (22_000, 0, 0, 278, 0))
    billed = structs.replace(request, stated_cost=2 * PUBLISHED, billed_searches=searches)
    # claude-haiku-4-5: 22,000 × 1 + 278 × 5 = $0.02339, and $10 per 1,000 searches
    listed = 23_390_000 + searches * 10_000_000
    assert calculator.calculate(billed) == Cost(2 * PUBLISHED, listed, "stated by the provider")


def test_the_cost_of_a_loop_has_stated_and_calculated_parts(tmp_path: Path) -> None:
    calculator = CostCalculator(load(tmp_path, OWN))
    calls = [new_attempt("openai", name, 1_000, 0) for name in ("no-such-model", "gpt-4.1")]
    calls[0].stated_cost = 5_000
    looped = structs.replace(receipt("x", "openai/gpt-4.1", (2_000, 0, 0, 0, 0)), attempts=calls)
    assert calculator.calculate(looped) == Cost(
        2_005_000,
        None,
        f"stated by the provider, {find_price_package_version()}",
        (
            ModelUsage(provider="openai", model="no-such-model", input_tokens=1_000, cost=5_000),
            ModelUsage(provider="openai", model="gpt-4.1", input_tokens=1_000, cost=2_000_000),
        ),
    )
    calls[0].stated_cost = 0
    assert structs.replace(calculator.calculate(looped), parts=()) == Cost(None, None, "")
