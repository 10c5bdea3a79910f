"""`MemoryStore`: the default of `hooks.Store`, for one process."""

import time
from collections.abc import Callable

MOST_KEYS = 10_000
"""Beyond this the entry that expires first makes room: what is kept here can be learned again."""


class MemoryStore:
    """Keeps text with expiry in this process; several workers each have their own, and tell each other.

    `clock` gives seconds that only grow.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[str, tuple[float, str]] = {}
        self.told: Callable[[str, str, float], None] | None = None
        """Is given each new value that was put: key, value, seconds."""

    async def get(self, key: str) -> str | None:
        """Return the value, or None if there is none or it has expired."""
        entry = self._entries.get(key)
        if entry is None or entry[0] <= self._clock():
            return None
        return entry[1]

    async def put(self, key: str, value: str, seconds: float) -> None:
        """Keep a value for so long."""
        if self.told is not None and await self.get(key) != value:
            self.told(key, value, seconds)
        self.keep(key, value, seconds)

    def keep(self, key: str, value: str, seconds: float) -> None:
        """Keep a value that another process has told."""
        self._keep(key, value, self._clock() + seconds)

    async def add(self, key: str, amount: float, seconds: float) -> float:
        """Add to a number that starts at 0 and expires so long after its first use; return the sum."""
        expiry, text = self._entries.get(key, (0.0, "0"))
        if expiry <= self._clock():
            expiry, text = self._clock() + seconds, "0"
        total = float(text) + amount
        self._keep(key, repr(total), expiry)
        return total

    def _keep(self, key: str, value: str, expiry: float) -> None:
        if key not in self._entries and len(self._entries) >= MOST_KEYS:
            del self._entries[min(self._entries, key=lambda kept: self._entries[kept][0])]
        self._entries[key] = (expiry, value)
