"""Creation, change and revocation of virtual keys and teams.

Each change is recorded in the audit log, in the same transaction. The database stores only the hash of a key's text
(secret).
"""

import hashlib
import re
import secrets
import shlex
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.console import formats
from anthropic_proxy.console.identity.people import OidcUser, is_address, is_same_user
from anthropic_proxy.console.keys.acceptance import list_key_states
from anthropic_proxy.console.keys.descriptions import (
    build_key_hint,
    format_time,
    hash_key,
    list_rule_fields,
    list_settable_fields,
    new_key,
)
from anthropic_proxy.console.keys.limits import build_key_scope, build_team_scope
from anthropic_proxy.console.keys.person_keys import (
    PersonElsewhere,
    find_free_name,
    find_person,
    is_waiting,
    list_people_elsewhere,
)
from anthropic_proxy.console.keys.queries import (
    add_earlier_use,
    build_ambiguity_error,
    find_key,
    find_people,
    find_team,
    list_named_keys,
    list_owned_keys,
    list_owners,
    require_key,
)
from anthropic_proxy.console.keys.rights import ADMINISTRATOR, HELD_FIELDS, Rights, is_of_person, is_person
from anthropic_proxy.console.keys.scim_people import (
    SCIM,
    ScimLink,
    describe_deactivation,
    find_link,
    read_scim_facts,
)
from anthropic_proxy.console.keys.sign_ins import (
    PersonFacts,
    SignIn,
    find_active_sign_in,
    find_person_facts,
    list_sign_ins,
    store_person_facts,
    store_refusal,
)
from anthropic_proxy.console.keys.table_rules import find_table_fields
from anthropic_proxy.console.keys.virtual_keys import (
    ACTIVE,
    RULE_NAMES,
    TABLE_FIELDS,
    FieldException,
    KeyState,
    Team,
    VirtualKey,
    decode_exceptions,
    decode_expiry,
    decode_rule_texts,
    field_error,
    require_duration,
)
from anthropic_proxy.console.ledger.audit import Changes, add_entry, changing
from anthropic_proxy.console.ledger.connection import Connection
from anthropic_proxy.console.ledger.database import open_for_writing
from anthropic_proxy.console.ledger.records import StoredRequest
from anthropic_proxy.console.ledger.users import find_address, list_people_ids
from anthropic_proxy.console.units import DAY_SECONDS, MICROSECONDS, to_microseconds
from anthropic_proxy.engine.patterns import compile_anchored
from anthropic_proxy.errors import InvalidRequest, LimitReached, PermissionDenied, UnknownModel, join_with_and
from anthropic_proxy.gateway.permissions import may
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.key_rules import (
    MAX_PERSON_CHARACTERS,
    Rules,
    require_name,
    require_valid_rules,
)

NAME_FIELDS = ("label", "owner", "team", "cost_center")
MAX_OVERLAP_SECONDS = 30 * 86_400
"""Maximum time in seconds for which the old secret of a rotated key is still accepted."""
MAX_OWN_SECRETS_PER_DAY = 100
"""Maximum number of new secrets within a day for the keys that a person creates. Each instance keeps all in memory."""
MAX_CHANGES_PER_DAY = 300
"""Maximum number of changes within a day by a user who does not manage all keys. The audit log keeps all of them."""
_LATEST_ENTRIES = 10 * MAX_CHANGES_PER_DAY
MAX_EXPIRY = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
"""Latest expiry of a key, in seconds since the epoch: the end of the year 9999, so that every time zone can show it."""
_RESERVED_LABEL = compile_anchored(r"local|admin|doctor|((admin|monitor) )?key \d+", re.IGNORECASE)
"""Matches labels that the log uses for clients without a virtual key. A virtual key cannot have such a label."""


_ChangeOfKey = Literal["create", "change", "rotate", "revoke", "allow", "leave", "move"]
KeyAction = Literal[_ChangeOfKey, "team", "person", "sign-out"]
"""`leave`: the next user with the address of a person is another person. `move`: the next one at another identity
provider or client is the same person."""
_MAX_NAMED_KEYS = 10
_NO_KEY = VirtualKey(id="", label="")
_IDENTITY_FIELDS = ("issuer", "client_id", "subject", "left_at")
"""Fields of `VirtualKey` that only a sign-in sets."""
_STORED_TEXTS = ("id", *NAME_FIELDS, "person", "creator", "issuer", "client_id", "subject")
_STORED_TIMES = ("created_at", "expires_at", "owner_since", "left_at")


class KeyCommand(Struct, frozen=True, kw_only=True):
    """One change of a key or a team, as the command `keys`, the API or the form has it."""

    action: KeyAction
    target: str = ""
    """Id or label of the key, name of the team, or e-mail address of the person, if only one person has or had it. "":
    a new key. `sign-out`: also the id of a sign-in. `revoke`: also an e-mail address without a key, whose user is
    refused from then on."""
    fields: Mapping[str, Any] = {}
    """Name of a field of `VirtualKey` or `Rules`, or `overlap_seconds` → its new value. Others keep their values.
    `reason`, `shown_reason`: why the person of a sign-out is refused, for the audit log and for the person.
    `exceptions`: names of the fields that no table may change; one that is left out gets the value of the table again.
    """
    expected_digest: str = ""
    """`find_digest` of the values that the user saw. If others are stored now, nothing is changed. "": any values."""


class KeyOutcome(Struct, frozen=True, kw_only=True):
    key: VirtualKey = _NO_KEY
    """The key after the change. Without an id: a team was changed."""
    state: KeyState = ACTIVE
    """State of this key. It is `ACTIVE` until `find_state` has found it."""
    team: Team = Team("")
    text: str = ""
    """Secret of a new or rotated key, which cannot be read again. "": there is no new one."""
    sign_ins: Sequence[SignIn] = ()
    """Sign-ins that were ended."""
    valid_keys: Sequence[VirtualKey] = ()
    """Keys of the person that stay valid after a sign-out."""
    changes: Changes
    sentence: str
    notices: Sequence[str] = ()
    """Further sentences: what the change leaves, and how to change that."""
    user: OidcUser | None = None
    """The user who was admitted, with its label."""


