"""Creation, change and revocation of virtual keys and teams.

Each change is recorded in the audit log, in the same transaction. The database stores only the hash of a key's text
(secret).
"""

import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType, structs

from anthropic_proxy.console.keys.descriptions import (
    build_key_hint,
    hash_key,
    list_rule_fields,
    list_settable_fields,
    new_key,
)
from anthropic_proxy.console.keys.queries import escape_pattern, find_key, find_team, require_key
from anthropic_proxy.console.keys.virtual_keys import Rules, Team, VirtualKey, require_valid_rules
from anthropic_proxy.console.ledger.database import Connection, open_for_writing
from anthropic_proxy.console.ledger.units import to_microseconds
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.settings import Settings

MAX_NAME_CHARACTERS = 64
MAX_OVERLAP_SECONDS = 30 * 86_400
"""Maximum time in seconds for which the old text of a rotated key is still accepted."""
MAX_EXPIRY = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
"""Latest expiry of a key, in seconds since the epoch: the end of the year 9999, so that every time zone can show it."""
_RESERVED_LABEL = compile_later(r"local|admin|(admin )?key \d+", re.IGNORECASE)
"""Matches labels that the log uses for clients without a virtual key. A virtual key cannot have such a label."""
Changes = Mapping[str, tuple[object, object]]
"""Name of a changed field → (old value, new value), as the audit log stores them."""
_CHANGE_LOCK = 0x6B657973
"""Number of the PostgreSQL advisory lock that is held during a change. Ids in the audit log thus ascend in the order of
the changes."""


class KeyChange(Struct, frozen=True, kw_only=True):
    """New values for the fields of an existing virtual key. A field with the value UNSET is not changed."""

    label: str | UnsetType = UNSET
    owner: str | UnsetType = UNSET
    team: str | UnsetType = UNSET
    expires_at: float | UnsetType | None = UNSET
    rules: Mapping[str, Any] = {}


