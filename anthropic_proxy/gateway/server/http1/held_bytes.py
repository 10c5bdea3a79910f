"""`HeldBytes`: the memory that connections hold until their clients continue, within a bound for all of them.

A client that stops in the middle of a head, or of the reply that it reads, costs nothing but memory, so nothing else
limits how many do so. Beyond the bound, the oldest of the payer with the most is ended: one payer cannot end the
connections of others.
"""

import asyncio
from collections import Counter
from typing import Protocol

from anthropic_proxy.engine.memory_plan import UNBEGUN_BYTES, UNREAD_BYTES
from anthropic_proxy.engine.turns import SharedWorker

UNREAD = SharedWorker(
    name="the memory for replies that are not read", places=UNREAD_BYTES, share=UNREAD_BYTES, max_waiting=0
)
"""The memory plan has its places."""
UNBEGUN = SharedWorker(
    name="the memory for requests that have not begun", places=UNBEGUN_BYTES, share=UNBEGUN_BYTES, max_waiting=0
)
"""Heads that are not complete, and requests that wait for the response of an earlier one of their connection."""


GRACE_SECONDS = 1.0
"""Time for which a reply may wait whatever others hold: a usual client reads on meanwhile."""


class Holder(Protocol):
    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop


class HeldBytes:
    """`grace_seconds`: only what is held for longer is ended."""

    def __init__(self, worker: SharedWorker, grace_seconds: float = 0.0) -> None:
        self._left = worker.places
        self._grace_seconds = grace_seconds
        self._held: dict[Holder, tuple[str, int, float]] = {}
        """Connection → payer, bytes, and the time since which it holds some, the oldest first."""
        self._held_by: Counter[str] = Counter()
        """Payer → its bytes."""
        self._timer: asyncio.TimerHandle | None = None
        """Looks again when the grace of what has to be ended is over. None: nothing has to be ended."""

    def hold(self, holder: Holder, payer: str, size: int) -> None:
        """Note how many bytes a connection holds now. 0: none."""
        held = self._held.get(holder)
        if held is not None and (not size or held[0] != payer):
            self.release(holder)
            held = None
        if not size:
            return
        before, since = (0, holder.loop.time()) if held is None else held[1:]
        self._held[holder] = payer, size, since
        self._take_back(payer, before - size)
        if self._timer is None:  # which looks at all of them
            self._end_excess(holder.loop)

    def release(self, holder: Holder) -> None:
        """A connection that holds nothing is ignored."""
        if (held := self._held.pop(holder, None)) is not None:
            self._take_back(*held[:2])

    def _end_excess(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._left < 0:
            most = max(self._held_by.values())
            holder, since = next((one, held[2]) for one, held in self._held.items() if self._held_by[held[0]] == most)
            if (ends_at := since + self._grace_seconds) > loop.time():
                if self._timer is None:
                    self._timer = loop.call_at(ends_at, self._look_again, loop)
                return
            self.release(holder)
            # not at once: the holder may be in the middle of a write, or of what it parses
            loop.call_soon(holder.transport.abort)

    def _look_again(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._end_excess(loop)

    def _take_back(self, payer: str, size: int) -> None:
        self._left += size
        self._held_by[payer] -= size
        if not self._held_by[payer]:
            del self._held_by[payer]
