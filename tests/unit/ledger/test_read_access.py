"""Connections that are limited to the requests of a person, of teams or of a key: no query returns another row."""

import json
import re
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy import Connection, event, func, insert, literal_column, select, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from anthropic_proxy.console.ledger import api
from anthropic_proxy.console.ledger.activity_queries import add_activity
from anthropic_proxy.console.ledger.api import respond
from anthropic_proxy.console.ledger.database import open_for_writing
from anthropic_proxy.console.ledger.engines import read_ledger
from anthropic_proxy.console.ledger.failures import count_errors, find_last_success, list_errors
from anthropic_proxy.console.ledger.periods import RequestSelection
from anthropic_proxy.console.ledger.queries import (
    collect_latencies,
    count_facets,
    measure_model_performance,
    read_ledger_extent,
    sum_models,
    sum_periods,
    sum_usage,
)
from anthropic_proxy.console.ledger.read_access import (
    MAX_GROUPS,
    ReadAccess,
    ReadFailure,
    RestrictedQueryError,
    Senders,
    describe_read_failure,
    find_key_labels,
    limit_query_time,
    limit_search_range,
    restrict_reading,
    restrict_rows,
    restrict_to_client,
)
from anthropic_proxy.console.ledger.request_queries import (
    find_session_titles,
    find_stored_request,
    list_session_requests,
    list_sessions,
    list_stored_requests,
    request_conditions,
    sum_session,
)
from anthropic_proxy.console.ledger.schema import ACTIVITY, HOURLY, SESSION_HOURS, TableDefinition
from anthropic_proxy.console.ledger.tables import (
    contents,
    former_labels,
    hourly,
    requests,
    session_hours,
    session_titles,
    teams,
    virtual_keys,
)
from anthropic_proxy.console.ledger.users import LedgerUser
from anthropic_proxy.console.units import MICROSECONDS
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Client, RouteRequest, RouteResponse
from anthropic_proxy.secrets import Secret
from tests.support.ledger import NOON, new_receipt, reading, running_ledger, store

ALL = RequestSelection(start=int(NOON - 86_400) * MICROSECONDS, end=int(NOON + 86_400) * MICROSECONDS)
SEARCH = RequestSelection(start=ALL.start, end=ALL.end, text="m")
SHORT = RequestSelection(start=int(NOON - 60) * MICROSECONDS, end=int(NOON + 60) * MICROSECONDS)
OWN, FOREIGN = "req_own", "req_foreign"


@pytest.fixture
async def shared(database: Settings) -> Settings:
    """A ledger with one request of each of two owners. Both fail once in the same session."""
    with running_ledger(database) as ledger:
        owners = {"laptop": "Ann@Example.com", "build": "ben@example.com"}
        for request_id, label in ((OWN, "laptop"), (FOREIGN, "build")):
            shown: dict[str, Any] = {"session": f"session of {label}", "project": f"project of {label}"}
            shown |= {"model": f"model of {label}", "error": f"error of {label}", "outcome": "error", "status": 429}
            client = Client(name=label, role="member", owner=owners[label])
            await ledger.record(
                new_receipt(client=client, error_type="rate_limit_error", **shown, request_id=request_id)
            )
        ledger.wait_written(2)
    with reading(database) as engine, engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA query_only=OFF")
        for label, owner in owners.items():
            connection.execute(insert(virtual_keys).values(id=label, label=label, owner=owner, created_at=1))
        for request_id in (OWN, FOREIGN):
            row = {"request_id": request_id, "kind": "request", "started_at": 1, "size": 1, "data": b"1"}
            connection.execute(insert(contents).values(row))
            title = {"session": f"session of {request_id}", "key_label": request_id, "request_id": request_id}
            connection.execute(insert(session_titles).values(**title, started_at=1, title=f"title of {request_id}"))
        connection.commit()
    return database


def own(*owners: str) -> ReadAccess:
    return ReadAccess(rows=Senders(owners=owners), texts=Senders(owners=owners))


