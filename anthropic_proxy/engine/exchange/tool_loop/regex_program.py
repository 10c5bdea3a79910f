"""Program in a separate process that searches tool definitions by regular expressions of the model.

The CPU time for each pattern is limited, because some patterns would run without end. On Windows there is no such
limit, so the proxy ends the whole process after a time limit.
"""

import re
import signal
import sys
from typing import Any


class _TooSlow(Exception):
    pass


def main(query: dict[str, Any]) -> list[dict[str, Any]]:
    """Search the definitions of all tools by each pattern, within a time limit, and return one result per pattern.

    `query` contains the patterns, the texts of the tools, and the time limit. A result is `{"names": […]}` with the
    matching tools, `{"error": …}` for an invalid pattern, or `{"slow": true}` after the time limit.
    """
    patterns, texts = query["patterns"], query["texts"]
    share = query["seconds"] / max(len(patterns), 1)
    return [_search_within(share, pattern, texts) for pattern in patterns]


def _search_within(seconds: float, pattern: str, texts: list[list[str]]) -> dict[str, Any]:
    if sys.platform == "win32":  # no timer of CPU time: the time limit of the process stops slow patterns
        return search_texts(pattern, texts)

    def stop(*_: object) -> None:
        raise _TooSlow

    signal.signal(signal.SIGVTALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        found = search_texts(pattern, texts)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    except _TooSlow:
        return {"slow": True}
    return found


def search_texts(pattern: str, texts: list[list[str]]) -> dict[str, Any]:
    """Return the names of the tools that match a regular expression, as `{"names": […]}`.

    Each item of `texts` is a pair: name and definition of a tool. Tools with a matching name come first. The result for
    an invalid pattern is `{"error": …}`.
    """
    try:
        compiled = re.compile(pattern)
        named = [name for name, _ in texts if compiled.search(name)]
        known = set(named)
        others = [name for name, text in texts if name not in known and compiled.search(text)]
    except (re.error, OverflowError, RecursionError, MemoryError) as error:
        return {"error": f"the pattern is no regular expression: {error}"}
    return {"names": named + others}
