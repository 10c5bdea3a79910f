"""`RouteCache`: caches the routes of recent requests, because clients request few models repeatedly.

A route is the list of targets (provider and model) for a request. `FixedRouteCache` always returns the same route, for
dry runs and the command `doctor`.
"""

from anthropic_proxy.routing.catalog import Catalog
from anthropic_proxy.routing.router.targets import Route, RoutingQuery, build_route
from anthropic_proxy.settings import Settings

_MAX_ENTRIES = 1_024
"""Maximum number of cached routes. Further routes are computed for each request."""


class RouteCache:
    """Cache of routes, the lists of targets (provider and model) for requests."""

    def __init__(self) -> None:
        self._cached: tuple[Settings, Catalog, int, dict[RoutingQuery, Route]] | None = None
        """Settings, catalog and its edition, with the routes for them. A change replaces the tuple: a thread that still
        computes a route for the earlier contents adds it to the earlier dict."""
        self.some_relayed = False
        """True if any route returned by this cache is relayed."""

    def find_route(self, query: RoutingQuery, settings: Settings, catalog: Catalog) -> Route:
        """Return the route of a client request from the cache, or from the function `build_route`.

        Raises the `ClientError` of `build_route`.
        """
        cached = self._cached
        if cached is None or cached[0] is not settings or cached[1] is not catalog or cached[2] != catalog.edition:
            cached = self._cached = settings, catalog, catalog.edition, {}
        routes = cached[3]
        route = routes.get(query)
        if route is None:
            route = build_route(query, settings, catalog)
            self.some_relayed = self.some_relayed or route.is_relayed
            if len(routes) < _MAX_ENTRIES:
                routes[query] = route
        return route


class FixedRouteCache(RouteCache):
    """Route cache that returns one given route for every request."""

    def __init__(self, route: Route) -> None:
        super().__init__()
        self._route = route

    def find_route(self, query: RoutingQuery, settings: Settings, catalog: Catalog) -> Route:
        """Return the given route, for every query."""
        return self._route