async def test_no_query_returns_a_row_of_somebody_else(shared: Settings) -> None:
    with reading(shared) as engine, engine.connect() as connection:
        before = repr(_query_everything(connection))
        restrict_rows(connection, own("ann@example.com"))
        found = repr(_query_everything(connection))
        assert find_stored_request(connection, FOREIGN) is None
        assert list(connection.execute(select(contents.c.request_id)).scalars()) == [OWN]
        sessions = [f"session of {OWN}", f"session of {FOREIGN}"]
        assert find_session_titles(connection, sessions) == {f"session of {OWN}": f"title of {OWN}"}
        assert read_ledger_extent(connection).requests == 1
    assert OWN in before
    assert "build" in before
    assert OWN in found
    assert "build" not in found
    assert FOREIGN not in found


async def test_without_a_name_there_are_no_rows(shared: Settings) -> None:
    with reading(shared) as engine, engine.connect() as connection:
        restrict_rows(connection, own())
        found = repr(_query_everything(connection))
    assert "laptop" not in found
    assert "build" not in found


async def test_queries_that_cannot_be_limited_are_not_sent(shared: Settings) -> None:
    with reading(shared) as engine, engine.connect() as connection:
        restrict_rows(connection, own("ann@example.com"))
        with pytest.raises(RestrictedQueryError, match="the table teams"):
            connection.execute(select(teams.c.name))
        hidden = literal_column("(SELECT count(*) FROM requests)")
        renamed = requests.alias()
        for query in (
            text("SELECT * FROM requests"),
            select(renamed.c.id),
            select(hidden),
            select(literal_column("id")).select_from(text("requests")),
            select(requests.c.id).where(text("1 = 1")),
            select(requests.c.id).where(requests.c.id.in_(select(renamed.c.id))),
        ):
            with pytest.raises(RestrictedQueryError):
                connection.execute(query)


def _query_everything(connection: Any) -> list[Any]:
    """Return the results of all queries of the dashboard."""
    find_reply = partial(find_last_success, connection)
    results: list[Any] = [
        find_stored_request(connection, OWN),
        sum_session(connection, "session of build"),
        list_session_requests(connection, "session of build"),
    ]
    for chosen in (ALL, SEARCH, SHORT):
        results += [
            list_stored_requests(connection, chosen, 10),
            list_sessions(connection, chosen, 10),
            list_errors(connection, chosen, count_errors(connection, chosen, 3_600), lambda *_: True, find_reply),
            sum_models(connection, chosen),
            measure_model_performance(connection, chosen, 3_600),
            sum_periods(connection, chosen, 3_600, "project"),
            collect_latencies(connection, chosen, 3_600, ("key_label",)),
            count_facets(connection, chosen, ("key_label", "project", "model"), 10),
            limit_search_range(connection, chosen, max_requests=1),
        ]
    return results


async def test_an_owner_reads_no_text_that_others_sent_with_the_key(database: Settings) -> None:
    """The key had another owner when its text was given out."""
    clients = {
        "own": Client("ci", role="member", owner="Boss@example.com"),
        "foreign": Client("ci", role="member", owner="boss@example.com", has_foreign_texts=True),
    }
    await store(database, *(new_receipt(client=one, request_id=name) for name, one in clients.items()))
    boss = LedgerUser(role="admin", names=frozenset({"boss@example.com"}))
    with reading(database) as engine, engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA query_only=OFF")
        for name in clients:
            row = {"request_id": name, "kind": "request", "started_at": 1, "size": 1, "data": b"1"}
            connection.execute(insert(contents).values(row))
        connection.commit()
        rows = [found for name in clients if (found := find_stored_request(connection, name)) is not None]
        access = restrict_reading(connection, boss, structs.replace(database, admins_read_content=True))
        assert list(connection.execute(select(contents.c.request_id)).scalars()) == ["own"]
        assert [row.id for row in access.find_others(rows)] == ["foreign"], "a look at it is recorded"
        access.opened.add("foreign")
        assert sorted(connection.execute(select(contents.c.request_id)).scalars()) == ["foreign", "own"]


ANN, BOB = "ann@example.com", "bob@example.com"
USES = {
    "ann's": Client("ci", role="member", key_id="key_1", owner="Ann@example.com", team="build"),
    "ann's in sales": Client("ci", role="member", key_id="key_1", owner=ANN, team="sales"),
    "bob's, with the text of before": Client("ci", role="member", key_id="key_1", owner=BOB, has_foreign_texts=True),
    "bob's": Client("ci", role="member", key_id="key_1", owner=BOB, team="sales"),
    "nobody's": Client("ci", role="member", key_id="key_1"),
    "nobody's in build": Client("ci", role="member", key_id="key_1", team="build"),
    "local": Client(),
}
"""What is sent with one key while its owner and team change, and what has no key."""


