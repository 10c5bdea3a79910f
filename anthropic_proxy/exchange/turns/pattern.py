"""Searches texts by patterns: a program of its own (`confined`), for a pattern may backtrack without end."""

import re
import signal
from typing import Any

_TIMER = getattr(signal, "ITIMER_VIRTUAL", None)
"""Counts the processor's time; Windows has none, and there the whole process is given up for one pattern."""


class _TooSlow(Exception):
    pass


def answer(question: dict[str, Any]) -> list[dict[str, Any]]:
    """Search by each pattern of `{"patterns": […], "texts": [[name, text], …], "seconds": …}`.

    In their order: `{"names": […]}`, those first whose name has it, or `{"error": …}`, or `{"slow": true}`. The seconds
    are shared by all, so that one bad pattern takes nothing from the others.
    """
    patterns, texts = question["patterns"], question["texts"]
    share = question["seconds"] / max(len(patterns), 1)
    return [_search_within(share, pattern, texts) for pattern in patterns]


def _search_within(seconds: float, pattern: str, texts: list[list[str]]) -> dict[str, Any]:
    if _TIMER is None:
        return search(pattern, texts)
    signal.signal(signal.SIGVTALRM, _stop)
    try:
        signal.setitimer(_TIMER, seconds)
        found = search(pattern, texts)
        signal.setitimer(_TIMER, 0)
    except _TooSlow:
        return {"slow": True}
    return found


def _stop(*_: object) -> None:
    raise _TooSlow


def search(pattern: str, texts: list[list[str]]) -> dict[str, Any]:
    """Return the names of the texts in which the pattern is found, or why it is none."""
    try:
        compiled = re.compile(pattern)
        named = [name for name, _ in texts if compiled.search(name)]
        known = set(named)
        others = [name for name, text in texts if name not in known and compiled.search(text)]
    except (re.error, OverflowError, RecursionError, MemoryError) as error:
        return {"error": f"the pattern is no regular expression: {error}"}
    return {"names": named + others}
