"""The dashboard in one process: who sent a request, and what is answered.

`plugin` loads this module with the first request below `/dashboard`, in a thread. A page, or a file with one of its
tables, is built in a thread, so that its queries do not block the event loop. A page that adds up many requests is sent
in two parts: its head, and when the result is known, the content.
"""

import asyncio
import gzip
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack, aclosing, suppress
from functools import partial
from html import escape
from importlib import import_module
from math import ceil
from typing import Any
from urllib.parse import quote, urlencode

from msgspec import Struct, structs
from sqlalchemy import exc

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.browser_sessions import SIGN_IN_PATH
from anthropic_proxy.console.dashboard.forms import Form, OpenedForm
from anthropic_proxy.console.dashboard.page import Page, PageContext, PageTable, ResultT, StateLine, WaitFor
from anthropic_proxy.console.dashboard.permissions import (
    KEYS_ENTRY,
    Session,
    explain_denial,
    find_client_id,
    find_client_of_label,
    find_rights,
    find_role,
    name_user,
)
from anthropic_proxy.console.dashboard.query import list_ranges, read_view_query
from anthropic_proxy.console.dashboard.services import DashboardServices, name_reader
from anthropic_proxy.console.dashboard.tables import list_filters, name_providers
from anthropic_proxy.console.dashboard.web import (
    MAX_TARGET_CHARACTERS,
    SECURITY_HEADERS,
    accepts_gzip,
    compress_response,
    find_asset,
    read_own_form,
    redirect,
    render_error,
    render_page,
    require_token,
    send_public_page,
)
from anthropic_proxy.console.ledger.engines import EngineReader
from anthropic_proxy.console.ledger.export import FORMATS
from anthropic_proxy.console.ledger.queries import LedgerExtent, read_ledger_extent
from anthropic_proxy.console.ledger.read_access import MAX_SEARCHED_REQUESTS, describe_read_failure, limit_search_range
from anthropic_proxy.console.units import MICROSECONDS, MICROSECONDS_PER_HOUR
from anthropic_proxy.engine.exchange.client_side import STREAM_HEADERS
from anthropic_proxy.engine.patterns import compile_anchored
from anthropic_proxy.errors import ClientError, InvalidRequest, PermissionDenied, ProxyBusy, ProxyError, UnknownModel
from anthropic_proxy.gateway.permissions import find_permission, may, require_page
from anthropic_proxy.gateway.server.path_prefix import add_prefix_to_links
from anthropic_proxy.plugins import LedgerState, Receipt, RouteRequest, RouteResponse, Setup

STALE_SECONDS = 10.0
"""Time in seconds that requests may wait for the ledger before a page mentions the wait. Usually they wait half a
second."""
_STORE_SECONDS = 10.0
PATIENCE_SECONDS = 0.3
"""Time in seconds after which the browser receives the head of a page before its content."""
MIN_REQUESTS = 10_000
"""Minimum number of stored requests for the sentence "Adding up …". A wait with fewer requests has another cause, such
as a busy thread."""
_POLL_SECONDS = 0.1
CONTENT_MARK = b"<!-- content -->"
_GZIP_WINDOW = 31
"""Argument `wbits` of zlib that selects the gzip format."""
_YEAR_SECONDS = 31_536_000
_SESSION_CHECK_SECONDS = 1.0
"""Minimum time in seconds between two checks whether the session of an open stream has ended."""


class Progress(Struct):
    """Number of requests that a page adds up. The thread that builds the page sets it, and the event loop reads it."""

    requests: int = -1
    """Number of stored requests that the page adds up. -1: not yet known."""


def describe_ledger(ledger: LedgerState | None, facts: LedgerExtent | None, now: float) -> list[StateLine]:
    """`ledger` is None if the ledger is disabled. `facts` has the time of the latest stored request; None: the ledger
    cannot be read.
    """
    if ledger is None:
        return []
    lines = []
    since = ledger.waiting_since
    age = " Requests are still served."
    if ledger.queued_rows:
        waiting = formats.plural(ledger.queued_rows, "request")
        age += f" {waiting} {'waits' if ledger.queued_rows == 1 else 'wait'} to be stored."
    if facts is not None and facts.last_at is not None:
        age += f" Last row {formats.ago(now - facts.last_at / MICROSECONDS)}."
    if ledger.problem:
        lines.append(StateLine("✕", "error", ledger.problem + age))
    elif since is not None and now - since > STALE_SECONDS:
        time_of_day = formats.clock_time(since * MICROSECONDS)
        text = f"Stale: no request has been stored since {time_of_day}, because the database does not answer.{age}"
        lines.append(StateLine("!", "warn", text))
    if ledger.clock_problem:
        lines.append(StateLine("!", "warn", ledger.clock_problem))
    if ledger.dropped_rows:
        lost = formats.plural(ledger.dropped_rows, "request")
        verb = "is" if ledger.dropped_rows == 1 else "are"
        lines.append(StateLine("!", "warn", f"{lost} {verb} missing here, because the ledger could not store them."))
    return lines


