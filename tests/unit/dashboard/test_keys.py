"""The page Keys in detail: states, used budgets, sums of the range, pages of rows, and an unavailable store."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy import Engine

from anthropic_proxy.console.dashboard.keys import STORE_PROBLEM, build_audit_page, build_key_page, build_keys_page
from anthropic_proxy.console.dashboard.page import PageContext
from anthropic_proxy.console.dashboard.query import ViewQuery, read_view_query
from anthropic_proxy.console.keys.administration import KeyAdministration, KeyCommand, open_administration
from anthropic_proxy.console.keys.limits import build_budget_counter, build_key_scope
from anthropic_proxy.console.keys.machine_reports import MachineReport, store_report
from anthropic_proxy.console.keys.virtual_keys import VirtualKey
from anthropic_proxy.console.ledger.database import open_for_writing
from anthropic_proxy.console.ledger.engines import open_reading_engine
from anthropic_proxy.console.ledger.queries import read_ledger_extent
from anthropic_proxy.gateway.settings import Settings, SignInSettings
from anthropic_proxy.gateway.settings.key_rules import Budget, Rules
from anthropic_proxy.gateway.stores.memory import MemoryStore
from anthropic_proxy.plugins import LEASE_SECONDS, Client, Limit, Reservation, StoreUnavailable
from tests.support.company import fill_company
from tests.support.ledger import NOON, new_receipt, store
from tests.support.page_context import read_table
from tests.support.virtual_keys import User, create_key, revoke_key

DAY = 86_400


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_directory=tmp_path / "data")


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    open_for_writing(settings).close()
    engine = open_reading_engine(settings)
    yield engine
    engine.dispose()


@pytest.fixture
def administration(settings: Settings) -> Iterator[KeyAdministration]:
    with open_administration(settings, "test", lambda: NOON) as administration:
        yield administration


def create(administration: KeyAdministration, label: str, **fields: Any) -> VirtualKey:
    return create_key(administration, VirtualKey(id="", label=label, **fields))[0]


def read(engine: Engine, settings: Settings, query: ViewQuery | None = None, **fields: Any) -> PageContext:
    connection = engine.connect()
    query = query or read_view_query("/dashboard/keys", {}, NOON)
    facts = read_ledger_extent(connection)
    return PageContext(query=query, connection=connection, facts=facts, now=NOON, settings=settings, **fields)


def test_states_and_used_budgets(engine: Engine, settings: Settings, administration: KeyAdministration) -> None:
    budgets = tuple(Budget(amount, "tokens", "day") for amount in (100,))
    used = {label: create(administration, label, rules=Rules(budgets=budgets)) for label in ("half", "high", "empty")}
    soft = Budget(100, "tokens", "day", soft=True, models="openai/*")
    used["above"] = create(administration, "above", rules=Rules(budgets=(soft,)))
    create(administration, "soon", expires_at=NOON + 3 * DAY)
    create(administration, "later", expires_at=NOON + 8 * DAY)
    create(administration, "gone")
    revoke_key(administration, "gone")
    store = MemoryStore(clock=lambda: NOON)
    context = read(engine, settings, store=store)
    for label, amount in (("half", 50), ("high", 80), ("empty", 100), ("above", 150)):
        (budget,), scope = used[label].rules.budgets, build_key_scope(used[label])
        counter = structs.replace(build_budget_counter(scope, budget, NOON), amount=amount)
        reservation = context.wait_for(store.reserve([counter]))
        context.wait_for(store.settle(reservation, [amount]))
    page = build_keys_page(context)
    context.connection.close()
    rows = {row.key.label: row for row in page["part"].rows}
    assert page["verdict"] == (
        "7 keys: 6 active, 1 revoked. 1 expires within 7 days. 1 key used up a budget. 1 key exceeded a soft budget."
    )
    assert list(rows) == ["above", "empty", "half", "high", "later", "soon", "gone"]
    assert {label: row.state.text for label, row in rows.items() if row.state.text != "active"} == {
        "soon": "expires in 3 days",
        "gone": "revoked",
    }
    assert rows["later"].expires == "expires in 8 days"
    assert [(rows[label].budgets[0].text, rows[label].budgets[0].role) for label in used] == [
        ("50 tokens of 100 tokens per day", "accent"),
        ("80 tokens of 100 tokens per day", "warn"),
        ("100 tokens of 100 tokens per day", "error"),
        ("150 tokens of 100 tokens per day for openai/* (soft)", "warn"),
    ]


async def test_requests_and_costs_of_keys_and_teams(
    engine: Engine, settings: Settings, administration: KeyAdministration
) -> None:
    for label, team in (("ci", "build"), ("cd", "build"), ("laptop", "")):
        create(administration, label, team=team)
    used = {"provider": "openai", "prefix": "openai", "model": "gpt-4.1", "input_tokens": 1_000_000}
    await store(
        settings,
        new_receipt(1, client=Client(name="ci", role="member", team="build"), **used),
        new_receipt(2, client=Client(name="cd", role="member", team="earlier"), **used),
        new_receipt(3, client=Client(name="cd", role="member"), started_at=NOON - 3 * DAY, **used),
    )
    context = read(engine, settings, read_view_query("/dashboard/keys", {"sort": ["-last"]}, NOON + 90))
    page = build_keys_page(structs.replace(context, now=NOON + 90))
    context.connection.close()
    assert read_table(page, "key", "requests", "last") == [
        ["cd", "1", "1 min ago"],
        ["ci", "1", "1 min ago"],
        ["laptop", "0", "–"],
    ]
    assert read_table({"table": page["teams"]}, "team", "keys", "requests", "cost") == [
        ["build", "2", "1", "unknown"],
        ["earlier", "0", "1", "unknown"],
    ], "the team of a key when the request was sent"
    assert page["teams"].rows[0].cells["requests"].href == "/dashboard/requests?team=build"
    assert page["teams"].rows[0].cells["cost"].href == "/dashboard/costs?team=build&by=key"


def test_pages_of_keys_and_of_the_audit_log(
    engine: Engine, settings: Settings, administration: KeyAdministration
) -> None:
    budget = Budget(100, "tokens", "day")
    for number in range(101):
        create(administration, f"key-{number:03}", rules=Rules(budgets=(budget,) * (number == 0)))

    def build(build_page: Any, link: str) -> Any:
        _, _, text = link.partition("?")
        values = dict(pair.split("=") for pair in text.split("&") if pair)
        context = read(
            engine, settings, read_view_query("/x", {name: [v] for name, v in values.items()}, NOON), store=store
        )
        page = build_page(context)
        context.connection.close()
        return page

    store = MemoryStore(clock=lambda: NOON)
    key = administration.require_key("key-000")
    counter = build_budget_counter(build_key_scope(key), key.rules.budgets[0], NOON)
    asyncio.run(store.reserve([structs.replace(counter, amount=100)]))
    first = build(build_keys_page, "")
    second = build(build_keys_page, first["part"].older)
    assert [row.key.label for row in first["part"].rows] == [f"key-{number:03}" for number in range(100)]
    assert (first["verdict"], first["hidden"]) == (
        "101 keys: 101 active. 1 key of this page used up a budget.",
        "1 to 100 of 101",
    )
    assert ([row.key.label for row in second["part"].rows], second["part"].older) == (["key-100"], "")
    assert build(build_keys_page, second["part"].newer)["part"].rows == first["part"].rows
    pages = [build(build_audit_page, "")]
    while pages[-1]["part"].older:
        pages.append(build(build_audit_page, pages[-1]["part"].older))
    assert [len(page["part"].rows) for page in pages] == [50, 50, 1]
    assert pages[0]["part"].newer == ""
    for newer, older in pairwise(pages):
        assert build(build_audit_page, older["part"].newer)["part"].rows == newer["part"].rows


def test_tables_of_a_large_company_say_that_they_are_cut(
    engine: Engine, settings: Settings, administration: KeyAdministration
) -> None:
    assert settings.data_directory is not None
    fill_company(settings.data_directory, 201)
    for number in range(150):
        create(administration, f"key-{number}", team=f"site {number}")
    context = read(engine, settings)
    page = build_keys_page(context)
    context.connection.close()
    assert [len(page[name].rows) for name in ("sign_ins", "teams")] == [200, 200]
    assert (page["hidden_sign_ins"], page["hidden_teams"]) == (": the latest 200", ": the first 200")


def test_an_unavailable_store_is_stated_and_keys_are_listed(
    engine: Engine, settings: Settings, administration: KeyAdministration
) -> None:
    create(administration, "ci", rules=Rules(budgets=(Budget(5, "usd", "day"),)))

    class StoppedStore(MemoryStore):
        async def reserve(self, limits: Sequence[Limit], lease_seconds: float = LEASE_SECONDS) -> Reservation:
            raise StoreUnavailable

    context = read(engine, settings, store=StoppedStore())
    page = build_keys_page(context)
    context.connection.close()
    assert page["store_problem"] == STORE_PROBLEM
    assert [bar.text for bar in page["part"].rows[0].budgets] == ["– of $5.00 per day"]


def test_the_page_of_a_key_shows_the_settings_of_its_machines(
    engine: Engine, settings: Settings, administration: KeyAdministration
) -> None:
    key, store, held = create(administration, "ci"), MemoryStore(clock=lambda: NOON), f"sha256:{'3facd639' * 8}"
    context = read(engine, settings, store=store, path_parameters={"id": key.id})
    for number, before in enumerate(("", held)):
        report = MachineReport(f"sign_{number}", NOON - 7_200, "claude-code/2.1.332", before, held)
        context.wait_for(store_report(store, key.id, report))
    page = build_key_page(context)
    context.connection.close()
    assert page is not None
    assert [value for title, value in page["facts"] if title == "Settings"] == [
        "3facd639, up to date, claude-code/2.1.332, 2 h ago",
        "none, sent 3facd639, claude-code/2.1.332, 2 h ago",
    ]


def test_the_pages_show_keys_without_access_and_the_creator_of_team_keys(
    engine: Engine, settings: Settings, administration: KeyAdministration
) -> None:
    """The reason is that of a request with the key."""
    person = User(role="member", address="ann@example.com", max_keys=2)
    lead = User(role="team admin", address="lead@example.com", team="build")
    for user, label in ((person, "laptop"), (lead, "deploy")):
        with closing(open_for_writing(settings)) as connection:
            own = KeyAdministration(connection, "test", lambda: NOON, user.find_rights(connection, clock=lambda: NOON))
            own.execute(KeyCommand(action="create", fields={"label": label, "team": user.team}))
    administration.execute(KeyCommand(action="revoke", target="lead@example.com"))
    settings = structs.replace(settings, sign_in=SignInSettings(secrets=(), days=30))
    now = NOON + 30 * DAY
    reason = (
        "The key 'laptop' is rejected, because the access of its owner has ended at 2026-12-21T12:00:00Z. The owner "
        "signs in again from Claude Code."
    )
    context = structs.replace(read(engine, settings), now=now)
    page = build_keys_page(context)
    rows = {row.key.label: row for row in page["part"].rows}
    assert {label: row.state.text for label, row in rows.items()} == {
        "ann@example.com": "active",
        "deploy": "active",
        "laptop": "inactive",
        "lead@example.com": "revoked",
    }
    assert page["verdict"] == "4 keys: 2 active, 1 inactive, 1 revoked."
    cells = {row.cells["key"].text: row.cells for row in page["table"].rows}
    assert cells["laptop"]["state"].title == reason
    assert cells["deploy"]["owner"].note == "build, created by lead@example.com (revoked)"
    path = {"id": rows["laptop"].key.id}
    shown = build_key_page(structs.replace(context, path_parameters=path))
    deploy = build_key_page(structs.replace(context, path_parameters={"id": rows["deploy"].key.id}))
    context.connection.close()
    assert shown is not None
    assert deploy is not None
    assert shown["verdict"] == f"{reason} 0 requests in this range."
    assert ("Error of its requests", reason) in shown["facts"]
    assert ("Created by", "lead@example.com (revoked)") in deploy["facts"]
