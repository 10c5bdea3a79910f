"""Plugin of the ledger: its queue of receipts, the thread that stores them, and its routes below `/api/`.

The start of the proxy must not wait for the database. So this module does not load its driver: the thread of the ledger
loads it half a second after the start. A thread for queries loads SQLAlchemy with the first request to a route.
"""

import asyncio
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from anthropic_proxy.console.ledger.reader_threads import ReaderThreads
from anthropic_proxy.console.ledger.receipt_queue import (
    DISK_CHECK_SECONDS,
    MAX_BUFFERED_BYTES,
    ContentBuffer,
    ReceiptQueue,
)
from anthropic_proxy.engine.own_thread import run_in_own_thread
from anthropic_proxy.errors import require_package
from anthropic_proxy.gateway.conditions import build_ledger_condition, build_spool_condition
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import (
    Condition,
    Gateway,
    Plugin,
    Route,
    RouteRequest,
    RouteResponse,
    Store,
    StoreUnavailable,
)

if TYPE_CHECKING:
    from anthropic_proxy.console.ledger.event_push import EventPush
    from anthropic_proxy.console.ledger.instance_watch import InstanceWatch

STOP_SECONDS = 5.0
MIGRATION_DELAY_SECONDS = 0.5
"""Time in seconds from the start of the server to the check of the schema, so that it accepts requests first."""
_INSTANCE_WATCH = "anthropic_proxy.console.ledger.instance_watch"
_EVENT_PUSH = "anthropic_proxy.console.ledger.event_push"
UNUSED_SECONDS = 5.0
"""Pause between two looks whether a SQLite database has come into use."""
DEFECT_PAUSE_SECONDS = 5.0
_FULL = (
    "The ledger stores some requests without their texts, because the running and waiting ones need "
    f"{MAX_BUFFERED_BYTES >> 20} MB. A lower MAX_UPSTREAM_CALLS needs less."
)
_MAX_TITLE_BYTES = 4 << 20
"""Maximum number of bytes in the buffer of titles. Sessions whose title does not fit have their other name."""
API_PATHS = ("/api/usage", "/api/requests", "/api/requests/{id}")


def open_plugin(settings: Settings) -> Plugin:
    """Raises `ConfigurationError` if `DATABASE_URL` selects PostgreSQL and its driver is not installed."""
    if _is_on_postgres(settings):
        require_package("A PostgreSQL database (DATABASE_URL) needs psycopg", "psycopg", "postgres")
    ledger = _Ledger(settings)
    return Plugin(
        observers=[ledger.queue],
        recorders=[] if ledger.contents is None else [ledger.contents],
        title_recorders=[] if ledger.titles is None else [ledger.titles],
        routes=[Route(path=path, respond=partial(ledger.respond, path)) for path in API_PATHS],
        start=ledger.start,
        stop=ledger.stop,
        ledger_state=lambda: ledger.queue.state,
        conditions=ledger.list_conditions,
        extend_store=ledger.extend_store if _is_on_postgres(settings) else None,
        # instances that share Redis may have a SQLite file each
        keep_secret=ledger.keep_secret if _is_on_postgres(settings) or settings.redis_url is None else None,
    )


def _is_on_postgres(settings: Settings) -> bool:
    url = settings.database_url
    return url is not None and url.reveal().startswith("postgres")


