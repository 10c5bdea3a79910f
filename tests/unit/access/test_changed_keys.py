"""A change lets the table of a large company read what the change concerns, and nothing else: it then says of each key
and each sign-in what a table says that has read all.
"""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.app import App
from anthropic_proxy.console.identity.people import OidcError, OidcUser
from anthropic_proxy.console.keys.administration import open_administration
from anthropic_proxy.console.keys.ended_people import EndedPeople
from anthropic_proxy.console.keys.key_table import KeysUnavailable, KeyTable
from anthropic_proxy.console.keys.limits import Scope
from anthropic_proxy.console.keys.queries import Spending, add_forecasts, list_owned_keys, sum_budget_uses
from anthropic_proxy.console.ledger.connection import Connection
from anthropic_proxy.console.ledger.database import connect_for_writing, find_database, open_for_writing
from anthropic_proxy.console.ledger.schema import HOURLY
from anthropic_proxy.console.units import HOUR_SECONDS
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.settings import Settings, load_settings
from anthropic_proxy.gateway.settings.key_rules import Budget, Rules
from tests.support.calls import counting_calls
from tests.support.company import fill_company
from tests.support.ledger import NOON
from tests.support.sign_in import ISSUER, SECRET, answer, open_grants, store_sign_in
from tests.support.virtual_keys import running_app, send
from tests.support.waiting import wait_for_async

ADMIN = "admin-0123456789"
SCIM = "scim-token-0123456789abcdef0123456789abcdef"
SETTINGS = {
    "ADMIN_API_KEY": ADMIN,
    "SCIM_TOKEN": SCIM,
    "OIDC_ISSUER": ISSUER,
    "OIDC_CLIENT_ID": "proxy",
    "DASHBOARD_URL": "http://127.0.0.1:8082",
    "SIGN_IN_SECRET": SECRET,
}
TABLES = """
[sign_in.groups.developers]
team = "build"
budgets = ["5USD/day"]

[sign_in.groups."*"]
team = "build"
"""
PEOPLE = 300
ANN, BOB, NEW = "p0001@example.org", "p0002@example.org", "new@example.org"


class Company:
    def __init__(self, app: App, directory: Path) -> None:
        self.app = app
        self.directory = directory
        fixed = {"VIRTUAL_KEYS": "true", "XDG_DATA_HOME": str(directory)}
        self.settings = load_settings({**fixed, **SETTINGS}, PROVIDERS, env_file=str(directory / ".env"))
        self.file = directory / "anthropic-proxy" / "ledger.sqlite3"
        self.url = f"sqlite:///{self.file}"

    def query(self, sql: str) -> list[str]:
        with closing(sqlite3.connect(self.file)) as database:
            return [str(value) for (value,) in database.execute(sql)]

    async def administer(self, path: str, body: object = None) -> Any:
        reply = await send(self.app, "POST", f"/admin/{path}", {} if body is None else body, x_api_key=ADMIN)
        assert reply.status == 200, reply.text
        return reply.json

    async def provision(self, method: str, path: str, body: object = None) -> Any:
        headers = {"authorization": f"Bearer {SCIM}"}
        reply = await send(self.app, method, f"/scim/v2/{path}", body, **headers)
        assert reply.status in (200, 201, 204), reply.text
        return reply.json if reply.body else None

    async def change_group(self, **operation: object) -> None:
        (group,) = self.query("SELECT id FROM scim_groups WHERE name != 'group of half the company'")
        await self.provision("PATCH", f"Groups/{group}", {"Operations": [operation]})

    def find_user(self, email: str) -> OidcUser:
        return OidcUser(ISSUER, "proxy", f"subject {email[1:5]}", email)

    async def describe(self, table: KeyTable) -> dict[str, object]:
        """Return what a table says of all keys, secrets and sign-ins."""
        assert await table.refresh()
        ids = self.query("SELECT id FROM virtual_keys ORDER BY id")
        scopes = dict[str, object]()
        for key_id in ids:
            try:
                scopes[key_id] = table.find_scopes(key_id)
            except KeysUnavailable as error:
                scopes[key_id] = error.message
        return {
            "ends": {key_id: table.find_key_end(key_id) for key_id in ids},
            "states": {key_id: table.find_status(key_id) for key_id in ids},
            "entries": {text: table.find_entry(text) for text in self.query("SELECT hash FROM key_hashes")},
            "sign-ins": {one: table.find_sign_in(one) for one in self.query("SELECT id FROM sign_ins ORDER BY id")},
            "labels": sorted(key.label for key in table.list_keys("")),
            "budgets": sorted(table.list_scopes_with_budgets(), key=lambda scope: scope.counter),
            "scopes": scopes,
        }

    async def compare(self, table: KeyTable) -> None:
        """Wait until the table says what one says that has read all: tables of groups are applied meanwhile."""
        other = await read(self.settings)

        async def describe() -> tuple[object, object]:
            return await self.describe(table), await self.describe(other)

        await wait_for_async(describe, lambda both: both[0] == both[1])
        await other.stop()


