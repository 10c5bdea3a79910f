"""Limits and budgets of virtual keys and teams, expressed as counters in a store (memory or Redis)."""

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from msgspec import Struct

from anthropic_proxy.console.keys.virtual_keys import (
    Team,
    VirtualKey,
    find_period_end,
    find_period_start,
    name_period,
)
from anthropic_proxy.console.ledger.costs import Amounts
from anthropic_proxy.console.units import to_microseconds
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.key_rules import MAX_COUNTER_AMOUNT, Budget, Rules
from anthropic_proxy.plugins import Limit

MINUTE_SECONDS = 60.0
MIN_TOKEN_COUNTS = 100
"""Smallest maximum of token counts per minute. `/context` of Claude Code 2.1.332 sends 34 at once."""
_MARGIN_SECONDS = 86_400.0
"""Time in seconds for which the counter of a budget is kept after the end of its period."""
_TOTAL_SECONDS = 3_650 * 86_400.0
"""Time in seconds for which the counter of a budget without a period is kept: ten years."""


ScopeKind = Literal["key", "team", "proxy"]
"""`proxy`: all requests that the proxy serves, with the budgets of `BUDGET`."""


class Scope(Struct, frozen=True):
    kind: ScopeKind
    name: str
    """Label of the key, or name of the team. "": of the proxy."""
    counter: str
    """Beginning of the names of the counters of this key or team: `key/key_ab12`."""
    rules: Rules
    is_personal: bool = False
    """True: the budgets are those of a person who uses the proxy alone. Their periods begin at midnight in the time
    zone of this machine, in place of UTC, and a model without a known price counts as free, in place of being
    refused."""

    @property
    def key_id(self) -> str:
        """Id of the key. Name of a team."""
        return self.counter.partition("/")[2]

    def describe(self) -> str:
        return "This proxy" if self.kind == "proxy" else f"The {self.kind} {self.name!r}"

    def format_change_command(self, option: str) -> str:
        """`option` with its value: `--rpm N`."""
        command = "change" if self.kind == "key" else "team"
        return f"anthropic-proxy keys {command} {shlex.quote(self.name)} {option}"

    def find_budget_start(self, budget: Budget, now: float) -> float:
        """Return the time from which the use counts: the start of the period that contains `now`, or the time at which
        the budget was set. Times are seconds since the epoch.
        """
        moment = datetime.fromtimestamp(now, UTC)
        return max(find_period_start(budget.period, moment, is_local=self.is_personal).timestamp(), budget.since)

    def find_budget_end(self, budget: Budget, now: float) -> datetime | None:
        """Return when the budget is renewed. None: never. `now`: seconds since the epoch."""
        return find_period_end(budget.period, datetime.fromtimestamp(now, UTC), is_local=self.is_personal)

    def suggest_budget(self, text: str) -> str:
        """Return how an administrator sets another budget. `text`: `AMOUNT/day`."""
        if self.kind == "proxy":
            return f"Another budget:  BUDGET={shlex.quote(text)}"
        return f"Another budget:  {self.format_change_command(f'--budget {shlex.quote(text)}')}"


class KeyLimit(Struct, frozen=True):
    scope: Scope
    limit: Limit
    rule: str = ""
    """Field of `Rules` with the limit, such as `requests_per_minute`; or `token_counts_per_minute`."""


class BudgetLimit(KeyLimit, frozen=True, kw_only=True):
    """A budget, whose `rule` is empty."""

    budget: Budget
    renewed_at: float | None
    """End of the period that the counter counts, in seconds since the epoch. A request may last longer. None: the
    budget is never renewed."""


def build_key_scope(key: VirtualKey) -> Scope:
    return Scope("key", key.label, f"key/{key.id}", key.rules)


def build_team_scope(team: Team) -> Scope:
    return Scope("team", team.name, f"team/{team.name}", team.rules)


def find_proxy_scopes(settings: Settings) -> Sequence[Scope]:
    """Return the scope of all requests of the proxy. Empty: `BUDGET` is not set."""
    if not settings.budgets:
        return ()
    rules = Rules(budgets=settings.budgets)
    return (Scope("proxy", "", "proxy", rules, is_personal=not settings.virtual_keys),)


