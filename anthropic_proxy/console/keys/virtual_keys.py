"""Virtual keys, which are keys that the proxy issues to clients, their teams, and the changes of both."""

from typing import Literal

from msgspec import Struct

from anthropic_proxy.console.keys.rules import Rules

KeyStatus = Literal["active", "expired", "revoked"]


class KeyHash(Struct, frozen=True):
    """Stored hash of one text (secret) of a virtual key. Times are seconds since the epoch."""

    hash: str
    hint: str
    """Beginning and last four characters of the text, for lists."""
    created_at: float
    expires_at: float | None
    """Time from which the text is rejected, after a rotation replaced it. None: the current text."""


class VirtualKey(Struct, frozen=True, kw_only=True):
    """Owner, team, rules and state of a virtual key. Times are seconds since the epoch."""

    id: str
    label: str
    """Unique name of the key, by which log, metrics and ledger name the client."""
    owner: str = ""
    team: str = ""
    rules: Rules = Rules()
    created_at: float = 0.0
    expires_at: float | None = None
    revoked_at: float | None = None
    hashes: tuple[KeyHash, ...] = ()
    """Hashes of the texts of the key, the newest first."""

    def find_status(self, now: float) -> KeyStatus:
        if self.revoked_at is not None and self.revoked_at <= now:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


class Team(Struct, frozen=True):
    """A team of virtual keys. All its keys together share the limits and budgets of its rules."""

    name: str
    rules: Rules = Rules()


class AuditEntry(Struct, frozen=True, kw_only=True):
    id: int
    at: float
    actor: str
    """Author of the change: `command (USER@HOST)`, `API (admin key 1)` or `dashboard (admin key 1)`."""
    action: str
    """Kind of the change: `create key`, `change key`, `rotate key`, `revoke key`, `change team`, `delete team`."""
    target: str
    """Id and label of the changed key, or name of the changed team."""
    changes: dict[str, tuple[object, object]]
