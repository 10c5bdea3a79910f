"""Budgets of all requests that the proxy serves (`BUDGET`): the path at which programs read their use, and the plugin
that limits requests by them without virtual keys, such as those of a person who uses the proxy alone.
"""

import time
from collections.abc import Sequence

import msgspec

from anthropic_proxy.console.keys.descriptions import format_time
from anthropic_proxy.console.keys.limits import Scope, find_proxy_scopes
from anthropic_proxy.console.keys.process_limits import ProcessLimits
from anthropic_proxy.console.keys.queries import read_all_spending
from anthropic_proxy.console.keys.request_limits import RequestLimits
from anthropic_proxy.console.openapi import build_json_response
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Gateway, Plugin, Route, RouteRequest, RouteResponse

PATH = "/api/budget"
"""URL path with the used amounts of the budgets."""


def open_plugin(settings: Settings) -> Plugin:
    scopes: Sequence[Scope] = find_proxy_scopes(settings)
    limits = ProcessLimits(settings)

    async def start(gateway: Gateway[Settings]) -> None:
        limits.open(gateway)
        await limits.start(scopes)

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
        spending = (await read_all_spending(store, scopes, now))[0]
        ends = [scopes[0].find_budget_end(used.budget, now) for used in spending]
        budgets = [
            {**used.encode(), "resets_at": None if end is None else format_time(end.timestamp())}
            for used, end in zip(spending, ends, strict=True)
        ]
        return build_json_response(msgspec.json.encode({"budgets": budgets}))

    return [Route(path=PATH, respond=respond)] if scopes else []
