"""Virtual keys, teams and audit entries as texts and JSON values, and the secret of a key itself."""

import hashlib
import secrets
import string
import zlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, structs

from anthropic_proxy.console.keys.virtual_keys import (
    AuditEntry,
    FieldException,
    KeyHash,
    KeyState,
    KeyStatus,
    Team,
    VirtualKey,
    encode_exceptions,
)
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.key_rules import LIST_FIELDS, Rules


def describe_rules(rules: Rules) -> str:
    """Return the rules of a key or team as one line: `60 requests/min, $50.00 per month, models claude-*`.

    "": no limits.
    """
    numbers = {"requests/min": rules.requests_per_minute, "tokens/min": rules.tokens_per_minute}
    numbers["at a time"] = rules.concurrency
    limits = [f"{value:,} {unit}" for unit, value in numbers.items() if value is not None]
    limits += [budget.describe() for budget in rules.budgets]
    names = [(name, getattr(rules, name)) for name in LIST_FIELDS]
    return ", ".join([*limits, *(f"{title} {' '.join(values)}" for title, values in names if values)])


def format_time(seconds: float | None) -> str | None:
    """Return a time in UTC as text (RFC 3339): `2026-11-21T20:00:00Z`."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")


def encode_key(key: VirtualKey, state: KeyState) -> dict[str, Any]:
    return {
        "id": key.id,
        "type": "api_key",
        "name": key.label,
        "status": state.status,
        "status_reason": state.reason,
        "problem": key.problem,
        "partial_key_hint": key.hashes[0].hint if key.hashes else "",
        "created_at": format_time(key.created_at),
        "expires_at": format_time(key.expires_at),
        "revoked_at": format_time(key.revoked_at),
        "ended_by": key.ended_by,
        "source": state.source,
        "owner": key.owner,
        "team": key.team,
        "cost_center": key.cost_center,
        "person": key.person,
        "issuer": key.issuer,
        "subject": key.subject,
        "creator": key.creator,
        "creator_status": state.creator_status,
        "exceptions": [
            {"field": name, "by": exception.by, "at": format_time(exception.at)}
            for name, exception in key.exceptions.items()
        ],
        **_encode_rules(key.rules),
    }


_Text = Annotated[str, Meta(max_length=2_000)]
_Time = Annotated[datetime, Meta(tz=True)]


class _EncodedException(Struct):
    field: _Text
    by: _Text
    at: _Time


class _EncodedKey(Struct):
    """The fields of `encode_key` that are not those of `Rules`."""

    id: _Text
    name: _Text
    status: KeyStatus
    status_reason: _Text = ""
    problem: _Text = ""
    partial_key_hint: _Text = ""
    created_at: _Time | None = None
    expires_at: _Time | None = None
    revoked_at: _Time | None = None
    ended_by: _Text = ""
    owner: _Text = ""
    team: _Text = ""
    cost_center: _Text = ""
    person: _Text = ""
    issuer: _Text = ""
    subject: _Text = ""
    creator: _Text = ""
    creator_status: _Text = ""
    exceptions: Annotated[list[_EncodedException], Meta(max_length=100)] = []


def decode_key(encoded: object) -> tuple[VirtualKey, KeyState]:
    """Return a key and its state from their JSON value (`encode_key`). Of its secret, only the hint is known.

    Raises `msgspec.ValidationError`, because another program may have written it.
    """
    fields = msgspec.convert(encoded, _EncodedKey)
    rules = msgspec.convert(encoded, Rules)
    if len(describe_rules(rules)) > _MAX_RULES_CHARACTERS:
        raise msgspec.ValidationError(f"The rules have more than {_MAX_RULES_CHARACTERS:,} characters")
    created_at = 0.0 if fields.created_at is None else fields.created_at.timestamp()
    key = VirtualKey(
        id=fields.id,
        label=fields.name,
        rules=rules,
        hashes=(KeyHash("", fields.partial_key_hint, created_at, None),) if fields.partial_key_hint else (),
        created_at=created_at,
        expires_at=None if fields.expires_at is None else fields.expires_at.timestamp(),
        revoked_at=None if fields.revoked_at is None else fields.revoked_at.timestamp(),
        ended_by=fields.ended_by,
        owner=fields.owner,
        team=fields.team,
        cost_center=fields.cost_center,
        person=fields.person,
        issuer=fields.issuer,
        subject=fields.subject,
        creator=fields.creator,
        problem=fields.problem,
        exceptions={
            exception.field: FieldException(exception.by, exception.at.timestamp()) for exception in fields.exceptions
        },
    )
    return key, KeyState(fields.status, fields.status_reason, fields.creator_status)


def encode_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a `KeyCommand` as the API has them."""
    encoded: dict[str, Any] = msgspec.to_builtins(dict(fields))
    if "label" in encoded:
        encoded["name"] = encoded.pop("label")
    if encoded.get("expires_at") is not None:
        encoded["expires_at"] = format_time(encoded["expires_at"])
    return encoded


def encode_team(team: Team) -> dict[str, Any]:
    return {"type": "team", "name": team.name, "problem": team.problem, **_encode_rules(team.rules)}


