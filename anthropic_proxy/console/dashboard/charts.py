"""Charts as SVG, with axes computed by pygal: lines, areas and stacked bars over time, and small lines without axes."""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from math import ceil, floor, log10
from xml.etree import ElementTree

import pygal  # type: ignore[import-untyped]
from markupsafe import Markup, escape
from msgspec import Struct
from pygal.style import Style  # type: ignore[import-untyped]

FULL, WIDE, NARROW = 1040, 640, 340
"""Widths of the drawings in pixels. The style sheet shows one of them, so that letters keep their size. Only a panel as
wide as the page has `FULL`.
"""
_NAMES = {FULL: "full", WIDE: "broad", NARROW: "narrow"}
HEIGHT = 190
MAX_SERIES = 5
"""Maximum number of series, apart from the series `others`, which has the sum of the remaining ones."""
_MAX_X_LABELS = {FULL: 13, WIDE: 8, NARROW: 4}
_MAX_DOTS = 3
_POINT = re.compile(r"-?[0-9.]+")
_STYLE = Style(label_font_size=11, major_label_font_size=11)


class Series(Struct, frozen=True):
    name: str
    role: str
    """CSS class of the color: `openai`, `cache-read`, `p50`."""
    values: Sequence[float | None]
    total: str = ""
    """Sum of the values as text, for the legend. "": no sum is shown."""


class ChartColumn(Struct, frozen=True):
    label: str
    title: str
    """Text of the tooltip and for screen readers: `14:00 to 15:00, $3.22: output $0.49, input $1.03`."""
    href: str
    is_incomplete: bool = False
    """True if the period has not ended. A bar is then drawn as an outline."""


class Band(Struct, frozen=True):
    """Labeled time range in a chart, for example an incident. `first`, `last`: indexes of its first and last column."""

    first: int
    last: int
    label: str


class Chart(Struct, frozen=True, kw_only=True):
    label: str
    series: Sequence[Series]
    columns: Sequence[ChartColumn]
    unit: Callable[[float], str]
    is_line: bool = False
    bands: Sequence[Band] = ()
    is_full_width: bool = False
    area: str = ""
    """Name of the series with a filled area below its line. "": no series."""


def draw_chart(chart: Chart) -> Markup:
    """Return `chart` as SVG elements of different widths. The style sheet of the page shows one of them."""
    kind = (pygal.Line if chart.is_line else pygal.StackedBar)(
        style=_STYLE,
        js=[],
        width=WIDE,
        height=HEIGHT,
        show_legend=False,
        show_dots=False,
        margin=0,
        margin_top=6,
        margin_right=6,
        spacing=6,
        truncate_label=-1,
        include_x_axis=True,
        value_formatter=chart.unit,
    )
    kind.y_labels = _axis_values(chart)
    kind.x_labels = [f"{index:02d}:00" for index in range(len(chart.columns))]
    for series in chart.series:
        kind.add(series.name, list(series.values))
    plot = next(group for group in kind.render_tree().iter("g") if group.get("class") == "plot")
    widths = (FULL, WIDE, NARROW) if chart.is_full_width else (WIDE, NARROW)
    return Markup("").join(_draw(chart, plot, width) for width in widths)


