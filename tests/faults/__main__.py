"""`scripts/ci.py faults`: runs every row on every wire and prints the outcomes, or writes the table of the docs."""

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from tests.faults import table
from tests.faults.cases import CASES
from tests.faults.cases.case import FaultCase
from tests.faults.protocols import PROTOCOLS
from tests.faults.runner import FaultRunner, Result, seems_blocked
from tests.support.chosen_rows import choose_rows
from tests.support.machine_pauses import paused_seconds

ROWS_AT_ONCE = 3
_MAX_REPETITIONS = 3
"""Repetitions of a row that failed on a busy machine, or during a pause of the machine."""


class _Outcome(NamedTuple):
    results: list[Result]
    has_pauses: bool
    """The machine paused meanwhile, so that timeouts of the proxy may have expired."""

    def is_doubtful(self) -> bool:
        has_problems = any(result.problems for result in self.results)
        return has_problems and (self.has_pauses or seems_blocked(self.results))


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
    return _run(choose_rows({case.name: case for case in CASES}, chosen.rows), chosen.n)


def _run(cases: Sequence[FaultCase], at_once: int) -> int:
    started = time.monotonic()
    print(table.head(), flush=True)
    runner = FaultRunner()
    found: dict[str, list[Result]] = {}
    doubtful: list[FaultCase] = []
    try:
        with ThreadPoolExecutor(at_once) as pool:
            for case, outcome in zip(cases, pool.map(partial(_run_case, runner), cases), strict=True):
                found[case.name] = outcome.results
                print(table.line_of(case, outcome.results), flush=True)
                if outcome.is_doubtful():
                    doubtful.append(case)
        for case in doubtful:
            for _ in range(_MAX_REPETITIONS):
                outcome = _run_case(runner, case)
                print("again, alone:", table.line_of(case, outcome.results), sep="\n", flush=True)
                if not outcome.is_doubtful():
                    break
            found[case.name] = outcome.results
    finally:
        runner.close()
    results = [result for results in found.values() for result in results]
    problems = list(table.problems_of(results))
    print(*problems, sep="\n")
    verdict = f"{len(problems)} problems" if problems else "all as expected"
    minutes = (time.monotonic() - started) / 60
    print(f"{len(cases)} rows × {len(PROTOCOLS)} wires, {len(results)} requests: {verdict}, {minutes:.1f} min")
    return 1 if problems else 0


def _run_case(runner: FaultRunner, case: FaultCase) -> _Outcome:
    before = paused_seconds()
    results = runner.run(case)
    return _Outcome(results, paused_seconds() > before)


if __name__ == "__main__":
    sys.exit(main())
