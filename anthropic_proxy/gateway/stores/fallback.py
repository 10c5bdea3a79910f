"""`FallbackStore`: a store in Redis that keeps working while Redis is unavailable.

Theory of operation. Redis counts as unavailable after a failure, or if it sends no reply for a second in which this
process runs; `_problem` then has the message. With `REDIS_FAILURE=closed`, calls raise `StoreUnavailable`. With `open`,
each process admits requests against its share of the last known amounts and its own use, stores values itself, and adds
its own use to Redis afterwards. Processes connect again within `OTHERS_SECONDS` of each other. As long, a process keeps
to its share after it has added its use, because the use of the others is still missing.

Heartbeats run all the time: they count the processes that share the limits, and find out when Redis is back. A command
for values that fails alone does not make limits unavailable: a heartbeat decides. Wrong data under single keys are
reported and dropped, because a repetition is useless.
"""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from anthropic_proxy.gateway.stores.own_usage import OwnUsage
from anthropic_proxy.gateway.stores.redis import (
    FAILURES,
    MAX_RENEWED,
    RedisStore,
    describe_data_error,
    describe_failure,
    is_data_error,
)
from anthropic_proxy.plugins import LEASE_SECONDS, Limit, Reservation, StoreState, StoreUnavailable

HEARTBEAT_SECONDS = 5.0
"""Time in seconds between two heartbeats (checks of Redis)."""
MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.1, 5.0
"""Pause after the first failed attempt to connect, and maximum. It doubles, and is multiplied by 0.5 to 1.5."""
OTHERS_SECONDS = 8.0
"""Time in seconds in which all processes connect again, more than the maximum pause."""
_CLOSE_SECONDS = 2.0
_UNKNOWN_RESULT = (OSError, TimeoutError, RedisConnectionError, RedisTimeoutError, asyncio.CancelledError)
"""Exceptions after which it is unknown whether Redis has executed the command."""
_VALUES_EFFECT = {True: "each process keeps its own values", False: "such values are not stored"}
_Result = TypeVar("_Result")


