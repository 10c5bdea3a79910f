"""The dashboard in one process: who sent a request, and what is answered.

`plugin` loads this module with the first request below `/dashboard`, in a thread.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from math import ceil
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from sqlalchemy import Connection

from anthropic_proxy.console.dashboard.doctor import DoctorProcesses
from anthropic_proxy.console.dashboard.page import Form, OpenedForm, Page, ResultT
from anthropic_proxy.console.dashboard.pages import Pages
from anthropic_proxy.console.dashboard.permissions import find_role, reads_own_requests_only, require_section
from anthropic_proxy.console.dashboard.sign_in import (
    MAX_PROVIDER_FAILURES,
    MAX_PROVIDER_FAILURES_PER_HOUR,
    SIGN_IN_PATH,
    BrowserSessions,
    SignInLimit,
    find_session,
)
from anthropic_proxy.console.dashboard.web import (
    MAX_TARGET_CHARACTERS,
    SECURITY_HEADERS,
    accepts_gzip,
    find_asset,
    read_own_form,
    redirect,
    render_message,
    require_token,
)
from anthropic_proxy.engine.exchange.client_side import STREAM_HEADERS
from anthropic_proxy.errors import ClientError, PermissionDenied, ProxyBusy, ProxyError, UnknownModel
from anthropic_proxy.plugins import Gateway, RouteRequest, RouteResponse

if TYPE_CHECKING:
    from anthropic_proxy.console.dashboard.oidc_client import OidcClient

_YEAR_SECONDS = 31_536_000


class Site:
    def __init__(self, gateway: Gateway, clock: Callable[[], float] = time.time) -> None:
        self.gateway = gateway
        self.pages = Pages(gateway, clock)
        self.sessions = BrowserSessions(lambda: gateway.settings, lambda: gateway.store, clock)
        self.key_limit = SignInLimit()
        self.provider_limit = SignInLimit("provider", MAX_PROVIDER_FAILURES, MAX_PROVIDER_FAILURES_PER_HOUR)
        self.oidc_client: OidcClient | None = None
        """Client of the identity provider. None: no sign-in has used it."""
        self.doctor = DoctorProcesses(gateway)

    async def stop(self) -> None:
        await self.doctor.stop()
        await self.pages.stop()

    async def respond(self, name: str, request: RouteRequest) -> RouteResponse:
        """`name`: that of a `Target`. An error of the client, or a busy proxy, becomes a page."""
        target = await asyncio.to_thread(load_target, name)
        try:
            if isinstance(target, Page):
                return await self._respond_page(target, request)
            if isinstance(target, Form):
                return await self._respond_form(target, request)
            response: RouteResponse = await target(self, request)
        except (ClientError, ProxyBusy) as error:
            section = target.section if isinstance(target, Page | Form) else ""
            return await self._respond_error(request, error, section)
        return response

    async def read(self, section: str, request: RouteRequest, function: Callable[[Connection], ResultT]) -> ResultT:
        """Call `function` in a thread with a connection to the ledger, which shows what the user may read. The database
        is empty if the ledger cannot be read. Raises `PermissionDenied`.
        """
        session = await find_session(self, request)
        if not request.client.name and session is None:
            raise PermissionDenied("Sign in at /dashboard.", code="dashboard-form")
        require_section(find_role(request, session), section)
        return await self.pages.read(request, session, function)

    async def _respond_error(self, request: RouteRequest, error: ProxyError, section: str) -> RouteResponse:
        """The page has the navigation, unless the user is not signed in."""
        session = None
        status = error.status
        message = error.message
        headers = {} if error.retry_after is None else {"retry-after": str(ceil(error.retry_after))}
        with suppress(ProxyBusy):  # the store with the sessions is not available, which may be the error itself
            session = await find_session(self, request)
        if session is None and not request.client.name:
            return await asyncio.to_thread(render_message, request, message, status=status, headers=headers)
        setting = ""
        if error.code == "virtual-keys-off":
            section, setting = "Keys", "VIRTUAL_KEYS=true"
        render = self.pages.render_error
        return await asyncio.to_thread(
            render, request, session, section, status, message, headers=headers, setting=setting
        )

    async def _respond_page(self, page: Page, request: RouteRequest) -> RouteResponse:
        session = await find_session(self, request)
        if not request.client.name and session is None:
            return redirect(f"{SIGN_IN_PATH}?next={quote(_address_of(request), safe='/')}")
        return await self.pages.respond(page, request, session)

    async def _respond_form(self, form: Form, request: RouteRequest) -> RouteResponse:
        sent = read_own_form(request) if request.method == "POST" else None
        session = await find_session(self, request)
        if sent is None and session is None and not request.client.name:
            return redirect(f"{SIGN_IN_PATH}?next={form.page_path}")
        if reason := form.explain_denial(request, session, self.gateway.settings):
            raise PermissionDenied(reason, code="dashboard-role")
        opened = OpenedForm(self, form, request, session)
        if sent is None:
            return await form.show(opened)
        require_token(request, session, sent.get("token", ""))
        return await form.submit(opened, sent)


def load_target(name: str) -> Any:
    """Return a `Page`, a `Form`, or a function of the site and a request."""
    module, _, member = name.partition(":")
    return getattr(import_module(f"anthropic_proxy.console.dashboard.{module}"), member)


async def report_missing(site: Site, request: RouteRequest) -> RouteResponse:
    if not site.gateway.settings.virtual_keys and request.path.startswith("/dashboard/keys"):
        raise UnknownModel(
            "Virtual keys are off. With VIRTUAL_KEYS=true, each client has a key of its own, with limits, budgets "
            f"and costs. Set it in .env and {site.gateway.settings.start_again}.",
            code="virtual-keys-off",
        )
    raise UnknownModel(f"The dashboard has no page {request.path[:200]!r}.", code="dashboard-path")


async def redirect_home(site: Site, request: RouteRequest) -> RouteResponse:
    return redirect("/dashboard")


async def stream_events(site: Site, request: RouteRequest) -> RouteResponse:
    session = await find_session(site, request)
    if not request.client.name and session is None:
        raise PermissionDenied("Sign in at /dashboard to receive live rows.", code="dashboard-form")
    names = None
    if session is not None and reads_own_requests_only(session.role):
        names = await site.pages.list_own_key_labels(session)
    return RouteResponse(headers=STREAM_HEADERS, body=site.gateway.stream_request_events(names))


async def send_asset(site: Site, request: RouteRequest) -> RouteResponse:
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


def _address_of(request: RouteRequest) -> str:
    """A query that is too long is removed."""
    query = urlencode(request.query, doseq=True, errors="replace")
    address = f"{request.path}?{query}" if query else request.path
    address = address.encode("utf-8", "replace").decode()
    return address if len(address) <= MAX_TARGET_CHARACTERS else "/dashboard"
