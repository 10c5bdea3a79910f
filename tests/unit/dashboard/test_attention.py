"""Overview: is something wrong now? Problems of the past are folded, and each cause is a problem of its own."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import event

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.notices import Notice, StateNow
from anthropic_proxy.console.dashboard.overview import PAGE, build_overview_page
from anthropic_proxy.console.ledger.failures import count_errors, find_last_success, list_errors
from anthropic_proxy.console.ledger.periods import RequestSelection
from anthropic_proxy.console.ledger.request_queries import list_stored_requests
from anthropic_proxy.console.units import MICROSECONDS
from anthropic_proxy.gateway.error_catalog import find_remedy
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Client, Cost, ModelMapping, Receipt, Setup
from tests.support.ledger import NOON, new_receipt, reading, store
from tests.support.page_context import build_context

DAY = 86_400
ALL_IS_WELL = StateNow("✓", "ok", "All is well now: there are no open problems.")
RETIRED = "The model gpt-4.1 has been deprecated."
TOO_LONG = "prompt is too long: 210000 tokens > 200000 maximum"
KINDS: dict[str, dict[str, Any]] = {
    "key": {"status": 401, "error_type": "authentication_error", "error_code": "rejected-key", "error": "rejected"},
    "retired": {
        "status": 404,
        "error_type": "invalid_request_error",
        "error_code": "configured-model-not-found",
        "error": RETIRED,
    },
    "too long": {
        "status": 404,
        "error_type": "invalid_request_error",
        "error_code": "prompt-too-long",
        "error": TOO_LONG,
    },
    "down": {"status": 503, "error_type": "api_error", "error_code": "provider-failed", "error": "down"},
    "overloaded": {"status": 529, "error_type": "overloaded_error", "error_code": "overloaded", "error": "busy"},
}


def at(seconds: float, model: str = "gpt-5.5", **fields: Any) -> Receipt:
    """Return the receipt of a request to OpenAI, `seconds` after noon."""
    usual = {"provider": "openai", "prefix": "openai", "model": model, "requested_model": "claude-opus-5-5"}
    return new_receipt(int(seconds * 10), started_at=NOON + seconds, **{**usual, **fields})


def failed_at(seconds: float, kind: str, model: str = "gpt-5.5", **fields: Any) -> Receipt:
    return at(seconds, model, outcome="error", first_token_seconds=None, **{**KINDS[kind], **fields})


def setup(*targets: str) -> Setup:
    return Setup(mapping=[ModelMapping(tiers="opus", target=target, replies=[(target, "")]) for target in targets])


async def show(
    directory: Path,
    receipts: Sequence[Receipt],
    *targets: str,
    now: float = 3_600,
    cost: int | None = None,
    **query: str,
) -> dict[str, Any]:
    settings = Settings(data_directory=directory / "data", fallbacks={"opus": ()})
    await store(settings, *receipts, cost=Cost(cost, None, ""))
    with reading(settings) as engine, engine.connect() as connection:
        values = {name: [value] for name, value in query.items()}
        context = build_context(
            "/dashboard", connection, settings, values, now=NOON + now, setup=setup(*(targets or ["openai/gpt-5.5"]))
        )
        return {**build_overview_page(context), "failures": PAGE.tables["failures"].tabulate(context)}


def texts(notices: Sequence[Notice]) -> list[str]:
    return [one.text for one in notices]


async def test_after_a_bad_day_and_a_good_one_all_is_well(tmp_path: Path) -> None:
    bad = [
        *(failed_at(number, "key") for number in range(2)),
        *(failed_at(60 + number, "retired", "gpt-4.1") for number in range(4)),
        *(failed_at(120 + number, "too long") for number in range(2)),
        *(failed_at(180 + number, "down") for number in range(3)),
        *(at(240 + number, failed_attempts=["openai 503", "groq 429"]) for number in range(5)),
        failed_at(300, "overloaded"),
    ]
    good = [at(DAY + number) for number in range(40)]
    groq = [at(DAY + 100, provider="groq", prefix="groq", model="small")]
    page = await show(tmp_path, [*bad, *good, *groq], now=DAY + 3_600, range="7d")
    assert page["state_now"] == ALL_IS_WELL
    assert page["notices"] == []
    assert texts(page["solved"]) == [
        "4 requests failed at openai with 404, invalid request.",
        "3 requests failed at openai with 503, server error.",
        "2 requests failed at openai with 401, rejected key.",
        "2 requests failed at openai with 404, invalid request.",
        "1 request failed at openai with 529, overloaded.",
        "5 of 6 requests failed at groq first, and 5 went to another provider.",
        "5 of 57 requests failed at openai first.",
    ]
    assert {(one.sign, one.role, one.remedy) for one in page["solved"]} == {("✓", "none", "")}
    assert str(page["verdict"]).startswith("In the last 7 days 46 of 58 requests succeeded")


async def test_parts_that_a_provider_refuses_are_a_problem_while_many_requests_lack_them(tmp_path: Path) -> None:
    plain = [at(number, adaptations=["plain form: drop strict"]) for number in range(4)]
    usual = [at(10 + number) for number in range(6)]
    rare = [
        at(20 + number, "gpt-4.1", adaptations=["plain form: drop strict"] if not number else []) for number in range(6)
    ]
    words = [at(30 + number, "gpt-4.1-mini", adaptations=["drop strict"]) for number in range(6)]
    page = await show(tmp_path, [*plain, *usual, *rare, *words], now=300, range="24h")
    text = (
        "4 of 10 requests to openai/gpt-5.5 in the last ten minutes lacked what the provider refuses in unknown words."
    )
    assert [(notice.text, notice.remedy) for notice in page["notices"]] == [
        (
            text,
            "The page of a request lists what was left out. After a change of the server:  anthropic-proxy doctor "
            "--forget openai/gpt-5.5",
        )
    ]
    later = await show(tmp_path, [], now=1_000, range="24h")
    assert later["notices"] == []


async def test_before_the_good_day_each_cause_is_an_open_problem(tmp_path: Path) -> None:
    bad = [failed_at(1, "too long"), *(failed_at(60 + number, "retired", "gpt-4.1") for number in range(2))]
    page = await show(tmp_path, bad)
    assert page["state_now"] == StateNow("✕", "error", "Now:", "2 open problems")
    assert texts(page["notices"]) == [
        "2 requests failed at openai with 404, invalid request.",
        "1 request failed at openai with 404, invalid request.",
    ]
    assert [one.detail.partition(". ")[2] for one in page["notices"]] == [RETIRED, TOO_LONG]
    assert page["solved"] == []


async def test_an_open_problem_counts_the_failures_since_the_last_success(tmp_path: Path) -> None:
    earlier, later = [[failed_at(start + number, "down") for number in range(3)] for start in (1, 2 * 3_600)]
    page = await show(tmp_path, [*earlier, at(3_700), *later], now=3 * 3_600)
    problem = "3 requests failed at openai with 503, server error."
    assert page["state_now"] == StateNow("✕", "error", "One open problem:", problem)
    assert [one.detail.partition(".")[0] for one in page["notices"]] == [local_span(2 * 3_600, 2 * 3_600 + 2)]
    assert texts(page["solved"]) == [problem]
    titles, rows = page["failures"].titles, page["failures"].rows
    assert [[row[titles.index(name)] for name in ("requests", "solved")] for row in rows] == [[3, False], [3, True]]


@pytest.mark.parametrize("models", [2, 40])
async def test_the_replies_of_a_provider_are_looked_for_once_for_all_its_models(models: int, tmp_path: Path) -> None:
    """The database reads all requests to a provider that has not replied, so a query for each model would be slow."""
    settings, statements = Settings(data_directory=tmp_path), list[str]()
    await store(settings, *(failed_at(number, "down", f"model-{number}") for number in range(1, models + 1)))
    with reading(settings) as engine, engine.connect() as connection:
        event.listen(engine, "before_cursor_execute", lambda *values: statements.append(values[2]))
        selection = RequestSelection(start=int(NOON) * MICROSECONDS, end=int(NOON + DAY) * MICROSECONDS)
        errors = count_errors(connection, selection, 3_600)
        (group,) = list_errors(connection, selection, errors, lambda *_: True, partial(find_last_success, connection))
    assert (len(errors), group.count) == (models, models)
    assert len(statements) == 3  # the failures, the latest reply and the latest failure


@pytest.mark.parametrize("range_name", ["24h", "7d", "30d"])
async def test_failures_before_and_after_a_success_in_one_period_of_the_chart_are_told_apart(
    range_name: str, tmp_path: Path
) -> None:
    receipts = [
        *(failed_at(number, "down") for number in range(1, 4)),
        failed_at(4, "down", project="other"),
        at(60),
        *(failed_at(120 + number, "down") for number in range(2)),
    ]
    page = await show(tmp_path, receipts, now=180, range=range_name)
    assert texts(page["notices"]) == ["2 requests failed at openai with 503, server error."]
    assert texts(page["solved"]) == ["4 requests failed at openai with 503, server error."]
    assert [one.detail.partition(".")[0] for one in (*page["notices"], *page["solved"])] == [
        local_span(120, 121),
        local_span(1, 4),
    ]
    page = await show(tmp_path / "other", receipts, now=180, range=range_name, project="other")
    assert texts(page["solved"]) == ["1 request failed at openai with 503, server error."]


async def test_the_link_of_a_problem_shows_its_requests(tmp_path: Path) -> None:
    early, late = ([failed_at(start + number, "overloaded") for number in range(2)] for start in (3, 2 * 3_600))
    down = [failed_at(number, "down") for number in (1, 2)]
    page = await show(tmp_path, [*down, *early, at(3_700), *late], now=3 * 3_600)
    settings, shown = Settings(data_directory=tmp_path / "data"), []
    with reading(settings) as engine, engine.connect() as connection:
        for one in (*page["notices"], *page["solved"]):
            url = urlsplit(one.href)
            context = build_context(url.path, connection, settings, parse_qs(url.query), now=NOON + 3 * 3_600)
            found = list_stored_requests(connection, context.selection, 9)
            shown.append((one.text, [row.id for row in found]))
    assert shown == [
        ("2 requests failed at openai with 529, overloaded.", [one.request_id for one in reversed(late)]),
        ("2 requests failed at openai with 503, server error.", [one.request_id for one in reversed(down)]),
        ("2 requests failed at openai with 529, overloaded.", [one.request_id for one in reversed(early)]),
    ]


def local_span(start: float, end: float) -> str:
    return formats.time_span(*(round((NOON + seconds) * MICROSECONDS) for seconds in (start, end)))


async def test_one_open_problem_is_named_in_the_first_line(tmp_path: Path) -> None:
    page = await show(tmp_path, [at(1), failed_at(2, "down")])
    text = "1 request failed at openai with 503, server error."
    assert page["state_now"] == StateNow("✕", "error", "One open problem:", text)


@pytest.mark.parametrize(
    ("failure", "later", "is_solved"),
    [
        (failed_at(1, "down"), at(2, "gpt-5.5-mini"), True),
        (failed_at(1, "key"), at(2, "gpt-5.5-mini"), True),
        (failed_at(1, "down"), at(2, provider="groq", prefix="groq"), False),
        (failed_at(3, "down"), at(2), False),
        (failed_at(1, "down"), at(2, outcome="cancelled"), False),
        (failed_at(1, "too long"), at(2), True),
        (failed_at(1, "retired"), at(2, "gpt-5.5-mini"), False),
        (failed_at(1, "retired", "gpt-4.1"), at(2), True),
        (failed_at(1, "down", provider="", prefix="", model=""), at(2), True),
        (failed_at(1, "down", provider="", prefix="", model=""), at(2, client=Client("team-a")), False),
    ],
    ids=[
        "another model of a server that was down",
        "another model with a new key",
        "another provider",
        "before the failure",
        "cancelled",
        "the same model",
        "another model, while a setting names the one that fails",
        "no setting names the model any more",
        "the proxy itself",
        "the proxy itself, and another key",
    ],
)
async def test_a_problem_is_solved_by_a_later_success(
    tmp_path: Path, failure: Receipt, later: Receipt, is_solved: bool
) -> None:
    page = await show(tmp_path, [failure, later])
    assert (len(page["solved"]), len(page["notices"])) == (int(is_solved), 2 - int(is_solved) - 1)


async def test_a_success_outside_of_the_range_and_the_filters_counts(tmp_path: Path) -> None:
    receipts = [failed_at(1, "down"), at(DAY + 7_200, "gpt-5.5-mini")]
    query = {"from": "2026-11-21T11:00Z", "to": "2026-11-21T13:00Z", "outcome": "error"}
    page = await show(tmp_path, receipts, now=DAY + 9_000, **query)
    assert page["state_now"] == ALL_IS_WELL
    assert len(page["solved"]) == 1


async def test_failed_attempts_of_a_provider_are_open_until_it_replies(tmp_path: Path) -> None:
    first = [at(number, provider="groq", prefix="groq", failed_attempts=["openai 503"]) for number in range(4)]
    page = await show(tmp_path, first)
    text = "4 of 4 requests failed at openai first, and 4 went to another provider."
    assert page["state_now"] == StateNow("!", "warn", "One open problem:", text)
    page = await show(tmp_path, [at(9)])
    assert (page["state_now"], texts(page["solved"])) == (
        ALL_IS_WELL,
        ["4 of 5 requests failed at openai first, and 4 went to another provider."],
    )


async def test_the_remedy_is_not_what_is_set_already(tmp_path: Path) -> None:
    page = await show(tmp_path, [failed_at(1, "overloaded")])
    (notice,) = page["notices"]
    assert notice.remedy == "Wait."
    codes = ("rate-limit", "provider-failed", "no-credit")
    found = [find_remedy(code, None, "claude-opus-5-5", fallbacks=["opus"]) for code in codes]
    assert [remedy.text.partition(". ")[0] for remedy in found if remedy] == [
        "Wait",
        "Try again later.",
        "Add credit, or use another provider (PREFERRED_PROVIDER).",
    ]


async def test_a_reason_that_only_a_text_states_is_not_a_fact_about_the_account(tmp_path: Path) -> None:
    fields = {"status": 402, "error_type": "billing_error", "error_code": "stated-in-text", "error": "openai: bad: 'x'"}
    page = await show(tmp_path, [at(1, outcome="error", first_token_seconds=None, **fields)])
    text = "1 request failed at openai with 402, no credit or budget by its text."
    assert page["state_now"] == StateNow("✕", "error", "One open problem:", text)
    (notice,) = page["notices"]
    assert notice.remedy.startswith("Read the message. If other requests to the provider fail too, check the key")


async def test_a_rejected_key_is_one_problem_whoever_was_told_of_it(tmp_path: Path) -> None:
    receipts = [failed_at(number, "key", status=status) for number, status in enumerate((424, 403, 401, 424))]
    page = await show(tmp_path, receipts)
    assert texts(page["notices"]) == ["4 requests failed at openai with 424, rejected key."]


async def test_only_the_demo_replies(tmp_path: Path) -> None:
    page = await show(tmp_path, [at(1)], "demo/demo")
    text = "No provider is chosen, so the demo replies. Choose a provider:"
    assert page["state_now"] == StateNow("!", "warn", text, command="anthropic-proxy init")


async def test_free_models_show_tokens_instead_of_an_empty_cost(tmp_path: Path) -> None:
    page = await show(tmp_path, [at(1)], cost=0)
    assert page["usage_title"] == "Tokens per 5 minutes"
    assert (page["measure"], page["measures"]) == ("tokens", [("tokens", "Tokens"), ("requests", "Requests")])
    page = await show(tmp_path, [], by="requests")
    assert page["usage_title"] == "Requests per 5 minutes"