def describe_extent(facts: LedgerExtent | None) -> str:
    """Return the line about the stored requests. `facts` is None if the ledger cannot be read."""
    if facts is None:
        return "Ledger: not available"
    if facts.first_hour is None:
        return "Ledger: empty"
    since = formats.local_day(facts.first_hour * MICROSECONDS_PER_HOUR)
    return f"Ledger: {formats.plural(facts.requests, 'request')} since {since}"


async def respond_with_early_flush(
    request: RouteRequest, page: Awaitable[RouteResponse], render_head: Callable[[], RouteResponse], progress: Progress
) -> RouteResponse:
    """Return the response of `page`. If it is slow and adds up many requests, its head is sent before its content."""
    task = asyncio.ensure_future(page)
    done, _ = await asyncio.wait((task,), timeout=PATIENCE_SECONDS)
    while not done and progress.requests < 0:
        done, _ = await asyncio.wait((task,), timeout=_POLL_SECONDS)
    if done or progress.requests < MIN_REQUESTS:
        return await task
    head = await asyncio.to_thread(render_head)
    fields = {name: value for name, value in head.headers.items() if name not in ("content-encoding", "vary")}
    fields["vary"] = "accept-encoding, cookie"
    if is_compressed := accepts_gzip(request):
        fields["content-encoding"] = "gzip"

    async def send_parts() -> AsyncIterator[bytes]:
        text = f'<p class="adding-up" role="status">Adding up {progress.requests:,} requests …</p>\n'
        yield _read_body(request, head).partition(CONTENT_MARK)[0] + text.encode()
        try:
            response = await task
        except Exception as error:
            text = escape(f"The page cannot be shown: {type(error).__name__}. The log has the reason.")
            yield f'<h1>Error</h1><p class="verdict">{text}</p></main></body></html>'.encode()
            raise
        yield _read_body(request, response).partition(CONTENT_MARK)[2]

    async def compress_parts() -> AsyncIterator[bytes]:
        encoder = zlib.compressobj(wbits=_GZIP_WINDOW)
        async for part in send_parts():
            yield encoder.compress(part) + encoder.flush(zlib.Z_SYNC_FLUSH)
        yield encoder.flush()

    return RouteResponse(headers=fields, body=compress_parts() if is_compressed else send_parts())


def _read_body(request: RouteRequest, response: RouteResponse) -> bytes:
    """Return the uncompressed body. Its links get the path of `DASHBOARD_URL` here, because the server does not change
    a stream; `compress_response` has added it to a compressed body.
    """
    assert isinstance(response.body, bytes)
    if "content-encoding" in response.headers:
        return gzip.decompress(response.body)
    return add_prefix_to_links(response.headers, response.body, request.path_prefix)