class FallbackStore:
    """It implements `plugins.Store`. `fails_open`: the setting `REDIS_FAILURE`."""

    def __init__(
        self,
        store: RedisStore,
        *,
        fails_open: bool,
        address: str,
        warn: Callable[[str], None],
    ) -> None:
        self.redis = store
        self._fails_open, self._address, self._warn = fails_open, address, warn
        self._usage = OwnUsage()
        self._problem = ""
        """Message of the failure. "": Redis is available."""
        self._data_problem = ""
        self._failed_at = 0.0
        self._interruptions = 0
        self._processes = 1
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    @property
    def state(self) -> StoreState:
        return StoreState(
            kind="redis",
            available=not self._problem,
            problem=self._problem,
            processes=self._processes,
            pending_settlements=len(self._usage.pending),
            interruptions=self._interruptions,
        )

    def start(self) -> None:
        """The first use of the store starts it too."""
        if self._task is None:
            self._task = asyncio.create_task(self._run_heartbeats())

    async def get(self, key: str) -> str | None:
        return await self._call(
            lambda: self.redis.get(key), lambda: self._usage.values.get(key), [key], has_limits=False
        )

    async def put(self, key: str, value: str, lifetime_seconds: float) -> None:
        await self._call(
            lambda: self.redis.put(key, value, lifetime_seconds),
            lambda: self._usage.values.put(key, value, lifetime_seconds),
            [key],
            has_limits=False,
        )

    async def increment(self, key: str, amount: float, lifetime_seconds: float) -> float:
        return await self._call(
            lambda: self.redis.increment(key, amount, lifetime_seconds),
            lambda: self._usage.values.increment(key, amount, lifetime_seconds),
            [key],
            has_limits=False,
        )

    async def delete(self, key: str) -> None:
        await self._usage.values.delete(key)
        await self._call(lambda: self.redis.delete(key), lambda: self._usage.values.delete(key), [key])

    async def reserve(self, limits: Sequence[Limit], lease_seconds: float = LEASE_SECONDS) -> Reservation:
        async def reserve_in_redis() -> Reservation:
            id_ = os.urandom(16).hex()
            try:
                reservation = await self.redis.reserve(limits, lease_seconds, id_)
            except _UNKNOWN_RESULT:
                slots = [0] * len(limits)
                reservation = Reservation(id=id_, limits=tuple(limits), slots=slots, lease_seconds=lease_seconds)
                settled = [limit.amount if limit.kind == "rate" else 0 for limit in limits]
                self._usage.pending.append((reservation, settled))
                raise
            self._usage.add_existing_reservation(reservation)
            return reservation

        return await self._call(
            reserve_in_redis,
            lambda: self._usage.reserve(limits, lease_seconds, self._processes),
            [limit.key for limit in limits],
        )

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        if not reservation.is_held or await self._usage.settle(reservation, amounts):
            return
        if not self._problem and await self._try(lambda: self.redis.settle(reservation, amounts), _keys([reservation])):
            return
        self._usage.pending.append((reservation, amounts))

    async def renew(self, reservations: Sequence[Reservation]) -> None:
        await self._usage.renew(reservations)
        for start in range(0, len(reservations), MAX_RENEWED):
            chosen = reservations[start : start + MAX_RENEWED]
            if not self._problem:
                await self._try(partial(self.redis.renew, chosen), _keys(chosen))

    async def close(self) -> None:
        """Send the amounts that Redis does not have yet, within two seconds, and close all connections."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                if self._usage.has_unsent:
                    await self._add_missing()
                await self.redis.close()
        except FAILURES:
            if self._usage.pending:
                self._warn(f"{len(self._usage.pending)} settlements of limits were not stored. {self._problem}".strip())

    async def _call(
        self,
        function: Callable[[], Awaitable[_Result]],
        replacement: Callable[[], Awaitable[_Result]],
        keys: Sequence[str],
        *,
        has_limits: bool = True,
    ) -> _Result:
        """`keys` are those of the command. Without `has_limits`, a heartbeat decides if limits can be used."""
        self.start()
        if not self._problem:
            try:
                return await function()
            except FAILURES as error:
                if has_limits or is_data_error(error):
                    self._fail(error, keys)
                else:
                    self._wake.set()
                    if isinstance(error, ResponseError):
                        effect = _VALUES_EFFECT[self._fails_open]
                        self._warn_of_data(f"{describe_failure(error, self._address)} Until then, {effect}.")
        if not self._fails_open:
            raise StoreUnavailable
        return await replacement()

    async def _try(self, function: Callable[[], Awaitable[None]], keys: Sequence[str]) -> bool:
        """Return False if Redis is unavailable. True: success, or Redis rejects the data of `keys` for ever."""
        self.start()
        try:
            await function()
        except FAILURES as error:
            self._fail(error, keys)
            return is_data_error(error)
        return True

    def _fail(self, error: BaseException, keys: Sequence[str] = (), effect: str = "its amounts are dropped") -> None:
        if is_data_error(error):
            self._warn_of_data(f"{describe_data_error(error, self._address, keys)} Until then, {effect}.")
            return
        problem = describe_failure(error, self._address)
        if not self._problem:
            self._failed_at = self._usage.clock()
            self._interruptions += 1
            effect = f"Each process keeps its share (1 of {self._processes}) of the limits"
            if not self._fails_open:
                effect = "Requests with limits are rejected (REDIS_FAILURE=closed)"
            elif self._processes == 1:
                effect = "This process counts limits by itself"
            self._warn(f"{problem} {effect} until Redis is available.")
            self._wake.set()
        self._problem = problem

    def _warn_of_data(self, message: str) -> None:
        if message != self._data_problem:
            self._data_problem = message
            self._warn(message)

    async def _run_heartbeats(self) -> None:
        pause = MIN_PAUSE_SECONDS
        while True:
            try:
                processes = await self.redis.send_heartbeat()
                if self._problem or self._usage.has_unsent:
                    await self._recover()
                    processes = await self.redis.send_heartbeat()
                self._processes = processes
                pause = MIN_PAUSE_SECONDS
                seconds = HEARTBEAT_SECONDS
            except FAILURES as error:
                self._fail(error, self.redis.heartbeat_keys, "processes do not count each other")
                seconds, pause = pause, min(pause * 2, MAX_PAUSE_SECONDS)
            self._wake.clear()
            try:
                async with asyncio.timeout(seconds * random.uniform(0.5, 1.5)):
                    await (asyncio.Event() if self._problem else self._wake).wait()
            except TimeoutError:
                continue

    async def _recover(self) -> None:
        """Add the use of this process that Redis lacks, then use Redis."""
        await self._add_missing()
        if self._problem and self._fails_open and self._processes > 1:
            await asyncio.sleep(OTHERS_SECONDS)
            await self._add_missing()
        if self._problem:
            seconds = self._usage.clock() - self._failed_at
            self._warn(f"Redis at {self._address} is available again after {seconds:.1f} s.")
        self._problem = ""
        await self._add_missing()  # what this process reserved by itself meanwhile

    async def _add_missing(self) -> None:
        running = self._usage.queue_unsent()
        for start in range(0, len(running), MAX_RENEWED):
            chosen = running[start : start + MAX_RENEWED]
            await self._finish(self.redis.renew(chosen), _keys(chosen))
        while self._usage.pending:
            reservation, amounts = self._usage.pending[0]
            await self._finish(self.redis.settle(reservation, amounts), _keys([reservation]))
            self._usage.pending.popleft()

    async def _finish(self, step: Awaitable[None], keys: Sequence[str]) -> None:
        """Wait for `step`, which adds amounts. If Redis rejects the data of `keys`, drop it with a warning."""
        try:
            await step
        except FAILURES as error:
            if not is_data_error(error):
                raise
            self._fail(error, keys)


def _keys(reservations: Sequence[Reservation]) -> Sequence[str]:
    return sorted({limit.key for each in reservations for limit in each.limits})
