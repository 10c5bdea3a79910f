"""Rows of the tables of virtual keys and teams, as texts.

A virtual key is a key that this proxy gives to a client. `build_key_row` returns the `KeyRow` of a key from its
`KeyUsage`, and `build_team_row` returns the `TeamRow` of a team. A `KeyState` shows if a key is active, expired or
revoked. A `BudgetBar` shows the used share of a budget.
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from anthropic_proxy.access.descriptions import describe_rules
from anthropic_proxy.access.queries import Spending
from anthropic_proxy.access.rules import LIST_FIELDS, Rules
from anthropic_proxy.access.virtual_keys import KeyStatus, Team, VirtualKey
from anthropic_proxy.dashboard import formats
from anthropic_proxy.ledger.sums import UsageSums, add_up
from anthropic_proxy.ledger.units import MICROSECONDS

EXPIRY_NOTICE_SECONDS = 7 * 86_400
"""Time in seconds before the expiry of a key from which the text of its state mentions the expiry."""
_HIGH_SHARE = 0.8
"""Used share of a budget from which its bar has the color of a warning."""
_STATUS_SIGNS: Mapping[KeyStatus, tuple[str, str]] = {
    "active": ("✓", "ok"),
    "expired": ("✕", "error"),
    "revoked": ("–", ""),
}
STATUSES = tuple(_STATUS_SIGNS)
"""States of a key in the order of the table."""


class BudgetBar(Struct, frozen=True):
    """Bar that shows how much of one budget is used, with a text."""

    text: str
    """Used amount as text: `$1.25 of $50.00 per month`."""
    share: float
    """Used share of the budget, 0 to 1."""
    role: str
    """CSS class of the color of the bar: `budget`, `warn`, `error`."""


class KeyState(Struct, frozen=True):
    """State of a virtual key, such as expired: sign, CSS class of the color, and text."""

    sign: str
    role: str
    text: str


class KeyRow(Struct, frozen=True, kw_only=True):
    """One row of the table of virtual keys, as texts."""

    key: VirtualKey
    state: KeyState
    hint: str
    expires: str
    """Text about the expiry of an active key, if the state does not mention it.

    "": the key does not expire, or only its state mentions the expiry.
    """
    allowed: Sequence[tuple[str, str]]
    """Pairs of a title (such as models) and the allowed names. Empty: everything is allowed."""
    limits: str
    budgets: Sequence[BudgetBar]
    last_used_at: int | None
    """Start of the last stored request in microseconds since the epoch. None: no stored request."""
    last_used: str
    sums: UsageSums
    requests: str
    cost: str
    requests_link: str = ""


class TeamRow(Struct, frozen=True, kw_only=True):
    """One row of the table of teams, as texts."""

    name: str
    rules: Rules
    key_rows: Sequence[KeyRow]
    keys: str
    """Number of keys in the team, as text."""
    allowed: Sequence[tuple[str, str]]
    limits: str
    budgets: Sequence[BudgetBar]
    sums: UsageSums
    requests: str
    cost: str


class KeyUsage(Struct, frozen=True):
    """Usage of a virtual key: its requests in the time range, its used budgets, and the start of its last request."""

    sums: UsageSums
    spending: Sequence[Spending] | None
    """Used amounts of the budgets. None: the store of limits is not available."""
    last_used_at: int | None = None


def build_key_row(key: VirtualKey, usage: KeyUsage, now: float, requests_link: str = "") -> KeyRow:
    """Return the table row of the virtual key `key`. `now` is in seconds since the epoch."""
    last = usage.last_used_at
    return KeyRow(
        key=key,
        state=describe_state(key, now),
        hint=key.hashes[0].hint if key.hashes else "",
        expires=_describe_far_expiry(key, now),
        allowed=list_allowed_names(key.rules),
        limits=describe_limits(key.rules),
        budgets=build_budget_bars(key.rules, usage.spending),
        last_used_at=last,
        last_used=formats.UNKNOWN if last is None else formats.ago(now - last / MICROSECONDS),
        sums=usage.sums,
        requests=formats.count(usage.sums.requests),
        cost=format_cost(usage.sums),
        requests_link=requests_link,
    )


def build_team_row(team: Team, keys: Sequence[KeyRow], spending: Sequence[Spending] | None) -> TeamRow:
    """Return the table row of `team`.

    `keys` are the rows of the keys in the team. `spending` has the used amounts of its budgets; None if they are
    unknown.
    """
    total = add_up(row.sums for row in keys)
    active = sum(row.state.text not in ("revoked", "expired") for row in keys)
    return TeamRow(
        name=team.name,
        rules=team.rules,
        key_rows=keys,
        sums=total,
        keys=f"{active} active of {len(keys)}" if active != len(keys) else formats.count(active),
        allowed=list_allowed_names(team.rules),
        limits=describe_limits(team.rules),
        budgets=build_budget_bars(team.rules, spending),
        requests=formats.count(total.requests),
        cost=format_cost(total),
    )


def describe_state(key: VirtualKey, now: float) -> KeyState:
    """Return the state of a virtual key: active, expired or revoked.

    If an active key expires within `EXPIRY_NOTICE_SECONDS`, the state is a warning with the remaining time. `now` is
    the present time in seconds since the epoch.
    """
    status = key.find_status(now)
    if status == "active" and key.expires_at is not None and key.expires_at - now <= EXPIRY_NOTICE_SECONDS:
        return KeyState("!", "warn", f"expires in {_describe_span(key.expires_at - now)}")
    return KeyState(*_STATUS_SIGNS[status], status)


def list_allowed_names(rules: Rules) -> Sequence[tuple[str, str]]:
    """Return the models, providers and routes to which `rules` limit a key or a team.

    Each item is a pair: `models`, `providers` or `routes`, and the allowed names as one text. If a kind is missing, all
    its names are allowed.
    """
    return [(name, ", ".join(names)) for name in LIST_FIELDS if (names := getattr(rules, name))]


def describe_limits(rules: Rules) -> str:
    """Return the limits per minute and of simultaneous requests of a key or team: `60 requests/min, 4 at a time`.

    The text is empty if there are no such limits. Budgets and allowed models are not included.
    """
    return describe_rules(
        Rules(
            requests_per_minute=rules.requests_per_minute,
            tokens_per_minute=rules.tokens_per_minute,
            concurrency=rules.concurrency,
        )
    )


def build_budget_bars(rules: Rules, spending: Sequence[Spending] | None) -> Sequence[BudgetBar]:
    """Return one bar for each budget of a key or a team.

    `spending` has their used amounts in the same order. None: the amounts are unknown.
    """
    if spending is None:
        return [BudgetBar(f"{formats.UNKNOWN} of {budget.describe()}", 0.0, "budget") for budget in rules.budgets]
    return [BudgetBar(one.describe(), one.share, _choose_role(one.share)) for one in spending]


def _choose_role(share: float) -> str:
    return "error" if share >= 1 else "warn" if share >= _HIGH_SHARE else "budget"


def format_cost(sums: UsageSums) -> str:
    """Return the total cost of the requests in `sums` as text in dollars. Without requests, the text is `–`."""
    if not sums.requests:
        return formats.UNKNOWN
    return formats.cost_with_unknown(sums.cost, sums.unknown_cost_requests)


def _describe_far_expiry(key: VirtualKey, now: float) -> str:
    if key.expires_at is None or key.expires_at - now <= EXPIRY_NOTICE_SECONDS or key.revoked_at is not None:
        return ""
    return f"expires in {_describe_span(key.expires_at - now)}"


def _describe_span(seconds: float) -> str:
    return formats.ago(seconds).removesuffix(" ago")
