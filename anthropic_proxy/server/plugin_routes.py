"""Requests to URL paths that plugins serve: checks of method and body size, call of the plugin, and its response.

A route is a method and URL path with the function of the plugin that returns the response. `FoundRoute` contains the
routes of one path, by HTTP method. Clients need a valid key, unless the route checks the key itself
(`is_key_checked_by_route`). `send_built_in_route` serves pages of the proxy itself by the same interface.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qs

from anthropic_proxy.errors import MethodNotAllowed, RequestTooLarge
from anthropic_proxy.exchange.client_request import ClientRequest
from anthropic_proxy.plugins import RouteRequest, RouteResponse
from anthropic_proxy.route_table import FoundRoute
from anthropic_proxy.server.response_sink import AsgiSink, Scope
from anthropic_proxy.services import Services

_CREDENTIAL_HEADERS = frozenset({"authorization", "x-api-key"})

Responder = Callable[[Services, RouteRequest], Awaitable[RouteResponse]]
"""Async function of the proxy itself that returns the response to a request."""


async def send_built_in_route(respond: Responder, services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    """Call `respond`, a function of the proxy itself, for a client request, and send the response that it returns."""
    await sink.send_route_response(await respond(services, build_route_request(request)))


async def send_plugin_route(found: FoundRoute, scope: Scope, request: ClientRequest, sink: AsgiSink) -> None:
    """Call the plugin's function for a client request, and send the response that it returns.

    Raises `MethodNotAllowed` or, for a body above the limit, `RequestTooLarge`.
    """
    route = found.routes[require_method(scope["method"], request.path, found)]
    if len(request.body) > route.max_body_bytes:
        raise RequestTooLarge(f"The body is larger than {route.max_body_bytes:,} bytes.")
    response = await route.respond(build_route_request(request, scope, found.path_parameters))
    await sink.send_route_response(response, has_body=scope["method"] != "HEAD")


def require_method(method: str, path: str, found: FoundRoute) -> str:
    """Return `method` unchanged if a plugin serves the URL path with this HTTP method.

    Raises `MethodNotAllowed` (405) otherwise. `found` contains the routes of the path by HTTP method.
    """
    if method not in found.routes:
        raise MethodNotAllowed(f"{method} is not supported at {path!r}; use {' or '.join(found.routes)}.", found.routes)
    return method


def is_key_checked_by_route(method: str, found: FoundRoute | None) -> bool:
    """Return True if the plugin that serves a path checks client keys itself, as for a sign-in page.

    The server then accepts requests without a key.
    """
    route = found.routes.get(method) if found else None
    return route is not None and route.checks_key


def build_route_request(
    request: ClientRequest, scope: Mapping[str, Any] | None = None, path_parameters: Mapping[str, str] | None = None
) -> RouteRequest:
    """Convert a client request to the `RouteRequest` that plugins receive. Headers that contain keys are left out.

    The HTTP method and the client's address come from `scope`. If `scope` is None, the method is GET and the address
    is unknown ("").
    """
    scope = scope or {}
    return RouteRequest(
        method=scope.get("method", "GET"),
        path=request.path,
        path_parameters=path_parameters or {},
        query=parse_qs(request.query, keep_blank_values=True) if request.query else {},
        headers={name: value for name, value in request.headers.items() if name not in _CREDENTIAL_HEADERS},
        body=request.body,
        client=request.client,
        scheme=scope.get("scheme", "http"),
        address=(scope.get("client") or ("",))[0],
        request_id=request.request_id,
    )
