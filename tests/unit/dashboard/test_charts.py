"""Charts contain neither styles nor scripts, start at zero, escape texts, and are drawn once for all widths."""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import pytest

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.charts import (
    BASE,
    TOP,
    Chart,
    ChartColumn,
    Series,
    build_chart,
    chart_groups,
    divide_range,
    trace_sparkline,
)
from anthropic_proxy.console.dashboard.query import read_view_query
from anthropic_proxy.console.dashboard.web import load_environment
from anthropic_proxy.console.ledger.queries import PeriodSums
from anthropic_proxy.console.ledger.records import UsageSums


def chart_of(
    *values: float | None,
    is_line: bool = False,
    unit: Callable[[float], str] = lambda value: f"${value:.2f}",
    labels: Sequence[str] = (),
) -> Chart:
    count = len(values)
    columns = [
        ChartColumn(text, text, f"{text}: a = 1", f"/dashboard/requests?a=1&b={index}", index == count - 1)
        for index, text in enumerate(labels or [f"{hour}:00" for hour in range(count)])
    ]
    series = [Series("<i>", "openai", values), Series("input", "input", [1.0] * count)]
    return build_chart("Bars <b>", series, columns, [["1"]] * count, unit, is_line=is_line)


def draw(chart: Chart) -> str:
    return str(load_environment().get_template("charts.html").module.plot(chart))  # type: ignore[attr-defined]


@pytest.mark.parametrize("is_line", [False, True])
def test_a_chart_has_only_elements_and_attributes_that_the_security_policy_permits(is_line: bool) -> None:
    drawn = draw(chart_of(1, None, 3, 0, is_line=is_line))
    assert set(re.findall(r"<(\w+)", drawn)) <= set("div span svg g path text rect a circle line".split())  # noqa: SIM905
    assert not re.search(r"style|script|<desc|<i>|<b>", drawn)
    assert drawn.count('href="/dashboard/requests?a=1&amp;b=') == 4


def test_the_guides_are_round_numbers_from_zero() -> None:
    assert [text for _, text in chart_of(2.9, 1).guides] == ["0", "$1", "$2", "$3", "$4"]


@pytest.mark.parametrize(
    ("values", "unit", "texts"),
    [
        ((0.13e9,), formats.chart_money, ["0", "$0.05", "$0.10", "$0.15"]),
        ((1.4e9,), formats.chart_money, ["0", "$0.50", "$1.00", "$1.50"]),
        ((25_000,), formats.short_count, ["0", "10 k", "20 k", "30 k"]),
        ((1_600_000,), formats.choose_seconds_axis(1_600_000), ["0", "0.5 s", "1.0 s", "1.5 s", "2.0 s"]),
        ((9_500,), formats.choose_seconds_axis(9_500), ["0", "2.5 ms", "5.0 ms", "7.5 ms", "10.0 ms"]),
        ((240_000_000,), formats.choose_seconds_axis(240_000_000), ["0", "100 s", "200 s", "300 s"]),
    ],
)
def test_the_guides_have_equal_decimals(
    values: Sequence[float], unit: Callable[[float], str], texts: list[str]
) -> None:
    assert [text for _, text in chart_of(*values, unit=unit).guides] == texts


def test_the_guides_of_counts_are_whole_numbers() -> None:
    chart = chart_of(9, 1, unit=lambda value: f"{value:.0f}")
    assert [text for _, text in chart.guides] == ["0", "5", "10"]


def test_bars_are_stacked_from_zero_and_the_last_one_is_an_outline_if_its_period_has_not_ended() -> None:
    chart = chart_of(3, 1)
    first, second = (shape.bars for shape in chart.shapes)
    assert first == [(0, 46.0, 120.0), (1, 126.0, 40.0)]
    assert second == [(0, 6.0, 40.0), (1, 86.0, 40.0)]
    assert [one.values for one in (shape.series for shape in chart.shapes)] == [(3, 1), [1.0, 1.0]]
    drawn = draw(chart)
    assert (
        re.findall(r'<rect( class="incomplete")? x="([\d.]+%)"', drawn)
        == [
            ("", "5%"),
            (' class="incomplete"', "55%"),
        ]
        * 2
    )


def test_a_value_without_neighbors_is_a_line_of_the_width_of_its_column() -> None:
    chart = chart_of(None, 3, None, None, is_line=True)
    assert chart.shapes[0].line == f"M1 {TOP}h1", "the value 3 is the highest guide"
    columns = [ChartColumn("0:00", "0:00", "0:00", "/")]
    (shape,) = build_chart("a", [Series("a", "context", [4])], columns, [[]], str, is_line=True, area="a").shapes
    assert (shape.line, shape.area) == (f"M0 {TOP}h1", "")


