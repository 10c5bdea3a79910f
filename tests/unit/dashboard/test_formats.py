"""Numbers on the pages: units, and shares that never round to all or nothing."""

import time

import pytest
from msgspec import structs

from anthropic_proxy.console.dashboard import formats
from anthropic_proxy.console.dashboard.periods import divide_range
from anthropic_proxy.console.dashboard.view_query import read_view_query


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "unknown"),
        (0, "free"),
        (1_000, "<$0.001"),
        (43_000_000, "$0.043"),
        (1_240_000_000, "$1.24"),
        (99_600_000, "$0.10"),
        (26_380_000_000, "$26.38"),
    ],
)
def test_money(value: int | None, text: str) -> None:
    assert formats.money(value) == text


@pytest.mark.parametrize(
    ("value", "whole", "text"),
    [(1_283, 1_284, "99.9 %"), (1, 100_000, "0.1 %"), (5, 5, "100.0 %"), (0, 5, "0.0 %"), (1, 0, "–"), (None, 1, "–")],
)
def test_a_share_below_all_is_never_all(value: int | None, whole: int, text: str) -> None:
    assert formats.percent(value, whole, 1) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (614_000, "0.61 s"),
        (34_800_000, "34.8 s"),
        (302_000_000, "5 min 2 s"),
        (7_500_000_000, "2 h 5 min"),
        (None, "–"),
    ],
)
def test_a_duration(value: int | None, text: str) -> None:
    assert formats.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((9_999, "9,999"), (43_590, "43.6 k"), (999_499, "999 k"), (999_500, "1.0 M"), (37_800_000, "37.8 M")),
        *((999_500_000, "1.0 G"), (3e9, "3.0 G")),
    ],
)
def test_a_short_count(value: float, text: str) -> None:
    assert formats.short_count(value) == text


@pytest.mark.parametrize(
    ("cost", "unknown", "text"),
    [(10_000_000, 99, "≥ $0.010, 99 unknown"), (10_000_000, 0, "$0.010"), (0, 2, "unknown"), (0, 0, "free")],
)
def test_a_sum_names_the_requests_with_an_unknown_cost(cost: int, unknown: int, text: str) -> None:
    assert formats.cost_with_unknown(cost, unknown) == text


def test_the_zone_of_the_server_is_named_also_when_clocks_change(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(time, "tzset"):
        pytest.skip("platform: the time zone of a process cannot be set")
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    try:
        noon, days = 1_792_843_200, 86_400  # 24 October 2026, 12:00 UTC; clocks change in the following night
        assert formats.full_time(noon * 1_000_000) == "2026-10-24 14:00:00 CEST"
        assert formats.full_time((noon + days) * 1_000_000) == "2026-10-25 13:00:00 CET"
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
