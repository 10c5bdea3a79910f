"""The sums of the work that clients state: each number once, by hour, person, project and session."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.console.ledger.activity import Activity, Measurement, Sender
from anthropic_proxy.console.ledger.activity_queries import add_activity
from anthropic_proxy.console.ledger.activity_store import MAX_ROWS, ActivityStore
from anthropic_proxy.console.ledger.database import open_for_reading, open_for_writing
from anthropic_proxy.console.ledger.engines import read_ledger
from anthropic_proxy.console.ledger.periods import RequestSelection
from anthropic_proxy.console.ledger.queries import sum_usage
from anthropic_proxy.console.ledger.read_access import NOBODY, ReadAccess, Senders, restrict_rows
from anthropic_proxy.console.ledger.records import UsageSums
from anthropic_proxy.console.ledger.retention import MAX_POINTS_PER_CLIENT, Retention, measure_used_bytes
from anthropic_proxy.console.units import DAY_SECONDS, HOUR_SECONDS, MICROSECONDS
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Client
from tests.support.ledger import NOON, new_database, new_receipt, store
from tests.support.waiting import WAIT_SECONDS

pytestmark = pytest.mark.usefixtures("utc")
ANN = Sender(id="key_1", key_label="ann", owner="ann@example.org", team="build")
BOB = Sender(id="key_2", key_label="bob", owner="bob@example.org", team="")
EVERYTHING = RequestSelection(has_model=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    with new_database(request.param, tmp_path) as settings:
        yield settings


def delta(value: int, place: int, series: str = "a", **fields: Any) -> Measurement:
    usual: dict[str, Any] = {"series": series, "place": place, "grows": False, "name": "lines_added", "value": value}
    return Measurement(**{**usual, **fields})


def add(settings: Settings, *measurements: Measurement, sender: Sender = ANN, now: float = NOON) -> bool:
    with closing(ActivityStore(settings, lambda: now)) as opened:
        return opened.add(sender, measurements)


def read(
    settings: Settings, by: str = "owner", chosen: RequestSelection = EVERYTHING, senders: Senders | None = None
) -> dict[str, Activity | None]:
    with read_ledger(settings) as connection:
        assert connection is not None
        if senders is not None:
            restrict_rows(connection, ReadAccess(rows=senders, texts=senders))
        groups = add_activity(connection, chosen, by, sum_usage(connection, chosen, by))
        return {group.name: group.activity for group in groups}


def lines(settings: Settings) -> int:
    found = read(settings)[ANN.owner]
    assert found is not None
    return found.lines_added


def test_a_number_counts_once_in_any_order_and_at_any_instance(settings: Settings) -> None:
    add(settings, delta(4, 60))
    add(settings, delta(2, 180))
    assert lines(settings) == 6
    add(settings, delta(4, 60))  # each call is another process, so this is also a restart
    add(settings, delta(3, 120), delta(2, 180))
    assert lines(settings) == 9
    add(settings, delta(4, 60, "b"))  # another series
    add(settings, delta(4, 60), sender=BOB)
    assert lines(settings) == 13
    assert read(settings)[BOB.owner] == Activity(lines_added=4)


def test_of_a_sum_since_the_start_what_is_new_counts(settings: Settings) -> None:
    for value in (4, 4, 9, 7, 9, 10):  # 7 is an older request that arrives late
        add(settings, delta(value, 100, grows=True))
    assert lines(settings) == 10
    add(settings, delta(2, 200, grows=True))  # the client has started again
    assert lines(settings) == 12


async def test_work_has_the_project_of_its_session_and_names_that_requests_have(settings: Settings) -> None:
    receipt = new_receipt(client=Client(name="ann", owner=ANN.owner, role="member"), session="s1", project="shop")
    await store(settings, receipt)
    named = {"session": "s1", "requested_model": receipt.requested_model}
    add(settings, delta(4, 60, **named))
    add(settings, delta(1, 60, "c", name="commits", session="s1"))
    add(settings, delta(5, 60, "d", session="unknown", requested_model="unknown"))
    add(settings, delta(6, 60, "e", **named), sender=BOB)  # the session of another person
    add(settings, delta(7, 60, "f", **named), sender=structs.replace(ANN, owner=BOB.owner))  # an earlier owner's
    assert read(settings, "project") == {
        "shop": Activity(lines_added=4, commits=1),
        "": Activity(lines_added=18),
    }
    assert read(settings, "session") == {"s1": Activity(lines_added=4, commits=1), "": Activity(lines_added=18)}
    assert read(settings, "requested") == {
        receipt.requested_model: Activity(lines_added=17),
        "": Activity(lines_added=5, commits=1),
    }
    of_project = RequestSelection(has_model=True, values={"project": "shop"})
    assert read(settings, "owner", of_project) == {ANN.owner: Activity(lines_added=4, commits=1)}
    # nothing is known about the work of a model that replied, or of requests of a kind
    assert read(settings, "model") == {receipt.model: None}
    assert read(settings, "project", RequestSelection(has_model=True, values={"kind": ""})) == {"shop": None}


def test_days_and_hours_have_the_work_of_their_time(settings: Settings) -> None:
    add(settings, delta(4, 60))
    add(settings, delta(2, 120), now=NOON + HOUR_SECONDS)
    add(settings, delta(1, 180), now=NOON + DAY_SECONDS)
    assert read(settings, "day") == {"2026-11-21": Activity(lines_added=6), "2026-11-22": Activity(lines_added=1)}
    assert read(settings, "hour") == {
        "2026-11-21T12:00Z": Activity(lines_added=4),
        "2026-11-21T13:00Z": Activity(lines_added=2),
        "2026-11-22T12:00Z": Activity(lines_added=1),
    }
    with read_ledger(settings) as connection:
        assert connection is not None
        (group, *_) = add_activity(connection, EVERYTHING, "day", [])
        assert group.sums == UsageSums()


def test_work_is_read_by_its_owner_and_team_at_its_time(settings: Settings) -> None:
    add(settings, delta(4, 60))
    add(settings, delta(6, 60), sender=BOB)
    add(settings, delta(8, 60, "b"), sender=structs.replace(ANN, owner=BOB.owner, team="sales"))  # ann's key, later
    add(settings, delta(1, 60, "b"), sender=structs.replace(BOB, owner="", team=""))
    build = Activity(lines_added=4)
    assert read(settings, senders=Senders(owners=[BOB.owner])) == {BOB.owner: Activity(lines_added=14)}
    assert read(settings, senders=Senders(owners=[ANN.owner])) == {ANN.owner: build}
    assert read(settings, senders=Senders(teams=["build"])) == {ANN.owner: build}
    assert read(settings, "team", senders=Senders(owners=[ANN.owner], teams=["sales"])) == {
        "build": build,
        "sales": Activity(lines_added=8),
    }
    assert read(settings, senders=Senders(labels=["ann", "bob"])) == read(settings, senders=NOBODY) == {}


async def test_a_sum_that_a_client_states_for_months_counts_once(settings: Settings) -> None:
    """A session that stays open over night states the same sum each minute."""
    for number, day in enumerate((0, 20, 40, 60)):
        now = NOON + day * DAY_SECONDS
        await store(settings, new_receipt(number, started_at=now))
        add(settings, delta(4, 100, grows=True), now=now)
        with closing(open_for_writing(settings)) as connection:
            Retention(settings, lambda now=now: now).delete_expired(connection)  # type: ignore[misc]
        assert lines(settings) == 4


async def test_more_sessions_of_a_key_than_an_hour_has_rows_count_without_their_names(settings: Settings) -> None:
    ann, bob = (Client(name=one.key_label, owner=one.owner, role="member") for one in (ANN, BOB))
    names = [f"s{number}" for number in range(MAX_ROWS + 5)]
    sent = [new_receipt(number, client=ann, session=name, project="shop") for number, name in enumerate(names)]
    await store(settings, *sent, new_receipt(len(names), client=bob, session="own", project="shop"))
    work = [delta(1, 60, name, session=name) for name in names]
    assert add(settings, *work[:MAX_ROWS])
    assert not add(settings, *work[MAX_ROWS:])
    assert not add(settings, *(delta(1, 120, name, session=name) for name in names))
    assert add(settings, delta(2, 60, session="own"), sender=BOB)  # nobody else is concerned
    found = {name: work for name, work in read(settings, "session").items() if work != Activity()}
    assert len(found) == MAX_ROWS + 2
    assert found[""] == Activity(lines_added=10)
    assert found["own"] == Activity(lines_added=2)
    assert read(settings, "owner")[ANN.owner] == Activity(lines_added=2 * len(names))
    assert add(settings, *(delta(1, 180, name, session=name) for name in names[-5:]), now=NOON + HOUR_SECONDS)


_MANY_POINTS = (
    "WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < ?) "
    "INSERT INTO activity_points (client, series, place, value, ends_at) "
    "SELECT CAST(? AS TEXT), CAST(? AS TEXT), number, 1, ? + number FROM numbers"
)


async def test_of_the_numbers_of_each_client_the_newest_are_kept(settings: Settings) -> None:
    await store(settings, new_receipt())
    add(settings, delta(1, 60), sender=BOB)
    tomorrow = int((NOON + DAY_SECONDS) * MICROSECONDS)
    with closing(open_for_writing(settings)) as connection:
        with connection.transaction():
            connection.execute(_MANY_POINTS, (MAX_POINTS_PER_CLIENT + 5, ANN.id, f"{ANN.id} a", tomorrow))
        Retention(settings, lambda: NOON).delete_expired(connection)
        found = connection.query("SELECT client, count(*), min(place) FROM activity_points GROUP BY client ORDER BY 1")
    assert [tuple(row) for row in found] == [(ANN.id, MAX_POINTS_PER_CLIENT, 6), (BOB.id, 1, 60)]


async def test_numbers_of_work_cost_no_requests_when_the_ledger_is_too_large(settings: Settings) -> None:
    count = 200
    await store(settings, *(new_receipt(number) for number in range(count)))
    add(settings, delta(4, 60))
    tomorrow = int((NOON + DAY_SECONDS) * MICROSECONDS)
    limited = structs.replace(settings, ledger_max_mb=1)
    with closing(open_for_writing(settings)) as connection:
        with connection.transaction():
            for client in range(3):
                connection.execute(_MANY_POINTS, (7_000, f"key_{client}", f"key_{client} {'a' * 64}", tomorrow))
        assert measure_used_bytes(connection) > 1_000_000
        Retention(limited, lambda: NOON).delete_expired(connection)
        assert measure_used_bytes(connection) <= 1_000_000
        ((requests,),) = connection.query("SELECT count(*) FROM requests")
        ((points, newest),) = connection.query("SELECT count(*), max(place) FROM activity_points")
    assert (requests, newest) == (count, 7_000)
    assert 0 < points < 7_000


def test_the_end_of_the_server_waits_for_no_thread_and_disturbs_none(settings: Settings) -> None:
    begun, may_go_on = Event(), Event()

    def clock() -> float:
        begun.set()
        assert may_go_on.wait(WAIT_SECONDS)
        return NOON

    store = ActivityStore(settings, clock)
    with ThreadPoolExecutor(1) as threads:
        adding = threads.submit(store.add, ANN, [delta(4, 60)])
        assert begun.wait(WAIT_SECONDS)
        store.close()
        may_go_on.set()
        adding.result(WAIT_SECONDS)
    store.close()
    assert lines(settings) == 4


def test_all_or_nothing_of_a_request_is_stored(settings: Settings) -> None:
    with pytest.raises(KeyError):
        add(settings, delta(4, 60), delta(1, 60, "b", name="unknown"))
    add(settings, delta(4, 60))
    assert lines(settings) == 4


async def test_numbers_are_forgotten_when_no_client_can_send_them_again(settings: Settings) -> None:
    add(settings, delta(4, 60), delta(5, 100, "b", grows=True))
    await store(settings, new_receipt())

    def delete(days: float) -> list[tuple[object, ...]]:
        now = NOON + days * DAY_SECONDS
        with closing(open_for_writing(settings)) as connection:
            Retention(settings, lambda: now).delete_expired(connection)
        with closing(open_for_reading(settings)) as connection:
            return [tuple(row) for row in connection.query("SELECT value FROM activity_points ORDER BY value")]

    assert delete(0.9) == [(4,), (5,)]
    assert delete(1.5) == [(5,)]
    assert lines(settings) == 9
