"""`scripts/ci.py growth [words]` measures the rows with one of the words in a name or wire and prints a line for each.

`--write` writes their lines of docs/contributing/growth.md. The exit status is 1 if a row ends with an exception, or
is neither linear nor clearly rejected.
"""

import sys

from tests.growth import instrument

instrument.install()

from tests.growth.page import write_page  # noqa: E402  # after the import of the package is prepared
from tests.growth.rows import MEASUREMENTS  # noqa: E402
from tests.growth.run import run_measurements  # noqa: E402


def main() -> int:
    """Measure, print, and return the exit status."""
    words = [word for word in sys.argv[1:] if word != "--write"]
    chosen = [
        place
        for place, (row, wire) in enumerate(MEASUREMENTS)
        if not words or any(word in f"{row.name} / {wire}" for word in words)
    ]
    found, failed = run_measurements([MEASUREMENTS[place] for place in chosen])
    if "--write" in sys.argv:
        write_page({chosen[place]: growth for place, growth in found.items()})
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
