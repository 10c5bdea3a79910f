"""Old rows are deleted by age, and the oldest ones by size."""

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from anthropic_proxy.console.keys.limits import Scope
from anthropic_proxy.console.keys.queries import sum_budget_uses
from anthropic_proxy.console.ledger.connection import Connection, DatabaseError
from anthropic_proxy.console.ledger.database import (
    classify_database_error,
    connect_for_writing,
    find_database,
    open_for_writing,
)
from anthropic_proxy.console.ledger.retention import (
    CHUNK_ROWS,
    CLOCK_INTERVAL_SECONDS,
    INTERVAL_SECONDS,
    Retention,
    measure_used_bytes,
)
from anthropic_proxy.console.ledger.schema import (
    ACTIVITY,
    ACTIVITY_POINTS,
    HOURLY,
    REQUESTS,
    SESSION_HOURS,
    TableDefinition,
)
from anthropic_proxy.console.units import MICROSECONDS
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.key_rules import Rules, decode_budget
from anthropic_proxy.plugins import Client, Cost
from tests.support.ledger import NOON, new_receipt, read_hourly, read_rows, running_ledger, store

DAY = 86_400


async def test_rows_and_sums_are_deleted_by_age(database: Settings) -> None:
    await store(database, *(new_receipt(day, started_at=NOON - day * DAY) for day in range(100)))
    connection = open_for_writing(database)
    Retention(database, clock=lambda: NOON + 1).delete_expired(connection)
    connection.close()
    assert [row["id"] for row in read_rows(database)] == [f"req_{day:024d}" for day in range(90)]
    assert sum(row["requests"] for row in read_hourly(database)) == 91  # whole hours


@pytest.mark.parametrize("limits", [{"ledger_days": 5}, {"ledger_max_mb": 0}])
async def test_the_results_of_a_batch_count_once_as_long_as_clients_can_read_them(
    database: Settings, limits: dict[str, int]
) -> None:
    path = "/v1/messages/batches/msgbatch_1/results"
    batch = new_receipt(request_id="msgbatch_1", path=path, started_at=NOON - 20 * DAY)
    await store(
        database,
        batch,
        new_receipt(request_id="msgbatch_2.us", path=path, started_at=NOON - 31 * DAY),
        new_receipt(1, path=path, started_at=NOON - 20 * DAY),  # the request that has read them
        new_receipt(2, started_at=NOON - 2 * DAY),
    )
    connection = open_for_writing(database)
    Retention(structs.replace(database, **limits), clock=lambda: NOON + 1).delete_expired(connection)
    connection.close()
    before = sum(row["requests"] for row in read_hourly(database))
    await store(database, batch)
    assert {row["id"] for row in read_rows(database)} - {"req_000000000000000000000002"} == {"msgbatch_1"}
    assert sum(row["requests"] for row in read_hourly(database)) == before


async def test_the_rows_of_batches_do_not_hide_that_other_requests_were_deleted(database: Settings) -> None:
    """A budget that was set within an hour counts this hour by its single requests, as long as they are stored."""
    since = NOON - 20 * DAY + 600
    budget = structs.replace(decode_budget("1000tokens/total"), since=since)
    settings = structs.replace(database, ledger_days=7, budgets=(budget,))
    used = [new_receipt(number, started_at=at) for number, at in enumerate((since + 60, since + 5 * DAY, NOON - DAY))]
    path = "/v1/messages/batches/msgbatch_1/results"
    batch = new_receipt(request_id="msgbatch_1", path=path, started_at=NOON - 25 * DAY)
    await store(structs.replace(settings, ledger_days=1_000), batch, *used)
    scope = Scope("proxy", "", "proxy", Rules(budgets=(budget,)))
    with closing(open_for_writing(database)) as connection:
        before = sum_budget_uses(connection, settings, [(scope, budget)], NOON)
        Retention(settings, clock=lambda: NOON + 1).delete_expired(connection)
        assert sum_budget_uses(connection, settings, [(scope, budget)], NOON) == before > [0]


