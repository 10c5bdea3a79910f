"""Which virtual keys somebody may read and change, by role, person and teams.

A user changes the own keys, the administrator of a team those of its teams, and an administrator all. The key of a
person is the row that a sign-in creates, with the rules of the group. A personal key refers to it
(`VirtualKey.person`), so that these rules apply to it too, and it ends with the access of the person: a key that its
user creates, or that the administrator of a team creates for the person.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import structs

from anthropic_proxy.console.keys.virtual_keys import VirtualKey, field_error
from anthropic_proxy.console.ledger.users import LedgerUser, find_client_user
from anthropic_proxy.errors import PermissionDenied, join_with_or
from anthropic_proxy.gateway.permissions import may
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Client

HELD_FIELDS = ("owner", "team", "cost_center")
"""Fields of a personal key that are always those of its person."""


class Rights(LedgerUser, frozen=True, kw_only=True):
    max_keys: int = 0
    """Maximum number of active keys that a user creates."""
    has_no_group: bool = False
    """True for a user of the dashboard whom no table `[sign_in.groups.NAME]` has, so that the user may not use models.
    A new secret of a key would give this access."""

    @property
    def creates_own_keys(self) -> bool:
        return not may(self.role, "manage team keys")

    def owns(self, key: VirtualKey) -> bool:
        return key.owner.lower() in self.names

    def reads(self, key: VirtualKey) -> bool:
        """`select_keys` is the same for rows of the database."""
        return may(self.role, "read all keys") or self.owns(key) or self._manages(key.team)

    def select_keys(self) -> tuple[str, Sequence[str]]:
        """Return the condition of the rows of `virtual_keys` that `reads` accepts, and its values."""
        if may(self.role, "read all keys"):
            return "1 = 1", ()
        teams = self.teams if may(self.role, "manage team keys") else ()
        chosen = {
            column: sorted(values) for column, values in (("LOWER(owner)", self.names), ("team", teams)) if values
        }
        conditions = [f"{column} IN ({', '.join('?' * len(values))})" for column, values in chosen.items()]
        return f"({' OR '.join(conditions or ['1 = 0'])})", [value for values in chosen.values() for value in values]

    def reads_team(self, name: str) -> bool:
        return may(self.role, "read all keys") or name in self.teams

    @property
    def sign_ins_of(self) -> str | None:
        """Id of the key of the person whose sign-ins this user reads. None: those of all."""
        return None if may(self.role, "read all keys") else self.person

    def ends_sign_in(self, key_id: str) -> bool:
        return may(self.role, "manage all keys") or key_id == self.person

    def explain_denial(self, key: VirtualKey) -> str:
        """Return why this user changes nothing of the key. "": the user may at least rotate and revoke it."""
        if may(self.role, "manage all keys"):
            return ""
        if self._manages(key.team) and not self.owns(key) and is_of_person(key):
            return f"The key {key.label!r} is a person or a service, which only an administrator changes."
        if self._manages(key.team) and not is_of_person(key):
            return ""
        if not (self.owns(key) and may(self.role, "manage own keys")):
            return f"The role {self.role} does not change the key {key.label!r}."
        return "This is the key of your sign-in, which only an administrator changes." if is_of_person(key) else ""

    def explain_no_new_key(self) -> str:
        """Return why this user creates no key. "": the user may create one."""
        if reason := self.explain_no_new_secret():
            return reason
        if self.creates_own_keys and not self.max_keys:
            return "An administrator creates keys, because keys_per_person of [sign_in] is 0."
        return ""

    def explain_no_new_secret(self) -> str:
        """Return why the own keys of this user get no new secret. "": they may get one."""
        if self.creates_own_keys and self.has_no_group:
            return (
                "None of your groups gives access, so your keys get no new secret. Ask an administrator of the proxy "
                "for access."
            )
        return ""

    def changes_fields(self, key: VirtualKey) -> bool:
        """Return True if this user may change label, expiry and rules of a key that it may rotate and revoke."""
        is_own = bool(key.person) and (not key.creator or key.creator.lower() in self.names)
        return is_own or self._manages(key.team)

    def require_change(self, key: VirtualKey, *, of_fields: bool) -> None:
        """Raise `PermissionDenied` if this user may not rotate, revoke or (`of_fields`) change the key."""
        reason = self.explain_denial(key)
        if not reason and of_fields and not self.changes_fields(key):
            creator = key.creator or "An administrator"
            reason = f"{creator} created the key {key.label!r} and changes its fields. Rotate or revoke it."
        if reason:
            raise PermissionDenied(f"{reason} Nothing was changed.", code="key-rights")

    def require_all_keys(self) -> None:
        if not may(self.role, "manage all keys"):
            raise PermissionDenied(
                f"The role {self.role} does not change limits of teams. Nothing was changed.", code="key-rights"
            )

    def require_fields(self, given: Mapping[str, Any], before: VirtualKey, person: VirtualKey | None) -> None:
        """Raise `InvalidRequest` for a name (`NAME_FIELDS`) that this user may not give to a key. `before`: the
        stored key; without an id for a new one. `person`: the key of the user, if the changed key refers to it.
        """
        if not may(self.role, "manage all keys") and {"@", "/"} & set(str(given.get("label", ""))):
            raise field_error(f"The label is {given['label']!r}. Labels with @ or / are those of persons and services.")
        if before.id and is_of_person(before):
            # the owner reads the texts of later requests, and the label names the person everywhere
            for name, kept in (("owner", before.owner), ("label", before.label)):
                if given.get(name, kept) != kept:
                    raise field_error(
                        f"The {name} is {given[name]!r}. The key {before.label!r} is a person or a service, and keeps "
                        f"its {name} {kept!r}."
                    )
        if person is not None:
            if not before.id and not self.owns(person):
                self._require_own_team(person.team)
            for name in HELD_FIELDS:
                kept = getattr(person, name)
                if str(given.get(name, kept)).lower() != kept.lower():
                    raise field_error(
                        f"The {name.replace('_', ' ')} is {given[name]!r}. Keys that {person.owner} creates have "
                        f"{kept!r}: leave it out."
                    )
        elif not may(self.role, "manage all keys"):
            # the owner reads the texts that are sent later with the key
            if before.id and given.get("owner", before.owner) != before.owner:
                raise field_error(
                    f"The owner is {given['owner']!r}. Only an administrator changes the owner {before.owner!r} of a "
                    "key. Create a new key for another person."
                )
            if given.get("cost_center", before.cost_center) != before.cost_center:
                raise field_error(
                    f"The cost center is {given['cost_center']!r}. Only an administrator sets it: leave it out."
                )
            if "team" in given:
                self._require_own_team(given["team"])

    def _require_own_team(self, team: str) -> None:
        if team not in self.teams:
            named = join_with_or([repr(name) for name in sorted(self.teams)]) or "none: ask an administrator"
            raise field_error(f"The team is {team!r}. You manage keys of your own teams, which are {named}.")

    def _manages(self, team: str) -> bool:
        return may(self.role, "manage all keys") or (may(self.role, "manage team keys") and team in self.teams)


ADMINISTRATOR = Rights()
"""Rights of a command on this machine, and of a key of `ADMIN_API_KEY`."""


def find_client_rights(client: Client, settings: Settings) -> Rights:
    """Return the rights of a client of the API. What the database has is not yet known."""
    return Rights(**structs.asdict(find_client_user(client)), max_keys=settings.keys_per_person)


def is_of_person(key: VirtualKey) -> bool:
    """Return True for the key of a person or a service, which a sign-in or a token creates. It has no text."""
    return not key.hashes


def is_person(key: VirtualKey) -> bool:
    """Return True for the key of a person. The owner of a service is not its label."""
    return is_of_person(key) and key.owner == key.label