class KeyAdministration:
    """Operations of an administrator on virtual keys and teams in the database. Each change adds a row with the author
    `actor` to the audit log.
    """

    def __init__(self, connection: Connection, actor: str, clock: Callable[[], float] = time.time) -> None:
        self._connection = connection
        self._actor = actor
        self._clock = clock

    def create_key(self, key: VirtualKey) -> tuple[VirtualKey, str]:
        """Store `key` and return it with its secret text, which cannot be read again later. Raises `InvalidRequest` for
        invalid values.
        """
        now = self._clock()
        key = structs.replace(key, id=f"key_{secrets.token_hex(12)}", created_at=now, revoked_at=None, hashes=())
        key = structs.replace(key, rules=_date_budgets(Rules(), key.rules, now))
        with self._changing() as connection:
            changes = self._check_new_key(connection, key, now)
            values = _encode_key(key)
            connection.insert("virtual_keys", tuple(values), [tuple(values.values())])
            key_text = _add_text(connection, key.id, now)
            self._record(connection, now, "create key", _name_key(key), changes)
            return require_key(connection, key.id), key_text

    def change_key(self, name: str, change: KeyChange, expected_current: VirtualKey | None = None) -> VirtualKey:
        """Change the given fields of a key, and return the key.

        Raises `InvalidRequest` if the key differs from a given `expected_current`, and `UnknownModel` for an unknown
        `name`.
        """
        now = self._clock()
        with self._changing() as connection:
            before = require_key(connection, name)
            require_same(before, expected_current)
            after, changes = self._check_change(connection, before, change, now)
            values = _encode_key(after)
            changed = ", ".join(f"{column} = ?" for column in values)
            connection.execute(f"UPDATE virtual_keys SET {changed} WHERE id = ?", (*values.values(), before.id))
            self._record(connection, now, "change key", _name_key(before), changes)
            return require_key(connection, before.id)

    def require_key(self, name: str) -> VirtualKey:
        return require_key(self._connection, name)

    def find_team(self, name: str) -> Team:
        """A name that is not stored gives a team without rules."""
        return find_team(self._connection, name) or Team(name)

    def preview_new_key(self, key: VirtualKey) -> Changes:
        """Return what `create_key` would record in the audit log. Raises `InvalidRequest`."""
        return self._check_new_key(self._connection, key, self._clock())

    def preview_key_change(self, name: str, change: KeyChange) -> Changes:
        """Return the fields that `change` would change. Raises `UnknownModel`."""
        return self._check_change(self._connection, require_key(self._connection, name), change, self._clock())[1]

    def preview_team_change(self, name: str, rules: Mapping[str, Any]) -> Changes:
        """Return the rules that `change_team` would change. Raises `InvalidRequest`."""
        return _check_team(self._connection, name, rules, self._clock())[1]

    def rotate_key(
        self, name: str, overlap_seconds: float = 0.0, expected_current: VirtualKey | None = None
    ) -> tuple[VirtualKey, str]:
        """Return the key and its new text. The old text stays valid for `overlap_seconds`. Raises `InvalidRequest` if
        the key is revoked, or differs from a given `expected_current`.
        """
        if not 0 <= overlap_seconds <= MAX_OVERLAP_SECONDS:
            raise InvalidRequest(
                f"The overlap is {overlap_seconds:g} seconds. Use 0 to {MAX_OVERLAP_SECONDS:,} (30 days).",
                code="virtual-key-fields",
            )
        now = self._clock()
        with self._changing() as connection:
            key = require_key(connection, name)
            require_same(key, expected_current)
            _require_readable(key)
            if key.revoked_at is not None:
                raise InvalidRequest(f"The key {key.label!r} is revoked. Create a new key.", code="virtual-key-fields")
            end = to_microseconds(now + overlap_seconds)
            for each in key.hashes:
                if each.expires_at is None or to_microseconds(each.expires_at) > end:
                    connection.execute("UPDATE key_hashes SET expires_at = ? WHERE hash = ?", (end, each.hash))
            key_text = _add_text(connection, key.id, now)
            changes = {"hint": (key.hashes[0].hint if key.hashes else None, build_key_hint(key_text))}
            self._record(connection, now, "rotate key", _name_key(key), changes)
            return require_key(connection, key.id), key_text

    def revoke_key(self, name: str) -> VirtualKey:
        """A key that is already revoked is returned unchanged."""
        now = self._clock()
        with self._changing() as connection:
            key = require_key(connection, name)
            if key.revoked_at is None:
                connection.execute(
                    "UPDATE virtual_keys SET revoked_at = ? WHERE id = ?", (to_microseconds(now), key.id)
                )
                self._record(connection, now, "revoke key", _name_key(key), {"status": ("active", "revoked")})
            return require_key(connection, key.id)

    def change_team(self, name: str, rules: Mapping[str, Any], expected_current: Rules | None = None) -> Team:
        """Set the given `rules` of the team `name`, and return the team. If no rule remains, the team is deleted from
        the database. Raises `InvalidRequest` for invalid values, or if the present rules differ from a given
        `expected_current`.
        """
        now = self._clock()
        with self._changing() as connection:
            require_same((find_team(connection, name) or Team(name)).rules, expected_current)
            after, changes = _check_team(connection, name, rules, now)
            connection.execute("DELETE FROM teams WHERE name = ?", (name,))
            if after != Rules():
                connection.insert("teams", ("name", "rules"), [(name, msgspec.json.encode(after).decode())])
            action = "delete team" if after == Rules() else "change team"
            self._record(connection, now, action, name, changes)
        return Team(name, after)

    def _check_new_key(self, connection: Connection, key: VirtualKey, now: float) -> Changes:
        self._require_valid(key, now)
        _require_new_label(connection, key)
        return _compare(list_settable_fields(VirtualKey(id="", label="")), list_settable_fields(key))

    def _check_change(
        self, connection: Connection, before: VirtualKey, change: KeyChange, now: float
    ) -> tuple[VirtualKey, Changes]:
        _require_readable(before)
        fields = {field: value for field, value in structs.asdict(change).items() if value is not UNSET}
        rules = _date_budgets(before.rules, structs.replace(before.rules, **change.rules), now)
        after = structs.replace(before, **{**fields, "rules": rules})
        self._require_valid(after, now)
        if after.label != before.label:
            _require_new_label(connection, after)
        return after, _compare(list_settable_fields(before), list_settable_fields(after))

    @contextmanager
    def _changing(self) -> Iterator[Connection]:
        with self._connection.transaction():
            if self._connection.is_postgres:
                self._connection.query("SELECT pg_advisory_xact_lock(?)", (_CHANGE_LOCK,))
            yield self._connection

    def _record(self, connection: Connection, now: float, action: str, name: str, changes: Changes) -> None:
        encoded = msgspec.json.encode(changes).decode()
        columns = ("at", "actor", "action", "object", "changes")
        connection.insert("audit_log", columns, [(to_microseconds(now), self._actor, action, name, encoded)])

    def _require_valid(self, key: VirtualKey, now: float) -> None:
        for field, value in (("label", key.label), ("owner", key.owner), ("team", key.team)):
            _require_name(field, value)
        if not key.label or _RESERVED_LABEL.fullmatch(key.label):
            raise InvalidRequest(
                f"The label is {key.label!r}. Use another one: local, admin and key 1 have a meaning.",
                code="virtual-key-fields",
            )
        if key.expires_at is not None and key.expires_at <= now:
            raise InvalidRequest(
                "The expiry is in the past. Use a later time, or revoke the key.", code="virtual-key-fields"
            )
        if key.expires_at is not None and key.expires_at > MAX_EXPIRY:
            raise InvalidRequest(
                "The expiry is after 9999-12-30. Use an earlier time, or none.", code="virtual-key-fields"
            )
        require_valid_rules(key.rules)


