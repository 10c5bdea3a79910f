"""`KeyedLock`: a lock for each key, so that the same work is not done twice at the same time."""

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from msgspec import Struct

KeyT = TypeVar("KeyT", bound=Hashable)


class _Held(Struct, eq=False):
    lock: asyncio.Lock
    users: int = 0
    """Number of tasks that have the lock or wait for it."""


class KeyedLock(Generic[KeyT]):
    """Its tasks have the lock of a key in the order of their arrival. If the one that has it is cancelled, the next one
    gets it.
    """

    def __init__(self) -> None:
        self._held: dict[KeyT, _Held] = {}

    @asynccontextmanager
    async def hold(self, key: KeyT) -> AsyncIterator[None]:
        held = self._held.setdefault(key, _Held(asyncio.Lock()))
        held.users += 1
        try:
            async with held.lock:
                yield
        finally:
            held.users -= 1
            if not held.users:
                del self._held[key]
