"""Hours of the week: the sum of each of its 168 hours, as a grid of colors."""

from collections.abc import Callable, Sequence

from msgspec import Struct

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.query import ViewQuery
from anthropic_proxy.console.ledger.queries import PeriodSums
from anthropic_proxy.console.ledger.records import UsageSums
from anthropic_proxy.console.units import HOUR_SECONDS, MICROSECONDS

LEVELS = 5
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class WeekCell(Struct, frozen=True):
    level: int
    """Strength of the color, 0 to `LEVELS`."""
    title: str = ""
    href: str = ""
    """Link to the requests of the hour with the highest value. "": no hour of the cell has requests."""


class WeekGrid(Struct, frozen=True):
    cells: Sequence[Sequence[WeekCell]]
    """Seven rows of 24 hours, from Monday. Empty: there are no values."""
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    """Rows of the table with the same values."""
    empty_text: str = "No requests in this range."


def build_week(
    query: ViewQuery, hours: Sequence[PeriodSums], extract: Callable[[UsageSums], float], show: Callable[[float], str]
) -> WeekGrid:
    """The hours are in the time zone of the server."""
    values_by_cell: dict[tuple[int, int], list[tuple[float, int]]] = {}
    for hour in hours:
        when = formats.local_datetime(hour.start * MICROSECONDS)
        values_by_cell.setdefault((when.weekday(), when.hour), []).append((extract(hour.sums), hour.start))
    sums = {cell: sum(value for value, _ in values) for cell, values in values_by_cell.items()}
    highest = max(sums.values(), default=0)

    def build_cell(weekday: int, hour: int) -> WeekCell:
        values = values_by_cell.get((weekday, hour), ())
        if not values:
            return WeekCell(0)
        total = sums[weekday, hour]
        title = f"{_WEEKDAYS[weekday]}, {hour:02d}:00, {show(total)}"
        most, start = max(values, key=lambda pair: pair[0])
        if len(values) > 1:
            day = formats.local_datetime(start * MICROSECONDS)
            title += f": hours with requests = {len(values)}; highest, {day.day} {day:%b} = {show(most)}"
        level = max(1, -int(-LEVELS * total // highest)) if total else 0
        return WeekCell(level, title, query.link_to_requests(start, start + HOUR_SECONDS))

    def show_sum(day: int, hour: int) -> str:
        return show(sums[day, hour]) if (day, hour) in sums else formats.UNKNOWN

    hours_of_day = range(24)
    cells = [[build_cell(day, hour) for hour in hours_of_day] for day in range(7)] if highest else ()
    rows = [[name, *(show_sum(day, hour) for hour in hours_of_day)] for day, name in enumerate(_WEEKDAYS)]
    return WeekGrid(cells, [f"{hour:02d}:00" for hour in hours_of_day], rows)
