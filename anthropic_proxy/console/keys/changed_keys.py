"""Which keys a change concerns, by the audit log: only these are read again."""

from collections.abc import Collection, Iterable, Sequence

import msgspec
from msgspec import Struct

from anthropic_proxy.console.keys.queries import list_team_ids
from anthropic_proxy.console.ledger.connection import Reader, query_parts

_MAX_ENTRIES = 5_000
_MAX_KEYS = 2_000
"""Numbers of entries and of keys above which all keys are read."""
_OF_KEY = frozenset(
    (
        *("create key", "change key", "rotate key", "revoke key", "allow key"),
        *("move person", "sign in", "sign out", "change sign-in", "refuse sign-in"),
    )
)
_OF_TEAM = frozenset(("change team", "delete team"))
_OF_USER = frozenset(("create SCIM user", "change SCIM user", "delete SCIM user"))
_OF_GROUP = frozenset(("create SCIM group", "change SCIM group", "delete SCIM group"))
_OF_NO_KEY = frozenset(("change settings", "read texts"))


def find_changed_keys(connection: Reader, since: int) -> tuple[int, set[str] | None]:
    """Return the id of the newest entry of the audit log, and the ids of the keys that entries behind the id `since`
    concern: those that they name, those of people whose groups have changed, and those of their teams, people and
    owners. None: any keys. The names of groups decide about further ones, if the settings have them.
    """
    sql = f"SELECT id, action, object, changes FROM audit_log WHERE id > ? ORDER BY id LIMIT {_MAX_ENTRIES + 1}"
    rows = connection.query(sql, (since,))
    newest = int(rows[-1][0]) if rows else since
    if len(rows) > _MAX_ENTRIES:
        return newest, None
    keys, users = set[str](), set[str]()
    for _, action, target, text in rows:
        named = str(target).partition(" ")[0]
        if action in _OF_KEY:
            keys.add(named)
        elif action in _OF_TEAM:
            keys.update(list_team_ids(connection, str(target)))
        elif action in _OF_USER:
            users.add(named)
        elif action in _OF_GROUP:
            members = _list_members(str(text))
            if members is None:
                return newest, None
            users.update(members)
        elif action not in _OF_NO_KEY:
            return newest, None
    keys.update(_find_ids(connection, "SELECT key_id FROM scim_users WHERE id", users))
    keys.update([*_find_ids(connection, "SELECT id FROM virtual_keys WHERE person", keys)])
    owners = _find_ids(connection, "SELECT lower(label) FROM virtual_keys WHERE id", keys)
    keys.update(_find_ids(connection, "SELECT id FROM virtual_keys WHERE lower(owner)", owners))
    keys.discard("")
    return newest, keys if len(keys) <= _MAX_KEYS else None


def _find_ids(connection: Reader, query: str, values: Iterable[str]) -> Iterable[str]:
    found = query_parts(connection, f"{query} IN ({{marks}})", sorted({*values} - {""}))
    return [str(value) for (value,) in found]


class _GroupChange(Struct):
    members: Sequence[Sequence[str]] = ()
    """The lost and the new ones, as id and name. Another name of the group makes all of them lost and new."""


def _list_members(changes: str) -> Collection[str] | None:
    """Return the ids of the users. None: the entry cannot be read."""
    try:
        lists = msgspec.json.decode(changes, type=_GroupChange).members
    except msgspec.MsgspecError:
        return None
    return [user.partition(" ")[0] for listed in lists for user in listed]
