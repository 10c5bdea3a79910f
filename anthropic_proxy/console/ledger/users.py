"""Who reads the ledger and the keys: the role, and what makes requests and keys the own ones."""

from collections.abc import Sequence
from typing import Self

from msgspec import Struct, structs

from anthropic_proxy.console.ledger.connection import Reader
from anthropic_proxy.gateway.permissions import Role, find_client_role
from anthropic_proxy.plugins import Client

_NAMES = "SELECT label, 1 FROM virtual_keys WHERE id = ? UNION ALL SELECT label, 0 FROM former_labels WHERE key_id = ?"
_PERSON = "owner = virtual_keys.label AND id NOT IN (SELECT key_id FROM key_hashes)"
_PEOPLE = (
    f"SELECT id, label, created_at FROM virtual_keys WHERE (label = ? OR label LIKE ? ESCAPE '/') AND {_PERSON} "
    "UNION SELECT id, former_labels.label, created_at FROM former_labels JOIN virtual_keys ON id = key_id "
    f"WHERE (former_labels.label = ? OR former_labels.label LIKE ? ESCAPE '/') AND {_PERSON}"
)
_MAX_DIGITS = 9
"""More digits are no number of a person. Python converts at most 4,300."""
_TEAMS = "SELECT DISTINCT team FROM virtual_keys WHERE lower(owner) IN ({marks}) AND team != '' AND revoked_at IS NULL"


class LedgerUser(Struct, frozen=True, kw_only=True):
    role: Role = "admin"
    person: str = ""
    """Id of the key of the person that the user is. "": the user has a key of the settings, or runs a command."""
    name: str = ""
    """Label of this key (`resolve`). "": there is none."""
    names: frozenset[str] = frozenset()
    """Its labels, also former ones, in lower case (`resolve`): no other key has or had one. They are the owners of the
    own keys and requests."""
    team: str = ""
    """Team of the user's group. "": none."""
    teams: frozenset[str] = frozenset()
    """Teams of the user: that of the group, and those of the own keys (`resolve`)."""

    def resolve(self, reader: Reader) -> Self:
        """Return this user with `name`, `names` and `teams` as the database has them."""
        if not self.person:
            return self
        rows = reader.query(_NAMES, (self.person, self.person))
        labels = {str(label) for label, _ in rows}
        addresses = {find_address(label) for label in labels} - labels
        own_addresses = {address for address in addresses if list_people_ids(reader, address)[:1] == [self.person]}
        names = sorted(name.lower() for name in labels | own_addresses)
        team_rows = reader.query(_TEAMS.format(marks=", ".join("?" * len(names))), names) if names else []
        return structs.replace(
            self,
            name=next((str(label) for label, is_present in rows if is_present), ""),
            names=frozenset(names),
            teams=frozenset({str(name) for (name,) in team_rows} | {self.team}) - {""},
        )


def find_address(name: str) -> str:
    """Return the e-mail address of the person with this name: an address, or `ann@example.org (2)`."""
    return name.partition(" (")[0]


def list_people_ids(reader: Reader, address: str) -> Sequence[str]:
    """Return the ids of the keys of people that have or had an address: in the order in which they got it, which the
    numbers of their names say. A person can be known for longer with another address.
    """
    of_address = (address, f"{escape_pattern(address)} (%)")
    rows = reader.query(_PEOPLE, (*of_address, *of_address))
    ordered = sorted((_find_number(str(name)), since, str(key_id)) for key_id, name, since in rows)
    return [*dict.fromkeys(key_id for _, _, key_id in ordered)]


def _find_number(name: str) -> int:
    """Return 1 for an address, 2 for `ann@example.org (2)`."""
    digits = name.partition(" (")[2].removesuffix(")")
    return int(digits) if digits.isdecimal() and digits.isascii() and len(digits) <= _MAX_DIGITS else 1


def escape_pattern(text: str) -> str:
    """Return `text` for a pattern of LIKE with `ESCAPE '/'`."""
    return text.replace("/", "//").replace("%", "/%").replace("_", "/_")


def find_client_user(client: Client) -> LedgerUser:
    """What the database has is not yet known."""
    return LedgerUser(role=find_client_role(client), person=client.key_id if client.sign_in else "", team=client.team)
