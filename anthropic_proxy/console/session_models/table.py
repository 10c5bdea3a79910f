"""`SessionModelTable`: the stored choices in memory, so that a client request needs no database query.

All servers of a database read it again each second, so that each of them, and a server that has just started, plans the
next request of a session alike. The first request that could have a choice after a start waits until it is read. The
driver of the database is loaded then, or a second after the start.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from anthropic_proxy.console.units import MICROSECONDS
from anthropic_proxy.engine.own_thread import close_in_own_thread, run_in_own_thread
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Client, SessionModel

if TYPE_CHECKING:
    from anthropic_proxy.console.session_models.stored_choices import ChoiceReader, StoredChoice

REFRESH_SECONDS = 1.0
"""Pause between two readings. A choice reaches all servers after at most this time and the duration of a reading."""
_FIRST_READING_SECONDS = 2.0
"""Maximum time for which a request waits for the first reading."""


class SessionModelTable:
    """The contract of `is_empty` and `find` is in `engine.hooks.SessionModels`."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self.is_empty = False  # until it is read
        self._choices: Mapping[tuple[str, str], StoredChoice] = {}
        self._used: set[tuple[str, str]] = set()
        """Sessions with a choice that have sent requests since the last reading."""
        self._is_read = False
        self._reader: ChoiceReader | None = None
        self._lock = threading.Lock()
        """Held by the thread that reads. A query may last longer than the task that waits for it."""
        self._reading = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def find(self, client: Client, session: str) -> SessionModel | None:
        if not self._is_read:
            try:
                async with asyncio.timeout(_FIRST_READING_SECONDS):
                    await self._refresh()
            except TimeoutError:  # the request goes on; a later one has the choice
                self._is_read = True
        key = client.id, session
        stored = self._choices.get(key)
        if stored is None or stored.ends_at <= self._clock() * MICROSECONDS:
            return None
        self._used.add(key)
        return stored.chosen

    async def _refresh(self) -> None:
        async with self._reading:
            self._choices = await run_in_own_thread("session models", self._read)
            self._is_read = True
            self.is_empty = not self._choices

    def start(self) -> None:
        self._task = asyncio.create_task(self._poll())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await close_in_own_thread("session models", self._close)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            await self._refresh()

    def _read(self) -> "Mapping[tuple[str, str], StoredChoice]":
        with self._lock:
            if self._reader is None:
                from anthropic_proxy.console.session_models.stored_choices import ChoiceReader  # noqa: PLC0415  # driver

                self._reader = ChoiceReader(self._settings, self._clock)
            used, self._used = self._used, set()
            return self._reader.read(used)

    def _close(self) -> None:
        with self._lock:
            if self._reader is not None:
                self._reader.close()
