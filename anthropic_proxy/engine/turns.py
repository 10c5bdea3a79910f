"""`Turns`: the places of a worker that several payers share, such as its threads or processes, each payer in turn.

Theory of operation. A *payer* is whom a request belongs to: a person, a key or an address (`Client.payer`). Each shared
worker is a `SharedWorker`, a row of the table in the architecture page, and its users acquire a place of its `Turns`. A
free place goes to the next payer in turn, whatever the others have waiting, so that the wait of one payer depends on
the number of payers, not on their requests. `TurnQueue` is the order. Beyond the bound of what may wait, the newest of
the payer with the most is refused, and so is who has waited too long.

    one place, waiting: ann 1, ann 2, ann 3, bob 1  →  ann 1, bob 1, ann 2, ann 3
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from math import inf
from typing import Generic, TypeVar

from msgspec import Struct, field

from anthropic_proxy.errors import ProxyError, WorkerBusy

RETRY_AFTER_SECONDS = 2.0
"""Value of the header `retry-after`, in seconds, in the response to a client whose work found no place."""
T = TypeVar("T")


class SharedWorker(Struct, frozen=True, kw_only=True):
    """Bounds of what several payers share. `tests/unit/test_turns.py` compares them with the architecture page."""

    name: str
    """Name in errors: `the thread for large requests`."""
    places: int
    """Number of jobs that run at the same time."""
    share: int
    """Maximum number of places of one payer, so that another one finds a place."""
    share_while_others_wait: float = inf
    """A lower maximum while another payer waits."""
    max_waiting: int
    """Number of jobs that may wait. A further one is refused, or the newest of the payer with the most."""
    max_wait_seconds: float = inf
    """Time after which a job that waits is refused."""


class _Line(Struct, Generic[T], eq=False):
    """What waits of one payer."""

    begun: deque[T] = field(default_factory=deque)
    """Comes before the parts, and is never dropped."""
    parts: OrderedDict[str, deque[tuple[T, int]]] = field(default_factory=OrderedDict)
    """Each with its size. The parts, such as sessions, have turns too."""
    count: int = 0
    """Number of items in the parts."""
    size: int = 0

    @property
    def head(self) -> T:
        """The next item."""
        return self.begun[0] if self.begun else next(iter(self.parts.values()))[0][0]


class TurnQueue(Generic[T]):
    """What waits, in the turns of its payers. At most `max_count` with `max_size` in total wait."""

    def __init__(self, max_count: int, max_size: float = inf) -> None:
        self._max_count = max_count
        self._max_size = max_size
        self._lines: OrderedDict[str, _Line[T]] = OrderedDict()
        """The first payer is the next."""
        self.count = self._size = 0

    def __bool__(self) -> bool:
        return self.count > 0

    def add_begun(self, payer: str, item: T) -> None:
        """Add an item that comes before the others of its payer, which has had its turn. Nothing is dropped for it."""
        self._lines.setdefault(payer, _Line()).begun.append(item)
        self._lines.move_to_end(payer)
        self.count += 1

    def add(self, payer: str, item: T, size: int = 0, part: str = "") -> list[T]:
        """Add an item, and return those that were dropped for it: the newest of the payer with the most. The added one
        may be among them.
        """
        line = self._lines.setdefault(payer, _Line())
        line.parts.setdefault(part, deque()).append((item, size))
        self._count(line, 1, size)
        dropped = list[T]()
        while self.count > self._max_count or self._size > self._max_size:
            # of several with as much, the payer of the added item
            most = max(self._lines, key=lambda name: (self._measure(self._lines[name]), name == payer))
            parts = self._lines[most].parts
            longest = max(parts, key=lambda name: (len(parts[name]), name == part))
            dropped.append(self._take(most, longest, -1))
        return dropped

    def list_heads(self) -> Iterator[tuple[str, T]]:
        """Yield the next item of each payer, in the order of the turns."""
        for payer, line in self._lines.items():
            yield payer, line.head

    def pop(self, payer: str = "") -> T:
        """Remove and return the next item of a payer. The other payers have their turns before its next one. "": the
        payer whose turn it is.
        """
        payer = payer or next(iter(self._lines))
        line = self._lines[payer]
        if line.begun:
            item = line.begun.popleft()
            self.count -= 1
            self._forget_empty(payer)
        else:
            part = next(iter(line.parts))
            item = self._take(payer, part, 0)
            if part in line.parts:
                line.parts.move_to_end(part)
        if payer in self._lines:
            self._lines.move_to_end(payer)
        return item

    def remove(self, payer: str, item: T) -> bool:
        """Remove an item that waits no longer. False: it is not here."""
        line = self._lines.get(payer)
        if line is not None and item in line.begun:
            line.begun.remove(item)
            self.count -= 1
            self._forget_empty(payer)
            return True
        for part, items in line.parts.items() if line is not None else ():
            for place, (other, _) in enumerate(items):
                if other is item:
                    self._take(payer, part, place)
                    return True
        return False

    def count_before(self, payer: str, part: str = "") -> int:
        """Return how many items have their turn before one that is added now, if nothing is added behind it."""
        own = 0
        if (line := self._lines.get(payer)) is not None:
            parts = {name: len(items) for name, items in line.parts.items()}
            own = len(line.begun) + _count_turns(parts, part, parts.get(part, 0))
        return _count_turns({name: len(one.begun) + one.count for name, one in self._lines.items()}, payer, own)

    def is_next(self, payer: str, item: T) -> bool:
        """Return True if an item is the next one of its payer."""
        line = self._lines.get(payer)
        return line is not None and line.head is item

    def end_turn(self, payer: str) -> None:
        """Let the other payers have their turns before the next one of a payer whose item has waited too long."""
        if payer in self._lines:
            self._lines.move_to_end(payer)

    def has_others(self, payer: str) -> bool:
        """Return True if something of another payer waits. Another thread may ask."""
        return len(self._lines) > (payer in self._lines)

    def _take(self, payer: str, part: str, place: int) -> T:
        line = self._lines[payer]
        items = line.parts[part]
        item, size = items[place]
        del items[place]
        self._count(line, -1, -size)
        if not items:
            del line.parts[part]
        self._forget_empty(payer)
        return item

    def _forget_empty(self, payer: str) -> None:
        line = self._lines[payer]
        if not line.count and not line.begun:
            del self._lines[payer]

    def _count(self, line: _Line[T], number: int, size: int) -> None:
        line.count += number
        line.size += size
        self.count += number
        self._size += size

    def _measure(self, line: _Line[T]) -> float:
        """Return the share of the bounds."""
        return max(line.count / self._max_count, line.size / self._max_size)


def _count_turns(counts: Mapping[str, int], name: str, own: int) -> int:
    """Return how many turns there are before the one of `name` that follows `own` turns of it. `counts`: items of each,
    in the order of the turns.
    """
    total, is_before = own, True
    for other, count in counts.items():
        if other == name:
            is_before = False
        else:
            total += min(count, own + is_before)
    return total


class _Waiter(Struct, eq=False):
    granted: asyncio.Future[None]
    size: int


class Turns:
    """The places of one shared worker in this process.

    `refuse` returns the error for a job that finds no place, from the number of those that wait.
    """

    def __init__(self, worker: SharedWorker, refuse: Callable[[int], ProxyError] | None = None) -> None:
        self._worker = worker
        self._refuse = refuse or self._say_busy
        self._used = 0
        self._used_by: dict[str, int] = {}
        """Payer → its places."""
        self._line: TurnQueue[_Waiter] = TurnQueue(worker.max_waiting)

    def acquire_free(self, payer: str, size: int) -> bool:
        """Take free places for which nothing waits. False: there are none, and `acquire` waits for them."""
        # `_has_share` and `_take` without their calls, because most bodies and requests wait for nothing
        used, held = self._used + size, self._used_by.get(payer, 0)
        if self._line.count or used > self._worker.places or (held and held + size > self._worker.share):
            return False
        self._used = used
        self._used_by[payer] = held + size
        return True

    async def acquire(
        self, payer: str, size: int = 1, part: str = "", *, max_seconds: float = inf, has_begun: bool = False
    ) -> None:
        """Wait for a place, or for several at once. Call `release` after the work.

        `part`: within a payer, the parts have turns too. `max_seconds`: a shorter wait than that of the worker.
        `has_begun`: the job has had a place. It comes before the other jobs of its payer, and is refused only after
        `max_seconds`. Raises `WorkerBusy`, or what `refuse` returns.
        """
        if self.acquire_free(payer, size):
            return
        waiter = _Waiter(asyncio.get_running_loop().create_future(), size)
        if has_begun:
            self._line.add_begun(payer, waiter)
        else:
            for dropped in self._line.add(payer, waiter, part=part):
                if not dropped.granted.done():
                    dropped.granted.set_exception(self._refuse(self._line.count))
        self._grant()
        seconds = max_seconds if has_begun else min(max_seconds, self._worker.max_wait_seconds)
        try:
            async with asyncio.timeout(seconds if seconds < inf else None):
                await waiter.granted
        except BaseException as error:
            was_next = self._line.is_next(payer, waiter)
            if self._line.remove(payer, waiter):
                if was_next and isinstance(error, TimeoutError):
                    self._line.end_turn(payer)
                self._grant()  # the next one may need less
            elif not waiter.granted.cancelled() and waiter.granted.exception() is None:
                self.release(payer, size)  # granted at the same moment: pass it on
            if isinstance(error, TimeoutError):
                raise self.build_refusal() from None
            raise

    def count_before(self, payer: str, part: str = "") -> int:
        """Return how many places are taken, and how many jobs have their turn before one that comes now."""
        return self._used + self._line.count_before(payer, part)

    def release(self, payer: str, size: int = 1) -> None:
        self._used -= size
        if left := self._used_by[payer] - size:
            self._used_by[payer] = left
        else:
            del self._used_by[payer]
        if self._line.count:
            self._grant()

    @asynccontextmanager
    async def hold(self, payer: str, *, max_seconds: float = inf) -> AsyncIterator[None]:
        """Have a place meanwhile."""
        await self.acquire(payer, max_seconds=max_seconds)
        try:
            yield
        finally:
            self.release(payer)

    def build_refusal(self) -> ProxyError:
        """Return the error for a job that finds no place."""
        return self._refuse(self._line.count)

    def is_waited_for(self, payer: str) -> bool:
        """Return True if another payer waits. Another thread may ask."""
        return self._line.has_others(payer)

    def give_way(self, payer: str, resume: Callable[[], None]) -> None:
        """Leave a place to the other payers, and call `resume` when it is this one's turn again. A job that has begun
        is never refused, and comes before the other jobs of its payer.
        """
        waiter = _Waiter(asyncio.get_running_loop().create_future(), 1)
        waiter.granted.add_done_callback(lambda _: resume())
        self._line.add_begun(payer, waiter)
        self.release(payer)

    def _grant(self) -> None:
        while self._line:
            chosen = next((one for one in self._line.list_heads() if self._has_share(one[0], one[1].size)), None)
            if chosen is None or self._used + chosen[1].size > self._worker.places:
                return
            payer, waiter = chosen
            self._line.pop(payer)
            if not waiter.granted.done():
                self._take(payer, waiter.size)
                waiter.granted.set_result(None)

    def _has_share(self, payer: str, size: int) -> bool:
        held = self._used_by.get(payer, 0)
        share: float = self._worker.share
        if self._line.has_others(payer):
            share = min(share, self._worker.share_while_others_wait)
        return not held or held + size <= share

    def _take(self, payer: str, size: int) -> None:
        self._used += size
        self._used_by[payer] = self._used_by.get(payer, 0) + size

    def _say_busy(self, waiting: int) -> WorkerBusy:
        return build_busy_error(self._worker.name, waiting)


def build_busy_error(name: str, waiting: int) -> WorkerBusy:
    """`name`: that of a shared worker. `waiting`: number of those that wait for it."""
    return WorkerBusy(
        f"Other requests need {name}, and {waiting} wait. Try again in a moment.", retry_after=RETRY_AFTER_SECONDS
    )