def decode_command(
    action: KeyAction,
    target: str,
    given: Mapping[str, str | Sequence[str]],
    now: float,
    *,
    prefix: str = "",
    expected_digest: str = "",
) -> KeyCommand:
    """`given`: name of an option or of a field of the form → its text. `prefix`, such as `--`, precedes this name in
    error messages. Raises `InvalidRequest`.
    """
    fields: dict[str, Any] = {name: given[name] for name in NAME_FIELDS if name in given}
    if "expires" in given:
        fields["expires_at"] = decode_expiry(f"{prefix}expires", str(given["expires"]), now)
    if "overlap" in given:
        fields["overlap_seconds"] = require_duration(f"{prefix}overlap", str(given["overlap"]))
    if "exceptions" in given:
        fields["exceptions"] = decode_exceptions(f"{prefix}exceptions", str(given["exceptions"]))
    rules = decode_rule_texts({name: given[name] for name in RULE_NAMES if name in given}, prefix)
    return KeyCommand(action=action, target=target, fields={**fields, **rules}, expected_digest=expected_digest)


def find_digest(stored: VirtualKey | Team | Sequence[SignIn]) -> str:
    return hashlib.sha256(msgspec.json.encode(stored)).hexdigest()


class KeyAdministration:
    """Operations on virtual keys and teams in the database that the user with `rights` may do. Each change adds a row
    with the author `actor` to the audit log.
    """

    def __init__(
        self,
        connection: Connection,
        actor: str,
        clock: Callable[[], float] = time.time,
        rights: Rights = ADMINISTRATOR,
        settings: Settings | None = None,
    ) -> None:
        """`settings`: those with the tables of groups and issuers. None: there are no tables."""
        self._connection = connection
        self._actor = actor
        self._clock = clock
        self._settings = settings
        self.rights = rights.resolve(connection)

    def require_key(self, name: str) -> VirtualKey:
        """Raises `UnknownModel` if no key that the user reads has the id, label or address `name`, and `InvalidRequest`
        if several have it.
        """
        return require_key(self._connection, name, self.rights)

    def find_sign_ins(self, name: str) -> Sequence[SignIn]:
        """Return the sign-ins of a person or device that have not ended. `name`: id of the sign-in or of the key, or
        e-mail address. Raises `UnknownModel` if there is none, and `InvalidRequest` if several people have or had the
        address.
        """
        ending, now = self.rights.ends_sign_in, self._clock()
        found = find_active_sign_in(self._connection, "id", name, now)
        matched: Sequence[SignIn] = [] if found is None or not ending(found.key_id) else [found]
        if not matched:
            people = [key for key in list_named_keys(self._connection, name) if ending(key.id)]
            if len(people) > 1:
                raise build_ambiguity_error(name, people)
            matched = list_sign_ins(self._connection, now, people[0].id) if people else []
        if not matched:
            raise UnknownModel(
                f"There is no sign-in of {name[:80]!r}. List the sign-ins:  anthropic-proxy keys sign-ins",
                code="sign-in-unknown",
            )
        return matched

    def find_state(self, key: VirtualKey, settings: Settings) -> KeyState:
        if not key.id:  # a team or sign-ins were changed
            return ACTIVE
        return list_key_states(self._connection, settings, [key], self._clock())[0]

    def list_people_elsewhere(self, settings: Settings) -> Sequence[PersonElsewhere]:
        return list_people_elsewhere(self._connection, settings, self._clock())

    def find_team(self, name: str) -> Team:
        """A name that is not stored gives a team without rules."""
        return find_team(self._connection, name) or Team(name)

    def execute(self, command: KeyCommand, *, dry_run: bool = False) -> KeyOutcome:
        """Make the change. `dry_run`: nothing is stored. Raises `InvalidRequest` for invalid or changed values, and
        `UnknownModel` for an unknown key.
        """
        with nullcontext() if dry_run else self.changing():
            match command.action:
                case "team":
                    self.rights.require_all_keys()
                    return self._change_team(command, dry_run=dry_run)
                case "person":
                    return self._set_person(command, dry_run=dry_run)
                case "sign-out":
                    return self._end_sign_ins(command, dry_run=dry_run)
                case action:
                    return self._change_key(action, command, dry_run=dry_run)

    def _change_key(self, action: _ChangeOfKey, command: KeyCommand, *, dry_run: bool) -> KeyOutcome:
        key = _NO_KEY if action == "create" else self._find_target(command, dry_run=dry_run)
        if key.id:
            self.rights.require_change(key, of_fields=action == "change")
        _require_expected(key, command)
        if not dry_run and action != "revoke":
            self._require_few_changes()
        match action:
            case "create" | "change":
                return self._set_key(key, command, dry_run=dry_run)
            case "rotate":
                if reason := self.rights.explain_no_new_secret():
                    raise PermissionDenied(reason, code="key-rights")
                return self._rotate_key(key, command.fields.get("overlap_seconds", 0.0), dry_run=dry_run)
            case "revoke":
                return self._revoke_key(key, dry_run=dry_run)
            case "allow":
                return self._allow_person(key, dry_run=dry_run)
            case "leave":
                return self._leave_address(key, dry_run=dry_run)
            case "move":
                return self._move_person(key, dry_run=dry_run)

    def _require_few_changes(self) -> None:
        """Of many users who change keys at once, each may make some more: only the latest entries are read. A
        revocation is none, because no key can be revoked twice.
        """
        if may(self.rights.role, "manage all keys"):
            return
        now = self._clock()
        latest = f"SELECT actor, action, at FROM audit_log ORDER BY id DESC LIMIT {_LATEST_ENTRIES}"
        sql = f"SELECT at FROM ({latest}) AS latest WHERE actor = ? AND action != 'revoke key' AND at > ?"
        rows = self._connection.query(sql, (self._actor, to_microseconds(now - DAY_SECONDS)))
        if len(rows) >= MAX_CHANGES_PER_DAY:
            raise LimitReached(
                f"You have made {len(rows)} changes within a day, and more are not made. Keys can still be revoked. "
                "Try again tomorrow.",
                retry_after=min(at for (at,) in rows) / MICROSECONDS + DAY_SECONDS - now,
                code="key-changes",
            )

    def _set_key(self, before: VirtualKey, command: KeyCommand, *, dry_run: bool) -> KeyOutcome:
        """Create the key, or change the given fields."""
        now = self._clock()
        is_new = not before.id
        is_sign_in = command.action == "person"
        _require_readable(before)
        exceptions = before.exceptions
        from_table = dict[str, Any]()
        if not is_new and not is_sign_in:
            exceptions, from_table = self._find_exceptions(before, command.fields, now)
        fields = {**from_table, **command.fields}
        names = (*NAME_FIELDS, "expires_at", *(_IDENTITY_FIELDS if is_sign_in else ()))
        given = {name: value for name, value in fields.items() if name in names}
        if "owner" in given and not is_sign_in and not self.rights.creates_own_keys:
            given["owner"] = self._name_owner(given["owner"], before.id)
        after = structs.replace(before, rules=_set_rules(before.rules, fields, now), exceptions=exceptions, **given)
        if not is_sign_in:
            person = self._find_person(before, given, now, dry_run=dry_run)
            if person is not None:
                held = {name: getattr(person, name) for name in HELD_FIELDS}
                after = structs.replace(after, **held, person=person.id)
            if is_new:
                self._require_member(after)
            # without a person, the team of a new key is checked also if none is given
            self.rights.require_fields({"team": "", **given} if is_new and person is None else given, before, person)
        if is_new:
            creator = "" if is_sign_in else self.rights.name
            after = structs.replace(after, id=f"key_{secrets.token_hex(12)}", created_at=now, creator=creator)
        elif after.owner.lower() != before.owner.lower() and not is_sign_in:
            after = structs.replace(after, owner_since=now)
        self._require_valid(before, after, now)
        changes = _compare(list_settable_fields(before), list_settable_fields(after))
        verb = "create" if is_new else "change"
        outcome = KeyOutcome(key=after, changes=changes, sentence=f"Key {after.label} is {verb}d.")
        if dry_run:
            return outcome
        after = structs.replace(
            after, rules=add_earlier_use(self._connection, self._settings, build_key_scope(after), now)
        )
        values: dict[str, Any] = {name: getattr(after, name) for name in _STORED_TEXTS}
        times = {name: getattr(after, name) for name in _STORED_TIMES}
        values |= {name: None if at is None else to_microseconds(at) for name, at in times.items()}
        values["rules"] = msgspec.json.encode(after.rules).decode()
        values["exceptions"] = msgspec.json.encode(after.exceptions).decode() if after.exceptions else ""
        if is_new:
            self._connection.insert_row("virtual_keys", values)
        else:
            statement = f"UPDATE virtual_keys SET {', '.join(f'{name} = ?' for name in values)} WHERE id = ?"
            self._connection.execute(statement, (*values.values(), before.id))
            # the keys that a person created stay in its team and cost center
            statement = "UPDATE virtual_keys SET team = ?, cost_center = ? WHERE person = ? AND person != ''"
            self._connection.execute(statement, (after.team, after.cost_center, before.id))
            if after.label != before.label:
                self._keep_label(before, after)
        if is_sign_in and is_person(after) and after.label != before.label:  # an earlier version kept the spelling
            statement = "UPDATE virtual_keys SET owner = ? WHERE lower(owner) = ? AND id != ?"
            self._connection.execute(statement, (after.label, after.label, after.id))
        text = _add_text(self._connection, after.id, now) if is_new and not is_sign_in else ""
        self.record(f"{verb} key", name_key(after if is_new else before), changes)
        return structs.replace(outcome, key=self.require_key(after.id), text=text)

    def _keep_label(self, before: VirtualKey, after: VirtualKey) -> None:
        """Store the label of `before` as a former one, so that no other key gets it. It is also the owner and the
        creator of the keys of a person, which get the new one.
        """
        self._connection.execute("DELETE FROM former_labels WHERE label = ?", (after.label,))
        self._connection.insert_row("former_labels", {"label": before.label, "key_id": before.id})
        if is_person(before):
            for column in ("owner", "creator"):
                statement = f"UPDATE virtual_keys SET {column} = ? WHERE lower({column}) = ?"
                self._connection.execute(statement, (after.label, before.label))

    def _name_owner(self, owner: str, key_id: str) -> str:
        """Return the name of the person or service that `owner`, an address, a label or an id, means, in any spelling:
        also of one that the user does not read, whose rules apply all the same. An address with which nobody has signed
        in gets the spelling of the person who will. Other owners get that of the other keys with this owner. `key_id`:
        id of the key that gets the owner. Raises `InvalidRequest` if several people have or had the address, and for a
        name that a later person may get.
        """
        people = list_owners(self._connection, owner)
        if len(people) > 1:
            readable = [key for key in people if self.rights.reads(key)]
            if not readable:
                raise field_error(
                    f"The owner is {owner!r}, an address of several people. Ask an administrator for a key of one of "
                    "them."
                )
            people = readable
        if len(people) > 1:
            raise build_ambiguity_error(owner, people)
        if not people and "@" in owner and find_address(owner) != owner:
            raise field_error(f"The owner is {owner!r}, which is the name of no person. Use an address or a name.")
        if people:
            return people[0].label
        if is_address(owner):
            return owner.lower()
        query = "SELECT owner FROM virtual_keys WHERE lower(owner) = ? AND id != ? ORDER BY created_at, id LIMIT 1"
        return next((str(spelled) for (spelled,) in self._connection.query(query, (owner.lower(), key_id))), owner)

    def admit_user(
        self,
        user: OidcUser,
        find_fields: Callable[[OidcUser], Mapping[str, Any]],
        *,
        stated_at: float,
        complete: Callable[[OidcUser], OidcUser] | None = None,
        named_groups: Collection[str] = (),
        dry_run: bool = False,
    ) -> KeyOutcome:
        """Create or change the key of a user of the identity provider. Without changes, nothing is stored.

        `stated_at`: time at which the identity provider was asked about the user. If it has described the user later to
        another device or browser, that counts, so that no answer undoes a newer one. `complete` adds what the answer
        leaves out to a user, from what the provider has said before.

        `find_fields` returns what the settings give to the user, whose label is set, and may raise the reason for which
        the user is refused. `named_groups`: those of the settings. Raises `InvalidRequest` if the user may not sign in.
        A dry run is a transaction too, because another first sign-in with that address must not come between its
        queries.
        """
        with self.changing():
            before = find_person(self._connection, user)
            known = None if before is None else find_person_facts(self._connection, before.id)
            if known is not None and not is_same_user(known.user, user):
                known = None
            if known is not None and known.stated_at > stated_at:
                user, stated_at = known
            elif complete is not None:
                user = complete(user if known is None else known.user)
            link = find_link(self._connection, user, before)
            label = "" if before is None else before.label
            if before is None or find_address(label) != user.email:
                self._require_address(user.email)
                label = find_free_name(self._connection, user.email, "" if before is None else before.id)
                if len(label) > MAX_PERSON_CHARACTERS:
                    raise InvalidRequest(
                        f"The address {user.email} is too long: the name {label!r} has {len(label)} characters, and a "
                        f"name here has at most {MAX_PERSON_CHARACTERS}.",
                        code="sign-in-person",
                    )
            named = user
            if label != user.email:
                people = list_people_ids(self._connection, user.email)
                is_first = not people or (before is not None and before.id == people[0])
                named = structs.replace(user, label="" if is_first else label)
            identity = {"issuer": user.issuer, "client_id": user.client_id, "subject": user.subject, "left_at": None}
            described = self._add_scim_facts(named, link, named_groups)
            fields = {"label": label, "owner": label, **identity, **find_fields(described)}
            command = KeyCommand(action="person", target=label, fields=fields)
            outcome = self._store_person(before, command, dry_run=dry_run)
            if link is not None and not dry_run:
                self._link_scim_user(link, outcome.key)
            if not dry_run:
                self._store_facts(outcome.key, known, PersonFacts(named, stated_at))
            notices = []
            if before is None and named.label:
                notices = [
                    f"{user.email} was of another person before, so this one is {label!r}. What the settings give to "
                    f"{user.email} is not for this person."
                ]
            return structs.replace(outcome, user=named, notices=notices)

    def _store_facts(self, key: VirtualKey, before: PersonFacts | None, after: PersonFacts) -> None:
        if after == before:
            return
        store_person_facts(self._connection, key.id, after)
        if before is not None and before.user != after.user:
            shown = {name: (getattr(before.user, name), getattr(after.user, name)) for name in ("email", "groups")}
            changes = {name: pair for name, pair in shown.items() if pair[0] != pair[1]}
            self.record("change sign-in", name_key(key), changes)

    def _add_scim_facts(self, user: OidcUser, link: ScimLink | None, named_groups: Collection[str]) -> OidcUser:
        if link is None:
            return user
        ((key_id,),) = self._connection.query("SELECT key_id FROM scim_users WHERE id = ?", (link.user_id,))
        return read_scim_facts(self._connection, named_groups, [str(key_id)]).describe(str(key_id), user)

    def _link_scim_user(self, link: ScimLink, key: VirtualKey) -> None:
        statement = "UPDATE scim_users SET key_id = ? WHERE id = ? AND key_id != ?"
        if not self._connection.execute(statement, (key.id, link.user_id, key.id)):
            return
        earlier = link.earlier_key
        self.record("link SCIM user", name_key(key), {"person": (earlier and earlier.label, key.label)})
        if earlier is not None:  # nobody becomes this person any more
            self._leave_address(earlier, dry_run=False)
            if earlier.revoked_at is None:
                self._revoke_key(earlier, dry_run=False)

    def provision_person(self, address: str) -> VirtualKey:
        """Return the key of the person whose address it is, within `changing`: the newest one, because the identity
        provider has given the address to it, or a new one that waits for the first sign-in. Raises `InvalidRequest`.
        """
        people = [key for key in find_people(self._connection, address) if find_address(key.label) == address]
        linked = "SELECT 1 FROM scim_users WHERE key_id = ?"
        free = [
            key
            for key in people
            if key.left_at is None and is_person(key) and not self._connection.query(linked, (key.id,))
        ]
        if free:
            return max(free, key=lambda key: key.created_at)
        self._require_address(address)
        name = find_free_name(self._connection, address)
        return self._set_person(KeyCommand(action="person", target=name), dry_run=False).key

    def rename_waiting_person(self, key: VirtualKey, address: str) -> None:
        """Another address of a person who has not signed in, within `changing`. Others get it with a sign-in."""
        if not is_waiting(key, find_address(key.label)) or find_address(key.label) == address:
            return
        self._require_address(address)
        name = find_free_name(self._connection, address, key.id)
        fields = {"label": name, "owner": name}
        self._set_key(key, KeyCommand(action="person", target=key.label, fields=fields), dry_run=False)

    def set_provisioned_access(self, key: VirtualKey, *, has_access: bool) -> None:
        """End the access of a person by SCIM, or undo that, within `changing`. What an administrator has ended stays
        ended.
        """
        if not has_access and key.revoked_at is None:
            self._revoke_key(key, dry_run=False, ended_by=SCIM)
        elif has_access and key.revoked_at is not None and key.ended_by == SCIM:
            self._allow_person(key, dry_run=False)

    def set_table_fields(self, key: VirtualKey, fields: Mapping[str, Any]) -> None:
        """Give a person what its table has, within `changing`. Raises `InvalidRequest` if the person has no access."""
        self._store_person(key, KeyCommand(action="person", target=key.label, fields=fields), dry_run=False)

    def _set_person(self, command: KeyCommand, *, dry_run: bool) -> KeyOutcome:
        """Create or change the key of a service, whose owner is not its label, or of a person, whose label is an
        address. The key has no secret.
        """
        if "owner" not in command.fields:
            self._require_address(command.target)
        before = find_key(self._connection, command.target)
        if before is None:
            fields = {"label": command.target, "owner": command.target, **command.fields}
            command = structs.replace(command, fields=fields)
        return self._store_person(before, command, dry_run=dry_run)

    def _require_address(self, address: str) -> None:
        """Raise `InvalidRequest` for an address that cannot be the name of a person."""
        if "/" in address:
            raise InvalidRequest(
                f"The address {address!r} contains /, as the label of a service does, so the person may not sign in.",
                code="sign-in-person",
            )
        key = find_key(self._connection, address)
        if key is not None and key.hashes:
            raise InvalidRequest(
                f"The key {address!r} has a secret, so it is not the key of a signed-in person.",
                remedy="An administrator should give it another label:  anthropic-proxy keys change "
                f"{shlex.quote(address)} --label LABEL",
                wish="access",
                code="sign-in-person",
            )

    def _store_person(self, before: VirtualKey | None, command: KeyCommand, *, dry_run: bool) -> KeyOutcome:
        if before is None:
            return self._set_key(_NO_KEY, command, dry_run=dry_run)
        if before.revoked_at is not None and before.ended_by == SCIM:
            raise InvalidRequest(describe_deactivation(before.label), code="sign-in-person")
        if (status := before.find_status(self._clock())) in ("revoked", "expired"):
            raise InvalidRequest(
                f"The key {before.label!r} is {status}, so the person may not sign in.", code="sign-in-person"
            )
        fields = {name: value for name, value in command.fields.items() if name not in before.exceptions}
        command = structs.replace(command, fields=fields)
        outcome = self._set_key(before, command, dry_run=True)
        return self._set_key(before, command, dry_run=dry_run) if outcome.changes else outcome

    def _find_exceptions(
        self, before: VirtualKey, fields: Mapping[str, Any], now: float
    ) -> tuple[Mapping[str, FieldException], dict[str, Any]]:
        """Return the exceptions of a key after a change by an administrator, and what its table sets in place of those
        that end. Each field that the command gives is an exception, so that the change lasts. Raises `InvalidRequest`
        for exceptions of a key that no table sets.
        """
        new_exception = FieldException(self._actor, now)
        kept = set(fields.get("exceptions", before.exceptions))
        if not is_of_person(before):
            if kept:
                raise field_error(f"The key {before.label!r} is no person and no service, so it has no exceptions.")
            return {}, {}
        if unknown := sorted(kept - {*TABLE_FIELDS.values()}):
            raise field_error(f"The exceptions have {unknown[0]!r}. Use {join_with_and([*TABLE_FIELDS.values()])}.")
        given = {name for name in TABLE_FIELDS.values() if name in fields}
        exceptions = {
            name: new_exception if name in given else before.exceptions.get(name, new_exception)
            for name in TABLE_FIELDS.values()
            if name in kept | given
        }
        ended = before.exceptions.keys() - exceptions.keys()
        if not ended or self._settings is None:
            return exceptions, {}
        table = find_table_fields(self._connection, self._settings, before)
        return exceptions, {name: value for name, value in table.items() if name in ended}

    def _end_sign_ins(self, command: KeyCommand, *, dry_run: bool) -> KeyOutcome:
        """End the sign-ins of a person or device. The person can sign in again, and keys that the person has created
        stay valid, so the outcome names them.
        """
        ended = self.find_sign_ins(command.target)
        now = self._clock()
        _require_expected(ended, command)
        changes: Changes = {"sign_ins": ([sign_in.id for sign_in in ended], [])}
        key = require_key(self._connection, ended[0].key_id)
        if not dry_run:
            moment = to_microseconds(now)
            shown = command.fields.get("shown_reason", "")
            for sign_in in ended:
                self._connection.execute(
                    "UPDATE sign_ins SET ended_at = ?, provider_token = '', end_reason = ? WHERE id = ?",
                    (moment, shown, sign_in.id),
                )
            if reason := command.fields.get("reason"):  # own keys end too, unless another device proves the access
                column = "key_id" if command.target == key.id else "id"
                store_refusal(self._connection, column, command.target, moment)
                statement = f"UPDATE sign_ins SET ends_at = ? WHERE {column} = ? AND ends_at > ?"
                self._connection.execute(statement, (moment, command.target, moment))
            self.record("sign out", name_key(key), {**changes, **({"reason": (None, reason)} if reason else {})})
        verb = f"{formats.plural(len(ended), 'sign-in')} of {key.label} {'is' if len(ended) == 1 else 'are'}"
        owned_keys = list_owned_keys(self._connection, key.id, key.owner)
        valid = [owned for owned in owned_keys if owned.hashes and owned.find_status(now) == "active"]
        return KeyOutcome(
            sign_ins=ended,
            valid_keys=valid,
            changes=changes,
            sentence=f"{verb} ended.",
            notices=self.describe_valid_keys(key.label, valid),
        )

    def describe_valid_keys(self, name: str, valid: Sequence[VirtualKey]) -> Sequence[str]:
        """Return what stays after a sign-out of the person `name`, and how to end it. `valid`: keys of the person."""
        if not valid:
            return ()
        labels = ", ".join(key.label for key in valid[:_MAX_NAMED_KEYS])
        if len(valid) > _MAX_NAMED_KEYS:
            labels += f" and {len(valid) - _MAX_NAMED_KEYS:,} more"
        subject, verb = ("key", "stays") if len(valid) == 1 else ("keys", "stay")
        notices = [f"The {subject} of {name} {verb} valid: {labels}. End one:  anthropic-proxy keys revoke LABEL"]
        if may(self.rights.role, "manage all keys"):
            notices.append(f"To end all access of the person:  anthropic-proxy keys revoke {shlex.quote(name)}")
        return notices

    def _find_target(self, command: KeyCommand, *, dry_run: bool) -> VirtualKey:
        """Return the key of a command. A revocation of an e-mail address without a key creates that of the person."""
        address = command.target.lower()
        is_new = command.action == "revoke" and is_address(address) and "/" not in address
        if (
            is_new
            and may(self.rights.role, "manage all keys")
            and not list_named_keys(self._connection, command.target)
        ):
            name = find_free_name(self._connection, address)
            return self._set_person(KeyCommand(action="person", target=name), dry_run=dry_run).key
        return self.require_key(command.target)

    def _find_person(
        self, key: VirtualKey, fields: Mapping[str, Any], now: float, *, dry_run: bool
    ) -> VirtualKey | None:
        """Return the key of the person whose rules and access apply to `key`: a key that a person creates or changes,
        or that the administrator of a team creates for a person. None: it is no such key. Raises `InvalidRequest` if
        the user has enough keys.
        """
        rights = self.rights
        if key.person:
            return require_key(self._connection, key.person)
        if key.id or may(rights.role, "manage all keys"):
            return None
        if reason := rights.explain_no_new_key():
            raise PermissionDenied(reason, code="key-rights")
        if not rights.creates_own_keys:
            owner = str(fields.get("owner", ""))
            person = find_key(self._connection, owner) if owner else None
            return person if person is not None and is_of_person(person) else None
        person = find_key(self._connection, rights.person) if rights.person else None
        if person is None or person.find_status(now) != "active":
            raise PermissionDenied(
                f"The key of {rights.name or 'the user'} is not active. Ask an administrator.", code="key-rights"
            )
        own_keys = [
            key
            for key in list_owned_keys(self._connection, person.id)
            if not key.creator or key.creator.lower() in rights.names
        ]
        number = sum(own_key.find_status(now) == "active" for own_key in own_keys)
        if number >= rights.max_keys:
            raise field_error(
                f"You have {formats.plural(number, 'active key')}, and keys_per_person of [sign_in] allows "
                f"{rights.max_keys}. Revoke one first."
            )
        _require_few_secrets(own_keys, now)
        return person

    def _require_member(self, key: VirtualKey) -> None:
        """Raise `InvalidRequest` if the user may not give a new key this owner: the administrator of a team creates
        keys for itself, for members of its teams, or for nobody.
        """
        owner = key.owner.lower()
        teams = self.rights.teams
        if may(self.rights.role, "manage all keys") or owner in ("", *self.rights.names) or key.team not in teams:
            return  # another team is refused afterwards
        query = "SELECT id FROM virtual_keys WHERE lower(owner) = ? AND team = ? AND revoked_at IS NULL LIMIT 1"
        if not self._connection.query(query, (owner, key.team)):
            raise field_error(
                f"The owner is {key.owner!r}, who has no key in the team {key.team!r}. Use a member of the team, or "
                "leave the owner out."
            )

    def _rotate_key(self, key: VirtualKey, overlap_seconds: float, *, dry_run: bool) -> KeyOutcome:
        """Give the key a new secret. The old one stays valid for `overlap_seconds`."""
        if not 0 <= overlap_seconds <= MAX_OVERLAP_SECONDS:
            raise field_error(
                f"The overlap is {overlap_seconds:g} seconds. Use 0 to {MAX_OVERLAP_SECONDS:,} (30 days)."
            )
        _require_readable(key)
        if not key.hashes:
            raise field_error(
                f"The key {key.label!r} is a person or a service, so it has no secret. To end all its access:  "
                f"anthropic-proxy keys revoke {shlex.quote(key.label)}"
            )
        if key.revoked_at is not None:
            raise field_error(f"The key {key.label!r} is revoked. Create a new key.")
        now = self._clock()
        hint = key.hashes[0].hint
        if key.person and self.rights.creates_own_keys:
            _require_few_secrets(list_owned_keys(self._connection, key.person), now)
        until = f"valid until {formats.long_time(now + overlap_seconds)}" if overlap_seconds else ""
        sentence = f"Key {key.label} has a new secret." + (f" The old one is {until}." if until else "")
        if dry_run:
            shown = (f"{hint}, {until or 'ends at once'}", "a new secret, shown after the confirmation")
            return KeyOutcome(key=key, changes={"secret": shown}, sentence=sentence)
        end = to_microseconds(now + overlap_seconds)
        for text_hash in key.hashes:
            if text_hash.expires_at is None or to_microseconds(text_hash.expires_at) > end:
                self._connection.execute("UPDATE key_hashes SET expires_at = ? WHERE hash = ?", (end, text_hash.hash))
        text = _add_text(self._connection, key.id, now)
        changes = {"hint": (hint, build_key_hint(text))}
        self.record("rotate key", name_key(key), changes)
        return KeyOutcome(key=self.require_key(key.id), text=text, changes=changes, sentence=sentence)

    def _revoke_key(self, key: VirtualKey, *, dry_run: bool, ended_by: str = "") -> KeyOutcome:
        """A key that is already revoked is not changed. With the key of a person, all access ends: sign-ins, the keys
        with this owner, sessions of the dashboard, and new sign-ins.
        """
        now = self._clock()
        changes: Changes = {"status": (key.find_status(now), "revoked")}
        owned = list_owned_keys(self._connection, key.id, key.owner) if is_person(key) else ()
        ended = [owned_key for owned_key in owned if owned_key.revoked_at is None]
        if ended:
            changes = {**changes, "keys": ([owned_key.label for owned_key in ended], [])}
        if key.exceptions:
            changes = {**changes, "exceptions": ([*key.exceptions], [])}
        if not dry_run and key.revoked_at is None:
            times = (to_microseconds(now), key.id)
            if is_of_person(key):
                self._connection.execute("UPDATE virtual_keys SET exceptions = '' WHERE id = ?", (key.id,))
            if is_person(key):
                self._connection.execute("UPDATE virtual_keys SET sessions_from = ? WHERE id = ?", times)
                self._connection.execute("DELETE FROM device_codes WHERE key_id = ?", (key.id,))
            reason = describe_deactivation(key.label) if ended_by == SCIM else ""
            self._connection.execute(
                "UPDATE sign_ins SET end_reason = CASE WHEN ? = '' THEN end_reason ELSE ? END, ended_at = ?, "
                "provider_token = '' WHERE key_id = ? AND ended_at IS NULL",
                (reason, reason, *times),
            )
            self._end_key(key, changes, now, ended_by)
            for owned_key in ended:
                status = {
                    "status": (owned_key.find_status(now), "revoked"),
                    "reason": (None, f"{key.label} is revoked"),
                }
                self._end_key(owned_key, status, now)
            key = self.require_key(key.id)
        elif not dry_run and key.ended_by:  # SCIM no longer undoes it
            self._end_key(key, {"ended_by": (key.ended_by, "")}, key.revoked_at or now)
        notices = []
        if is_person(key):
            keys = f", {formats.plural(len(ended), 'key')} of this owner" if ended else ""
            notices = [
                f"All sign-ins of the person{keys} and the sessions of the dashboard are ended, and the person cannot "
                "sign in.",
                f"To allow it again:  anthropic-proxy keys allow {shlex.quote(key.label)}",
            ]
        return KeyOutcome(key=key, changes=changes, sentence=f"Key {key.label} is revoked.", notices=notices)

    def _end_key(self, key: VirtualKey, changes: Changes, now: float, ended_by: str = "") -> None:
        statement = "UPDATE virtual_keys SET revoked_at = ?, ended_by = ? WHERE id = ?"
        self._connection.execute(statement, (to_microseconds(now), ended_by, key.id))
        self.record("revoke key", name_key(key), changes)

    def _allow_person(self, key: VirtualKey, *, dry_run: bool) -> KeyOutcome:
        """Undo the revocation of a person or a service. What the revocation ended stays ended."""
        if not is_of_person(key):
            raise field_error(
                f"The key {key.label!r} is no person and no service. Only these can be allowed again: create another "
                "key."
            )
        now = self._clock()
        changes: Changes = {"status": (key.find_status(now), "active")} if key.revoked_at is not None else {}
        if not dry_run and changes:
            self._connection.execute("UPDATE virtual_keys SET revoked_at = NULL, ended_by = '' WHERE id = ?", (key.id,))
            for owned_key in list_owned_keys(self._connection, key.id):  # an earlier version did not revoke them
                if owned_key.revoked_at is None:
                    self._end_key(owned_key, {"status": (owned_key.find_status(now), "revoked")}, now)
            self.record("allow key", name_key(key), changes)
            key = self.require_key(key.id)
        return KeyOutcome(key=key, changes=changes, sentence=f"Key {key.label} is allowed.")

    def _leave_address(self, key: VirtualKey, *, dry_run: bool) -> KeyOutcome:
        _require_person(key)
        now = self._clock()
        changes: Changes = {} if key.left_at is not None else {"left_at": (None, format_time(now))}
        if not dry_run and changes:
            self._connection.execute("UPDATE virtual_keys SET left_at = ? WHERE id = ?", (to_microseconds(now), key.id))
            self.record("change key", name_key(key), changes)
        sentence = f"The next user with the address {find_address(key.label)} is another person than {key.label}."
        return KeyOutcome(key=self.require_key(key.id), changes=changes, sentence=sentence)

    def _move_person(self, key: VirtualKey, *, dry_run: bool) -> KeyOutcome:
        """Let the person wait for its next sign-in. Sign-ins and sessions of the earlier identity provider end."""
        _require_person(key)
        if key.revoked_at is not None:
            raise field_error(
                f"The key {key.label!r} is revoked. Allow the person first:  anthropic-proxy keys allow {key.id}"
            )
        address = find_address(key.label)
        now = self._clock()
        people = find_people(self._connection, address)
        waiting = [person for person in people if is_waiting(person, address) and person.id != key.id]
        if waiting:  # nobody knows which of both the next user with the address is
            raise build_ambiguity_error(address, [key, *waiting])
        before = {name: getattr(key, name) for name in _IDENTITY_FIELDS}
        after = {**dict.fromkeys(_IDENTITY_FIELDS, ""), "left_at": None}
        changes = _compare(before, after)
        if not dry_run and changes:
            moment = to_microseconds(now)
            statement = ", ".join(f"{name} = ?" for name in (*after, "sessions_from"))
            values = (*after.values(), moment, key.id)
            self._connection.execute(f"UPDATE virtual_keys SET {statement} WHERE id = ?", values)
            statement = "UPDATE sign_ins SET ended_at = ?, provider_token = '' WHERE key_id = ? AND ended_at IS NULL"
            self._connection.execute(statement, (moment, key.id))
            self.record("move person", name_key(key), changes)
        sentence = f"The next user with the address {address} is {key.label}."
        return KeyOutcome(key=self.require_key(key.id), changes=changes, sentence=sentence)

    def _change_team(self, command: KeyCommand, *, dry_run: bool) -> KeyOutcome:
        """Set the given rules of the team. If no rule remains, the team is deleted from the database."""
        now = self._clock()
        name = command.target
        before = self.find_team(command.target)
        _require_expected(before, command)
        require_name("team", name)
        if not name:
            raise field_error("The team has no name.")
        if before == Team(name) and "/" in name:
            raise field_error(
                f"The name of the team {name!r} contains /. Use another character, because addresses below "
                "/admin/teams contain the name."
            )
        _require_readable(before)
        after = require_valid_rules(_set_rules(before.rules, command.fields, now))
        changes = _compare(list_rule_fields(before.rules), list_rule_fields(after))
        if not dry_run:
            scope = build_team_scope(Team(name, after))
            after = add_earlier_use(self._connection, self._settings, scope, now)
            self._connection.execute("DELETE FROM teams WHERE name = ?", (name,))
            if after != Rules():
                self._connection.insert_row("teams", {"name": name, "rules": msgspec.json.encode(after).decode()})
            self.record("delete team" if after == Rules() else "change team", name, changes)
        return KeyOutcome(team=Team(name, after), changes=changes, sentence=f"Team {name} is changed.")

    @contextmanager
    def changing(self) -> Iterator[None]:
        """The changes are stored together."""
        with changing(self._connection):
            yield

    def record(self, action: str, name: str, changes: Changes) -> None:
        """Add a row to the audit log. A new row lets all instances read the keys and sign-ins again that it concerns
        (`find_changed_keys`). An unknown action concerns all.
        """
        now = self._clock()
        add_entry(self._connection, now, actor=self._actor, action=action, target=name, changes=changes)

    def _require_valid(self, before: VirtualKey, key: VirtualKey, now: float) -> None:
        for name in NAME_FIELDS:
            require_name(name.replace("_", " "), getattr(key, name))
        if not key.label or _RESERVED_LABEL.fullmatch(key.label):
            raise field_error(
                f"The label is {key.label!r}. Use another one: local, admin, doctor and key 1 have a meaning."
            )
        if key.expires_at is not None and key.expires_at <= now:
            raise field_error("The expiry is in the past. Use a later time, or revoke the key.")
        if key.expires_at is not None and key.expires_at > MAX_EXPIRY:
            raise field_error("The expiry is after 9999-12-30. Use an earlier time, or none.")
        require_valid_rules(key.rules)
        if key.label == before.label:
            return
        # no other key has or had the label: the owner of the label reads its requests
        if find_key(self._connection, key.label) is not None:
            raise field_error(f"A key with the label {key.label!r} exists. Use another label, or rotate that key.")
        if self._connection.query(
            "SELECT key_id FROM former_labels WHERE label = ? AND key_id != ?", (key.label, key.id)
        ):
            raise field_error(
                f"Another key had the label {key.label!r}, and the ledger has its requests. Use another label."
            )

    def record_look(self, target: str, rows: Sequence[StoredRequest]) -> None:
        """Add an entry to the audit log: the author reads stored texts of these requests, which others sent."""
        keys = sorted({row.key_label for row in rows} - {""})
        owners = sorted({row.owner for row in rows} - {""})
        with self.changing():
            changes: Changes = {"key": ("", ", ".join(keys)), "owner": ("", ", ".join(owners))}
            self.record("read texts", target, changes)


