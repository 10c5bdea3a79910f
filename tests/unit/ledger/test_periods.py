"""Days begin at midnight in the time zone of the process, also on the days on which clocks change."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from anthropic_proxy.console.ledger.periods import RequestSelection, list_period_starts, resolve_usage_range
from anthropic_proxy.console.ledger.queries import collect_latencies, sum_periods, sum_usage
from anthropic_proxy.console.ledger.request_queries import list_sessions
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Cost
from tests.support.ledger import new_receipt, reading, store

HOUR, DAY = 3_600, 86_400


@pytest.fixture(params=["Europe/Berlin", "America/New_York", "Asia/Kolkata", "UTC"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Set the time zone of the process."""
    if not hasattr(time, "tzset"):
        pytest.skip("platform: the time zone of a process is fixed")
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def test_every_day_begins_at_local_midnight(zone: str) -> None:
    starts = list_period_starts(at("2026-03-01T12:00"), at("2026-11-20T12:00"), DAY)
    assert {datetime.fromtimestamp(start).strftime("%H:%M") for start in starts} == {"00:00"}
    assert len(starts) == len(set(starts)) == 265
    assert list_period_starts(at("2026-10-25T01:30"), at("2026-10-25T02:30"), HOUR)[0] % HOUR == 0


async def test_the_dashboard_and_usage_have_the_same_days(zone: str, database: Settings) -> None:
    """One request per hour of ten days with a change of the clocks in Berlin (25 October) and New York (1 November)."""
    first, last = at("2026-10-23T00:00") // HOUR * HOUR, at("2026-11-03T00:00")
    receipts = [new_receipt(number, started_at=when + 60) for number, when in enumerate(range(first, last, HOUR))]
    await store(database, *receipts, cost=Cost(1, 1, "x"))
    chosen = RequestSelection(start=first * 1_000_000, end=last * 1_000_000)
    with reading(database) as engine, engine.connect() as connection:
        end = -(-last // HOUR) * HOUR
        days = sum_usage(connection, RequestSelection(start=first * 1_000_000, end=end * 1_000_000), "day")
        periods = sum_periods(connection, chosen, DAY)
        latencies = collect_latencies(connection, chosen, DAY)
        filtered = RequestSelection(start=chosen.start, end=chosen.end, text="req_")
        single = sum_periods(connection, filtered, DAY)
    shown = [(datetime.fromtimestamp(one.start).date().isoformat(), one.sums.requests) for one in periods]
    assert [(day.name, day.sums.requests) for day in days][:9] == shown[:9]
    assert {start for start, _ in latencies} == {one.start for one in periods}
    if zone != "Asia/Kolkata":  # sums exist by hour of UTC
        assert [(one.start, one.sums.requests) for one in single] == [(one.start, one.sums.requests) for one in periods]
        lengths = {"Europe/Berlin": 25, "America/New_York": 24, "UTC": 24}
        assert dict(shown)["2026-10-25"] == lengths[zone]


@pytest.mark.parametrize("zone", ["America/Santiago"], indirect=True)
def test_a_day_whose_midnight_is_skipped_begins_when_clocks_change(zone: str) -> None:
    begin, end = (int(datetime.fromisoformat(text).timestamp()) for text in ("2026-09-06T04:00Z", "2026-09-07T03:00Z"))
    found = resolve_usage_range("2026-09-06", "2026-09-06", datetime(2026, 11, 21, tzinfo=UTC))
    assert (found.start, found.end) == (begin * 1_000_000, end * 1_000_000), zone
    assert list_period_starts(begin, end, DAY) == [begin]
    assert list_period_starts(begin - 1, end, DAY) == [begin - DAY, begin]


def test_a_day_of_the_command_has_the_hours_of_local_time(zone: str) -> None:
    now = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)
    found = resolve_usage_range("2026-10-25", "2026-10-25", now)
    assert found.end - found.start == {"Europe/Berlin": 25}.get(zone, 24) * HOUR * 1_000_000


async def test_each_hour_belongs_to_one_day(zone: str, database: Settings) -> None:
    first = at("2026-11-19T00:00") // HOUR * HOUR
    receipts = [new_receipt(number, started_at=first + number * HOUR + 60, session="s") for number in range(48)]
    await store(database, *receipts)
    now = datetime(2026, 11, 25, tzinfo=UTC)
    with reading(database) as engine, engine.connect() as connection:
        for day in ("2026-11-19", "2026-11-20"):
            chosen = RequestSelection(start=at(day) * 1_000_000, end=(at(day) + DAY) * 1_000_000)
            (one,) = sum_usage(connection, resolve_usage_range(day, day, now), "day")
            (period,) = sum_periods(connection, chosen, DAY)
            (session,) = list_sessions(connection, chosen, 9).rows
            ((start, _),) = collect_latencies(connection, chosen, DAY)
            assert (one.name, period.start, start) == (day, at(day), at(day))
            assert (one.sums.requests, period.sums.requests, session.sums.requests) == (24, 24, 24)
