"""Limits and budgets of virtual keys and teams, as counters in a store.

A `Scope` is a key or a team with its rules. `build_limits` returns a `KeyLimit` for each rule and budget, with the
amount to reserve at the start of a request. `find_actual_amounts` returns the amounts that replace the reserved ones
at its end.
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
    """A virtual key or a team, with its rules. A request must obey the rules of its key and of the team of the key."""

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

        `option`: option of the command, with its value.
        """
        command = "change" if self.kind == "key" else "team"
        return f"anthropic-proxy keys {command} {self.name!r} {option}"


class KeyLimit(Struct, frozen=True):
    """One limit of a key or team, with its counter in the store. The limit is either a rule or a budget."""

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
    """Return the key and, if it has rules, its team, as scopes (owners of rules) for requests of the key.

    `team`: None: the key has no team, or the team has no rules.
    """
    own = Scope("key", key.label, f"key/{key.id}", key.rules)
    return [own] if team is None else [own, Scope("team", team.name, f"team/{team.name}", team.rules)]


def needs_estimate(scopes: Sequence[Scope]) -> bool:
    """Return True if a limit of `scopes` (a key and its team) is on tokens or money.

    The tokens of a request must then be estimated before it.
    """
    return any(scope.rules.tokens_per_minute is not None or scope.rules.budgets for scope in scopes)


def has_money_budget(scopes: Sequence[Scope]) -> bool:
    """Return True if one of `scopes` has a budget in US dollars."""
    return any(budget.unit == "usd" for scope in scopes for budget in scope.rules.budgets)


def build_limits(scopes: Sequence[Scope], estimate: Amounts, now: float) -> Sequence[KeyLimit]:
    """Return all limits of a key and its team, each with its counter and the amount that a request reserves.

    `scopes`: the key and the team. `estimate`: estimated tokens and cost of the request. `now`: seconds since the
    epoch.
    """
    return [limit for scope in scopes for limit in _build_limits(scope, estimate, now)]


def build_count_limits(scopes: Sequence[Scope]) -> Sequence[KeyLimit]:
    """Return the limits for a request that only counts tokens (`/v1/messages/count_tokens`).

    The limit of requests per minute applies, but token counts and messages are counted separately
    (docs.anthropic.com, "Token counting", read on 2026-11-22). `scopes`: the key and its team.
    """
    return [
        KeyLimit(
            scope, Limit(f"{scope.counter}/token_counts", "rate", 1, maximum, MINUTE_SECONDS), "token_counts_per_minute"
        )
        for scope in scopes
        if (maximum := scope.rules.requests_per_minute) is not None
    ]


def find_actual_amounts(limits: Sequence[KeyLimit], actual: Amounts) -> Sequence[int]:
    """Return the amounts that a finished request has used of each of `limits`, in the same order.

    `actual`: tokens and cost of the request.
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
    """Return the counter of a budget in the present period, from which its used amount can be read.

    `scope`: key or team with the budget. `now`: seconds since the epoch. The amount to reserve is 0.
    """
    moment = datetime.fromtimestamp(now, UTC)
    end = find_period_end(budget.period, moment)
    period = {"day": moment.strftime("%Y-%m-%d"), "month": moment.strftime("%Y-%m"), "total": "total"}[budget.period]
    seconds = _TOTAL_SECONDS if end is None else end.timestamp() - now + _MARGIN_SECONDS
    return Limit(f"{scope.counter}/{budget.unit}/{period}", "amount", 0, budget.integer_amount, seconds)


def format_integer_amount(amount: int, budget: Budget) -> str:
    """Return an amount of a budget as text for messages: `$1.25`, `20,000 tokens`.

    `amount`: nano-dollars or tokens, as the unit of `budget` states.
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
