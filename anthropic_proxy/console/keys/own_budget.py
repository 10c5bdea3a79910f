"""Budgets of all requests that the proxy serves (`BUDGET`): the path at which programs read their use, and the plugin
that limits requests by them without virtual keys, such as those of a person who uses the proxy alone.
"""

import time
from collections.abc import Sequence

import msgspec

from anthropic_proxy.console.keys.budget_states import BudgetState, list_budget_states
from anthropic_proxy.console.keys.descriptions import format_time
from anthropic_proxy.console.keys.limits import Scope, find_proxy_scopes, list_budget_limits
from anthropic_proxy.console.keys.process_limits import ProcessLimits
from anthropic_proxy.console.keys.queries import Spending
from anthropic_proxy.console.keys.request_limits import RequestLimits
from anthropic_proxy.console.openapi import Schema, build_json_response, build_object, build_operation
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Gateway, Plugin, Route, RouteRequest, RouteResponse

PATH = "/api/budget"
"""URL path with the used amounts of the budgets."""


def open_plugin(settings: Settings) -> Plugin:
    scopes: Sequence[Scope] = find_proxy_scopes(settings)
    limits = ProcessLimits(settings)

    async def start(gateway: Gateway[Settings]) -> None:
        limits.open(gateway, lambda: scopes)
        await limits.start()

    return Plugin(
        limiters=[RequestLimits(lambda _: scopes, lambda: limits.gateway.settings, lambda: limits.reservations)],
        routes=list_budget_routes(scopes, limits),
        budget_uses=limits.budget_uses,
        start=start,
        stop=limits.stop,
    )


def list_budget_routes(scopes: Sequence[Scope], limits: ProcessLimits) -> Sequence[Route]:
    """Return the path of the budgets of the proxy. Empty: it has none."""

    async def respond(request: RouteRequest) -> RouteResponse:
        """Raises `StoreUnavailable`."""
        store = limits.gateway.store
        now = store.state.find_time(time.time)
        counted = list_budget_limits(scopes, now)
        state = await store.reserve([one.limit for one in counted])
        used = [one.limit.maximum - left for one, left in zip(counted, state.remaining, strict=True)]
        budgets = [_encode(budget_state) for budget_state in list_budget_states(counted, used)]
        return build_json_response(msgspec.json.encode({"budgets": budgets}))

    return [Route(path=PATH, respond=respond)] if scopes else []


def build_paths() -> Schema:
    """The path refers to a schema `Error`, which the caller must add to the document."""
    text, flag, number = {"type": "string"}, {"type": "boolean"}, {"type": ["number", "null"]}
    properties = {
        **dict.fromkeys(("unit", "period", "models", "severity"), text),
        **dict.fromkeys(("soft", "is_used_up"), flag),
        "amount": {"type": "number", "description": "US dollars or tokens, as `unit` says."},
        "used": {"type": "number", "description": "With what running requests have reserved."},
        "forecast": {**number, "description": "Amount expected at the end of the period. Null: unknown."},
        "resets_at": {"type": ["string", "null"], "description": "Null: the budget has no period."},
    }
    budgets = {"type": "array", "items": build_object(properties, [*properties])}
    content = {"application/json": build_object({"budgets": budgets}, ["budgets"])}
    errors = {"401": "The key is missing or wrong.", "529": "The counters cannot be read."}
    return {PATH: {"get": build_operation("getBudgets", "Use of the budgets of the proxy.", content, errors)}}


def _encode(state: BudgetState) -> dict[str, object]:
    spending = Spending(state.budget, state.used).encode()
    resets_at = None if state.resets_at is None else format_time(state.resets_at)
    return {**spending, "resets_at": resets_at, "severity": state.severity, "is_used_up": state.is_used_up}
