"""URL paths that plugins serve, such as the pages of the dashboard.

A `Route` is one path with its function, which receives a `RouteRequest` and returns a `RouteResponse`. If the proxy
requires a key, the function is called only for clients with a valid key. With `Route.checks_key`, it is also called for
clients without a key, and must check their access itself. `HttpReply` is the reply of another server to a request of a
plugin.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

from msgspec import Struct

from anthropic_proxy.plugins.admission import Client

Headers = Mapping[str, str]
"""Headers of a client request: name in lower case → value."""


class RouteRequest(Struct, frozen=True, kw_only=True):
    """A client request for a `Route`, with its complete body."""

    method: str = "GET"
    """HTTP method of the client request."""
    path: str
    """URL path without the query."""
    path_parameters: Mapping[str, str] = {}
    """Parameter in braces of `Route.path` → the value in the URL path."""
    query: Mapping[str, Sequence[str]] = {}
    """Parameter of the URL query → its values, in the order of the URL."""
    headers: Headers = {}
    """Client headers without `authorization` and `x-api-key`."""
    body: bytes = b""
    """Body of the request, at most `Route.max_body_bytes` long."""
    client: Client = Client()
    """Client that sent the request."""
    scheme: str = "http"
    """`http`, or `https` if a proxy in front of this server ends TLS."""
    address: str = ""
    """IP address of the client. "": unknown."""
    request_id: str = ""
    """Id in the response header `request-id`."""


class RouteResponse(Struct, frozen=True, kw_only=True):
    """The response of a `Route`. The server adds `request-id` and `content-length`."""

    status: int = 200
    """HTTP status of the response."""
    headers: Mapping[str, str | Sequence[str]] = {}
    """Header name in lower case → value, with `content-type`. Several values become several header lines."""
    body: bytes | AsyncIterator[bytes] = b""
    """Body of the response. An iterator is a stream, such as `text/event-stream`; it is closed if the client
    disconnects."""


class Route(Struct, frozen=True, kw_only=True):
    """A URL path that a plugin serves.

    If the proxy requires a key for its API, clients need a key for this path too, except with `checks_key`.
    """

    path: str
    """URL path. A name in braces is the parameter of one segment: `/api/requests/{id}`. `{rest*}` matches all further
    segments."""
    respond: Callable[[RouteRequest], Awaitable[RouteResponse]]
    """Function that returns the response. A `ProxyError` becomes an error body in Anthropic's format."""
    methods: Sequence[str] = ("GET",)
    """HTTP methods. GET includes HEAD. A plugin may have several routes for one path."""
    max_body_bytes: int = 65_536
    """Maximum size of the request body. A larger one is rejected with 413."""
    checks_key: bool = False
    """True if `respond` itself checks the access of clients without a key, for example by a cookie.

    A sign-in page needs this if the proxy has a key.
    """


class HttpReply(Struct, frozen=True):
    """Reply of another server to a request of a plugin, as `Gateway.send_http` returns it."""

    status: int
    """HTTP status of the reply."""
    body: bytes
    """Complete response body."""
