"""`SqliteStore`: values and limits in a SQLite file that the workers share, or in memory while it cannot be used."""

import asyncio
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

import msgspec

from anthropic_proxy.gateway.stores import counters
from anthropic_proxy.gateway.stores.counters import SETTLED_SECONDS, Counter, Holds
from anthropic_proxy.gateway.stores.own_usage import OwnUsage
from anthropic_proxy.plugins import LEASE_SECONDS, Limit, Reservation, StoreState

FILE_NAME = "limits.sqlite3"
LOCK_TIMEOUT_SECONDS = 2.0
"""Maximum time in seconds for which a transaction waits for the end of another worker's transaction."""
RETRY_SECONDS = 0.5
DELETE_INTERVAL_SECONDS = 60.0
_TABLES = """
CREATE TABLE IF NOT EXISTS stored_value (key TEXT PRIMARY KEY, value TEXT NOT NULL, expires_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS settled (id TEXT PRIMARY KEY, expires_at REAL NOT NULL);
"""
_FAILURES = (sqlite3.Error, OSError)
_SETTLED_AT_ONCE = 1000
"""Maximum number of waiting settlements in one transaction, so that other workers do not wait too long."""
_NAMES = ("stored_value", "settled")
_Result = TypeVar("_Result")


class SqliteStore:
    """Store in the SQLite file `file`, opened at the first use. Implements `plugins.Store`. `clock`: seconds since the
    epoch.
    """

    def __init__(
        self, file: Path, warn: Callable[[str], None] = lambda _: None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._file, self._clock, self._warn = file, clock, warn
        self._usage = OwnUsage(clock)
        """Amounts of this process. It replaces the file while the file cannot be used."""
        self._problem = ""
        """Failure of the file. "": the file is used."""
        self._failure: BaseException | None = None
        """Latest failure in the thread. Transactions that wait for the thread then fail at once. None: the latest
        transaction succeeded."""
        self._recovering: asyncio.Task[None] | None = None
        self._adding = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "limits")
        self._connection: sqlite3.Connection | None = None
        self._next_deletion = 0.0

    @property
    def state(self) -> StoreState:
        return StoreState(
            kind="sqlite",
            available=not self._problem,
            problem=self._problem,
            pending_settlements=len(self._usage.pending),
        )

    async def get(self, key: str) -> str | None:
        def read(database: sqlite3.Connection) -> str | None:
            row = database.execute(
                "SELECT value FROM stored_value WHERE key = ? AND expires_at > ?", (key, self._clock())
            ).fetchone()
            return None if row is None else str(row[0])

        return await self._run(read, lambda: self._usage.values.get(key))

    async def put(self, key: str, value: str, lifetime_seconds: float) -> None:
        await self._run(
            lambda database: _put(database, key, value, self._clock() + lifetime_seconds),
            lambda: self._usage.values.put(key, value, lifetime_seconds),
        )

    async def increment(self, key: str, amount: float, lifetime_seconds: float) -> float:
        def write(database: sqlite3.Connection) -> float:
            now = self._clock()
            row = database.execute("SELECT value, expires_at FROM stored_value WHERE key = ?", (key,)).fetchone()
            text, expiry = row if row is not None and row[1] > now else ("0", now + lifetime_seconds)
            total = float(text) + amount
            _put(database, key, repr(total), expiry)
            return total

        return await self._run(write, lambda: self._usage.values.increment(key, amount, lifetime_seconds))

    async def delete(self, key: str) -> None:
        def write(database: sqlite3.Connection) -> None:
            database.execute("DELETE FROM stored_value WHERE key = ?", (key,))
            delete_counter(database, key)

        await self._usage.values.delete(key)
        await self._run(write, lambda: self._usage.values.delete(key))

    async def reserve(self, limits: Sequence[Limit], lease_seconds: float = LEASE_SECONDS) -> Reservation:
        def write(database: sqlite3.Connection) -> Reservation:
            find = self._reader(database)
            reservation, changed = counters.reserve_counters(
                find, limits, os.urandom(16).hex(), self._clock(), lease_seconds
            )
            write_counters(database, changed)
            return reservation

        return await self._run(
            write, lambda: self._usage.reserve(limits, lease_seconds, 1), self._usage.add_existing_reservation
        )

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        async def wait_for_file() -> None:
            self._usage.pending.append((reservation, amounts))

        if reservation.is_held and not await self._usage.settle(reservation, amounts):
            await self._run(lambda database: self._settle(database, reservation, amounts), wait_for_file)

    async def renew(self, reservations: Sequence[Reservation]) -> None:
        def write(database: sqlite3.Connection) -> None:
            now = self._clock()
            running = [each for each in reservations if each.is_held and not _is_settled(database, each, now)]
            write_counters(database, counters.renew_counters(self._reader(database), running, now))

        async def do_nothing() -> None:
            return

        await self._usage.renew(reservations)
        await self._run(write, do_nothing)

    async def close(self) -> None:
        """Close the file. Amounts that were counted in memory after a failure are added to it first, if possible."""
        async with self._adding:
            if self._recovering is not None:
                self._recovering.cancel()
        if self._problem:
            try:
                await self._add_missing()
            except _FAILURES:
                if self._usage.pending:
                    self._warn(f"{len(self._usage.pending)} settlements of limits were not stored. {self._problem}")
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown(wait=False)

    async def _run(
        self,
        function: Callable[[sqlite3.Connection], _Result],
        replacement: Callable[[], Awaitable[_Result]],
        on_success: Callable[[_Result], None] = lambda _: None,
    ) -> _Result:
        """Run `function` in a transaction. If the file cannot be used, return the result of `replacement`."""
        if not self._problem:
            try:
                result = await self._execute(function)
            except _FAILURES as error:
                if not self._problem:
                    self._problem = f"The limits in {self._file} cannot be used: {error}. Correct the cause."
                    self._warn(f"{self._problem} Until then, each process counts limits by itself.")
                    self._recovering = asyncio.create_task(self._recover())
            else:
                on_success(result)
                return result
        return await replacement()

    async def _recover(self) -> None:
        while self._problem:
            await asyncio.sleep(RETRY_SECONDS)
            try:
                await self._add_missing()
            except _FAILURES as error:
                self._problem = f"The limits in {self._file} cannot be used: {error}. Correct the cause."
        self._warn(f"The limits in {self._file} are used again.")

    async def _add_missing(self) -> None:
        async with self._adding:
            while self._problem:
                running = self._usage.queue_unsent()
                settlements = list(islice(self._usage.pending, _SETTLED_AT_ONCE))
                await self._execute(lambda database: self._add(database, running, settlements), is_retry=True)  # noqa: B023
                for _ in settlements:
                    self._usage.pending.popleft()
                if not self._usage.has_unsent:
                    self._problem = ""

    def _add(
        self,
        database: sqlite3.Connection,
        running: Sequence[Reservation],
        settlements: Sequence[tuple[Reservation, Sequence[int]]],
    ) -> None:
        write_counters(database, counters.renew_counters(self._reader(database), running, self._clock()))
        for reservation, amounts in settlements:
            self._settle(database, reservation, amounts)

    def _settle(self, database: sqlite3.Connection, reservation: Reservation, amounts: Sequence[int]) -> None:
        now = self._clock()
        if not _is_settled(database, reservation, now):
            database.execute("REPLACE INTO settled VALUES (?, ?)", (reservation.id, now + SETTLED_SECONDS))
            write_counters(database, counters.settle_counters(self._reader(database), reservation, amounts, now))

    async def _execute(self, function: Callable[[sqlite3.Connection], _Result], *, is_retry: bool = False) -> _Result:
        """Run `function` in one transaction, in the thread of the store. `is_retry`: the file is tried although the
        latest transaction failed.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._run_transaction, function, is_retry)

    def _run_transaction(self, function: Callable[[sqlite3.Connection], _Result], is_retry: bool) -> _Result:
        if self._failure is not None and not is_retry:
            raise self._failure
        try:
            database = self._connection = self._connection or _open(self._file)
            database.execute("BEGIN IMMEDIATE")
            result = function(database)
            if (now := self._clock()) >= self._next_deletion:
                self._next_deletion = now + DELETE_INTERVAL_SECONDS
                for name in _NAMES:
                    database.execute(f"DELETE FROM {name} WHERE expires_at <= ?", (now,))
                delete_expired_counters(database, now)
            database.execute("COMMIT")
        except BaseException as error:
            self._failure = error if isinstance(error, _FAILURES) else None
            self._disconnect()  # this also ends the transaction
            raise
        self._failure = None
        return result

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _reader(self, database: sqlite3.Connection) -> Callable[[str], Counter]:
        return lambda key: read_counter(database, key, self._clock())


def _open(file: Path) -> sqlite3.Connection:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    database = sqlite3.connect(file, timeout=LOCK_TIMEOUT_SECONDS, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=NORMAL")  # a killed process loses nothing, a power failure the last rows
    database.executescript(_TABLES + TABLES)
    return database


def _put(database: sqlite3.Connection, key: str, value: str, expires_at: float) -> None:
    database.execute("REPLACE INTO stored_value VALUES (?, ?, ?)", (key, value, expires_at))


def _is_settled(database: sqlite3.Connection, reservation: Reservation, now: float) -> bool:
    row = database.execute("SELECT 1 FROM settled WHERE id = ? AND expires_at > ?", (reservation.id, now)).fetchone()
    return row is not None


TABLES = """
CREATE TABLE IF NOT EXISTS counter (key TEXT PRIMARY KEY, state BLOB NOT NULL, expires_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS hold (
    key TEXT NOT NULL, id TEXT NOT NULL, ends_at REAL NOT NULL, amount INTEGER NOT NULL, PRIMARY KEY (key, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS hold_end ON hold (key, ends_at);
"""


class _State(msgspec.Struct):
    """Stored content of a counter without its holds, as MessagePack."""

    expires_at: float = 0.0
    used: int = 0
    slot_seconds: float = 0.0
    slots: dict[int, int] = msgspec.field(default_factory=dict)
    held: int = 0


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_State).decode


class _StoredHolds(Holds):
    """Holds of a stored counter. Changes are collected, and `write` stores them in the table. `total`: sum of the
    holds; None for a counter that starts empty.
    """

    def __init__(self, database: sqlite3.Connection, key: str, total: int | None) -> None:
        super().__init__()
        self.total = total or 0
        self._database, self._key = database, key
        self._starts_empty = total is None
        self._removed_until = 0.0
        """Time in seconds until which holds with ended leases are removed by `write`."""
        self._changed: dict[str, tuple[float, int] | None] = {}

    def put(self, reservation_id: str, end: float, amount: int) -> None:
        self.total += amount - self._find_amount(reservation_id)
        self._changed[reservation_id] = end, amount

    def remove(self, reservation_id: str) -> None:
        self.total -= self._find_amount(reservation_id)
        self._changed[reservation_id] = None

    def remove_expired(self, now: float) -> None:
        for reservation_id, hold in list(self._changed.items()):
            if hold is not None and hold[0] <= now:
                self.remove(reservation_id)
        if now > self._removed_until and not self._starts_empty:
            rows = self._database.execute(
                "SELECT id, amount FROM hold WHERE key = ? AND ends_at > ? AND ends_at <= ?",
                (self._key, self._removed_until, now),
            )
            self.total -= sum(amount for reservation_id, amount in rows if reservation_id not in self._changed)
        self._removed_until = max(now, self._removed_until)

    def write(self) -> None:
        if self._starts_empty:
            self._database.execute("DELETE FROM hold WHERE key = ?", (self._key,))
        if self._removed_until:
            self._database.execute("DELETE FROM hold WHERE key = ? AND ends_at <= ?", (self._key, self._removed_until))
        removed = [(self._key, reservation_id) for reservation_id, hold in self._changed.items() if hold is None]
        self._database.executemany("DELETE FROM hold WHERE key = ? AND id = ?", removed)
        rows = [
            (self._key, reservation_id, *hold) for reservation_id, hold in self._changed.items() if hold is not None
        ]
        self._database.executemany("REPLACE INTO hold VALUES (?, ?, ?, ?)", rows)
        self._starts_empty, self._removed_until, self._changed = False, 0.0, {}

    def _find_amount(self, reservation_id: str) -> int:
        if reservation_id in self._changed:
            hold = self._changed[reservation_id]
            return 0 if hold is None else hold[1]
        if self._starts_empty:
            return 0
        row = self._database.execute(
            "SELECT amount FROM hold WHERE key = ? AND id = ? AND ends_at > ?",
            (self._key, reservation_id, self._removed_until),
        ).fetchone()
        return 0 if row is None else int(row[0])


def read_counter(database: sqlite3.Connection, key: str, now: float) -> Counter:
    """A missing or expired counter is returned empty."""
    row = database.execute("SELECT state FROM counter WHERE key = ? AND expires_at > ?", (key, now)).fetchone()
    if row is None:
        return Counter(holds=_StoredHolds(database, key, None))
    state = _decode(row[0])
    return Counter(
        expires_at=state.expires_at,
        used=state.used,
        slot_seconds=state.slot_seconds,
        slots=state.slots,
        holds=_StoredHolds(database, key, state.held),
    )


def write_counters(database: sqlite3.Connection, changed: Mapping[str, Counter]) -> None:
    """Write counters, which `read_counter` must have returned in the same transaction."""
    for key, counter in changed.items():
        if isinstance(counter.holds, _StoredHolds):
            counter.holds.write()
        state = _State(counter.expires_at, counter.used, counter.slot_seconds, counter.slots, counter.holds.total)
        database.execute("REPLACE INTO counter VALUES (?, ?, ?)", (key, _encode(state), counter.expires_at))


def delete_counter(database: sqlite3.Connection, key: str) -> None:
    database.execute("DELETE FROM counter WHERE key = ?", (key,))
    database.execute("DELETE FROM hold WHERE key = ?", (key,))


def delete_expired_counters(database: sqlite3.Connection, now: float) -> None:
    database.execute("DELETE FROM counter WHERE expires_at <= ?", (now,))
    database.execute("DELETE FROM hold WHERE key NOT IN (SELECT key FROM counter)")
