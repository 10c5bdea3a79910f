"""Rows of the tables by which provider errors are classified: one pattern each, its source and date beside it."""

import re
from collections.abc import Iterable


def row(pattern: str) -> re.Pattern[str]:
    """Return a row; it ignores case.

    Gaps in a pattern are bounded, so that the time of a search is proportional to the text.
    """
    return re.compile(pattern, re.IGNORECASE)


def matches(rows: Iterable[re.Pattern[str]], text: str) -> bool:
    """Return whether a row of the table matches."""
    return any(entry.search(text) for entry in rows)
