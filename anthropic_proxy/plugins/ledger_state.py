"""`LedgerState`: condition of the ledger, the database of finished requests, for `/health` and `/metrics`."""

from typing import Literal

from msgspec import Struct

LedgerCondition = Literal["ok", "disk full", "locked", "read-only", "corrupt", "unreachable", "newer schema", "failed"]
"""Result of the last attempt to store requests.

`newer schema`: a newer version of the program has changed the database, so this version does not write. `failed`:
another error, which is in the log.
"""


class LedgerState(Struct):
    """Condition of the ledger (database of requests), and numbers of stored, waiting and lost requests.

    The numbers are those of this process since its start.
    """

    condition: LedgerCondition = "ok"
    """Result of the last attempt to store requests."""
    problem: str = ""
    """Sentence for the user with cause, reason and remedy. It may contain a path. "": the condition is `ok`."""
    queued_rows: int = 0
    """Number of requests that are not stored yet."""
    written_rows: int = 0
    """Number of stored requests."""
    dropped_rows: int = 0
    """Number of lost requests: the queue was full, or the database rejected the values."""
    last_written_at: float | None = None
    """Time of the last successful transaction in seconds since the epoch. None: no transaction so far."""
    waiting_since: float | None = None
    """Time in seconds since the epoch since which requests wait without a successful transaction. None: no request
    waits."""
