"""The rows of a suite that the words of its command line select."""

import sys
from collections.abc import Mapping, Sequence
from typing import TypeVar

Row = TypeVar("Row")


def choose_rows(rows: Mapping[str, Row], words: Sequence[str]) -> list[Row]:
    """Return the rows with one of the words in their name; without words, all.

    A word that is in no name ends the process: nothing would be run for it, and the run would pass.
    """
    if unknown := [word for word in words if not any(word in name for name in rows)]:
        sys.exit(f"No row has {' or '.join(map(repr, unknown))} in its name. The rows are:\n  " + "\n  ".join(rows))
    return [row for name, row in rows.items() if not words or any(word in name for word in words)]