def build_limits(scopes: Sequence[Scope], targets: Sequence[Sequence[Amounts]], now: float) -> Sequence[KeyLimit]:
    """`targets`: for each target of the request, the highest amounts of the models that are called then. `now`: seconds
    since the epoch. A budget for models of which none may be called is left out.
    """
    key_limits: list[KeyLimit] = []
    tokens = max((sum(called.tokens for called in amounts) for amounts in targets), default=0)
    for scope in scopes:
        rules = scope.rules
        start = scope.counter
        if (maximum := rules.requests_per_minute) is not None:
            limit = Limit(f"{start}/requests", "rate", 1, maximum, MINUTE_SECONDS)
            key_limits.append(KeyLimit(scope, limit, "requests_per_minute"))
        if (maximum := rules.tokens_per_minute) is not None:
            # a request above the whole limit is admitted if no other one is counted
            limit = Limit(f"{start}/tokens", "rate", min(tokens, maximum), maximum, MINUTE_SECONDS)
            key_limits.append(KeyLimit(scope, limit, "tokens_per_minute"))
        if (maximum := rules.concurrency) is not None:
            key_limits.append(KeyLimit(scope, Limit(f"{start}/concurrency", "concurrency", 1, maximum), "concurrency"))
        for budget in rules.budgets:
            if budget.models and not any(budget.counts(called.model) for amounts in targets for called in amounts):
                continue
            needed = max((_count_amounts(budget, amounts) for amounts in targets), default=0)
            key_limits.append(_build_budget_limit(scope, budget, now, needed))
    return key_limits


def list_budget_limits(scopes: Sequence[Scope], now: float) -> Sequence[BudgetLimit]:
    """Return all budgets without an amount to reserve. `now`: seconds since the epoch."""
    return [_build_budget_limit(scope, budget, now, 0) for scope in scopes for budget in scope.rules.budgets]


def _build_budget_limit(scope: Scope, budget: Budget, now: float, needed: int) -> BudgetLimit:
    counter = build_budget_counter(scope, budget, now)
    limit = Limit(counter.key, counter.kind, min(needed, counter.maximum + 1), counter.maximum, counter.seconds)
    end = scope.find_budget_end(budget, now)
    return BudgetLimit(scope, limit, budget=budget, renewed_at=None if end is None else end.timestamp())


def build_token_count_limits(scopes: Sequence[Scope]) -> Sequence[KeyLimit]:
    """The maximum of requests per minute applies to such requests too, but they have a counter of their own. A low one
    is raised, because Claude Code counts the parts of a context at once.
    """
    # Token counts and messages have separate limits (docs.anthropic.com, "Token counting", read on 2026-11-22).
    return [
        KeyLimit(
            scope,
            Limit(f"{scope.counter}/token_counts", "rate", 1, max(maximum, MIN_TOKEN_COUNTS), MINUTE_SECONDS),
            "token_counts_per_minute",
        )
        for scope in scopes
        if (maximum := scope.rules.requests_per_minute) is not None
    ]


def find_actual_amounts(limits: Sequence[KeyLimit], used: Sequence[Amounts]) -> Sequence[int]:
    """`used`: the amounts of each model. The amount for the limit of concurrent requests is 0, because the request no
    longer runs. That for a budget of other models is 0 too.
    """
    tokens = min(sum(amounts.tokens for amounts in used), MAX_COUNTER_AMOUNT)
    by_rule = {"tokens_per_minute": tokens, "concurrency": 0}  # of the others, the request itself is counted
    return [
        min(_count_amounts(key_limit.budget, used), MAX_COUNTER_AMOUNT)
        if isinstance(key_limit, BudgetLimit)
        else by_rule.get(key_limit.rule, 1)
        for key_limit in limits
    ]


def build_budget_counter(scope: Scope, budget: Budget, now: float) -> Limit:
    """A soft budget has the highest possible maximum, so that it refuses nothing. `now`: seconds since the epoch."""
    end = scope.find_budget_end(budget, now)
    period = name_period(budget.period, datetime.fromtimestamp(now, UTC), is_local=scope.is_personal)
    if budget.since and scope.find_budget_start(budget, now) == budget.since:  # one that was set again begins anew
        period += f"/{to_microseconds(budget.since)}"
    if budget.models:
        period += f"/for/{budget.models}"
    if budget.soft:
        period += "/soft"
    seconds = _TOTAL_SECONDS if end is None else end.timestamp() - now + _MARGIN_SECONDS
    maximum = MAX_COUNTER_AMOUNT if budget.soft else budget.counter_amount
    return Limit(f"{scope.counter}/{budget.unit}/{period}", "amount", 0, maximum, seconds)


def _count_amounts(budget: Budget, amounts: Sequence[Amounts]) -> int:
    counted = [called for called in amounts if budget.counts(called.model)]
    return sum(called.cost if budget.unit == "usd" else called.tokens for called in counted)
