"""The dashboard in one process: who sent a request, and what is answered.

`plugin` loads this module with the first request below `/dashboard`, in a thread. A page, or a file with one of its
tables (`view`), is built in a thread, so that its queries do not block the event loop. A page that adds up many
requests is sent in two parts (`early_flush`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from importlib import import_module
from math import ceil
from urllib.parse import quote, urlencode

from anthropic_proxy.console.dashboard.browser_sessions import SIGN_IN_PATH
from anthropic_proxy.console.dashboard.early_flush import respond_with_early_flush
from anthropic_proxy.console.dashboard.forms import Form, OpenedForm
from anthropic_proxy.console.dashboard.page import Page, ResultT
from anthropic_proxy.console.dashboard.permissions import (
    Session,
    explain_denial,
    find_role,
)
from anthropic_proxy.console.dashboard.services import DashboardServices, name_reader
from anthropic_proxy.console.dashboard.view import View
from anthropic_proxy.console.dashboard.web import (
    MAX_TARGET_CHARACTERS,
    read_own_form,
    redirect,
    render_error,
    render_page,
    require_token,
    send_public_page,
)
from anthropic_proxy.errors import ClientError, PermissionDenied, ProxyBusy, ProxyError
from anthropic_proxy.gateway.permissions import find_permission, may, require_page
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Gateway, RouteRequest, RouteResponse

_STORE_SECONDS = 10.0
Target = Page | Form | Callable[[DashboardServices, RouteRequest], Awaitable[RouteResponse]]
"""What answers the requests to a path: a page, a form, or a function."""


class Site:
    """Answers the requests of browsers, by the targets of `plugin`."""

    def __init__(self, gateway: Gateway[Settings]) -> None:
        self._services = DashboardServices(gateway)

    async def stop(self) -> None:
        await self._services.stop()

    async def respond(self, name: str, request: RouteRequest) -> RouteResponse:
        """`name`: that of a `Target`. An error of the client, or a busy proxy, becomes a page."""
        target = await asyncio.to_thread(load_target, name)
        try:
            if isinstance(target, Page):
                session = await self._services.find_session(request)
                if not request.client.name and session is None:
                    query = urlencode(request.query, doseq=True, errors="replace")
                    address = f"{request.path}?{query}" if query else request.path
                    address = address.encode("utf-8", "replace").decode()
                    if len(address) > MAX_TARGET_CHARACTERS:
                        address = "/dashboard"
                    return redirect(f"{SIGN_IN_PATH}?next={quote(address, safe='/')}")
                return await self._respond_page(target, request, session)
            if isinstance(target, Form):
                return await self._respond_form(target, request)
            return await target(self._services, request)
        except (ClientError, ProxyBusy) as error:
            section = target.section if isinstance(target, Page | Form) else ""
            return await self._respond_error(request, error, section)

    async def _respond_page(self, page: Page, request: RouteRequest, session: Session | None) -> RouteResponse:
        """The parameter `format` of the URL selects a file with one table of the page. Raises `PermissionDenied`."""
        require_page(find_role(request, session), request.path, page.section)
        running = await self._services.gateway.collect_running_requests()
        loop = asyncio.get_running_loop()

        def wait_for(call: Coroutine[None, None, ResultT], /) -> ResultT:
            return asyncio.run_coroutine_threadsafe(call, loop).result(_STORE_SECONDS)

        view = View(
            services=self._services,
            page=page,
            request=request,
            session=session,
            running=running,
            wait_for=wait_for,
        )
        response = self._services.threads.run(name_reader(request, session), view.render)
        if "format" in request.query or page.missing or not page.adds_up:
            return await response

        def render_head() -> RouteResponse:
            frame = self._services.build_frame(page.section, request, session)
            if session is None or may(session.role, "read all requests"):
                frame["running"] = running
            return render_page(request, "adding_up.html", frame)

        return await respond_with_early_flush(request, response, render_head, view.progress)

    async def _respond_form(self, form: Form, request: RouteRequest) -> RouteResponse:
        sent = read_own_form(request) if request.method == "POST" else None
        session = await self._services.find_session(request)
        if sent is None and session is None and not request.client.name:
            return redirect(f"{SIGN_IN_PATH}?next={form.page_path}")
        permission = find_permission(request.method, request.path)
        if reason := explain_denial(permission, request, session, self._services.gateway.settings):
            raise PermissionDenied(reason, code="dashboard-role")
        if sent is not None:
            require_token(request, session, self._services.gateway.settings, sent.get("token", ""))
        return await form.respond(OpenedForm(self._services, form, request, session), sent)

    async def _respond_error(self, request: RouteRequest, error: ProxyError, section: str) -> RouteResponse:
        """The page has the navigation, unless the user is not signed in."""
        session: Session | None = None
        headers = {} if error.retry_after is None else {"retry-after": str(ceil(error.retry_after))}
        with suppress(ProxyBusy):  # the store with the sessions is not available, which may be the error itself
            session = await self._services.find_session(request)
        if session is None and not request.client.name:
            values = {"message": error.message}
            return await send_public_page(
                request, "error.html", "Dashboard", values, status=error.status, headers=headers
            )
        is_off = error.code == "virtual-keys-off"
        frame = self._services.build_frame("Keys" if is_off else section, request, session)
        setting = "VIRTUAL_KEYS=true" if is_off else ""
        render = partial(render_error, request, frame, error.status, error.message, setting=setting, headers=headers)
        return await asyncio.to_thread(render)


def load_target(name: str) -> Target:
    """`name`: module and member, such as `oidc:start_oidc`."""
    module, _, member = name.partition(":")
    target: Target = getattr(import_module(f"anthropic_proxy.console.dashboard.{module}"), member)
    return target
