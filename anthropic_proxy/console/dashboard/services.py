"""`DashboardServices`: what pages, forms and the sign-in use: sessions, ledger, database, and the frame of a page."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from anthropic_proxy.console.dashboard.browser_sessions import SESSION_COOKIE, BrowserSessions
from anthropic_proxy.console.dashboard.frames import NavigationFrame
from anthropic_proxy.console.dashboard.ledger_connections import LedgerConnections
from anthropic_proxy.console.dashboard.page import OpenTexts, ResultT
from anthropic_proxy.console.dashboard.permissions import (
    Session,
    explain_denial,
    find_rights,
    find_role,
    list_navigation_entries,
    name_actor,
)
from anthropic_proxy.console.dashboard.web import find_address
from anthropic_proxy.console.doctor.runs import DoctorRuns
from anthropic_proxy.console.identity.cookies import find_cookie
from anthropic_proxy.console.identity.provider import IdentityProvider
from anthropic_proxy.console.keys.administration import open_administration
from anthropic_proxy.console.keys.ended_people import EndedPeople
from anthropic_proxy.console.keys.stored_keys import StoredKeys
from anthropic_proxy.console.ledger.database import (
    DATABASE_ERRORS,
    classify_database_error,
    describe_database_failure,
    find_database,
)
from anthropic_proxy.console.ledger.engines import EngineReader
from anthropic_proxy.console.ledger.read_access import ReadAccess, Senders, restrict_reading
from anthropic_proxy.console.ledger.reader_threads import ReaderThreads
from anthropic_proxy.console.ledger.records import StoredRequest
from anthropic_proxy.engine.bounded import BoundedDict
from anthropic_proxy.errors import PermissionDenied
from anthropic_proxy.gateway.permissions import may, require_page
from anthropic_proxy.gateway.server.auth import claude_code_command
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Client, Gateway, RouteRequest

if TYPE_CHECKING:
    from anthropic_proxy.console.identity.oidc_client import ProviderReply

SAME_LOOK_SECONDS = 600.0
"""Time for which a page with texts of others that is shown again is the same look."""
THEME_COOKIE = "anthropic_proxy_theme"
"""A script sets it. It only chooses colors, so another host may set it too."""
_MAX_KEPT_REPLIES = 1_000
_RELOAD_POLLS = 20
_RELOAD_POLL_SECONDS = 0.1


class DashboardServices:
    def __init__(self, gateway: Gateway[Settings], clock: Callable[[], float] = time.time) -> None:
        self.gateway = gateway
        self.people = EndedPeople(lambda: gateway.settings, clock)
        self.sessions = BrowserSessions(lambda: gateway.settings, lambda: gateway.store, clock, self.people)
        self.provider = IdentityProvider(gateway)
        self.doctor = DoctorRuns(gateway, self.reload_settings)
        self.threads = ReaderThreads()
        self.clock = clock
        self.kept_replies: BoundedDict[str, ProviderReply] = BoundedDict(_MAX_KEPT_REPLIES)
        """State of a sign-in at the identity provider → the answer about its user, which could not be stored."""
        self.stored_keys = StoredKeys()
        self.ledger = LedgerConnections(gateway.log_warning_once)
        self._looks: Mapping[tuple[str, ...], float] = {}
        """Recent looks at texts of others, as (author, object, keys) → time of the entry in the audit log."""

    async def stop(self) -> None:
        await self.doctor.close()
        await self.threads.stop()
        self.ledger.close()

    async def reload_settings(self) -> bool:
        """Read the settings files again, in all workers. Return False if the server reads them only at its start."""
        gateway = self.gateway
        before = gateway.settings
        is_reloaded = await gateway.reload_settings()
        for _ in range(_RELOAD_POLLS if is_reloaded else 0):  # other workers reload by a message
            if gateway.settings is not before:
                break
            await asyncio.sleep(_RELOAD_POLL_SECONDS)
        return is_reloaded

    async def find_session(self, request: RouteRequest) -> Session | None:
        """Session of the browser that sent `request`. None: the browser is not signed in, or no sign-in is required."""
        if request.client.name:
            return None
        return await self.sessions.find(SESSION_COOKIE.read(request, self.gateway.settings))

    async def use_database(
        self, request: RouteRequest, function: Callable[[Gateway[Settings]], ResultT], *, client: str = ""
    ) -> ResultT:
        """Call `function`, which opens the database itself, in a thread. `client`: whose calls are limited together.
        "": those of the sender of the request.
        """
        return await self.threads.run(client or request.client.payer, function, self.gateway)

    async def read(
        self, section: str, request: RouteRequest, function: Callable[[Connection, OpenTexts], ResultT]
    ) -> ResultT:
        """Call `function` in a thread with a connection to the ledger, which shows what the user may read. The database
        is empty if the ledger cannot be read. Raises `PermissionDenied`.
        """
        session = await self.find_session(request)
        if not request.client.name and session is None:
            raise PermissionDenied("Sign in at /dashboard.", code="dashboard-form")
        require_page(find_role(request, session), request.path, section)

        def call() -> ResultT:
            ledger = self.ledger.open(self.gateway.settings)
            with ledger.connection:
                access = self.restrict(ledger.connection, request, session)
                return function(ledger.connection, self.build_open_texts(access, request, session))

        return await self.threads.run(name_reader(request, session), call)

    def build_open_texts(self, access: ReadAccess, request: RouteRequest, session: Session | None) -> OpenTexts:
        """An open page that is shown again adds no further entry for some minutes."""
        role = find_role(request, session)
        settings = self.gateway.settings
        actor = name_actor(request, session)

        def open_texts(target: str, rows: Sequence[StoredRequest]) -> str:
            if not (others := access.find_others(rows)):
                return ""
            if not access.opens_others:
                if may(role, "read texts of others"):
                    return "Only its sender reads this text, because ADMINS_READ_CONTENT is false."
                return f"The role {role} reads only own texts."
            now = self.clock()
            look = (actor, target, *sorted({row.key_label for row in others}))
            if now >= self._looks.get(look, 0.0) + SAME_LOOK_SECONDS:
                try:
                    with open_administration(settings, actor, self.clock) as administration:
                        administration.record_look(target, others)
                except DATABASE_ERRORS as error:
                    place = find_database(settings).describe()
                    reason = describe_database_failure(classify_database_error(error), place, error)
                    return f"The text is not shown, because the audit log cannot record it. {reason}"
                recent = {seen: at for seen, at in self._looks.items() if now < at + SAME_LOOK_SECONDS}
                self._looks = recent | {look: now}
            access.opened |= {row.id for row in others}
            return ""

        return open_texts

    async def find_readable_senders(self, request: RouteRequest, session: Session) -> Senders | None:
        def find() -> Senders | None:
            with self.ledger.open(self.gateway.settings).connection as connection:
                return self.restrict(connection, request, session).rows

        return await self.threads.run(session.client_name, find)

    def restrict(self, connection: Connection, request: RouteRequest, session: Session | None) -> ReadAccess:
        """Limit a connection to what the user may read."""
        settings = self.gateway.settings
        rights = find_rights(request, session, settings).resolve(EngineReader(connection))
        return restrict_reading(connection, rights, settings)

    def build_frame(self, section: str, request: RouteRequest, session: Session | None) -> NavigationFrame:
        """No request is running, and the ledger is not yet read."""
        theme = find_cookie(request.headers.get("cookie", ""), THEME_COOKIE)
        role = find_role(request, session)
        return {
            "title": section or "Dashboard",
            "section": section,
            "pages": list_navigation_entries(self.gateway.settings, role),
            "user": session,
            "theme": theme if theme in ("light", "dark") else "",
            "running": (),
            "host": request.headers.get("host", ""),
            "client_command": claude_code_command(find_address(request, self.gateway.settings), self.gateway.settings),
            "ledger_text": "",
            "can_read": True,
            "stores_content": self.gateway.settings.ledger_content,
            "start_again": self.gateway.settings.start_again,
            "zone": time.strftime("%Z", time.localtime(self.clock())),
            "form_token": session.form_token if session else "",
            "key_refusal": explain_denial("manage own keys", request, session, self.gateway.settings),
            "model_refusal": explain_denial("open own pages", request, session, self.gateway.settings),
            "doctor_refusal": explain_denial("run the doctor", request, session, self.gateway.settings),
            "edit_refusal": explain_denial("change settings", request, session, self.gateway.settings),
            "live": True,
        }


def name_reader(request: RouteRequest, session: Session | None) -> str:
    if session is None:
        return request.client.payer
    return Client(name=session.client_name, person=session.person).payer
