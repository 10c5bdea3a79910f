"""Charts over time: periods of a range (such as hours), and bars or lines with one column for each period.

The template `charts.html` draws them as SVG. Horizontal positions are in percent of the width, so that one drawing fits
each width; vertical ones are in pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain, pairwise, repeat
from math import ceil, floor, log10

from markupsafe import Markup
from msgspec import Struct

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.query import ViewQuery
from anthropic_proxy.console.ledger.costs import count_unknown
from anthropic_proxy.console.ledger.histograms import Histogram, find_percentile
from anthropic_proxy.console.ledger.periods import find_period_number, find_period_start, list_period_starts
from anthropic_proxy.console.ledger.queries import ModelPeriod, PeriodSums, add_up_model_periods
from anthropic_proxy.console.ledger.records import NOT_SENT, UsageSums
from anthropic_proxy.console.units import DAY_SECONDS, HOUR_SECONDS, MICROSECONDS
from anthropic_proxy.engine.patterns import compile_anchored

HEIGHT = 190
"""Height of a drawing in pixels."""
TOP = 6
"""Vertical position of the highest guide (horizontal line) in pixels."""
BASE = 166
"""Vertical position of zero in pixels."""
MAX_SERIES = 5
"""Maximum number of series, apart from the series `others`, which has the sum of the remaining ones."""
_MAX_LABELS = {"wide": 13, "medium": 8, "narrow": 4}
"""Width of a panel → maximum number of labels of the horizontal axis. The style sheet has the limits of the widths."""
_DAY_MINUTES = 24 * 60
_ROUND_MINUTES = (5, 10, 15, 30, 60, 120, 180, 240, 360, 720, *(_DAY_MINUTES * days for days in (1, 2, 3, 7)))
"""Distances of labels. Those within a day are parts of it, so that midnight has a label."""
_ROLES = ("cache-read", "cache-write", "input", "output")
"""CSS classes for the colors of groups without a color of their own, the largest group first."""
_PERIODS = ((3, 300), (48, 3_600), (24 * 8, 6 * 3_600), (24 * 45, 86_400), (24 * 400, 3 * 86_400))
"""Pairs: maximum length of a time range in hours, and length of one period in seconds."""
_MIN_DAYS = 2
_MAX_DAYS = 100
OUTCOME_TITLES = {
    "ok": ("succeeded", "ok"),
    "retried": ("retried", "input"),
    "truncated": ("truncated", "warn"),
    "refused": ("refused", "cache-write"),
    "error": ("failed", "error"),
    "cancelled": ("cancelled", "others"),
}


class Series(Struct, frozen=True):
    name: str
    role: str
    """CSS class of the color: `openai`, `cache-read`, `p50`."""
    values: Sequence[float | None]
    total: str = ""
    """Sum of the values as text, for the legend. "": no sum is shown."""


class ChartColumn(Struct, frozen=True):
    label: str
    time: str
    """First cell of the row of the table."""
    title: str
    """Text of the tooltip and for screen readers: `14:00 to 15:00: output = $0.49; input = $1.03`."""
    href: str
    is_incomplete: bool = False
    """True if the period has not ended. A bar is then drawn as an outline."""
    minute: int | None = None
    """Minutes from the first midnight of the chart to its beginning, in local time. The axis then has labels at round
    times. None: the column is no part of a day."""


class Band(Struct, frozen=True):
    """Labeled time range in a chart, for example an incident. `first`, `last`: indexes of its first and last column."""

    first: int
    last: int
    label: str


class Shape(Struct, frozen=True):
    """Drawing of one series. The horizontal unit of lines is one column."""

    series: Series
    bars: Sequence[tuple[int, float, float]] = ()
    """Index of the column, vertical position and height of each bar."""
    line: str = ""
    area: str = ""
    """The line, closed along the axis. "": no area."""


class Chart(Struct, frozen=True, kw_only=True):
    label: str
    """Description for screen readers."""
    shapes: Sequence[Shape]
    """One for each series. Empty: the chart has no values."""
    columns: Sequence[ChartColumn]
    guides: Sequence[tuple[float, str]]
    """Vertical position and label of each horizontal line, from zero upwards."""
    rows: Sequence[Sequence[str]]
    """Rows of the table with the same values."""
    is_line: bool
    bands: Sequence[Band] = ()
    band_title: str = "incident"
    empty_text: str = "No requests in this range."

    @property
    def series(self) -> Sequence[Series]:
        return [shape.series for shape in self.shapes]

    @property
    def titles(self) -> Sequence[str]:
        """Titles of the table."""
        names = [single_series.name for single_series in self.series]
        return [*names, self.band_title] if self.bands else names

    @property
    def labels(self) -> Sequence[tuple[str, str, str]]:
        """Position, text and CSS classes of each label of the horizontal axis. The classes are the widths of panels
        (keys of `_MAX_LABELS`) in which the label is shown, and `first` or `last` for a label at the edge of its
        column, which would else extend beyond the panel.
        """
        sizes: dict[int, list[str]] = {}
        for size, most in _MAX_LABELS.items():
            for index in self._choose_labels(most):
                sizes.setdefault(index, []).append(size)
        edges = {len(self.columns) - 1: (1.0, "last"), 0: (0.0, "first")} if len(self.columns) > 1 else {}
        labels = []
        for index, widths in sorted(sizes.items()):
            place, edge = edges.get(index, (0.5, ""))
            labels.append((self.find_position(index + place), self.columns[index].label, " ".join([*widths, edge])))
        return labels

    def _choose_labels(self, most: int) -> list[int]:
        """Return the indexes of the columns with a label, at most about `most`."""
        minutes = [column.minute for column in self.columns]
        if len(minutes) > 1 and None not in minutes:
            known = [minute for minute in minutes if minute is not None]
            # the hour in which clocks change is 0 or 2 hours from the one before
            unit = min(right - left for left, right in pairwise(known) if right > left)
            step = next(
                (
                    minutes_per_label
                    for minutes_per_label in _ROUND_MINUTES
                    if minutes_per_label >= unit * (len(known) - 1) / most
                ),
                _ROUND_MINUTES[-1],
            )
            chosen = [index for index, minute in enumerate(known) if (minute - minute % unit) % step == 0]
            has_room = not chosen or chosen[0] * unit > 0.6 * step
            return [0, *chosen] if has_room else chosen
        chosen = []
        free = 0.0
        previous = ""
        for index, column in enumerate(self.columns):
            if index >= free and column.label != previous:
                chosen.append(index)
                free = index + len(self.columns) / most
            previous = column.label
        return chosen

    def find_position(self, column: float) -> str:
        return f"{_shorten(100 * column / len(self.columns), 2)}%"


def _shorten(number: float, digits: int) -> str:
    """A page has thousands of coordinates: `4` for `4.00`."""
    return f"{number:.{digits}f}".rstrip("0").rstrip(".")


def build_chart(
    label: str,
    series: Sequence[Series],
    columns: Sequence[ChartColumn],
    rows: Sequence[Sequence[str]],
    format_value: Callable[[float], str],
    *,
    is_line: bool,
    bands: Sequence[Band] = (),
    area: str = "",
) -> Chart:
    """`area`: name of the series with a filled area below its line. Its columns are requests, so that the lines connect
    all values; else a line breaks at a column without a value. `rows` have no column for the time.
    """
    stacked = [0.0] * len(columns)
    for single_series in series:
        for index, value in enumerate(single_series.values):
            stacked[index] = max(stacked[index], value or 0) if is_line else stacked[index] + (value or 0)
    scale = list_axis_values(max(stacked, default=0) or 1, format_value)
    unit = (BASE - TOP) / scale[-1]
    labels = ["0", *_align_decimals([format_value(value) for value in scale[1:]])]
    shapes = []
    sums = [0.0] * len(columns)
    for single_series in series:
        if is_line:
            shapes.append(_draw_line(single_series, unit, has_area=single_series.name == area, has_gaps=not area))
            continue
        bars = []
        for index, value in enumerate(single_series.values):
            if value:
                sums[index] += value
                bars.append((index, round(BASE - unit * sums[index], 1), round(unit * value, 1)))
        shapes.append(Shape(single_series, bars))
    return Chart(
        label=f"{label}. The table below has the same values.",
        shapes=shapes,
        columns=columns,
        guides=[(round(BASE - unit * value, 1), text) for value, text in zip(scale, labels, strict=True)],
        rows=[[column.time, *row] for column, row in zip(columns, rows, strict=True)],
        is_line=is_line,
        bands=bands,
        empty_text="No replies in this range." if is_line else "No requests in this range.",
    )


def _draw_line(series: Series, unit: float, *, has_area: bool, has_gaps: bool) -> Shape:
    """A value without neighbors is a line of the width of its column."""
    known = {index: _shorten(BASE - unit * value, 1) for index, value in enumerate(series.values) if value is not None}
    runs = _find_runs(series.values) if has_gaps else [list(known)]
    line = "".join(
        f"M{'L'.join(f'{index + 0.5} {known[index]}' for index in run)}"
        if len(run) > 1
        else f"M{run[0]} {known[run[0]]}h1"
        for run in runs
        if run
    )
    area = f"{line}V{BASE}H{min(known) + 0.5}Z" if has_area and len(known) > 1 else ""
    return Shape(series, (), line, area)


def list_axis_values(highest: float, format_value: Callable[[float], str]) -> list[float]:
    """Return round values with different texts, from zero to at least `highest`."""
    magnitude = 10.0 ** floor(log10(highest / 3))
    step = next(factor for factor in (1, 2, 2.5, 5, 10) if factor * magnitude * 4 >= highest) * magnitude
    while True:
        values = [step * index for index in range(ceil(highest / step) + 1)]
        # a unit of whole numbers would give guides between them equal or wrong labels
        is_rounded = step % 1 != 0 and format_value(step) in (format_value(floor(step)), format_value(ceil(step)))
        if not is_rounded and len({format_value(value) for value in values}) == len(values):
            return values
        step = 1.0 if step < 1 else 2 * step


_NUMBER = compile_anchored(r"(\D*\d[\d,]*)(?:\.(\d+))?(\D*)")


def _align_decimals(texts: Sequence[str]) -> Sequence[str]:
    """Give all labels of an axis the decimals that one of them needs: `$0.050`, `$0.10` become `$0.05`, `$0.10`."""
    parts = [_NUMBER.fullmatch(text) for text in texts]
    decimals = [part[2] or "" if part else "" for part in parts]
    most = max(len(text.rstrip("0")) for text in decimals)
    if most == 1 and texts[0].startswith("$"):
        most = 2
    return [
        f"{part[1]}{'.' if most else ''}{text[:most].ljust(most, '0')}{part[3]}" if part and text else whole
        for whole, part, text in zip(texts, parts, decimals, strict=True)
    ]


def _find_runs(values: Sequence[float | None]) -> list[list[int]]:
    """Return the indexes of known values, as lists of neighbors."""
    runs: list[list[int]] = []
    for index in (index for index, value in enumerate(values) if value is not None):
        if runs and runs[-1][-1] == index - 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return runs


def trace_sparkline(values: Sequence[float | None]) -> str:
    """Return the path of a small line without axes, which breaks where values are missing. "": fewer than two values
    are known (not None).
    """
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return ""
    low = min(known)
    high = max(known)
    step = 84 / (len(values) - 1)
    scale = 20 / (high - low) if high > low else 0.0
    points = {
        index: f"{_shorten(2 + step * index, 1)} {_shorten(23 - (value - low) * scale if scale else 13, 1)}"
        for index, value in enumerate(values)
        if value is not None
    }
    # a value without neighbors is a line without length, which round ends show as a dot
    return "".join(
        f"M{'L'.join(points[index] for index in run)}{'h0' if len(run) == 1 else ''}" for run in _find_runs(values)
    )


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

    def build_columns(self, texts: Sequence[str]) -> list[ChartColumn]:
        """`texts` has one text for each period. The link of a period leads to its requests."""
        columns = []
        clock = "%H:%M %Z" if formats.changes_clocks(self.starts[0], self.end) else "%H:%M"
        first = formats.local_datetime(self.starts[0] * MICROSECONDS)
        last = formats.local_datetime((self.end - 1) * MICROSECONDS)
        ends = [*self.starts[1:], self.end]
        for start, end, text in zip(self.starts, ends, texts, strict=True):
            left = formats.local_datetime(start * MICROSECONDS)
            right = formats.local_datetime(end * MICROSECONDS)
            label = time = f"{left.day} {left:%b}"
            minute = left.hour * 60 + left.minute
            minute_of_chart = None
            if self.seconds < DAY_SECONDS:
                span = f"{left:{clock}} to {right:{clock}}"
                time = span if first.date() == last.date() else f"{time}, {span}"
                minute_of_chart = (left.date() - first.date()).days * _DAY_MINUTES + minute
            if self.seconds <= HOUR_SECONDS and 60 * minute >= self.seconds:
                label = f"{left:%H:%M}"
            href = self.query.link_to_requests(start, end)
            columns.append(ChartColumn(label, time, f"{time}{text}", href, end > self.query.end, minute_of_chart))
        return columns


def divide_range(query: ViewQuery, *, by_day: bool = False) -> Periods:
    """The periods may extend beyond the range. `by_day`: each is a day, unless the range is too short or too long."""
    seconds = next((length for hours, length in _PERIODS if query.hours <= hours), _PERIODS[-1][1])
    if by_day and _MIN_DAYS * 24 <= query.hours <= _MAX_DAYS * 24:
        seconds = DAY_SECONDS
    end = find_period_start(find_period_number(query.end - 1, seconds) + 1, seconds)
    return Periods(query, seconds, list_period_starts(query.start, query.end, seconds), end)


def chart_groups(
    periods: Periods,
    rows: Sequence[PeriodSums],
    extract_value: Callable[[UsageSums], float],
    format_value: Callable[[float], str],
    names_and_roles: Mapping[str, tuple[str, str]] | None = None,
    *,
    missing: str = NOT_SENT,
) -> Chart:
    """`names_and_roles` maps a group to its name in the chart and its CSS class. A group that it lacks is shown by its
    own name, or as `missing` for "". The smallest groups are added up as `others`.
    """
    totals: dict[str, float] = {}
    for row in rows:
        totals[row.group] = totals.get(row.group, 0) + extract_value(row.sums)
    ranked = sorted((name for name, total in totals.items() if total), key=lambda name: -totals[name])
    shown = ranked if len(ranked) <= MAX_SERIES + 1 else ranked[:MAX_SERIES]
    colors = chain(_ROLES, repeat("others"))
    names = {name: (names_and_roles or {}).get(name) or (name or missing, next(colors)) for name in shown}
    others = ("others", "others")
    values: dict[tuple[str, str], dict[int, float]] = {key: {} for key in names.values()}
    for row in rows:
        if totals[row.group]:
            series = values.setdefault(names.get(row.group, others), {})
            series[row.start] = series.get(row.start, 0) + extract_value(row.sums)
    return chart_sums(periods, values, format_value)


def chart_models(
    periods: Periods,
    rows: Sequence[ModelPeriod],
    extract_value: Callable[[UsageSums], float],
    format_value: Callable[[float], str],
) -> Chart:
    """The most expensive model of a provider has the color of the provider, and further ones have other colors."""
    names: dict[str, tuple[str, str]] = {}
    free = chain(_ROLES, repeat("others"))
    used = set[str]()
    for model in add_up_model_periods(rows):
        role = next(free) if model.provider in used else formats.provider_role(model.provider)
        used.add(model.provider)
        names.setdefault(model.model, (model.model or NOT_SENT, role))
    by_model = [PeriodSums(row.start, row.model.model, row.model.sums) for row in rows]
    return chart_groups(periods, by_model, extract_value, format_value, names)


def chart_sums(
    periods: Periods, values: Mapping[tuple[str, str], Mapping[int, float]], format_value: Callable[[float], str]
) -> Chart:
    """Stacked bars. `values` maps each series (name and CSS class) to a mapping from the beginning of a period to the
    value in it.
    """
    kept = {key: by_start for key, by_start in values.items() if any(by_start.values())}
    series = [
        Series(name, role, [by_start.get(start, 0) for start in periods.starts], format_value(sum(by_start.values())))
        for (name, role), by_start in kept.items()
    ]
    texts = []
    rows = []
    for index in range(len(periods.starts)):
        cells = [(bars.name, bars.values[index] or 0) for bars in series]
        total = sum(value for _, value in cells)
        listed = sorted(((name, value) for name, value in cells if value), key=lambda cell: -cell[1])
        texts.append(f", {format_value(total)}" + _list_pairs([(name, format_value(value)) for name, value in listed]))
        rows.append([format_value(value) for _, value in cells])
    label = f"Bars per {periods.length_name}: {', '.join(bars.name for bars in series)}"
    return build_chart(label, series, periods.build_columns(texts), rows, format_value, is_line=False)


def chart_lines(
    periods: Periods,
    series: Sequence[Series],
    format_value: Callable[[float | None], str],
    format_axis: Callable[[float], str],
    bands: Sequence[Band] = (),
    *,
    missing: str = "no replies",
) -> Chart:
    """`missing`: text for a period without a value."""
    series = [line for line in series if any(value is not None for value in line.values)]
    rows = [[format_value(line.values[index]) for line in series] for index in range(len(periods.starts))]
    incidents = {number: band.label for band in bands for number in range(band.first, band.last + 1)}
    texts = []
    for number, row in enumerate(rows):
        pairs = [(line.name, cell) for line, cell in zip(series, row, strict=True) if cell != formats.UNKNOWN]
        text = "" if pairs else f", {missing}"
        texts.append(text + _list_pairs(pairs + ([("incident", incidents[number])] if number in incidents else [])))
    if bands:
        rows = [[*row, incidents.get(number, formats.UNKNOWN)] for number, row in enumerate(rows)]
    label = f"Lines per {periods.length_name}: {', '.join(line.name for line in series)}"
    return build_chart(label, series, periods.build_columns(texts), rows, format_axis, is_line=True, bands=bands)


def list_percentiles(periods: Periods, latencies: Mapping[tuple[int, tuple[str, ...]], Histogram]) -> list[Series]:
    """Return the median and the 95th percentile of each period."""
    histograms = [latencies.get((start, ()), {}) for start in periods.starts]
    return [
        Series(name, role, [find_percentile(histogram, share) for histogram in histograms])
        for name, role, share in (("p50 (median)", "p50", 0.5), ("p95", "p95", 0.95))
    ]


def _list_pairs(pairs: Sequence[tuple[str, str]]) -> str:
    """The script of the page shows the pairs as a list beside the pointer."""
    return ": " + "; ".join(f"{name} = {value}" for name, value in pairs) if pairs else ""


def explain_missing_cost(sums: UsageSums, href: str = "#missing-prices") -> str:
    """Return the text of a chart without costs."""
    if not sums.requests:
        return "No requests in this range."
    if not sums.has_replies:
        return "No model replied."
    if not sums.unknown_cost_requests:
        return "All requests were free."
    return Markup('The cost of {} is unknown. <a href="{}">Set prices</a>').format(count_unknown(sums), href)
