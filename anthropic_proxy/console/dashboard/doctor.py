"""Form that runs the doctor, the test of the configured providers.

It shows the expected cost of a run and starts it, or stops the run in progress. The page Providers shows progress and
results.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from anthropic_proxy.console.dashboard.page import Form, OpenedForm
from anthropic_proxy.console.dashboard.web import is_from_own_page, redirect
from anthropic_proxy.console.doctor.runs import find_directory
from anthropic_proxy.console.doctor.stored_runs import find_latest_start
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.problems import describe_demo
from anthropic_proxy.plugins import RouteResponse

PROVIDERS_PATH = "/dashboard/providers"
_EMPTY: Mapping[str, Any] = {"is_running": False, "estimate": None, "latest": "", "demo": "", "problem": ""}


async def _show(form: OpenedForm) -> RouteResponse:
    if not is_from_own_page(form.request):
        return redirect(PROVIDERS_PATH)  # another site must not make this process ask a local server for its models
    settings, runs = form.site.gateway.settings, form.site.doctor
    if await runs.current() is not None:
        return await form.respond("doctor.html", {**_EMPTY, "is_running": True})
    latest = await asyncio.to_thread(find_latest_start, find_directory(settings))
    values = {"estimate": await runs.estimate(), "latest": repr(latest), "demo": describe_demo(settings)}
    return await form.respond("doctor.html", {**_EMPTY, **values})


async def _submit(form: OpenedForm, sent: Mapping[str, str]) -> RouteResponse:
    try:
        latest = float(sent.get("latest", ""))
    except ValueError:
        latest = -1.0  # no run has this start, so the form is rejected as outdated
    try:
        if sent.get("action") == "stop":
            await form.site.doctor.stop()
        else:
            await form.site.doctor.start(latest)
    except InvalidRequest as error:
        return await form.respond("doctor.html", {**_EMPTY, "problem": error.message})
    return redirect(f"{PROVIDERS_PATH}#doctor")


FORM = Form(section="Providers", page_path=PROVIDERS_PATH, show=_show, submit=_submit)
