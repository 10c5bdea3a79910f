"""Page Costs: sums by project, key, owner, team and others, the summary, unknown costs and the export."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy.console.dashboard.costs import GROUPS, build_costs_page, tabulate_costs
from anthropic_proxy.console.dashboard.models import build_models_page
from anthropic_proxy.console.dashboard.overview import build_overview_page
from anthropic_proxy.console.dashboard.page import PageContext
from anthropic_proxy.console.dashboard.query import read_view_query
from anthropic_proxy.console.dashboard.tables import list_filters, name_providers
from anthropic_proxy.console.formats import day_and_time
from anthropic_proxy.console.ledger.periods import find_month
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Client, Cost, ModelUsage
from tests.support.ledger import NOON, UNKNOWN_COST, new_receipt, reading, store
from tests.support.page_context import build_context, read_table

ANN, BOB = Client("ci", owner="Ann", team="build"), Client("laptop", owner="Bob", team="build")


async def build_page(directory: Path, query: Mapping[str, list[str]]) -> tuple[Mapping[str, Any], list[list[Any]]]:
    """Return the values of the page and the rows of its export, after four requests."""
    settings = Settings(data_directory=directory / "data")
    receipts = [
        new_receipt(1, client=ANN, project="shop"),
        new_receipt(2, client=ANN, project="shop", cache_read_tokens=300),
        new_receipt(3, client=BOB, project="site"),
        new_receipt(4, model="local"),
    ]
    known = {"ci": Cost(30_000_000, 90_000_000, "own"), "laptop": Cost(20_000_000, None, "own")}
    await store(settings, *receipts, cost=lambda receipt: known.get(receipt.client.name, UNKNOWN_COST))
    with reading(settings) as engine, engine.connect() as connection:
        context = build_context("/dashboard/costs", connection, settings, query, now=NOON + 60)
        table = [[row[0], row[1]] for row in tabulate_costs(context).rows]
        return build_costs_page(context), table


async def test_the_summary_expects_the_cost_of_the_month(tmp_path: Path) -> None:
    settings, client = Settings(data_directory=tmp_path / "data"), Client("ci", owner="Ann", team="build")
    receipts = [new_receipt(number, client=client, started_at=NOON - number * 3_600) for number in range(20)]
    await store(settings, *receipts, new_receipt(20), cost=Cost(1_000_000_000, None, "own"))
    verdicts = {}
    with reading(settings) as engine, engine.connect() as connection:
        for range_, team in (("1h", "build"), ("30d", "build"), ("30d", "")):
            query = {"range": [range_], **({"team": [team]} if team else {"key": ["local"]})}
            context = build_context("/dashboard/costs", connection, settings, query, now=NOON + 60)
            verdicts[range_, team] = build_costs_page(context)["verdict"]
    start, end = (one.timestamp() for one in find_month("2026-11") or ())  # in the time zone of the process
    amount = 20 * (end - start) / (NOON + 60 - start)
    expected = f"At the end of November, about ${amount:.2f} are expected."
    assert expected in verdicts["1h", "build"]
    assert expected in verdicts["30d", "build"]
    assert "expected" not in verdicts["30d", ""], "one request is too little"


@pytest.mark.parametrize(
    ("by", "rows", "largest"),
    [
        ("", [["shop", "2", "$0.060"], ["site", "1", "$0.020"], ["no project", "1", "unknown"]], "project: shop"),
        ("key", [["ci", "2", "$0.060"], ["laptop", "1", "$0.020"], ["local", "1", "unknown"]], "key: ci"),
        ("owner", [["Ann", "2", "$0.060"], ["Bob", "1", "$0.020"], ["no owner", "1", "unknown"]], "owner: Ann"),
        ("team", [["build", "3", "$0.080"], ["no team", "1", "unknown"]], "team: build"),
        ("model", [["small", "3", "$0.080"], ["local", "1", "unknown"]], "model: small"),
    ],
)
async def test_costs_are_added_up_by_a_property(tmp_path: Path, by: str, rows: list[list[str]], largest: str) -> None:
    page, table = await build_page(tmp_path, {"by": [by]} if by else {})
    assert read_table(page, "name", "requests", "cost") == rows
    first = rows[0]
    share = {"$0.060": "75 %", "$0.080": "100 %"}[first[2]]
    assert page["verdict"] == (
        f"4 requests cost $0.080; the cost of 1 of them is unknown. Largest {largest}, {first[2]} ({share})."
    )
    assert (page["missing_prices"].text, page["missing_prices"].lines) == (
        "The cost of 1 of 4 requests is unknown: groq/local, which replied, has no price in genai-prices for its "
        "address.",
        '[prices."groq/local"]\ninput = <dollars>\noutput = <dollars>',
    )
    (bar,) = page["table"].rows[0].cells["share"].bars
    assert bar.text == share
    assert f"{bar.share:.0%}" == share.replace(" ", ""), "the bar has the length of the text"
    assert [name or "none" for name, _ in table] == [
        "none" if row[0].startswith("no ") else f"groq/{row[0]}" if by == "model" else row[0] for row in rows
    ]
    assert page["table"].rows[0].cells["name"].href.startswith("/dashboard/requests?")
    assert page["chart"].series[0].name == first[0]


async def test_without_prices_all_pages_name_the_same_number_and_the_models_that_replied(tmp_path: Path) -> None:
    """The requested models have a price, and a request without tokens costs nothing. Neither is the answer."""
    settings = Settings(data_directory=tmp_path / "data")
    models = ("small", "small", "big", "wide", "free")
    receipts = [new_receipt(number, model=model) for number, model in enumerate(models)]
    costs = dict.fromkeys(models, UNKNOWN_COST) | {"free": Cost(0, 90_000_000, "local")}
    await store(settings, *receipts, cost=lambda receipt: costs[receipt.model])
    with reading(settings) as engine, engine.connect() as connection:
        pages = {
            build: build(build_context("/dashboard", connection, settings, {}, now=NOON + 60))
            for build in (build_overview_page, build_costs_page, build_models_page)
        }
    for page in pages.values():
        assert page["missing_prices"].text == (
            "The cost of 4 of 5 requests is unknown: groq/small, groq/big and groq/wide, which replied, have no price "
            "in genai-prices for their address."
        )
    overview, costs_page, models_page = pages.values()
    assert overview["verdict"] == (
        "In the last 24 hours 5 of 5 requests succeeded; the cost of "
        '<a href="#missing-prices">4 requests</a> is unknown.'
    )
    (spent,) = [figure for figure in overview["figures"] if figure.label == "Spent"]
    assert (spent.value, spent.note) == ("unknown", "unknown for 4 of 5 requests, ≥ $0.090 at Claude's prices")
    assert costs_page["verdict"] == "The cost of 4 of 5 requests is unknown."
    assert models_page["chart"].empty_text == (
        'The cost of 4 of 5 requests is unknown. <a href="#missing-prices">Set prices</a>'
    )
    assert (overview["usage_title"], overview["usage"].series[0].total) == ("Tokens per 5 minutes", "500")
    assert overview["measures"] == [("tokens", "Tokens"), ("requests", "Requests")]
    assert (costs_page["chart_title"], costs_page["chart"].series[0].total) == (
        "Tokens per 5 minutes and project",
        "600",
    )
    assert [one["share"] for one in overview["models"]] == [None] * 4, "an unknown or no cost has no bar"
    comparison = models_page["comparison"]
    assert (comparison["actual"], comparison["compared"], comparison["left_out"]) == ("free", 1, 4)


@pytest.mark.parametrize(
    ("query", "rows", "link"),
    [
        (
            {"by": ["team"], "split": ["owner"]},
            [["build", "Ann", "2", "$0.060"], ["build", "Bob", "1", "$0.020"], ["no team", "no owner", "1", "unknown"]],
            "/dashboard/requests?owner=Ann&team=build",
        ),
        (
            {"by": ["owner"], "split": ["model"], "team": ["build"]},
            [["Ann", "small", "2", "$0.060"], ["Bob", "small", "1", "$0.020"]],
            "/dashboard/requests?provider=groq&model=small&owner=Ann&team=build",
        ),
        (
            {"by": ["owner"], "split": ["key"], "team": ["build"], "sort": ["cost"]},
            [["Bob", "laptop", "1", "$0.020"], ["Ann", "ci", "2", "$0.060"]],
            "/dashboard/requests?key=laptop&owner=Bob&team=build",
        ),
    ],
)
async def test_groups_are_divided_by_a_second_property(
    tmp_path: Path, query: dict[str, list[str]], rows: list[list[str]], link: str
) -> None:
    """The bill of a team by person, and that of a person by model. The export has the same numbers."""
    page, table = await build_page(tmp_path, query)
    assert read_table(page, "name", "part", "requests", "cost") == rows
    assert page["table"].rows[0].cells["name"].href == link
    assert "Largest" in page["verdict"]
    assert sorted(row[1].removeprefix("groq/") for row in table) == sorted(
        "" if row[1].startswith("no ") else row[1] for row in rows
    )
    with pytest.raises(InvalidRequest) as raised:
        await build_page(tmp_path / "invalid", {"split": ["session"]})
    assert raised.value.message.startswith("split: 'session' is not allowed; use provider, model, requested, project,")


async def test_a_filter_limits_the_sums(tmp_path: Path) -> None:
    page, _ = await build_page(tmp_path, {"by": ["project"], "team": ["build"], "owner": ["Bob"]})
    assert read_table(page, "name") == [["site"]]
    assert page["verdict"] == "1 request cost $0.020."
    assert page["table"].rows[0].cells["name"].href == "/dashboard/requests?project=site&owner=Bob&team=build"


async def test_days_are_in_order_of_time_and_lead_to_their_requests(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    day_before = new_receipt(1, started_at=NOON - 86_400, client=ANN)
    await store(settings, day_before, new_receipt(2, client=ANN), new_receipt(3), cost=Cost(30_000_000, None, "own"))
    with reading(settings) as engine, engine.connect() as connection:
        query = {"by": ["day"], "range": ["7d"], "owner": ["Ann"]}
        page = build_costs_page(build_context("/dashboard/costs", connection, settings, query, now=NOON + 60))
    days = [datetime.fromtimestamp(time).astimezone() for time in (NOON, NOON - 86_400)]
    assert read_table(page, "name", "cost") == [[f"{day:%a}, {day.day} {day:%b}", "$0.030"] for day in days]
    starts = [datetime(2026, 11, 21, tzinfo=days[0].tzinfo), datetime(2026, 11, 22, tzinfo=days[0].tzinfo)]
    start, end = (f"{time.astimezone(UTC):%Y-%m-%dT%H:%MZ}" for time in starts)
    assert page["table"].rows[0].cells["name"].href == f"/dashboard/requests?from={start}&to={end}&owner=Ann"
    assert page["chart_title"] == "Cost per day and model"


@pytest.mark.parametrize(
    ("hours", "text"),
    [
        ((1, 2, 25), "2 requests cost $0.060, 100 % more than in the range before."),
        ((1, 25, 26), "1 request cost $0.030, 50 % less than in the range before."),
        ((1, 25), "1 request cost $0.030, as much as in the range before."),
        ((1, 60), "1 request cost $0.030, nothing in the range before."),
        ((1, 2), "2 requests cost $0.060."),
    ],
)
async def test_costs_are_compared_with_the_range_before(tmp_path: Path, hours: tuple[int, ...], text: str) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    old = [new_receipt(0, started_at=NOON - 90 * 3_600)] if 25 in hours else []  # the ledger reaches back
    receipts = [new_receipt(hour, started_at=NOON - hour * 3_600) for hour in sorted(hours, reverse=True)]
    await store(settings, *old, *receipts, cost=Cost(30_000_000, None, "own"))
    with reading(settings) as engine, engine.connect() as connection:
        page = build_costs_page(build_context("/dashboard/costs", connection, settings, now=NOON + 60))
    assert page["verdict"] == text


async def test_a_model_has_the_color_of_its_provider_as_on_the_page_models(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    receipts = [new_receipt(number, model=model) for number, model in enumerate(("large", "large", "small"))]
    await store(settings, *receipts, cost=Cost(30_000_000, None, "own"))
    roles = []
    with reading(settings) as engine, engine.connect() as connection:
        for build, query in ((build_costs_page, {"by": ["model"]}), (build_models_page, {})):
            page = build(build_context("/dashboard", connection, settings, query, now=NOON + 60))
            roles.append([(one.name, one.role) for one in page["chart"].series])
    assert roles == [[("large", "groq"), ("small", "cache-read")]] * 2


def test_a_provider_has_the_name_of_its_model_ids() -> None:
    query = read_view_query("/dashboard/costs", {"provider": ["google"], "team": [""]}, NOON)
    assert list_filters(query, name_providers(Settings())) == [
        ("Provider: gemini", "/dashboard/costs?team="),
        ("Team: none", "/dashboard/costs?provider=google"),
    ]


async def test_costs_are_added_up_by_prompt_and_kind(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    fields: list[dict[str, Any]] = [
        {"kind": "main", "prompt_id": "p1", "session": "s1"},
        {"kind": "auto_mode_check", "prompt_id": "p1", "session": "s1", "parent": "req_1"},
        {"kind": "main", "prompt_id": "p2", "session": "s1"},
        {},
    ]
    receipts = [new_receipt(number, project="shop", **one) for number, one in enumerate(fields)]
    await store(settings, *receipts, cost=Cost(10_000_000, None, "own"))
    with reading(settings) as engine, engine.connect() as connection:
        pages = [
            build_costs_page(build_context("/dashboard/costs", connection, settings, {"by": [by]}, now=NOON + 60))
            for by in ("prompt", "kind")
        ]
    start = f"shop s1 · {day_and_time(round(NOON * 1_000_000))}"
    assert [read_table(page, "name", "requests", "cost") for page in pages] == [
        [["p1", "2", "$0.020"], ["unknown", "1", "$0.010"], ["p2", "1", "$0.010"]],
        [["main", "2", "$0.020"], ["unknown", "1", "$0.010"], ["auto_mode_check", "1", "$0.010"]],
    ]
    notes = [[row.cells["name"].note for row in page["table"].rows] for page in pages]
    assert notes == [[start, "", start], ["", "", ""]]
    assert pages[0]["table"].rows[0].cells["name"].href == "/dashboard/requests?prompt=p1"
    first = next(iter(pages[0]["chart"].series))
    assert (first.name, first.total) == ("p1", "$0.020")


async def test_another_property_is_rejected(tmp_path: Path) -> None:
    message = f"by: 'color' is not allowed; use {', '.join(GROUPS)}."
    with pytest.raises(InvalidRequest) as raised:
        await build_page(tmp_path, {"by": ["color"]})
    assert raised.value.message == message


@pytest.mark.parametrize(
    ("month", "text"),
    [
        ("2026-11", "1 request cost $0.030, 50 % less than in the same part of October 2026."),
        ("2026-10", "3 requests cost $0.090, 200 % more than in September 2026."),
    ],
)
async def test_a_month_is_compared_with_the_month_before(tmp_path: Path, month: str, text: str) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    days = ["2026-08-31T12", "2026-09-30T12", "2026-10-01T00", "2026-10-21T11", "2026-10-31T23", "2026-11-01T00"]
    times = [datetime.fromisoformat(f"{day}:30").astimezone().timestamp() for day in days]
    receipts = [new_receipt(number, started_at=at) for number, at in enumerate(times)]
    await store(settings, *receipts, cost=Cost(30_000_000, None, "own"))
    with reading(settings) as engine, engine.connect() as connection:
        query = {"range": [month]}
        page = build_costs_page(build_context("/dashboard/costs", connection, settings, query, now=NOON + 60))
    assert page["verdict"] == text


@pytest.mark.parametrize(
    ("build", "order", "rows"),
    [
        (build_costs_page, "-mean", [["small", "1", "$0.010"], ["large", "0", "–"]]),
        (build_costs_page, "mean", [["large", "0", "–"], ["small", "1", "$0.010"]]),
        (build_models_page, "errors", [["groq/large", "0", "–"], ["groq/small", "1", "0 %"]]),
        (build_models_page, "", [["groq/large", "0", "–"], ["groq/small", "1", "0 %"]]),
    ],
)
async def test_a_model_that_was_called_only_for_requests_of_another_one_has_a_row(
    tmp_path: Path, build: Callable[[PageContext], Mapping[str, Any]], order: str, rows: list[list[str]]
) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    parts = [
        ModelUsage(provider="groq", model="small", kind="", cost=10_000_000, input_tokens=40),
        ModelUsage(provider="groq", model="large", kind="advisor_message", cost=20_000_000, input_tokens=60),
    ]
    await store(settings, new_receipt(1, model="small"), cost=Cost(30_000_000, None, "own", parts))
    names = ("name", "requests", "mean") if build is build_costs_page else ("model", "requests", "errors")
    with reading(settings) as engine, engine.connect() as connection:
        query = {"by": ["model"], "sort": [order]}
        page = build(build_context("/dashboard/costs", connection, settings, query, now=NOON + 60))
    assert read_table(page, *names) == rows
