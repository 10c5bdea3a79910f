"""Search for Markdown code fences and line breaks in reply text. A tool call inside a fence is an example, not a call.

`find_fence_mark_end` finds the next mark (three backticks or tildes) that starts or ends a fence.
`find_text_end_before_call` finds the end of the text before a possible call, without the line breaks between them.
"""

import re

MAX_FENCE_LENGTH = 6
"""Maximum number of characters of a fence mark before its last one: a line break, three spaces, two fence characters.
This many characters of the previous fragment are kept for the search."""
_FENCE = re.compile(r"(?<=\n) {0,3}(?:```|~~~)")
_LINE_BREAK = re.compile(r"[\r\n]")


def find_fence_mark_end(text: str, offset: int) -> int | None:
    """Return the index after the next Markdown fence mark (three backticks or tildes). None: no fence mark.

    Marks that end at `offset` or before it are skipped.
    """
    match = _FENCE.search(text, max(0, offset - MAX_FENCE_LENGTH))
    while match is not None and match.end() <= offset:
        match = _FENCE.search(text, match.end())
    return match.end() if match is not None else None


def find_text_end_before_call(text: str, call_start: int) -> int:
    """Return the index at which the text before a possible tool call ends. The call begins at index `call_start`.

    The result is the first line break in the white space directly before the call. Without one, it is `call_start`.
    """
    line_break = _LINE_BREAK.search(text, len(text[:call_start].rstrip()), call_start)
    return line_break.start() if line_break else call_start
