"""`RouteTable`: the routes of all plugins, found by HTTP method and URL path."""

import re
from collections.abc import Mapping, Sequence

from msgspec import Struct

from anthropic_proxy.plugins import Route

_PARAMETER = re.compile(r"\{([a-z_]+\*?)\}")


class FoundRoute(Struct, frozen=True):
    """The routes that serve one URL path, by HTTP method, with the values of the parameters in the path."""

    routes: Mapping[str, Route]
    """HTTP method → route of a plugin that serves the path with this method."""
    path_parameters: Mapping[str, str] = {}
    """Parameter in braces of `Route.path` → the value in the URL path."""


class RouteTable:
    """A path without parameters has priority over patterns such as `/api/requests/{id}`."""

    def __init__(self, routes: Sequence[Route] = ()) -> None:
        by_path: dict[str, dict[str, Route]] = {}
        for route in routes:
            methods = by_path.setdefault(route.path, {})
            for method in route.methods:
                methods.setdefault(method, route)
                if method == "GET":
                    methods.setdefault("HEAD", route)
        self._exact = {path: FoundRoute(methods) for path, methods in by_path.items() if "{" not in path}
        self._patterns = [(_compile(path), methods) for path, methods in by_path.items() if "{" in path]

    @property
    def paths(self) -> Sequence[str]:
        """Only paths without parameters."""
        return tuple(self._exact)

    def find(self, path: str) -> FoundRoute | None:
        """None: no plugin serves the path."""
        if found := self._exact.get(path):
            return found
        for pattern, methods in self._patterns:
            if match := pattern.fullmatch(path):
                return FoundRoute(methods, match.groupdict())
        return None


def _compile(path: str) -> re.Pattern[str]:
    """A parameter in braces matches one segment that is not empty; with `*`, any text."""
    pieces = _PARAMETER.split(path)
    for index, piece in enumerate(pieces):
        if index % 2 == 0:
            pieces[index] = re.escape(piece)
        else:
            pieces[index] = f"(?P<{piece[:-1]}>.*)" if piece.endswith("*") else f"(?P<{piece}>[^/]+)"
    return re.compile("".join(pieces), re.DOTALL)
