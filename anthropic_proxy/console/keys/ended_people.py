"""People whose access an administrator has ended: sessions of the dashboard ask here.

`KeyTable` has the same rows for requests.
"""

import asyncio
import math
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import NamedTuple

from anthropic_proxy.console.identity.people import OidcUser
from anthropic_proxy.console.keys.key_table import KeysUnavailable, with_database_errors
from anthropic_proxy.console.keys.queries import find_newest_audit_id
from anthropic_proxy.console.keys.scim_people import ScimFacts, find_scim_facts
from anthropic_proxy.console.ledger.database import open_for_reading
from anthropic_proxy.console.units import MICROSECONDS
from anthropic_proxy.engine.bounded import BoundedDict
from anthropic_proxy.engine.own_thread import run_in_own_thread
from anthropic_proxy.gateway.settings import Settings

_FRESH_SECONDS = 1.0
"""Time in seconds for which the result of a query is used, so that pages with many parts cause one query."""
_MAX_KNOWN = 10_000
_END = "SELECT revoked_at IS NOT NULL, sessions_from FROM virtual_keys WHERE id = ? AND sessions_from IS NOT NULL"


class _Known(NamedTuple):
    """What the last query that did not fail has found about a person."""

    asked_at: float
    version: tuple[int, Settings]
    """Id of the newest entry of the audit log, and the settings: each end and each change of a group is an entry."""
    groups: ScimFacts
    is_revoked: bool = False
    sessions_from: float = -math.inf


class EndedPeople:
    """`clock` returns seconds since the epoch."""

    def __init__(self, current_settings: Callable[[], Settings], clock: Callable[[], float]) -> None:
        self._current_settings = current_settings
        self._clock = clock
        self._reading = asyncio.Lock()
        self._known = BoundedDict[str, _Known](_MAX_KNOWN)
        """Id of the key of a person → what is known about it."""
        self._failed_at = -math.inf

    def describe(self, person: str, user: OidcUser) -> OidcUser:
        """Return the user with the groups of SCIM, as the last `is_ended` has read them."""
        known = self._known.get(person)
        return user if known is None else known.groups.describe(person, user)

    async def is_ended(self, person: str, since: float) -> bool:
        """Return True if a session that began at the time `since` has ended by a revocation of its user. `person`: id
        of the key of the user. While the database cannot be read, the last result counts. Raises `KeysUnavailable`
        without one.
        """
        settings = self._current_settings()
        if not settings.virtual_keys:
            return False

        def read(asked_at: float) -> _Known:
            known = self._known.get(person)
            with closing(open_for_reading(settings)) as connection:
                version = find_newest_audit_id(connection), settings
                if known is not None and version == known.version:
                    return known._replace(asked_at=asked_at)
                groups = find_scim_facts(connection, settings, [person])
                for revoked, first in connection.query(_END, (person,)):
                    return _Known(asked_at, version, groups, bool(revoked), first / MICROSECONDS)
            return _Known(asked_at, version, groups)

        async with self._reading:
            now = self._clock()
            known = self._known.get(person)
            if known is None or not _is_fresh(max(known.asked_at, self._failed_at), now):
                try:
                    known = await run_in_own_thread("sessions", partial(with_database_errors, partial(read, now)))
                except KeysUnavailable:
                    self._failed_at = now
                    if known is None:
                        raise
                else:
                    self._known[person] = known
        return known.is_revoked or since < known.sessions_from


def _is_fresh(asked_at: float, now: float) -> bool:
    return asked_at <= now < asked_at + _FRESH_SECONDS
