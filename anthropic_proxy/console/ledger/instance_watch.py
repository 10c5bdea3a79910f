"""The heartbeat of this server in the table `instances`, and what it knows of the other servers on the database."""

import asyncio
import math
import platform
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import assert_never

from msgspec import structs

from anthropic_proxy import __version__
from anthropic_proxy.console.ledger.audit import add_entry, changing
from anthropic_proxy.console.ledger.connection import Connection
from anthropic_proxy.console.ledger.database import LEDGER_FAILURES, find_database, open_for_reading, open_for_writing
from anthropic_proxy.console.ledger.instances import (
    EXPIRY_SECONDS,
    HEARTBEAT_SECONDS,
    LOCAL_HEARTBEAT_SECONDS,
    UNKNOWN_REDIS,
    Instance,
    KnownInstances,
    add_port,
    find_conditions,
    read_instances,
    read_time,
    store_instance,
)
from anthropic_proxy.console.ledger.schema import INSTANCES
from anthropic_proxy.console.ledger.settings_watch import SettingsEntry, SettingsWatch, record_states
from anthropic_proxy.engine.own_thread import run_in_own_thread
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.changes import SettingStates
from anthropic_proxy.plugins import Condition, Gateway, StoreState

READ_SECONDS = 2.0
"""Pause between two readings of the rows."""
_TICK_SECONDS = 1.0
"""Pause between two looks whether the server stops or its settings have changed."""
_CLOSE_SECONDS = 2.0


class InstanceWatch:
    """`settings`: those of the start. The first worker of a server writes, the others only read."""

    def __init__(self, settings: Settings, gateway: Gateway[Settings], clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._is_postgres = find_database(settings).file is None
        self._gateway = gateway
        self._clock = clock
        self._is_writer = gateway.describe_server().worker_index == 0
        self._watched = SettingsWatch(gateway, settings)
        self._recorded: SettingStates | None = None
        """The settings whose state the database has. None: this server has just started."""
        self._entries: list[SettingsEntry] = []
        """Changes of the settings that are not in the audit log yet."""
        self._connection: Connection | None = None
        self._connection_lock = threading.Lock()
        """Held by the thread that uses the connection. A query may last longer than the task that waits for it."""
        self._known: KnownInstances | None = None
        self._known_at = 0.0
        """Monotonic time of `_known`."""

    def list_conditions(self) -> Sequence[Condition]:
        """Empty on SQLite, and while the database is not available."""
        if not self._is_postgres or self._known is None or time.monotonic() > self._known_at + EXPIRY_SECONDS:
            return ()
        return find_conditions(self._known, self._gateway.settings)

    async def run(self) -> None:
        written: Instance | None = None
        read_at = written_at = -math.inf
        pause = HEARTBEAT_SECONDS if self._is_postgres else LOCAL_HEARTBEAT_SECONDS
        while True:
            if self._is_writer:
                await self._examine_settings()
            instance = self._describe()
            now = time.monotonic()
            writes = self._is_writer and (instance != written or bool(self._entries) or now >= written_at + pause)
            if writes or now >= read_at + READ_SECONDS:
                is_done = await run_in_own_thread("instances", self._beat, instance if writes else None)
                read_at = now
                if writes and is_done:
                    written = instance
                    written_at = now
                if self._is_writer and self._known is not None:
                    await self._watched.follow(self._known, instance.id)
                    if self._is_postgres and (text := self._watched.report_reach(self._known, instance.id)):
                        self._gateway.log_warning_each_time(text)
            await asyncio.sleep(_TICK_SECONDS)

    async def close(self) -> None:
        """Delete the row of this server, within two seconds. Else it expires."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                if self._is_writer:
                    await self._examine_settings()
                await run_in_own_thread("instances", self._end)

    async def _examine_settings(self) -> None:
        if (entry := await self._watched.examine()) is not None:
            self._entries.append(entry)

    def _describe(self) -> Instance:
        server = self._gateway.describe_server()
        return Instance(
            id=server.id,
            name=platform.node(),
            address=server.address,
            version=__version__,
            state="stopping" if server.is_stopping else "serving",
            redis=_name_redis(self._gateway.store.state),
            processes=server.worker_count,
            clock_difference=0.0,
            settings=self._watched.values or {},
            files=self._watched.files,
        )

    def _beat(self, instance: Instance | None) -> bool:
        """Called in a thread. None: only read. False: it failed; the ledger reports failures of the database."""
        with self._connection_lock:
            try:
                connection = self._open()
                now, difference = read_time(connection, self._clock)
                if instance is not None:
                    self._store_entries(connection, now)
                    self._record_states(connection, now)
                    store_instance(connection, structs.replace(instance, clock_difference=difference), now)
                self._known = read_instances(connection, now)
                self._known_at = time.monotonic()
            except LEDGER_FAILURES:
                self._close()
                return False
        return True

    def _open(self) -> Connection:
        if self._connection is not None and self._connection.is_replaced:
            self._close()
        if self._connection is None:
            self._connection = (open_for_writing if self._is_writer else open_for_reading)(self._settings)
        return self._connection

    def _record_states(self, connection: Connection, now: float) -> None:
        """Add what has changed by the start to the audit log. Changes while the server runs have their entries."""
        states = self._watched.states
        if states == self._recorded:
            return
        own = self._gateway.describe_server()
        others = [one for one in read_instances(connection, now).list_running() if one.id != own.id]
        with changing(connection):
            changes = record_states(connection, self._settings.env_file, states, others)
            if changes and self._recorded is None:
                target = add_port(platform.node(), own.address)
                add_entry(connection, now, actor="start", action="change settings", target=target, changes=changes)
        self._recorded = states

    def _store_entries(self, connection: Connection, now: float) -> None:
        """Add the changes of the settings to the audit log."""
        entries = [*self._entries]
        if not entries:
            return
        target = add_port(platform.node(), self._gateway.describe_server().address)
        with changing(connection):
            for entry in entries:
                changes = entry.changes
                add_entry(connection, now, actor=entry.actor, action="change settings", target=target, changes=changes)
        del self._entries[: len(entries)]

    def _end(self) -> None:
        with self._connection_lock:
            server = self._gateway.describe_server()
            try:
                if self._entries:
                    connection = self._open()
                    self._store_entries(connection, read_time(connection, self._clock)[0])
                if self._connection is not None and self._is_writer:
                    with self._connection.transaction():
                        self._connection.execute(f"DELETE FROM {INSTANCES.name} WHERE id = ?", (server.id,))
            except LEDGER_FAILURES:
                pass  # the row expires
            finally:
                self._close()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _name_redis(state: StoreState) -> str:
    match state.kind:
        case "memory" | "database":
            return ""
        case "redis":
            return state.group or UNKNOWN_REDIS
        case "plugin":
            return state.kind
        case _:
            assert_never(state.kind)
