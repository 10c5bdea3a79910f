"""Rows of the pattern tables in this package, which classify provider error texts.

A row is one regular expression, compiled by `regex`. `matches_any` searches a text with all rows of a table. A comment
at the row names the providers with such an error text, and the date read.
"""

import re
from collections.abc import Iterable


def regex(pattern: str) -> re.Pattern[str]:
    """Return the compiled regular expression of a table row. Case is ignored.

    A gap in `pattern` must have a maximum length, so that the time of a search is proportional to the text.
    """
    return re.compile(pattern, re.IGNORECASE)


def matches_any(rows: Iterable[re.Pattern[str]], text: str) -> bool:
    """Return True if at least one row of a table is found in an error text."""
    return any(entry.search(text) for entry in rows)
