"""`PostgresStore`: counters of budgets, and values, that instances share in the PostgreSQL database of the ledger.

Theory of operation. The store has one connection and one thread. Calls that wait at the same time share a transaction:
it locks the rows of their counters in the order of their names, reads the reserved amounts, lets a `MemoryStore` with
these counters decide, and writes what has changed. So the lock is held for one exchange of messages, never during a
request. The amounts of running requests are rows of their own, each with the end of its lease by the clock of the
database, so that those of a killed process end. A row without a counter shows for `SETTLED_SECONDS` that a reservation
is settled, so that a repeated settlement has no effect.

Transactions end before they are flushed to disk. A crash of the database may lose the last moments; budgets then get
their use from the ledger (`console/keys/reservations.py`).
"""

import asyncio
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec import Struct

from anthropic_proxy.console.ledger.connection import Connection, DatabaseError
from anthropic_proxy.console.ledger.database import (
    LEDGER_FAILURES,
    classify_database_error,
    find_cause,
    limit_lock_wait,
    open_for_writing,
)
from anthropic_proxy.console.ledger.instances import EXPIRY_SECONDS
from anthropic_proxy.console.units import MICROSECONDS
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.stores.memory import SETTLED_SECONDS, Counter, MemoryStore, run_at_once
from anthropic_proxy.gateway.stores.remote import MAX_CALLS, DataLost, Heartbeat, limit_wait
from anthropic_proxy.plugins import LEASE_SECONDS, Limit, Reservation, StoreState

REPLY_TIMEOUT_SECONDS = 2.0
"""Maximum time for which a call waits, including a new connection."""
LOCK_SECONDS = 1.5
"""Maximum time for which a call waits for a lock. It ends before the call, so that the log names the lock."""
_KEPT_SECONDS = 86_400.0
"""Time for which a counter is kept after its end."""
_MAX_CREATIONS = 3
"""Number of attempts to lock counters that do not exist yet, and that another process may delete meanwhile."""
_OTHERS = "others"
"""Id under which a counter has the sum of all reservations that a transaction does not change."""
_CLOCK = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_SET_LIMITS = (
    "SELECT set_config('synchronous_commit', 'off', true), "
    f"set_config('statement_timeout', '{REPLY_TIMEOUT_SECONDS:g}s', true), "
    f"set_config('idle_in_transaction_session_timeout', '{REPLY_TIMEOUT_SECONDS / 2:g}s', true)"
)
"""The last one ends the transaction of a process that is paused, before others have waited too long for its locks."""
_CREATE = (
    "INSERT INTO limit_counters (name, expires_at) SELECT name, 0 FROM unnest(?::text[]) AS new (name) "
    "ORDER BY name ON CONFLICT DO NOTHING"
)
_READ = "SELECT name, used, expires_at, raised_at FROM limit_counters WHERE name = ANY(?) ORDER BY name"
_STORE_COUNTERS = (
    "UPDATE limit_counters SET used = new.used, expires_at = new.expires_at, raised_at = new.raised_at "
    "FROM unnest(?::text[], ?::bigint[], ?::bigint[], ?::bigint[]) AS new (name, used, expires_at, raised_at) "
    "WHERE limit_counters.name = new.name"
)
_STORE_HOLDS = (
    "INSERT INTO limit_holds (reservation, counter, amount, ends_at) "
    "SELECT * FROM unnest(?::text[], ?::text[], ?::bigint[], ?::bigint[]) "
    "ON CONFLICT (reservation, counter) DO UPDATE SET amount = excluded.amount, ends_at = excluded.ends_at"
)
_DELETE_HOLDS = (
    "DELETE FROM limit_holds USING unnest(?::text[], ?::text[]) AS old (reservation, counter) "
    "WHERE limit_holds.reservation = old.reservation AND limit_holds.counter = old.counter"
)


def _delete_ended(table: str, column: str, kept_seconds: float = 0.0) -> str:
    """Rows that other transactions have locked are left to the next heartbeat."""
    ended = f"SELECT ctid FROM {table} WHERE {column} <= {_CLOCK} - {kept_seconds * MICROSECONDS:.0f}"
    return f"DELETE FROM {table} WHERE ctid = ANY(ARRAY({ended} FOR UPDATE SKIP LOCKED))"


