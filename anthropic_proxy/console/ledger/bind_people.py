"""Steps of migrations that read stored sign-ins, and bind people to the subjects of their identity provider.

Before, a person was an e-mail address. From now on it is an issuer and a subject (decision 0050), and the address only
names it. Each stored sign-in says whose it is, so its person is bound at once. People without one, who only used the
dashboard or were revoked before a sign-in, are bound at their next sign-in by the address.
"""

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from anthropic_proxy.console.units import to_microseconds

if TYPE_CHECKING:
    from anthropic_proxy.console.ledger.connection import Connection

_ACTOR = "migration"
_REASON = "The sign-in is of another user than the one to whom the person is bound."


class _Identity(Struct, frozen=True):
    """What a stored sign-in says about its user."""

    issuer: str
    client_id: str
    subject: str


class _User(Struct):
    """The sign-ins of one user with one key. Times are in microseconds since the epoch."""

    identity: _Identity
    first_at: int
    last_at: int
    active: list[str]
    """Ids of the sign-ins that have not ended."""

    @property
    def person(self) -> tuple[str, str]:
        """Issuer and subject."""
        return self.identity.issuer, self.identity.subject


def bind_people(connection: "Connection") -> Iterator[str]:
    yield from ()
    now = to_microseconds(time.time())
    users = _read_users(connection)
    labels = {str(key_id): str(label) for key_id, label in connection.query("SELECT id, label FROM virtual_keys")}
    bound: dict[tuple[str, str], str] = {}
    """Issuer and subject → the key with the latest sign-in. A user with a new address got another key."""
    chosen = {key_id: _choose(list(several.values())) for key_id, several in users.items() if key_id in labels}
    for key_id, user in sorted(chosen.items(), key=lambda item: item[1].last_at):
        bound[user.person] = key_id
    for key_id, user in chosen.items():
        if bound[user.person] == key_id:
            values = msgspec.structs.asdict(user.identity)
            changes: Mapping[str, Any] = {name: ("", value) for name, value in values.items()}
        else:
            values = {"left_at": now}
            changes = {"left_at": (None, now)}
        settings = ", ".join(f"{name} = ?" for name in values)
        connection.execute(f"UPDATE virtual_keys SET {settings} WHERE id = ?", (*values.values(), key_id))
        _record(connection, now, "change key", f"{key_id} {labels[key_id]}", changes)
    for key_id, several in users.items():
        for user in several.values():
            if user.active and (owner := bound.get(user.person)) != key_id:
                _take_sign_ins(connection, now, f"{key_id} {labels.get(key_id, '')}", user.active, owner)


def _take_sign_ins(connection: "Connection", now: int, target: str, sign_ins: list[str], owner: str | None) -> None:
    """Give sign-ins to the key of their user. None: there is none, because somebody else had the address before."""
    for sign_in_id in sign_ins:
        if owner is None:
            connection.execute("UPDATE sign_ins SET ended_at = ?, provider_token = '' WHERE id = ?", (now, sign_in_id))
        else:
            connection.execute("UPDATE sign_ins SET key_id = ? WHERE id = ?", (owner, sign_in_id))
    if owner is None:
        _record(connection, now, "sign out", target, {"sign_ins": (sign_ins, []), "reason": (None, _REASON)})


def _read_users(connection: "Connection") -> Mapping[str, Mapping[_Identity, _User]]:
    """Return the id of each key with sign-ins → their users."""
    users_by_key: dict[str, dict[_Identity, _User]] = {}
    rows = connection.query("SELECT id, key_id, person, created_at, refreshed_at, ended_at FROM sign_ins")
    for sign_in_id, key_id, person, created_at, refreshed_at, ended_at in rows:
        try:
            identity = msgspec.json.decode(person, type=_Identity)
        except (msgspec.MsgspecError, TypeError):  # such a row signs nobody in
            continue
        several = users_by_key.setdefault(str(key_id), {})
        user = several.setdefault(identity, _User(identity, created_at, refreshed_at, []))
        user.first_at = min(user.first_at, created_at)
        user.last_at = max(user.last_at, refreshed_at)
        if ended_at is None:
            user.active.append(str(sign_in_id))
    return users_by_key


def _choose(several: list[_User]) -> _User:
    """Return the user that the key belongs to. An identity provider gives a subject to nobody else, so of several at
    one provider, the first one has the earlier requests. After a change of the provider, the address was the person.
    """
    newest = max(several, key=lambda user: user.last_at).identity
    at_newest = [
        user for user in several if (user.identity.issuer, user.identity.client_id) == (newest.issuer, newest.client_id)
    ]
    return min(at_newest, key=lambda user: user.first_at)


def store_people(connection: "Connection") -> Iterator[str]:
    """Store what the identity provider has said last about each person, which its sign-ins have had until this step."""
    yield from ()
    bound = {str(key_id): user for key_id, *user in connection.query("SELECT id, issuer, subject FROM virtual_keys")}
    newest: dict[str, tuple[str, int]] = {}
    for key_id, person, at in connection.query(
        "SELECT key_id, person, checked_at FROM sign_ins ORDER BY checked_at, refreshed_at"
    ):
        try:
            identity = msgspec.json.decode(person, type=_Identity)
        except (msgspec.MsgspecError, TypeError):  # such a row signs nobody in
            continue
        if bound.get(str(key_id)) == [identity.issuer, identity.subject]:
            newest[str(key_id)] = person, at
    if newest:
        rows = [(key_id, *facts) for key_id, facts in newest.items()]
        connection.insert("people", ("key_id", "person", "stated_at"), rows)


def store_former_labels(connection: "Connection") -> Iterator[str]:
    """Store the earlier labels of keys, which only the audit log has had until this step."""
    yield from ()
    present = {str(label) for (label,) in connection.query("SELECT label FROM virtual_keys")}
    known: dict[str, str] = {}
    for target, changes in connection.query("SELECT object, changes FROM audit_log WHERE action = 'change key'"):
        try:
            before, _ = msgspec.json.decode(changes, type=_Renaming).label
        except (msgspec.MsgspecError, TypeError):  # another change
            continue
        if before not in present:
            known[before] = str(target).partition(" ")[0]
    for label, key_id in known.items():
        connection.execute("INSERT INTO former_labels (label, key_id) VALUES (?, ?)", (label, key_id))


class _Renaming(Struct):
    label: tuple[str, str]


def _record(connection: "Connection", at: int, action: str, target: str, changes: Mapping[str, Any]) -> None:
    encoded = msgspec.json.encode(changes).decode()
    row = {"at": at, "actor": _ACTOR, "action": action, "object": target, "changes": encoded}
    connection.insert_row("audit_log", row)
