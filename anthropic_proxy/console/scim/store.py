"""Users and groups of SCIM in the database of the ledger. A change of a person is made with the key of the person, in
one transaction with its entries of the audit log.
"""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct

from anthropic_proxy.console import formats
from anthropic_proxy.console.identity.people import is_address
from anthropic_proxy.console.keys.administration import KeyAdministration
from anthropic_proxy.console.keys.group_tables import mark_people
from anthropic_proxy.console.keys.queries import find_key
from anthropic_proxy.console.ledger.connection import Connection, query_parts
from anthropic_proxy.console.scim.errors import ScimError, find_no_resource
from anthropic_proxy.console.scim.filters import Filter
from anthropic_proxy.console.scim.paths import ENDPOINTS, Kind
from anthropic_proxy.console.scim.resources import Resource
from anthropic_proxy.console.scim.schema import ENTERPRISE, SCHEMAS
from anthropic_proxy.console.units import MICROSECONDS, to_microseconds
from anthropic_proxy.errors import InvalidRequest, join_with_or
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.key_rules import is_name

MAX_USERS = 50_000
MAX_GROUPS = 5_000
MAX_USER_BYTES = 32 * 1024
"""The attributes of a user as JSON, so that a page of users is bounded too."""
MAX_PAGE_BYTES = 4 * 1024 * 1024
"""A page of a list ends with the resource with which it has this size."""
_MAX_SHOWN = 100
"""Members or groups in one entry of the audit log. Further ones are in further entries."""
_ROWS = 500
_MAX_COMPARISONS = 500_000
"""Comparisons of one filter with stored values: a second of processor time at most."""
_COMPARISONS_PER_ROW = 5
_COMPARISONS_PER_LINKS = 20
"""Work for a row, and for the query of its members or groups, as a number of comparisons."""
_USER_COLUMNS = "id, body, version, created_at, changed_at, external_id, address, key_id, is_active"
_GROUP_COLUMNS = "id, name, version, created_at, changed_at, external_id"
_TABLES: Mapping[Kind, str] = {"User": "scim_users", "Group": "scim_groups"}
_INDEXED: Mapping[Kind, Mapping[str, str]] = {
    "User": {
        "id": "id = ?",
        "userName": "user_name = ?",
        "externalId": "external_id = ?",
        "groups": "id IN (SELECT user_id FROM scim_members WHERE group_id = ?)",
    },
    "Group": {
        "id": "id = ?",
        "displayName": "name_key = ?",
        "externalId": "external_id = ?",
        "members": "id IN (SELECT group_id FROM scim_members WHERE user_id = ?)",
    },
}
_CASE_EXACT = ("id", "externalId")


LINKS: Mapping[Kind, str] = {"User": "groups", "Group": "members"}
"""The attribute that another table has."""
_LINK_ROWS: Mapping[Kind, str] = {
    "User": "SELECT id, name FROM scim_groups JOIN scim_members ON id = group_id WHERE user_id = ? AND id > ? "
    f"ORDER BY id LIMIT {_ROWS}",
    "Group": f"SELECT user_id FROM scim_members WHERE group_id = ? AND user_id > ? ORDER BY user_id LIMIT {_ROWS}",
}


class Stored(Struct, frozen=True, kw_only=True):
    """A user or group as stored. Times are seconds since the epoch."""

    kind: Kind
    id: str
    resource: Resource
    """Without the members of a group and the groups of a user, which other tables have."""
    version: int
    created_at: float
    changed_at: float
    key_id: str = ""

    @property
    def etag(self) -> str:
        return f'W/"{self.version}"'


