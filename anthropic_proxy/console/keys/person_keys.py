"""Which virtual key a user of the identity provider is, and how it is named (decision 0050).

Only issuer and subject identify a user (OpenID Connect Core 1.0, section 5.7): a provider may give the address of
somebody who has left to somebody else. So the key of a person has both, and the address is a part of its *name*, the
label: `ann@example.org`, or `ann@example.org (2)` for the second person with it. No key gets a name that another one
has or had. So a name leads to one person, wherever it is stored: in the ledger, as an owner, as a creator.

The key of a person is

- bound: it has an issuer and a subject;
- waiting: it has none. The first user with its address, which the configured provider has verified, becomes this
  person. Waiting are people that were revoked before they signed in, that `keys move-people` has moved, or that an
  earlier version has stored without a sign-in;
- left (`left_at`): a user with its address, and another subject, is another person.
"""

import math
import shlex
from collections.abc import Sequence

from msgspec import Struct

from anthropic_proxy.console.identity.people import OidcUser, require_provider
from anthropic_proxy.console.keys.queries import find_key, find_people, list_keys
from anthropic_proxy.console.keys.sign_ins import list_access_ends
from anthropic_proxy.console.keys.virtual_keys import VirtualKey
from anthropic_proxy.console.ledger.connection import Reader
from anthropic_proxy.console.ledger.users import escape_pattern, find_address
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.settings import Settings

_BOUND = "SELECT id FROM virtual_keys WHERE issuer = ? AND subject = ?"
_NAMES = (
    "SELECT label FROM virtual_keys WHERE id != ? AND (label = ? OR label LIKE ? ESCAPE '/') "
    "UNION SELECT label FROM former_labels WHERE key_id != ? AND (label = ? OR label LIKE ? ESCAPE '/') "
    "UNION SELECT lower(owner) FROM virtual_keys WHERE lower(owner) LIKE ? ESCAPE '/'"
)


def find_person(connection: Reader, user: OidcUser) -> VirtualKey | None:
    """Return the key of the person that `user` is. None: the person has not signed in before. Raises `InvalidRequest`
    if only an administrator can decide which person it is.
    """
    if rows := connection.query(_BOUND, (user.issuer, user.subject)):
        return find_key(connection, str(rows[0][0]))
    people = [key for key in find_people(connection, user.email) if find_address(key.label) == user.email]
    present = [key for key in people if key.left_at is None]
    waiting = [key for key in present if is_waiting(key, user.email)]
    address = shlex.quote(user.email)
    if len(waiting) > 1:
        raise InvalidRequest(
            f"{user.email} may be {len(waiting)} people of this proxy.",
            remedy="An administrator ends this for all of them but one:  anthropic-proxy keys allow ID --new-person",
            wish="access",
            code="person-ambiguous",
        )
    if waiting:
        return waiting[0]
    for key in present:
        if (key.issuer, key.client_id) != (user.issuer, user.client_id):
            raise InvalidRequest(
                f"{user.email} is known here from another identity provider or client ({key.issuer}, {key.client_id}).",
                remedy="An administrator decides whether it is the same person:  anthropic-proxy keys move-people "
                f"{address}, or another one:  anthropic-proxy keys allow {address} --new-person",
                wish="access",
                code="sign-in-person",
            )
    return None


def is_waiting(key: VirtualKey, address: str) -> bool:
    """Return True if the next user with this address is the person."""
    return not key.subject and key.left_at is None and find_address(key.label) == address


class PersonElsewhere(Struct, frozen=True):
    """A person of another identity provider or client than that of the settings."""

    key: VirtualKey
    has_access: bool
    """False: the person is revoked, or all its sign-ins are over."""


def list_people_elsewhere(connection: Reader, settings: Settings, now: float) -> Sequence[PersonElsewhere]:
    """Return those whose address nobody else has got. `now`: seconds since the epoch."""
    provider = require_provider(settings)
    sign_in = settings.sign_in
    ends = list_access_ends(connection, 0 if sign_in is None else sign_in.token_seconds)
    return [
        PersonElsewhere(key, key.revoked_at is None and ends.get(key.id, math.inf) > now)
        for key in list_keys(connection)
        if key.subject and key.left_at is None
        if (key.issuer, key.client_id) != (provider.issuer, provider.client_id)
    ]


def find_free_name(connection: Reader, address: str, key_id: str = "") -> str:
    """Return the address, or the first `ADDRESS (NUMBER)`, that no other key has or had as a label. `key_id`: the key
    to name. "": a new one.
    """
    numbered = f"{escape_pattern(address)} (%)"
    rows = connection.query(_NAMES, (key_id, address, numbered, key_id, address, numbered, numbered))
    taken = {str(label) for (label,) in rows}
    number = 1
    name = address
    while name in taken:
        number += 1
        name = f"{address} ({number})"
    return name