class _Call(Struct, eq=False):
    """A call for the thread."""

    result: "asyncio.Future[Any]"
    run: Callable[[Connection], Any] | None = None
    """None: it is a change or a reading of counters, which shares a transaction with others."""
    limits: Sequence[Limit] = ()
    ids: Sequence[str] = ()
    """Reservations that it may change. Empty: it only reads."""
    apply: Callable[[MemoryStore], Any] | None = None
    """Makes the change in memory, and returns the result of the call."""


class PostgresStore:
    """It implements `RemoteStore`, for limits of the kind `amount`. `clock`: seconds since the epoch, in place of the
    clock of the database.
    """

    title: str = "PostgreSQL"
    failures: tuple[type[Exception], ...] = LEDGER_FAILURES

    def __init__(self, settings: Settings, *, clock: Callable[[], float] | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self.has_news = asyncio.Event()
        self.heartbeat_keys: Sequence[str] = ["instances"]
        self._queue = queue.SimpleQueue[_Call | None]()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: Connection | None = None
        """Used by the thread only."""
        self._connections = 0
        """Number of connections so far. With a new one, the database may have started again, and may lack the last
        moments."""

    @property
    def state(self) -> StoreState:
        return StoreState(kind="database")

    async def reserve(
        self,
        limits: Sequence[Limit],
        lease_seconds: float = LEASE_SECONDS,
        reservation_id: str = "",
        expected_data: str = "",
    ) -> Reservation:
        id_ = reservation_id or os.urandom(16).hex()

        def apply(store: MemoryStore) -> Reservation:
            if expected_data not in ("", str(self._connections)):
                raise DataLost
            if store.is_settled(id_):  # the process no longer waited for it
                raise TimeoutError
            for limit in limits:  # of an earlier attempt whose result was lost
                store.find_counter(limit).holds.remove(id_)
            return store.reserve_as(id_, limits, lease_seconds)

        ids = [id_] if any(limit.amount or limit.at_least for limit in limits) else []
        reservation: Reservation = await self._call(limits=limits, ids=ids, apply=apply)
        return reservation

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        if reservation.is_held:
            await self._call(
                limits=reservation.limits,
                ids=[reservation.id],
                apply=lambda store: run_at_once(store.settle(reservation, amounts)),
            )

    async def renew(self, reservations: Sequence[Reservation]) -> None:
        held = [reservation for reservation in reservations if reservation.is_held]
        if held:
            await self._call(
                limits=[limit for reservation in held for limit in reservation.limits],
                ids=[reservation.id for reservation in held],
                apply=lambda store: run_at_once(store.renew(held)),
            )

    async def get(self, key: str) -> str | None:
        sql = f"SELECT value FROM shared_values WHERE name = ? AND expires_at > {self._now()}"
        rows = await self._query(sql, key)
        return str(rows[0][0]) if rows else None

    async def put(self, key: str, value: str, lifetime_seconds: float) -> None:
        await self._query(
            f"INSERT INTO shared_values (name, value, expires_at) VALUES (?, ?, {self._now()} + ?) "
            "ON CONFLICT (name) DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at RETURNING 1",
            key,
            value,
            _to_lifetime(lifetime_seconds),
        )

    async def put_if_absent(self, key: str, value: str, lifetime_seconds: float) -> str:
        now = self._now()
        is_over = f"shared_values.expires_at <= {now}"
        rows = await self._query(
            f"INSERT INTO shared_values (name, value, expires_at) VALUES (?, ?, {now} + ?) "
            f"ON CONFLICT (name) DO UPDATE SET value = CASE WHEN {is_over} THEN excluded.value "
            "ELSE shared_values.value END, "
            f"expires_at = CASE WHEN {is_over} THEN excluded.expires_at ELSE shared_values.expires_at END "
            "RETURNING value",
            key,
            value,
            _to_lifetime(lifetime_seconds),
        )
        return str(rows[0][0])

    async def increment(self, key: str, amount: float, lifetime_seconds: float) -> float:
        """A row with the id of the call has its sum, so that a repetition adds nothing."""
        call = f"call/{os.urandom(16).hex()}"
        now = self._now()
        is_over = f"shared_values.expires_at <= {now}"
        rows = await self._query(
            "WITH call AS (SELECT value FROM shared_values WHERE name = ?), "
            "changed AS (INSERT INTO shared_values (name, value, expires_at) "
            f"SELECT ?, ?::text, {now} + ?::bigint WHERE NOT EXISTS (SELECT 1 FROM call) ON CONFLICT (name) DO UPDATE "
            f"SET value = CASE WHEN {is_over} THEN excluded.value "
            "ELSE (shared_values.value::float8 + excluded.value::float8)::text END, "
            f"expires_at = CASE WHEN {is_over} THEN excluded.expires_at ELSE shared_values.expires_at END "
            "RETURNING value), "
            "noted AS (INSERT INTO shared_values (name, value, expires_at) "
            f"SELECT ?, value, {now} + ?::bigint FROM changed) "
            "SELECT value FROM call UNION ALL SELECT value FROM changed",
            call,
            key,
            repr(float(amount)),
            _to_lifetime(lifetime_seconds),
            call,
            _to_lifetime(SETTLED_SECONDS),
        )
        return float(rows[0][0])

    async def delete(self, key: str) -> None:
        def run(connection: Connection) -> None:
            with connection.transaction():
                connection.execute("DELETE FROM limit_counters WHERE name = ?", (key,))
                connection.execute("DELETE FROM limit_holds WHERE counter = ?", (key,))
                connection.execute("DELETE FROM shared_values WHERE name = ?", (key,))

        await self._call(run=run)

    async def send_heartbeat(self) -> Heartbeat:
        """Rows that have ended are deleted. This also shows that the database can be written."""

        def run(connection: Connection) -> Heartbeat:
            before = time.monotonic()
            *_, times, processes = connection.query_together(
                [
                    (_delete_ended("limit_holds", "ends_at"), ()),
                    (_delete_ended("shared_values", "expires_at"), ()),
                    (_delete_ended("limit_counters", "expires_at", _KEPT_SECONDS), ()),
                    (f"SELECT {_CLOCK}", ()),
                    (
                        "SELECT coalesce(sum(processes), 0) FROM instances WHERE redis = '' "
                        f"AND seen_at > {_CLOCK} - {EXPIRY_SECONDS * MICROSECONDS:.0f}",
                        (),
                    ),
                ]
            )
            now = int(times[0][0]) / MICROSECONDS
            base = now - (before + time.monotonic()) / 2
            return Heartbeat(
                processes=max(int(processes[0][0]), 1),
                group="",
                data=str(self._connections),
                clock_base=base,
            )

        beat: Heartbeat = await self._call(run=run)
        return beat

    def is_data_error(self, error: BaseException) -> bool:
        return isinstance(error, DatabaseError) and error.concerns_value

    def is_rejection(self, error: BaseException) -> bool:
        return False

    def has_unknown_result(self, error: BaseException) -> bool:
        return True

    def describe_data_error(self, error: BaseException, address: str, keys: Sequence[str]) -> str:
        return f"{self.title} at {address} rejects a value of {', '.join(keys[:10])}: {_read_reason(error)}."

    def describe_failure(self, error: BaseException, address: str) -> str:
        if isinstance(error, TimeoutError):
            return f"{self.title} at {address} did not answer within {REPLY_TIMEOUT_SECONDS:g} s."
        return f"{self.title} at {address} does not count budgets: {_read_reason(error)}."

    async def close(self) -> None:
        if self._thread is not None:
            self._queue.put(None)

    async def _query(self, sql: str, *values: object) -> list[Any]:
        rows: list[Any] = await self._call(run=lambda connection: connection.query(sql, values))
        return rows

    async def _call(self, **fields: Any) -> Any:
        self._loop = asyncio.get_running_loop()
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="budgets", daemon=True)
            self._thread.start()
        call = _Call(self._loop.create_future(), **fields)
        self._queue.put(call)
        async with limit_wait(REPLY_TIMEOUT_SECONDS):
            return await call.result

    def _now(self) -> str:
        """Return the SQL text for the time in microseconds."""
        return _CLOCK if self._clock is None else f"{self._clock() * MICROSECONDS:.0f}"

    # the following methods run in the thread

    def _serve(self) -> None:
        is_open = True
        while is_open:
            calls = [self._queue.get()]
            while len(calls) < MAX_CALLS and not self._queue.empty():
                calls.append(self._queue.get())
            is_open = None not in calls
            waiting = [call for call in calls if call is not None and not call.result.done()]
            changes = [call for call in waiting if call.run is None]
            if changes:
                self._answer(changes, partial(self._run_together, calls=changes))
            for call in waiting:
                if call.run is not None:
                    self._answer([call], partial(_run_alone, call=call))
        self._close()

    def _answer(self, calls: Sequence[_Call], run: Callable[[Connection], Sequence[Any]]) -> None:
        try:
            results = self._use_connection(run)
        except Exception as error:  # noqa: BLE001  # for the callers
            results = [error] * len(calls)
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_deliver, calls, results)

    def _use_connection(self, run: Callable[[Connection], Sequence[Any]]) -> Sequence[Any]:
        """A connection that the server has ended meanwhile is replaced once. A repeated call has no further effect."""
        is_kept = self._connection is not None
        try:
            return run(self._open())
        except self.failures as error:
            is_broken = self._connection is not None and self._connection.is_closed
            if not (isinstance(error, DatabaseError) and error.concerns_value):
                self._close()
            if not (is_kept and is_broken):
                raise
        return run(self._open())

    def _open(self) -> Connection:
        if self._connection is None:
            self._connection = open_for_writing(self._settings)
            self._connection.execute(limit_lock_wait(LOCK_SECONDS))
            self._connections += 1
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self.has_news.set)
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _run_together(self, connection: Connection, calls: Sequence[_Call]) -> Sequence[Any]:
        try:
            return _Transaction(connection, calls, self._now()).run()
        except BaseException:
            connection.roll_back()
            raise


