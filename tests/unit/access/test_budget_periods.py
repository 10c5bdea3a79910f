"""When the period of a budget begins and ends, in UTC and in the time zone of this machine."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from anthropic_proxy.console.keys.limits import Scope, build_budget_counter
from anthropic_proxy.gateway.settings.key_rules import Rules, decode_budget


@pytest.fixture(params=["Europe/Berlin"])
def in_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the time zone of the process."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def find_period(text: str, now: str, *, is_personal: bool) -> tuple[str, str, str]:
    """Return start and end of the period of a budget in UTC, and the name of its counter."""
    scope = Scope("proxy", "", "proxy", Rules(), is_personal=is_personal)
    budget = decode_budget(text)
    moment = datetime.fromisoformat(now).timestamp()
    end = scope.find_budget_end(budget, moment)
    assert end is not None
    times = scope.find_budget_start(budget, moment), end.timestamp()
    start, last = (f"{datetime.fromtimestamp(when, UTC):%Y-%m-%dT%H:%M}" for when in times)
    return start, last, build_budget_counter(scope, budget, moment).key


@pytest.mark.parametrize(
    ("text", "now", "expected"),
    [
        ("5USD/day", "2026-11-29T23:59Z", ("2026-11-29T00:00", "2026-11-30T00:00", "proxy/usd/2026-11-29")),
        ("5USD/week", "2026-11-29T23:59Z", ("2026-11-23T00:00", "2026-11-30T00:00", "proxy/usd/2026-W48")),
        ("5USD/week", "2026-11-30T00:00Z", ("2026-11-30T00:00", "2026-12-07T00:00", "proxy/usd/2026-W49")),
        # 1 January 2027 is in the last week of 2026 (ISO 8601)
        ("5USD/week", "2027-01-01T12:00Z", ("2026-12-28T00:00", "2027-01-04T00:00", "proxy/usd/2026-W53")),
        ("5USD/month", "2026-12-31T12:00Z", ("2026-12-01T00:00", "2027-01-01T00:00", "proxy/usd/2026-12")),
        ("5USD/month", "2028-02-29T12:00Z", ("2028-02-01T00:00", "2028-03-01T00:00", "proxy/usd/2028-02")),
    ],
)
@pytest.mark.usefixtures("in_zone")
def test_periods_of_keys_are_those_of_utc_on_each_machine(text: str, now: str, expected: tuple[str, str, str]) -> None:
    assert find_period(text, now, is_personal=False) == expected


@pytest.mark.parametrize(
    ("text", "now", "expected"),
    [
        ("5USD/day", "2026-11-29T23:59Z", ("2026-11-29T23:00", "2026-11-30T23:00")),
        # the days on which clocks change have 23 and 25 hours
        ("5USD/day", "2026-03-29T12:00Z", ("2026-03-28T23:00", "2026-03-29T22:00")),
        ("5USD/day", "2026-10-25T12:00Z", ("2026-10-24T22:00", "2026-10-25T23:00")),
        ("5USD/week", "2026-10-25T12:00Z", ("2026-10-18T22:00", "2026-10-25T23:00")),
        ("5USD/month", "2026-10-31T23:30Z", ("2026-10-31T23:00", "2026-11-30T23:00")),
    ],
)
@pytest.mark.usefixtures("in_zone")
def test_periods_of_a_person_begin_at_local_midnight(text: str, now: str, expected: tuple[str, str]) -> None:
    period = text.partition("/")[2]
    assert find_period(text, now, is_personal=True) == (*expected, f"proxy/usd/{period}/{expected[0]}")


@pytest.mark.parametrize("in_zone", ["America/Santiago"], indirect=True)
@pytest.mark.parametrize(
    ("text", "now", "expected"),
    [  # on 6 September, the day begins at 01:00, because clocks skip its midnight
        ("5USD/day", "2026-09-06T03:30Z", ("2026-09-05T04:00", "2026-09-06T04:00")),
        ("5USD/day", "2026-09-06T04:00Z", ("2026-09-06T04:00", "2026-09-07T03:00")),
        # on 4 April, midnight comes twice
        ("5USD/day", "2026-04-05T03:30Z", ("2026-04-04T03:00", "2026-04-05T04:00")),
        ("5USD/week", "2026-09-06T03:30Z", ("2026-08-31T04:00", "2026-09-07T03:00")),
    ],
)
@pytest.mark.usefixtures("in_zone")
def test_a_day_whose_midnight_is_skipped_begins_when_clocks_change(
    text: str, now: str, expected: tuple[str, str]
) -> None:
    period = text.partition("/")[2]
    assert find_period(text, now, is_personal=True) == (*expected, f"proxy/usd/{period}/{expected[0]}")
