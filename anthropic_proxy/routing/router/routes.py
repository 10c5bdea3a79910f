"""Routes that were decided, until something is known that they were not decided by."""

from anthropic_proxy.routing.catalogue import Catalogue
from anthropic_proxy.routing.router.targets import Facts, Route, resolve
from anthropic_proxy.settings import Settings

_MOST_KEPT = 1_024
"""Clients may ask for any name."""


class Routes:
    """Decides each route once: `resolve` is pure, and clients ask for the same few models again and again."""

    def __init__(self) -> None:
        self._routes: dict[Facts, Route] = {}
        self._decided_by: tuple[Settings, Catalogue, int] | None = None
        self.some_relayed = False
        """Whether any that was decided is relayed."""

    def find(self, facts: Facts, settings: Settings, catalogue: Catalogue) -> Route:
        """Return what `resolve` gives, and raise what it raises."""
        before = self._decided_by
        if before is None or before[0] is not settings or before[1] is not catalogue or before[2] != catalogue.edition:
            self._routes.clear()
            self._decided_by = settings, catalogue, catalogue.edition
        route = self._routes.get(facts)
        if route is None:
            route = resolve(facts, settings, catalogue)
            self.some_relayed = self.some_relayed or route.relayed
            if len(self._routes) < _MOST_KEPT:
                self._routes[facts] = route
        return route