class _Transaction:
    """One transaction for several calls. `now`: SQL text for the time in microseconds."""

    def __init__(self, connection: Connection, calls: Sequence[_Call], now: str) -> None:
        self._connection = connection
        self._calls = calls
        self._now = now
        self._limits = {limit.key: limit for call in calls for limit in call.limits}
        self._changed = sorted({limit.key for call in calls if call.ids for limit in call.limits})
        self._ids = [*dict.fromkeys(reservation_id for call in calls for reservation_id in call.ids)]
        self._stored: dict[str, tuple[int, int, int]] = {}
        """Name of a counter → its settled amount, and its end and latest raise in microseconds."""
        self._holds: dict[tuple[str, str], tuple[int, int]] = {}
        """Reservation and counter → amount, and end of the lease in microseconds."""

    def run(self) -> Sequence[Any]:
        store, now = self._read()
        results = [_apply(call, store) for call in self._calls]
        if self._ids:
            self._connection.query_together([*self._list_changes(store, now), ("COMMIT", ())])
        return results

    def _read(self) -> tuple[MemoryStore, int]:
        """Lock the counters that are changed. Return a store with all counters, and the time in microseconds."""
        statements = self._list_readings()
        for _ in range(_MAX_CREATIONS):
            rows = dict(zip(statements, self._connection.query_together([*statements.values()]), strict=True))
            if len(rows.get("locked", ())) == len(self._changed):
                break
            # locks on new rows would not be in the order of the names: two transactions could wait for each other
            self._connection.roll_back()
            self._connection.execute(_CREATE, (self._changed,))
        else:
            raise OSError("another program deletes the counters")
        now = int(rows["time"][0][0])
        self._stored = {name: tuple(values) for name, *values in (*rows.get("locked", ()), *rows.get("unlocked", ()))}
        counters = {
            name: Counter(expires_at=end / MICROSECONDS, used=used, raised_at=raised / MICROSECONDS)
            for name, (used, end, raised) in self._stored.items()
            if end > now
        }
        for name, amount in rows["others"]:
            if name in counters:
                counters[name].holds.put(_OTHERS, math.inf, int(amount))
        settled = {}
        for reservation_id, name, amount, end in rows.get("own", ()):
            if name or end > now:
                self._holds[reservation_id, name] = amount, end
            if name in counters:
                counters[name].holds.put(reservation_id, end / MICROSECONDS, amount)
            elif not name and end > now:
                settled[reservation_id] = end / MICROSECONDS
        return MemoryStore(clock=lambda: now / MICROSECONDS, counters=counters, settled=settled), now

    def _list_readings(self) -> Mapping[str, tuple[str, Sequence[object]]]:
        """Return name of a result → the statement. The reserved amounts are read after the wait for the locks."""
        statements: dict[str, tuple[str, Sequence[object]]] = {}
        if self._ids:
            statements["begin"] = "BEGIN ISOLATION LEVEL READ COMMITTED", ()
            statements["limits"] = _SET_LIMITS, ()
            statements["locked"] = f"{_READ} FOR UPDATE", (self._changed,)
            holds_of_these = "SELECT reservation, counter, amount, ends_at FROM limit_holds WHERE reservation = ANY(?)"
            statements["own"] = holds_of_these, (self._ids,)
        if unlocked := sorted(self._limits.keys() - {*self._changed}):
            statements["unlocked"] = _READ, (unlocked,)
        statements["time"] = f"SELECT {self._now}", ()
        statements["others"] = (
            "SELECT counter, sum(amount) FROM limit_holds WHERE counter = ANY(?) AND amount > 0 "
            f"AND ends_at > {self._now} AND NOT reservation = ANY(?) GROUP BY counter",
            (sorted(self._limits), self._ids),
        )
        return statements

    def _list_changes(self, store: MemoryStore, now: int) -> Sequence[tuple[str, Sequence[object]]]:
        counters = [(name, store.find_counter(self._limits[name])) for name in self._changed]
        ended = [name for name in self._changed if self._stored[name][1] <= now]
        used = [
            (name, *values)
            for name, counter in counters
            if counter.expires_at and (values := _list_values(counter)) != self._stored[name]
        ]
        held = []
        removed = []
        for name, counter in counters:
            for reservation_id in self._ids:
                hold = counter.holds.find(reservation_id)
                if hold is not None:
                    end, amount = hold
                    if self._holds.get((reservation_id, name)) != (amount, _to_microseconds(end)):
                        held.append((reservation_id, name, amount, _to_microseconds(end)))
                elif (reservation_id, name) in self._holds:
                    removed.append((reservation_id, name))
        end = now + round(SETTLED_SECONDS * MICROSECONDS)
        held += [
            (reservation_id, "", 0, end)
            for reservation_id in self._ids
            if store.is_settled(reservation_id) and (reservation_id, "") not in self._holds
        ]
        changes: list[tuple[str, Sequence[Sequence[object]]]] = [
            ("DELETE FROM limit_holds WHERE counter = ANY(?)", [ended] if ended else []),
            (_STORE_COUNTERS, [*zip(*used, strict=True)]),
            (_STORE_HOLDS, [*zip(*held, strict=True)]),
            (_DELETE_HOLDS, [*zip(*removed, strict=True)]),
        ]
        return [(sql, [list(column) for column in columns]) for sql, columns in changes if columns]


