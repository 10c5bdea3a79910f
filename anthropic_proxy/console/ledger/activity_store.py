"""`ActivityStore`: adds what clients state about work to the sums of an hour in the table `activity`.

A number counts once, although clients send a request again if they got no answer, also to another instance: the table
`activity_points` has each number with its place in its series, and only what exceeds the stored one is added.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Lock

from anthropic_proxy.console.ledger.activity import ACTIVITY_KEYS, ACTIVITY_NAMES, Measurement, Sender
from anthropic_proxy.console.ledger.connection import Connection, DatabaseError
from anthropic_proxy.console.ledger.database import open_for_writing
from anthropic_proxy.console.units import DAY_SECONDS, HOUR_SECONDS, MICROSECONDS, to_microseconds
from anthropic_proxy.gateway.settings import Settings

_KEPT_DAYS = {False: 1, True: 31}
"""Days for which a number is kept after a client has stated it last, to recognize it: of one that grows, because a
client may sleep for a holiday. The end is written again at most once in half of them."""
_MODEL_SECONDS = DAY_SECONDS
"""A model counts by its name if a request has named it in this time. So clients add no names of their own."""
MAX_ROWS = 200
"""Maximum number of rows with a session or a model that a key adds in an hour. The names are those of the client, and a
telemetry request costs it nothing. A person has a few sessions in an hour, with one or two models each."""
_LOCK = 0x61637469
"""Number of the PostgreSQL advisory lock, with which one instance adds at a time."""
_NAMES = ", ".join(ACTIVITY_NAMES)
_FIND_POINT = "SELECT value, ends_at FROM activity_points WHERE series = ? AND place = ?"
_STORE_POINT = (
    "INSERT INTO activity_points (client, series, place, value, ends_at) VALUES (?, ?, ?, ?, ?) ON CONFLICT "
    "(series, place) DO UPDATE SET client = excluded.client, value = excluded.value, ends_at = excluded.ends_at"
)
_FIND_SESSION = (
    "SELECT project FROM session_hours WHERE session = ? AND key_label = ? AND owner = ? "
    "ORDER BY project = '', hour DESC LIMIT 1"
)
_FIND_MODEL = "SELECT 1 FROM requests WHERE requested_model = ? AND started_at >= ? LIMIT 1"
_NAMES_OF_CLIENT = ("project", "session", "requested_model")
_FIND_ROWS = f"SELECT {', '.join(_NAMES_OF_CLIENT)} FROM activity WHERE hour = ? AND key_label = ?"
_KEYS = ", ".join(("hour", *ACTIVITY_KEYS))
_MARKS = ", ".join("?" * (1 + len(ACTIVITY_KEYS) + len(ACTIVITY_NAMES)))
_ADD = f"INSERT INTO activity ({_KEYS}, {_NAMES}) VALUES ({_MARKS}) ON CONFLICT ({_KEYS}) DO UPDATE SET " + ", ".join(
    f"{name} = activity.{name} + excluded.{name}" for name in ACTIVITY_NAMES
)


class ActivityStore:
    """`clock` returns seconds since the epoch."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._connection: Connection | None = None
        self._lock = Lock()

    def add(self, sender: Sender, measurements: Sequence[Measurement]) -> bool:
        """Return False if the key has `MAX_ROWS` in this hour, so that work counts without session, project and model.
        Raises one of `LEDGER_FAILURES`. Nothing is stored then.
        """
        with self._lock:
            try:
                connection = self._open()
                with connection.transaction():
                    if connection.is_postgres:
                        connection.query("SELECT pg_advisory_xact_lock(?)", (_LOCK,))
                    return self._add(connection, sender, measurements)
            except BaseException:
                self._close()
                raise

    def close(self) -> None:
        """A connection with which another thread still adds stays open: its end is that of the process."""
        if self._lock.acquire(blocking=False):
            self._close()
            self._lock.release()

    def _close(self) -> None:
        if self._connection is not None:
            with suppress(DatabaseError):
                self._connection.close()
            self._connection = None

    def _open(self) -> Connection:
        if self._connection is not None and self._connection.is_replaced:
            self._close()
        self._connection = self._connection or open_for_writing(self._settings)
        return self._connection

    def _add(self, connection: Connection, sender: Sender, measurements: Sequence[Measurement]) -> bool:
        now = self._clock()
        hour = int(now // HOUR_SECONDS)
        oldest = to_microseconds(now - _MODEL_SECONDS)
        sums: dict[tuple[str, str], dict[str, int]] = {}
        for one in measurements:
            series = f"{sender.id} {one.series}"
            rows = connection.query(_FIND_POINT, (series, one.place))
            known, known_end = map(int, rows[0]) if rows else (0, 0)
            kept = _KEPT_DAYS[one.grows] * DAY_SECONDS * MICROSECONDS
            end = to_microseconds(now) + kept
            if one.value > known or end - known_end > kept // 2:
                connection.execute(_STORE_POINT, (sender.id, series, one.place, max(one.value, known), end))
            if one.value > known:
                names = sums.setdefault((one.session, one.requested_model), dict.fromkeys(ACTIVITY_NAMES, 0))
                names[one.name] += one.value - known
        stored = {tuple(map(str, row)) for row in connection.query(_FIND_ROWS, (hour, sender.key_label))}
        has_room = True
        for (session, model), names in sums.items():
            found = connection.query(_FIND_SESSION, (session, sender.key_label, sender.owner)) if session else []
            is_known = model and connection.query(_FIND_MODEL, (model, oldest))
            of_client = (str(found[0][0]) if found else "", session if found else "", model if is_known else "")
            if any(of_client) and of_client not in stored and len(stored) >= MAX_ROWS:
                has_room, of_client = False, ("", "", "")
            stored.add(of_client)
            keys = (sender.key_label, sender.owner, sender.team, sender.cost_center, *of_client)
            connection.execute(_ADD, (hour, *keys, *names.values()))
        return has_room
