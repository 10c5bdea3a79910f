"""`Descriptions`: what models said about pictures, so that each picture of a conversation is described once.

A description belongs to an owner: another client with the same picture gets none of it. It is in the memory of this
process, and in the store if other processes share it. A failure is kept for a short time, so that the requests of a
conversation neither wait for it nor get another text each time.
"""

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from msgspec import Struct

from anthropic_proxy.engine.bounded import SizedCache
from anthropic_proxy.engine.hooks import StoreUnavailable, ValueStore
from anthropic_proxy.engine.keyed_lock import KeyedLock
from anthropic_proxy.engine.memory_values import BULK_PREFIX, MemoryValues

MAX_KEPT_BYTES = 8 * 1024 * 1024
"""Maximum size of all descriptions in memory. What was used least recently is dropped."""
SHARED_SECONDS = 86_400.0
"""Lifetime of a description in a store that processes share."""
FAILURE_SECONDS = 60.0
"""Time after which a picture that was not described is tried again."""
_BYTES_PER_ENTRY = 500
_BYTES_PER_CHARACTER = 4
_PREFIX = f"{BULK_PREFIX}image-description/"


class Description(Struct, frozen=True):
    text: str = ""
    failure: str = ""
    """Why there is no text. "": there is one."""
    expires_at: float = float("inf")
    """Monotonic time."""


class Descriptions:
    """`clock`: monotonic seconds."""

    def __init__(self, max_kept_bytes: int = MAX_KEPT_BYTES, clock: Callable[[], float] = time.monotonic) -> None:
        self._kept = SizedCache[str, Description](max_kept_bytes)
        self._lock = KeyedLock[str]()
        self._clock = clock

    async def find(self, store: ValueStore, key: str) -> Description | None:
        """Return what is known of a picture. `key`: a digest of its owner, the picture and the rest."""
        kept = self._kept.get(key)
        if kept is not None and kept.expires_at > self._clock():
            return kept
        if isinstance(store, MemoryValues):  # of this process alone
            return None
        try:
            text = await store.get(_PREFIX + key)
        except StoreUnavailable:
            return None
        if not text:
            return None
        return self._keep(key, Description(text))

    async def find_or_ask(self, store: ValueStore, key: str, ask: Callable[[], Awaitable[Description]]) -> Description:
        """Return what is known of a picture, or else what `ask` returns, which describes it. An equal picture that is
        being described is waited for.
        """
        async with self._lock.hold(key):
            if (found := await self.find(store, key)) is not None:
                return found
            asked = await ask()
            if asked.failure:
                return self._keep(key, Description(failure=asked.failure, expires_at=self._clock() + FAILURE_SECONDS))
            if not isinstance(store, MemoryValues):
                with suppress(StoreUnavailable):
                    await store.put(_PREFIX + key, asked.text, SHARED_SECONDS)
            return self._keep(key, asked)

    def _keep(self, key: str, description: Description) -> Description:
        size = _BYTES_PER_ENTRY + _BYTES_PER_CHARACTER * (len(description.text) + len(description.failure))
        self._kept.put(key, description, size)
        return description
