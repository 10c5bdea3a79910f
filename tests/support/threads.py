"""A system that starts no further thread, as in a container at its limit of processes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_IMPOSSIBLE_STACK_BYTES = 1 << 46
"""Stack size of a thread for which no system has the address space."""


@contextmanager
def no_new_threads() -> Iterator[None]:
    """Make each start of a thread fail with `RuntimeError` inside the `with` statement."""
    before = threading.stack_size(_IMPOSSIBLE_STACK_BYTES)
    try:
        yield
    finally:
        threading.stack_size(before)
