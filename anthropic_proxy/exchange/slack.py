"""Memory that a rush of large requests took is given back to the system while their streams go on."""

import asyncio
from collections.abc import Callable

from anthropic_proxy.memory import count_free, give_back

_COUNTED_BYTES = 4 << 20
"""Of bodies that were let go, after which it is worth a look."""
_FREE_BYTES = 8 << 20
"""Free memory that is given back; requests that come one after another are served with less."""
_PAUSE_SECONDS = 1.0
_REST_SECONDS = 2.0


class Slack:
    """Counts the bodies that were let go, and has the allocator give back what lay between things that stay.

    It does so by itself only at the upper end of its heap, where the small things of a running stream soon lie: 500
    streams whose requests of 120 KB came at once hold 300 KiB each in its eyes, and 45 after this, which takes 20 ms.
    """

    def __init__(
        self,
        free: Callable[[], float] = count_free,
        give_back: Callable[[], object] = give_back,
        *,
        pause: float = _PAUSE_SECONDS,
        rest: float = _REST_SECONDS,
    ) -> None:
        """`pause`: seconds after which much was let go, until it is given back; a rush does not end at once.

        `rest`: seconds at least from one time to the next.
        """
        self._free = free
        self._give_back = give_back
        self._pause = pause
        self._rest = rest
        self._bytes = 0
        self._not_before = 0.0

    def count(self, size: int) -> None:
        """Take note that so many bytes of a request were let go."""
        before, self._bytes = self._bytes, self._bytes + size
        if before < _COUNTED_BYTES <= self._bytes:
            loop = asyncio.get_running_loop()
            loop.call_at(max(loop.time() + self._pause, self._not_before), self._end, loop)

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        self._bytes = 0
        if self._free() >= _FREE_BYTES:
            self._not_before = loop.time() + self._rest
            self._give_back()