class _Ledger:
    def __init__(self, settings: Settings) -> None:
        self.contents = ContentBuffer(lambda: self._warn(_FULL, once=True)) if settings.ledger_content else None
        """Texts of requests that are not stored yet. None: texts are never stored."""
        self.titles = ContentBuffer(lambda: None, max_bytes=_MAX_TITLE_BYTES) if settings.ledger_titles else None
        """Requests for titles of sessions, and their replies, that are not stored yet. None: no title is stored."""
        self.queue = ReceiptQueue(self._run, contents=self.contents, titles=self.titles)
        self._readers = ReaderThreads()
        self._settings = settings
        self._timer: asyncio.TimerHandle | None = None
        self._gateway: Gateway[Settings] | None = None
        self._instances: InstanceWatch | None = None
        self._events: EventPush | None = None
        """None: there was no destination of `[siem]` yet."""
        self._tasks: Sequence[asyncio.Task[None]] = ()

    async def start(self, gateway: Gateway[Settings]) -> None:
        self._gateway = gateway
        watches = (self._watch_instances(gateway), self._push_events(gateway))
        self._tasks = [asyncio.create_task(watch) for watch in watches]
        self._timer = asyncio.get_running_loop().call_later(MIGRATION_DELAY_SECONDS, self.queue.start)

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._readers.stop()
        stopping = run_in_own_thread("ledger-stop", self.queue.stop, STOP_SECONDS)
        if self._instances is not None:
            lost, _ = await asyncio.gather(stopping, self._instances.close())
        else:
            lost = await stopping
        if lost:
            self.queue.state.lost_rows = lost
            reasons = " ".join(filter(None, (self.queue.state.problem, self.queue.spool_problem)))
            requests = "the last request" if lost == 1 else f"the last {lost} requests"
            self._warn(f"The ledger did not store {requests}. {reasons}".strip())

    def extend_store(self, process_store: Store, warn: Callable[[str], None]) -> Store:
        from anthropic_proxy.console.ledger.database_store import open_database_store  # noqa: PLC0415  # loads the driver

        return open_database_store(self._settings, process_store, warn)

    async def keep_secret(self, secret: str) -> str:
        def keep() -> str:
            from anthropic_proxy.console.ledger import database, own_secret  # noqa: PLC0415  # loads the driver

            try:
                return own_secret.keep_secret(self._settings, secret)
            except database.LEDGER_FAILURES:  # the ledger reports them
                raise StoreUnavailable from None

        return await run_in_own_thread("own-secret", keep)

    def list_conditions(self) -> Sequence[Condition]:
        instances = () if self._instances is None else self._instances.list_conditions()
        events = () if self._events is None else self._events.list_conditions()
        state = self.queue.state
        ledger = [] if state.condition == "ok" else [build_ledger_condition(state.condition, state.problem)]
        if problem := self.queue.spool_problem:
            ledger.append(build_spool_condition(problem))
        return [*ledger, *instances, *events]

    async def _watch_instances(self, gateway: Gateway[Settings]) -> None:
        pause = MIGRATION_DELAY_SECONDS
        while self._instances is None:
            await asyncio.sleep(pause)
            pause = UNUSED_SECONDS
            if self._uses_database():
                module = await run_in_own_thread("instances", import_module, _INSTANCE_WATCH)
                self._instances = module.InstanceWatch(self._settings, gateway)
        await self._instances.run()

    async def _push_events(self, gateway: Gateway[Settings]) -> None:
        pause = MIGRATION_DELAY_SECONDS
        while self._events is None:
            await asyncio.sleep(pause)
            pause = UNUSED_SECONDS
            if gateway.settings.siem:
                module = await run_in_own_thread("siem", import_module, _EVENT_PUSH)
                self._events = module.EventPush(gateway)
        await self._events.run()

    def _uses_database(self) -> bool:
        """A server that stores nothing does not create a SQLite file. A change of its settings is stored."""
        is_changed = self._current_settings() is not self._settings
        is_used = self._settings.virtual_keys or self.queue.state.written_rows > 0
        return _is_on_postgres(self._settings) or is_used or is_changed

    async def respond(self, route: str, request: RouteRequest) -> RouteResponse:
        def read() -> RouteResponse:
            from anthropic_proxy.console.ledger.api import respond  # noqa: PLC0415  # loads SQLAlchemy

            return respond(route, request, self._current_settings(), partial(self._warn, once=True))

        return await self._readers.run(request.client.payer, read)

    def _run(self, queue: ReceiptQueue) -> None:
        from anthropic_proxy.console.ledger import database  # noqa: PLC0415  # loads the driver

        address = database.find_database(self._settings)
        if not database.needs_migration(self._settings):
            while not (
                database.has_spool_file(self._settings)
                or queue.wait_for_receipt(DISK_CHECK_SECONDS)
                or database.is_disk_full(address)
            ):
                pass
        if queue.is_stopped and not len(queue):
            return

        def write() -> None:
            from anthropic_proxy.console.ledger.writer import LedgerWriter  # noqa: PLC0415  # loads the driver

            LedgerWriter(queue, self._current_settings, self._warn).run()

        run_writer(queue, write, self._warn)

    def _current_settings(self) -> Settings:
        return self._settings if self._gateway is None else self._gateway.settings

    def _warn(self, text: str, *, once: bool = False) -> None:
        if self._gateway is not None:
            (self._gateway.log_warning_once if once else self._gateway.log_warning_each_time)(text)


def run_writer(
    queue: ReceiptQueue,
    write: Callable[[], None],
    warn: Callable[[str], None],
    pause_seconds: float = DEFECT_PAUSE_SECONDS,
) -> None:
    """Call `write`. After a defect, drop its batch and call it again."""
    logged = ""
    while True:
        try:
            write()
        except Exception as error:  # noqa: BLE001  # a defect must not end the thread: later requests are stored
            was_ok = queue.state.condition == "ok"
            dropped = queue.drop_batch()
            trace = traceback.format_exc()
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            queue.set_failed_state(
                f"The ledger failed because of a defect of the proxy ({reason}). The log has the traceback: report it."
            )
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
