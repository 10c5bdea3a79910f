"""Page Overview: incidents, remedies of the error catalog, panels that fail alone, and the grid of the week."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from msgspec import structs

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.costs import PAGE as COSTS
from anthropic_proxy.console.dashboard.costs import build_costs_page
from anthropic_proxy.console.dashboard.models import PAGE as MODELS
from anthropic_proxy.console.dashboard.models import build_models_page
from anthropic_proxy.console.dashboard.overview import PAGE, build_overview_page
from anthropic_proxy.console.dashboard.panels import FailedPanel
from anthropic_proxy.console.dashboard.query import read_view_query
from anthropic_proxy.console.dashboard.week import LEVELS, WeekCell, build_week
from anthropic_proxy.console.ledger.costs import ModelCosts
from anthropic_proxy.console.ledger.database import open_for_writing
from anthropic_proxy.console.ledger.periods import RequestSelection
from anthropic_proxy.console.ledger.queries import PeriodSums, sum_usage
from anthropic_proxy.console.ledger.records import UsageSums
from anthropic_proxy.console.ledger.request_queries import list_stored_requests
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.error_catalog import find_remedy
from anthropic_proxy.gateway.prices.price_list import find_price_package_version
from anthropic_proxy.gateway.settings import Settings, load_settings
from anthropic_proxy.plugins import Cost, Receipt
from tests.support.ledger import NOON, new_receipt, reading, store
from tests.support.page_context import build_context


def local_time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds):%H:%M}"


LIMIT = "groq rate limit reached: 12,000 tokens per minute for this key."


@contextmanager
def overview_of(
    settings: Settings, logged: list[str] | None = None, now: float = NOON + 3_600, **query: str
) -> Iterator[dict[str, Any]]:
    """Yield the values of the page, an hour after the stored requests."""
    with reading(settings) as engine, engine.connect() as connection:
        values = {name: [value] for name, value in query.items()}
        log = (logged if logged is not None else []).append
        yield dict(
            build_overview_page(build_context("/dashboard", connection, settings, values, now=now, log_condition=log))
        )


async def store_failures(settings: Settings, count: int, **fields: Any) -> None:
    failed = {"outcome": "error", "status": 429, "error_type": "rate_limit_error", "error": LIMIT}
    failed |= {"error_code": "rate-limit", **fields}
    receipts = [new_receipt(number, **failed, first_token_seconds=None) for number in range(count)]
    await store(settings, *receipts, new_receipt(100), new_receipt(101, provider="openai", model="gpt-4.1"))


async def test_the_cost_stands_beside_that_of_the_requested_models(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    await store(settings, new_receipt(1), new_receipt(2), cost=Cost(250_000_000, 900_000_000, "list"))
    with overview_of(settings) as page:
        (spent,) = [figure for figure in page["figures"] if figure.label == "Spent"]
        assert (spent.value, spent.note) == ("$0.50", "$1.80 at Claude's prices")
    with overview_of(settings, now=NOON + 40 * 86_400) as page:
        (spent,) = [figure for figure in page["figures"] if figure.label == "Spent"]
        assert (spent.value, spent.note) == (formats.UNKNOWN, "")


async def test_many_failures_of_a_provider_are_an_incident_with_a_remedy(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    await store_failures(settings, 3)
    with overview_of(settings) as page:
        assert [band.label for band in page["speed"].bands] == ["groq rate limit"]
        assert page["speed"].titles == ["p50 (median)", "p95", "incident"]
        assert [row[-1] for row in page["speed"].rows].count("groq rate limit") == 1
        (column,) = [one for one in page["speed"].columns if "incident = groq rate limit" in one.title]
        assert column.title.endswith(": p50 (median) = 0.51 s; p95 = 0.51 s; incident = groq rate limit")
        assert [(one.name, one.total) for one in page["errors"].series] == [("rate limit", "3")]
        assert "outcome=error" in page["errors"].columns[0].href
        assert page["notices"] == []
        (notice,) = page["solved"]
    assert notice.text == "3 requests failed at groq with 429, rate limit."
    await store(settings, new_receipt(200, outcome="error", error_code="rate-limit", error_type="rate_limit_error"))
    with overview_of(settings) as page:
        (notice,) = page["notices"]
    assert notice.remedy == (
        "Wait, or add keys (GROQ_API_KEY=key1,key2), or set FALLBACK_HAIKU=PREFIX/MODEL. Small limits do not suit "
        "coding agents: one request of Claude Code has 15,000 tokens and more."
    )
    assert notice.help_link == "/help/errors#rate-limit"
    with overview_of(settings, speed="provider") as page:
        assert [one.name for one in page["speed"].series] == ["groq", "openai"]


@pytest.mark.parametrize(
    ("count", "fields"),
    [(2, {}), (3, {"error_type": "invalid_request_error", "status": 400}), (3, {"provider": ""})],
    ids=["few", "invalid requests", "not sent"],
)
async def test_other_failures_are_no_incident(tmp_path: Path, count: int, fields: dict[str, Any]) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    await store_failures(settings, count, **fields)
    with overview_of(settings) as page:
        assert page["speed"].bands == []
        assert page["errors"].rows != []


async def test_a_panel_that_fails_leaves_the_others(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    await store_failures(settings, 3)
    connection = open_for_writing(settings)
    connection.execute("UPDATE hourly SET first_token_histogram = x'81c1c1' WHERE first_token_count > 0")
    connection.execute("ALTER TABLE requests RENAME COLUMN error_type TO removed")
    connection.close()
    logged: list[str] = []
    with overview_of(settings, logged, now=NOON + 4 * 3_600) as page:
        failed = {name: panel.message for name, panel in page.items() if isinstance(panel, FailedPanel)}
        assert page["verdict"].startswith("In the last 24 hours 2 of 5 requests succeeded")
        assert page["usage"].rows != []
        assert [row["row"].model for row in page["models"]] == ["small", "gpt-4.1"]
    missing = "The ledger cannot be read: no such column: requests.error_type. Requests are still served."
    assert {name: failed[name] for name in ("errors", "latest", "notices")} == dict.fromkeys(
        ("errors", "latest", "notices"), missing
    )
    assert failed["figures"].startswith("A stored value cannot be shown (DecodeError: ")
    assert failed.keys() == {"errors", "latest", "notices", "figures", "speed"}
    assert [line.partition(": ")[0] for line in logged] == [
        "The dashboard cannot show the figures",
        "The dashboard cannot show first tokens",
    ]


async def show_first_minutes(settings: Settings, *receipts: Any) -> None:
    await store(settings, *receipts, cost=Cost(0, None, "local"))


async def test_three_free_requests_of_the_first_minutes_are_visible(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    first = NOON + 25 * 60
    await show_first_minutes(settings, *(new_receipt(number, started_at=first + 70 * number) for number in range(3)))
    with overview_of(settings, now=first + 300) as page:
        assert page["usage_title"] == "Tokens per 5 minutes"
        assert [series.name for series in page["usage"].series] == ["input", "output"]
        assert page["speed"].columns[0].label == local_time(NOON - 1_800)
        assert len(page["speed"].columns) == 13
        assert [shape.line for shape in page["speed"].shapes] == ["M11 28.9h1", "M11 28.9h1"]
        assert [figure.value for figure in page["figures"]][:3] == ["3", "100 %", "free"]
        assert page["verdict"] == "In the last 24 hours 3 of 3 requests succeeded and were <b>free</b>."
    with overview_of(settings, now=first + 4 * 3_600) as page:
        assert page["usage_title"] == "Tokens per hour"
        assert page["figures"][0].note == "no complete range before", "the ledger is younger than that"
    with overview_of(settings, now=first + 60 * 3_600) as page:
        assert page["figures"][0].note == "none in the range before"


def new_request_without_model(number: int) -> Receipt:
    return new_receipt(
        number,
        method="GET",
        path="/nothing",
        requested_model="",
        provider="",
        prefix="",
        model="",
        outcome="error",
        status=404,
        error_type="not_found_error",
        error="Nothing is served at '/nothing'.",
        input_tokens=0,
        output_tokens=0,
    )


async def test_today_is_compared_with_nothing(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    await show_first_minutes(settings, new_receipt(1), new_receipt(2, started_at=NOON - 3 * 86_400))
    with overview_of(settings, now=NOON + 60, range="today") as page:
        assert page["verdict"] == "Today 1 of 1 request succeeded and was <b>free</b>."
        assert page["figures"][0].note == "since midnight"


async def test_a_request_without_a_model_is_no_part_of_the_success_rate(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    other = new_request_without_model(2)
    await show_first_minutes(settings, new_receipt(1), other)
    with overview_of(settings) as page:
        assert page["verdict"] == "In the last 24 hours 1 of 1 request succeeded and was <b>free</b>."
        assert [figure.value for figure in page["figures"]][:2] == ["1", "100 %"]
        assert [notice.text for notice in page["notices"]] == [
            "1 request without a model was rejected with 404, not found."
        ]
        assert page["errors"].series == []
        cells = [row.cells["model"] for row in page["latest"].rows]
        assert [(cell.model and cell.model[0], cell.note) for cell in cells] == [
            ("GET /nothing", "no model"),
            ("groq", "requested: haiku-4-5"),
        ]


async def test_equal_failures_of_a_minute_are_one_row_of_the_latest_requests(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    failed = {"status": 404, "outcome": "error", "error_type": "not_found_error", "error": "No such model."}
    failed |= {"input_tokens": 0, "output_tokens": 0}
    receipts = [new_receipt(number, started_at=NOON + number, **failed) for number in range(8)]
    receipts.append(new_receipt(8, started_at=NOON + 70, **failed))
    receipts.append(new_receipt(9, started_at=NOON + 71, **failed, session="another"))
    await show_first_minutes(settings, *receipts, new_receipt(10, started_at=NOON + 72))
    with overview_of(settings, now=NOON + 100) as page:
        rows = [(row.id[-2:], row.cells["outcome"].tag, row.error) for row in page["latest"].rows]
    assert rows == [
        ("10", ("✓", "ok", "end_turn"), ""),
        ("09", ("✕", "error", "404"), "No such model."),
        ("08", ("✕", "error", "404"), "No such model."),
        ("07", ("✕", "error", "404 × 8"), "No such model."),
    ]


async def test_the_demo_has_no_speed_of_output(tmp_path: Path) -> None:
    """It writes at once, so that the lines of models would be flat beside it."""
    settings = Settings(data_directory=tmp_path / "data")
    await show_first_minutes(settings, new_receipt(1), new_receipt(2, provider="demo", prefix="demo", model="demo"))
    with overview_of(settings) as page:
        assert [series.name for series in page["rate"].series] == ["groq"]


def test_an_error_has_the_remedy_of_its_code() -> None:
    remedy = find_remedy("path-not-found")
    assert remedy is not None
    assert remedy.link == "/help/errors#path-not-found"
    assert remedy.text.startswith("Use a client for Anthropic's Messages API.")
    for code in ("", "code-of-a-plugin"):  # "": stored by an earlier version, or an error of a plugin
        assert find_remedy(code) is None


def test_the_remedy_names_the_setting_of_the_keys_as_it_is_written() -> None:
    settings = ("", "GROQ_API_KEY", "api_key of [providers.own]", None)
    found = [find_remedy("rate-limit", setting) for setting in settings]
    assert [remedy.text.partition(", or set ")[0] for remedy in found if remedy] == [
        "Wait, or add keys (OPENAI_API_KEY=key1,key2)",
        "Wait, or add keys (GROQ_API_KEY=key1,key2)",
        "Wait, or add keys (key1,key2 in the place that api_key of [providers.own] names)",
        "Wait",
    ]


def test_the_remedy_for_a_table_names_the_variable_of_its_key(tmp_path: Path) -> None:
    tables = """
