"""Charts over time, and the division of a time range into periods of equal length, such as hours or days."""

from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup
from msgspec import Struct

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.charts import MAX_SERIES, Band, Chart, ChartColumn, Series, draw_chart
from anthropic_proxy.console.dashboard.view_query import ViewQuery
from anthropic_proxy.console.ledger.histograms import Histogram, find_percentile
from anthropic_proxy.console.ledger.periods import find_period_number, find_period_start, list_period_starts
from anthropic_proxy.console.ledger.queries import PeriodSums
from anthropic_proxy.console.ledger.records import NOT_SENT, UsageSums
from anthropic_proxy.console.ledger.units import DAY_SECONDS, MICROSECONDS

_PERIODS = ((3, 300), (48, 3_600), (24 * 8, 6 * 3_600), (24 * 45, 86_400), (24 * 400, 3 * 86_400))
"""Pairs: maximum length of a time range in hours, and length of one period in seconds."""
OUTCOME_TITLES = {
    "ok": ("succeeded", "ok"),
    "retried": ("retried", "input"),
    "truncated": ("truncated", "warn"),
    "error": ("failed", "error"),
    "cancelled": ("cancelled", "others"),
}


class DrawnChart(Struct, frozen=True):
    chart: Chart
    drawing: Markup
    rows: Sequence[Sequence[str]]
    empty_text: str = "No requests in this range."

    @property
    def titles(self) -> Sequence[str]:
        names = [one.name for one in self.chart.series]
        return [*names, "incident"] if self.chart.bands else names


class Periods(Struct, frozen=True):
    query: ViewQuery
    seconds: int
    starts: Sequence[int]
    """Beginning of each period in seconds since the epoch."""
    end: int
    """End of the last period in seconds since the epoch."""

    @property
    def length_name(self) -> str:
        names = {300: "5 minutes", 3_600: "hour", 6 * 3_600: "6 hours", DAY_SECONDS: "day", 3 * DAY_SECONDS: "3 days"}
        return names[self.seconds]

    def build_columns(self, texts: Sequence[str], path: str = "/dashboard/requests") -> list[ChartColumn]:
        """`texts` has one text for each period. The link of a period leads to `path` with the period as time range."""
        found, changes = [], formats.changes_clocks(self.starts[0], self.end)
        ends = [*self.starts[1:], self.end]
        for start, end, text in zip(self.starts, ends, texts, strict=True):
            left = formats.local_datetime(start * MICROSECONDS)
            right = formats.local_datetime(end * MICROSECONDS)
            span = f"{left:%H:%M %Z} to {right:%H:%M %Z}" if changes else f"{left:%H:%M} to {right:%H:%M}"
            title = span if self.seconds < DAY_SECONDS else f"{left.day} {left:%b}"
            label = f"{left:%H:%M}" if self.seconds <= 3_600 else f"{left.day} {left:%b}"
            href = self.query.link_to_range(start, end, path)
            found.append(ChartColumn(label, f"{title}{text}", href, is_incomplete=end > self.query.end))
        return found


def divide_range(query: ViewQuery) -> Periods:
    """The periods may extend beyond the range."""
    seconds = next((length for hours, length in _PERIODS if query.hours <= hours), _PERIODS[-1][1])
    end = find_period_start(find_period_number(query.end - 1, seconds) + 1, seconds)
    return Periods(query, seconds, list_period_starts(query.start, query.end, seconds), end)


def draw_group_chart(
    periods: Periods,
    rows: Sequence[PeriodSums],
    extract_value: Callable[[UsageSums], float],
    format_value: Callable[[float], str],
    names_and_roles: Mapping[str, tuple[str, str]] | None = None,
    *,
    is_full_width: bool = False,
) -> DrawnChart:
    """`names_and_roles` maps a group to its name in the chart and its CSS class. The smallest groups are added up as
    `others`.
    """
    totals: dict[str, float] = {}
    for row in rows:
        totals[row.group] = totals.get(row.group, 0) + extract_value(row.sums)
    ranked = sorted((name for name, total in totals.items() if total), key=lambda name: -totals[name])
    shown = ranked if len(ranked) <= MAX_SERIES + 1 else ranked[:MAX_SERIES]
    names = {name: (names_and_roles or {}).get(name, (name or NOT_SENT, name or "none")) for name in shown}
    others = ("others", "others")
    values: dict[tuple[str, str], dict[int, float]] = {key: {} for key in names.values()}
    for row in rows:
        if row.group in ranked:
            series = values.setdefault(names.get(row.group, others), {})
            series[row.start] = series.get(row.start, 0) + extract_value(row.sums)
    return draw_stacked_chart(periods, values, format_value, is_full_width=is_full_width)


def draw_stacked_chart(
    periods: Periods,
    values: Mapping[tuple[str, str], Mapping[int, float]],
    format_value: Callable[[float], str],
    *,
    is_full_width: bool = False,
) -> DrawnChart:
    """`values` maps each series (name and CSS class) to a mapping from the beginning of a period to the value in it."""
    kept = {key: found for key, found in values.items() if any(found.values())}
    series = [
        Series(name, role, [found.get(start, 0) for start in periods.starts], format_value(sum(found.values())))
        for (name, role), found in kept.items()
    ]
    texts, rows = [], []
    for index in range(len(periods.starts)):
        cells = [(one.name, one.values[index] or 0) for one in series]
        total = sum(value for _, value in cells)
        listed = sorted(((name, value) for name, value in cells if value), key=lambda cell: -cell[1])
        texts.append(f", {format_value(total)}" + _listed([(name, format_value(value)) for name, value in listed]))
        rows.append([format_value(value) for _, value in cells])
    return _finish(periods, series, texts, rows, format_value, is_line=False, is_full_width=is_full_width)