async def refuse(company: Company) -> None:
    grants = open_grants(company.url)
    (sign_in,) = [one for one in map(grants.find_active, company.query("SELECT id FROM sign_ins")) if is_of(one, NEW)]
    claim = grants.claim(sign_in)
    assert claim.sign_in is not None
    grants.mark_refused(claim.sign_in, OidcError("not today"))


async def renew(company: Company) -> None:
    grants = open_grants(company.url)
    (sign_in,) = [one for one in map(grants.find_active, company.query("SELECT id FROM sign_ins")) if is_of(one, NEW)]
    stated = structs.replace(sign_in.user, groups=("developers",))
    grants.renew(sign_in, answer(stated, sign_in.checked_at + 5.0))


async def rename(company: Company) -> None:
    """The provider gives the person another address."""
    grants = open_grants(company.url)
    (sign_in,) = [one for one in map(grants.find_active, company.query("SELECT id FROM sign_ins")) if is_of(one, NEW)]
    stated = structs.replace(sign_in.user, email="newer@example.org")
    grants.renew(sign_in, answer(stated, sign_in.checked_at + 60.0))


def is_of(sign_in: Any, email: str) -> bool:
    return sign_in is not None and sign_in.user.email == email


async def sign_in(company: Company) -> None:
    store_sign_in(company.url, NEW)


async def look(company: Company) -> None:
    with open_administration(company.settings, "test") as administration:
        administration.record_look("req_1", [])


def post(path: str, body: object = None) -> Callable[[Company], Awaitable[Any]]:
    return lambda company: company.administer(path, body)


def group(**operation: object) -> Callable[[Company], Awaitable[Any]]:
    return lambda company: company.change_group(**operation)


def users(*names: str) -> list[dict[str, str]]:
    return [{"value": f"user-{name}"} for name in names]


STEPS: dict[str, Callable[[Company], Awaitable[Any]]] = {
    "a key of a person": post("keys", {"name": "ci", "owner": ANN, "team": "build"}),
    "a key of an address that has not signed in": post("keys", {"name": "early", "owner": NEW}),
    "a key with a budget": post(
        "keys", {"name": "paid", "budgets": [{"amount": 5, "unit": "usd", "period": "day"}], "team": "team 0001"}
    ),
    "another label": post("keys/ci", {"name": "ci-2"}),
    "rules of a person": post(f"keys/{BOB}", {"models": ["demo/*"], "requests_per_minute": 5}),
    "team of a person": post(f"keys/{BOB}", {"team": "ops"}),
    "a new secret": post("keys/ci-2/rotate", {"overlap_seconds": 60}),
    "another secret": post("keys/ci-2/rotate"),
    "rules of a team": post("teams/ops", {"models": ["demo/*"]}),
    "the end of a team": post("teams/ops", {"models": []}),
    "a first sign-in": sign_in,
    "a second device": sign_in,
    "a sign-out": post("sign-ins/p0003@example.org/sign-out"),
    "a revoked person": post(f"keys/{ANN}/revoke"),
    "a person that is allowed again": post(f"keys/{ANN}/allow"),
    "a revoked key": post("keys/paid/revoke"),
    "a new group of the settings": lambda company: company.provision(
        "POST", "Groups", {"displayName": "developers", "members": users("0004", "0005", "0006")}
    ),
    "a new member": group(op="add", path="members", value=users("0007")),
    "a lost member": group(op="remove", path='members[value eq "user-0005"]'),
    "another name of the group": group(op="replace", path="displayName", value="others"),
    "the name of before": group(op="replace", path="displayName", value="developers"),
    "a deactivated user": lambda company: company.provision(
        "PATCH", "Users/user-0008", {"Operations": [{"op": "replace", "path": "active", "value": False}]}
    ),
    "an activated user": lambda company: company.provision(
        "PATCH", "Users/user-0008", {"Operations": [{"op": "replace", "path": "active", "value": True}]}
    ),
    "a cost center": lambda company: company.provision(
        "PATCH",
        "Users/user-0009",
        {
            "Operations": [
                {
                    "op": "add",
                    "path": "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:costCenter",
                    "value": "c1",
                }
            ]
        },
    ),
    "a new user": lambda company: company.provision("POST", "Users", {"userName": "scim@example.org"}),
    "a deleted user": lambda company: company.provision("DELETE", "Users/user-0004"),
    "a look at a text": look,
}
SIGN_INS = {"a refused refresh": refuse, "other groups": renew, "another address": rename}


