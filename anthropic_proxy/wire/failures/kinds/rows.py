"""Functions for the tables of regular expressions by which the modules of this package classify provider error texts.

Each table is a tuple in another module, such as `REFUSAL_TEXTS` in `policy`. `regex` compiles the expression of one
row. `matches_any` searches a text with all rows of a table. In the tables, a comment at each row names the providers
with such a text, and the date read.
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