def draw_percentile_chart(
    periods: Periods,
    latencies: Mapping[tuple[int, tuple[str, ...]], Histogram],
    format_value: Callable[[float | None], str] = formats.seconds,
    bands: Sequence[Band] = (),
) -> DrawnChart:
    histograms = [latencies.get((start, ())) for start in periods.starts]
    values = [[find_percentile(one, share) if one else None for one in histograms] for share in (0.5, 0.95)]
    series = [Series("p50 (median)", "p50", values[0]), Series("p95", "p95", values[1])]
    rows = [[format_value(low), format_value(high)] for low, high in zip(*values, strict=True)]
    texts = [_listed([("p50", low), ("p95", high)]) if low != formats.UNKNOWN else ", no replies" for low, high in rows]
    known = series if any(value is not None for value in values[0]) else []
    return _finish(periods, known, texts, rows, format_value, is_line=True, bands=bands)


def draw_median_latency_chart(
    periods: Periods,
    latencies: Mapping[tuple[int, tuple[str, ...]], Histogram],
    names: Mapping[str, str],
    bands: Sequence[Band] = (),
) -> DrawnChart:
    counts: dict[str, int] = {}
    for (_, (group,)), histogram in latencies.items():
        counts[group] = counts.get(group, 0) + sum(histogram.values())
    series = []
    for group in sorted(counts, key=lambda one: -counts[one])[:MAX_SERIES]:
        values = [find_percentile(latencies.get((start, (group,)), {}), 0.5) for start in periods.starts]
        series.append(Series(names.get(group, group) or NOT_SENT, formats.provider_role(group), values))
    return _draw_lines(periods, series, formats.seconds, formats.seconds, bands)


def draw_speed_chart(
    periods: Periods, speeds: Mapping[tuple[int, tuple[str, ...]], float], names: Mapping[str, str]
) -> DrawnChart:
    groups = sorted({group for _, (group,) in speeds}, key=lambda one: list(names).index(one) if one in names else 99)
    series = [
        Series(
            names.get(group, group) or NOT_SENT,
            formats.provider_role(group),
            [speeds.get((start, (group,))) for start in periods.starts],
        )
        for group in groups[:MAX_SERIES]
    ]
    return _draw_lines(periods, series, formats.rate, formats.count)


def _draw_lines(
    periods: Periods,
    series: Sequence[Series],
    text: Callable[[float | None], str],
    unit: Callable[[float], str],
    bands: Sequence[Band] = (),
) -> DrawnChart:
    rows = [[text(one.values[index]) for one in series] for index in range(len(periods.starts))]
    texts = []
    for row in rows:
        listed = [(one.name, cell) for one, cell in zip(series, row, strict=True) if cell != formats.UNKNOWN]
        texts.append(_listed(listed) or ", no replies")
    return _finish(periods, series, texts, rows, unit, is_line=True, bands=bands)


def draw_percentage_chart(periods: Periods, name: str, role: str, shares: Sequence[float | None]) -> DrawnChart:
    """A share is unknown if it is None."""
    texts = [formats.UNKNOWN if share is None else formats.percent(share, 100) for share in shares]
    series = [Series(name, role, shares)] if any(share is not None for share in shares) else []
    titles = [f", {text}" if text != formats.UNKNOWN else ", no input" for text in texts]
    return _finish(periods, series, titles, [[text] for text in texts], lambda share: f"{share:.0f} %", is_line=True)


def _finish(
    periods: Periods,
    series: Sequence[Series],
    texts: list[str],
    rows: Sequence[Sequence[str]],
    unit: Callable[[float], str],
    *,
    is_line: bool,
    is_full_width: bool = False,
    bands: Sequence[Band] = (),
) -> DrawnChart:
    labels = {number: band.label for band in bands for number in range(band.first, band.last + 1)}
    for number, label in labels.items():
        texts[number] += f"{';' if ': ' in texts[number] else ':'} incident = {label}"
    columns = periods.build_columns(texts)
    if bands:
        rows = [[*row, labels.get(number, formats.UNKNOWN)] for number, row in enumerate(rows)]
    names = ", ".join(one.name for one in series)
    chart = Chart(
        label=(
            f"{'Lines' if is_line else 'Bars'} per {periods.length_name}: {names}. The table below has the same values."
        ),
        series=series,
        columns=columns,
        unit=lambda value: unit(value) if value else "0",
        is_line=is_line,
        is_full_width=is_full_width,
        bands=bands,
    )
    table = [
        [column.title.partition(", ")[0].partition(": ")[0], *row] for column, row in zip(columns, rows, strict=True)
    ]
    empty_text = "No replies in this range." if is_line else "No requests in this range."
    return DrawnChart(chart, draw_chart(chart) if series else Markup(""), table, empty_text)


def _listed(pairs: Sequence[tuple[str, str]]) -> str:
    """The script of the page shows the pairs as a list beside the pointer."""
    return ": " + "; ".join(f"{name} = {value}" for name, value in pairs) if pairs else ""


def explain_missing_cost(sums: UsageSums) -> str:
    if not sums.requests:
        return "No requests in this range."
    return "No price of the used models is known." if sums.unknown_cost_requests else "All requests were free."
