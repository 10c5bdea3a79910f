"""`StoredKeys`: all keys and teams in memory, and whether each key is accepted."""

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from anthropic_proxy.console.keys.acceptance import KeyEnd, KeyFacts, read_key_facts
from anthropic_proxy.console.keys.changed_keys import find_changed_keys
from anthropic_proxy.console.keys.queries import (
    count_keys,
    find_newest_audit_id,
    list_keys,
    list_keys_by_id,
    list_teams,
)
from anthropic_proxy.console.keys.scim_people import ScimFacts, find_scim_facts
from anthropic_proxy.console.keys.virtual_keys import KeyStatus, Team, VirtualKey
from anthropic_proxy.console.ledger.connection import Reader
from anthropic_proxy.gateway.settings import Settings

_FEW_KEYS = 200
"""Number of keys up to which a change lets all be read: this takes milliseconds."""
ValueT = TypeVar("ValueT")


class Reading(NamedTuple):
    """What has been read of the database."""

    ids: Collection[str] | None
    """Ids of the keys that were read. None: all."""
    before: Sequence[VirtualKey]
    """These keys as they were. Empty for all."""
    keys: Sequence[VirtualKey]
    facts: KeyFacts
    scim: ScimFacts


class StoredKeys:
    """Each mapping is replaced by another one, so that threads may iterate over it."""

    def __init__(self) -> None:
        self.ends: Mapping[str, KeyEnd] = {}
        """Id of a key → its end, with the key."""
        self.teams: Mapping[str, Team] = {}
        self.unread: Mapping[str, str] = {}
        """Id of a key that cannot be read → the reason. It is read again with each query."""
        self.unread_teams: Mapping[str, str] = {}
        """The same for names of teams."""
        self._lock = threading.Lock()
        self._version = -1
        self._access: object = None
        """Settings of the sign-in with which the keys were read."""
        self._group_names: frozenset[str] = frozenset()
        """Names of groups of the settings about which SCIM decides."""

    def forget(self) -> None:
        """Let the next `read` read all keys: by another connection, or after a failure."""
        self._version = -1

    def find_status(self, key_id: str, now: float) -> KeyStatus | None:
        """None: the key is not known. `now`: seconds since the epoch."""
        end = self.ends.get(key_id)
        return None if end is None else end.find_status(now)

    def read(self, connection: Reader, settings: Settings) -> Reading | None:
        """Read the keys that have changed, or all, if they are few or others than the audit log names. None: there is
        nothing new.
        """
        with self._lock:
            return self._read(connection, settings)

    def _read(self, connection: Reader, settings: Settings) -> Reading | None:
        access = settings.oidc, settings.sign_in
        version = find_newest_audit_id(connection)
        count = 0
        ids: set[str] | None = None
        if self._version >= 0 and access == self._access:
            if version == self._version and not self.unread and not self.unread_teams:
                return None
            if version >= self._version and len(self.ends) > _FEW_KEYS:
                count = count_keys(connection)
                version, ids = find_changed_keys(connection, self._version)
        if ids is not None:
            ids |= self.unread.keys()
        teams = {team.name: team for team in list_teams(connection)}
        unread_teams = {team.name: team.problem for team in teams.values() if team.problem}
        scim = find_scim_facts(connection, settings, None if ids is None else sorted(ids))
        if ids is not None and (scim.names, unread_teams) != (self._group_names, self.unread_teams):
            ids, scim = None, find_scim_facts(connection, settings)
        reading = self._read_keys(connection, settings, ids, scim)
        if len(self.ends) < count:  # another program has stored some
            scim = find_scim_facts(connection, settings)
            reading = self._read_keys(connection, settings, None, scim)
        self.teams = teams
        self.unread_teams = unread_teams
        self._group_names = scim.names
        self._version = version
        self._access = access
        return reading

    def _read_keys(
        self, connection: Reader, settings: Settings, ids: Collection[str] | None, scim: ScimFacts
    ) -> Reading:
        keys = list_keys(connection) if ids is None else list_keys_by_id(connection, sorted(ids))
        facts = read_key_facts(connection, settings, keys)
        before = [] if ids is None else [end.key for key_id in ids if (end := self.ends.get(key_id)) is not None]
        gone = [key.id for key in before]
        ends = {key.id: facts.find_end(key) for key in keys}
        unread = {key.id: key.problem for key in keys if key.revoked_at is None and key.problem}
        self.ends = replace_values(self.ends, gone, ends, is_all=ids is None)
        self.unread = replace_values(self.unread, gone, unread, is_all=ids is None)
        return Reading(ids, before, keys, facts, scim)


def replace_values(
    before: Mapping[str, ValueT], gone: Iterable[str], new: Mapping[str, ValueT], *, is_all: bool
) -> Mapping[str, ValueT]:
    """`is_all`: True if `new` has all values."""
    if is_all:
        return new
    after = dict(before)
    for name in gone:
        after.pop(name, None)
    after.update(new)
    return after
