"""How far budgets are used, in the form in which Claude Code shows it: headers of a reply, and bars of `/usage`.

Source of names, thresholds and rounding: `claude gateway` of Claude Code 2.1.332. Its client shows a notice from the
first threshold on, and the message of a refusal as it is. Only settled amounts count, because the amounts that running
requests have reserved are the highest possible ones.
"""

import math
from collections.abc import Mapping, Sequence

from msgspec import Struct

from anthropic_proxy.console.keys.limits import BudgetLimit, KeyLimit, Scope
from anthropic_proxy.gateway.settings.key_rules import Budget, Period

HEADERS = "anthropic-ratelimit-unified-"
"""Beginning of the names of the headers."""
_SEVERITIES = {0.95: "critical", 0.75: "warning"}
"""Threshold, the highest first → severity of the bar of a budget of which more is used."""
_MAX_SHARE = 0.99
"""Highest share of a budget that has room, so that rounding shows no used up budget."""
PERIOD_NAMES: Mapping[Period, str] = {"day": "daily", "week": "weekly", "month": "monthly", "total": "total"}


class BudgetState(Struct, frozen=True):
    scope: Scope
    budget: Budget
    used: int
    """Used amount in nano-dollars or tokens, without those that running requests have reserved."""
    resets_at: int | None
    """Time of the renewal in seconds since the epoch. None: the budget is not renewed."""

    @property
    def is_used_up(self) -> bool:
        """False for a soft budget, which refuses nothing."""
        return self.used >= self.budget.counter_amount and not self.budget.soft

    @property
    def share(self) -> float:
        """Rounded as Claude Code shows it. More than 1: the last request has used more than the rest."""
        share = round(self.used / self.budget.counter_amount, 2)
        return share if self.is_used_up else min(share, _MAX_SHARE)

    @property
    def threshold(self) -> float | None:
        """The highest exceeded threshold. None: the client shows no notice."""
        if self.is_used_up:
            return 1
        exact = self.used / self.budget.counter_amount
        return next((threshold for threshold in _SEVERITIES if exact > threshold), None)

    @property
    def severity(self) -> str:
        return "normal" if self.threshold is None else _SEVERITIES.get(self.threshold, "critical")


def list_budget_states(limits: Sequence[KeyLimit], settled: Sequence[int]) -> list[BudgetState]:
    """`settled`: settled amount of each of `limits`. Empty: unknown, because the store that all processes share is
    unavailable.
    """
    return [
        BudgetState(
            key_limit.scope,
            key_limit.budget,
            used,
            None if key_limit.renewed_at is None else int(key_limit.renewed_at),
        )
        for key_limit, used in zip(limits, settled, strict=False)
        if isinstance(key_limit, BudgetLimit)
    ]


def choose_state(states: Sequence[BudgetState]) -> BudgetState | None:
    """Return the budget that a person is told about: of several that are used up, the one that is renewed last; else
    the one of which most is used.
    """

    def rank(state: BudgetState) -> tuple[bool, float]:
        end = math.inf if state.resets_at is None else state.resets_at
        return state.is_used_up, end if state.is_used_up else state.share

    return max(states, key=rank, default=None)


def build_usage_headers(state: BudgetState) -> Mapping[str, str]:
    """Return the headers of a reply, or those of a refusal if the budget is used up."""
    status = "rejected" if state.is_used_up else "allowed" if state.threshold is None else "allowed_warning"
    values = {"status": status, "overage-utilization": f"{state.share:g}"}
    if state.resets_at is not None:
        values |= {"reset": str(state.resets_at), "overage-reset": str(state.resets_at)}
    if state.threshold is not None:
        values["overage-surpassed-threshold"] = f"{state.threshold:g}"
    if state.is_used_up:  # with `representative-claim` and `overage-status`, the client would replace the message
        values |= {
            "overage-period": PERIOD_NAMES[state.budget.period],
            "overage-disabled-reason": "org_spend_cap_reached",
            **({} if state.scope.kind == "key" else {"overage-scope": "group_pool"}),
        }
    else:
        values |= {"representative-claim": "overage", "overage-status": status}
    return {f"{HEADERS}{name}": value for name, value in values.items()}