@pytest.fixture
async def company(tmp_path: Path) -> AsyncIterator[Company]:
    (tmp_path / "anthropic-proxy.toml").write_text(TABLES)
    async with running_app(tmp_path, **SETTINGS) as app:
        fill_company(tmp_path, PEOPLE)
        yield Company(app, tmp_path)


async def read(settings: Settings) -> KeyTable:
    table = KeyTable(settings, lambda text: None)
    assert await table.refresh()
    return table


async def test_a_table_says_the_same_as_one_that_has_read_all(company: Company) -> None:
    table = await read(company.settings)
    for name, change in STEPS.items():
        before = await company.describe(table)
        await change(company)
        await company.compare(table)
        assert name == "a look at a text" or await company.describe(table) != before, name
    await table.stop()


@pytest.mark.parametrize("change", SIGN_INS.values(), ids=SIGN_INS)
async def test_a_table_follows_the_refreshes_of_a_person(
    company: Company, change: Callable[[Company], Awaitable[Any]]
) -> None:
    await company.administer("keys", {"name": "early", "owner": NEW})
    store_sign_in(company.url, NEW)
    table = await read(company.settings)
    before = await company.describe(table)
    await change(company)
    await company.compare(table)
    assert await company.describe(table) != before
    await table.stop()


async def test_keys_that_another_program_has_stored_are_read_with_the_next_change(company: Company) -> None:
    table = await read(company.settings)
    with closing(sqlite3.connect(company.file)) as database, database:
        database.execute("INSERT INTO virtual_keys (id, label, rules, created_at) VALUES ('key_x', 'x', '{}', 1)")
    assert await table.refresh()
    assert table.find_key_end("key_x") is None
    await company.administer("keys", {"name": "ci"})
    assert await table.refresh()
    assert table.find_status("key_x") == "active"
    await table.stop()


async def test_the_work_of_a_change_does_not_grow_with_the_company(tmp_path: Path) -> None:
    """Neither for requests nor for sessions of the dashboard."""
    calls = []
    for number in (PEOPLE, 4 * PEOPLE):
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / "anthropic-proxy.toml").write_text(TABLES)
        calls.append(await measure_change(directory, number))
    assert calls[1] < 1.2 * calls[0]


async def measure_change(directory: Path, number: int) -> int:
    async with running_app(directory, **SETTINGS) as app:
        fill_company(directory, number)
        company = Company(app, directory)
        table = await read(company.settings)
        person = company.query("SELECT id FROM virtual_keys ORDER BY id LIMIT 1")[0]
        now = NOON
        people = EndedPeople(lambda: company.settings, lambda: now)

        async def follow() -> None:
            await company.administer(f"keys/{person}", {"requests_per_minute": int(now) % 100 + 1})
            assert await table.refresh()
            assert not await people.is_ended(person, now)

        await follow()  # imports and caches are there
        now += 10.0
        with counting_calls() as calls:
            await follow()
        await table.stop()
        return calls[0]


