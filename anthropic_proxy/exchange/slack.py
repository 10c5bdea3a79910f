"""Memory that a rush of large requests took is given back to the system while their streams go on."""

import asyncio
import sys
from collections.abc import Callable

_WORTH_BYTES = 8 << 20
_PAUSE_SECONDS = 1.0


class Slack:
    """Counts the bodies that were let go, and has the allocator give back what lay between things that stay.

    It does so by itself only at the upper end of its heap, where the small things of a running stream soon lie: 500
    streams whose requests of 120 KB came at once hold 300 KiB each in its eyes, and 45 after this, which takes 20 ms.
    """

    def __init__(self, give_back: Callable[[], object] | None = None, pause: float = _PAUSE_SECONDS) -> None:
        """`pause`: seconds after which much was let go, until it is given back; a rush does not end at once."""
        self._give_back = give_back or _trim
        self._pause = pause
        self._bytes = 0

    def count(self, size: int) -> None:
        """Take note that so many bytes of a request were let go."""
        before, self._bytes = self._bytes, self._bytes + size
        if before < _WORTH_BYTES <= self._bytes:
            asyncio.get_running_loop().call_later(self._pause, self._end)

    def _end(self) -> None:
        self._bytes = 0
        self._give_back()


def _trim() -> None:
    """Ask glibc, where that is the allocator."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415  # most processes never need it

        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
