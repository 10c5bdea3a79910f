"""`MemoryValues`: texts that expire, in the memory of one process."""

import sys
import time
from collections.abc import Callable

MAX_KEYS = 10_000
"""Maximum number of values, without those of `BULK_PREFIX`."""
BULK_PREFIX = "bulk/"
"""Beginning of the keys of values that clients cause in any number or size, such as states of their calls. They replace
no other values: the oldest of them are dropped."""
MAX_KEPT_BYTES = 64 * 1024 * 1024
"""Maximum size of the values of `BULK_PREFIX` of all owners: the texts and their keys in memory, and what the
dictionaries need for each."""
_BYTES_PER_ENTRY = 300
_UTF8_BYTES_PER_CHARACTER = 4
"""Python keeps the UTF-8 of other texts than ASCII beside them, after a worker has read them from the supervisor."""


class MemoryValues:
    """Values in the memory of one process: of a single one, of the supervisor for its workers, or of one whose server
    for values is away. `read` and `write` are its own methods, the async ones implement `hooks.ValueStore`.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, max_bulk_bytes: int = MAX_KEPT_BYTES) -> None:
        self._clock = clock
        self._max_bulk_bytes = max_bulk_bytes
        self._bulk_sizes: dict[str, int] = {}
        """Key of `BULK_PREFIX` → size of its entry, the oldest first."""
        self._bulk_bytes = 0
        self._entries: dict[str, tuple[float, str]] = {}
        self._lifetimes: dict[str, int] = {}
        """Key of a value → class of its lifetime. A class has all lifetimes between two powers of 2 in seconds."""
        self._keys_by_lifetime: dict[int, dict[str, None]] = {}
        """Class of the lifetime → keys of its values, the oldest first. If the store is full, short-lived values thus
        do not replace all long-lived ones."""
        self._on_put: Callable[[str, str, float], None] | None = None
        """None: there is no other worker."""

    def publish_to(self, send: Callable[[str, str, float], None]) -> None:
        """Call `send` for each new or changed value, with key, value and seconds until expiry, for other workers."""
        self._on_put = send

    def read(self, key: str) -> str | None:
        if not self._entries:
            return None
        entry = self._entries.get(key)
        return None if entry is None or entry[0] <= self._clock() else entry[1]

    def list_keys(self) -> list[str]:
        """Return the keys of all values that have not expired."""
        now = self._clock()
        return [key for key, (expiry, _) in self._entries.items() if expiry > now]

    def find_remaining_seconds(self, key: str) -> float:
        """Return the seconds until the value expires. 0: there is none."""
        expiry, _ = self._entries.get(key, (0.0, ""))
        return max(expiry - self._clock(), 0.0)

    def write(self, key: str, value: str, lifetime_seconds: float) -> None:
        if self._on_put is not None and self.read(key) != value:
            self._on_put(key, value, lifetime_seconds)
        self.write_from_peer(key, value, lifetime_seconds)

    def write_from_peer(self, key: str, value: str, lifetime_seconds: float) -> None:
        self._store(key, value, self._clock() + lifetime_seconds)

    async def get(self, key: str) -> str | None:
        return self.read(key)

    async def put(self, key: str, value: str, lifetime_seconds: float) -> None:
        self.write(key, value, lifetime_seconds)

    async def put_if_absent(self, key: str, value: str, lifetime_seconds: float) -> str:
        if (known := self.read(key)) is None:
            self.write(key, value, lifetime_seconds)
        return value if known is None else known

    async def increment(self, key: str, amount: float, lifetime_seconds: float) -> float:
        expiry, text = self._entries.get(key, (0.0, "0"))
        if expiry <= self._clock():
            expiry = self._clock() + lifetime_seconds
            text = "0"
        total = float(text) + amount
        self._store(key, repr(total), expiry)
        return total

    async def delete(self, key: str) -> None:
        self._remove(key)

    def _store(self, key: str, value: str, expiry: float) -> None:
        self._remove(key)
        if key.startswith(BULK_PREFIX):
            self._store_bulk(key, value, expiry)
            return
        if len(self._lifetimes) >= MAX_KEYS:
            keys: dict[str, None] = max(self._keys_by_lifetime.values(), key=len)
            self._remove(next(iter(keys)))
        lifetime = self._lifetimes[key] = round(expiry - self._clock()).bit_length()
        self._keys_by_lifetime.setdefault(lifetime, {})[key] = None
        self._entries[key] = (expiry, value)

    def _store_bulk(self, key: str, value: str, expiry: float) -> None:
        utf8_bytes = 0 if value.isascii() else _UTF8_BYTES_PER_CHARACTER * len(value)
        size = _BYTES_PER_ENTRY + sys.getsizeof(key) + sys.getsizeof(value) + utf8_bytes
        if size > self._max_bulk_bytes:
            return
        self._entries[key] = (expiry, value)
        self._bulk_sizes[key] = size
        self._bulk_bytes += size
        while self._bulk_bytes > self._max_bulk_bytes:
            self._remove(next(iter(self._bulk_sizes)))

    def _remove(self, key: str) -> None:
        if self._entries.pop(key, None) is None:
            return
        if key in self._bulk_sizes:
            self._bulk_bytes -= self._bulk_sizes.pop(key)
        else:
            del self._keys_by_lifetime[self._lifetimes.pop(key)][key]
