"""The choices in the table `session_models` of the ledger's database."""

import os
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from typing import NamedTuple

from anthropic_proxy.console.ledger.connection import Connection
from anthropic_proxy.console.ledger.database import LEDGER_FAILURES, find_database, open_for_reading, open_for_writing
from anthropic_proxy.console.ledger.schema import SESSION_MODELS
from anthropic_proxy.console.units import MICROSECONDS
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import SessionModel

KEPT_SECONDS = 12 * 3600.0
"""Time after the last request of a session at which its choice ends."""
_EXTEND_SECONDS = 600.0
"""Use of a choice after which its end is stored anew."""
_READ = f"SELECT client, session, model, replaced, ends_at FROM {SESSION_MODELS.name} WHERE ends_at > ?"
_EXTEND = f"UPDATE {SESSION_MODELS.name} SET ends_at = ? WHERE client = ? AND session = ?"
_STORE = (
    f"INSERT INTO {SESSION_MODELS.name} (client, session, model, replaced, ends_at) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (client, session) DO UPDATE SET model = excluded.model, replaced = excluded.replaced, "
    "ends_at = excluded.ends_at"
)
_DELETE = f"DELETE FROM {SESSION_MODELS.name} WHERE client = ? AND session = ?"
_DELETE_ENDED = f"DELETE FROM {SESSION_MODELS.name} WHERE ends_at <= ?"


SessionKey = tuple[str, str]
"""`Client.id` of the requests of a session, and its id."""


class StoredChoice(NamedTuple):
    chosen: SessionModel
    ends_at: int
    """Microseconds since the epoch."""


Choices = Mapping[SessionKey, StoredChoice]


def read_choices(connection: Connection, now: float) -> Choices:
    found = {}
    for client, session, model, replaced, ends_at in connection.query(_READ, (round(now * MICROSECONDS),)):
        if isinstance(ends_at, int):  # SQLite stores any value in any column
            found[str(client), str(session)] = StoredChoice(SessionModel(str(model), str(replaced)), ends_at)
    return found


def store_choices(settings: Settings, choices: Mapping[SessionKey, SessionModel | None], now: float) -> None:
    """Store the choices of these sessions. None ends that of a session. Raises one of `LEDGER_FAILURES`."""
    end = round((now + KEPT_SECONDS) * MICROSECONDS)
    with closing(open_for_writing(settings)) as connection, connection.transaction():
        connection.execute(_DELETE_ENDED, (round(now * MICROSECONDS),))
        for key, chosen in choices.items():
            if chosen is None:
                connection.execute(_DELETE, key)
            else:
                connection.execute(_STORE, (*key, chosen.model, chosen.replaced, end))


class ChoiceReader:
    """Reads the choices again and again, for one thread at a time. An unchanged SQLite file is not read."""

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._file = find_database(settings).file
        self._clock = clock
        self._connection: Connection | None = None
        self._file_state: object = None
        self._choices: Choices = {}

    def read(self, used: Collection[SessionKey]) -> Choices:
        """Return the present choices. `used`: those that end later, because their sessions have sent requests.

        If the database cannot be read, they are those of the last reading: the ledger reports the failure.
        """
        try:
            state = self._examine_file()
            if state is None or state != self._file_state:
                self._choices = {} if state == () else read_choices(self._open(), self._clock())
                self._file_state = state
            self._extend(used)
        except LEDGER_FAILURES:
            self.close()
        return self._choices

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._file_state = None

    def _examine_file(self) -> tuple[tuple[int, ...], ...] | None:
        """Return what changes with the content of the SQLite files. (): there is none. None: it is PostgreSQL."""
        if self._file is None:
            return None
        found = []
        for path in (self._file, f"{self._file}-wal"):
            if os.path.exists(path):
                status = os.stat(path)
                found.append((status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size))
        return tuple(found)

    def _open(self) -> Connection:
        if self._connection is not None and self._connection.is_replaced:
            self.close()
        self._connection = self._connection or open_for_reading(self._settings)
        return self._connection

    def _extend(self, used: Collection[SessionKey]) -> None:
        end = round((self._clock() + KEPT_SECONDS) * MICROSECONDS)
        latest = end - _EXTEND_SECONDS * MICROSECONDS
        due = [key for key in used if key in self._choices and self._choices[key].ends_at < latest]
        if not due:
            return
        with closing(open_for_writing(self._settings)) as connection, connection.transaction():
            for key in due:
                connection.execute(_EXTEND, (end, *key))