SUMS: Mapping[str, object] = {
    name: b"" if kind.startswith("BLOB") else 10 if kind.startswith("BIGINT") else ""
    for name, kind in HOURLY.columns.items()
}
HOURS = [int(NOON // HOUR_SECONDS) - 24 * days for days in range(0, 60, 10)]
MONTH = Budget(1, "usd", "month")
ONE_KEY = Scope("key", "p0", "key/key_0", Rules(budgets=(MONTH,)))
ONE_TEAM = Scope("team", "t0", "team/t0", Rules(budgets=(MONTH,)))


def forecast(connection: Connection, settings: Settings, scope: Scope) -> None:
    ((shown,),) = add_forecasts(connection, settings, [scope], [[Spending(MONTH, 20)]], NOON)
    assert shown.forecast is not None


LOOKUPS: Mapping[str, Callable[[Connection, Settings], object]] = {
    "use of a budget": lambda connection, settings: sum_budget_uses(connection, settings, [(ONE_KEY, MONTH)], NOON),
    "use of a budget of a team": lambda connection, settings: sum_budget_uses(
        connection, settings, [(ONE_TEAM, MONTH)], NOON
    ),
    "forecast": lambda connection, settings: forecast(connection, settings, ONE_KEY),
    "forecast of a team": lambda connection, settings: forecast(connection, settings, ONE_TEAM),
    "keys of a person": lambda connection, _: list_owned_keys(connection, "key_0", "p0"),
}


class CountedQueries:
    """A `Reader`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.is_postgres = connection.is_postgres
        self.count = 0

    def query(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        self.count += 1
        return self._connection.query(sql, values)


def test_a_key_that_has_had_many_names_costs_few_queries(database: Settings) -> None:
    labels = ["p0", *(f"former {number}" for number in range(1_200))]
    with closing(open_for_writing(database)) as connection, connection.transaction():
        connection.insert("virtual_keys", ("id", "label", "rules", "created_at"), [("key_0", "p0", "", 0)])
        connection.insert("former_labels", ("label", "key_id"), [(label, "key_0") for label in labels[1:]])
        names = [name for name in HOURLY.columns if name not in ("key_label", "hour", "cost")]
        rows = [(HOURS[0], label, 1, *(SUMS[name] for name in names)) for label in (*labels, "other")]
        connection.insert("hourly", ("hour", "key_label", "cost", *names), rows)
        counted = CountedQueries(connection)
        assert sum_budget_uses(counted, database, [(ONE_KEY, MONTH)], NOON) == [len(labels)]
    assert counted.count < 20


@pytest.mark.parametrize("look", LOOKUPS.values(), ids=LOOKUPS)
def test_the_work_for_one_key_does_not_depend_on_the_number_of_others(
    sqlite: Settings, look: Callable[[Connection, Settings], object]
) -> None:
    def count_steps() -> int:
        """Return the number of instructions of SQLite."""
        steps = [0]

        def count() -> None:
            steps[0] += 1

        driver.set_progress_handler(count, 1)
        look(connection, sqlite)
        driver.set_progress_handler(None, 1)
        return steps[0]

    open_for_writing(sqlite).close()
    driver = connect_for_writing(find_database(sqlite))
    with closing(Connection(driver)) as connection:
        counts = []
        for first, last in ((0, 100), (100, 2_000)):
            keys = [(f"key_{number}", f"p{number}", f"p{number}", "", 0) for number in range(first, last)]
            connection.insert("virtual_keys", ("id", "label", "owner", "person", "created_at"), keys)
            connection.insert("former_labels", ("label", "key_id"), [(f"old {key[0]}", key[0]) for key in keys])
            sums = [
                {**SUMS, "hour": hour, "key_label": f"p{number}", "team": f"t{number}"}
                for number in range(first, last)
                for hour in HOURS
            ]
            connection.insert("hourly", tuple(HOURLY.columns), [tuple(row.values()) for row in sums])
            counts.append(count_steps())
    assert counts[1] < 2 * counts[0]
