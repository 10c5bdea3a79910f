"""Used amounts of budgets in the present period, read from the counters of the store.

`Spending` is the used amount of one budget. `read_spending` reads those of one scope, a virtual key or a team.
"""

from collections.abc import Sequence

from msgspec import Struct

from anthropic_proxy.access.limits import Scope, build_budget_counter, format_counter_amount
from anthropic_proxy.access.rules import Budget
from anthropic_proxy.money import NANO_DOLLARS
from anthropic_proxy.plugins import Store

_MAX_COUNTERS = 200
"""Maximum number of counters that are read from the store in one step."""


class Spending(Struct, frozen=True):
    """Used amount of one budget in its present period."""

    budget: Budget
    used: int
    """Used amount in nano-dollars or tokens, including the amounts that running requests have reserved."""

    def describe(self) -> str:
        """Return used amount and budget as text for commands: `$1.25 of $50.00 per month`."""
        return f"{format_counter_amount(self.used, self.budget)} of {self.budget.describe()}"

    @property
    def share(self) -> float:
        """Used share of the budget, from 0 to 1."""
        return min(max(self.used / self.budget.counter_amount, 0.0), 1.0)

    def encode(self) -> dict[str, object]:
        """Return budget and used amount as values for JSON, in US dollars or tokens."""
        used = self.used / NANO_DOLLARS if self.budget.unit == "usd" else self.used
        return {"unit": self.budget.unit, "period": self.budget.period, "amount": self.budget.amount, "used": used}


async def read_spending(store: Store, scope: Scope, now: float) -> Sequence[Spending]:
    """Return the used amounts of all budgets of `scope`, a key or team.

    The amounts are those of the period that contains `now`, in seconds since the epoch. Raises `StoreUnavailable`.
    """
    return (await read_all_spending(store, [scope], now))[0]


async def read_all_spending(store: Store, scopes: Sequence[Scope], now: float) -> Sequence[Sequence[Spending]]:
    """Return the used amounts of all budgets of each of `scopes` (keys or teams), in the same order.

    The amounts are those of the period that contains `now`, in seconds since the epoch. Raises `StoreUnavailable`.
    """
    listed = [(index, budget) for index, scope in enumerate(scopes) for budget in scope.rules.budgets]
    found: list[list[Spending]] = [[] for _ in scopes]
    for start in range(0, len(listed), _MAX_COUNTERS):
        chosen = listed[start : start + _MAX_COUNTERS]
        counters = [build_budget_counter(scopes[index], budget, now) for index, budget in chosen]
        state = await store.reserve(counters)
        for (index, budget), counter, remaining in zip(chosen, counters, state.remaining, strict=True):
            found[index].append(Spending(budget, counter.maximum - remaining))
    return found
