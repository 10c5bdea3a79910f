"""Numbers on the pages: units, and shares that never round to all or nothing."""

import time
from collections.abc import Callable

import pytest
from msgspec import structs

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.charts import divide_range
from anthropic_proxy.console.dashboard.query import read_view_query


@pytest.mark.parametrize(
    ("format_value", "values", "texts"),
    [
        (
            formats.money,
            [(value,) for value in (None, 0, 1_000, 43_000_000, 1_240_000_000, 99_600_000, 26_380_000_000)],
            ["unknown", "free", "<$0.001", "$0.043", "$1.24", "$0.10", "$26.38"],
        ),
        (  # a share below all is never all
            formats.percent,
            [(1_283, 1_284, 1), (1, 100_000, 1), (5, 5, 1), (0, 5, 1), (1, 0, 1), (None, 1, 1)],
            ["99.9 %", "0.1 %", "100 %", "0 %", "–", "–"],
        ),
        (
            formats.seconds,
            [(614_000,), (34_800_000,), (302_000_000,), (7_500_000_000,), (None,)],
            ["0.61 s", "34.8 s", "5 min 2 s", "2 h 5 min", "–"],
        ),
        (
            formats.short_count,
            [(9_999,), (43_590,), (999_499,), (999_500,), (37_800_000,), (999_500_000,), (3e9,)],
            ["9,999", "43.6 k", "999 k", "1.0 M", "37.8 M", "1.0 G", "3.0 G"],
        ),
        (
            formats.cost_with_unknown,
            [(10_000_000, 99), (10_000_000, 0), (0, 2), (0, 0)],
            ["≥ $0.010, 99 unknown", "$0.010", "unknown", "free"],
        ),
    ],
    ids=["money", "share", "duration", "short count", "cost with unknown"],
)
def test_a_value_has_a_text(
    format_value: Callable[..., str], values: list[tuple[float | None, ...]], texts: list[str]
) -> None:
    assert [format_value(*value) for value in values] == texts


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
