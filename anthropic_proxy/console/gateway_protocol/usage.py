"""`GET /api/oauth/usage`: the budgets of a person in dollars, as `/usage` of Claude Code shows them."""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import msgspec

from anthropic_proxy.console.keys.budget_states import PERIOD_NAMES, BudgetState, choose_state, list_budget_states
from anthropic_proxy.console.keys.key_table import with_database_errors
from anthropic_proxy.console.keys.limits import Scope, list_budget_limits
from anthropic_proxy.console.keys.queries import sum_budget_uses
from anthropic_proxy.console.keys.virtual_keys import find_period_start
from anthropic_proxy.console.ledger.database import open_for_reading
from anthropic_proxy.console.ledger.reader_threads import ReaderThreads
from anthropic_proxy.console.openapi import build_json_response
from anthropic_proxy.gateway.money import NANO_DOLLARS
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.key_rules import PERIODS, Budget
from anthropic_proxy.plugins import Gateway, RouteRequest, RouteResponse

PATH = "/api/oauth/usage"
_NANO_DOLLARS_PER_CENT = NANO_DOLLARS // 100


async def serve_usage(
    request: RouteRequest, gateway: Gateway[Settings], scopes: Sequence[Scope], threads: ReaderThreads
) -> RouteResponse:
    """`scopes`: the key and its team. A person without a budget in dollars sees the costs of the day, the week and the
    month.
    """
    now = gateway.store.state.find_time(time.time)
    limits = [key_limit for key_limit in list_budget_limits(scopes, now) if key_limit.budget.unit == "usd"]
    if limits:
        held = await gateway.store.reserve([key_limit.limit for key_limit in limits])
        body = encode_budgets(list_budget_states(limits, held.settled))
    else:
        periods = {name: Budget(1, "usd", "total", since=start) for name, start in find_starts(now).items()}

        def read_costs() -> Mapping[str, int]:
            if not scopes:
                return dict.fromkeys(periods, 0)
            with closing(open_for_reading(gateway.settings)) as connection:
                budgets = [(scopes[0], period) for period in periods.values()]
                costs = sum_budget_uses(connection, gateway.settings, budgets, now)
            return dict(zip(periods, costs, strict=True))

        body = encode_costs(await threads.run(request.client.payer, with_database_errors, read_costs))
    return build_json_response(msgspec.json.encode(body))


def encode_budgets(states: Sequence[BudgetState]) -> Mapping[str, Any]:
    chosen = choose_state(states)
    limits = []
    for state in states:
        end = None if state.resets_at is None else datetime.fromtimestamp(state.resets_at, UTC)
        limits.append(
            {
                "kind": "spend",
                "group": PERIOD_NAMES[state.budget.period],
                "percent": round(state.share * 100),
                "resets_at": None if end is None else f"{end:%Y-%m-%dT%H:%M:%S}.000Z",
                "severity": state.severity,
                "is_active": state is chosen,
            }
        )
    body: dict[str, Any] = {"limits": limits}
    if chosen is not None:
        body["extra_usage"] = {
            "is_enabled": True,
            "monthly_limit": chosen.budget.counter_amount // _NANO_DOLLARS_PER_CENT,
            "used_credits": chosen.used // _NANO_DOLLARS_PER_CENT,
            "utilization": round(chosen.share * 100),
            "currency": "USD",
        }
    return body


def find_starts(now: float) -> Mapping[str, float]:
    """Return the start of the day, of the week (Monday) and of the month in UTC, in seconds since the epoch."""
    moment = datetime.fromtimestamp(now, UTC)
    return {
        PERIOD_NAMES[period]: find_period_start(period, moment).timestamp() for period in PERIODS if period != "total"
    }


def encode_costs(costs: Mapping[str, int]) -> Mapping[str, Any]:
    """`costs`: nano-dollars of the day, the week and the month."""
    cents = {name: cost // _NANO_DOLLARS_PER_CENT for name, cost in costs.items()}

    def encode(name: str) -> Mapping[str, Any]:
        return {"limit": None, "used_credits": cents[name], "utilization": None}

    month = {"monthly_limit": None, "used_credits": cents["monthly"], "utilization": None, "currency": "USD"}
    usage = {"is_enabled": True, **month, "daily": encode("daily"), "weekly": encode("weekly")}
    return {"extra_usage": usage, "limits": []}
