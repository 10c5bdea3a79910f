"""What the text of a refusal teaches: the limit that it names, the room that is left, the levels that it lists."""

import re

_LIMIT = re.compile(
    r"(?:at most|less than or equal to|maximum (?:value|of|allowed)?:?|up to|limit of)\D{0,20}(\d[\d,]{2,19})"
    r"|valid range of \w+ is \[\d+, *(\d{3,19})\]",
    re.IGNORECASE,
)
_SUPPORTED = re.compile(r"supported values are:?(.*)|must be one of(.*)", re.IGNORECASE | re.DOTALL)
_WORD = re.compile(r"[`'\"](\w+)[`'\"]")
_OVERFLOW = re.compile(r"exceed context limit: (\d{1,19}) \+ \d+ > (\d{1,19})")
_LEVELS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_MARGIN = 64
"""Tokens left free between input and output, because the provider counts otherwise than its message says."""


def find_limit(message: str, asked: int) -> int | None:
    """Return the output limit that a refusal names, in tokens, where it is below what was asked for."""
    found = _LIMIT.search(message)
    limit = int((found[1] or found[2]).replace(",", "")) if found else 0
    return limit if 0 < limit < asked else None


def find_room(message: str) -> int | None:
    """Return the output tokens that the window leaves, of an overflow by input and output together; None: no such one.

    0 or less: there is no room at all.
    """
    found = _OVERFLOW.search(message)
    return int(found[2]) - int(found[1]) - _MARGIN if found else None


def find_window(message: str) -> int | None:
    """Return the window in tokens, of an overflow by input and output together; None: no such one."""
    found = _OVERFLOW.search(message)
    return int(found[2]) if found else None


def find_level(message: str, asked: str) -> str | None:
    """Return, of the levels of effort that a refusal lists, the next below the one asked for, else the lowest."""
    listed = _SUPPORTED.search(message)
    words = _WORD.findall(listed[0]) if listed else []
    supported = [level for level in _LEVELS if level in words]
    if not supported or asked not in _LEVELS or asked in supported:
        return None
    below = [level for level in supported if _LEVELS.index(level) < _LEVELS.index(asked)]
    return below[-1] if below else supported[0]
