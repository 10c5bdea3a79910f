"""What is expected for the rest of a period, and from which data nothing is."""

import itertools
from contextlib import closing
from datetime import UTC, datetime

import pytest
from msgspec import structs

from anthropic_proxy.console.keys.administration import KeyCommand, open_administration
from anthropic_proxy.console.keys.limits import Scope, build_key_scope
from anthropic_proxy.console.keys.queries import Spending, add_forecasts, read_used_budgets, require_key
from anthropic_proxy.console.ledger.database import open_for_writing
from anthropic_proxy.console.ledger.engines import EngineReader
from anthropic_proxy.console.ledger.forecasts import PeriodUse
from anthropic_proxy.console.ledger.periods import RequestSelection
from anthropic_proxy.console.ledger.queries import expect_month_cost
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.key_rules import Budget, Rules
from anthropic_proxy.plugins import Client, Cost
from tests.support.ledger import new_receipt, reading, store
from tests.support.virtual_keys import User

ENOUGH = PeriodUse(elapsed_share=0.5, requests=10, used=100)


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (ENOUGH, 100),
        (structs.replace(ENOUGH, requests=9), None),
        (structs.replace(ENOUGH, elapsed_share=0.25), 300),
        (structs.replace(ENOUGH, elapsed_share=0.24), None),
        (structs.replace(ENOUGH, elapsed_share=1.0), 0),
        (structs.replace(ENOUGH, used_before=900), 100),
        # 100 more at this pace, and 50 more as in the period before
        (structs.replace(ENOUGH, used_before=100, used_before_until=50), 75),
        (structs.replace(ENOUGH, used_before=100, used_before_until=100), 50),
        # the earlier, the more the period before counts: 10 % of 900 more, and 90 % of 500 more
        (structs.replace(ENOUGH, elapsed_share=0.1, used_before=600, used_before_until=100), 540),
        (structs.replace(ENOUGH, elapsed_share=0.09, used_before=600, used_before_until=100), None),
    ],
)
def test_the_rest_is_the_mean_of_this_pace_and_the_period_before(use: PeriodUse, expected: int | None) -> None:
    assert use.expect_rest() == expected


def at(text: str) -> float:
    return datetime.fromisoformat(f"2026-{text}:00+00:00").timestamp()


async def test_budgets_and_months_have_forecasts_from_the_ledger(database: Settings) -> None:
    """Ten requests at noon of each of the first six days of November, one at each of October."""
    client = Client(name="ci", role="member", key_id="key_1", team="web")
    times = [at(f"10-{day:02}T12:00") for day in range(1, 32)]
    times += [at(f"11-{day:02}T12:{minute:02}") for day in range(1, 7) for minute in range(10)]
    receipts = [
        new_receipt(number, client=client, started_at=when, model="small" if number % 2 else "large")
        for number, when in enumerate(times)
    ]
    await store(database, *receipts, cost=Cost(1_000_000_000, None, "test"))
    now = at("11-07T00:00")
    budgets = {
        "month": Budget(500, "usd", "month"),
        "soft": Budget(50, "usd", "month", soft=True, models="groq/large"),
        "tokens": Budget(10**9, "tokens", "month"),
        "day": Budget(50, "usd", "day"),
        "total": Budget(500, "usd", "total"),
    }
    scopes = [
        Scope("team", "web", "team/web", Rules(budgets=tuple(budgets.values()))),
        Scope("key", "ci", "key/key_1", Rules(budgets=(budgets["month"],))),
        Scope("key", "other", "key/key_2", Rules(budgets=(budgets["month"],))),
    ]
    used = [[Spending(one, 60_000_000_000) for one in scope.rules.budgets] for scope in scopes]
    with reading(database) as engine, engine.connect() as connection:
        found = add_forecasts(EngineReader(connection), Settings(), scopes, used, now)
        # a fifth of the month is over: 80 % of 60 more at this pace, and of 31 − 6 more as in October
        assert [one.forecast for one in found[0]] == [
            128_000_000_000,
            94_400_000_000,
            60_000_008_160,
            None,
            None,
        ]
        assert found[0][0].describe() == "$60.00 of $500.00 per month, about $128.00 expected"
        assert [[one.forecast for one in each] for each in found[1:]] == [[128_000_000_000], [None]]
        whole = RequestSelection(start=round(at("11-01T00:00") * 1e6), end=round(now * 1e6), has_model=True)
        moment = datetime.fromtimestamp(now, UTC)
        large = structs.replace(whole, values={"model": "large"})
        assert expect_month_cost(connection, whole, moment, UTC) == 128_000_000_000
        assert expect_month_cost(connection, large, moment, UTC) == 64_400_000_000
        for other in (
            structs.replace(whole, start=whole.start + 3_600_000_000),
            structs.replace(whole, end=whole.end - 3_600_000_000),
            structs.replace(whole, values={"prompt_id": "p"}),
            structs.replace(whole, values={"model": "none"}),
        ):
            assert expect_month_cost(connection, other, moment, UTC) is None
        day = structs.replace(whole, start=whole.end - 3_600_000_000)
        assert expect_month_cost(connection, day, moment, UTC, ignores_range=True) == 128_000_000_000


async def test_the_forecast_of_a_person_counts_what_its_budgets_count(database: Settings) -> None:
    """Sign-ins, keys that the person created, and those under an earlier label."""
    with closing(open_for_writing(database)) as connection:
        user = User(role="member", address="ann@example.com", max_keys=2)
        person = user.find_rights(connection, clock=lambda: at("11-01T00:00"))
    now = at("11-16T00:00")
    with open_administration(database, "test", lambda: at("11-01T00:00"), person) as administration:
        administration.execute(KeyCommand(action="create", fields={"label": "laptop"}))
    with open_administration(database, "test", lambda: at("11-03T00:00"), person) as administration:
        for before, after in itertools.pairwise(("laptop", "tablet", "laptop", "phone")):
            administration.execute(KeyCommand(action="change", target=before, fields={"label": after}))
    labels = ("ann@example.com", "laptop", "tablet", "phone", "other")
    receipts = [
        new_receipt(number, client=Client(labels[number % 5], role="member"), started_at=at("11-04T12:00"))
        for number in range(50)
    ]
    await store(database, *receipts, cost=Cost(1_000_000_000, None, "test"))
    budget = Budget(500, "usd", "month")
    with reading(database) as engine, engine.connect() as connection:
        reader = EngineReader(connection)
        key = structs.replace(require_key(reader, "ann@example.com"), rules=Rules(budgets=(budget,)))
        (spending,) = read_used_budgets(reader, Settings(), build_key_scope(key), now)
    assert spending.used == 40 * 1_000_000_000
    assert spending.forecast == 80 * 1_000_000_000, "half of the month is over"
