"""Regular expressions of the tables in this package, which classify provider error texts.

`regex` compiles one expression, a row of a table. `matches_any` searches a text with all rows of a table. A comment at
each row names the providers with such a text, and the date read.
"""

import re
from collections.abc import Iterable


def regex(pattern: str) -> re.Pattern[str]:
    """Return the compiled regular expression of a table row. Case is ignored.

    A part of `pattern` that matches any text must have a maximum length (`.{0,80}`), which limits the time of a search.
    """
    return re.compile(pattern, re.IGNORECASE)


def matches_any(rows: Iterable[re.Pattern[str]], text: str) -> bool:
    """Return True if at least one row of a table is found in an error text."""
    return any(entry.search(text) for entry in rows)
