"""`run_writer`: function of the thread that stores queued requests in the ledger.

After a defect (an unexpected exception), it starts the writer again. Usually, the thread starts the writer after the
first request. But if `needs_migration` returns True, the writer starts with the server. It then migrates the database
before the first request. The module does not load SQLAlchemy.
"""

import traceback
from collections.abc import Callable

from anthropic_proxy.ledger.migrations import NEWEST_VERSION
from anthropic_proxy.ledger.place import find_file_schema_version, find_sqlite_file
from anthropic_proxy.ledger.receipt_queue import ReceiptQueue
from anthropic_proxy.settings import Settings

_MAX_REASON_CHARACTERS = 200
DEFECT_PAUSE_SECONDS = 5.0
"""Pause of the writer in seconds after a defect (unexpected exception)."""


def needs_migration(settings: Settings) -> bool:
    """Return True if the tables of the ledger have, or may have, another version than this program uses.

    The version of a PostgreSQL database is not read here. So the result is always True for a ledger on PostgreSQL.
    """
    file = find_sqlite_file(settings)
    return settings.has_ledger() and (file is None or find_file_schema_version(file) not in (None, NEWEST_VERSION))


def run_writer(
    queue: ReceiptQueue,
    write: Callable[[], None],
    warn: Callable[[str], None],
    pause_seconds: float = DEFECT_PAUSE_SECONDS,
) -> None:
    """Run the writer until `queue` is stopped. After a defect (unexpected exception), run it again.

    The requests of the failed batch are dropped.
    """
    logged = ""
    while True:
        try:
            write()
        except Exception as error:  # noqa: BLE001  # a defect must not end the thread: later requests are stored
            was_ok, dropped, trace = queue.state.condition == "ok", queue.drop_batch(), traceback.format_exc()
            queue.set_failed_state(_describe_defect(error))
            line = f"{queue.state.problem} Dropped requests: {dropped}."
            if trace != logged:
                warn(f"{line}\n{trace}")
            elif dropped or was_ok:
                warn(line)
            logged = trace
        else:
            return
        if queue.is_stopped:
            return
        queue.pause(pause_seconds)


def _describe_defect(error: Exception) -> str:
    """Return the sentences for the user about a defect of the writer, the exception `error`, in one line."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:_MAX_REASON_CHARACTERS]
    return f"The ledger failed because of a defect of the proxy ({reason}). The log has the traceback: report it."
