"""Functions for the routes and responses of the dashboard.

`page_route` returns the route of a page, and `form_route` returns the route to which a form is sent.
`compress_response` compresses a response by gzip. `redirect` sends the browser to another URL. The start of the proxy
loads this module, so it does not import the libraries for pages. These libraries, such as the template engine, are
loaded only with the first page.
"""

import asyncio
import gzip
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from math import ceil
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from anthropic_proxy import __version__
from anthropic_proxy.dashboard import formats
from anthropic_proxy.dashboard.assets import load_assets
from anthropic_proxy.dashboard.columns import DEFAULT_COLUMNS
from anthropic_proxy.dashboard.forms import MAX_FORM_BYTES
from anthropic_proxy.dashboard.page_context import FailedPanel
from anthropic_proxy.dashboard.view_query import session_link
from anthropic_proxy.errors import ClientError, ProxyBusy, ProxyError
from anthropic_proxy.plugins import Route, RouteRequest, RouteResponse

Respond = Callable[[RouteRequest], Awaitable[RouteResponse]]
"""Asynchronous function of a route, which returns the response to a request."""

SECURITY_HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}
"""Response headers of all pages and static files. No page contains an inline style or script."""
_MIN_COMPRESSED_BYTES = 1_000
_GZIP_LEVEL = 5


def compress_response(request: RouteRequest, response: RouteResponse) -> RouteResponse:
    """Return `response`, compressed by gzip if the browser accepts it and the body is not small."""
    body = response.body
    if not isinstance(body, bytes) or len(body) < _MIN_COMPRESSED_BYTES or not accepts_gzip(request):
        return response
    fields = {**response.headers, "content-encoding": "gzip", "vary": "accept-encoding, cookie"}
    return RouteResponse(status=response.status, headers=fields, body=gzip.compress(body, _GZIP_LEVEL, mtime=0))


def accepts_gzip(request: RouteRequest) -> bool:
    """Return True if the header `Accept-Encoding` of `request` names gzip."""
    codings = request.headers.get("accept-encoding", "").lower().split(",")
    return any(re.fullmatch(r"\s*gzip\s*(;\s*q=(1|0?\.0*[1-9]|0\.0*[1-9])[0-9.]*\s*)?", coding) for coding in codings)


def redirect(target: str, *, set_cookie: Sequence[str] = ()) -> RouteResponse:
    """Return a response that redirects the browser to the URL `target`.

    `set_cookie` are the values of headers `Set-Cookie` in this response.
    """
    location = quote(target, safe="/?&=%:+,;@!$'()*#~-._")
    headers = {"location": location, "cache-control": "no-store"}
    return RouteResponse(status=303, headers={**headers, "set-cookie": set_cookie} if set_cookie else headers)


def _with_error_page(respond: Respond) -> Respond:
    """Return a function that calls `respond` and shows an error of the client, or a busy proxy, as a page."""

    async def respond_or_explain(request: RouteRequest) -> RouteResponse:
        try:
            return await respond(request)
        except (ClientError, ProxyBusy) as error:
            return await asyncio.to_thread(_render_error, request, error)

    return respond_or_explain


def page_route(path: str, respond: Respond) -> Route:
    """Return the route of a page at the URL path `path`. Errors are shown as a page."""
    return Route(path=path, respond=_with_error_page(respond), checks_key=True)


def form_route(path: str, respond: Respond, max_bytes: int = MAX_FORM_BYTES) -> Route:
    """Return the route at the URL path `path` to which browsers send a form.

    Errors of the client are shown as a page.
    """
    explained = _with_error_page(respond)
    return Route(path=path, respond=explained, methods=["POST"], max_body_bytes=max_bytes, checks_key=True)


def _render_error(request: RouteRequest, error: ProxyError) -> RouteResponse:
    headers = {} if error.retry_after is None else {"retry-after": str(ceil(error.retry_after))}
    return render_message(request, error.message, status=error.status, headers=headers)


@cache
def load_environment() -> Environment:
    """Return the Jinja environment with all templates of the dashboard.

    Values in a template are escaped for HTML. A template that uses a name without a value raises an error.
    """
    environment = Environment(
        loader=PackageLoader("anthropic_proxy.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    functions = (
        *(formats.count, formats.short_count, formats.money, formats.seconds, formats.percent, formats.rate),
        *(formats.clock_time, formats.day_and_time, formats.full_time, formats.describe_zone, formats.ago),
        *(formats.plural, formats.provider_role),
    )
    environment.globals |= {function.__name__: function for function in functions}
    environment.globals["UNKNOWN"] = formats.UNKNOWN
    environment.globals |= {"version": __version__, "assets": load_assets(), "session_link": session_link}
    environment.globals["DEFAULT_COLUMNS"] = DEFAULT_COLUMNS
    environment.tests["failed"] = lambda panel: isinstance(panel, FailedPanel)
    return environment


def render_page(
    request: RouteRequest,
    template: str,
    values: Mapping[str, Any],
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> RouteResponse:
    """Return the response with the page that Jinja renders from `template` and `values`.

    The page is compressed if the browser accepts gzip. `headers` are additional response headers.
    """
    text = load_environment().get_template(template).render(values)
    fields: dict[str, str] = {
        "content-type": "text/html; charset=utf-8",
        "cache-control": "no-store",
        **SECURITY_HEADERS,
        **(headers or {}),
    }
    return compress_response(
        request, RouteResponse(status=status, headers=fields, body=text.encode("utf-8", "replace"))
    )


def render_public_page(
    request: RouteRequest,
    template: str,
    title: str,
    values: Mapping[str, Any],
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> RouteResponse:
    """Return the response with a page that needs no sign-in, such as the sign-in page, without links to other pages.

    Jinja renders the page from `template`, `title` and `values`.
    """
    frame = {"title": title, "section": "", "pages": (), "theme": "", "running": (), "form_token": "", "live": False}
    return render_page(request, template, {**frame, **values}, status=status, headers=headers)


def render_message(
    request: RouteRequest, message: str, *, status: int, headers: Mapping[str, str] | None = None
) -> RouteResponse:
    """Return the response with a page that shows only an error message. `status` is the HTTP status."""
    return render_public_page(request, "error.html", "Dashboard", {"message": message}, status=status, headers=headers)
