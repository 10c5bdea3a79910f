"""Thread of the ledger: the decision about its start, and its continuation after a defect. Loads no library.

`run_writer` is the function of the thread, in which the writer stores queued records of requests. A defect is an
unexpected exception of the writer. `needs_migration` decides whether the thread must start before the first request.
"""

import traceback
from collections.abc import Callable

from anthropic_proxy.ledger.migrations import NEWEST_VERSION
from anthropic_proxy.ledger.place import find_file_version, find_sqlite_file
from anthropic_proxy.ledger.receipt_queue import ReceiptQueue
from anthropic_proxy.settings import Settings

_MAX_REASON_CHARACTERS = 200
DEFECT_PAUSE_SECONDS = 5.0
"""Pause of the writer in seconds after a defect (unexpected exception)."""


def needs_migration(settings: Settings) -> bool:
    """Return True if the database of `settings` exists and has, or may have, the schema of another version.

    The version of a PostgreSQL database is not known here, so the result is then True.
    """
    file = find_sqlite_file(settings)
    return settings.has_ledger() and (file is None or find_file_version(file) not in (None, NEWEST_VERSION))


def run_writer(
    queue: ReceiptQueue,
    write: Callable[[], None],
    warn: Callable[[str], None],
    pause_seconds: float = DEFECT_PAUSE_SECONDS,
) -> None:
    """Run the writer until `queue` is stopped. After a defect, drop its batch, pause, and run the writer again.

    `write` runs the writer until the queue is stopped. `warn` writes a line into the log, with the traceback of each
    new defect. `pause_seconds` is the length of the pause.
    """
    logged = ""
    while True:
        try:
            write()
        except Exception as error:  # noqa: BLE001  # a defect must not end the thread: later requests are stored
            was_ok, dropped, trace = queue.state.condition == "ok", queue.drop_batch(), traceback.format_exc()
            queue.fail(_describe_defect(error))
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
