"""`Form`: what a module of a form declares, and `OpenedForm`: what it gets."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from msgspec import Struct

from anthropic_proxy.console.dashboard.frames import FormFrame
from anthropic_proxy.console.dashboard.permissions import Session
from anthropic_proxy.console.dashboard.services import DashboardServices
from anthropic_proxy.console.dashboard.web import find_or_create_form_token, render_page
from anthropic_proxy.plugins import RouteRequest, RouteResponse


class Form(Struct, frozen=True, kw_only=True):
    section: str
    page_path: str
    """Page to which the user returns."""
    respond: "Callable[[OpenedForm, Mapping[str, str] | None], Awaitable[RouteResponse]]"
    """Gets the fields that this browser has sent. None: the form is only opened."""


class OpenedForm(NamedTuple):
    """A form that this user may see and send."""

    services: DashboardServices
    form: Form
    request: RouteRequest
    session: Session | None
    """None: no sign-in is required."""

    async def show(self, template: str, values: Mapping[str, Any]) -> RouteResponse:
        """A text in `problem` of the values makes the HTTP status 400."""
        services = self.services
        token, cookie = find_or_create_form_token(self.request, self.session, services.gateway.settings)
        frame: FormFrame = {
            **services.build_frame(self.form.section, self.request, self.session),
            "live": False,
            "edit_token": token,
        }
        headers = {"set-cookie": cookie} if cookie else {}
        status = 400 if values["problem"] else 200
        return await asyncio.to_thread(
            render_page, self.request, template, frame, values, status=status, headers=headers
        )
