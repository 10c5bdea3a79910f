"""Plugin of the ledger, the database of requests. It starts and stops with the server.

Its observer is a `ReceiptQueue`, which receives the receipt (record) of each finished request. A thread stores the
receipts in the database.
"""

import asyncio
import traceback
from collections.abc import Callable
from importlib.util import find_spec

from anthropic_proxy.errors import ConfigurationError, MissingExtra
from anthropic_proxy.ledger.api import LedgerApi
from anthropic_proxy.ledger.content_buffer import MAX_BUFFERED_BYTES, ContentBuffer
from anthropic_proxy.ledger.database import find_file_schema_version, find_sqlite_file
from anthropic_proxy.ledger.migrations import NEWEST_VERSION
from anthropic_proxy.ledger.receipt_queue import ReceiptQueue
from anthropic_proxy.plugins import Gateway, Plugin
from anthropic_proxy.settings import Settings

STOP_SECONDS = 5.0
"""Maximum time in seconds at shutdown to write the queued receipts."""
# the delay lets the server accept requests first
MIGRATION_DELAY_SECONDS = 0.5
"""Time in seconds from the start of the server to the check of the schema of an existing database."""


def open_plugin(settings: Settings) -> Plugin:
    """Return the plugin of the ledger, which stores the receipt (record) of each finished request.

    Raises `ConfigurationError` if `DATABASE_URL` selects PostgreSQL and its driver is not installed.
    """
    url = settings.database_url
    if url is not None and url.reveal().startswith("postgres") and find_spec("psycopg") is None:
        missing = MissingExtra("A PostgreSQL database (DATABASE_URL) needs psycopg", "postgres")
        raise ConfigurationError(missing.message)
    ledger = _Ledger(settings)
    return Plugin(
        observers=[ledger.queue],
        recorders=[] if ledger.contents is None else [ledger.contents],
        routes=ledger.api.routes,
        start=ledger.start,
        stop=ledger.stop,
        ledger_state=lambda: ledger.queue.state,
    )


class _Ledger:
    """Queue of receipts, its thread, and the connection of both to the running proxy."""

    def __init__(self, settings: Settings) -> None:
        self.contents = ContentBuffer(self._warn_full) if settings.ledger_content else None
        """Buffer with the texts of requests that are not stored yet. None: texts are never stored."""
        self.queue = ReceiptQueue(self._run, contents=self.contents)
        self._settings = settings
        self._timer: asyncio.TimerHandle | None = None
        self.api = LedgerApi(lambda: self.gateway)
        self.gateway: Gateway | None = None
        """The running proxy. None: the proxy has not started."""

    async def start(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self._timer = asyncio.get_running_loop().call_later(MIGRATION_DELAY_SECONDS, self.queue.start)

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self.api.stop()
        lost = await asyncio.to_thread(self.queue.stop, STOP_SECONDS)
        if lost:
            self._warn(f"The ledger did not store the last {lost} requests. {self.queue.state.problem}".strip())

    def _run(self, queue: ReceiptQueue) -> None:
        """Run the ledger in the thread of `queue`, until the queue is stopped.

        It waits for the first receipt (record of a request), unless the schema of the database needs a migration.
        """
        if not needs_migration(self._settings):
            queue.wait_for_receipt()
        if queue.is_stopped and not len(queue):
            return
        run_writer(queue, self._write, self._warn)

    def _write(self) -> None:
        """Import the writer of the ledger and run it. The import happens in the thread, because it needs time."""
        from anthropic_proxy.ledger.writer import LedgerWriter  # noqa: PLC0415

        LedgerWriter(self.queue, self._current_settings, self._warn).run()

    def _current_settings(self) -> Settings:
        return self._settings if self.gateway is None else self.gateway.settings

    def _warn_full(self) -> None:
        if self.gateway is not None:
            self.gateway.log_warning_once(
                "The ledger stores some requests without their texts, because the running and waiting ones need "
                f"{MAX_BUFFERED_BYTES >> 20} MB. A lower MAX_UPSTREAM_CALLS needs less."
            )

    def _warn(self, text: str) -> None:
        if self.gateway is not None:
            self.gateway.log_warning_each_time(text)


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
