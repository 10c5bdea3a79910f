"""Sign-ins of persons from Claude Code: rows of the database, each with one device of a person.

A person is a virtual key without a secret, so that limits, budgets, ledger and audit log are those of keys.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct

from anthropic_proxy.console.identity.people import OidcUser, is_same_user
from anthropic_proxy.console.keys.descriptions import format_time
from anthropic_proxy.console.keys.queries import follow, name_columns, to_seconds
from anthropic_proxy.console.ledger.connection import Connection, Reader, query_parts
from anthropic_proxy.console.ledger.schema import SIGN_INS
from anthropic_proxy.console.units import MICROSECONDS, to_microseconds

_ACTIVE = "ended_at IS NULL AND ends_at > ?"
_NEWEST = "SELECT people.person FROM people WHERE people.key_id = sign_ins.key_id"
_SELECT = f"SELECT {', '.join(SIGN_INS.columns)}, ({_NEWEST}) FROM sign_ins"


class SignIn(Struct, frozen=True, kw_only=True):
    """One device on which a person has signed in. Times are seconds since the epoch."""

    id: str
    key_id: str
    """Id of the virtual key that the person is."""
    user: OidcUser
    """The person, as the identity provider described it last."""
    device: str = ""
    """Program that signed in, as it named itself."""
    address: str = ""
    """Address from which the program signed in."""
    created_at: float
    checked_at: float
    """Time at which the identity provider described the person last."""
    refreshed_at: float
    """Time at which the device got its latest access token."""
    ends_at: float
    """Time until which the person is taken to have access. A refusal of the identity provider sets it."""
    ended_at: float | None = None
    """Time of the sign-out. None: it has not ended before `ends_at`."""
    refused_at: float | None = None
    """Time since which the identity provider refuses each refresh, without saying that the person has no access. None:
    it does not."""
    end_reason: str = ""
    """Why the identity provider or the settings refuse the person, as the person reads it. "": they do not."""
    provider_token: str = ""
    """Encrypted refresh token of the identity provider. "": it gave none."""
    claimed_until: float = 0.0
    """Time until which one instance asks the identity provider about the person. 0: none does."""

    def is_active(self, now: float) -> bool:
        return self.ended_at is None and now < self.ends_at


def encode_sign_in(sign_in: SignIn) -> dict[str, Any]:
    """Return the JSON value of commands and API, without secrets."""
    return {
        "id": sign_in.id,
        "type": "sign_in",
        "name": sign_in.user.unique_name,
        "email": sign_in.user.email,
        "key_id": sign_in.key_id,
        "device": sign_in.device,
        "address": sign_in.address,
        "created_at": format_time(sign_in.created_at),
        "refreshed_at": format_time(sign_in.refreshed_at),
        "checked_at": format_time(sign_in.checked_at),
        "provider_refresh_token": bool(sign_in.provider_token),
        "ends_at": format_time(sign_in.ends_at),
        "refused_at": format_time(sign_in.refused_at),
        "refusal": sign_in.end_reason,
    }


def describe_refresh(sign_in: SignIn) -> str:
    """Return what lists say beside the time of the last refresh. "": the identity provider is asked, and answers."""
    if sign_in.refused_at is not None:
        return f"provider refuses since {format_time(sign_in.refused_at)}"
    return "" if sign_in.provider_token else "provider not asked"


def list_sign_ins(
    connection: Reader, now: float, key_id: str | None = None, *, after: str = "", limit: int | None = None
) -> Sequence[SignIn]:
    """Return the sign-ins that have not ended, the latest first. `key_id`: the key of their person. None: of all.
    `after`: only those that follow the one with this id in the list.
    """
    conditions: list[tuple[str, Sequence[object]]] = [(_ACTIVE, (to_microseconds(now),))]
    if key_id is not None:
        conditions.append(("key_id = ?", (key_id,)))
    if after:
        conditions.append((follow("sign_ins"), (after, after, after)))
    end = "" if limit is None else f"LIMIT {limit:d}"
    condition = f"{' AND '.join(text for text, _ in conditions)} ORDER BY created_at DESC, id {end}"
    return _read(connection, condition, *(value for _, values in conditions for value in values))


def list_sign_ins_of(connection: Reader, now: float, key_ids: Sequence[str]) -> Sequence[SignIn]:
    """Return the sign-ins of these people that have not ended, in any order."""
    rows = query_parts(connection, f"{_SELECT} WHERE key_id IN ({{marks}}) AND ended_at IS NULL", key_ids)
    return [sign_in for sign_in in _decode(rows) if sign_in.is_active(now)]


def has_sign_in(connection: Reader, sign_in: str, key_id: str | None = None) -> bool:
    """Return True if a sign-in, also one that has ended, has this id. `key_id`: as for `list_sign_ins`."""
    rows = connection.query("SELECT key_id FROM sign_ins WHERE id = ?", (sign_in,))
    return bool(rows) and key_id in (None, rows[0][0])


def list_access_ends(
    connection: Reader, refused_seconds: int, key_ids: Sequence[str] | None = None
) -> Mapping[str, float]:
    """Return the id of each person's key → time until which the person is taken to have access, also without devices.
    A person who has not signed in for a year is left out. `key_ids`: the keys of those people that are read. None: all.

    A success of any device of a person clears the earlier refusals of all. From the first refusal after it, the access
    lasts `refused_seconds`. In this time, another device may ask with success.
    """
    refusals = defaultdict[str, list[int]](list)
    for key, at in _query_keys(
        connection, "SELECT key_id, denied_at FROM sign_ins WHERE denied_at IS NOT NULL", "AND", key_ids
    ):
        if isinstance(at, int):
            refusals[str(key)].append(at)
    ends: dict[str, float] = {}
    newest = "SELECT key_id, max(ends_at), max(checked_at) FROM sign_ins"
    for key, end, checked_at in _query_keys(connection, newest, "WHERE", key_ids, "GROUP BY key_id"):
        if isinstance(end, int) and isinstance(checked_at, int):
            later = [at + to_microseconds(refused_seconds) for at in refusals[str(key)] if at > checked_at]
            ends[str(key)] = min([end, *later]) / MICROSECONDS
    return ends


def store_refusal(connection: Connection, sign_ins: str, value: str, at: int) -> None:
    """Store that the identity provider or the settings refuse the person of these sign-ins at the time `at`, in
    microseconds. `sign_ins`: column, `id` or `key_id`, that has the `value`.

    The first refusal after the newest success of any device counts: the access ends some time after it.
    """
    succeeded = "SELECT max(other.checked_at) FROM sign_ins AS other WHERE other.key_id = sign_ins.key_id"
    connection.execute(
        f"UPDATE sign_ins SET denied_at = ? WHERE {sign_ins} = ? AND coalesce(denied_at, 0) <= ({succeeded})",
        (at, value),
    )


class PersonFacts(NamedTuple):
    """What the identity provider has said last about a person."""

    user: OidcUser
    stated_at: float
    """Time at which the provider was asked, in seconds since the epoch."""


def list_people(connection: Reader, key_ids: Sequence[str] | None = None) -> Mapping[str, OidcUser]:
    """Return the id of each person's key → the person, as the identity provider described it last. `key_ids`: as for
    `list_access_ends`.
    """
    people: dict[str, OidcUser] = {}
    for key_id, person in _query_keys(connection, "SELECT key_id, person FROM people", "WHERE", key_ids):
        with suppress(msgspec.MsgspecError):  # such a row describes nobody
            people[str(key_id)] = msgspec.json.decode(person, type=OidcUser)
    return people


def _query_keys(
    connection: Reader, sql: str, joint: Literal["WHERE", "AND"], key_ids: Sequence[str] | None, end: str = ""
) -> Iterable[Any]:
    """Return the rows of a query that concern these keys. None: all."""
    if key_ids is None:
        return connection.query(f"{sql} {end}")
    return query_parts(connection, f"{sql} {joint} key_id IN ({{marks}}) {end}", key_ids)


def find_person_facts(connection: Reader, key_id: str) -> PersonFacts | None:
    """None: the identity provider has said nothing about the person of this key."""
    for person, stated_at in connection.query("SELECT person, stated_at FROM people WHERE key_id = ?", (key_id,)):
        with suppress(msgspec.MsgspecError):
            return PersonFacts(msgspec.json.decode(person, type=OidcUser), stated_at / MICROSECONDS)
    return None


def store_person_facts(connection: Connection, key_id: str, facts: PersonFacts) -> None:
    connection.execute(
        "INSERT INTO people (key_id, person, stated_at) VALUES (?, ?, ?) "
        "ON CONFLICT (key_id) DO UPDATE SET person = excluded.person, stated_at = excluded.stated_at",
        (key_id, encode_user(facts.user), to_microseconds(facts.stated_at)),
    )


def find_active_sign_in(connection: Reader, column: str, value: str, now: float) -> SignIn | None:
    """`column`: `id` or `refresh_hash`. None: no sign-in has this value, or it has ended."""
    return next((sign_in for sign_in in _read(connection, f"{column} = ?", value) if sign_in.is_active(now)), None)


def read_end_reason(connection: Reader, column: str, value: str) -> str:
    """Return why a sign-in was ended by a refusal of its person, as the person reads it. `column`: `id` or
    `refresh_hash`. "": it was not, or is unknown.
    """
    rows = connection.query(f"SELECT end_reason FROM sign_ins WHERE {column} = ?", (value,))
    return str(rows[0][0]) if rows else ""


def encode_user(user: OidcUser) -> str:
    return msgspec.json.encode(user).decode()


def _read(connection: Reader, condition: str, *values_of_condition: object) -> list[SignIn]:
    return _decode(connection.query(f"{_SELECT} WHERE {condition}", values_of_condition))


def _decode(rows: Iterable[Any]) -> list[SignIn]:
    """`rows`: those of `_SELECT`. A row that cannot be read signs nobody in."""
    sign_ins = []
    times = ("created_at", "checked_at", "refreshed_at", "ends_at", "ended_at", "refused_at", "claimed_until")
    for *row, described in rows:
        (columns,) = name_columns(SIGN_INS, [row])
        try:
            values = to_seconds(columns, times)
            user = msgspec.json.decode(values["person"], type=OidcUser)
            person = user if described is None else msgspec.json.decode(described, type=OidcUser)
            values["user"] = person if is_same_user(person, user) else user
            sign_ins.append(msgspec.convert({name: values[name] for name in SignIn.__struct_fields__}, SignIn))
        except Exception:  # noqa: BLE001  # SQLite stores any value in any column
            continue
    return sign_ins
