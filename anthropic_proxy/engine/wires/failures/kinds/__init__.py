"""Recognition of provider errors by tables of their texts and codes, with one module for each kind of error.

Servers change their texts, and gateways quote them. So a row of a table has typical words, not a complete text, and
unknown texts match too. Each row names the servers that send it. Each search takes time proportional to the text.
"""

import re
from collections.abc import Iterable


def regex(pattern: str) -> re.Pattern[str]:
    """Return the compiled regular expression of a table row. Case is ignored.

    A part of `pattern` that matches any text must have a maximum length (`.{0,80}`), which limits the time of a search.
    """
    return re.compile(pattern, re.IGNORECASE)


def matches_any(rows: Iterable[re.Pattern[str]], text: str) -> bool:
    return any(row.search(text) for row in rows)
