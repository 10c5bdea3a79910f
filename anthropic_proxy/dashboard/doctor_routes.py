"""Route `/dashboard/providers/doctor`: the form that runs the doctor, the test of the configured providers.

`DoctorRoutes` has the route. GET shows the expected cost with a form that starts the run, or a form that stops the run
in progress. POST starts or stops it. The page Providers shows progress and results.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anthropic_proxy.dashboard.forms import is_from_own_page, read_own_form, require_token
from anthropic_proxy.dashboard.responses import form_route, page_route, redirect
from anthropic_proxy.errors import InvalidRequest, PermissionDenied
from anthropic_proxy.plugins import Gateway, Route, RouteRequest, RouteResponse

if TYPE_CHECKING:
    from anthropic_proxy.dashboard.browser_sessions import Session
    from anthropic_proxy.dashboard.doctor_processes import DoctorProcesses
    from anthropic_proxy.dashboard.pages import Pages

DOCTOR_PATH = "/dashboard/providers/doctor"
"""URL path of the form that runs the doctor."""
_PROVIDERS_PATH = "/dashboard/providers"

Open = Callable[[RouteRequest], Awaitable["tuple[Session | None, Pages, Gateway]"]]


class DoctorRoutes:
    """Route of the form that runs the doctor.

    `open_pages`: function that returns the session of a browser, the pages, and the running proxy.
    """

    def __init__(self, open_pages: Open) -> None:
        self._open_pages = open_pages
        self._processes: DoctorProcesses | None = None

    def routes(self) -> Sequence[Route]:
        """Return the routes with their handlers, for the field `routes` of the plugin."""
        return [page_route(DOCTOR_PATH, self._show), form_route(DOCTOR_PATH, self._submit)]

    async def stop(self) -> None:
        """Stop the run that this process has started. Called at shutdown."""
        if self._processes is not None:
            await self._processes.stop()

    async def _show(self, request: RouteRequest) -> RouteResponse:
        """Return the page with the expected cost of a run, or with the run in progress."""
        session, pages, gateway = await self._open_pages(request)
        if session is None and not request.client.name:
            return redirect(f"/dashboard/sign-in?next={_PROVIDERS_PATH}")
        directory = _require_directory(request, session, gateway)
        if not is_from_own_page(request):
            return redirect(_PROVIDERS_PATH)  # another site must not make this process compute an estimate
        values = await self._load(gateway, directory)
        return await pages.respond_form(request, session, _PROVIDERS_PATH, "doctor.html", values)

    async def _submit(self, request: RouteRequest) -> RouteResponse:
        """Start or stop a run, and return a redirect to the page Providers."""
        sent = read_own_form(request)
        session, pages, gateway = await self._open_pages(request)
        directory = _require_directory(request, session, gateway)
        require_token(request, session, sent.get("token", ""))
        try:
            if sent.get("action") == "stop":
                await asyncio.to_thread(_stop, directory)
            else:
                processes = await self._open_processes(gateway)
                await processes.start(directory, _decode_time(sent.get("latest", "")))
        except InvalidRequest as error:
            values = {**_EMPTY, "problem": error.message}
            return await pages.respond_form(request, session, _PROVIDERS_PATH, "doctor.html", values)
        return redirect(f"{_PROVIDERS_PATH}#doctor")

    async def _load(self, gateway: Gateway, directory: Path) -> Mapping[str, Any]:
        from anthropic_proxy import doctor_run  # noqa: PLC0415

        if await asyncio.to_thread(doctor_run.is_running, directory):
            return {**_EMPTY, "is_running": True}
        latest = await asyncio.to_thread(doctor_run.find_latest_start, directory)
        try:
            estimate = await (await self._open_processes(gateway)).estimate()
        except InvalidRequest as error:
            return {**_EMPTY, "problem": error.message}
        return {**_EMPTY, "estimate": estimate, "latest": repr(latest)}

    async def _open_processes(self, gateway: Gateway) -> "DoctorProcesses":
        """Return the processes of this dashboard. The first call loads the module in a thread."""
        new_processes = await asyncio.to_thread(_load_processes)
        if self._processes is None:
            self._processes = new_processes(gateway)
        return self._processes


_EMPTY: Mapping[str, Any] = {"is_running": False, "estimate": None, "latest": "", "problem": ""}
"""Values of the template if there is nothing to show."""


def _load_processes() -> "type[DoctorProcesses]":
    from anthropic_proxy.dashboard.doctor_processes import DoctorProcesses  # noqa: PLC0415

    return DoctorProcesses


def _require_directory(request: RouteRequest, session: "Session | None", gateway: Gateway) -> Path:
    """Return the data directory. Raises `PermissionDenied` if the user may not run the doctor."""
    from anthropic_proxy.dashboard.doctor_permission import explain_doctor_refusal  # noqa: PLC0415

    if reason := explain_doctor_refusal(request, session, gateway.settings):
        raise PermissionDenied(reason)
    assert gateway.settings.data_directory is not None
    return gateway.settings.data_directory


def _stop(directory: Path) -> None:
    """Ask the run in progress to stop. Raises `InvalidRequest` if the request cannot be stored."""
    from anthropic_proxy import doctor_run  # noqa: PLC0415
    from anthropic_proxy.platforms.os_errors import describe_os_error  # noqa: PLC0415

    if not doctor_run.is_running(directory):
        return
    try:
        doctor_run.request_stop(directory)
    except OSError as error:
        raise InvalidRequest(f"The doctor cannot be stopped: {describe_os_error(error)}.") from None


def _decode_time(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0  # no run has this start, so the form is rejected as outdated
