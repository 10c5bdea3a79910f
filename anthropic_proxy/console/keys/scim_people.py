"""People and groups of SCIM beside those of the sign-in (decision 0051).

A user of SCIM is the key of one person. The key exists before the first sign-in and waits for it; the address, which
the identity provider has verified, links both. What a deactivation means is thus a revocation of the key.

SCIM decides who is in the groups that it has, and the claim of the sign-in about all others. The cost center is that of
SCIM, if it has one, else that of the claim.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct, structs

from anthropic_proxy.console.identity.people import OidcUser, list_named_groups
from anthropic_proxy.console.keys.queries import find_key
from anthropic_proxy.console.keys.virtual_keys import VirtualKey
from anthropic_proxy.console.ledger.connection import Reader, query_parts
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.sign_in_tables import EVERYBODY

SCIM = "scim"
"""Value of `VirtualKey.ended_by` after a revocation by SCIM, which SCIM may undo, and of `KeyState.source`."""
_PEOPLE = "SELECT key_id, cost_center FROM scim_users WHERE key_id != ''"
_MEMBERS = "SELECT group_id, key_id FROM scim_members JOIN scim_users ON scim_users.id = user_id WHERE key_id != ''"


class ScimFacts(Struct, frozen=True):
    names: frozenset[str] = frozenset()
    """Names of groups of the settings about which SCIM decides."""
    of_keys: Mapping[str, frozenset[str]] = {}
    """Id of the key of a person → the names of its groups."""
    cost_centers: Mapping[str, str] = {}
    """Id of the key of each person that SCIM has → its cost center. "": none."""

    def describe(self, key_id: str, user: OidcUser) -> OidcUser:
        """Return the user with groups and cost center that it has by SCIM and the claims together."""
        if key_id not in self.cost_centers:
            return user
        claimed = [name for name in user.groups if name not in self.names]
        groups = (*claimed, *sorted(self.of_keys.get(key_id, ())))
        return structs.replace(user, groups=groups, cost_center=self.cost_centers[key_id] or user.cost_center)


def read_scim_facts(connection: Reader, named: Collection[str], key_ids: Sequence[str] | None = None) -> ScimFacts:
    """`named`: groups that the settings name. Others are not read. `key_ids`: the keys of those people that are read.
    None: all.
    """
    used = {name for name in named if "@" not in name and name != EVERYBODY}
    names_of: dict[str, set[str]] = {}
    for group_id, *given in connection.query("SELECT id, name, external_id FROM scim_groups"):
        if found := used.intersection(map(str, given)):
            names_of[str(group_id)] = found
    of_keys: dict[str, set[str]] = {}
    if key_ids is None:
        people = connection.query(_PEOPLE)
        members = query_parts(connection, f"{_MEMBERS} AND group_id IN ({{marks}})", [*names_of])
    else:
        people = list(query_parts(connection, f"{_PEOPLE} AND key_id IN ({{marks}})", key_ids))
        members = query_parts(connection, f"{_MEMBERS} AND key_id IN ({{marks}})", key_ids)
    for group_id, key in members:
        of_keys.setdefault(str(key), set()).update(names_of.get(str(group_id), ()))
    names = frozenset(name for found in names_of.values() for name in found)
    return ScimFacts(names, {key: frozenset(found) for key, found in of_keys.items()}, dict(people))


def find_scim_facts(connection: Reader, settings: Settings, key_ids: Sequence[str] | None = None) -> ScimFacts:
    """`key_ids`: as for `read_scim_facts`."""
    return ScimFacts() if settings.oidc is None else read_scim_facts(connection, list_named_groups(settings), key_ids)


class ScimLink(NamedTuple):
    user_id: str
    earlier_key: VirtualKey | None
    """The key that the user of SCIM was before this sign-in, if it is another one."""


def find_link(connection: Reader, user: OidcUser, before: VirtualKey | None) -> ScimLink | None:
    """Return the user of SCIM that signs in. `before`: the key of the person, if it has one. None: SCIM does not have
    the person. Raises `InvalidRequest` if the sign-in is refused.
    """
    query = "SELECT id, key_id, is_active FROM scim_users WHERE "
    rows = [] if before is None else connection.query(f"{query} key_id = ?", (before.id,))
    if rows:  # a deactivated person has a revoked key, unless an administrator has allowed it
        return ScimLink(str(rows[0][0]), None)
    rows = connection.query(f"{query} address = ?", (user.email,))
    if not rows:
        return None
    ((user_id, key_id, is_active),) = rows
    key = find_key(connection, str(key_id)) if key_id else None
    if key is not None and key.subject and key.left_at is None:
        raise InvalidRequest(
            f"{user.email} is the address of another account of the identity provider here.",
            remedy="If the account was replaced by this one, an administrator ends the access of the earlier one:  "
            f"anthropic-proxy keys revoke {key.id}, and then:  anthropic-proxy keys allow {key.id} --new-person",
            wish="access",
            code="sign-in-person",
        )
    if not is_active:
        raise InvalidRequest(describe_deactivation(user.email), code="sign-in-person")
    return ScimLink(str(user_id), key)


def describe_deactivation(person: str) -> str:
    return f"The identity provider has deactivated {person} (SCIM)."
