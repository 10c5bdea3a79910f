"""All routes below `/dashboard`: pages, static files, live events, and forms.

The libraries for pages, such as the template engine, are loaded in a thread with the first page, and not at the start
of the proxy.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from anthropic_proxy.console.dashboard.browser_sessions import BrowserSessions
from anthropic_proxy.console.dashboard.doctor_form import DOCTOR_PATH, PROVIDERS_PATH, DoctorForm
from anthropic_proxy.console.dashboard.forms import (
    MAX_FORM_BYTES,
    MAX_TARGET_CHARACTERS,
    OpenedForm,
    read_own_form,
    require_token,
)
from anthropic_proxy.console.dashboard.permissions import (
    Session,
    explain_doctor_denial,
    explain_key_denial,
    explain_settings_denial,
    reads_own_requests_only,
)
from anthropic_proxy.console.dashboard.responses import (
    SECURITY_HEADERS,
    Respond,
    accepts_gzip,
    find_asset,
    form_route,
    page_route,
    redirect,
)
from anthropic_proxy.console.dashboard.settings import SETTINGS_EDIT_PATH, change_setting, show_setting
from anthropic_proxy.console.dashboard.sign_in import SignIn, require_usable_identity_provider
from anthropic_proxy.console.ledger.reader_threads import ReaderThreads
from anthropic_proxy.errors import PermissionDenied, UnknownModel
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Gateway, Plugin, Route, RouteRequest, RouteResponse, Store

if TYPE_CHECKING:
    from anthropic_proxy.console.dashboard.pages import Pages

PATHS = (
    "/dashboard",
    "/dashboard/requests",
    "/dashboard/requests/{id}",
    "/dashboard/sessions",
    "/dashboard/session",
    "/dashboard/costs",
    "/dashboard/models",
    "/dashboard/providers",
    "/dashboard/settings",
)
KEY_PATHS = ("/dashboard/keys", "/dashboard/keys/audit", "/dashboard/keys/{id}")
_YEAR_SECONDS = 31_536_000
_EVENT_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


def open_plugin(settings: Settings) -> Plugin:
    require_usable_identity_provider(settings)
    dashboard = Dashboard(settings)
    return Plugin(routes=dashboard.routes(), start=dashboard.start, stop=dashboard.stop)


class Dashboard:
    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._sign_in = SignIn(BrowserSessions(self._find_settings, self._find_store, clock))
        self._gateway: Gateway | None = None
        self._pages: Pages | None = None
        self._threads = ReaderThreads()
        self._doctor = DoctorForm()

    async def start(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._sign_in.start(gateway)

    async def stop(self) -> None:
        await self._doctor.stop()
        await self._threads.stop()
        if self._pages is not None:
            self._pages.close()

    def routes(self) -> Sequence[Route]:
        has_keys = self._settings.virtual_keys
        paths = (*PATHS, *KEY_PATHS) if has_keys else PATHS
        return [
            *(page_route(path, self._page(path)) for path in paths),
            page_route("/dashboard/", _redirect_home),
            Route(path="/dashboard/live", respond=self._stream, checks_key=True),
            Route(path="/dashboard/static/{name}", respond=_send_asset, checks_key=True),
            *self._sign_in.routes(),
            *self._form_routes(
                SETTINGS_EDIT_PATH,
                "/dashboard/settings",
                explain_denial=explain_settings_denial,
                show=show_setting,
                submit=change_setting,
            ),
            *self._form_routes(
                DOCTOR_PATH,
                PROVIDERS_PATH,
                explain_denial=explain_doctor_denial,
                show=self._doctor.show,
                submit=self._doctor.submit,
            ),
            *(self._key_form_routes() if has_keys else ()),
            page_route("/dashboard/{rest*}", self._report_missing),
        ]

    async def _report_missing(self, request: RouteRequest) -> RouteResponse:
        error = UnknownModel(f"The dashboard has no page {request.path[:200]!r}.", code="dashboard-path")
        if not self._settings.virtual_keys and request.path.startswith("/dashboard/keys"):
            error = UnknownModel(
                "Virtual keys are off. With VIRTUAL_KEYS=true, each client has a key of its own, with limits, budgets "
                "and costs. Set it in .env and start the proxy again.",
                code="virtual-keys-off",
            )
        session, pages, _ = await self._open_pages(request)
        if session is None and not request.client.name:
            raise error
        return await asyncio.to_thread(pages.render_error, request, session, error)

    def _find_settings(self) -> Settings:
        return self._gateway.settings if self._gateway is not None else self._settings

    def _find_store(self) -> Store:
        assert self._gateway is not None
        return self._gateway.store

    def _page(self, path: str) -> Respond:
        async def respond(request: RouteRequest) -> RouteResponse:
            session = await self._sign_in.find_session(request)
            if not request.client.name and session is None:
                return redirect(f"/dashboard/sign-in?next={quote(_address_of(request), safe='/')}")
            pages = await self._find_pages()
            return await pages.respond(path, request, session)

        return respond

    async def _find_pages(self) -> "Pages":
        """Return the pages. The first call loads their libraries in a thread."""
        if self._pages is None:
            pages_class = (await asyncio.to_thread(import_module, "anthropic_proxy.console.dashboard.pages")).Pages
            assert self._gateway is not None
            if self._pages is None:  # two first requests may have waited for the libraries
                self._pages = pages_class(self._gateway, self._threads)
        return self._pages

    async def _stream(self, request: RouteRequest) -> RouteResponse:
        session = await self._sign_in.find_session(request)
        if not request.client.name and session is None:
            raise PermissionDenied("Sign in at /dashboard to receive live rows.", code="dashboard-form")
        assert self._gateway is not None
        names = None
        if session is not None and reads_own_requests_only(session.role):
            pages = await self._find_pages()
            names = await pages.list_own_key_labels(session)
        return RouteResponse(headers=_EVENT_HEADERS, body=self._gateway.stream_request_events(names))

    def _key_form_routes(self) -> Sequence[Route]:
        from anthropic_proxy.console.dashboard import key_form  # noqa: PLC0415  # it needs the library of the database

        return self._form_routes(
            key_form.KEY_EDIT_PATH,
            "/dashboard/keys",
            explain_denial=explain_key_denial,
            show=key_form.show_key_form,
            submit=key_form.submit_key_form,
            max_bytes=key_form.MAX_KEY_FORM_BYTES,
        )

    def _form_routes(
        self,
        path: str,
        page_path: str,
        *,
        explain_denial: Callable[[RouteRequest, Session | None, Settings], str],
        show: Callable[[OpenedForm], Awaitable[RouteResponse]],
        submit: Callable[[OpenedForm, Mapping[str, str]], Awaitable[RouteResponse]],
        max_bytes: int = MAX_FORM_BYTES,
    ) -> Sequence[Route]:
        """`show` and `submit` are called only for users for whom `explain_denial` returns "", and `submit` only if the
        form is one of this browser.
        """

        def open_form(request: RouteRequest, session: Session | None, pages: "Pages", gateway: Gateway) -> OpenedForm:
            if reason := explain_denial(request, session, gateway.settings):
                raise PermissionDenied(reason, code="dashboard-role")
            return OpenedForm(request, session, gateway, partial(pages.respond_form, request, session, page_path))

        async def respond_to_get(request: RouteRequest) -> RouteResponse:
            session, pages, gateway = await self._open_pages(request)
            if session is None and not request.client.name:
                return redirect(f"/dashboard/sign-in?next={page_path}")
            return await show(open_form(request, session, pages, gateway))

        async def respond_to_post(request: RouteRequest) -> RouteResponse:
            sent = read_own_form(request)
            form = open_form(request, *await self._open_pages(request))
            require_token(request, form.session, sent.get("token", ""))
            return await submit(form, sent)

        return [page_route(path, respond_to_get), form_route(path, respond_to_post, max_bytes)]

    async def _open_pages(self, request: RouteRequest) -> "tuple[Session | None, Pages, Gateway]":
        """Session None: no sign-in is required."""
        pages = await self._find_pages()
        assert self._gateway is not None
        return await self._sign_in.find_session(request), pages, self._gateway


async def _send_asset(request: RouteRequest) -> RouteResponse:
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


async def _redirect_home(request: RouteRequest) -> RouteResponse:
    return redirect("/dashboard")


def _address_of(request: RouteRequest) -> str:
    """A query that is too long is removed."""
    query = urlencode(request.query, doseq=True, errors="replace")
    address = f"{request.path}?{query}" if query else request.path
    address = address.encode("utf-8", "replace").decode()
    return address if len(address) <= MAX_TARGET_CHARACTERS else "/dashboard"
