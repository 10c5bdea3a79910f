"""`give_way`: a long computation lets other jobs run in between.

One thread serves the large requests of all clients (`background.py`). A loop that may need more than half a second for
a body of 32 MB (sentences, matches, edits of a conversation) calls `give_way` for each part, or for each few. So a job
holds the thread for a slice of its work, however long it is. Elsewhere, as on the event loop, nothing happens. Do not
call it while a lock is held.
"""

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from io import StringIO
from typing import TypeVar

MAX_REPLY_BYTES_ON_LOOP = 64 * 1024
"""Maximum size of an unstreamed reply, or of an event, that is decoded on the event loop: up to 20 ms. A thread decodes
larger ones."""
MAX_AHEAD = 1_100
_CHARACTERS_OF_SLICE = 64 * 1024
T = TypeVar("T")


class _ThisThread(threading.local):
    give_way: Callable[[], None] | None = None


_this_thread = _ThisThread()


def give_way() -> None:
    if (found := _this_thread.give_way) is not None:
        found()


def give_way_between(items: Iterable[T]) -> Iterator[T]:
    """Yield the items."""
    for item in items:
        yield item
        give_way()


def replace_in_slices(
    find: Callable[[str, int, int], Iterable[re.Match[str]]], replace: Callable[[re.Match[str]], str], text: str
) -> str:
    """Return a text in which the matches of a pattern for one character are replaced.

    `find`: method `finditer` of the pattern, which looks at most `MAX_AHEAD` characters ahead. One call of it
    for the whole text may need seconds for 30 MB, and lets no other thread run.
    """
    written, end = StringIO(), 0  # a list of the pieces would need several times the memory
    for found in _find_in_slices(find, text):
        if (new := replace(found)) != found[0]:
            written.write(text[end : found.start()])
            written.write(new)
            end = found.end()
    if not end:
        return text
    written.write(text[end:])
    return written.getvalue()


def _find_in_slices(find: Callable[[str, int, int], Iterable[re.Match[str]]], text: str) -> Iterator[re.Match[str]]:
    for start in range(0, len(text), _CHARACTERS_OF_SLICE):
        end = start + _CHARACTERS_OF_SLICE
        for found in find(text, start, end + MAX_AHEAD):
            if found.start() >= end:
                break
            yield found
            give_way()
        give_way()


def call_in_slices(give_way_here: Callable[[], None], function: Callable[[], T]) -> T:
    """Return the result of `function`, in which each `give_way` calls `give_way_here`."""
    _this_thread.give_way = give_way_here
    try:
        return function()
    finally:
        _this_thread.give_way = None
