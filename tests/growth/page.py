"""The page docs/contributing/growth.md: one line per dimension, with the steepest growth on any wire."""

from collections.abc import Mapping, Sequence

from tests.growth.measure import Growth
from tests.growth.rows import MEASUREMENTS
from tests.support.paths import ROOT

PAGE = ROOT / "docs/contributing/growth.md"
MARK = "<!-- scripts/ci.py growth --write writes what follows -->\n"
HEAD = "| input | wires | n | steps | units | memory | outcome at 4n |\n|---|---|--:|--:|--:|--:|---|\n"


def lines_of(found: Mapping[int, Growth]) -> dict[str, str]:
    rows: dict[str, list[tuple[str, Growth]]] = {}
    for place, growth in found.items():
        row, wire = MEASUREMENTS[place]
        rows.setdefault(row.name, []).append((wire, growth))
    return {start_of(name, [wire for wire, _ in measured]): line_of(name, measured) for name, measured in rows.items()}


def starts_of_all() -> list[str]:
    wires: dict[str, list[str]] = {}
    for row, wire in MEASUREMENTS:
        wires.setdefault(row.name, []).append(wire)
    return [start_of(name, of_row) for name, of_row in wires.items()]


def start_of(name: str, wires: Sequence[str]) -> str:
    """Return the first two cells of a line: the name and the wires."""
    return f"| {escape(name)} | {', '.join(wires)} |"


def line_of(name: str, measured: Sequence[tuple[str, Growth]]) -> str:
    """Return the line of one dimension: the steepest growth of each kind, and each outcome once."""
    worst = [max(growth.ratios[kind] for _, growth in measured) for kind in range(3)]
    outcomes = dict.fromkeys(growth.outcome for _, growth in measured)
    summary = "; ".join(outcome if len(outcome) < 100 else outcome[:97] + "…" for outcome in outcomes)
    cells = [f"{measured[0][1].n:,}", *(f"{ratio:.1f}" if ratio else "–" for ratio in worst), escape(summary)]
    return f"{start_of(name, [wire for wire, _ in measured])} {' | '.join(cells)} |\n"


def escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def write_page(found: Mapping[int, Growth]) -> None:
    """Write the measured lines into the table of the page; the others stay."""
    head, mark, table = PAGE.read_text("utf-8").partition(MARK)
    measured = lines_of(found)
    kept = table.splitlines(keepends=True)
    lines = [
        measured.get(start) or "".join(line for line in kept if line.startswith(start)) for start in starts_of_all()
    ]
    PAGE.write_text(f"{head}{mark}\n{HEAD}{''.join(lines)}", "utf-8")