@contextmanager
def open_administration(
    settings: Settings, actor: str, clock: Callable[[], float] = time.time
) -> Iterator[KeyAdministration]:
    """The database is created or migrated if necessary."""
    with closing(open_for_writing(settings)) as connection:
        yield KeyAdministration(connection, actor, clock)


def _check_team(connection: Connection, name: str, rules: Mapping[str, Any], now: float) -> tuple[Rules, Changes]:
    _require_name("team", name)
    if not name:
        raise InvalidRequest("The team has no name.", code="virtual-key-fields")
    stored = find_team(connection, name)
    if stored is None and "/" in name:
        raise InvalidRequest(
            f"The name of the team {name!r} contains /. Use another character, because addresses below /admin/teams "
            "contain the name.",
            code="virtual-key-fields",
        )
    team = stored or Team(name)
    _require_readable(team)
    before = team.rules
    after = require_valid_rules(_date_budgets(before, structs.replace(before, **rules), now))
    return after, _compare(list_rule_fields(before), list_rule_fields(after))


def _date_budgets(before: Rules, after: Rules, now: float) -> Rules:
    """A budget with another amount keeps its use, and one that was removed and set again begins anew."""
    times = {(budget.unit, budget.period): budget.since for budget in before.budgets}
    dated = [structs.replace(one, since=times.get((one.unit, one.period), now)) for one in after.budgets]
    return structs.replace(after, budgets=tuple(dated))


def require_same(present: object, expected: object) -> None:
    """Raises `InvalidRequest` if a value has changed since the preview. `expected`: the value then; None: any."""
    if expected is not None and present != expected:
        raise InvalidRequest(
            "The values have changed since the preview. Nothing was changed. Open the form again.",
            code="dashboard-parameter",
        )


def _require_name(field: str, value: str) -> None:
    if len(value) > MAX_NAME_CHARACTERS or not value.isprintable() or value != value.strip():
        raise InvalidRequest(
            f"The {field} is {value[:80]!r}. Use at most {MAX_NAME_CHARACTERS} printable characters without spaces at "
            "its ends.",
            code="virtual-key-fields",
        )


def _require_readable(stored: VirtualKey | Team) -> None:
    """A key or team that cannot be read is not changed, because its limits would be lost."""
    if stored.problem:
        remedy = "Revoke it, or" if isinstance(stored, VirtualKey) else "Give its keys another team, or"
        raise InvalidRequest(
            f"{stored.problem} Nothing was changed. {remedy} update this version.", code="virtual-key-unreadable"
        )


def _require_new_label(connection: Connection, key: VirtualKey) -> None:
    """Raise `InvalidRequest` if another key has or had the label: the owner of the label reads its requests."""
    if find_key(connection, key.label) is not None:
        raise InvalidRequest(
            f"A key with the label {key.label!r} exists. Use another label, or rotate that key.",
            code="virtual-key-fields",
        )
    renaming = f'"label":[{msgspec.json.encode(key.label).decode()},'
    renamed = connection.query(
        "SELECT object FROM audit_log WHERE action = 'change key' AND changes LIKE ? ESCAPE '/' "
        "AND NOT object LIKE ? ESCAPE '/' LIMIT 1",
        (f"%{escape_pattern(renaming)}%", f"{escape_pattern(key.id)} %"),
    )
    if renamed:
        raise InvalidRequest(
            f"Another key had the label {key.label!r}, and the ledger has its requests. Use another label.",
            code="virtual-key-fields",
        )


def _add_text(connection: Connection, key_id: str, now: float) -> str:
    key_text = new_key()
    row = (hash_key(key_text.encode()), key_id, build_key_hint(key_text), to_microseconds(now))
    connection.insert("key_hashes", ("hash", "key_id", "hint", "created_at"), [row])
    return key_text


def _name_key(key: VirtualKey) -> str:
    return f"{key.id} {key.label}"


def _encode_key(key: VirtualKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "label": key.label,
        "owner": key.owner,
        "team": key.team,
        "rules": msgspec.json.encode(key.rules).decode(),
        "created_at": to_microseconds(key.created_at),
        "expires_at": None if key.expires_at is None else to_microseconds(key.expires_at),
    }


def _compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> Changes:
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}
