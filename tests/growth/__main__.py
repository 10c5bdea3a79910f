"""`scripts/ci.py growth [words]` measures the rows with one of the words in a name or wire and prints a line for each.

`--write` writes their lines of tests/growth/growth.md. The exit status is 1 if a row ends with an exception, or
is neither linear nor clearly rejected.
"""

import sys
from collections.abc import Mapping, Sequence

from tests.growth import instrument

instrument.install()

from tests.growth import rows_http, rows_imports, rows_replies, rows_requests, rows_schemas, rows_texts  # noqa: E402
from tests.growth.measure import Growth, Measurement, measure_all  # noqa: E402
from tests.support.chosen_rows import choose_rows  # noqa: E402
from tests.support.paths import ROOT  # noqa: E402

PAGE = ROOT / "tests/growth/growth.md"
MARK = "<!-- scripts/ci.py growth --write writes what follows -->\n"
HEAD = "| input | wires | n | steps | units | memory | outcome at 4n |\n|---|---|--:|--:|--:|--:|---|\n"
ROWS = [
    *rows_requests.ROWS,
    *rows_schemas.ROWS,
    *rows_replies.ROWS,
    *rows_texts.ROWS,
    *rows_http.ROWS,
    *rows_imports.ROWS,
]
MEASUREMENTS: list[Measurement] = [(row, wire) for row in ROWS for wire in row.wires]


def main() -> int:
    """Measure, print, and return the exit status."""
    words = [word for word in sys.argv[1:] if word != "--write"]
    chosen = choose_rows({f"{row.name} / {wire}": (row, wire) for row, wire in MEASUREMENTS}, words)
    found: dict[str, dict[str, Growth]] = {}
    failed = 0
    for (row, wire), result in zip(chosen, measure_all(chosen), strict=True):
        print(f"{row.name:44} {wire:9} {result}", flush=True)
        if isinstance(result, Growth):
            found.setdefault(row.name, {})[wire] = result
        failed += isinstance(result, str) or bool(result.find_defect())
    print(f"{len(chosen)} measurements of {len({row.name for row, _ in chosen})} dimensions, {failed} failed")
    if "--write" in sys.argv:
        write_page(found)
    return failed > 0


def write_page(found: Mapping[str, Mapping[str, Growth]]) -> None:
    """Write the lines of the dimensions that were measured on all their wires; the others stay."""
    head, _, table = PAGE.read_text("utf-8").partition(MARK)
    kept = table.splitlines(keepends=True)
    lines = []
    for row in ROWS:
        start = f"| {escape(row.name)} | {', '.join(row.wires)} |"
        growths = found.get(row.name, {})
        is_whole = len(growths) == len(row.wires)
        lines += (
            [line_of(start, [*growths.values()])] if is_whole else [line for line in kept if line.startswith(start)]
        )
    PAGE.write_text(f"{head}{MARK}\n{HEAD}{''.join(lines)}", "utf-8")


def line_of(start: str, growths: Sequence[Growth]) -> str:
    """Return the line of one dimension: the steepest growth of each kind, and each outcome once."""
    worst = [max(growth.ratios[kind] for growth in growths) for kind in range(3)]
    outcomes = dict.fromkeys(growth.outcome for growth in growths)
    summary = "; ".join(outcome if len(outcome) < 100 else outcome[:97] + "…" for outcome in outcomes)
    cells = [f"{growths[0].n:,}", *(f"{ratio:.1f}" if ratio else "–" for ratio in worst), escape(summary)]
    return f"{start} {' | '.join(cells)} |\n"


def escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    sys.exit(main())
