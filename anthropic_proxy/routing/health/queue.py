"""The queue in front of the upstreams: so many calls at once, and nobody takes all the places."""

import asyncio
from collections import OrderedDict, deque

from anthropic_proxy.errors import UpstreamOverloaded

WAITING_PER_PLACE = 8
"""Exchanges that may wait for each place; more would wait longer than their clients do."""
RETRY_SECONDS = 2.0


class Queue:
    """Gives out places; who waits is served in turn, one exchange of each client after the other.

    `places` None: there is no limit and nobody waits. `limit`: what is said to be the limit, where these are only this
    process's places of it.
    """

    def __init__(self, places: int | None, limit: int | None = None) -> None:
        self._places = places
        self._limit = limit or places
        self._taken = 0
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        """Who → the exchanges of his that wait; whose turn is next stands first."""
        self._length = 0

    async def enter(self, who: str) -> None:
        """Take a place, or wait for one; give it back with `leave`.

        Raises `UpstreamOverloaded` where too many wait already.
        """
        if self._places is None:
            return
        if self._taken < self._places:
            self._taken += 1
            return
        if self._length >= self._places * WAITING_PER_PLACE:
            raise UpstreamOverloaded(
                f"This proxy makes {self._limit} calls at once (MAX_UPSTREAM_CALLS), and {self._length} requests wait "
                "for their turn already. Try again in a moment.",
                retry_after=RETRY_SECONDS,
                retryable=False,
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(who, deque()).append(turn)
        self._length += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()  # the turn came in the same moment: the next one takes it
            else:
                self._forget(who, turn)
            raise

    def leave(self) -> None:
        """Give a place back; the next in turn takes it."""
        if self._places is None:
            return
        while self._waiting:
            who, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            self._length -= 1
            if turns:
                self._waiting[who] = turns
            if not turn.done():
                turn.set_result(None)
                return
        self._taken -= 1

    def _forget(self, who: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(who)
        if turns is not None and turn in turns:
            turns.remove(turn)
            self._length -= 1
            if not turns:
                del self._waiting[who]


def portion_of(limit: int, place: int, number: int) -> int:
    """Return what one of so many processes has of a limit that holds for all of them: at least 1.

    >>> [portion_of(5, place, 3) for place in range(3)]
    [2, 2, 1]
    """
    return max(limit // number + (place < limit % number), 1)