async def _store_uses(database: Settings) -> None:
    """Each request is a session, with a title and a text. The key is bob's now, in the team sales."""
    receipts = [
        new_receipt(number, client=client, request_id=name, session=f"session {name}", project=name)
        for number, (name, client) in enumerate(USES.items())
    ]
    await store(database, *receipts)
    with reading(database) as engine, engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA query_only=OFF")
        row = {"id": "key_1", "label": "ci", "owner": BOB, "team": "sales", "created_at": 1}
        connection.execute(insert(virtual_keys).values(row))
        connection.execute(insert(former_labels).values(label="ci before", key_id="key_1"))
        for name, client in USES.items():
            text_row = {"request_id": name, "kind": "request", "started_at": 1, "size": 1, "data": b"1"}
            connection.execute(insert(contents).values(text_row))
            title = {"session": f"session {name}", "key_label": client.name, "request_id": name, "started_at": 1}
            connection.execute(insert(session_titles).values(**title, title=name))
        connection.commit()


def _read_names(connection: Connection) -> tuple[list[str], list[str]]:
    """Return the names of the requests, which all tables with their sums have too, and those of the texts."""
    rows = sorted(connection.execute(select(requests.c.id)).scalars())
    for table in (hourly, session_hours):
        assert sorted(connection.execute(select(table.c.project)).scalars()) == rows
    texts = sorted(connection.execute(select(contents.c.request_id)).scalars())
    assert sorted(connection.execute(select(session_titles.c.title)).scalars()) == texts
    return rows, texts


@pytest.mark.parametrize(
    ("user", "rows", "texts"),
    [
        (LedgerUser(role="member", names=frozenset({ANN})), ["ann's", "ann's in sales"], None),
        (LedgerUser(role="member", names=frozenset({BOB})), ["bob's", "bob's, with the text of before"], ["bob's"]),
        (
            LedgerUser(role="team admin", names=frozenset({"lead@example.com"}), teams=frozenset({"build"})),
            ["ann's", "nobody's in build"],
            [],
        ),
        (
            LedgerUser(role="team admin", names=frozenset({ANN}), teams=frozenset({"sales"})),
            ["ann's", "ann's in sales", "bob's"],
            ["ann's", "ann's in sales"],
        ),
        # the teams of somebody without a key are those of nobody
        (LedgerUser(role="team admin", teams=frozenset({"build"})), [], None),
        (LedgerUser(role="member"), [], None),
        (LedgerUser(role="viewer", names=frozenset({BOB})), [*USES], ["bob's"]),
        (LedgerUser(role="owner"), [*USES], ["local"]),
    ],
)
async def test_the_owner_and_the_team_at_the_time_of_a_request_say_who_reads_it(
    database: Settings, user: LedgerUser, rows: list[str], texts: list[str] | None
) -> None:
    await _store_uses(database)
    with reading(database) as engine, engine.connect() as connection:
        access = restrict_reading(connection, user, structs.replace(database, virtual_keys=True))
        assert _read_names(connection) == (sorted(rows), sorted(rows if texts is None else texts))
    running = [name for name, client in USES.items() if access.rows is None or access.rows.include(client)]
    assert sorted(running) == sorted(rows), "as of stored requests"


@pytest.mark.parametrize(
    ("client", "rows", "texts"),
    [
        (USES["bob's"], ["bob's"], []),
        (USES["bob's, with the text of before"], ["bob's, with the text of before"], []),
        (USES["nobody's"], ["nobody's", "nobody's in build"], []),
        (Client(), ["local"], ["local"]),
        (Client("key 1"), [], []),
    ],
)
async def test_a_client_reads_what_it_has_sent_itself(
    database: Settings, client: Client, rows: list[str], texts: list[str]
) -> None:
    await _store_uses(database)
    with reading(database) as engine, engine.connect() as connection:
        if client.key_id:
            assert find_key_labels(connection, client.key_id) == ["ci", "ci before"]
        access = restrict_to_client(connection, client, LedgerUser(role="key"))
        assert sorted(connection.execute(select(requests.c.id)).scalars()) == rows
        assert sorted(connection.execute(select(contents.c.request_id)).scalars()) == texts
        assert sorted(connection.execute(select(session_titles.c.title)).scalars()) == texts
        assert not connection.execute(select(hourly.c.project)).all(), "sums belong to people"
    assert access.rows is not None
    assert [name for name, sender in USES.items() if access.rows.include(sender)] == rows
    assert [name for name, sender in USES.items() if client.is_sender(sender)] == rows or not client.key_id


