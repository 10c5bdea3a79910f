"""`scripts/ci.py faults`: runs every row on every wire and prints the outcomes, or writes the table of the docs."""

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.faults import table
from tests.faults.cases import CASES
from tests.faults.cases.case import FaultCase
from tests.faults.protocols import PROTOCOLS
from tests.faults.runner import FaultRunner, Result, seems_blocked

ROWS_AT_ONCE = 3


def main() -> int:
    options = argparse.ArgumentParser(prog="scripts/ci.py faults", description=__doc__)
    options.add_argument("rows", nargs="*", help="words of the rows to run; without any: all")
    options.add_argument(
        "--write", action="store_true", help="write the table of docs/guide/reliability.md, run nothing"
    )
    options.add_argument("-n", type=int, default=ROWS_AT_ONCE, help="rows at once (%(default)s)")
    chosen = options.parse_args()
    if chosen.write:
        table.write(CASES)
        return 0
    cases = [case for case in CASES if not chosen.rows or any(words in case.name for words in chosen.rows)]
    return _run(cases, chosen.n)


def _run(cases: Sequence[FaultCase], at_once: int) -> int:
    started = time.monotonic()
    print(table.head(), flush=True)
    runner = FaultRunner()
    found: dict[str, list[Result]] = {}
    try:
        with ThreadPoolExecutor(at_once) as pool:
            for case, results in zip(cases, pool.map(runner.run, cases), strict=True):
                found[case.name] = results
                print(table.line_of(case, results), flush=True)
        for case in cases:
            if seems_blocked(found[case.name]):
                found[case.name] = runner.run(case)
                print("again, alone:", table.line_of(case, found[case.name]), sep="\n", flush=True)
    finally:
        runner.close()
    results = [result for results in found.values() for result in results]
    problems = list(table.problems_of(results))
    print(*problems, sep="\n")
    verdict = f"{len(problems)} problems" if problems else "all as expected"
    minutes = (time.monotonic() - started) / 60
    print(f"{len(cases)} rows × {len(PROTOCOLS)} wires, {len(results)} requests: {verdict}, {minutes:.1f} min")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