class ScimStore:
    """`base`: URL of `/scim/v2`. `administration` makes the changes of keys, with the author of all entries."""

    def __init__(
        self,
        connection: Connection,
        administration: KeyAdministration,
        settings: Settings,
        base: str,
        clock: Callable[[], float],
    ) -> None:
        self._connection = connection
        self._administration = administration
        self._settings = settings
        self._base = base
        self._clock = clock

    @contextmanager
    def changing(self) -> Iterator[None]:
        try:
            with self._administration.changing():
                yield
        except InvalidRequest as error:  # an address that cannot be the name of a person
            raise ScimError(error.message) from None

    def find(self, kind: Kind, resource_id: str) -> Stored:
        """Raises `ScimError` (404)."""
        rows = self._select(kind, "id = ?", [resource_id], "")
        if not rows:
            raise find_no_resource(kind, resource_id)
        return rows[0]

    def list(self, kind: Kind, condition: Filter | None, start: int, count: int) -> tuple[Sequence[Stored], int]:
        """Return the resources from the index `start` on, from 0, and the number of all that match."""
        equalities = () if condition is None else condition.equalities
        indexed = [(_INDEXED[kind][one.name], one) for one in equalities if one.name in _INDEXED[kind]]
        where = " AND ".join(["1 = 1", *(text for text, _ in indexed)])
        values = [one.value if one.name in _CASE_EXACT else one.value.lower() for _, one in indexed]
        ((number,),) = self._connection.query(f"SELECT count(*) FROM {_TABLES[kind]} WHERE {where}", values)
        if condition is None or (condition.is_conjunction and len(indexed) == len(equalities)):
            return self._select(kind, where, values, f"LIMIT {count:d} OFFSET {start:d}"), int(number)
        self._require_little_work(kind, condition, where, values, int(number))
        found, number = list[Stored](), 0
        for stored in self._scan(kind, where, values):
            links = [one for part in self._read_links(stored) for one in part] if condition.reads_links else []
            if condition.matches(self.encode(stored, links)):
                if start <= number < start + count:
                    found.append(stored)
                number += 1
        return found, number

    def _require_little_work(
        self, kind: Kind, condition: Filter, where: str, values: Sequence[object], rows: int
    ) -> None:
        """Raise `ScimError` if the filter makes too many comparisons. They are counted before."""
        work = rows * (condition.terms + _COMPARISONS_PER_ROW)
        compared = formats.plural(rows, kind.lower())
        if condition.reads_links:
            column = "user_id" if kind == "User" else "group_id"
            query = (
                f"SELECT count(*) FROM scim_members WHERE {column} IN (SELECT id FROM {_TABLES[kind]} WHERE {where})"
            )
            ((links,),) = self._connection.query(query, values)
            work += rows * _COMPARISONS_PER_LINKS + int(links) * condition.terms
            compared += f" and {int(links):,} {LINKS[kind]} of them"
        if work > _MAX_COMPARISONS:
            raise ScimError(
                f"The filter compares too much: {formats.plural(condition.terms, 'comparison')} with each of "
                f"{compared}. Use fewer comparisons, or add one with {join_with_or(list(_INDEXED[kind]))} such as:  "
                'id eq "..." and ...',
                "tooMany",
            )

    def _scan(self, kind: Kind, where: str, values: Sequence[object]) -> Iterator[Stored]:
        last = ""
        condition = f"{where} AND id > ?"
        while rows := self._select(kind, condition, [*values, last], f"LIMIT {_ROWS}", order="id"):
            yield from rows
            last = rows[-1].id

    def _select(
        self, kind: Kind, where: str, values: Sequence[object], limit: str, order: str = "created_at, id"
    ) -> Sequence[Stored]:
        columns = _USER_COLUMNS if kind == "User" else _GROUP_COLUMNS
        rows = self._connection.query(
            f"SELECT {columns} FROM {_TABLES[kind]} WHERE {where} ORDER BY {order} {limit}", values
        )
        return [self._decode(kind, row) for row in rows]

    def _decode(self, kind: Kind, row: Sequence[Any]) -> Stored:
        resource_id, text, version, created_at, changed_at, external_id, *link = row
        if kind == "User":
            resource: Resource = msgspec.json.decode(text)
        else:
            resource = {"displayName": text, **({"externalId": external_id} if external_id else {})}
        return Stored(
            kind=kind,
            id=str(resource_id),
            resource=resource,
            version=int(version),
            created_at=created_at / MICROSECONDS,
            changed_at=changed_at / MICROSECONDS,
            key_id=str(link[1]) if link else "",
        )

    def encode(self, stored: Stored, links: Sequence[Resource] | msgspec.Raw) -> Resource:
        """Return the resource as a response has it. `links`: the members of a group, or the groups of a user."""
        kind = stored.kind
        document: Resource = {"schemas": [SCHEMAS[kind]], "id": stored.id, **stored.resource}
        document |= {LINKS[kind]: links} if links else {}
        document["meta"] = {
            "resourceType": kind,
            "created": _format(stored.created_at),
            "lastModified": _format(stored.changed_at),
            "location": self.locate(stored),
            "version": stored.etag,
        }
        return document

    def locate(self, stored: Stored) -> str:
        return f"{self._base}{ENDPOINTS[stored.kind]}/{stored.id}"

    def encode_links(self, stored: Stored, choose: Callable[[Sequence[Resource]], object]) -> msgspec.Raw:
        """Return the JSON of the members of a group, or of the groups of a user. Empty: there are none. They are read
        and encoded in parts, because members as objects need several times the memory, and one call that encodes all
        stops the server meanwhile. `choose` returns the parts that a response has.
        """
        parts = [msgspec.json.encode(choose(part))[1:-1] for part in self._read_links(stored)]
        return msgspec.Raw(b"[" + b",".join(parts) + b"]" if parts else b"")

    def _read_links(self, stored: Stored) -> Iterator[Sequence[Resource]]:
        last, rows = "", list[Any]()
        while not last or len(rows) == _ROWS:
            rows = self._connection.query(_LINK_ROWS[stored.kind], (stored.id, last))
            if not rows:
                return
            if stored.kind == "User":
                yield [
                    {"value": str(key), "$ref": f"{self._base}/Groups/{key}", "display": str(name), "type": "direct"}
                    for key, name in rows
                ]
            else:
                yield [{"value": str(key), "$ref": f"{self._base}/Users/{key}", "type": "User"} for (key,) in rows]
            last = str(rows[-1][0])

    def load(self, stored: Stored) -> Resource:
        """Return the attributes that a PATCH changes, with the members of a group."""
        if stored.kind == "User":
            return dict(stored.resource)
        members = [{"value": user_id} for user_id in self._list_member_ids(stored.id)]
        return {**stored.resource, **({"members": members} if members else {})}

    def create(self, kind: Kind, resource: Resource) -> Stored:
        ((number,),) = self._connection.query(f"SELECT count(*) FROM {_TABLES[kind]}")
        most = MAX_USERS if kind == "User" else MAX_GROUPS
        if number >= most:
            raise ScimError(f"{kind}s: {most:,} are stored, which is the maximum.", "tooMany")
        now = self._clock()
        new = Stored(kind=kind, id=str(uuid.uuid4()), resource={}, version=0, created_at=now, changed_at=now)
        if kind == "User":
            resource = {"active": True, **resource}
        return self.replace(new, resource)

    def replace(self, before: Stored, resource: Resource) -> Stored:
        """Store the changed resource, if it differs."""
        if before.version and resource == self.load(before):
            return before
        if before.kind == "User":
            self._store_user(before, resource)
        else:
            self._store_group(before, resource)
        return self.find(before.kind, before.id)

    def delete(self, stored: Stored) -> None:
        if stored.kind == "User":
            key = find_key(self._connection, stored.key_id) if stored.key_id else None
            if key is not None:
                self._administration.set_provisioned_access(key, has_access=False)
            query = "SELECT id, name FROM scim_groups JOIN scim_members ON id = group_id WHERE user_id = ? ORDER BY id"
            links = [f"{key} {name}" for key, name in self._connection.query(query, (stored.id,))]
            self._connection.execute("DELETE FROM scim_members WHERE user_id = ?", (stored.id,))
            self._connection.execute("DELETE FROM scim_users WHERE id = ?", (stored.id,))
            name = stored.resource.get("userName", "")
        else:
            affected = self._list_keys_of(stored.id)
            links = [*self._name_users(sorted(self._list_member_ids(stored.id)))]
            self._connection.execute("DELETE FROM scim_members WHERE group_id = ?", (stored.id,))
            self._connection.execute("DELETE FROM scim_groups WHERE id = ?", (stored.id,))
            name = stored.resource.get("displayName", "")
        self._record("delete", stored, str(name), {"name": (name, None)}, (links, ()))
        if stored.kind == "Group":
            self._mark(affected)

    has_changed_groups = False
    """True if groups or cost centers of people have changed: their tables are applied after the transaction, by any
    instance.
    """

    def _mark(self, key_ids: Sequence[str]) -> None:
        self.has_changed_groups = bool(key_ids)
        if self._settings.sign_in is not None:
            mark_people(self._connection, key_ids)

    def _record(
        self,
        verb: str,
        stored: Stored,
        name: str,
        changes: Mapping[str, tuple[object, object]],
        links: tuple[Sequence[str], Sequence[str]] = ((), ()),
    ) -> None:
        """`links`: the lost and the new members or groups, as id and name."""
        lost, new = links
        for start in range(0, max(len(lost), len(new), 1), _MAX_SHOWN):
            part = (lost[start : start + _MAX_SHOWN], new[start : start + _MAX_SHOWN])
            shown = {**({} if start else changes), **({LINKS[stored.kind]: part} if any(part) else {})}
            self._administration.record(f"{verb} SCIM {stored.kind.lower()}", f"{stored.id} {name}", shown)

    def _store_user(self, before: Stored, resource: Resource) -> None:
        body = msgspec.json.encode(resource)
        if len(body) > MAX_USER_BYTES:
            raise ScimError(
                f"The user has {len(body):,} bytes of attributes; {MAX_USER_BYTES:,} are allowed.", "tooMany"
            )
        name = str(resource["userName"])
        address = find_user_address(self._settings, resource)
        self._require_unique("scim_users", "user_name", name.lower(), before.id, f"userName {name!r}")
        if address:
            self._require_unique("scim_users", "address", address, before.id, f"address {address!r}")
        key_id = self._link(before, address)
        now = to_microseconds(self._clock())
        row = {
            "user_name": name.lower(),
            "external_id": resource.get("externalId", ""),
            "address": address,
            "key_id": key_id,
            "body": body.decode(),
            "is_active": int(resource.get("active") is True),
            "cost_center": find_cost_center(resource),
            "version": before.version + 1,
            "changed_at": now,
        }
        self._write("scim_users", before, row)
        self._record("change" if before.version else "create", before, name, _compare(before.resource, resource))
        was_active = before.resource.get("active") is True
        is_active = resource.get("active") is True
        key = find_key(self._connection, key_id) if key_id else None
        if key is not None and (was_active != is_active or key_id != before.key_id):
            self._administration.set_provisioned_access(key, has_access=is_active)
        if key is not None and find_cost_center(before.resource) != find_cost_center(resource):
            self._mark([key.id])

    def _link(self, before: Stored, address: str) -> str:
        """Return the id of the key that the user is. "": it has no address yet, so nobody can sign in as it."""
        key = find_key(self._connection, before.key_id) if before.key_id else None
        if key is None:
            return self._administration.provision_person(address).id if address else ""
        if address:
            self._administration.rename_waiting_person(key, address)
        return key.id

    def _store_group(self, before: Stored, resource: Resource) -> None:
        name = str(resource["displayName"])
        self._require_unique("scim_groups", "name_key", name.lower(), before.id, f"displayName {name!r}")
        old = set(self._list_member_ids(before.id))
        new = {str(item["value"]) for item in resource.get("members", ()) if "value" in item}
        added, removed = sorted(new - old), sorted(old - new)
        self._require_users(added)
        named = {name: resource.get(name, "") for name in ("displayName", "externalId")}
        earlier = {name: before.resource.get(name, "") for name in named}
        affected = self._list_keys_of(before.id) if named != earlier else []
        now = to_microseconds(self._clock())
        row = {
            "name": name,
            "name_key": name.lower(),
            "external_id": named["externalId"],
            "version": before.version + 1,
            "changed_at": now,
        }
        self._write("scim_groups", before, row)
        if added:
            rows = [(before.id, user_id) for user_id in added]
            self._connection.insert("scim_members", ("group_id", "user_id"), rows)
        statement = "DELETE FROM scim_members WHERE group_id = ? AND user_id = ?"
        if removed:
            self._connection.execute_many(statement, [(before.id, user_id) for user_id in removed])
        # with another name, the group has another table in the settings: all members lose that of the old name
        lost, gained = (removed, added) if named == earlier else (sorted(old), sorted(new))
        links = self._name_users(lost), self._name_users(gained)
        self._record("change" if before.version else "create", before, name, _compare(earlier, named), links)
        self._mark([*affected, *self._list_keys([*added, *removed])])

    def _write(self, table: str, before: Stored, row: Mapping[str, object]) -> None:
        if not before.version:
            self._connection.insert_row(table, {"id": before.id, "created_at": row["changed_at"], **row})
            return
        statement = f"UPDATE {table} SET {', '.join(f'{name} = ?' for name in row)} WHERE id = ?"
        self._connection.execute(statement, (*row.values(), before.id))

    def _require_unique(self, table: str, column: str, value: str, resource_id: str, shown: str) -> None:
        if self._connection.query(f"SELECT 1 FROM {table} WHERE {column} = ? AND id != ?", (value, resource_id)):
            raise ScimError(f"Another resource has the {shown}.", "uniqueness", 409)

    def _require_users(self, ids: Sequence[str]) -> None:
        known = {user_id for user_id, _ in self._find_users(ids, "id")}
        unknown = next((user_id for user_id in ids if user_id not in known), None)
        if unknown is not None:
            raise ScimError(f"members has {unknown[:80]!r}, which is the id of no user.")

    def _list_keys(self, user_ids: Sequence[str]) -> Sequence[str]:
        return [key_id for _, key_id in self._find_users(user_ids, "key_id") if key_id]

    def _find_users(self, ids: Sequence[str], column: str) -> Sequence[tuple[str, str]]:
        """Return the ids that users have, each with the value of a column."""
        query = f"SELECT id, {column} FROM scim_users WHERE id IN ({{marks}}) ORDER BY id"
        return [(str(user_id), str(value)) for user_id, value in query_parts(self._connection, query, ids)]

    def _list_member_ids(self, group_id: str) -> Sequence[str]:
        query = "SELECT user_id FROM scim_members WHERE group_id = ?"
        return [str(user_id) for (user_id,) in self._connection.query(query, (group_id,))]

    def _name_users(self, ids: Sequence[str]) -> Sequence[str]:
        return [f"{user_id} {name}" for user_id, name in self._find_users(ids, "user_name")]

    def _list_keys_of(self, group_id: str) -> Sequence[str]:
        query = "SELECT key_id FROM scim_users JOIN scim_members ON id = user_id WHERE group_id = ? AND key_id != ''"
        return [str(key) for (key,) in self._connection.query(query, (group_id,))]


def find_user_address(settings: Settings, resource: Resource) -> str:
    """Return the address with which the user signs in, in lower case: that of the claim `email_claim`. "": none."""
    emails = [item for item in resource.get("emails", ()) if item.get("value")]
    emails.sort(key=lambda item: not item.get("primary"))
    addresses = [str(item["value"]) for item in emails]
    claim = "email" if settings.oidc is None else settings.oidc.email_claim
    name = str(resource["userName"])
    ordered = [*addresses[:1], name] if claim == "email" else [name, *addresses[:1]]
    return next((text.lower() for text in ordered if is_address(text) and len(text) <= _MAX_ADDRESS_CHARACTERS), "")


def find_cost_center(resource: Resource) -> str:
    """A value that is no name is ignored."""
    text = str(resource.get(ENTERPRISE, {}).get("costCenter", ""))
    return text if is_name(text) else ""


_MAX_ADDRESS_CHARACTERS = 254
"""RFC 5321, section 4.5.3.1.3."""


def _compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[object, object]]:
    names = sorted({*before, *after})
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def _format(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
