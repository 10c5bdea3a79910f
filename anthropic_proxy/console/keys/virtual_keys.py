"""Virtual keys, which are keys that the proxy issues to clients, their teams, and the changes of both.

A key or a team has `Rules`: allowed models, limits and budgets.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Literal, assert_never

from msgspec import Struct, structs

from anthropic_proxy.console.units import find_midnight
from anthropic_proxy.engine.durations import decode_duration
from anthropic_proxy.errors import InvalidRequest, join_with_and, replace_remedy
from anthropic_proxy.gateway.settings.key_rules import LIST_FIELDS, Period, Rules, decode_budget

KeyStatus = Literal["active", "inactive", "expired", "revoked", "unreadable"]
"""`inactive`: its person has no access now, until the next sign-in or until a table of groups has the person again."""


def field_error(text: str) -> InvalidRequest:
    """`text`: which field of a key or team has a value that it cannot have, and what to use."""
    return InvalidRequest(text, code="virtual-key-fields")


class KeyHash(Struct, frozen=True):
    """Stored hash of one text (secret) of a virtual key. Times are seconds since the epoch."""

    hash: str
    hint: str
    """Beginning and last four characters of the text, for lists."""
    created_at: float
    expires_at: float | None
    """Time from which the text is rejected, after a rotation replaced it. None: the current text."""


class FieldException(Struct, frozen=True):
    """Origin of a field of a person or a service that an administrator has set, so that no table changes it."""

    by: str
    """Author of the change, as in the audit log."""
    at: float


class VirtualKey(Struct, frozen=True, kw_only=True):
    """Owner, team, rules and state of a virtual key. Times are seconds since the epoch."""

    id: str
    label: str
    """Unique name of the key, by which log, metrics and ledger name the client."""
    owner: str = ""
    team: str = ""
    """Name of the team of the key, which has shared rules. "": no team."""
    cost_center: str = ""
    """Cost center to which the requests are booked. "": none."""
    person: str = ""
    """Id of the key of the person to whom this key belongs: its rules apply too, and the key ends with its access. "":
    the key belongs to a team or a program, or an administrator created it."""
    creator: str = ""
    """E-mail address of the user who created it. "": an administrator with a key or a command, or an earlier version
    created it."""
    rules: Rules = Rules()
    created_at: float = 0.0
    expires_at: float | None = None
    """Time from which the key is rejected. None: the key does not expire."""
    revoked_at: float | None = None
    """Time of the revocation. None: the key is not revoked."""
    owner_since: float | None = None
    """Time of the last change of the owner. None: the owner is the first one."""
    exceptions: Mapping[str, FieldException] = {}
    """Field (`TABLE_FIELDS`) of a person or a service → who has set it, in place of the table of its group or issuer.
    """
    sessions_from: float | None = None
    """Time of the last revocation or move of a person: sessions of the dashboard that began before have ended. None:
    none."""
    issuer: str = ""
    """Identity provider of the person. "": it has not signed in, or the key is none of a person."""
    client_id: str = ""
    """Client at the identity provider by which the person signed in last. A provider may give each client another
    subject for the same user."""
    subject: str = ""
    """Id of the person at the identity provider, which it gives to nobody else."""
    ended_by: str = ""
    """What has revoked the key, if it may undo that: `scim`. "": an administrator."""
    left_at: float | None = None
    """Time from which the address is no longer of this person: another user with it is another person. None: it is."""
    hashes: tuple[KeyHash, ...] = ()
    """Hashes of the texts of the key, the newest first."""
    problem: str = ""
    """Reason why its rows in the database cannot be read, so that the key is rejected and has no rules. "": none."""

    def find_status(self, now: float) -> KeyStatus:
        """Return the state by the row of the key alone; `KeyFacts` has the state of its person too. `now`: seconds
        since the epoch.
        """
        if self.revoked_at is not None and self.revoked_at <= now:
            return "revoked"
        if self.problem:
            return "unreadable"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


class KeyState(Struct, frozen=True):
    status: KeyStatus
    reason: str = ""
    """Text of the error that a request with the key receives. "": it is accepted."""
    creator_status: str = ""
    """State of a team administrator who created the key for the team: one of `KeyStatus`, or `no team admin`. "":
    somebody else created it, or the state is unknown."""
    remedy: str = ""
    """End of the reason that only concerns administrators."""
    source: str = ""
    """`scim`: the identity provider has created the person, and changes it. "": somebody, or a sign-in."""
    wish: str = ""
    """What somebody else asks an administrator for."""

    def for_people(self, contact: str) -> "KeyState":
        """Return the state with the reason as a client reads it. `contact`: that of `[sign_in]`."""
        reason = replace_remedy(self.reason, self.remedy, self.wish, contact)
        return structs.replace(self, reason=reason, remedy="", wish="")


ACTIVE = KeyState("active")


class Team(Struct, frozen=True):
    """A team of virtual keys. All its keys together share the limits and budgets of its rules."""

    name: str
    rules: Rules = Rules()
    problem: str = ""
    """Reason why its row in the database cannot be read, so that its keys are rejected. "": none."""


class AuditEntry(Struct, frozen=True, kw_only=True):
    """One change of a virtual key or a team: a row of the audit log. It has no secret."""

    id: int
    at: float
    """Time of the change, in seconds since the epoch."""
    actor: str
    """Author of the change: `command (USER@HOST)`, `API (admin key 1)` or `dashboard (admin key 1)`. For settings
    also `file (NAMES)`, or `reload` if no file has changed."""
    action: str
    """Kind of the change: `create key`, `change key`, `rotate key`, `revoke key`, `allow key`, `change team`,
    `delete team`, `sign in`, `sign out`, `change sign-in`, `move person`, `read texts`, `change settings`."""
    target: str
    """Id and label of the changed key, name of the changed team, or name of the server whose settings changed."""
    changes: dict[str, tuple[object, object]]


def find_period_start(period: Period, now: datetime, *, is_local: bool = False) -> datetime:
    """Return the start of the period that contains `now`. The period `total` starts in 1970. `is_local`: in the time
    zone of this machine, else in UTC.
    """
    if period == "total":
        return datetime.fromtimestamp(0, UTC)
    return _find_midnight(_find_first_day(period, _find_day(now, is_local=is_local)), is_local=is_local)


def find_period_end(period: Period, now: datetime, *, is_local: bool = False) -> datetime | None:
    """Return the end of the period that contains `now`. None: the period `total` never ends."""
    if period == "total":
        return None
    first = _find_first_day(period, _find_day(now, is_local=is_local))
    following = _find_first_day(period, first + timedelta(days=_LONGEST_DAYS[period]))
    return _find_midnight(following, is_local=is_local)


_LONGEST_DAYS: Mapping[Period, int] = {"day": 1, "week": 7, "month": 31}


def _find_first_day(period: Period, day: date) -> date:
    match period:
        case "day":
            return day
        case "week":
            return day - timedelta(days=day.weekday())
        case "month":
            return day.replace(day=1)
        case "total":
            raise AssertionError(period)
        case _:
            assert_never(period)


def _find_day(now: datetime, *, is_local: bool) -> date:
    return now.astimezone(None if is_local else UTC).date()


def _find_midnight(day: date, *, is_local: bool) -> datetime:
    return find_midnight(day) if is_local else datetime.combine(day, time.min, UTC)


def name_period(period: Period, now: datetime, *, is_local: bool = False) -> str:
    """Return the name of the period that contains `now`, for counters: `2026-11-29`, `2026-W48`, or for one of this
    machine's time zone its start in UTC.
    """
    if is_local and period != "total":
        start = find_period_start(period, now, is_local=True)
        return f"{period}/{start.astimezone(UTC):%Y-%m-%dT%H:%M}"
    formats = {"day": "%Y-%m-%d", "week": "%G-W%V", "month": "%Y-%m", "total": "total"}
    return now.astimezone(UTC).strftime(formats[period])


NONE = "none"
"""Text that removes a limit: the value of an option of a command, or of a field of a form."""
NUMBER_FIELDS = {"rpm": "requests_per_minute", "tpm": "tokens_per_minute", "concurrency": "concurrency"}
"""Name of an option with a number, such as `rpm` → field of `Rules`."""
RULE_NAMES = (*LIST_FIELDS, *NUMBER_FIELDS, "budget")
TABLE_FIELDS: Mapping[str, str] = {
    "team": "team",
    "cost-center": "cost_center",
    **{name: NUMBER_FIELDS.get(name, name) for name in (*LIST_FIELDS, *NUMBER_FIELDS)},
    "budget": "budgets",
}
"""Name of an option → field of a person or a service that a table of its group or issuer sets."""


def decode_rule_texts(given: Mapping[str, str | Sequence[str]], prefix: str = "") -> dict[str, Any]:
    """`given` maps the name of an option (`RULE_NAMES`) to its text. `prefix`, such as `--`, precedes this name in
    error messages. Raises `InvalidRequest` for an invalid number or budget.
    """
    changes: dict[str, Any] = {}
    for name, value in given.items():
        texts = [value] if isinstance(value, str) else value
        if name in NUMBER_FIELDS:
            text = texts[-1].strip()
            digits = text.replace("_", "").replace(",", "")
            if text.lower() == NONE:
                changes[NUMBER_FIELDS[name]] = None
            elif digits.isascii() and digits.isdecimal() and len(digits) <= 13 and int(digits):
                changes[NUMBER_FIELDS[name]] = int(digits)
            else:
                raise InvalidRequest(
                    f'{prefix}{name} is "{text[:60]}". Use a whole number above 0, or none: no limit.',
                    code="virtual-key-limits",
                )
            continue
        items = [item.strip() for text in texts if text.strip().lower() != NONE for item in text.split(",")]
        if name == "budget":
            changes["budgets"] = tuple(decode_budget(item) for item in items)
        else:
            changes[name] = tuple(dict.fromkeys(items))
    return changes


def decode_exceptions(name: str, text: str) -> tuple[str, ...]:
    """Return the fields that are exceptions, for a text such as `team,budget` or `none`. `name`: of the option. Raises
    `InvalidRequest`.
    """
    items = [item.strip() for item in text.split(",") if item.strip().lower() not in ("", NONE)]
    if unknown := [item for item in items if item not in TABLE_FIELDS]:
        raise field_error(f'{name} has "{unknown[0][:60]}". Use none, or {join_with_and([*TABLE_FIELDS])}.')
    return tuple(dict.fromkeys(TABLE_FIELDS[item] for item in items))


def encode_exceptions(exceptions: Iterable[str]) -> str:
    """The opposite of `decode_exceptions`."""
    return ",".join(option for option, field in TABLE_FIELDS.items() if field in {*exceptions})


def encode_rule_texts(rules: Rules) -> dict[str, str]:
    texts = {name: ",".join(getattr(rules, name)) for name in LIST_FIELDS}
    for name, field in NUMBER_FIELDS.items():
        value = getattr(rules, field)
        texts[name] = "" if value is None else str(value)
    return {**texts, "budget": ",".join(budget.encoded_text for budget in rules.budgets)}


def require_duration(name: str, text: str) -> float:
    """Return the duration in `text` in seconds. Raises `InvalidRequest` with the `name` of the field."""
    seconds = decode_duration(text)
    if seconds is None:
        raise field_error(f'{name} is "{text[:60]}". Use a duration such as 30m, 12h, 30d or 4w.')
    return float(seconds)


def decode_expiry(name: str, text: str, now: float) -> float | None:
    """A text such as `30d`, a date, or `never`, which gives None. Raises `InvalidRequest`."""
    if text.strip().lower() == "never":
        return None
    if (seconds := decode_duration(text)) is not None:
        return now + seconds
    try:
        end = datetime.combine(date.fromisoformat(text.strip()), datetime.min.time(), UTC) + timedelta(days=1)
    except (ValueError, OverflowError):
        raise field_error(
            f'{name} is "{text[:60]}". Use a duration such as 30d, a date such as 2026-12-31, or never.'
        ) from None
    return end.timestamp()
