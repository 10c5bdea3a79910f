"""`FallbackStore`: a store on a server, such as Redis, that keeps working while the server is unavailable.

Theory of operation. While the server is away, each process admits requests against its own use plus its share of what
was last known to be left, and adds its own use afterwards. Hence this store has all reservations of its process in a
`MemoryStore` too. The shares of all processes add up to what is left, so that limits are not exceeded. Processes
connect again within `OTHERS_SECONDS` of each other. During this time, a request must fit both the share of its process,
because the use of the others is still missing on the server, and the limit there, because the others may have ended
this time. With `REDIS_FAILURE=closed`, calls raise `StoreUnavailable` instead.

The server is away after a failure, or if it sends no reply for a time in which this process runs. `_is_away` then is
True until this process has added its use; `_problem` has the message until the others have too. Heartbeats run all the
time: they count the processes, and find out when the server is back. A command for values that fails alone does not
make limits unavailable: a heartbeat decides. Wrong data under single keys are reported and dropped, because a
repetition is useless.
"""

import asyncio
import os
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

from msgspec import Struct, structs

from anthropic_proxy.engine.bounded import BoundedDict
from anthropic_proxy.gateway.stores.memory import MemoryStore
from anthropic_proxy.gateway.stores.remote import MAX_CALLS, MAX_RENEWED, DataLost, RemoteStore
from anthropic_proxy.plugins import LEASE_SECONDS, Limit, Reservation, StoreState, StoreUnavailable

_Remote = TypeVar("_Remote", bound=RemoteStore)
_Result = TypeVar("_Result")
HEARTBEAT_SECONDS = 5.0
"""Time in seconds between two heartbeats (checks of the server)."""
MIN_PAUSE_SECONDS = 0.1
"""Pause after the first failed attempt to connect. It doubles, and is multiplied by 0.5 to 1.5."""
MAX_PAUSE_SECONDS = 5.0
OTHERS_SECONDS = 8.0
"""Time in seconds in which all processes connect again, more than the maximum pause."""
MAX_PENDING = 100_000
"""Maximum number of settlements that wait for the server. Above it, the oldest one is dropped: its rate has probably
ended, and budgets get their use from the ledger after an interruption."""
MAX_KNOWN = 100_000
"""Maximum number of limits whose latest result is kept."""
_CLOSE_SECONDS = 2.0
_UNLIMITED = 2**53
"""Maximum of a limit when amounts are added that are already used. Redis counts with double precision."""
_MAX_LOSSES = 3
"""Number of losses during one call, after which the data count as they are."""
_VALUES_EFFECT = {True: "each process keeps its own values", False: "such values are not stored"}


class _Known(Struct):
    """Latest result of the server for a limit."""

    ends_at: float
    """Monotonic seconds until which it counts: one period of a rate, or the end of a budget."""
    left: int
    share: int | None = None
    """Maximum amount of this process, fixed at the first use while the server is away."""


