"""Routes, responses and static files of the dashboard.

The start of the proxy loads this module, so it does not import the libraries for pages. These libraries, such as the
template engine, are loaded in a thread with the first page. The URL of a static file (style sheet, script, image)
contains a hash of its content, so that browsers can keep the file.
"""

import asyncio
import gzip
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from math import ceil
from typing import Any
from urllib.parse import quote

from msgspec import Struct

from anthropic_proxy.console.dashboard.forms import MAX_FORM_BYTES
from anthropic_proxy.errors import ClientError, ProxyBusy
from anthropic_proxy.plugins import Route, RouteRequest, RouteResponse

Respond = Callable[[RouteRequest], Awaitable[RouteResponse]]

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
    body = response.body
    if not isinstance(body, bytes) or len(body) < _MIN_COMPRESSED_BYTES or not accepts_gzip(request):
        return response
    fields = {**response.headers, "content-encoding": "gzip", "vary": "accept-encoding, cookie"}
    return RouteResponse(status=response.status, headers=fields, body=gzip.compress(body, _GZIP_LEVEL, mtime=0))


def accepts_gzip(request: RouteRequest) -> bool:
    codings = request.headers.get("accept-encoding", "").lower().split(",")
    return any(re.fullmatch(r"\s*gzip\s*(;\s*q=(1|0?\.0*[1-9]|0\.0*[1-9])[0-9.]*\s*)?", coding) for coding in codings)


def redirect(target: str, *, set_cookie: Sequence[str] = ()) -> RouteResponse:
    location = quote(target, safe="/?&=%:+,;@!$'()*#~-._")
    headers = {"location": location, "cache-control": "no-store"}
    return RouteResponse(status=303, headers={**headers, "set-cookie": set_cookie} if set_cookie else headers)


def _with_error_page(respond: Respond) -> Respond:
    """Return a function that calls `respond` and shows an error of the client, or a busy proxy, as a page."""

    async def respond_or_explain(request: RouteRequest) -> RouteResponse:
        try:
            return await respond(request)
        except (ClientError, ProxyBusy) as error:
            headers = {} if error.retry_after is None else {"retry-after": str(ceil(error.retry_after))}
            return await asyncio.to_thread(render_message, request, error.message, status=error.status, headers=headers)

    return respond_or_explain


def page_route(path: str, respond: Respond) -> Route:
    return Route(path=path, respond=_with_error_page(respond), checks_key=True)


def form_route(path: str, respond: Respond, max_bytes: int = MAX_FORM_BYTES) -> Route:
    explained = _with_error_page(respond)
    return Route(path=path, respond=explained, methods=["POST"], max_body_bytes=max_bytes, checks_key=True)


def render_public_page(
    request: RouteRequest,
    template: str,
    title: str,
    values: Mapping[str, Any],
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> RouteResponse:
    """Return the response with a page that needs no sign-in, such as the sign-in page, without links to other pages."""
    from anthropic_proxy.console.dashboard.rendering import render_page  # noqa: PLC0415  # loads the template engine

    frame = {"title": title, "section": "", "pages": (), "theme": "", "running": (), "form_token": "", "live": False}
    return render_page(request, template, {**frame, **values}, status=status, headers=headers)


def render_message(
    request: RouteRequest, message: str, *, status: int, headers: Mapping[str, str] | None = None
) -> RouteResponse:
    return render_public_page(request, "error.html", "Dashboard", {"message": message}, status=status, headers=headers)


_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
_HASH_CHARACTERS = 12


class Asset(Struct, frozen=True):
    url: str
    media_type: str
    content: bytes
    compressed: bytes


@cache
def load_assets() -> Mapping[str, Asset]:
    """Return all static files by name. The name has no hash: `dashboard.css`."""
    found = {}
    for file in files(__package__).joinpath("static").iterdir():
        stem, _, extension = file.name.rpartition(".")
        if extension in _TYPES:
            content = file.read_bytes()
            digest = hashlib.sha256(content).hexdigest()[:_HASH_CHARACTERS]
            url = f"/dashboard/static/{stem}.{digest}.{extension}"
            found[file.name] = Asset(url, _TYPES[extension], content, gzip.compress(content, mtime=0))
    return found


def find_asset(url: str) -> Asset | None:
    return next((asset for asset in load_assets().values() if asset.url == url), None)
