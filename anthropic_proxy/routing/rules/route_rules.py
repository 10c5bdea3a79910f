"""`RouteRules`: the routes of the configuration file, with a fast search for the first one that matches a request.

A route matches if the request meets all its conditions. `find_matching_route` returns the first such route.
`check_routes` explains the search to users by a `RouteCheck` for each checked route. `describe_conditions` returns the
conditions of a route as text.
"""

from collections.abc import Sequence
from itertools import accumulate
from operator import or_

from msgspec import Struct

from anthropic_proxy.routing.rules.conditions import READS_BODY, Condition, compile_conditions
from anthropic_proxy.routing.rules.request_facts import RequestFacts
from anthropic_proxy.routing.rules.route_filters import build_filters
from anthropic_proxy.settings import ConfiguredRoute


class RouteCheck(Struct, frozen=True):
    """Explanation for users why a route of the configuration file matches a request, or does not."""

    route: ConfiguredRoute
    """Route of the configuration file of which the conditions were checked."""
    failed: str = ""
    """First condition that the request does not meet, with the request's value. "": the route matches."""
    met: Sequence[str] = ()
    """Conditions that the request meets, with the request's values. Empty: no match, or the route has no conditions."""


class _CompiledRoute(Struct, frozen=True, eq=False):
    route: ConfiguredRoute
    conditions: tuple[Condition, ...]


class RouteRules:
    """The routes of the configuration file in its order, prepared for a fast search."""

    def __init__(self, routes: Sequence[ConfiguredRoute]) -> None:
        self._routes = [_CompiledRoute(route, compile_conditions(route)) for route in routes]
        names = {condition.name for compiled in self._routes for condition in compiled.conditions}
        self.reads_body = bool(names & READS_BODY)
        """True if a condition needs the messages or other fields of the body."""
        self.uses_session = "share" in names or any(route.balance != "order" and route.sticky for route in routes)
        """True if the session of a request decides about its target."""
        filters = build_filters(routes)
        self._all = (1 << len(routes)) - 1
        unchecked = [*accumulate((each.routes for each in reversed(filters)), or_, initial=0)][::-1]
        self._filters = list(zip(filters, unchecked[:-1], strict=True))
        """Filters, each with the routes that this filter or a later one checks."""

    def find_matching_route(self, facts: RequestFacts) -> ConfiguredRoute | None:
        """Return the first route that matches a request. None: no route matches."""
        candidates = self._all
        for each, unchecked in self._filters:
            if matching := candidates & ~unchecked:  # later routes than the first of these have no effect
                candidates &= (matching & -matching) * 2 - 1
            if asked := candidates & each.routes:
                candidates ^= asked & ~each.find(facts, asked)
        return self._routes[(candidates & -candidates).bit_length() - 1].route if candidates else None

    def check_routes(self, facts: RequestFacts) -> list[RouteCheck]:
        """Return an explanation for each route in order, up to the first route that matches the request.

        The explanation of the matching route lists its conditions. The others have the first condition that is not met.
        """
        checks: list[RouteCheck] = []
        for compiled in self._routes:
            failed = next((each for each in compiled.conditions if not each.is_met(facts)), None)
            if failed is None:
                met = [f"{each.requirement}: {each.describe_value(facts)}" for each in compiled.conditions]
                return [*checks, RouteCheck(compiled.route, met=met)]
            checks.append(RouteCheck(compiled.route, f"needs {failed.requirement}, but {failed.describe_value(facts)}"))
        return checks


def describe_conditions(route: ConfiguredRoute) -> str:
    """Return the conditions of a route as text for users: `tier opus, input above 200,000 tokens`."""
    return ", ".join(condition.requirement for condition in compile_conditions(route)) or "every request"
