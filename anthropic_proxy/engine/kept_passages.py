"""`KeptPassages`: sources with citations are divided and numbered once, like the messages of a history.

A client sends its documents again with each turn. To number the sentences of 2 MB takes up to 0.4 s. Numbers depend
only on the sources before, so those of a known source are the same as long as its first number is. A text is compared
as a whole, which takes 1 ms for 2 MB. The key of a client's marks is compared too, so that nobody gets the passages of
another client.
"""

from collections.abc import Callable, Sequence
from sys import getsizeof
from threading import Lock
from typing import Any, Protocol, TypeVar

from msgspec import Raw

from anthropic_proxy.engine.bounded import SizedCache

MIN_BYTES = 16 * 1024
"""Minimum size of a source that is kept. Less takes little time."""
MAX_KEPT_BYTES = 24 * 1024 * 1024
"""Maximum size of all kept sources of a process. The least recently used ones are dropped."""
_BYTES_PER_PASSAGE = 200
"""Size in memory of a passage and its place, apart from its text."""


class _Passages(Protocol):
    @property
    def texts(self) -> Sequence[str]: ...


PassagesT = TypeVar("PassagesT", bound=_Passages)


class KeptPassages:
    """Sources of the requests of one process. The thread for large requests uses them beside the event loop."""

    def __init__(self, max_kept_bytes: int = MAX_KEPT_BYTES) -> None:
        self._cache = SizedCache[tuple[bytes, str, int, str | bytes], Any](max_kept_bytes)
        self._lock = Lock()

    def get_or_number(
        self, owner: bytes, kind: str, first: int, source: str | Raw, number: Callable[[], PassagesT]
    ) -> PassagesT:
        """Return the passages of a source, of which the first one has the number `first`.

        `owner`: what only this client has. `kind`: how `number` divides the source.
        """
        if len(source) < MIN_BYTES:
            return number()
        text = source if isinstance(source, str) else bytes(source)
        key = owner, kind, first, text
        with self._lock:
            kept: PassagesT | None = self._cache.get(key)
        if kept is None:
            kept = number()  # without the lock: it takes long, and gives way
            # the passages and the blocks have the text too
            size = 3 * getsizeof(text) + _BYTES_PER_PASSAGE * len(kept.texts)
            with self._lock:
                self._cache.put(key, kept, size)
        return kept
