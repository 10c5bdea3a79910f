"""Charts contain neither styles nor scripts, start at zero and escape texts."""

import re

from msgspec.structs import replace

from anthropic_proxy.console.dashboard.charts import Chart, ChartColumn, Series, draw_chart, draw_sparkline


def chart_of(*values: float | None, is_line: bool = False) -> Chart:
    return Chart(
        label="Bars <b>",
        series=[Series("<i>", "openai", values), Series("input", "input", [1.0] * len(values))],
        columns=[
            ChartColumn(f"{hour}:00", f"{hour}:00: a = 1", f"/dashboard/requests?a=1&b={hour}", hour == len(values) - 1)
            for hour in range(len(values))
        ],
        unit=lambda value: f"${value:.2f}",
        is_line=is_line,
    )


def test_a_chart_has_only_elements_and_attributes_that_the_security_policy_permits() -> None:
    for is_line in (False, True):
        drawn = draw_chart(chart_of(1, None, 3, 0, is_line=is_line))
        assert set(re.findall(r"<(\w+)", drawn)) <= {"svg", "g", "path", "text", "rect", "a", "circle"}
        assert not re.search(r"style|script|<desc|<i>|<b>", drawn)
        assert drawn.count("<svg") == 2
        assert drawn.count('href="/dashboard/requests?a=1&amp;b=') == 8


def test_the_guides_are_round_numbers_from_zero() -> None:
    assert re.findall(r'class="y"[^>]*>([^<]+)<', draw_chart(chart_of(2.9, 1)))[:5] == [
        "$0.00",
        "$1.00",
        "$2.00",
        "$3.00",
        "$4.00",
    ]


def test_the_guides_of_counts_are_whole_numbers() -> None:
    drawn = draw_chart(replace(chart_of(9, 1), unit=lambda value: f"{value:.0f}"))
    assert re.findall(r'class="y"[^>]*>([^<]+)<', drawn)[:3] == ["0", "5", "10"]


def test_the_last_bar_is_an_outline_if_its_period_has_not_ended() -> None:
    assert draw_chart(chart_of(2, 1)).count('class="incomplete"') == 4


def test_a_value_of_a_line_without_neighbors_is_a_dot() -> None:
    drawn = draw_chart(chart_of(None, 3, None, None, is_line=True))
    assert re.findall(r'<circle class="(l-\w+)" data-series="&lt;i&gt;"', drawn) == ["l-openai"] * 2, "wide and narrow"
    (top,) = set(re.findall(r'<circle class="l-openai"[^>]* cy="([\d.]+)"', drawn))
    guides = [float(y) for y in re.findall(r'class="guide" d="M[\d.-]+ ([\d.]+)', drawn)]
    assert float(top) == min(guides), "the value 3 is the highest guide"
    assert draw_chart(chart_of(1, 2, 3, 4, 5, is_line=True)).count("<circle") == 0


def test_equal_labels_of_the_axis_are_written_once() -> None:
    chart = chart_of(1, 2, 3, 4)
    columns = [replace(column, label="13:42" if index < 3 else "13:43") for index, column in enumerate(chart.columns)]
    labels = re.findall(r'class="x"[^>]*>([^<]+)<', draw_chart(replace(chart, columns=columns)))
    assert labels == ["13:42", "13:43"] * 2


def test_a_sparkline_omits_unknown_values() -> None:
    assert draw_sparkline([1, None]) == ""
    assert draw_sparkline([1, None, 3]).count(",") == 2
