"""Grid of the hours of a week: one cell for each weekday and hour of the day, darker for higher values.

`draw_week` returns the `WeekGrid`: an SVG drawing, and a table with the same values. In a time range of several weeks,
several hours belong to one cell, such as each Monday at 10:00. The cell shows the sum of these hours, and links to the
hour with the highest value.
"""

from collections.abc import Callable, Sequence

from markupsafe import Markup, escape
from msgspec import Struct

from anthropic_proxy.dashboard import formats
from anthropic_proxy.dashboard.charts import NARROW, WIDE
from anthropic_proxy.dashboard.view_query import ViewQuery
from anthropic_proxy.ledger.dashboard_queries import PeriodSums
from anthropic_proxy.ledger.sums import UsageSums
from anthropic_proxy.ledger.units import HOUR_SECONDS, MICROSECONDS

MIN_HOURS = 48
"""Minimum length of a time range, in hours, for which a page shows the grid."""
LEVELS = 5
"""Number of shades of the cells. A cell without a value has no shade."""
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_HOURS = range(24)
_HEIGHT, _LABEL_WIDTH, _TOP = 190, 34, 4
_ROW_HEIGHT = 23


class Cell(Struct):
    """Cell of the grid: the requests of one weekday and hour of the day."""

    value: float = 0
    hours: int = 0
    """Number of hours of the range that belong to the cell and have requests."""
    highest: float = -1
    highest_start: int = 0
    """Beginning of the hour with the highest value of this cell, in seconds since the epoch."""


class WeekGrid(Struct, frozen=True):
    """Grid as an SVG drawing, and the same values as a table."""

    drawing: Markup
    """SVG of the grid. "": there are no requests."""
    columns: Sequence[str]
    """Titles of the table columns after the column with the weekday: `00:00` to `23:00`."""
    rows: Sequence[Sequence[str]]
    """Rows of the table: weekday, and one text for each hour of the day."""
    empty_text: str = "No requests in this range."
    """Text in the place of a grid without values."""


def draw_week(
    query: ViewQuery,
    hours: Sequence[PeriodSums],
    extract_value: Callable[[UsageSums], float],
    format_value: Callable[[float], str],
) -> WeekGrid:
    """Return the grid of a time range: one cell for each weekday and hour of the day.

    The hours are in the time zone of the server.
    """
    cells = [[Cell() for _ in _HOURS] for _ in _WEEKDAYS]
    for hour in hours:
        when, found = formats.local_datetime(hour.start * MICROSECONDS), extract_value(hour.sums)
        cell = cells[when.weekday()][when.hour]
        cell.value += found
        cell.hours += 1
        if found > cell.highest:
            cell.highest, cell.highest_start = found, hour.start
    highest = max(cell.value for row in cells for cell in row)
    drawing = Markup("")
    if highest:
        drawing = Markup("").join(_draw(query, cells, highest, format_value, width) for width in (WIDE, NARROW))
    rows = [
        [weekday, *(format_value(cell.value) if cell.hours else formats.UNKNOWN for cell in row)]
        for weekday, row in zip(_WEEKDAYS, cells, strict=True)
    ]
    return WeekGrid(drawing, [f"{hour:02d}:00" for hour in _HOURS], rows)


def _draw(
    query: ViewQuery, cells: Sequence[Sequence[Cell]], highest: float, text: Callable[[float], str], width: int
) -> Markup:
    name, step = ("broad", 3) if width == WIDE else ("narrow", 6)
    size = (width - _LABEL_WIDTH) / 24
    pieces = [
        f'<svg class="chart {name} week" viewBox="0 0 {width} {_HEIGHT}" role="group" '
        'aria-label="Grid of weekdays and hours. The table below has the same values.">'
    ]
    for index, row in enumerate(cells):
        top = _TOP + index * _ROW_HEIGHT
        pieces.append(f'<text class="y" x="{_LABEL_WIDTH - 8}" y="{top + 15}">{_WEEKDAYS[index][:3]}</text>')
        for hour, cell in enumerate(row):
            level = max(1, -int(-LEVELS * cell.value // highest)) if cell.value else 0
            rect = (
                f'<rect class="hit level-{level}" x="{_LABEL_WIDTH + hour * size + 1:.1f}" y="{top + 1}" '
                f'width="{size - 2:.1f}" height="{_ROW_HEIGHT - 2}" rx="2"/>'
            )
            pieces.append(_link(query, cell, f"{_WEEKDAYS[index]}, {hour:02d}:00", text, rect) if cell.hours else rect)
    for hour in range(0, 24, step):
        x = _LABEL_WIDTH + (hour + 0.5) * size
        pieces.append(f'<text class="x" x="{x:.1f}" y="{_HEIGHT - 3}">{hour:02d}:00</text>')
    return Markup("".join([*pieces, "</svg>"]))


def _link(query: ViewQuery, cell: Cell, name: str, text: Callable[[float], str], rect: str) -> str:
    """Return `cell` as an SVG link to the requests of its hour with the highest value.

    `name`: weekday and hour. `rect`: drawing of the cell. `text`: function that returns the text of a value.
    """
    title = f"{name}, {text(cell.value)}"
    if cell.hours > 1:
        day = formats.local_datetime(cell.highest_start * MICROSECONDS)
        title += f": hours with requests = {cell.hours}; highest, {day.day} {day:%b} = {text(cell.highest)}"
    href = query.link_to_range(cell.highest_start, cell.highest_start + HOUR_SECONDS, "/dashboard/requests")
    return f'<a href="{escape(href)}" data-column="{name[-5:]}" aria-label="{escape(title)}">{rect}</a>'
