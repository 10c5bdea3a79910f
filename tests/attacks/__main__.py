"""`scripts/ci.py attacks`: runs every attack against the real server process and prints a table."""

import argparse
import sys
import time

from tests.attacks.lab import Result, run_row
from tests.attacks.rows import ROWS
from tests.support.chosen_rows import choose_rows

_HEAD = """\
| attack | longest wait for /health, ms | of it computing, ms | memory, MiB | left, MiB | outcome |
|---|---:|---:|---:|---:|---|"""


def format_result(result: Result) -> str:
    """Return one line of the table."""
    wait, block = result.responsiveness.max_wait_seconds * 1e3, result.responsiveness.max_block_seconds * 1e3
    failures = [f"FAILED: {text}" for text in (*result.problems, *result.excesses)]
    figures = f"{wait:.0f} | {block:.0f} | {result.growth_mib:+.0f} | {result.left_mib:+.0f}"
    return f"| {result.case.name} | {figures} | {'; '.join(dict.fromkeys(failures)) or 'served'} |"


def main() -> int:
    options = argparse.ArgumentParser(prog="scripts/ci.py attacks", description=__doc__)
    options.add_argument("rows", nargs="*", help="words of the names of the rows to run; default: all rows")
    rows = choose_rows({case.name: case for case in ROWS}, options.parse_args().rows)
    started, failed = time.monotonic(), 0
    print(_HEAD, flush=True)
    for case in rows:
        try:
            result = run_row(case)
        except Exception as error:  # noqa: BLE001 - a row that ends the process must not end the table
            failed += 1
            print(f"| {case.name} | | | | | FAILED: {repr(error)[-600:]} |", flush=True)
            continue
        failed += bool(result.problems or result.excesses)
        print(format_result(result), flush=True)
    verdict = f"{failed} failed" if failed else "all as expected"
    print(f"{len(rows)} attacks: {verdict}, {(time.monotonic() - started) / 60:.1f} min")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