@pytest.mark.parametrize(
    ("senders", "indexes"),
    [
        (Senders(owners=[ANN, BOB]), ["requests_by_person"]),
        (Senders(owners=[ANN], teams=["build", "sales"]), ["requests_by_person", "requests_by_team"]),
        (Senders(labels=["ci"], owner=ANN), ["requests_by_key_label"]),
    ],
)
async def test_only_the_own_rows_of_a_range_are_read(sqlite: Settings, senders: Senders, indexes: list[str]) -> None:
    await store(sqlite, new_receipt())
    with reading(sqlite) as engine, engine.connect() as connection:
        plans = list[str]()

        @event.listens_for(connection, "before_cursor_execute", retval=True)
        def explain(_: Any, __: Any, statement: str, values: Any, *___: Any) -> tuple[str, Any]:
            return f"EXPLAIN QUERY PLAN {statement}", values

        restrict_rows(connection, ReadAccess(rows=senders, texts=senders))
        chosen = request_conditions(ALL)
        for query in (
            select(requests).where(*chosen).order_by(requests.c.started_at.desc(), requests.c.id.desc()).limit(9),
            select(func.count(), func.sum(requests.c.cost)).where(*chosen),
        ):
            lines = [str(row[-1]) for row in connection.execute(query).cursor.fetchall()]  # type: ignore[union-attr]
            plans.append(" ".join(lines))
    for plan in plans:
        assert re.findall(r"INDEX (\w+) \(", plan) == indexes, plan


ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"


async def test_a_search_is_continued_until_all_requests_are_read(database: Settings) -> None:
    receipts = [new_receipt(number, model="large" if number % 5 == 1 else "small") for number in range(12)]
    await store(database, *receipts)
    everything = RequestSelection(text="LARGE")
    found, position = list[str](), None
    with reading(database) as engine, engine.connect() as connection:
        for _ in range(len(receipts)):
            chosen = limit_search_range(connection, everything, position and position[0], max_requests=4)
            assert len(list_stored_requests(connection, structs.replace(chosen, text=""), 12, position)) <= 5
            found += [row.model + row.id[-2:] for row in list_stored_requests(connection, chosen, 12, position)]
            if chosen is everything:
                break
            position = chosen.start, ""
        newer = limit_search_range(
            connection, everything, after=int(receipts[2].started_at * 1_000_000), max_requests=4
        )
        rows = list_stored_requests(connection, newer, 12, after=(newer.start, ""))
        unfiltered = RequestSelection(values={"model": "small"})
        assert limit_search_range(connection, unfiltered, max_requests=4) is unfiltered
    assert found == ["large11", "large06", "large01"]
    assert [row.id[-2:] for row in rows] == ["06", "01"]


async def test_an_endless_query_ends_with_the_remedy(database: Settings) -> None:
    await store(database, new_receipt())
    with reading(database) as engine:
        limit_query_time(engine, seconds=0.05)
        with engine.connect() as connection, pytest.raises(OperationalError) as raised:
            connection.execute(text(ENDLESS)).all()
    assert describe_read_failure(raised.value) == ReadFailure(
        504,
        "The ledger did not reply within 10 s, because the query reads too many requests. "
        "Choose a shorter range, or add a filter.",
    )