@pytest.mark.parametrize(
    ("limits", "budget", "kept"),
    [
        ({}, "1USD/total", 100),
        ({}, "1USD/month", 90),
        ({"ledger_days": 7}, "1USD/month", 21),
        ({"ledger_days": 7}, "1USD/month for groq/small", 21),
        ({"ledger_days": 7}, "1USD/day", 7),
        ({"ledger_max_mb": 0}, "1USD/total", 100),
        ({"ledger_max_mb": 0}, "1USD/month", 33),
    ],
)
@pytest.mark.parametrize(
    "place", ["key", "former label", "key of the person", "suspended person", "team", "proxy", "proxy alone"]
)
async def test_a_budget_keeps_its_use_when_requests_are_deleted(
    database: Settings, place: str, limits: dict[str, int], budget: str, kept: int
) -> None:
    """`kept`: days of which the sums are kept, at least. The other key has the same budget, and is revoked for good."""
    rules = Rules(budgets=(decode_budget(budget),))
    is_proxy = place in ("proxy", "proxy alone")
    scope = Scope(
        *{"team": ("team", "t", "team/t")}.get(
            place, ("proxy", "", "proxy") if is_proxy else ("key", "a", "key/key_1")
        ),
        rules,
    )
    settings = structs.replace(database, **limits, budgets=rules.budgets if is_proxy else ())
    counted = {"former label": "before", "key of the person": "personal"}.get(place, "a")
    clients = {"counted": Client(counted, team="t"), "other": Client("b", team="u")}
    receipts = [
        new_receipt(day + 1_000 * number, started_at=NOON - day * DAY - 60, client=client)
        for number, client in enumerate(clients.values())
        for day in range(100)
    ]
    encoded = msgspec.json.encode(rules).decode()
    # its key and its team count later sums than the proxy
    short = msgspec.json.encode(Rules(budgets=(decode_budget("1USD/day"),))).decode() if place == "proxy" else ""
    with closing(open_for_writing(database)) as connection:
        of_key = encoded if scope.kind == "key" else short
        rows = [
            ("key_1", "a", of_key, 0, "", 1 if place == "suspended person" else None),
            ("key_2", "b", of_key, 0, "", 1),
            ("key_3", "personal", "", 0, "key_1", None),
        ]
        connection.insert("virtual_keys", ("id", "label", "rules", "created_at", "person", "revoked_at"), rows)
        connection.insert("key_hashes", ("hash", "key_id", "created_at"), [("secret", "key_2", 0)])
        connection.insert("former_labels", ("label", "key_id"), [("before", "key_1")])
        connection.insert("teams", ("name", "rules"), [("t", encoded if scope.kind == "team" else short or "{}")])
        await store(
            structs.replace(settings, ledger_days=1_000, ledger_max_mb=1_000), *receipts, cost=Cost(1_000, None, "list")
        )

        def read_used() -> int:
            return sum_budget_uses(connection, settings, [(scope, rules.budgets[0])], NOON)[0]

        before = read_used()
        for _ in range(2):
            Retention(settings, clock=lambda: NOON).delete_expired(connection)
        assert read_used() == before > 0
    of_counted = [row for row in read_hourly(database) if row["key_label"] == counted]
    assert len(of_counted) >= kept
    of_other = [row for row in read_hourly(database) if row["key_label"] == "b"]
    assert len(of_other) <= (len(of_counted) if is_proxy else settings.ledger_days + 1)


