"""`RouteCache`: caches the routes of recent requests, because clients request few models repeatedly.

A route is the list of targets for a request. `FixedRouteCache` always returns the same route.
"""

from anthropic_proxy.routing.catalog import Catalog
from anthropic_proxy.routing.router.targets import Route, RoutingQuery, resolve_route
from anthropic_proxy.settings import Settings

_MAX_ENTRIES = 1_024
"""Maximum number of cached routes. Further routes are computed for each request."""


class RouteCache:
    """Cache of routes by `RoutingQuery` (model, server tools, matching rule). Clients request few models repeatedly."""

    def __init__(self) -> None:
        self._routes: dict[RoutingQuery, Route] = {}
        self._inputs: tuple[Settings, Catalog, int] | None = None
        self.some_relayed = False
        """True if any route returned by this cache is relayed."""

    def find_route(self, query: RoutingQuery, settings: Settings, catalog: Catalog) -> Route:
        """Return the route of a client request, cached or new. Raises `ClientError` as the function `resolve_route`.

        Changed settings or catalog contents clear the cache.
        """
        inputs = self._inputs
        if inputs is None or inputs[0] is not settings or inputs[1] is not catalog or inputs[2] != catalog.edition:
            self._routes.clear()
            self._inputs = settings, catalog, catalog.edition
        route = self._routes.get(query)
        if route is None:
            route = resolve_route(query, settings, catalog)
            self.some_relayed = self.some_relayed or route.is_relayed
            if len(self._routes) < _MAX_ENTRIES:
                self._routes[query] = route
        return route


class FixedRouteCache(RouteCache):
    """Route cache that returns one given route for every request, for checks of one target."""

    def __init__(self, route: Route) -> None:
        super().__init__()
        self._route = route

    def find_route(self, query: RoutingQuery, settings: Settings, catalog: Catalog) -> Route:
        """Return the given route, for every query."""
        return self._route
