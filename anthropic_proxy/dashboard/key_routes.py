"""Routes of the forms in which a user changes virtual keys and teams, at `/dashboard/keys/edit`.

`KeyFormRoutes` has the routes. A GET request returns a form. A POST request returns a preview of the change, or makes
the change if the user has confirmed it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from anthropic_proxy.dashboard.forms import read_own_form, require_token
from anthropic_proxy.dashboard.responses import form_route, page_route, redirect
from anthropic_proxy.errors import PermissionDenied
from anthropic_proxy.plugins import Gateway, Route, RouteRequest, RouteResponse

if TYPE_CHECKING:
    from anthropic_proxy.dashboard.browser_sessions import Session
    from anthropic_proxy.dashboard.key_forms import KeyForm
    from anthropic_proxy.dashboard.pages import Pages

EDIT_PATH = "/dashboard/keys/edit"
"""URL path of the forms that change virtual keys and teams."""
MAX_KEY_FORM_BYTES = 65_536
"""Maximum size in bytes of a form of a key. Lists of models have up to 100 patterns."""

Open = Callable[[RouteRequest], Awaitable["tuple[Session | None, Pages, Gateway]"]]


class KeyFormRoutes:
    """Routes of the forms in which a user changes virtual keys and teams.

    The function `open_pages` is called for each request. It returns the session of the browser, the pages, and the
    running proxy.
    """

    def __init__(self, open_pages: Open) -> None:
        self._open_pages = open_pages

    def routes(self) -> Sequence[Route]:
        """Return the routes with their handlers, for the field `routes` of the plugin."""
        return [page_route(EDIT_PATH, self._show), form_route(EDIT_PATH, self._submit, MAX_KEY_FORM_BYTES)]

    async def _show(self, request: RouteRequest) -> RouteResponse:
        """Return the page with the form of the action that the URL names."""
        session, pages, gateway = await self._open_pages(request)
        if session is None and not request.client.name:
            return redirect("/dashboard/sign-in?next=/dashboard/keys")
        self._require_permission(request, session, gateway)
        action, target = (request.query.get(name, [""])[-1] for name in ("action", "target"))
        form = await asyncio.to_thread(_run, gateway, {"action": action, "target": target}, "", is_sent=False)
        return await self._send(pages, request, session, form)

    async def _submit(self, request: RouteRequest) -> RouteResponse:
        """Return the page with the preview of the change in the sent form, or with the result of the change.

        The change is made if the user has confirmed the preview.
        """
        sent = read_own_form(request)
        session, pages, gateway = await self._open_pages(request)
        self._require_permission(request, session, gateway)
        require_token(request, session, sent.get("token", ""))
        name = session.client_name if session is not None else request.client.name
        form = await asyncio.to_thread(_run, gateway, sent, f"dashboard ({name})", is_sent=True)
        return await self._send(pages, request, session, form)

    def _require_permission(self, request: RouteRequest, session: "Session | None", gateway: Gateway) -> None:
        from anthropic_proxy.dashboard.key_permission import explain_key_refusal  # noqa: PLC0415

        if reason := explain_key_refusal(request, session, gateway.settings):
            raise PermissionDenied(reason)

    async def _send(
        self, pages: "Pages", request: RouteRequest, session: "Session | None", form: "KeyForm | str"
    ) -> RouteResponse:
        from anthropic_proxy.dashboard.key_forms import OVERLAPS  # noqa: PLC0415
        from anthropic_proxy.dashboard.renderer import render_message  # noqa: PLC0415

        if isinstance(form, str):
            return await asyncio.to_thread(render_message, request, form, status=503)
        values = {
            "form": form,
            "problem": form.problem,
            "address": f"{request.scheme}://{request.headers.get('host', '')}",
            "title": form.title,
            "overlaps": OVERLAPS,
        }
        return await pages.respond_form(request, session, "/dashboard/keys", "key_form.html", values)


def _run(gateway: Gateway, sent: Mapping[str, str], actor: str, *, is_sent: bool) -> "KeyForm | str":
    """Return the form for `sent`, its fields, after the database was opened. Runs in a thread.

    A sentence is returned instead if the database is not available. `actor`: author of the change for the audit log.
    `is_sent`: False: the form is only loaded.
    """
    from anthropic_proxy.access.administration import open_administration  # noqa: PLC0415  # only with virtual keys
    from anthropic_proxy.dashboard.key_forms import load_form, submit_form  # noqa: PLC0415
    from anthropic_proxy.ledger.database import describe_database_location, find_database_url  # noqa: PLC0415
    from anthropic_proxy.ledger.failures import DATABASE_ERRORS, classify_database_error, describe_database_failure  # noqa: PLC0415

    settings = gateway.settings
    try:
        with open_administration(settings, actor) as administration:
            if is_sent:
                return submit_form(administration, settings, sent)
            return load_form(administration, settings, sent["action"], sent["target"])
    except DATABASE_ERRORS as error:
        reason = describe_database_failure(
            classify_database_error(error), describe_database_location(find_database_url(settings)), error
        )
        return f"Nothing was changed. {reason}"
