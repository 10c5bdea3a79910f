"""People whose access an administrator has ended: sessions of the dashboard ask here.

`KeyTable` has the same rows for requests.
"""

import asyncio
import math
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from typing import NamedTuple

from anthropic_proxy.console.identity.people import OidcUser
from anthropic_proxy.console.keys.key_table import KeysUnavailable, with_database_errors
from anthropic_proxy.console.keys.queries import find_newest_audit_id
from anthropic_proxy.console.keys.scim_people import ScimFacts, find_scim_facts
from anthropic_proxy.console.ledger.database import open_for_reading
from anthropic_proxy.console.units import MICROSECONDS
from anthropic_proxy.engine.own_thread import run_in_own_thread
from anthropic_proxy.gateway.settings import Settings

_FRESH_SECONDS = 1.0
"""Time in seconds for which the result of a query is used, so that pages with many parts cause one query."""
_ENDED = "SELECT id, revoked_at IS NOT NULL, sessions_from FROM virtual_keys WHERE sessions_from IS NOT NULL"


class _End(NamedTuple):
    is_revoked: bool
    sessions_from: float


class EndedPeople:
    """`clock` returns seconds since the epoch."""

    def __init__(self, current_settings: Callable[[], Settings], clock: Callable[[], float]) -> None:
        self._current_settings = current_settings
        self._clock = clock
        self._reading = asyncio.Lock()
        self._ends: Mapping[str, _End] | None = None
        """Id of the key of a person → its end. Result of the last query that did not fail. None: there was none."""
        self._asked_at = -math.inf
        self._groups = ScimFacts()
        self._version: tuple[int, Settings] | None = None
        """Id of the newest entry of the audit log, and the settings, at this query: only with another one, all people
        are read again, because each end and each change of a group is an entry."""

    def describe(self, person: str, user: OidcUser) -> OidcUser:
        """Return the user with the groups of SCIM, as the last `is_ended` has read them."""
        return self._groups.describe(person, user)

    async def is_ended(self, person: str, since: float) -> bool:
        """Return True if a session that began at the time `since` has ended by a revocation of its user. `person`: id
        of the key of the user. While the database cannot be read, the last result counts. Raises `KeysUnavailable`
        without one.
        """
        settings = self._current_settings()
        if not settings.virtual_keys:
            return False

        def read() -> Mapping[str, _End]:
            with closing(open_for_reading(settings)) as connection:
                version = find_newest_audit_id(connection), settings
                if self._ends is not None and version == self._version:
                    return self._ends
                rows = connection.query(_ENDED)
                self._groups = find_scim_facts(connection, settings)
            self._version = version
            return {str(person_id): _End(bool(revoked), first / MICROSECONDS) for person_id, revoked, first in rows}

        async with self._reading:
            now = self._clock()
            if self._ends is None or not self._asked_at <= now < self._asked_at + _FRESH_SECONDS:
                try:
                    self._ends = await run_in_own_thread("sessions", partial(with_database_errors, read))
                except KeysUnavailable:
                    if self._ends is None:
                        raise
                self._asked_at = now
            end = self._ends.get(person)
        return end is not None and (end.is_revoked or since < end.sessions_from)