class FallbackStore(Generic[_Remote]):
    """It implements `plugins.Store`. `fails_open`: the setting `REDIS_FAILURE`. `address`: that of the server, for
    messages.
    """

    def __init__(self, store: _Remote, *, fails_open: bool, address: str, warn: Callable[[str], None]) -> None:
        self.remote = store
        self._fails_open = fails_open
        self._address = address
        self._warn = warn
        self._memory = MemoryStore()
        """All reservations of this process, and the values that are stored while the server is away."""
        self._running: dict[str, Reservation] = {}
        """Id → unsettled reservation of this process, with its slots in `_memory`."""
        self._known = BoundedDict[str, _Known](MAX_KNOWN)
        self._unsent: dict[str, Reservation] = {}
        """Id → running reservation that was made while the server was away."""
        self._pending: deque[tuple[Reservation, Sequence[int], float]] = deque(maxlen=MAX_PENDING)
        """Settlements that wait for the server, each with its monotonic time. Another process may have found their use
        in the ledger meanwhile (`Reservation.settled_seconds_ago`)."""
        self._problem = ""
        """Message of the failure. "": the server is available."""
        self._is_away = False
        self._data_problem = ""
        self._failed_at = 0.0
        self._interruptions = 0
        self._processes = 1
        self._group = ""
        self._data = ""
        """`Heartbeat.data` of the latest heartbeat. "": there was none."""
        self._beating = asyncio.Lock()
        self._clock_base: float | None = None
        self._has_begun = asyncio.Event()
        """Set after the first heartbeat: the clock of the server is known, unless it is away."""
        self._task: asyncio.Task[None] | None = None
        self._wake = store.has_news
        """Set: the next heartbeat is due."""

    @property
    def state(self) -> StoreState:
        return StoreState(
            kind=self.remote.state.kind,
            available=not self._problem,
            problem=self._problem,
            processes=self._processes,
            group=self._group,
            clock_base=self._clock_base,
            pending_settlements=len(self._pending),
            interruptions=self._interruptions,
        )

    def start(self) -> None:
        """The first use of the store starts it too."""
        if self._task is None:
            self._task = asyncio.create_task(self._run_heartbeats())

    async def get(self, key: str) -> str | None:
        return await self._use_values(key, lambda: self.remote.get(key), lambda: self._memory.get(key))

    async def put(self, key: str, value: str, lifetime_seconds: float) -> None:
        await self._use_values(
            key,
            lambda: self.remote.put(key, value, lifetime_seconds),
            lambda: self._memory.put(key, value, lifetime_seconds),
        )

    async def put_if_absent(self, key: str, value: str, lifetime_seconds: float) -> str:
        return await self._use_values(
            key,
            lambda: self.remote.put_if_absent(key, value, lifetime_seconds),
            lambda: self._memory.put_if_absent(key, value, lifetime_seconds),
        )

    async def increment(self, key: str, amount: float, lifetime_seconds: float) -> float:
        return await self._use_values(
            key,
            lambda: self.remote.increment(key, amount, lifetime_seconds),
            lambda: self._memory.increment(key, amount, lifetime_seconds),
        )

    async def delete(self, key: str) -> None:
        await self._memory.delete(key)
        await self._use_values(key, lambda: self.remote.delete(key), lambda: self._memory.delete(key))

    async def reserve(self, limits: Sequence[Limit], lease_seconds: float = LEASE_SECONDS) -> Reservation:
        self.start()
        zeros = [0] * len(limits)
        share = await self._reserve_share(limits, lease_seconds) if self._problem else None
        if share is None or (share.is_held and not self._is_away):
            id_ = os.urandom(16).hex()
            try:
                reservation = await self._reserve_there(limits, lease_seconds, id_)
            except asyncio.CancelledError:
                self._release_later(limits, lease_seconds, id_)
                if share is not None:
                    await self._memory.settle(share, zeros)
                raise
            except self.remote.failures as error:
                if self.remote.has_unknown_result(error):
                    self._release_later(limits, lease_seconds, id_)
                if share is not None:
                    await self._memory.settle(share, zeros)
                self._fail(error, [limit.key for limit in limits])
                share = await self._reserve_share(limits, lease_seconds)
            else:
                if share is None:
                    for limit, remaining in zip(reservation.limits, reservation.remaining, strict=True):
                        seconds = reservation.lease_seconds if limit.kind == "concurrency" else limit.seconds
                        self._known.pop(limit.key, None)
                        self._known[limit.key] = _Known(time.monotonic() + seconds, max(remaining, 0))
                else:
                    await self._memory.settle(share, zeros)
                if reservation.is_held:
                    self._running[reservation.id] = self._memory.add_existing_reservation(reservation)
                return reservation
        refused = None if share.refused is None else self._known.get(limits[share.refused].key)
        is_share = share.refused is not None and self._processes > 1 and (refused is None or refused.left > 0)
        reservation = structs.replace(share, limits=tuple(limits), slots=zeros, is_share=is_share)
        if share.is_held:
            self._running[share.id] = share
            self._unsent[share.id] = reservation
        return reservation

    async def _reserve_there(self, limits: Sequence[Limit], lease_seconds: float, id_: str) -> Reservation:
        """Reserve on the server. If it has lost its data, this shows as an interruption before anything is reserved."""
        for _ in range(_MAX_LOSSES):
            expected = self._data
            try:
                return await self.remote.reserve(limits, lease_seconds, id_, expected)
            except DataLost:
                async with self._beating:
                    if self._data == expected and not self._is_away:  # no other request has found it meanwhile
                        await self._beat()
        return await self.remote.reserve(limits, lease_seconds, id_)

    def _release_later(self, limits: Sequence[Limit], lease_seconds: float, id_: str) -> None:
        """Settle a reservation that the server may have made: a rate counts as used, other amounts are released."""
        sent = Reservation(id=id_, limits=tuple(limits), slots=[0] * len(limits), lease_seconds=lease_seconds)
        amounts = [limit.amount if limit.kind == "rate" else 0 for limit in limits]
        self._pending.append((sent, amounts, time.monotonic()))

    async def _reserve_share(self, limits: Sequence[Limit], lease_seconds: float) -> Reservation:
        if not self._fails_open:
            raise StoreUnavailable
        shares = []
        for limit in limits:  # a single request that fits the limit also fits the share
            known = self._known.get(limit.key)
            if known is None or time.monotonic() >= known.ends_at:  # all processes have equal shares
                share = max(limit.maximum // self._processes, min(limit.amount, limit.maximum))
            else:
                if known.share is None:
                    left = max(known.left // self._processes, min(limit.amount, known.left))
                    known.share = self._memory.find_counter(limit).total() + left
                share = known.share
            shares.append(structs.replace(limit, maximum=share, at_least=0))
        return await self._memory.reserve(shares, lease_seconds)

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        if not reservation.is_held:
            return
        settled_at = time.monotonic()
        if (running := self._running.pop(reservation.id, None)) is not None:
            await self._memory.settle(running, amounts)
        if self._unsent.pop(reservation.id, None) is not None:
            # the server has no amount of a rate that this settlement could reduce
            rates = [
                structs.replace(limit, amount=0) if limit.kind == "rate" else limit for limit in reservation.limits
            ]
            reservation = structs.replace(reservation, limits=rates)
        elif not self._is_away and await self._try(
            lambda: self.remote.settle(reservation, amounts), _list_keys([reservation])
        ):
            return
        self._pending.append((reservation, amounts, settled_at))
        self._wake.set()

    async def renew(self, reservations: Sequence[Reservation]) -> None:
        await self._memory.renew(
            [self._running[reservation.id] for reservation in reservations if reservation.id in self._running]
        )
        sent = [reservation for reservation in reservations if reservation.id not in self._unsent]
        for start in range(0, len(sent), MAX_RENEWED):
            chosen = sent[start : start + MAX_RENEWED]
            if not self._is_away:
                await self._try(partial(self.remote.renew, chosen), _list_keys(chosen))

    async def close(self) -> None:
        """Send the amounts that the server does not have yet, within two seconds, and close all connections."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                if self._unsent or self._pending:
                    await self._add_own_use()
                await self.remote.close()
        except self.remote.failures:
            if self._pending:
                self._warn(f"{len(self._pending)} settlements of limits were not stored. {self._problem}".strip())

    async def _use_values(
        self, key: str, function: Callable[[], Awaitable[_Result]], replacement: Callable[[], Awaitable[_Result]]
    ) -> _Result:
        self.start()
        await self._has_begun.wait()
        if not self._is_away:
            try:
                return await function()
            except self.remote.failures as error:
                if self.remote.is_data_error(error):
                    self._fail(error, [key])
                else:
                    self._wake.set()
                    if self.remote.is_rejection(error):
                        effect = _VALUES_EFFECT[self._fails_open]
                        problem = self.remote.describe_failure(error, self._address)
                        self._warn_of_data(f"{problem} Until then, {effect}.")
        if not self._fails_open:
            raise StoreUnavailable
        return await replacement()

    async def _try(self, function: Callable[[], Awaitable[None]], keys: Sequence[str]) -> bool:
        """Return False if the server is unavailable. True: success, or it rejects the data of `keys` for ever."""
        self.start()
        try:
            await function()
        except self.remote.failures as error:
            self._fail(error, keys)
            return self.remote.is_data_error(error)
        return True

    def _fail(self, error: BaseException, keys: Sequence[str] = (), effect: str = "its amounts are dropped") -> None:
        if self.remote.is_data_error(error):
            self._warn_of_data(f"{self.remote.describe_data_error(error, self._address, keys)} Until then, {effect}.")
            return
        problem = self.remote.describe_failure(error, self._address)
        if not self._problem:
            self._failed_at = time.monotonic()
            self._interruptions += 1
            effect = f"Each process keeps its share (1 of {self._processes}) of the limits"
            if not self._fails_open:
                effect = "Requests with limits are rejected (REDIS_FAILURE=closed)"
            elif self._processes == 1:
                effect = "This process counts limits by itself"
            self._warn(f"{problem} {effect} until {self.remote.title} is available.")
            self._wake.set()
        self._problem = problem
        self._is_away = True

    def _warn_of_data(self, message: str) -> None:
        if message != self._data_problem:
            self._data_problem = message
            self._warn(message)

    async def _run_heartbeats(self) -> None:
        pause = MIN_PAUSE_SECONDS
        while True:
            try:
                async with self._beating:
                    await self._beat()
                await self._add_own_use()
                if self._problem:
                    self._is_away = False
                    await self._add_own_use()  # what was reserved while the earlier amounts were sent
                    if self._fails_open and self._processes > 1:
                        await asyncio.sleep(OTHERS_SECONDS)
                        if self._is_away:
                            continue
                    seconds = time.monotonic() - self._failed_at
                    self._warn(f"{self.remote.title} at {self._address} is available again after {seconds:.1f} s.")
                    self._problem = ""
                pause = MIN_PAUSE_SECONDS
                seconds = HEARTBEAT_SECONDS
            except self.remote.failures as error:
                self._fail(error, self.remote.heartbeat_keys, "processes do not count each other")
                seconds = pause
                pause = min(pause * 2, MAX_PAUSE_SECONDS)
            self._has_begun.set()
            self._wake.clear()
            try:
                async with asyncio.timeout(seconds * random.uniform(0.5, 1.5)):
                    await (asyncio.Event() if self._problem else self._wake).wait()
            except TimeoutError:
                continue

    async def _beat(self) -> None:
        beat = await self.remote.send_heartbeat()
        # the server may have lost its data, or may count no process after a long interruption
        self._processes = max(beat.processes, self._processes) if self._problem else beat.processes
        if self._data not in ("", beat.data) and not self._problem:
            self._interruptions += 1  # so short that no call has failed
        self._group = beat.group
        self._data = beat.data
        self._clock_base = beat.clock_base

    async def _add_own_use(self) -> None:
        """Send to the server what it lacks: running reservations, then settlements, in messages of many."""
        while self._unsent:
            running = [self._unsent.popitem()[1] for _ in range(min(len(self._unsent), MAX_CALLS))]
            reserve = self.remote.reserve
            used = [
                [structs.replace(limit, maximum=_UNLIMITED) for limit in reservation.limits] for reservation in running
            ]
            steps = [
                reserve(limits, reservation.lease_seconds, reservation.id)
                for limits, reservation in zip(used, running, strict=True)
            ]
            try:
                await asyncio.gather(*map(self._add, steps, running))
            except BaseException:
                self._unsent.update(
                    (reservation.id, reservation) for reservation in running if reservation.id in self._running
                )
                raise
        while self._pending:
            ended = [self._pending.popleft() for _ in range(min(len(self._pending), MAX_CALLS))]
            now = time.monotonic()
            late = [
                (structs.replace(reservation, settled_seconds_ago=now - settled_at), amounts)
                for reservation, amounts, settled_at in ended
            ]
            try:
                await asyncio.gather(*(self._add(self.remote.settle(*one), one[0]) for one in late))
            except BaseException:
                self._pending.extendleft(reversed(ended))  # a repeated settlement has no effect
                raise

    async def _add(self, step: Awaitable[object], reservation: Reservation) -> None:
        """Wait for `step`. If the server rejects the data of the limits, drop the amounts with a warning."""
        try:
            await step
        except self.remote.failures as error:
            if not self.remote.is_data_error(error):
                raise
            self._fail(error, _list_keys([reservation]))


def _list_keys(reservations: Sequence[Reservation]) -> Sequence[str]:
    return sorted({limit.key for reservation in reservations for limit in reservation.limits})
