"""Search for Markdown code fences and line breaks in reply text. A tool call inside a fence is an example, not a call.

`find_fence` finds the next mark (three backticks or tildes) that starts or ends a fence. `end_before_line_break` finds
the line breaks between text and a possible call after it.
"""

import re

MAX_FENCE_LENGTH = 6
"""Maximum number of characters of a fence mark before its last one: a line break, three spaces, two fence characters.
This many characters of the previous fragment are kept for the search."""
_FENCE = re.compile(r"(?<=\n) {0,3}(?:```|~~~)")
_LINE_BREAK = re.compile(r"[\r\n]")


def find_fence(text: str, offset: int) -> int | None:
    """Return the index after the next Markdown fence mark (three backticks or tildes). None: no fence mark.

    The mark must end after `offset`.
    """
    match = _FENCE.search(text, max(0, offset - MAX_FENCE_LENGTH))
    while match is not None and match.end() <= offset:
        match = _FENCE.search(text, match.end())
    return match.end() if match is not None else None


def end_before_line_break(text: str, end: int) -> int:
    """Return the index of the first line break in the white space before index `end`. Without one, return `end`.

    `end`: index at which a possible tool call begins.
    """
    line_break = _LINE_BREAK.search(text, len(text[:end].rstrip()), end)
    return line_break.start() if line_break else end