@contextmanager
def open_administration(
    settings: Settings, actor: str, clock: Callable[[], float] = time.time, rights: Rights = ADMINISTRATOR
) -> Iterator[KeyAdministration]:
    """The database is created or migrated if necessary."""
    with closing(open_for_writing(settings)) as connection:
        yield KeyAdministration(connection, actor, clock, rights, settings)


def _set_rules(before: Rules, fields: Mapping[str, Any], now: float) -> Rules:
    """A budget with another amount, or one that becomes soft or hard, keeps its use. One that was removed and set again
    begins anew.
    """
    given = {name: value for name, value in fields.items() if name in Rules.__struct_fields__}
    after = structs.replace(before, **given)
    known = {
        (budget.unit, budget.period, budget.models): (budget.since, budget.used_before) for budget in before.budgets
    }
    dated = []
    for budget in after.budgets:
        since, used_before = known.get((budget.unit, budget.period, budget.models), (now, 0))
        dated.append(structs.replace(budget, since=since, used_before=used_before))
    return structs.replace(after, budgets=tuple(dated))


def has_fields(key: VirtualKey, fields: Mapping[str, Any], now: float) -> bool:
    """Return True if the key has these fields of a `KeyCommand` already, but for its exceptions."""
    given = {name: value for name, value in fields.items() if name not in key.exceptions}
    others = {name: value for name, value in given.items() if name not in Rules.__struct_fields__}
    return structs.replace(key, rules=_set_rules(key.rules, given, now), **others) == key


