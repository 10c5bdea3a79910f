"""`scripts/ci/growth [words]` measures the rows with one of the words in a name or wire and prints a line for each.

`--write` writes their lines of docs/contributing/growth.md. The exit status is 1 if a row is neither linear nor
clearly rejected.
"""

import os
import sys
from multiprocessing import get_context

from tests.growth import instrument

instrument.install()

from tests.growth.measure import Growth, measure  # noqa: E402  # after the import of the package is prepared
from tests.growth.page import write_page  # noqa: E402
from tests.growth.rows import MEASUREMENTS  # noqa: E402


def measure_at(place: int) -> Growth:
    """Measure one row on one wire."""
    row, wire = MEASUREMENTS[place]
    return measure(row.of_wire(wire), row.n)


def main() -> int:
    """Measure, print, and return the exit status."""
    words = [word for word in sys.argv[1:] if word != "--write"]
    chosen = [
        place
        for place, (row, wire) in enumerate(MEASUREMENTS)
        if not words or any(word in f"{row.name} / {wire}" for word in words)
    ]
    found: dict[int, Growth] = {}
    with get_context("fork").Pool(min(os.cpu_count() or 1, 4), maxtasksperchild=40) as pool:
        for place, growth in zip(chosen, pool.imap(measure_at, chosen), strict=True):
            found[place] = growth
            row, wire = MEASUREMENTS[place]
            ratios = " ".join(f"{ratio:4.1f}" for ratio in growth.ratios)
            fault = growth.find_defect()
            print(
                f"{row.name:44} {wire:9} {ratios}  {growth.outcome[:60]}{'  FAILS: ' if fault else ''}{fault}",
                flush=True,
            )
    failed = sum(bool(growth.find_defect()) for growth in found.values())
    names = {MEASUREMENTS[place][0].name for place in found}
    print(f"{len(found)} measurements of {len(names)} dimensions, {failed} failed")
    if "--write" in sys.argv:
        write_page(found)
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
