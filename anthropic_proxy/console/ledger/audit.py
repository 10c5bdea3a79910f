"""Entries of the audit log, which the table `audit_log` has. `console/keys/queries.py` reads them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec

from anthropic_proxy.console.ledger.connection import Connection
from anthropic_proxy.console.units import to_microseconds

Changes = Mapping[str, tuple[object, object]]
"""Name of a changed field → (old value, new value)."""
_LOCK = 0x6B657973
"""Number of the PostgreSQL advisory lock that is held during a change. Ids in the audit log thus ascend in the order of
the changes: instances read keys again after an entry with a higher id."""


@contextmanager
def changing(connection: Connection) -> Iterator[None]:
    """A transaction for changes and their entries."""
    with connection.transaction():
        if connection.is_postgres:
            connection.query("SELECT pg_advisory_xact_lock(?)", (_LOCK,))
        yield


def add_entry(connection: Connection, at: float, *, actor: str, action: str, target: str, changes: Changes) -> None:
    """`at`: seconds since the epoch. Call it within `changing`."""
    row = {"at": to_microseconds(at), "actor": actor, "action": action, "object": target}
    connection.insert_row("audit_log", {**row, "changes": msgspec.json.encode(changes).decode()})