def _require_expected(stored: VirtualKey | Team | Sequence[SignIn], command: KeyCommand) -> None:
    if command.expected_digest not in ("", find_digest(stored)):
        raise InvalidRequest(
            "The values have changed since the preview. Nothing was changed. Open the form again.",
            code="dashboard-parameter",
        )


def _require_readable(stored: VirtualKey | Team) -> None:
    """A key or team that cannot be read is not changed, because its limits would be lost."""
    if stored.problem:
        remedy = "Revoke it, or" if isinstance(stored, VirtualKey) else "Give its keys another team, or"
        raise InvalidRequest(
            f"{stored.problem} Nothing was changed. {remedy} update this version.", code="virtual-key-unreadable"
        )


def _require_person(key: VirtualKey) -> None:
    if not is_person(key):
        raise field_error(f"The key {key.label!r} is no person.")


def _require_few_secrets(own_keys: Sequence[VirtualKey], now: float) -> None:
    """`own_keys`: all keys that a person has created."""
    times = [text.created_at for key in own_keys for text in key.hashes if text.created_at > now - DAY_SECONDS]
    if len(times) >= MAX_OWN_SECRETS_PER_DAY:
        raise LimitReached(
            f"Your keys got {len(times)} new secrets within a day, and more are not created. Try again tomorrow.",
            retry_after=min(times) + DAY_SECONDS - now,
            code="key-changes",
        )


def _add_text(connection: Connection, key_id: str, now: float) -> str:
    key_text = new_key()
    row = {"hash": hash_key(key_text.encode()), "key_id": key_id, "hint": build_key_hint(key_text)}
    connection.insert_row("key_hashes", {**row, "created_at": to_microseconds(now)})
    return key_text


def name_key(key: VirtualKey) -> str:
    return f"{key.id} {key.label}"


def _compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> Changes:
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}