class Site(DashboardServices):
    """Answers the requests of browsers, by the targets of `plugin`."""

    async def respond(self, name: str, request: RouteRequest) -> RouteResponse:
        """`name`: that of a `Target`. An error of the client, or a busy proxy, becomes a page."""
        target = await asyncio.to_thread(load_target, name)
        try:
            if isinstance(target, Page):
                session = await self.find_session(request)
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
            response: RouteResponse = await target(self, request)
        except (ClientError, ProxyBusy) as error:
            section = target.section if isinstance(target, Page | Form) else ""
            return await self._respond_error(request, error, section)
        return response

    async def _respond_page(self, page: Page, request: RouteRequest, session: Session | None) -> RouteResponse:
        """The parameter `format` of the URL selects a file with one table of the page. Raises `PermissionDenied`."""
        require_page(find_role(request, session), request.path, page.section)
        running = await self.gateway.collect_running_requests()
        loop = asyncio.get_running_loop()

        def wait_for(call: Coroutine[None, None, ResultT], /) -> ResultT:
            return asyncio.run_coroutine_threadsafe(call, loop).result(_STORE_SECONDS)

        progress = Progress()
        render = partial(self._render, page, request, session, running, wait=wait_for, progress=progress)
        response = self.threads.run(name_reader(request, session), render)
        if "format" in request.query or page.missing or not page.adds_up:
            return await response

        def render_head() -> RouteResponse:
            frame = self.build_frame(page.section, request, session)
            if session is None or may(session.role, "read all requests"):
                frame["running"] = running
            return render_page(request, "adding_up.html", frame)

        return await respond_with_early_flush(request, response, render_head, progress)

    async def _respond_form(self, form: Form, request: RouteRequest) -> RouteResponse:
        sent = read_own_form(request) if request.method == "POST" else None
        session = await self.find_session(request)
        if sent is None and session is None and not request.client.name:
            return redirect(f"{SIGN_IN_PATH}?next={form.page_path}")
        permission = find_permission(request.method, request.path)
        if reason := explain_denial(permission, request, session, self.gateway.settings):
            raise PermissionDenied(reason, code="dashboard-role")
        if sent is not None:
            require_token(request, session, self.gateway.settings, sent.get("token", ""))
        return await form.respond(OpenedForm(self, form, request, session), sent)

    async def _respond_error(self, request: RouteRequest, error: ProxyError, section: str) -> RouteResponse:
        """The page has the navigation, unless the user is not signed in."""
        session: Session | None = None
        headers = {} if error.retry_after is None else {"retry-after": str(ceil(error.retry_after))}
        with suppress(ProxyBusy):  # the store with the sessions is not available, which may be the error itself
            session = await self.find_session(request)
        if session is None and not request.client.name:
            values = {"message": error.message}
            return await send_public_page(
                request, "error.html", "Dashboard", values, status=error.status, headers=headers
            )
        is_off = error.code == "virtual-keys-off"
        frame = self.build_frame("Keys" if is_off else section, request, session)
        frame["setting"] = "VIRTUAL_KEYS=true" if is_off else ""
        return await asyncio.to_thread(render_error, request, frame, error.status, error.message, headers)

    def _render(
        self,
        page: Page,
        request: RouteRequest,
        session: Session | None,
        running: Sequence[Receipt],
        *,
        wait: WaitFor,
        progress: Progress,
    ) -> RouteResponse:
        frame = self.build_frame(page.section, request, session)
        try:
            query = read_view_query(request.path, request.query, self.clock())
            ledger = self.ledger.open(self.gateway.settings)
            setup = wait(self.gateway.check_setup()) if page.checks_servers else self.gateway.describe_setup()
            rights = find_rights(request, session, self.gateway.settings)
            client = find_client_id(request, session)
            with ExitStack() as opened:
                opened.enter_context(ledger.connection)
                keys = None
                if page.section == KEYS_ENTRY.section:  # a restricted connection has no keys of others
                    keys = EngineReader(opened.enter_context(self.ledger.open(self.gateway.settings).connection))
                    rights = rights.resolve(keys)
                access = self.restrict(ledger.connection, request, session)
                facts = ledger.facts
                if access.labels is not None:  # of the setup, a member gets the mapping
                    running = [receipt for receipt in running if receipt.client.name in access.labels]
                    setup, facts = Setup(mapping=setup.mapping), read_ledger_extent(ledger.connection)
                whole = PageContext(
                    query=query,
                    connection=ledger.connection,
                    facts=facts,
                    now=self.clock(),
                    running=running,
                    can_read=ledger.problem is None,
                    log_condition=self.gateway.log_warning_each_time,
                    setup=setup,
                    server_id=self.gateway.describe_server().id,
                    settings=self.gateway.settings,
                    catalog=self.gateway.catalog,
                    describe_models=lambda names, label: wait(
                        self.gateway.describe_models(names, find_client_of_label(ledger.connection, label) or client)
                    ),
                    find_doctor_run=lambda: wait(self.doctor.current()),
                    store=self.gateway.store,
                    wait_for=wait,
                    path_parameters=dict(request.path_parameters),
                    rights=rights,
                    keys=keys,
                    open_texts=self.build_open_texts(access, request, session),
                )
                progress.requests = facts.requests
                known = facts if ledger.problem is None else None
                lines = describe_ledger(self.gateway.ledger_state, known, self.clock())
                lines += [] if ledger.problem is None else [ledger.problem]
                frame |= {
                    "query": query,
                    "tables": list(page.tables),
                    "ranges": list_ranges(facts.first_hour, whole.now),
                    "filters": list_filters(query, name_providers(self.gateway.settings)),
                    "running": running,
                    "state": lines,
                    "ledger_text": describe_extent(known),
                    "can_read": whole.can_read,
                }
                context = limit_range(whole, lines) if page.searches_requests else whole
                values = None
                if "format" not in request.query:
                    values = page.build(context)
                elif (file := export_table(context, page.tables, request.query)) is not None:
                    return compress_response(request, file)
        except ClientError as error:
            return render_error(request, frame, error.status, error.message)
        except exc.SQLAlchemyError as error:
            return render_error(request, frame, *structs.astuple(describe_read_failure(error)))
        if values is None:
            problem = ledger.problem
            return render_error(request, frame, *((404, page.missing) if problem is None else (503, problem.text)))
        if values.get("is_empty"):
            frame["tables"] = [name for name, table in page.tables.items() if not table.reads_ledger]
        return render_page(request, page.template, {**frame, **values})