def draw_sparkline(values: Sequence[float | None]) -> Markup:
    """Return a small line without axes. Empty if fewer than two values are known (not None)."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return Markup("")
    low, high = min(known), max(known)
    step, scale = 84 / (len(values) - 1), 20 / (high - low) if high > low else 0.0
    points = " ".join(
        f"{2 + step * index:.1f},{23 - (value - low) * scale if scale else 13:.1f}"
        for index, value in enumerate(values)
        if value is not None
    )
    return Markup(f'<svg class="sparkline" viewBox="0 0 88 26" aria-hidden="true"><polyline points="{points}"/></svg>')


def _draw(chart: Chart, plot: ElementTree.Element, width: int) -> Markup:
    """`plot`: drawing of pygal with the axes, of which only the needed SVG elements are kept, scaled to `width`."""
    axis_y, axis_x, *groups = (child for child in plot if child.tag == "g")
    inner = next(float(_POINT.findall(path.get("d", ""))[-1]) for path in axis_y.iter("path"))
    scale = (inner - WIDE + width) / inner
    positions = [scale * float(text.get("x", "0")) for text in axis_x.iter("text")]
    step = -(-len(positions) // _MAX_X_LABELS[width])
    shift = _POINT.findall(plot.get("transform", "0"))[0]
    pieces = [
        f'<svg class="chart {_NAMES[width]}" viewBox="0 0 {width} {HEIGHT}" role="group" '
        f'aria-label="{escape(chart.label)}">',
        f'<g transform="translate({float(shift):.0f} 0)">',
    ]
    for guide in axis_y.iter("g"):
        path, text = guide.find("path"), guide.find("text")
        if path is not None and text is not None:
            pieces.append(f'<path class="guide" d="{_scale(path, scale)}"/>')
            y = float(text.get("y", "0"))
            pieces.append(f'<text class="y" x="-5" y="{y:.1f}">{escape(text.text or "")}</text>')
    end = width - float(shift)
    gap = positions[1] - positions[0] if len(positions) > 1 else end
    pieces += _bands(chart.bands, positions, gap, end)
    heights = [float(_POINT.findall(path.get("d", ""))[1]) for path in axis_y.iter("path")]
    for series, group in zip(chart.series, groups, strict=False):
        role, name = escape(series.role), escape(series.name)
        if not chart.is_line:
            pieces += _bars(series, group, chart.columns, scale)
            continue
        pieces += _dots(series, heights, _axis_values(chart)[-1], positions)
        for path in group.iter("path"):
            pieces.append(f'<path class="line l-{role}" data-series="{name}" d="{_scale(path, scale)}"/>')
        for path in group.iter("path") if series.name == chart.area else ():
            points = _POINT.findall(path.get("d", ""))
            first, last = scale * float(points[0]), scale * float(points[-2])
            closed = f"{_scale(path, scale)} {last:.1f} {max(heights):.1f} {first:.1f} {max(heights):.1f}Z"
            pieces.append(f'<path class="area l-{role}" data-series="{name}" d="{closed}"/>')
    previous = ""
    for index, (column, x) in enumerate(zip(chart.columns, positions, strict=False)):
        if index % step == 0 and column.label != previous:
            pieces.append(f'<text class="x" x="{x:.1f}" y="{HEIGHT - 3}">{escape(column.label)}</text>')
            previous = column.label
    for column, x in zip(chart.columns, positions, strict=False):
        left, right = max(x - gap / 2, 0), min(x + gap / 2, end)
        pieces.append(f'<a href="{escape(column.href)}" aria-label="{escape(column.title)}">')
        pieces.append(f'<rect class="hit" x="{left:.1f}" y="0" width="{right - left:.1f}" height="{HEIGHT - 16}"/></a>')
    return Markup("".join([*pieces, "</g></svg>"]))


def _axis_values(chart: Chart) -> list[float]:
    """Return round values from zero to the maximum of `chart`, at which the guides (horizontal lines) are drawn."""
    columns = zip(*([value or 0 for value in series.values] for series in chart.series), strict=True)
    highest = max((max(column) if chart.is_line else sum(column) for column in columns), default=0) or 1
    magnitude = 10.0 ** floor(log10(highest / 3))
    step = next(factor for factor in (1, 2, 2.5, 5, 10) if factor * magnitude * 4 >= highest) * magnitude
    while True:
        values = [step * index for index in range(ceil(highest / step) + 1)]
        # a unit of whole numbers would give guides between them equal or wrong labels
        is_rounded = step % 1 != 0 and chart.unit(step) in (chart.unit(floor(step)), chart.unit(ceil(step)))
        if not is_rounded and len({chart.unit(value) for value in values}) == len(values):
            return values
        step = 1.0 if step < 1 else 2 * step


def _bands(bands: Sequence[Band], positions: Sequence[float], gap: float, width: float) -> Iterator[str]:
    """Yield a rectangle as high as the chart for each band. Each label has a line of its own, so that labels do not
    overlap.
    """
    for number, band in enumerate(bands):
        left, right = max(positions[band.first] - gap / 2, 0), min(positions[band.last] + gap / 2, width)
        yield f'<rect class="band" x="{left:.1f}" y="0" width="{right - left:.1f}" height="{HEIGHT - 23}"/>'
        is_right = left > width / 2
        x, anchor = (left - 4, "end") if is_right else (right + 4, "start")
        place = f'x="{x:.1f}" y="{10 + 12 * number}" text-anchor="{anchor}"'
        yield f'<text class="band-label" {place}>{escape(band.label)}</text>'


def _bars(series: Series, group: ElementTree.Element, columns: Sequence[ChartColumn], scale: float) -> Iterator[str]:
    role = escape(series.role)
    yield f'<g class="bars c-{role}" data-series="{escape(series.name)}">'
    for column, rect in zip(columns, group.iter("rect"), strict=False):
        x, y, width, height = (float(rect.get(name, "0")) for name in ("x", "y", "width", "height"))
        if height > 0:
            outline = ' class="incomplete"' if column.is_incomplete else ""
            place = f'x="{scale * x:.1f}" y="{y:.1f}" width="{scale * width:.1f}" height="{height:.1f}"'
            yield f"<rect{outline} {place}/>"
    yield "</g>"


def _dots(series: Series, heights: Sequence[float], highest: float, positions: Sequence[float]) -> Iterator[str]:
    """Yield SVG for a dot at each value without a neighbor, and for all dots of a series with few values."""
    known = {index: value for index, value in enumerate(series.values) if value is not None}
    bottom, top = max(heights), min(heights)
    for index, value in known.items():
        if len(known) <= _MAX_DOTS or not {index - 1, index + 1} & known.keys():
            place = f'cx="{positions[index]:.1f}" cy="{bottom - (bottom - top) * value / highest:.1f}" r="3"'
            yield f'<circle class="l-{escape(series.role)}" data-series="{escape(series.name)}" {place}/>'


def _scale(path: ElementTree.Element, scale: float) -> str:
    """Return the commands of a path, in which a horizontal position precedes each vertical one, with one decimal."""
    factors = cycle((scale, 1.0))  # pygal writes six decimals
    return _POINT.sub(lambda number: f"{round(float(number[0]) * next(factors), 6):.1f}", path.get("d", ""))
