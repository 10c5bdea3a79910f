"""Who reads the ledger and the keys: the role, and what makes requests and keys the own ones."""

from typing import Self

from msgspec import Struct, structs

from anthropic_proxy.console.ledger.database import Reader
from anthropic_proxy.gateway.permissions import Role, find_client_role
from anthropic_proxy.plugins import Client

_TEAMS = "SELECT DISTINCT team FROM virtual_keys WHERE lower(owner) = ? AND team != '' AND revoked_at IS NULL"


class LedgerUser(Struct, frozen=True, kw_only=True):
    role: Role = "admin"
    email: str = ""
    """E-mail address of the user in lower case, which is the owner of the own keys. "": the user has a key of the
    settings, or runs a command."""
    team: str = ""
    """Team of the user's group. "": none."""
    teams: frozenset[str] = frozenset()
    """Teams of the user: that of the group, and those of the own keys (`with_teams`)."""

    def with_teams(self, reader: Reader) -> Self:
        """Return this user with `teams` as the database has them."""
        if not self.email:
            return self
        found = {str(name) for (name,) in reader.query(_TEAMS, (self.email,))}
        return structs.replace(self, teams=frozenset((found | {self.team}) - {""}))


def find_client_user(client: Client) -> LedgerUser:
    """`teams` are not yet known."""
    return LedgerUser(role=find_client_role(client), email=client.owner.lower(), team=client.team)
