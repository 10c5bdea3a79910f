"""Code fences and line breaks in a text, found by position."""

import re

MAX_FENCE_LENGTH = 6
"""Number of characters at the beginning of a line that may belong to an incomplete fence."""
_FENCE = re.compile(r"(?<=\n) {0,3}(?:```|~~~)")
_LINE_BREAK = re.compile(r"[\r\n]")


def find_fence(text: str, offset: int) -> int | None:
    """Return the end of the first fence that ends after `offset`. None: no fence."""
    match = _FENCE.search(text, max(0, offset - MAX_FENCE_LENGTH))
    while match is not None and match.end() <= offset:
        match = _FENCE.search(text, match.end())
    return match.end() if match is not None else None


def end_before_gap(text: str, end: int) -> int:
    """Return the start of the white space, from its first line break on, at the end of `text[:end]`; else `end`."""
    line_break = _LINE_BREAK.search(text, len(text[:end].rstrip()), end)
    return line_break.start() if line_break else end
