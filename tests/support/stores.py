"""Stores for the contract tests, with a clock that the test advances, and a plain model of a store."""

import atexit
import os
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from functools import cache
from math import floor
from pathlib import Path

from anthropic_proxy.console.ledger.database import open_for_writing
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.stores.memory import MemoryStore
from anthropic_proxy.gateway.workers.ipc import StoreCall
from anthropic_proxy.gateway.workers.shared_store import SharedStore, answer_call
from anthropic_proxy.plugins import Limit, Reservation, Store
from tests.support.ledger import DATABASE_VARIABLE, new_database

REDIS_VARIABLE = "TEST_REDIS_URL"
"""Variable with the address of a Redis server for the tests."""


class Clock:
    """Time in seconds, advanced by tests."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now

    async def pass_time(self, seconds: float) -> None:
        self.now += seconds


def store_kinds() -> Sequence[str]:
    """Return the names for `open_store`. The others need a running server, which `python3 scripts/ci.py redis` and
    `databases` start.
    """
    servers = {"redis": REDIS_VARIABLE, "postgresql": DATABASE_VARIABLE}
    return ("memory", "workers", *(kind for kind, variable in servers.items() if variable in os.environ))


@asynccontextmanager
async def open_store(kind: str, clock: Clock, prefix: str = "") -> AsyncIterator[Store]:
    """Yield an empty store. `workers`: that of a worker. `prefix`: of a store in Redis that processes share.
    `postgresql`: that of a server without Redis.
    """
    memory = MemoryStore(clock=clock)

    async def call(method: str, arguments: bytes) -> bytes:
        return answer_call(memory, StoreCall(1, method, arguments)).result

    store: Store = memory
    if kind == "workers":
        store = SharedStore(call)
    elif kind == "redis":
        from anthropic_proxy.gateway.stores.redis import RedisStore

        store = RedisStore(os.environ[REDIS_VARIABLE], prefix or uuid.uuid4().hex, clock=clock)
    elif kind == "postgresql":
        from anthropic_proxy.console.ledger.database_store import DatabaseStore
        from anthropic_proxy.console.ledger.postgres_store import PostgresStore

        store = DatabaseStore(memory, PostgresStore(empty_database(), clock=clock))
    try:
        yield store
    finally:
        await store.close()


def empty_database() -> Settings:
    """Return the settings of a PostgreSQL database without counters. All tests of this process share it."""
    settings = _create_database()
    with closing(open_for_writing(settings)) as connection:
        connection.execute("TRUNCATE limit_counters, limit_holds, shared_values")
    return settings


@cache
def _create_database() -> Settings:
    created = new_database("postgresql", Path())
    atexit.register(created.__exit__, None, None, None)
    return created.__enter__()


class _Entry:
    """An amount of one limit, reserved or settled."""

    def __init__(self, limit: Limit, id_: str, at: float, ends: float, amount: int) -> None:
        self.limit, self.id, self.at, self.ends, self.amount = limit, id_, at, ends, amount
        self.held = limit.kind != "rate"


class NaiveStore:
    """Counters as a list of all amounts, searched completely at each call."""

    def __init__(self, clock: Callable[[], float], slot_count: int) -> None:
        self._clock, self._slot_count = clock, slot_count
        self._entries: list[_Entry] = []
        self._expiry: dict[str, float] = {}
        self._settled: dict[str, float] = {}

    def _window_end(self, entry: _Entry) -> float:
        width = entry.limit.seconds / self._slot_count
        return (floor(entry.at / width) + 1 + self._slot_count) * width

    def _remove_expired(self) -> None:
        now = self._clock()
        ended = {key for key, end in self._expiry.items() if end <= now}
        self._expiry = {key: end for key, end in self._expiry.items() if key not in ended}
        self._entries = [
            each
            for each in self._entries
            if each.limit.key not in ended
            and (each.ends > now if each.held else each.limit.kind == "amount" or self._window_end(each) > now)
        ]

    def _of(self, limit: Limit) -> list[_Entry]:
        return [each for each in self._entries if each.limit.key == limit.key]

    def _wait(self, limit: Limit) -> float:
        found, now = self._of(limit), self._clock()
        excess = sum(each.amount for each in found) + limit.amount - limit.maximum
        if excess <= 0 or limit.amount == 0:
            return -1.0
        if limit.kind == "rate":
            for each in sorted(found, key=self._window_end):
                excess -= each.amount
                if excess <= 0:
                    return self._window_end(each) - now
            return limit.seconds
        if limit.kind == "concurrency" or sum(each.amount for each in found if each.held) >= excess:
            return 1.0
        return self._expiry[limit.key] - now if limit.key in self._expiry else limit.seconds

    def _reset(self, limit: Limit) -> float:
        if limit.kind == "rate":
            ends = [self._window_end(each) for each in self._of(limit) if each.amount]
            return max(ends) - self._clock() if ends else 0.0
        return self._expiry[limit.key] - self._clock() if limit.key in self._expiry else 0.0

    async def reserve(self, limits: Sequence[Limit], lease_seconds: float) -> Reservation:
        """Return the result of a store for distinct limits."""
        self._remove_expired()
        for limit in limits:
            missing = limit.at_least - sum(each.amount for each in self._of(limit) if not each.held)
            if limit.kind == "amount" and missing > 0:
                self._settle_amount(limit, missing)
        now, id_ = self._clock(), f"id{len(self._entries)}-{self._clock()}-{id(limits)}"
        waits = [self._wait(limit) for limit in limits]
        refused = waits.index(max(waits)) if max(waits) >= 0 else None
        held = refused is None and any(limit.amount for limit in limits)
        for limit in limits if held else ():
            if limit.amount:
                self._entries.append(_Entry(limit, id_, now, now + lease_seconds, limit.amount))
                if limit.kind == "amount":
                    self._expiry.setdefault(limit.key, now + limit.seconds)
        return Reservation(
            id=id_ if held else "",
            limits=limits,
            refused=refused,
            retry_after_seconds=0.0 if refused is None else waits[refused],
            remaining=[limit.maximum - sum(each.amount for each in self._of(limit)) for limit in limits],
            reset_seconds=[self._reset(limit) for limit in limits],
            lease_seconds=lease_seconds,
            settled=[
                sum(each.amount for each in self._of(limit) if not each.held) if limit.kind == "amount" else 0
                for limit in limits
            ],
        )

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        """Replace reserved amounts by actual ones, once."""
        self._remove_expired()
        now = self._clock()
        if not reservation.id or self._settled.get(reservation.id, 0.0) > now:
            return
        self._settled[reservation.id] = now + 300.0
        for limit, amount in zip(reservation.limits, amounts, strict=True):
            mine = [each for each in self._of(limit) if each.id == reservation.id]
            if limit.kind == "rate":
                if amount > limit.amount:
                    self._entries.append(_Entry(limit, "", now, 0.0, amount - limit.amount))
                elif mine:
                    mine[0].amount = amount
                continue
            self._entries = [each for each in self._entries if each not in mine]
            if limit.kind == "amount":
                self._settle_amount(limit, amount)

    def _settle_amount(self, limit: Limit, amount: int) -> None:
        now = self._clock()
        settled = _Entry(limit, "", now, 0.0, amount)
        settled.held = False
        self._entries.append(settled)
        self._expiry.setdefault(limit.key, now + limit.seconds)

    async def renew(self, reservations: Sequence[Reservation]) -> None:
        """Extend leases, and restore expired ones."""
        self._remove_expired()
        now = self._clock()
        for reservation in reservations:
            if not reservation.id or self._settled.get(reservation.id, 0.0) > now:
                continue
            for limit in reservation.limits:
                if limit.kind == "rate" or not limit.amount:
                    continue
                self._entries = [e for e in self._entries if e.limit.key != limit.key or e.id != reservation.id]
                entry = _Entry(limit, reservation.id, now, now + reservation.lease_seconds, limit.amount)
                self._entries.append(entry)
                if limit.kind == "amount":
                    self._expiry.setdefault(limit.key, now + limit.seconds)

    async def delete(self, key: str) -> None:
        """Delete a counter."""
        self._entries = [each for each in self._entries if each.limit.key != key]
        self._expiry.pop(key, None)
