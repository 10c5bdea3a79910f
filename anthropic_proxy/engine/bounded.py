"""Caches with a limit: `BoundedDict` for an unlimited number of things, `SizedCache` for things of different sizes."""

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BoundedDict(dict[K, V]):
    """A dictionary that drops its oldest entry for a new one beyond `most`. Only assigned items count."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def __setitem__(self, key: K, value: V) -> None:
        if len(self) >= self._most and key not in self:
            del self[next(iter(self))]
        super().__setitem__(key, value)


class SizedCache(Generic[K, V]):
    """Values with at most `max_size` in total. What was used least recently is dropped. Several threads may use it."""

    def __init__(self, max_size: int) -> None:
        self._lock = Lock()
        self._max_size = max_size
        self._entries = OrderedDict[K, tuple[V, int]]()
        """With the size. The least recently used one is the first."""
        self._size = 0

    def get(self, key: K) -> V | None:
        if (entry := self._entries.get(key)) is None:
            return None
        try:  # noqa: SIM105  # `suppress` takes ten times as long
            self._entries.move_to_end(key)
        except KeyError:  # another thread has dropped it
            pass
        return entry[0]

    def put(self, key: K, value: V, size: int) -> None:
        """Keep a value, unless it is too large, in place of the one before."""
        with self._lock:
            self._size -= self._entries.pop(key, (None, 0))[1]
            if size > self._max_size:
                return
            self._entries[key] = value, size
            self._size += size
            while self._size > self._max_size:
                _, (_, dropped) = self._entries.popitem(last=False)
                self._size -= dropped

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self._size = 0
