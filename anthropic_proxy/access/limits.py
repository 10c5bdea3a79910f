"""Limits of a key and its team as counters of the store: amounts to reserve, and actual amounts of a finished request.

A `Scope` is the key or the team. `build_limits` returns a `KeyLimit` with a counter for each rule and budget. Amounts
of a request are reserved at its start and settled (corrected) at its end. Money is reserved at the highest price among
the used model and its fallbacks.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from msgspec import Struct

from anthropic_proxy.access.rules import MAX_COUNTER_AMOUNT, Budget, Rules, find_period_end
from anthropic_proxy.access.virtual_keys import Team, VirtualKey
from anthropic_proxy.ledger.prices import NANO_DOLLARS
from anthropic_proxy.plugins import Limit

MINUTE_SECONDS = 60.0
"""Period of the limits per minute, in seconds."""
_MARGIN_SECONDS = 86_400.0
"""Time in seconds for which the counter of a budget is kept after the end of its period."""
_TOTAL_SECONDS = 3_650 * 86_400.0
"""Time in seconds for which the counter of a budget without a period is kept: ten years."""


class Scope(Struct, frozen=True):
    """A virtual key or a team, with its rules. Requests of a key must obey its rules and those of its team."""

    kind: str
    """`key` or `team`."""
    name: str
    """Label of the key, or name of the team."""
    counter: str
    """Beginning of the names of the counters of this key or team: `key/key_ab12`."""
    rules: Rules

    def describe(self) -> str:
        """Return the key or team of this `Scope` as text for messages: `The key 'ci'`."""
        return f"The {self.kind} {self.name!r}"

    def describe_change(self, option: str) -> str:
        """Return the command that changes a limit of this key or team, for messages.

        `option`: option of the command with its value.
        """
        command = "change" if self.kind == "key" else "team"
        return f"anthropic-proxy keys {command} {self.name!r} {option}"


class KeyLimit(Struct, frozen=True):
    """One limit of a key or team, with its counter in the store. Either `rule` or `budget` has a value."""

    scope: Scope
    limit: Limit
    rule: str = ""
    """Field of `Rules` with the limit, such as `requests_per_minute`; or `token_counts_per_minute`. "": the limit is a
    budget."""
    budget: Budget | None = None


class Amounts(Struct, frozen=True):
    """Number of tokens and cost of one request, estimated or actual."""

    tokens: int
    """Number of input and output tokens, without input tokens that were read from a cache."""
    cost: int
    """Cost in nano-dollars (10⁻⁹ US dollars)."""


def list_scopes(key: VirtualKey, team: Team | None) -> Sequence[Scope]:
    """Return the scopes with rules for requests of `key`: the key and, if it has rules, its team.

    `team`: None: the key has no team, or the team has no rules.
    """
    own = Scope("key", key.label, f"key/{key.id}", key.rules)
    return [own] if team is None else [own, Scope("team", team.name, f"team/{team.name}", team.rules)]


def needs_estimate(scopes: Sequence[Scope]) -> bool:
    """Return True if `scopes` have a limit on tokens or money.

    The tokens of a request must then be estimated before the request.
    """
    return any(scope.rules.tokens_per_minute is not None or scope.rules.budgets for scope in scopes)


def has_money_budget(scopes: Sequence[Scope]) -> bool:
    """Return True if one of `scopes` has a budget in US dollars."""
    return any(budget.unit == "usd" for scope in scopes for budget in scope.rules.budgets)


def build_limits(scopes: Sequence[Scope], estimate: Amounts, now: float) -> Sequence[KeyLimit]:
    """Return all limits of `scopes` (key and team), each with its counter and the amount to reserve.

    `estimate`: estimated tokens and cost of the request. `now`: seconds since the epoch.
    """
    return [limit for scope in scopes for limit in _build_limits(scope, estimate, now)]


def build_count_limits(scopes: Sequence[Scope]) -> Sequence[KeyLimit]:
    """Return the limits for a request that only counts tokens (`/v1/messages/count_tokens`).

    The limit per minute is the same as for messages, with a counter of its own. Token counts and messages have
    independent limits (docs.anthropic.com, "Token counting", read on 2026-11-22).
    """
    return [
        KeyLimit(
            scope, Limit(f"{scope.counter}/token_counts", "rate", 1, maximum, MINUTE_SECONDS), "token_counts_per_minute"
        )
        for scope in scopes
        if (maximum := scope.rules.requests_per_minute) is not None
    ]


def find_actual_amounts(limits: Sequence[KeyLimit], actual: Amounts) -> Sequence[int]:
    """Return the actual amount of each of `limits`, in the same order, for `Store.settle`.

    `actual`: tokens and cost of the finished request.
    """
    actual = Amounts(min(actual.tokens, MAX_COUNTER_AMOUNT), min(actual.cost, MAX_COUNTER_AMOUNT))
    by_rule = {
        "requests_per_minute": 1,
        "token_counts_per_minute": 1,
        "tokens_per_minute": actual.tokens,
        "concurrency": 0,
    }
    return [by_rule[each.rule] if each.budget is None else _find_amount(each.budget, actual) for each in limits]


def find_budget_counter(scope: Scope, budget: Budget, now: float) -> Limit:
    """Return the counter of `budget` in the present period, to read its used amount.

    `scope`: key or team with the budget. `now`: seconds since the epoch. The amount is 0, so a reservation only reads
    the counter.
    """
    moment = datetime.fromtimestamp(now, UTC)
    end = find_period_end(budget.period, moment)
    period = {"day": moment.strftime("%Y-%m-%d"), "month": moment.strftime("%Y-%m"), "total": "total"}[budget.period]
    seconds = _TOTAL_SECONDS if end is None else end.timestamp() - now + _MARGIN_SECONDS
    return Limit(f"{scope.counter}/{budget.unit}/{period}", "amount", 0, budget.integer_amount, seconds)


def format_integer_amount(amount: int, budget: Budget) -> str:
    """Return `amount`, an amount in the counter of `budget`, for messages: `$1.25`, `20,000 tokens`.

    `amount`: nano-dollars or tokens, as the unit of the budget states.
    """
    return f"${amount / NANO_DOLLARS:,.2f}" if budget.unit == "usd" else f"{amount:,} tokens"


def _build_limits(scope: Scope, estimate: Amounts, now: float) -> Iterator[KeyLimit]:
    rules, start = scope.rules, scope.counter
    if (maximum := rules.requests_per_minute) is not None:
        limit = Limit(f"{start}/requests", "rate", 1, maximum, MINUTE_SECONDS)
        yield KeyLimit(scope, limit, "requests_per_minute")
    if (maximum := rules.tokens_per_minute) is not None:
        # a request above the whole limit is admitted if no other one is counted
        limit = Limit(f"{start}/tokens", "rate", min(estimate.tokens, maximum), maximum, MINUTE_SECONDS)
        yield KeyLimit(scope, limit, "tokens_per_minute")
    if (maximum := rules.concurrency) is not None:
        yield KeyLimit(scope, Limit(f"{start}/concurrency", "concurrency", 1, maximum), "concurrency")
    for budget in rules.budgets:
        counter = find_budget_counter(scope, budget, now)
        amount = min(_find_amount(budget, estimate), counter.maximum + 1)
        limit = Limit(counter.key, counter.kind, amount, counter.maximum, counter.seconds)
        yield KeyLimit(scope, limit, budget=budget)


def _find_amount(budget: Budget, amounts: Amounts) -> int:
    return amounts.cost if budget.unit == "usd" else amounts.tokens
