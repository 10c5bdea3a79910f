"""Cache of resolved routes. New settings or capabilities clear it."""

from anthropic_proxy.routing.catalog import Catalog
from anthropic_proxy.routing.router.targets import Route, RoutingQuery, resolve
from anthropic_proxy.settings import Settings

_MAX_ENTRIES = 1_024
"""Limited, because clients may request any name."""


class RouteCache:
    """Cache of the results of `resolve`, which is a pure function. Clients request few models repeatedly."""

    def __init__(self) -> None:
        self._routes: dict[RoutingQuery, Route] = {}
        self._inputs: tuple[Settings, Catalog, int] | None = None
        self.some_relayed = False
        """True if any resolved route is relayed."""

    def resolve(self, query: RoutingQuery, settings: Settings, catalog: Catalog) -> Route:
        """Return the cached or new result of `resolve`. Errors are not cached."""
        inputs = self._inputs
        if inputs is None or inputs[0] is not settings or inputs[1] is not catalog or inputs[2] != catalog.edition:
            self._routes.clear()
            self._inputs = settings, catalog, catalog.edition
        route = self._routes.get(query)
        if route is None:
            route = resolve(query, settings, catalog)
            self.some_relayed = self.some_relayed or route.is_relayed
            if len(self._routes) < _MAX_ENTRIES:
                self._routes[query] = route
        return route
