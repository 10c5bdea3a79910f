"""Entries of the palette, in which the keyboard finds pages, sessions and settings by parts of their names."""

import time
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from sqlalchemy import Connection

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.permissions import find_role, list_navigation_entries, may_open
from anthropic_proxy.console.dashboard.query import session_link
from anthropic_proxy.console.dashboard.sessions import find_names
from anthropic_proxy.console.dashboard.sign_in import find_session
from anthropic_proxy.console.dashboard.web import SECURITY_HEADERS
from anthropic_proxy.console.ledger.periods import RequestSelection
from anthropic_proxy.console.ledger.request_queries import list_sessions
from anthropic_proxy.console.ledger.units import DAY_SECONDS, MICROSECONDS
from anthropic_proxy.gateway.settings_listing import list_settings
from anthropic_proxy.plugins import RouteRequest, RouteResponse

if TYPE_CHECKING:
    from anthropic_proxy.console.dashboard.site import Site

MAX_SESSIONS = 30
SESSION_DAYS = 30


class Entry(Struct, frozen=True):
    kind: str
    text: str
    href: str
    note: str = ""


async def send_entries(site: "Site", request: RouteRequest) -> RouteResponse:
    session = await find_session(site, request)
    role, settings = find_role(request, session), site.gateway.settings

    def find(connection: Connection) -> list[Entry]:
        start = round((time.time() - SESSION_DAYS * DAY_SECONDS) * MICROSECONDS)
        rows = list_sessions(connection, RequestSelection(start=start), MAX_SESSIONS).rows
        names = find_names(connection, rows)
        return [
            Entry("Session", names[row.session], session_link(row.session), formats.day_and_time(row.started_at))
            for row in rows
        ]

    entries = [Entry("Page", one.section, one.path, f"g {one.key}") for one in list_navigation_entries(settings, role)]
    entries += await site.read("Sessions", request, find)
    if may_open(role, "Settings"):
        entries += [Entry("Setting", one.name, f"/dashboard/settings?q={one.name}") for one in list_settings(settings)]
    headers = {"content-type": "application/json", "cache-control": "no-store", **SECURITY_HEADERS}
    return RouteResponse(headers=headers, body=msgspec.json.encode({"entries": entries}))
