"""Small answers of the dashboard: files, live rows, redirects, and paths that do not exist."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing

from anthropic_proxy.console.dashboard.permissions import (
    name_user,
)
from anthropic_proxy.console.dashboard.services import DashboardServices
from anthropic_proxy.console.dashboard.web import (
    SECURITY_HEADERS,
    accepts_gzip,
    find_asset,
    redirect,
)
from anthropic_proxy.console.ledger.reader_threads import PASSING_FAILURES
from anthropic_proxy.engine.exchange.client_side import STREAM_HEADERS
from anthropic_proxy.errors import PermissionDenied, UnknownModel
from anthropic_proxy.gateway.permissions import may
from anthropic_proxy.plugins import RouteRequest, RouteResponse

_YEAR_SECONDS = 31_536_000
_RIGHTS_CHECK_SECONDS = 1.0
"""Minimum time in seconds between two checks whether the reader of an open stream has the same rights."""


async def report_missing(services: DashboardServices, request: RouteRequest) -> RouteResponse:
    if not services.gateway.settings.virtual_keys and request.path.startswith("/dashboard/keys"):
        raise UnknownModel(
            "Virtual keys are off. With VIRTUAL_KEYS=true, each client has a key of its own, with limits, budgets "
            f"and costs. Set it in .env and {services.gateway.settings.start_again}.",
            code="virtual-keys-off",
        )
    raise UnknownModel(f"The dashboard has no page {request.path[:200]!r}.", code="dashboard-path")


async def redirect_home(services: DashboardServices, request: RouteRequest) -> RouteResponse:
    return redirect("/dashboard")


async def stream_events(services: DashboardServices, request: RouteRequest) -> RouteResponse:
    session = await services.find_session(request)
    if not request.client.name and session is None:
        raise PermissionDenied("Sign in at /dashboard to receive live rows.", code="dashboard-form")
    senders = None
    if session is not None and not may(session.role, "read all requests"):
        senders = await services.find_readable_senders(request, session)
    reader = name_user(request, session)
    includes = None if senders is None else senders.include
    events = services.gateway.stream_request_events(includes, client=reader)
    if session is None:
        return RouteResponse(headers=STREAM_HEADERS, body=events)

    async def has_same_rights() -> bool:
        try:
            if await services.find_session(request) != session:
                return False
            if senders is None or not senders.teams:  # who reads the own requests alone keeps this right
                return True
            return await services.find_readable_senders(request, session) == senders
        except PASSING_FAILURES:
            return False

    async def end_with_rights() -> AsyncIterator[bytes]:
        checked_at = time.monotonic()
        async with aclosing(events):
            async for event in events:
                if time.monotonic() >= checked_at + _RIGHTS_CHECK_SECONDS:
                    if not await has_same_rights():
                        return
                    checked_at = time.monotonic()
                yield event

    return RouteResponse(headers=STREAM_HEADERS, body=end_with_rights())


async def send_asset(services: DashboardServices, request: RouteRequest) -> RouteResponse:
    """Return the static file at the URL path of `request`. Its name contains a hash, so browsers keep it for a year."""
    asset = await asyncio.to_thread(find_asset, request.path)  # the first call reads and compresses the files
    if asset is None:
        raise UnknownModel(f"Nothing is served at {request.path!r}. Reload the page.", code="dashboard-path")
    fields = {
        **SECURITY_HEADERS,
        "content-type": asset.media_type,
        "cache-control": f"public, max-age={_YEAR_SECONDS}, immutable",
        "vary": "accept-encoding",
    }
    if accepts_gzip(request):
        return RouteResponse(headers={**fields, "content-encoding": "gzip"}, body=asset.compressed)
    return RouteResponse(headers=fields, body=asset.content)
