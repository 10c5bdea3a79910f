"""Counters of limits in the tables of a SQLite file, for `SqliteStore`.

`read_counter` and `write_counters` are called in a transaction of the store. A hold is the amount that a running
request has reserved. Each hold is one row, which also has the end of its lease (time limit).
"""

import sqlite3
from collections.abc import Iterable, Mapping

import msgspec

from anthropic_proxy.stores.counters import Counter
from anthropic_proxy.stores.holds import Holds

TABLES = """
CREATE TABLE IF NOT EXISTS counter (key TEXT PRIMARY KEY, state BLOB NOT NULL, expires_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS hold (
    key TEXT NOT NULL, id TEXT NOT NULL, ends_at REAL NOT NULL, amount INTEGER NOT NULL, PRIMARY KEY (key, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS hold_end ON hold (key, ends_at);
"""
"""SQL that creates the tables and the index."""


class _State(msgspec.Struct):
    """Stored content of a counter without its holds, as MessagePack."""

    expires_at: float = 0.0
    used: int = 0
    slot_seconds: float = 0.0
    slots: dict[int, int] = msgspec.field(default_factory=dict)
    held: int = 0
    """Sum of the holds of the counter."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_State).decode


class _StoredHolds(Holds):
    """Holds of a stored counter. Changes are collected, and `write` stores them in the table.

    `total`: sum of the holds; None for a counter that starts empty.
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

    def items(self) -> Iterable[tuple[str, tuple[float, int]]]:
        raise NotImplementedError("only the holds of a process are listed")

    def write(self) -> None:
        """Write all collected changes of the holds to the table."""
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
    """Return the stored counter with the key `key`. A missing or expired counter is returned empty.

    `now` is the present time in seconds.
    """
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
    """Write the counters in `changed`, by key, to the tables, with their reserved amounts.

    `read_counter` must have returned these counters in the same transaction.
    """
    for key, counter in changed.items():
        if isinstance(counter.holds, _StoredHolds):
            counter.holds.write()
        state = _State(counter.expires_at, counter.used, counter.slot_seconds, counter.slots, counter.holds.total)
        database.execute("REPLACE INTO counter VALUES (?, ?, ?)", (key, _encode(state), counter.expires_at))


def delete_counter(database: sqlite3.Connection, key: str) -> None:
    """Delete the counter with the key `key` and its holds. Does nothing if it is missing."""
    database.execute("DELETE FROM counter WHERE key = ?", (key,))
    database.execute("DELETE FROM hold WHERE key = ?", (key,))


def delete_expired_counters(database: sqlite3.Connection, now: float) -> None:
    """Delete all counters that have expired at the time `now` (seconds)."""
    database.execute("DELETE FROM counter WHERE expires_at <= ?", (now,))
    database.execute("DELETE FROM hold WHERE key NOT IN (SELECT key FROM counter)")
