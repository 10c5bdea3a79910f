"""`MemoryStore`, the default store for facts learned from upstream replies. Plugins may replace it."""

import time
from collections.abc import Callable

MAX_KEYS = 10_000
"""Maximum number of entries. A further key replaces the entry that expires first."""


class MemoryStore:
    """Store of text values with expiry, in the memory of one worker process. `on_put` informs other workers.

    `clock` returns monotonic seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[str, tuple[float, str]] = {}
        self.on_put: Callable[[str, str, float], None] | None = None
        """Callback for each new or changed value of `put`, with key, value and seconds until expiry."""

    async def get(self, key: str) -> str | None:
        """Return the value of a key. None: absent or expired."""
        entry = self._entries.get(key)
        if entry is None or entry[0] <= self._clock():
            return None
        return entry[1]

    async def put(self, key: str, value: str, seconds: float) -> None:
        """Store a value for `seconds`, and call `on_put` if the value is new or changed."""
        if self.on_put is not None and await self.get(key) != value:
            self.on_put(key, value, seconds)
        self.put_from_peer(key, value, seconds)

    def put_from_peer(self, key: str, value: str, seconds: float) -> None:
        """Store a value received from another worker for `seconds`, without calling `on_put`."""
        self._store(key, value, self._clock() + seconds)

    async def add(self, key: str, amount: float, seconds: float) -> float:
        """Add `amount` to the number stored under a key and return the sum.

        An absent or expired counter starts at 0 and expires after `seconds`. Later additions keep the expiry time.
        """
        expiry, text = self._entries.get(key, (0.0, "0"))
        if expiry <= self._clock():
            expiry, text = self._clock() + seconds, "0"
        total = float(text) + amount
        self._store(key, repr(total), expiry)
        return total

    def _store(self, key: str, value: str, expiry: float) -> None:
        if key not in self._entries and len(self._entries) >= MAX_KEYS:
            del self._entries[min(self._entries, key=lambda name: self._entries[name][0])]
        self._entries[key] = (expiry, value)