@pytest.fixture
def _enough_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of a query must not end the large ones of a test on a busy machine."""
    monkeypatch.setattr(api, "MAX_READ_SECONDS", 600.0)


@pytest.mark.sample(3)
@pytest.mark.usefixtures("_enough_time")
@pytest.mark.parametrize(
    ("table", "varied", "query"),
    [
        (SESSION_HOURS, "session", {"by": "session"}),
        (SESSION_HOURS, "session", {"by": "session", "format": "csv"}),
        (HOURLY, "project", {"by": "project"}),
        (HOURLY, "project", {"by": "model", "split": "project"}),
        (HOURLY, "project", {"by": "hour", "split": "project"}),
        (ACTIVITY, "session", {"by": "session"}),
    ],
    ids=lambda value: value.name if isinstance(value, TableDefinition) else None,
)
def test_a_reply_of_the_server_lists_a_limited_number_of_groups(
    database: Settings, table: TableDefinition, varied: str, query: dict[str, str]
) -> None:
    """Clients choose names of sessions and projects. A command lists all groups, because its memory is of its user."""
    empty = {"TEXT": "", "BLOB": b""}
    fixed = {
        name: empty.get(kind.split()[0], 0)
        for name, kind in table.columns.items()
        if kind.endswith("NOT NULL") and name != varied
    }
    fixed |= {"hour": int(NOON // 3600), **({"requested_model": "x"} if "requested_model" in fixed else {})}
    fixed |= {"requests": 1} if "requests" in table.columns else {}
    numbers = "WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < ?)"
    marks = ", ".join("?" * len(fixed))
    insertion = f"INSERT INTO {table.name} ({', '.join(fixed)}, {varied}) {numbers} SELECT {marks}, 'x' || number"

    def ask(count: int) -> RouteResponse:
        with closing(open_for_writing(database)) as connection, connection.transaction():
            connection.execute(f"DELETE FROM {table.name}")
            connection.execute(f"{insertion} FROM numbers", (count, *fixed.values()))
        asked = {"since": "2026-11", "until": "2026-11", **query}
        request = RouteRequest(path="/api/usage", query={name: [value] for name, value in asked.items()})
        return respond("/api/usage", request, database)

    assert ask(MAX_GROUPS).status == 200
    answer = ask(MAX_GROUPS + 1)
    message = "The sums have more than 50,000 groups. Choose a shorter range, or add a filter."
    assert answer.status == 400
    assert json.loads(answer.body) == {"type": "error", "error": {"type": "invalid_request_error", "message": message}}
    chosen = RequestSelection(start=int(NOON * MICROSECONDS), has_model=True)
    with read_ledger(database) as reader:
        assert reader is not None
        groups = sum_usage(reader, chosen, query["by"], split=query.get("split"))
        assert len(groups if query.get("split") else add_activity(reader, chosen, query["by"], groups)) == 50_001


@pytest.mark.usefixtures("_enough_time")
def test_sums_of_days_have_more_rows_by_hour_than_a_reply_has_groups(database: Settings) -> None:
    """10,000 people who work for 24 hours of a day."""
    empty = {"TEXT": "", "BLOB": b""}
    kinds = {name: kind for name, kind in HOURLY.columns.items() if kind.endswith("NOT NULL")}
    fixed = {name: empty.get(kind.split()[0], 0) for name, kind in kinds.items() if name not in ("hour", "owner")}
    fixed |= {"requested_model": "x", "requests": 1}
    first = int(NOON // 86_400) * 24
    one_of = (
        "WITH RECURSIVE numbers (number) AS (SELECT 0 UNION ALL SELECT number + 1 FROM numbers WHERE number < 239999)"
    )
    values = f"{', '.join('?' * len(fixed))}, {first} + mod(number, 24), 'x' || (number / 24) FROM numbers"
    with closing(open_for_writing(database)) as connection, connection.transaction():
        names = ", ".join((*fixed, "hour", "owner"))
        connection.execute(f"INSERT INTO hourly ({names}) {one_of} SELECT {values}", [*fixed.values()])
    asked = {"since": ["2026-11"], "until": ["2026-11"], "by": ["day"], "split": ["owner"]}
    answer = respond("/api/usage", RouteRequest(path="/api/usage", query=asked), database)
    assert answer.status == 200
    groups = json.loads(answer.body)["groups"]
    assert sum(group["requests"] for group in groups) == 240_000
    assert 10_000 <= len(groups) <= 20_000, "the hours of a day of UTC are in one or two days of local time"


def test_another_failure_names_its_reason(tmp_path: Path) -> None:
    file = tmp_path / "broken.sqlite3"
    file.write_text("no database, but a text that is longer than the header of a SQLite file" * 9)
    with (
        reading(Settings(database_url=Secret(f"sqlite:///{file}"))) as engine,
        pytest.raises(SQLAlchemyError) as raised,
    ):
        engine.connect()
    assert describe_read_failure(raised.value) == ReadFailure(
        503, "The ledger cannot be read: file is not a database. Requests are still served."
    )
