"""Page of one request: the stored cost is divided by kind of token, and an unknown cost stays unknown."""

from pathlib import Path

import pytest

from anthropic_proxy.dashboard.error_kinds import find_remedy
from anthropic_proxy.dashboard.request import TokenCost, build_request_page
from anthropic_proxy.ledger.request_queries import RequestSelection, list_stored_requests
from anthropic_proxy.plugins import Cost
from anthropic_proxy.settings import Settings
from tests.support.ledger import UNKNOWN_COST, new_receipt, reading, running_ledger
from tests.support.page_context import build_context


async def tokens_of(settings: Settings, cost: Cost) -> list[TokenCost]:
    """Return the table of tokens of a request to gpt-4.1."""
    receipt = new_receipt(
        provider="openai", prefix="openai", model="gpt-4.1", input_tokens=2_118, cache_read_tokens=41_472
    )
    receipt.output_tokens, receipt.thinking_tokens = 486, 86
    with running_ledger(settings, cost=cost) as ledger:
        await ledger.record(receipt)
        ledger.wait_written(1)
    with reading(settings) as engine, engine.connect() as connection:
        path_parameters = {"id": receipt.request_id}
        page = build_request_page(
            build_context("/dashboard/requests/x", connection, settings, path_parameters=path_parameters)
        )
    assert page is not None
    tokens: list[TokenCost] = page["tokens"]
    return tokens


@pytest.mark.parametrize("cost", [Cost(28_860_000, None, "genai-prices")])
async def test_the_cost_is_divided_by_kind_of_token(tmp_path: Path, cost: Cost) -> None:
    assert await tokens_of(Settings(data_directory=tmp_path / "data"), cost) == [
        TokenCost("cache read", "cache-read", "41,472", "$0.50", "$0.021"),
        TokenCost("input", "input", "2,118", "$2.00", "$0.004"),
        TokenCost("output", "output", "400", "$8.00", "$0.003"),
        TokenCost("thinking", "thinking", "86", "$8.00", "<$0.001"),
    ]


@pytest.mark.parametrize(
    ("cost", "found"),
    [
        (
            Cost(48_860_000, None, "genai-prices, 2 web searches"),
            ["$0.50", "$2.00", "$8.00", "$8.00", "$10.00 per 1,000"],
        ),
        # half of each price, and the searches at their normal price
        (
            Cost(24_430_000, None, "genai-prices, tier flex, 1 web search"),
            ["$0.25", "$1.00", "$4.00", "$4.00", "$10.00 per 1,000"],
        ),
        # the price of searches was higher at that time
        (Cost(5_000_000, None, "genai-prices, 1 web search"), ["", "", "", "", "$10.00 per 1,000"]),
        # the price of the tier is unknown, that of the searches is not
        (
            Cost(None, None, "genai-prices, no price of tier scale, 2 web searches"),
            ["", "", "", "", "$10.00 per 1,000"],
        ),
    ],
)
async def test_billed_searches_have_their_own_cost(tmp_path: Path, cost: Cost, found: list[str]) -> None:
    tokens = await tokens_of(Settings(data_directory=tmp_path / "data"), cost)
    assert [one.price for one in tokens] == found
    assert (tokens[-1].name, tokens[-1].tokens) == ("web search", "2" if "2 web" in cost.source else "1")
    assert (
        tokens[-1].cost == {48_860_000: "$0.020", 24_430_000: "$0.010", 5_000_000: "$0.005", None: "$0.020"}[cost.cost]
    )


@pytest.mark.parametrize("cost", [UNKNOWN_COST, Cost(0, 0, "local")])
async def test_an_unknown_or_free_request_has_no_prices(tmp_path: Path, cost: Cost) -> None:
    tokens = await tokens_of(Settings(data_directory=tmp_path / "data"), cost)
    assert [(one.price, one.cost) for one in tokens] == [("", "")] * 4


@pytest.mark.parametrize(
    ("fields", "slug"),
    [
        ({"status": 401, "error": "The key is not one of this proxy's keys.", "provider": ""}, "proxy-key-wrong"),
        (
            {"status": 502, "error": "groq: no server responds at http://127.0.0.1:9 (no connection in time)"},
            "no-server",
        ),
        ({"status": 429, "error": "groq: too many tokens per minute"}, "rate-limit"),
        ({"status": 503, "error": "groq: failed"}, "provider-failed"),
        ({"status": 418, "error": "groq: a teapot", "error_type": "invalid_request_error"}, ""),
        ({"status": 200, "error": "", "error_type": "", "outcome": "end_turn"}, ""),
    ],
)
async def test_the_remedy_of_an_error_is_that_of_the_catalog(
    tmp_path: Path, fields: dict[str, object], slug: str
) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    with running_ledger(settings) as ledger:
        await ledger.record(new_receipt(**{"outcome": "error", "error_type": "api_error", **fields}))
        ledger.wait_written(1)
    with reading(settings) as engine, engine.connect() as connection:
        (row,) = list_stored_requests(connection, RequestSelection(), 1)
    remedy = find_remedy(row)
    assert ("" if remedy is None else remedy.entry) == slug