def test_labels_of_the_first_and_last_column_begin_and_end_with_it() -> None:
    """In a narrow panel, the middle of such a label would be nearer to the edge than half of its width."""
    assert chart_of(1, 2, 3, 4).labels[::3] == [
        ("0%", "0:00", "wide medium narrow first"),
        ("100%", "3:00", "wide medium narrow last"),
    ]
    drawn = draw(chart_of(1, 2))
    assert re.findall(r'<text class="x ([\w ]+)" x="([\d.]+%)"', drawn) == [
        ("wide medium narrow first", "0%"),
        ("wide medium narrow last", "100%"),
    ]


def test_a_line_connects_its_values_and_an_area_ends_at_zero() -> None:
    columns = [ChartColumn(f"{hour}:00", f"{hour}:00", f"{hour}:00", "/") for hour in range(3)]
    series = [Series("a", "context", [4, None, 2])]
    chart = build_chart("a", series, columns, [[]] * 3, str, is_line=True, area="a")
    (shape,) = chart.shapes
    assert (shape.line, shape.area) == (f"M0.5 {TOP}L2.5 86", f"M0.5 {TOP}L2.5 86V{BASE}H0.5Z")


def test_equal_labels_of_the_axis_are_written_once_and_a_narrow_panel_has_fewer() -> None:
    chart = chart_of(1, 2, 3, 4, labels=["13:42"] * 3 + ["13:43"])
    assert [text for _, text, _ in chart.labels] == ["13:42", "13:43"]
    days = chart_of(*[1] * 16, labels=[f"{day} Nov" for day in range(4) for _ in range(4)])
    assert [text for _, text, sizes in days.labels if "narrow" in sizes] == ["0 Nov", "1 Nov", "2 Nov", "3 Nov"]
    hours = chart_of(*[1] * 25)
    shown = {size: [text for _, text, sizes in hours.labels if size in sizes] for size in ("wide", "medium", "narrow")}
    assert (len(shown["wide"]), shown["narrow"]) == (13, ["0:00", "7:00", "14:00", "21:00"])
    assert shown["medium"] == [f"{hour}:00" for hour in range(0, 25, 4)]


def test_a_sparkline_breaks_at_unknown_values() -> None:
    assert trace_sparkline([1, None]) == ""
    assert trace_sparkline([1, None, 3]) == "M2 23h0M86 3h0"
    assert trace_sparkline([1, 2, None, None, 3]) == "M2 23L23 13M86 3h0"
    assert trace_sparkline([1, 3]) == "M2 23L86 3"


def test_a_line_breaks_at_periods_without_values() -> None:
    shape = chart_of(4, 2, None, None, 3, None, 2, 4, is_line=True).shapes[0]
    assert shape.line == f"M0.5 {TOP}L1.5 86M4 46h1M6.5 86L7.5 {TOP}"


@pytest.mark.parametrize(
    ("start", "hours", "labels"),
    [
        ("2026-11-24T15:00Z", 24, ["18:00", "25 Nov", "06:00", "12:00"]),
        ("2026-11-24T15:00Z", 48, ["15:00", "25 Nov", "12:00", "26 Nov", "12:00"]),
        ("2026-11-25T00:00Z", 24, ["25 Nov", "06:00", "12:00", "18:00"]),
        ("2026-11-25T10:00Z", 2, ["10:00", "10:30", "11:00", "11:30"]),
        ("2026-11-18T15:00Z", 7 * 24, ["18 Nov", "20 Nov", "22 Nov", "24 Nov"]),
    ],
)
def test_the_labels_of_hours_are_round_and_midnight_is_the_day(start: str, hours: int, labels: list[str]) -> None:
    first = int(datetime.fromisoformat(start).timestamp())
    times = [f"{datetime.fromtimestamp(when, UTC):%Y-%m-%dT%H:%MZ}" for when in (first, first + hours * 3_600)]
    query = read_view_query("/dashboard", {"from": times[:1], "to": times[1:]}, first)
    periods = divide_range(query)
    texts = [""] * len(periods.starts)
    chart = build_chart("a", [], periods.build_columns(texts), [[]] * len(texts), str, is_line=True)
    assert [text for _, text, sizes in chart.labels if "narrow" in sizes] == labels
    assert len({column.time for column in chart.columns}) == len(texts), "two periods of a day have different names"


class Compared(str):
    """A name of a group that counts how often it is compared with another one."""

    __slots__ = ()
    count = 0

    def __eq__(self, other: object) -> bool:
        Compared.count += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_the_work_of_a_chart_does_not_grow_faster_than_its_groups() -> None:
    periods = divide_range(read_view_query("/dashboard/costs", {}, datetime(2026, 11, 21, tzinfo=UTC).timestamp()))
    rows = [PeriodSums(periods.starts[0], Compared(f"p{number}"), UsageSums(cost=number)) for number in range(500)]
    Compared.count = 0
    chart = chart_groups(periods, rows, lambda sums: sums.cost, str)
    assert chart.series[0].total == "499"
    assert Compared.count < 1_000