def test_sums_without_use_are_deleted_beside_those_that_a_budget_counts(database: Settings) -> None:
    """Refused requests: each project that a client invents is a row."""
    settings = structs.replace(database, ledger_max_mb=0, budgets=(decode_budget("1USD/total"),))
    hour = int(NOON // 3600) - 48
    uses = {"cost": (1, 0), "tokens": (0, 1), "none": (0, 0)}
    with closing(open_for_writing(database)) as connection:
        columns = ("hour", "project", "cost", "output_tokens", "first_token_histogram", "duration_histogram")
        names = sorted({*HOURLY.key} - {*columns})
        rows = [(hour, name, *use, b"", b"", *[""] * len(names)) for name, use in uses.items()]
        connection.insert("hourly", (*columns, *names), rows)
        Retention(settings, clock=lambda: NOON).delete_expired(connection)
        assert sorted(connection.query("SELECT project FROM hourly")) == [("cost",), ("tokens",)]


def fill_company(connection: Connection, people: int, *, budgets: int) -> None:
    """Store sums and sessions of two old hours. `budgets`: number of people with one in total."""
    rules = msgspec.json.encode(Rules(budgets=(decode_budget("1USD/total"),))).decode()
    hour = int(NOON // 3600)
    hours = (hour - 48, *(hour - 40 * 24 - number for number in range(2)))
    rows = [(each, f"p{person}", f"t{person % 40}", 1, b"", b"") for each in hours for person in range(people)]
    columns = ("hour", "key_label", "team", "cost", "first_token_histogram", "duration_histogram")
    with connection.transaction():
        keys = [(f"key_{person}", f"p{person}", rules, 0) for person in range(budgets)]
        connection.insert("virtual_keys", ("id", "label", "rules", "created_at"), keys)
        names = {*HOURLY.key} - {*columns}
        connection.insert("hourly", (*columns, *sorted(names)), [(*row, *[""] * len(names)) for row in rows])
        names = {*SESSION_HOURS.key} - {"hour", "session"}
        columns = ("hour", "session", "started_at", "last_at")
        rows = [(each, f"s{person}", 0, 0) for each in hours for person in range(people)]
        connection.insert("session_hours", (*columns, *sorted(names)), [(*row, *[""] * len(names)) for row in rows])


@pytest.mark.parametrize("limits", [{"ledger_days": 7}, {"ledger_max_mb": 0}])
@pytest.mark.parametrize("budgets", [0, 1, 3_000])
def test_a_deletion_lets_others_change_the_database_in_between(
    database: Settings, budgets: int, limits: dict[str, int]
) -> None:
    """Also one that is stopped again and again goes on where it was."""
    settings = structs.replace(database, **limits)
    with closing(open_for_writing(database)) as connection, closing(open_for_writing(database)) as other:
        fill_company(connection, 3_000, budgets=budgets)
        retention = Retention(settings, clock=lambda: NOON)
        pieces = 0
        left = sum(count_all(other))
        while retention.is_due():
            retention.delete_expired(connection, lambda: True)
            with other.transaction():
                other.execute("UPDATE virtual_keys SET revoked_at = 1 WHERE id = 'key_none'")
            before, left = left, sum(count_all(other))
            assert before - left <= CHUNK_ROWS
            pieces += 1
        assert pieces < 60
        kept = other.query("SELECT count(*) FROM hourly WHERE hour < ?", (int(NOON // 3600) - 100,))
        assert kept == [(2 * budgets,)]


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 1])
def test_a_deletion_works_in_proportion_to_the_people_of_a_company(tmp_path: Path, share: float) -> None:
    """`share`: that of the people with a budget."""

    def count_steps(people: int) -> int:
        """Return the number of instructions of SQLite, in thousands."""
        settings = Settings(data_directory=tmp_path / str(people), ledger_days=7)
        open_for_writing(settings).close()
        driver = connect_for_writing(find_database(settings))
        steps = [0]

        def count() -> None:
            steps[0] += 1

        with closing(Connection(driver)) as connection:
            fill_company(connection, people, budgets=round(people * share))
            driver.set_progress_handler(count, 1_000)
            Retention(settings, clock=lambda: NOON).delete_expired(connection)
        return steps[0]

    few, many = count_steps(2_000), count_steps(4_000)
    assert many < 3 * few


def test_replaced_texts_of_keys_are_deleted_after_a_week(database: Settings) -> None:
    connection = open_for_writing(database)
    ends = {"current": None, "replaced": NOON - 7 * DAY, "old": NOON - 7 * DAY - 2}
    rows = [(name, "key_1", 0, None if end is None else int(end * MICROSECONDS)) for name, end in ends.items()]
    connection.insert("key_hashes", ("hash", "key_id", "created_at", "expires_at"), rows)
    Retention(database, clock=lambda: NOON).delete_expired(connection)
    assert sorted(connection.query("SELECT hash FROM key_hashes")) == [("current",), ("replaced",)]
    connection.close()


def test_sign_ins_and_codes_are_deleted_when_they_prove_nothing_any_more(database: Settings) -> None:
    """Also if nobody signs in. A row of 366 days shows that the access of a person has ended."""
    connection = open_for_writing(database)
    codes = {"waiting": NOON + 1, "expired": NOON - 1}
    rows = [(name, name, 0, int(end * MICROSECONDS)) for name, end in codes.items()]
    connection.insert("device_codes", ("code_hash", "user_code", "created_at", "expires_at"), rows)
    devices: dict[str, tuple[float, float | None]] = {  # last day of the access, and sign-out
        "active": (NOON + DAY, None),
        "over": (NOON - 1, None),
        "old": (NOON - 367 * DAY, None),
        "signed out": (NOON + DAY, NOON - 29 * DAY),
        "signed out long ago": (NOON + DAY, NOON - 31 * DAY),
        "refused": (NOON - 40 * DAY, NOON - 40 * DAY),
    }
    times = ("created_at", "checked_at", "refreshed_at")
    columns = ("id", "key_id", "refresh_hash", "provider_token", *times, "ends_at", "ended_at")
    connection.insert(
        "sign_ins",
        columns,
        [
            (name, "key_1", name, "token", 0, 0, 0, *(end if end is None else int(end * MICROSECONDS) for end in ends))
            for name, ends in devices.items()
        ],
    )
    people = {"key_1": 0.0, "dashboard": NOON - 365 * DAY, "left": NOON - 367 * DAY}
    rows_of_people = [(key_id, "{}", int(at * MICROSECONDS)) for key_id, at in people.items()]
    connection.insert("people", ("key_id", "person", "stated_at"), rows_of_people)
    Retention(database, clock=lambda: NOON).delete_expired(connection)
    assert sorted(connection.query("SELECT key_id FROM people")) == [("dashboard",), ("key_1",)]
    assert connection.query("SELECT code_hash FROM device_codes") == [("waiting",)]
    assert sorted(connection.query("SELECT id, provider_token FROM sign_ins")) == [
        ("active", "token"),
        ("over", ""),
        ("refused", ""),
        ("signed out", "token"),
    ]
    connection.close()


async def test_the_oldest_rows_are_deleted_by_size(database: Settings) -> None:
    receipts = (new_receipt(number, error=f"{number} {'x' * 1990}") for number in range(5_500))
    await store(database, *receipts)
    connection = open_for_writing(database)
    before = measure_used_bytes(connection)
    assert before > 10_000_000 or database.data_directory is None  # PostgreSQL compresses texts
    limited = structs.replace(database, ledger_max_mb=1 if database.data_directory is None else 10)
    Retention(limited, clock=lambda: NOON + 100).delete_expired(connection)
    after = measure_used_bytes(connection)
    if not connection.is_postgres:
        assert connection.query("PRAGMA freelist_count") == [(0,)]
    ((newest,),) = connection.query("SELECT max(id) FROM requests")
    connection.close()
    assert after <= limited.ledger_max_mb * 1_000_000 < before
    assert newest == "req_000000000000000000005499"
    assert sum(row["requests"] for row in read_hourly(database)) == 5_500


async def test_entries_of_the_audit_log_delete_no_requests(database: Settings) -> None:
    """They are kept for ever."""
    await store(database, *(new_receipt(number) for number in range(100)))
    with closing(open_for_writing(database)) as connection:
        entries = [(0, "x" * 50_000) for _ in range(100)]
        with connection.transaction():
            connection.insert("audit_log", ("at", "changes"), entries)
        Retention(structs.replace(database, ledger_max_mb=1), clock=lambda: NOON + 100).delete_expired(connection)
        assert connection.query("SELECT count(*) FROM requests") == [(100,)]


async def test_sums_are_deleted_by_size_if_they_need_more_than_half_of_it(database: Settings) -> None:
    """Requests of many projects and sessions, one each: the sums are larger than the requests."""
    receipts = (
        new_receipt(
            number, started_at=NOON + number * 60, project=f"{number} {'p' * 190}", session=f"{number} {'s' * 190}"
        )
        for number in range(3_000)
    )
    await store(database, *receipts)
    connection = open_for_writing(database)
    limited = structs.replace(database, ledger_max_mb=1)
    for _ in range(6):  # the first ones delete by an estimate
        Retention(limited, clock=lambda: NOON + 200_000).delete_expired(connection)
    assert measure_used_bytes(connection) <= 1_000_000
    columns = {"requests": "started_at", "hourly": "hour", "session_hours": "last_at"}
    kept = {
        table: connection.query(f"SELECT count(*), max({column}) FROM {table}")[0] for table, column in columns.items()
    }
    connection.close()
    newest = int((NOON + 2_999 * 60) * 1_000_000)
    assert kept["requests"][1] == kept["session_hours"][1] == newest
    assert all(0 < count < 3_000 for count, _ in kept.values()), kept


def fill(connection: Connection, table: TableDefinition, lengths: dict[str, int], *, short: int = 0) -> None:
    """Store 12,000 rows, of 12 hours or microseconds. `lengths`: column → number of characters. The first `short` rows
    have only a number in these columns.
    """
    hour = int(NOON // 3600) - 48
    times = {"hour": hour, "started_at": hour * 3600 * MICROSECONDS, "ends_at": int((NOON + DAY) * MICROSECONDS)}
    time, oldest = next((name, start) for name, start in times.items() if name in table.columns)
    empty = {"TEXT": "", "BLOB": b"", "BOOLEAN": False}
    others = {
        name: empty.get(kind.split()[0], 0)
        for name, kind in table.columns.items()
        if kind.endswith("NOT NULL") and name not in {time, *lengths}
    }
    texts = random.Random(1)
    rows = [
        (
            oldest + number // 1_000,
            *(f"{number} {texts.randbytes(count // 2 * (number >= short)).hex()}" for count in lengths.values()),
            *others.values(),
        )
        for number in range(12_000)
    ]
    with connection.transaction():
        connection.insert(table.name, (time, *lengths, *others), rows)


@pytest.mark.parametrize(
    ("table", "lengths", "max_mb"),
    [
        (REQUESTS, {"id": 20, "error": 4_000}, 24),
        (HOURLY, dict.fromkeys(("project", "model", "key_label", "owner"), 400), 26),
        (SESSION_HOURS, dict.fromkeys(("session", "project", "key_label", "team"), 400), 26),
        (ACTIVITY, dict.fromkeys(("session", "project", "requested_model", "owner"), 400), 140),
        (ACTIVITY_POINTS, dict.fromkeys(("series", "client"), 800), 140),
    ],
    ids=lambda value: value.name if isinstance(value, TableDefinition) else "",
)
def test_the_newest_rows_decide_nothing_about_the_size_of_the_others(
    database: Settings, table: TableDefinition, lengths: dict[str, int], max_mb: int
) -> None:
    """One client has written them. `max_mb`: a size of which the rows of `table` need less than their share."""
    with closing(open_for_writing(database)) as connection:
        fill(connection, table, lengths, short=11_000)
        if table is not REQUESTS:
            fill(connection, REQUESTS, {"id": 20, "error": 1_600})
        Retention(structs.replace(database, ledger_max_mb=max_mb), clock=lambda: NOON).delete_expired(connection)
        assert connection.query(f"SELECT count(*) FROM {table.name}") == [(12_000,)]


class Clocks:
    """A clock that can be set, and one that cannot."""

    def __init__(self, now: float) -> None:
        self.now, self.ticks = now, 100.0

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.ticks += seconds

    def new_retention(self, settings: Settings) -> Retention:
        return Retention(settings, lambda: self.now, lambda: self.ticks)


def count_all(connection: Connection) -> list[int]:
    tables = ("requests", "contents", "hourly", "session_hours", "key_hashes")
    return [int(connection.query(f"SELECT count(*) FROM {table}")[0][0]) for table in tables]


WRONG = "The ledger deletes nothing, because the clock may be wrong: it shows"
REMEDY = "Correct the clock. If it is right, the deletion begins a day after the first new request."


async def test_a_clock_that_is_ahead_for_a_moment_deletes_nothing(database: Settings) -> None:
    await store(database, *(new_receipt(day, started_at=NOON - day * DAY) for day in range(89)))
    connection = open_for_writing(database)
    connection.insert("key_hashes", ("hash", "key_id", "created_at", "expires_at"), [("replaced", "key_1", 0, 1)])
    clocks = Clocks(NOON + 1)
    retention = clocks.new_retention(database)
    retention.delete_expired(connection)
    kept = count_all(connection)
    clocks.pass_time(INTERVAL_SECONDS)
    clocks.now += 400 * DAY
    assert retention.is_due()
    retention.delete_expired(connection)
    assert (
        retention.problem
        == f"{WRONG} 2027-12-26, and the latest request before the last 24 hours is of 2026-11-21. {REMEDY}"
    )
    # requests that are stored meanwhile prove nothing
    await store(database, new_receipt(100, started_at=clocks.now))
    clocks.pass_time(INTERVAL_SECONDS)
    assert retention.is_due()
    retention.delete_expired(connection)
    assert retention.problem.startswith(f"{WRONG} 2027-12-26, ")
    clocks.now -= 400 * DAY
    assert not retention.is_due()
    clocks.pass_time(CLOCK_INTERVAL_SECONDS)
    assert retention.is_due()
    retention.delete_expired(connection)
    connection.close()
    assert (retention.problem, kept[0]) == ("", 89)
    with closing(open_for_writing(database)) as connection:
        requests, contents, hours, sessions, hashes = count_all(connection)
    assert [requests - 1, contents, hours - 1, sessions - 1, hashes] == kept


@pytest.mark.parametrize("days", [-400, 400])
async def test_a_start_with_a_wrong_clock_deletes_nothing(database: Settings, days: int) -> None:
    await store(database, *(new_receipt(day, started_at=NOON - day * DAY) for day in range(89)))
    clocks = Clocks(NOON + days * DAY)
    await store(database, new_receipt(100, started_at=clocks.now))
    connection = open_for_writing(database)
    kept = count_all(connection)
    retention = clocks.new_retention(structs.replace(database, ledger_max_mb=1))
    retention.delete_expired(connection)
    assert count_all(connection) == kept
    connection.close()
    shown, reason = (
        ("2027-12-26", "the latest request before the last 24 hours is of 2026-11-21")
        if days > 0
        else ("2025-10-17", "a request is of 2026-11-21")
    )
    assert retention.problem == f"{WRONG} {shown}, and {reason}. {REMEDY}"


@pytest.mark.parametrize("is_running", [True, False], ids=["while the proxy runs", "at its start"])
@pytest.mark.parametrize("days", [2, 20, 29])
async def test_a_clock_that_is_some_days_ahead_deletes_nothing(
    database: Settings, days: int, *, is_running: bool
) -> None:
    await store(database, *(new_receipt(day, started_at=NOON - day * DAY) for day in range(89)))
    clocks = Clocks(NOON)
    retention = clocks.new_retention(database)
    with closing(open_for_writing(database)) as connection:
        if is_running:
            retention.delete_expired(connection)
        kept = count_all(connection)
        clocks.pass_time(INTERVAL_SECONDS)
        clocks.now += days * DAY
        await store(database, new_receipt(100, started_at=clocks.now))
        retention.delete_expired(connection)
        assert (retention.problem, count_all(connection)[0]) == ("", kept[0] + 1)
        clocks.now -= days * DAY
        for _ in range(days):  # nobody sends a request, but the proxy runs
            clocks.pass_time(DAY)
            retention.delete_expired(connection)
        assert count_all(connection)[0] == kept[0] + 1 - (days - 2 + 1)


async def test_a_clock_that_stays_ahead_deletes_nothing_while_the_proxy_runs(database: Settings) -> None:
    await store(database, *(new_receipt(day, started_at=NOON - day * DAY) for day in range(89)))
    connection = open_for_writing(database)
    clocks = Clocks(NOON)
    retention = clocks.new_retention(database)
    retention.delete_expired(connection)
    kept = count_all(connection)
    clocks.now += 400 * DAY
    await store(database, new_receipt(100, started_at=clocks.now), new_receipt(101, started_at=clocks.now + 2 * DAY))
    clocks.pass_time(2 * DAY)
    retention.delete_expired(connection)
    assert retention.problem == (
        "The ledger deletes nothing, because the clock has changed by 400 days since the start of the proxy. "
        "Correct the clock. If it is right, restart the proxy."
    )
    assert count_all(connection)[0] == kept[0] + 2
    connection.close()


async def test_after_a_long_pause_the_deletion_begins_a_day_later(database: Settings) -> None:
    await store(database, *(new_receipt(day, started_at=NOON - day * DAY) for day in range(3)))
    connection = open_for_writing(database)
    clocks = Clocks(NOON + 200 * DAY)
    retention = clocks.new_retention(database)
    await store(database, new_receipt(100, started_at=clocks.now))
    retention.delete_expired(connection)
    assert retention.problem
    clocks.pass_time(DAY + 3600)
    retention.delete_expired(connection)
    connection.close()
    assert retention.problem == ""
    assert [row["id"] for row in read_rows(database)] == [new_receipt(100).request_id]


async def test_a_wrong_clock_is_said_once(sqlite: Settings) -> None:
    await store(sqlite, new_receipt(1, started_at=NOON - 100 * DAY))
    with running_ledger(sqlite) as ledger:
        await ledger.record(new_receipt(2))
        ledger.wait_until(lambda: ledger.queue.state.clock_problem != "")
        await ledger.record(new_receipt(3, started_at=NOON - 2 * DAY))
        ledger.wait_written(2)
        state = ledger.queue.state
    text = f"{WRONG} 2026-11-21, and the latest request before the last 24 hours is of 2026-08-13. {REMEDY}"
    assert (state.clock_problem, state.condition, ledger.warnings) == (text, "ok", [text])


async def _create_ledger_file(settings: Settings) -> Path:
    """Store one request, and return the file of the ledger."""
    await store(settings, new_receipt(1))
    file = find_database(settings).file
    assert file is not None
    return file


async def test_a_lock_while_pages_are_freed_is_an_error_of_the_database(sqlite: Settings) -> None:
    """Another program takes the lock between the deletion and the release of its pages."""
    file = await _create_ledger_file(sqlite)
    await store(sqlite, new_receipt(2, started_at=NOON + 24 * DAY))
    sqlite = structs.replace(sqlite, ledger_days=20)
    driver = connect_for_writing(find_database(sqlite))
    driver.execute("PRAGMA busy_timeout=0")
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        deletions = list[str]()

        def lock(sql: str) -> None:
            deletions.extend([sql] if sql.startswith("DELETE FROM requests") else ())
            if deletions and "incremental_vacuum" in sql and not other.in_transaction:
                other.execute("BEGIN IMMEDIATE")

        driver.set_trace_callback(lock)
        with pytest.raises(DatabaseError) as raised:
            Retention(sqlite, clock=lambda: NOON + 25 * DAY).delete_expired(Connection(driver))
        assert other.execute("SELECT count(*) FROM requests").fetchone() == (1,)
    assert (str(raised.value), classify_database_error(raised.value)) == ("database is locked", "locked")
    driver.close()


async def test_the_state_after_a_failed_deletion_is_corrected_without_a_new_request(sqlite: Settings) -> None:
    file = await _create_ledger_file(sqlite)
    await store(sqlite, new_receipt(2, started_at=NOON - 2 * DAY))
    with closing(sqlite3.connect(file, isolation_level=None)) as database, running_ledger(sqlite) as ledger:
        database.execute("CREATE TRIGGER keep BEFORE DELETE ON requests BEGIN SELECT RAISE(ABORT, 'kept'); END")
        await ledger.record(new_receipt(3, started_at=NOON - 1_000 * DAY))
        ledger.wait_until(lambda: ledger.queue.state.condition == "failed")
        database.execute("DROP TRIGGER keep")
        ledger.wait_until(lambda: ledger.queue.state.condition == "ok")
        state = ledger.queue.state
        assert (state.problem, state.written_rows, state.dropped_rows) == ("", 1, 0)
