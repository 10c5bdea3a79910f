"""Measurement of chosen rows in several processes: a printed line for each, and the exit status."""

import os
from collections.abc import Sequence
from multiprocessing import get_context

from tests.growth.measure import Growth, measure
from tests.growth.table import Row

Measurement = tuple[Row, str]
"""A row and one of its wires."""
_to_measure: list[Measurement] = []
"""The measurements of a worker process. Operations cannot be sent to a process; a forked one has them already."""


def run_measurements(measurements: Sequence[Measurement]) -> tuple[dict[int, Growth], int]:
    """Measure, print a line for each measurement, and return the growth by place and the number of failures.

    A measurement that ends with an exception fails and has no growth; the next ones go on.
    """
    found: dict[int, Growth] = {}
    failed = 0
    workers = min(os.cpu_count() or 1, 4)
    with get_context("fork").Pool(workers, _to_measure.extend, (measurements,), maxtasksperchild=40) as pool:
        for place, result in enumerate(pool.imap(_measure_at, range(len(measurements)))):
            row, wire = measurements[place]
            print(f"{row.name:44} {wire:9} {format_result(result)}", flush=True)
            if isinstance(result, Growth):
                found[place] = result
            failed += isinstance(result, str) or bool(result.find_defect())
    names = {row.name for row, _ in measurements}
    print(f"{len(measurements)} measurements of {len(names)} dimensions, {failed} failed")
    return found, failed


def format_result(result: Growth | str) -> str:
    if isinstance(result, str):
        return f"FAILS: {result}"
    ratios = " ".join(f"{ratio:4.1f}" for ratio in result.ratios)
    defect = result.find_defect()
    return f"{ratios}  {result.outcome[:60]}{'  FAILS: ' if defect else ''}{defect}"


def _measure_at(place: int) -> Growth | str:
    row, wire = _to_measure[place]
    try:
        return measure(row.of_wire(wire), row.n)
    except Exception as error:  # noqa: BLE001  # the other measurements go on
        return f"{type(error).__name__}: {error}"