def _encode_rules(rules: Rules) -> dict[str, Any]:
    names = ("amount", "unit", "period", "models", "soft")
    budgets = [{name: getattr(budget, name) for name in names} for budget in rules.budgets]
    return {**msgspec.to_builtins(structs.asdict(rules)), "budgets": budgets}


def list_settable_fields(key: VirtualKey) -> dict[str, Any]:
    names = {"label": key.label, "owner": key.owner, "team": key.team, "cost_center": key.cost_center}
    identity = {"issuer": key.issuer, "client_id": key.client_id, "subject": key.subject}
    rules = {**list_rule_fields(key.rules), "exceptions": [*key.exceptions]}
    times = {"expires_at": format_time(key.expires_at)}
    return {**names, **times, **identity, "left_at": format_time(key.left_at), **rules}


def list_rule_fields(rules: Rules) -> dict[str, Any]:
    values = _encode_rules(rules)
    return {**values, "budgets": [budget.describe() for budget in rules.budgets]}


def describe_creator(key: VirtualKey, state: KeyState) -> str:
    """Return who created the key for its owner or team: `lead@example.org (revoked)`. "": the owner, or an
    administrator.
    """
    if key.creator.lower() in ("", key.owner.lower()):
        return "the identity provider (SCIM)" if state.source else ""
    problem = state.creator_status not in ("", "active")
    return f"{key.creator} ({state.creator_status})" if problem else key.creator


def describe_author_of_end(key: VirtualKey) -> str:
    """Return who has revoked the key, if it was not an administrator."""
    return "deactivated by the identity provider (SCIM)" if key.revoked_at is not None and key.ended_by else ""


def describe_exceptions(key: VirtualKey) -> str:
    """Return which fields the table of the group or issuer does not set, and their origin: `budget (by command
    (ada@host), 2026-11-28T12:00:00Z)`. "": none.
    """
    origins: dict[FieldException, list[str]] = {}
    for name, origin in key.exceptions.items():
        origins.setdefault(origin, []).append(name)
    return "; ".join(
        f"{encode_exceptions(names).replace(',', ', ')} (by {origin.by}, {format_time(origin.at)})"
        for origin, names in origins.items()
    )


def describe_unknown_routes(names: Iterable[str], settings: Settings) -> Sequence[str]:
    known = {route.name for route in settings.routes}
    unknown = [name for name in names if name not in known]
    return [f"anthropic-proxy.toml has no route {name!r}, so no request matches it." for name in unknown]


def describe_field_value(value: object) -> str:
    """Return the old or new value of a changed field as text: `claude-*, openai/gpt-4.1`. None and "" become `–`."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "–"
    return "–" if value in (None, "") else str(value)


def describe_changes(changes: Mapping[str, tuple[object, object]]) -> str:
    """Return changed fields as one line: `team: build; tokens_per_minute: 1000 → –`."""
    pairs = {name: (describe_field_value(old), describe_field_value(new)) for name, (old, new) in changes.items()}
    return "; ".join(f"{name}: {new if old == '–' else f'{old} → {new}'}" for name, (old, new) in pairs.items())


def encode_audit_entry(entry: AuditEntry) -> dict[str, Any]:
    changes = {name: {"before": old, "after": new} for name, (old, new) in entry.changes.items()}
    values = {"id": entry.id, "at": format_time(entry.at), "actor": entry.actor, "action": entry.action}
    return {**values, "object": entry.target, "changes": changes}


PREFIX = "sk-ap-"
"""Beginning of the secret of each virtual key. `sk-` lets redaction and scanners for secrets recognize it."""
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM_CHARACTERS = 40
"""Number of random characters in the secret of a key. They have 238 bits of randomness."""
_CHECKSUM_CHARACTERS = 6
_MAX_RULES_CHARACTERS = 20_000
"""Number of characters of the limits of a key of another proxy that can be shown."""


def new_key() -> str:
    random = "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_CHARACTERS))
    return f"{PREFIX}{random}{_find_checksum(random)}"


def hash_key(key: bytes) -> str:
    """Return the SHA-256 hash of the secret of a key, which the database stores instead of it."""
    # A plain hash suffices, because 238 random bits cannot be guessed (decision 0047).
    return hashlib.sha256(key).hexdigest()


def is_jwt(credential: bytes) -> bool:
    """Return True for a text in the form of a signed token: three parts, of which the first one begins as JSON."""
    return credential.startswith(b"eyJ") and credential.count(b".") == 2 and credential.isascii()


def has_valid_checksum(key: bytes) -> bool:
    """False: the text was mistyped or truncated, or is a key of another service."""
    text = key.decode("latin-1")
    random = text[len(PREFIX) : -_CHECKSUM_CHARACTERS]
    return text == f"{PREFIX}{random}{_find_checksum(random)}" and len(random) == _RANDOM_CHARACTERS


def build_key_hint(key: str) -> str:
    return f"{PREFIX}…{key[-4:]}"


def _find_checksum(text: str) -> str:
    number = zlib.crc32(text.encode("latin-1"))
    characters = ""
    for _ in range(_CHECKSUM_CHARACTERS):
        number, digit = divmod(number, len(_ALPHABET))
        characters += _ALPHABET[digit]
    return characters
