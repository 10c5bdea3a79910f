"""The plugin of the dashboard: its URL paths.

The start of the proxy loads this module only. The first request below `/dashboard` loads the others in a thread.
"""

import asyncio
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from anthropic_proxy.errors import is_installed
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Gateway, Plugin, Route, RouteRequest, RouteResponse

if TYPE_CHECKING:
    from anthropic_proxy.console.dashboard.site import Site

FORM_BYTES = 4_096
KEY_FORM_BYTES = 65_536
"""Maximum size of a form of a virtual key. Lists of models have up to 100 patterns."""


class PageModule(NamedTuple):
    name: str
    """`module:name` below this package: a `Page`, a `Form`, or a function of the site and a request."""
    form_bytes: int = 0
    """Maximum size of a form that browsers send to the path. 0: the path accepts no form."""


PAGES: Mapping[str, PageModule] = {
    "/dashboard": PageModule("overview:PAGE"),
    "/dashboard/requests": PageModule("requests:PAGE"),
    "/dashboard/requests/{id}": PageModule("request:PAGE"),
    "/dashboard/sessions": PageModule("sessions:PAGE"),
    "/dashboard/session": PageModule("session:PAGE"),
    "/dashboard/costs": PageModule("costs:PAGE"),
    "/dashboard/models": PageModule("models:PAGE"),
    "/dashboard/providers": PageModule("providers:PAGE"),
    "/dashboard/activity": PageModule("activity:PAGE"),
    "/dashboard/settings": PageModule("settings:PAGE"),
}
KEY_PATHS: Mapping[str, PageModule] = {
    "/dashboard/keys": PageModule("keys:PAGE"),
    "/dashboard/keys/audit": PageModule("keys:AUDIT_PAGE"),
    "/dashboard/keys/edit": PageModule("key_form:FORM", KEY_FORM_BYTES),
    "/dashboard/keys/{id}": PageModule("keys:KEY_PAGE"),
}
_DEVICE_PATHS: Mapping[str, PageModule] = {"/device": PageModule("device:show_device", FORM_BYTES)}
_OTHER_PATHS: Mapping[str, PageModule] = {
    "/dashboard/": PageModule("targets:redirect_home"),
    "/dashboard/requests/{id}/images/{number}": PageModule("request:send_image"),
    "/dashboard/live": PageModule("targets:stream_events"),
    "/dashboard/palette": PageModule("palette:send_entries"),
    "/dashboard/static/{name}": PageModule("targets:send_asset"),
    "/dashboard/sign-in": PageModule("sign_in:sign_in", FORM_BYTES),
    "/dashboard/sign-out": PageModule("sign_in:sign_out", FORM_BYTES),
    "/dashboard/oidc/start": PageModule("oidc:start_oidc"),
    "/dashboard/oidc/callback": PageModule("callback:finish_oidc"),
    "/dashboard/session/model": PageModule("session_model:FORM", FORM_BYTES),
    "/dashboard/settings/edit": PageModule("settings:FORM", FORM_BYTES),
    "/dashboard/providers/doctor": PageModule("providers:FORM", FORM_BYTES),
    "/dashboard/{rest*}": PageModule("targets:report_missing"),
}


def open_plugin(settings: Settings) -> Plugin:
    dashboard = _Dashboard()
    paths = {**PAGES, **(KEY_PATHS if settings.virtual_keys else {}), **_OTHER_PATHS}
    paths |= _DEVICE_PATHS if settings.virtual_keys and is_installed("authlib") else {}
    return Plugin(
        routes=[route for path, page in paths.items() for route in dashboard.build_routes(path, page)],
        start=dashboard.start,
        stop=dashboard.stop,
    )


class _Dashboard:
    """The site of this process, which is loaded with the first request."""

    def __init__(self) -> None:
        self._gateway: Gateway[Settings] | None = None
        self._site: Site | None = None

    async def start(self, gateway: Gateway[Settings]) -> None:
        self._gateway = gateway

    async def stop(self) -> None:
        if self._site is not None:
            await self._site.stop()

    def build_routes(self, path: str, page: PageModule) -> Iterator[Route]:
        async def respond(request: RouteRequest) -> RouteResponse:
            if self._site is None:
                module = await asyncio.to_thread(import_module, "anthropic_proxy.console.dashboard.site")
                assert self._gateway is not None
                if self._site is None:  # two first requests may have waited for the module
                    self._site = module.Site(self._gateway)
            return await self._site.respond(page.name, request)

        yield Route(path=path, respond=respond, checks_key=True)
        if page.form_bytes:
            bytes_ = page.form_bytes
            yield Route(path=path, respond=respond, methods=["POST"], max_body_bytes=bytes_, checks_key=True)
