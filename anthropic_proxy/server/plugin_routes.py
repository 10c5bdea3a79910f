"""Requests for the URL paths that plugins serve: checks method and body size, calls the route, and sends its response.

A route of a plugin is a URL path with a function that returns the response. `FoundRoute` has the routes of one path by
HTTP method. The server rejects clients without a valid key, except for a route that checks the key itself
(`is_key_checked_by_route`). `send_own_route` serves pages of the proxy itself by the same interface.
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


async def send_own_route(respond: Responder, services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    """Call `respond` for a request to a path of the proxy itself, and send the response, without a body for HEAD."""
    await sink.send_route_response(await respond(services, build_route_request(request)))


async def send_plugin_route(found: FoundRoute, scope: Scope, request: ClientRequest, sink: AsgiSink) -> None:
    """Call the route of a plugin for the method of a request, and send its response.

    `found` has the routes of the URL path by method. `scope` is the ASGI scope. Raises `MethodNotAllowed` if no route
    has the method, and `RequestTooLarge` above the maximum body size of the route.
    """
    route = found.routes[require_method(scope["method"], request.path, found)]
    if len(request.body) > route.max_body_bytes:
        raise RequestTooLarge(f"The body is larger than {route.max_body_bytes:,} bytes.")
    response = await route.respond(build_route_request(request, scope, found.path_parameters))
    await sink.send_route_response(response, has_body=scope["method"] != "HEAD")


def require_method(method: str, path: str, found: FoundRoute) -> str:
    """Return `method` if a route of the path has this HTTP method. Raises `MethodNotAllowed` (405) otherwise."""
    if method not in found.routes:
        raise MethodNotAllowed(f"{method} is not supported at {path!r}; use {' or '.join(found.routes)}.", found.routes)
    return method


def is_key_checked_by_route(method: str, found: FoundRoute | None) -> bool:
    """Return True if a route itself decides about clients without a key, so that the server does not reject them.

    `found` has the routes of the URL path; None: no plugin serves the path.
    """
    route = found.routes.get(method) if found else None
    return route is not None and route.checks_key


def build_route_request(
    request: ClientRequest, scope: Mapping[str, Any] | None = None, path_parameters: Mapping[str, str] | None = None
) -> RouteRequest:
    """Return a client request in the form that routes of plugins receive, without keys in its headers.

    `scope` is the ASGI scope; None: a GET request from an unknown address. `path_parameters` has the values of
    parameters in the URL path.
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
