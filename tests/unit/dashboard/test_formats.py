"""Numbers on the pages: units, and shares that never round to all or nothing."""

import time

import pytest
from msgspec import structs

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.charts import divide_range
from anthropic_proxy.console.dashboard.query import read_view_query
from anthropic_proxy.console.ledger.records import UsageSums
from anthropic_proxy.console.measures import format_sums


def test_the_zone_of_the_server_is_named_also_when_clocks_change(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(time, "tzset"):
        pytest.skip("platform: the time zone of a process cannot be set")
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    try:
        noon, days = 1_792_843_200, 86_400  # 24 October 2026, 12:00 UTC; clocks change in the following night
        assert formats.full_time(noon * 1_000_000) == "24 Oct 2026, 14:00:00 CEST"
        assert formats.full_time((noon + days) * 1_000_000) == "25 Oct 2026, 13:00:00 CET"
        assert formats.describe_zone(noon, noon + days) == "CEST and CET"
        assert formats.describe_zone(noon + days, noon + 2 * days) == "CET"
        query = {"from": ["2026-10-25T00:00Z"], "to": ["2026-10-25T02:00Z"]}
        periods = divide_range(read_view_query("/dashboard", query, noon + days))
        titles = [
            column.title
            for column in structs.replace(
                periods, seconds=3_600, starts=[noon + 12 * 3_600, noon + 13 * 3_600]
            ).build_columns(["", ""])
        ]
        assert titles == ["02:00 CEST to 02:00 CET", "02:00 CET to 03:00 CET"]
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [(340, "0.34 ms"), (1_000, "1.0 ms"), (9_400, "9.4 ms"), (12_000, "12 ms"), (99_000, "99 ms"), (100_000, "0.10 s")],
)
def test_a_short_duration_has_two_digits(microseconds: int, text: str) -> None:
    assert formats.seconds(microseconds) == text


@pytest.mark.parametrize(
    ("hours", "text"),
    [(0, "24 Nov, 12:00"), (2, "24 Nov, 12:00 to 14:00"), (24, "24 Nov, 12:00 to 25 Nov, 12:00")],
)
def test_two_times_name_their_common_day_and_time_once(hours: int, text: str) -> None:
    first = time.mktime((2026, 11, 24, 12, 0, 0, 0, 0, -1)) * 1_000_000
    assert formats.time_span(first, first + hours * 3_600_000_000) == text


def test_a_time_of_a_list_has_its_day_unless_it_is_today() -> None:
    noon = time.mktime((2026, 11, 25, 12, 0, 0, 0, 0, -1))
    assert formats.list_time(noon * 1_000_000, noon + 3_600) == "12:00:00"
    assert formats.list_time((noon - 20 * 3_600) * 1_000_000, noon) == "24 Nov, 16:00"


def test_today_begins_at_midnight_and_ends_now() -> None:
    midnight = time.mktime((2026, 11, 25, 0, 0, 0, 0, 0, -1))
    for now in (midnight, midnight + 60, midnight + 18 * 3_600):
        query = read_view_query("/dashboard", {"range": ["today"]}, now)
        assert (query.start, query.end) == (midnight, now + 1)
    assert read_view_query("/dashboard", {}, midnight + 60).start < midnight


@pytest.mark.parametrize(
    ("sums", "text"),
    [
        (UsageSums(requests=1, errors=1), "–"),
        (UsageSums(requests=1, output_tokens=1), "free"),
        (UsageSums(requests=2, output_tokens=1, cost=43_000_000, unknown_cost_requests=1), "≥ $0.043, 1 unknown"),
    ],
)
def test_requests_without_tokens_have_no_cost(sums: UsageSums, text: str) -> None:
    assert format_sums(sums) == text


def test_a_unit_stays_on_the_line_of_its_number() -> None:
    shown = formats.keep_units("1 % of the window of 1.0 M; 2,316 in the latest request")
    assert shown == "1\u00a0% of the window of 1.0\u00a0M; 2,316 in the latest request"
