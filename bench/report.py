"""The tables of a run for a terminal."""

import statistics
from collections.abc import Sequence

from bench.features import TITLE as FEATURES_TITLE
from bench.key_limits import TITLE as LIMITS_TITLE
from bench.results import Results, ResultTable, Row
from bench.subjects import DIRECT, NGINX, PROXY
from bench.targets import GOALS


def write_tables(results: Results) -> str:
    """Return medians with their spread, and the proxy as a multiple of nginx or as the difference to a direct call."""
    return "\n\n".join(_write_sheet(sheet) for sheet in results.sheets)


def _write_sheet(sheet: ResultTable) -> str:
    if sheet.title == LIMITS_TITLE:
        return align(list_ratios(sheet))
    if sheet.title == FEATURES_TITLE:
        return align(list_differences(sheet))
    rows = [[sheet.title, *sheet.names, "compared", "goal"]]
    for row in sheet.rows:
        cells = [cell(row, name) for name in sheet.names]
        rows.append([f"{row.title}, {row.unit}", *cells, compare(row), _judge(row)])
    return "\n".join([align(rows), *_explain_dashes(sheet)])


def list_differences(sheet: ResultTable) -> list[list[str]]:
    """Return a table of features: the addition of each to the first of the sheet, round by round."""
    base, *names = sheet.names
    rows = [["", *(f"{row.title}, {row.unit}" for row in sheet.rows)]]
    rows.append([base, *(cell(row, base) for row in sheet.rows)])
    return [
        *rows,
        *([f"+ {name}", *(_difference(row.compare(name, base, ratio=False)) for row in sheet.rows)] for name in names),
    ]


def list_ratios(sheet: ResultTable) -> list[list[str]]:
    """Return a table of subjects as multiples of the first of the sheet, round by round; without the p99."""
    base, *names = sheet.names
    measured = [row for row in sheet.rows if row.key != "p99"]
    rows = [["", *(f"{row.title}, {row.unit}" for row in measured)], [base, *(cell(row, base) for row in measured)]]
    return rows + [[name, *(_ratio(row.compare(name, base, ratio=True)) for row in measured)] for name in names]


def _ratio(values: Sequence[float]) -> str:
    if not values:
        return "–"
    return f"{statistics.median(values):.2f} × ±{(max(values) - min(values)) / 2:.2f}"


def _difference(values: Sequence[float]) -> str:
    median = statistics.median(values)
    return f"{median:+.3f} ±{(max(values) - min(values)) / 2:.3f}"


def align(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a table: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    return "\n".join([lines[0], "─" * len(max(lines, key=len)), *lines[1:]])


def cell(row: Row, name: str) -> str:
    """Return a median and its spread, or a dash."""
    median = row.median(name)
    if median is None:
        return "–"
    if median <= 0:
        return f"not measurable (±{in_digits(row.spread(name))})"
    return f"{in_digits(median)} ±{in_digits(row.spread(name), like=median)}"


def in_digits(value: float, like: float | None = None) -> str:
    """Return a number with as many digits as a reader can use."""
    size = abs(value if like is None else like)
    return f"{value:,.{3 if size < 1 else 2 if size < 10 else 1 if size < 1000 else 0}f}"


def compare(row: Row, name: str = PROXY.name) -> str:
    """Return the proxy's value relative to the direct call, or to nginx where no direct call has such a value."""
    if (added := row.added(name, DIRECT.name)) is not None:
        return f"{added:+.2f} {row.unit} to direct"
    if ratios := row.compare(name, NGINX.name, ratio=True):
        return f"{statistics.median(ratios):.1f} × nginx"
    return ""


def _judge(row: Row) -> str:
    measured = [(goal, row.against(goal, PROXY.name)) for goal in GOALS.get(row.key, ())]
    found = [(goal, value) for goal, value in measured if value is not None]
    if not found:
        return ""
    if all(value <= goal.aim for goal, value in found):
        return "aim"
    return "must" if all(value <= goal.must for goal, value in found) else "MISSED"


def _explain_dashes(sheet: ResultTable) -> Sequence[str]:
    return [f"– {name}, {row.title}: {why}" for row in sheet.rows for name, why in row.dashes.items()]
