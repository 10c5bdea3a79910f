"""People whose access an administrator has ended: sessions of the dashboard and new sign-ins ask here.

`KeyTable` has the same rows for requests.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import NamedTuple

from anthropic_proxy.console.keys.key_table import with_database_errors
from anthropic_proxy.console.ledger.database import open_for_reading
from anthropic_proxy.console.ledger.units import MICROSECONDS
from anthropic_proxy.engine.own_thread import run_in_own_thread
from anthropic_proxy.gateway.settings import Settings

_FRESH_SECONDS = 1.0
"""Time in seconds for which the result of a query is used, so that pages with many parts cause one query."""
_ENDED = "SELECT label, revoked_at IS NOT NULL, sessions_from FROM virtual_keys WHERE sessions_from IS NOT NULL"


class _End(NamedTuple):
    is_revoked: bool
    sessions_from: float


class EndedPeople:
    """`clock` returns seconds since the epoch."""

    def __init__(self, current_settings: Callable[[], Settings], clock: Callable[[], float]) -> None:
        self._current_settings = current_settings
        self._clock = clock
        self._reading = asyncio.Lock()
        self._ends: Mapping[str, _End] = {}
        self._read_at = float("-inf")

    async def is_ended(self, email: str, since: float) -> bool:
        """Return True if a session that began at the time `since` has ended by a revocation of its user. Raises
        `KeysUnavailable` if the database cannot be read.
        """
        end = (await self._find_ends()).get(email)
        return end is not None and (end.is_revoked or since < end.sessions_from)

    async def _find_ends(self) -> Mapping[str, _End]:
        settings = self._current_settings()
        if not settings.virtual_keys:
            return {}
        async with self._reading:
            now = self._clock()
            if not self._read_at <= now < self._read_at + _FRESH_SECONDS:
                self._ends = await run_in_own_thread("sessions", lambda: with_database_errors(lambda: _read(settings)))
                self._read_at = now
            return self._ends


def _read(settings: Settings) -> Mapping[str, _End]:
    with closing(open_for_reading(settings)) as connection:
        rows = connection.query(_ENDED)
        return {str(label): _End(bool(revoked), since / MICROSECONDS) for label, revoked, since in rows}
