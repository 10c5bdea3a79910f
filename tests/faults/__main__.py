"""`scripts/ci/faults`: runs every row on every wire and prints what came of it, or writes the documentation's table."""

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.faults import table
from tests.faults.lab import Lab, Result, seems_blocked
from tests.faults.rows import ROWS
from tests.faults.rows.row import Row
from tests.faults.voices import VOICES

ROWS_AT_ONCE = 3


def main() -> int:
    options = argparse.ArgumentParser(prog="scripts/ci/faults", description=__doc__)
    options.add_argument("rows", nargs="*", help="words of the rows to run; without any: all")
    options.add_argument(
        "--write", action="store_true", help="write the table of docs/guide/reliability.md, run nothing"
    )
    options.add_argument("-n", type=int, default=ROWS_AT_ONCE, help="rows at once (%(default)s)")
    chosen = options.parse_args()
    if chosen.write:
        table.write(ROWS)
        return 0
    rows = [row for row in ROWS if not chosen.rows or any(words in row.name for words in chosen.rows)]
    return _run(rows, chosen.n)


def _run(rows: Sequence[Row], at_once: int) -> int:
    started = time.monotonic()
    print(table.head(), flush=True)
    lab = Lab()
    found: dict[str, list[Result]] = {}
    try:
        with ThreadPoolExecutor(at_once) as pool:
            for row, results in zip(rows, pool.map(lab.run, rows), strict=True):
                found[row.name] = results
                print(table.line_of(row, results), flush=True)
        for row in rows:
            if seems_blocked(found[row.name]):
                found[row.name] = lab.run(row)
                print("again, alone:", table.line_of(row, found[row.name]), sep="\n", flush=True)
    finally:
        lab.close()
    results = [result for results in found.values() for result in results]
    problems = list(table.problems_of(results))
    print(*problems, sep="\n")
    verdict = f"{len(problems)} problems" if problems else "all as expected"
    minutes = (time.monotonic() - started) / 60
    print(f"{len(rows)} rows × {len(VOICES)} wires, {len(results)} requests: {verdict}, {minutes:.1f} min")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