def export_table(
    context: PageContext, tables: Mapping[str, PageTable], query: Mapping[str, Sequence[str]]
) -> RouteResponse | None:
    """`query` selects one of `tables` (the first by default) and the format. Raises `InvalidRequest` for an unknown
    one.

    None: the ledger cannot be read, but the table needs it.
    """
    name, form = query.get("table", [""])[-1], query["format"][-1]
    if form not in FORMATS:
        raise InvalidRequest(f"format: {form[:20]!r} is not allowed; use csv or json.", code="dashboard-parameter")
    chosen = name or next(iter(tables))
    if chosen not in tables:
        allowed = ", ".join(tables)
        raise InvalidRequest(f"table: {name[:20]!r} is not allowed; use {allowed}.", code="dashboard-parameter")
    if not context.can_read and tables[chosen].reads_ledger:
        return None
    return tables[chosen].tabulate(context).build_download(chosen, form)


_POSITION = compile_anchored(r"([0-9]{1,18})\..*")
"""Matches a position in a list in order of time: microseconds since the epoch, a dot, and a request id."""


def limit_range(context: PageContext, lines: list[StateLine], maximum: int = MAX_SEARCHED_REQUESTS) -> PageContext:
    """Shorten the range if a search would read more than `maximum` requests, and add a line about it to `lines`."""
    whole = context.selection
    positions = [_POSITION.fullmatch(text) for text in (context.query.before, context.query.after)]
    before, after = (None if position is None else int(position[1]) for position in positions)
    if context.query.order:  # all parts of a sorted list are of the same requests
        before = after = None
    chosen = limit_search_range(context.connection, whole, before, after, maximum)
    if chosen is whole:
        return context
    first = formats.day_and_time(chosen.start)
    text = (
        f"The search covers {maximum:,} requests, from {first} on. For older ones, choose “Older →” below the list, "
        "or an earlier range."
    )
    lines.append(StateLine("!", "warn", text))
    return structs.replace(context, searched=(chosen.start, chosen.end))


def load_target(name: str) -> Any:
    """Return a `Page`, a `Form`, or a function of the site and a request."""
    module, _, member = name.partition(":")
    return getattr(import_module(f"anthropic_proxy.console.dashboard.{module}"), member)


async def report_missing(site: Site, request: RouteRequest) -> RouteResponse:
    if not site.gateway.settings.virtual_keys and request.path.startswith("/dashboard/keys"):
        raise UnknownModel(
            "Virtual keys are off. With VIRTUAL_KEYS=true, each client has a key of its own, with limits, budgets "
            f"and costs. Set it in .env and {site.gateway.settings.start_again}.",
            code="virtual-keys-off",
        )
    raise UnknownModel(f"The dashboard has no page {request.path[:200]!r}.", code="dashboard-path")


async def redirect_home(site: Site, request: RouteRequest) -> RouteResponse:
    return redirect("/dashboard")


async def stream_events(site: Site, request: RouteRequest) -> RouteResponse:
    session = await site.find_session(request)
    if not request.client.name and session is None:
        raise PermissionDenied("Sign in at /dashboard to receive live rows.", code="dashboard-form")
    names = None
    if session is not None and not may(session.role, "read all requests"):
        names = await site.list_readable_key_labels(request, session)
    reader = name_user(request, session)
    events = site.gateway.stream_request_events(names, client=reader)

    async def end_with_session() -> AsyncIterator[bytes]:
        checked_at = time.monotonic()
        async with aclosing(events):
            async for event in events:
                if time.monotonic() >= checked_at + _SESSION_CHECK_SECONDS:
                    try:
                        current = await site.find_session(request)
                    except ProxyBusy:
                        current = None
                    if current is None:
                        return
                    checked_at = time.monotonic()
                yield event

    return RouteResponse(headers=STREAM_HEADERS, body=events if session is None else end_with_session())


async def send_asset(site: Site, request: RouteRequest) -> RouteResponse:
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
