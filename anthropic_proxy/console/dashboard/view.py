"""Builds the view of a page: what it reads, its frame and its content, or a file with one of its tables."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from msgspec import Struct, field, structs
from sqlalchemy import exc

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.early_flush import Progress
from anthropic_proxy.console.dashboard.frames import NavigationFrame, ViewFrame
from anthropic_proxy.console.dashboard.ledger_connections import OpenedLedger
from anthropic_proxy.console.dashboard.page import Page, PageContext, PageTable, StateLine, WaitFor
from anthropic_proxy.console.dashboard.permissions import (
    KEYS_SECTION,
    Session,
    find_client_id,
    find_client_of_label,
    find_rights,
)
from anthropic_proxy.console.dashboard.query import ViewQuery, list_ranges, read_view_query
from anthropic_proxy.console.dashboard.services import DashboardServices
from anthropic_proxy.console.dashboard.tables import list_filters, name_providers
from anthropic_proxy.console.dashboard.web import (
    compress_response,
    find_address,
    render_error,
    render_page,
)
from anthropic_proxy.console.ledger.engines import EngineReader
from anthropic_proxy.console.ledger.export import FORMATS
from anthropic_proxy.console.ledger.queries import LedgerExtent, read_ledger_extent
from anthropic_proxy.console.ledger.read_access import MAX_SEARCHED_REQUESTS, describe_read_failure, limit_search_range
from anthropic_proxy.console.units import MICROSECONDS, MICROSECONDS_PER_HOUR
from anthropic_proxy.engine.patterns import compile_anchored
from anthropic_proxy.errors import ClientError, InvalidRequest
from anthropic_proxy.plugins import LedgerState, Receipt, RouteRequest, RouteResponse, Setup

STALE_SECONDS = 10.0
"""Time in seconds that requests may wait for the ledger before a page mentions the wait. Usually they wait half a
second."""
_POSITION = compile_anchored(r"([0-9]{1,18})\..*")
"""Matches a position in a list in order of time: microseconds since the epoch, a dot, and a request id."""


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


def _describe_shorter_charts(context: PageContext) -> str:
    start = context.charted_query.start
    if start == context.query.start:
        return ""
    return (
        f"Charts begin at {formats.local_datetime(start * MICROSECONDS):%H:%M}, because there are no earlier requests. "
    )


class View(Struct, kw_only=True):
    """A page that a user may see, for one request."""

    services: DashboardServices
    page: Page
    request: RouteRequest
    session: Session | None
    running: Sequence[Receipt]
    """Receipts of the running requests of all users."""
    wait_for: WaitFor
    progress: Progress = field(default_factory=Progress)

    def render(self) -> RouteResponse:
        """A thread calls it: it reads the ledger and waits for the event loop."""
        services = self.services
        request = self.request
        frame = services.build_frame(self.page.section, request, self.session)
        values = None
        try:
            query = read_view_query(request.path, request.query, services.clock())
            ledger = services.ledger.open(services.gateway.settings)
            setup = self._find_setup()
            with ExitStack() as opened:
                opened.enter_context(ledger.connection)
                context = self._build_context(query, ledger, setup, opened)
                self.progress.requests = context.facts.requests
                view_frame = self._build_view_frame(frame, context, ledger.problem)
                frame = view_frame  # an error page has its links too
                if self.page.searches_requests:
                    context = limit_range(context, view_frame["state"])
                if "format" not in request.query:
                    values = self.page.build(context)
                    if values is not None and values.get("is_empty"):
                        view_frame["tables"] = self._list_tables_without_ledger()
                elif (file := export_table(context, self.page.tables, request.query)) is not None:
                    return compress_response(request, file)
        except ClientError as error:
            return render_error(request, frame, error.status, error.message)
        except exc.SQLAlchemyError as error:
            failure = describe_read_failure(error)
            return render_error(request, frame, failure.status, failure.message)
        if values is None and ledger.problem is not None:
            return render_error(request, frame, 503, ledger.problem.text)
        if values is None:
            return render_error(request, frame, 404, self.page.missing)
        return render_page(request, self.page.template, frame, values)

    def _build_view_frame(
        self, frame: NavigationFrame, context: PageContext, ledger_problem: StateLine | None
    ) -> ViewFrame:
        extent = context.facts if ledger_problem is None else None
        lines = describe_ledger(self.services.gateway.ledger_state, extent, self.services.clock())
        if ledger_problem is not None:
            lines.append(ledger_problem)
        return {
            **frame,
            "query": context.query,
            "tables": list(self.page.tables),
            "ranges": structs.replace(
                list_ranges(context.facts.first_hour, context.now), note=_describe_shorter_charts(context)
            ),
            "filters": list_filters(context.query, name_providers(context.settings)),
            "running": context.running,
            "state": lines,
            "ledger_text": describe_extent(extent),
            "can_read": context.can_read,
        }

    def _list_tables_without_ledger(self) -> list[str]:
        return [name for name, table in self.page.tables.items() if not table.reads_ledger]

    def _find_setup(self) -> Setup:
        gateway = self.services.gateway
        return self.wait_for(gateway.check_setup()) if self.page.checks_servers else gateway.describe_setup()

    def _build_context(self, query: ViewQuery, ledger: OpenedLedger, setup: Setup, opened: ExitStack) -> PageContext:
        """Return what the page reads. `opened` closes further connections."""
        services = self.services
        gateway = services.gateway
        rights = find_rights(self.request, self.session, gateway.settings)
        client = find_client_id(self.request, self.session)
        keys = None
        if self.page.section == KEYS_SECTION:  # a restricted connection has no keys of others
            keys = EngineReader(opened.enter_context(services.ledger.open(gateway.settings).connection))
            rights = rights.resolve(keys)
        access = services.restrict(ledger.connection, self.request, self.session)
        facts = ledger.facts
        running = self.running
        if access.rows is not None:  # of the setup, a member gets the mapping
            running = [receipt for receipt in running if access.rows.include(receipt.client)]
            setup = Setup(mapping=setup.mapping)
            facts = read_ledger_extent(ledger.connection)
        return PageContext(
            query=query,
            connection=ledger.connection,
            facts=facts,
            now=services.clock(),
            running=running,
            can_read=ledger.problem is None,
            log_condition=gateway.log_warning_each_time,
            setup=setup,
            address=find_address(self.request, gateway.settings),
            server_id=gateway.describe_server().id,
            settings=gateway.settings,
            catalog=gateway.catalog,
            describe_models=lambda names, label: self.wait_for(
                gateway.describe_models(names, find_client_of_label(ledger.connection, label) or client)
            ),
            find_doctor_run=lambda: self.wait_for(services.doctor.current()),
            store=gateway.store,
            wait_for=self.wait_for,
            path_parameters=dict(self.request.path_parameters),
            rights=rights,
            keys=keys,
            stored_keys=services.stored_keys,
            open_texts=services.build_open_texts(access, self.request, self.session),
        )


def export_table(
    context: PageContext, tables: Mapping[str, PageTable], query: Mapping[str, Sequence[str]]
) -> RouteResponse | None:
    """`query` selects one of `tables` (the first by default) and the format. Raises `InvalidRequest` for an unknown
    one.

    None: the ledger cannot be read, but the table needs it.
    """
    name = query.get("table", [""])[-1]
    form = query["format"][-1]
    if form not in FORMATS:
        raise InvalidRequest(f"format: {form[:20]!r} is not allowed; use csv or json.", code="dashboard-parameter")
    chosen = name or next(iter(tables))
    if chosen not in tables:
        allowed = ", ".join(tables)
        raise InvalidRequest(f"table: {name[:20]!r} is not allowed; use {allowed}.", code="dashboard-parameter")
    if not context.can_read and tables[chosen].reads_ledger:
        return None
    return tables[chosen].tabulate(context).build_download(chosen, form)


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
