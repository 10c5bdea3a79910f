"""Counts function calls, which do not depend on the speed of the machine."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def counting_calls() -> Iterator[list[int]]:
    """Yield a list with the number of calls in the threads that begin meanwhile, such as those that use a database."""
    counts = [0]

    def note(_frame: object, event: str, _argument: object) -> None:
        counts[0] += event in ("call", "c_call")

    threading.setprofile(note)
    try:
        yield counts
    finally:
        threading.setprofile(None)
