"""Entries of the palette, in which the keyboard finds pages, views, sessions, projects, models, keys and settings by
parts of their names.
"""

import time
from urllib.parse import quote

import msgspec
from msgspec import Struct, structs
from sqlalchemy import Connection

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.conversation import escape_controls
from anthropic_proxy.console.dashboard.costs import NOUNS
from anthropic_proxy.console.dashboard.page import OpenTexts
from anthropic_proxy.console.dashboard.permissions import find_role, list_navigation_entries
from anthropic_proxy.console.dashboard.query import session_link
from anthropic_proxy.console.dashboard.services import DashboardServices
from anthropic_proxy.console.dashboard.web import SECURITY_HEADERS
from anthropic_proxy.console.ledger.periods import RequestSelection
from anthropic_proxy.console.ledger.queries import sum_usage
from anthropic_proxy.console.ledger.request_queries import list_sessions
from anthropic_proxy.console.session_names import find_names
from anthropic_proxy.console.units import DAY_SECONDS, MICROSECONDS
from anthropic_proxy.gateway.permissions import may_open
from anthropic_proxy.gateway.settings_listing import list_settings
from anthropic_proxy.plugins import RouteRequest, RouteResponse

MAX_SESSIONS = 30
MAX_VALUES = 20
"""Maximum number of projects, models and keys each, the most expensive first."""
SESSION_DAYS = 30


class PaletteEntry(Struct, frozen=True):
    kind: str
    text: str
    href: str
    note: str = ""


_VIEWS = (
    ("Failed requests", "/dashboard/requests?outcome=error"),
    ("Slowest requests", "/dashboard/requests?sort=-total"),
    ("Most expensive requests", "/dashboard/requests?sort=-cost"),
    *((f"Costs by {noun}", f"/dashboard/costs?by={name}") for name, noun in NOUNS.items()),
)
"""Title and URL of frequent views."""


async def send_entries(services: DashboardServices, request: RouteRequest) -> RouteResponse:
    session = await services.find_session(request)
    role = find_role(request, session)
    settings = services.gateway.settings

    def find(connection: Connection, _: OpenTexts) -> list[PaletteEntry]:
        start = round((time.time() - SESSION_DAYS * DAY_SECONDS) * MICROSECONDS)
        chosen = RequestSelection(start=start)
        used = structs.replace(chosen, has_model=True)
        rows = list_sessions(connection, chosen, MAX_SESSIONS).rows
        names = find_names(connection, rows)
        entries = []
        for row in rows:
            began = formats.day_and_time(row.started_at)
            entries.append(PaletteEntry("Session", names[row.session], session_link(row.session), began))
        for name in ("project", "model", "key"):
            for group in [group for group in sum_usage(connection, used, name) if group.name][:MAX_VALUES]:
                href = f"/dashboard/requests?range={SESSION_DAYS}d&{name}={quote(group.name, safe='')}"
                entries.append(
                    PaletteEntry(name.capitalize(), group.name, href, formats.plural(group.sums.requests, "request"))
                )
        return entries

    entries = [
        PaletteEntry("Page", page.section, page.path, f"g {page.key}")
        for page in list_navigation_entries(settings, role)
    ]
    entries += [PaletteEntry("View", title, href) for title, href in _VIEWS if may_open(role, href)]
    entries += await services.read("Sessions", request, find)
    if may_open(role, "/dashboard/settings"):
        entries += [
            PaletteEntry("Setting", setting.name, f"/dashboard/settings?q={setting.name}")
            for setting in list_settings(settings, services.gateway.catalog)
        ]
    entries = [structs.replace(entry, text=escape_controls(entry.text)) for entry in entries]
    headers = {"content-type": "application/json", "cache-control": "no-store", **SECURITY_HEADERS}
    return RouteResponse(headers=headers, body=msgspec.json.encode({"entries": entries}))