[providers.one]
base_url = "http://127.0.0.1:9/v1"
api_key = { env = "ONE_KEY" }
[providers.two]
base_url = "http://127.0.0.1:9/v1"
api_key = { file = "key" }
"""
    (tmp_path / "anthropic-proxy.toml").write_text(tables)
    (tmp_path / "key").write_text("sk-0123456789")
    settings = load_settings({"ONE_KEY": "sk-0123456789"}, PROVIDERS, env_file=str(tmp_path / ".env"))
    costs = ModelCosts(settings)
    assert [costs.find_key_setting(name) for name in ("one", "two")] == ["ONE_KEY", "api_key of [providers.two]"]


def test_the_remedy_of_a_message_replaces_that_of_its_kind() -> None:
    own = "set BIG_MODEL=a/new"
    remedy = find_remedy("configured-model-not-found", "A_KEY", "claude-opus-5-5", "a", own)
    assert remedy is not None
    assert remedy.text == "Set BIG_MODEL=a/new. Models of a:  anthropic-proxy models a"
    other = find_remedy("model-not-found", "A_KEY", "claude-opus-5-5", "a", own)  # a proposal of another kind
    assert other is not None
    assert other.text == "Request another model: anthropic-proxy models a lists those of the provider."


def test_the_remedy_for_a_server_without_a_key_names_the_fallbacks_of_the_tier(tmp_path: Path) -> None:
    (tmp_path / "anthropic-proxy.toml").write_text('[providers.local]\nbase_url = "http://127.0.0.1:9/v1"\n')
    settings = load_settings({"GROQ_API_KEY": "gsk_0123456789"}, PROVIDERS, env_file=str(tmp_path / ".env"))
    costs = ModelCosts(settings)
    rows = [("local", "claude-sonnet-5-5"), ("local", "local/coder"), ("groq", "claude-opus-5-5"), ("xai", "")]
    found = [find_remedy("rate-limit", costs.find_key_setting(provider), requested) for provider, requested in rows]
    assert [remedy.text.partition(". ")[0] for remedy in found if remedy] == [
        "Wait, or set FALLBACK_SONNET=PREFIX/MODEL",
        "Wait, or set FALLBACK_<TIER>",
        "Wait, or add keys (GROQ_API_KEY=key1,key2), or set FALLBACK_OPUS=PREFIX/MODEL",
        "Wait, or add keys (XAI_API_KEY=key1,key2), or set FALLBACK_<TIER>",
    ]


MONDAY = int(datetime(2026, 11, 16, 9).astimezone().timestamp())
QUERY = read_view_query("/dashboard", {"range": ["30d"]}, MONDAY + 14 * 86_400)


def hour(start: int, requests: int) -> PeriodSums:
    return PeriodSums(start, "", UsageSums(requests=requests))


def test_hours_of_several_weeks_are_one_cell() -> None:
    hours = [hour(MONDAY, 2), hour(MONDAY + 7 * 86_400, 8), hour(MONDAY + 86_400 + 3_600, 1)]
    grid = build_week(QUERY, hours, lambda sums: sums.requests, formats.count)
    first = QUERY.link_to_requests(MONDAY + 7 * 86_400, MONDAY + 7 * 86_400 + 3_600)
    second = QUERY.link_to_requests(MONDAY + 90_000, MONDAY + 93_600)
    assert grid.cells[0][9] == WeekCell(
        LEVELS, "Monday, 09:00, 10: hours with requests = 2; highest, 23 Nov = 8", first
    )
    assert grid.cells[1][10] == WeekCell(1, "Tuesday, 10:00, 1", second)
    assert [cell.level for row in grid.cells for cell in row].count(0) == 7 * 24 - 2
    assert (grid.rows[0][0], grid.rows[0][10], grid.rows[1][11], grid.rows[6][1]) == ("Monday", "10", "1", "–")


def test_a_grid_without_requests_has_no_drawing() -> None:
    assert build_week(QUERY, [], lambda sums: sums.requests, formats.count).cells == ()


async def test_pages_and_exports_count_the_same_requests(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    await store(settings, new_request_without_model(1), new_request_without_model(2), cost=Cost(0, 0, ""))
    with reading(settings) as engine, engine.connect() as connection:
        context = build_context("/dashboard", connection, settings, {}, now=NOON + 3_600)
        pages = [build(context) for build in (build_overview_page, build_costs_page, build_models_page)]
        assert [page["verdict"] for page in pages] == [
            "In the last 24 hours there were no requests.",
            "No requests in this range.",
            "No requests in this range.",
        ]
        exports = [PAGE.tables["usage"], *COSTS.tables.values(), MODELS.tables["models"]]
        assert [table.tabulate(context).rows for table in exports] == [[], [], []]


async def test_a_request_that_no_model_answered_was_not_free(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    failed = {"outcome": "error", "status": 404, "error_type": "not_found_error"}
    sent = {"provider": "", "prefix": "", "model": "", "input_tokens": 0, "output_tokens": 0}
    await store(settings, new_receipt(1, **failed, **sent), cost=Cost(0, 0, ""))
    with reading(settings) as engine, engine.connect() as connection:
        context = build_context("/dashboard", connection, settings, {}, now=NOON + 3_600)
        page, costs = build_overview_page(context), build_costs_page(context)
    assert page["verdict"] == "In the last 24 hours 0 of 1 request succeeded."
    assert [(figure.value, figure.note) for figure in page["figures"] if figure.label == "Spent"] == [("–", "")]
    assert costs["verdict"] == "1 request without a reply of a model, and so without a cost."
    assert costs["chart"].empty_text == page["usage"].empty_text == "No model replied."


@pytest.mark.parametrize("name", ["1h", "24h", "7d"])
def test_the_range_before_and_then_the_later_one_end_now_again(name: str) -> None:
    present = read_view_query("/dashboard", {"range": [name]}, NOON + 1_000)
    address = urlsplit(present.link_to_shifted_range(-1))
    earlier = read_view_query("/dashboard", parse_qs(address.query), NOON + 1_100)
    assert earlier.range_name == ""
    assert earlier.link_to_shifted_range(1) == present.link()
    twice = read_view_query("/dashboard", parse_qs(urlsplit(earlier.link_to_shifted_range(-1)).query), NOON + 1_100)
    assert twice.link_to_shifted_range(1) == address.geturl()


async def test_the_sums_of_a_day_are_those_of_its_rows_with_the_source_of_each(tmp_path: Path) -> None:
    (tmp_path / "anthropic-proxy.toml").write_text(
        '[providers.openrouter]\nbase_url = "https://openrouter.ai/api/v1"\n'
        '[prices."openrouter/own"]\ninput = 1\noutput = 1\n'
    )
    loaded = load_settings({}, PROVIDERS, env_file=str(tmp_path / ".env"))
    settings = structs.replace(loaded, data_directory=tmp_path / "data")
    model = {"provider": "openrouter", "prefix": "openrouter", "model": "z-ai/glm-5.2"}
    used = {**model, "input_tokens": 22_000, "output_tokens": 278}
    receipts = [
        new_receipt(1, **used, stated_cost=13_400_000),
        new_receipt(2, **used),
        new_receipt(3, **{**used, "model": "own"}, stated_cost=13_400_000),
    ]
    await store(settings, *receipts, cost=None)
    with reading(settings) as engine, engine.connect() as connection:
        rows = list_stored_requests(connection, RequestSelection(), 10)
        (day,) = sum_usage(connection, RequestSelection(), "day")
        page = build_overview_page(build_context("/dashboard", connection, settings))
        (figure,) = [one for one in page["figures"] if one.label == "Spent"]
    own = f"{tmp_path / 'anthropic-proxy.toml'} line 3"
    assert [(row.cost, row.price_source) for row in rows] == [
        (22_278_000, own),
        (32_023_200, find_price_package_version()),
        (13_400_000, "stated by the provider"),
    ]
    assert day.sums.cost == sum(row.cost or 0 for row in rows) == 67_701_200
    assert figure.value == "$0.068"