def _run_alone(connection: Connection, call: _Call) -> Sequence[Any]:
    assert call.run is not None
    return [call.run(connection)]


def _apply(call: _Call, store: MemoryStore) -> Any:
    assert call.apply is not None
    try:
        return call.apply(store)
    except (TimeoutError, DataLost) as error:  # of this call alone
        return error


def _deliver(calls: Sequence[_Call], results: Sequence[Any]) -> None:
    for call, result in zip(calls, results, strict=True):
        if call.result.done():
            continue
        if isinstance(result, Exception):
            call.result.set_exception(result)
        else:
            call.result.set_result(result)


def _list_values(counter: Counter) -> tuple[int, int, int]:
    """Return the values of a row of `limit_counters` without the name."""
    return counter.used, _to_microseconds(counter.expires_at), _to_microseconds(counter.raised_at)


def _to_microseconds(seconds: float) -> int:
    return round(seconds * MICROSECONDS)


def _to_lifetime(seconds: float) -> int:
    return max(_to_microseconds(seconds), 1)


def _read_reason(error: BaseException) -> str:
    if isinstance(error, ConfigurationError):
        return error.message.rstrip(".")
    first_line = str(find_cause(error)).strip().partition("\n")[0]
    return f"{classify_database_error(error)} ({first_line[:300].rstrip('.')})"
