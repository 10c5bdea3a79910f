"""What a module of a page declares (`Page`, `Form`), and what it gets: the context of one request.

A page is one module with a constant `PAGE` and one template. Pages are built in threads. Their panels (charts and
tables) can fail one by one.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar

from msgspec import MsgspecError, Struct, field, structs
from sqlalchemy import Connection, exc

from anthropic_proxy.console.dashboard.panels import FailedPanel
from anthropic_proxy.console.dashboard.query import ViewQuery
from anthropic_proxy.console.doctor.stored_runs import DoctorRun
from anthropic_proxy.console.keys.rights import ADMINISTRATOR, Rights
from anthropic_proxy.console.keys.stored_keys import StoredKeys
from anthropic_proxy.console.ledger.connection import Reader
from anthropic_proxy.console.ledger.export import ExportTable
from anthropic_proxy.console.ledger.periods import MAX_SHORT_RANGE_HOURS, RequestSelection
from anthropic_proxy.console.ledger.queries import LedgerExtent, PreviousRange, sum_periods, sum_previous_range
from anthropic_proxy.console.ledger.read_access import describe_read_failure
from anthropic_proxy.console.ledger.records import FACETS, StoredRequest, add_up
from anthropic_proxy.console.units import HOUR_SECONDS, MICROSECONDS
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.errors import ClientError
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import ModelFeatures, Receipt, Setup, Store

_FIVE_MINUTES = 300
ResultT = TypeVar("ResultT")
OpenTexts = Callable[[str, Sequence[StoredRequest]], str]
"""Function that makes stored texts of requests readable, those of others with an entry of the audit log. Its first
argument names the object, such as the session, in that log. It returns why texts of others stay hidden; "": all may be
read."""


class WaitFor(Protocol):
    """Function that runs a coroutine on the event loop of the server, and waits in this thread for its result."""

    def __call__(self, call: Coroutine[None, None, ResultT], /) -> ResultT: ...


class PageContext(Struct, frozen=True, kw_only=True):
    query: ViewQuery
    connection: Connection
    facts: LedgerExtent
    now: float
    """Time of the browser's request in seconds since the epoch."""
    running: Sequence[Receipt] = ()
    """Receipts of the running requests of all workers, the latest last."""
    can_read: bool = True
    """True if the ledger can be read. False: the ledger is disabled or fails, and `connection` leads to an empty
    database."""
    log_condition: Callable[[str], None] = lambda _: None
    setup: Setup = Setup()
    address: str = ""
    """Address of the proxy for the browser and clients, without a path at the end."""
    server_id: str = ""
    """Id of the server that shows the page, among those of the same database."""
    settings: Settings
    catalog: Catalog = field(default_factory=Catalog)
    describe_models: Callable[[Sequence[str], str], Sequence[ModelFeatures]] = lambda *_: ()
    """Function that returns limits and features of models for ids with prefix. Models that no request can reach are
    left out. Second argument: label of the key with whose requests errors have taught some of them. "": of the user."""
    find_doctor_run: Callable[[], DoctorRun | None] = lambda: None
    """Function that returns the run of the doctor in progress."""
    store: Store | None = None
    """Store with the counters of limits and budgets. None: not available."""
    wait_for: WaitFor = asyncio.run
    """Function that runs a coroutine of the store on the event loop of the server, and returns its result."""
    path_parameters: dict[str, str] = {}
    rights: Rights = ADMINISTRATOR
    """Which keys the user reads and changes."""
    keys: Reader | None = None
    """Reader of keys and teams, which shows all: queries with `rights` leave others out. None: the page shows none."""
    stored_keys: StoredKeys = field(default_factory=StoredKeys)
    open_texts: OpenTexts = lambda *_: ""
    searched: tuple[int, int] | None = None
    """Time range that a search reads, in microseconds since the epoch. None: the whole range in the URL."""

    @property
    def charted_query(self) -> ViewQuery:
        """A young ledger has no earlier requests: during its first three hours, a range until now begins with the hour
        of the first request, so that its charts have periods of five minutes.
        """
        query = self.query
        first = self.facts.first_hour
        if first is None or not query.is_running:
            return query
        start = min(first * HOUR_SECONDS, query.end // _FIVE_MINUTES * _FIVE_MINUTES - HOUR_SECONDS)
        if start <= query.start or query.end - start > MAX_SHORT_RANGE_HOURS * HOUR_SECONDS:
            return query
        return structs.replace(query, start=start)

    @property
    def model_selection(self) -> RequestSelection:
        """The same as `selection`, without requests that named no model: no sum of usage or costs includes these."""
        return structs.replace(self.selection, has_model=True)

    @property
    def selection(self) -> RequestSelection:
        query = self.charted_query
        start, end = self.searched or (query.start * MICROSECONDS, query.end * MICROSECONDS)
        return RequestSelection(
            start=start,
            end=end,
            values={FACETS[name].column: value for name, value in query.facets.items()},
            is_changed=query.has_notes,
            text=query.text,
        )


class StateLine(Struct, frozen=True):
    """A sentence about a state, with its sign and CSS class."""

    sign: str
    role: str
    text: str


_VALUE_ERRORS = (ArithmeticError, AttributeError, LookupError, MsgspecError, TimeoutError, TypeError, ValueError)
"""Exceptions by unexpected values, such as a damaged row of the database. They make a panel fail, not the page."""
PanelT = TypeVar("PanelT")


def build_panel(context: PageContext, name: str, build: Callable[[], PanelT]) -> PanelT | FailedPanel:
    """A `ClientError` of `build` is not caught: its cause is the URL of the page."""
    try:
        return build()
    except ClientError:
        raise
    except exc.SQLAlchemyError as error:
        context.connection.rollback()  # PostgreSQL rejects all further queries of a failed transaction
        return FailedPanel(describe_read_failure(error).message)
    except _VALUE_ERRORS as error:
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        context.log_condition(f"The dashboard cannot show {name}: {reason}")
        return FailedPanel(f"A stored value cannot be shown ({reason}). The other panels are complete.")


def build_verdict(context: PageContext, summarize: Callable[[], str]) -> str:
    """Return the first sentence of a page about the sums of a range."""
    verdict = build_panel(context, "the summary", summarize)
    return "The requests of this range cannot be added up." if isinstance(verdict, FailedPanel) else verdict


_WORDS = {"requests": ("fewer", "as many as", "none"), "cost": ("less", "as much as", "nothing")}


def compare_with_previous_range(
    context: PageContext, selection: RequestSelection, name: Literal["requests", "cost"], value: int
) -> str:
    """Return `4 % more than in the range before`, or `… than in October 2026` for a month. "": the ledger is younger
    than that range, or the range is today.

    `value`: requests or nano-dollars of the requests of `selection`.
    """
    query = context.query
    first = context.facts.first_hour
    if query.range_name == "today":  # the hours before midnight are not comparable
        return ""
    start = 2 * query.start - min(query.end, int(context.now))
    end = query.start
    name_of_range = "in the range before"
    if query.is_month:
        start, end, name_of_range = query.find_previous_month()
    if first is None or first * HOUR_SECONDS > start + HOUR_SECONDS:
        return ""
    if query.is_month:
        chosen = structs.replace(selection, start=start * MICROSECONDS, end=end * MICROSECONDS)
        sums = add_up(
            period.sums for period in sum_periods(context.connection, chosen, 0, sum_names=("requests", "cost"))
        )
        previous = PreviousRange(sums.requests, sums.cost)
    else:
        previous = sum_previous_range(context.connection, selection, int(context.now * MICROSECONDS))
    before = previous.requests if name == "requests" else previous.cost
    less, equal, none = _WORDS[name]
    if not before:
        return f"{none} {name_of_range}"
    change = round(100 * (value - before) / before)
    compared = f"{abs(change):,} % {'more' if change > 0 else less} than" if change else equal
    return f"{compared} {name_of_range}"


def memoize_result(build: Callable[[], PanelT]) -> Callable[[], PanelT]:
    """Call `build` at most once. Later calls return the same value or raise the same error."""
    values: list[PanelT] = []
    errors: list[Exception] = []

    def find() -> PanelT:
        if errors:
            raise errors[0]
        if not values:
            try:
                values.append(build())
            except Exception as error:
                errors.append(error)
                raise
        return values[0]

    return find


class Figure(Struct, frozen=True):
    label: str
    value: str
    note: str
    line: Sequence[float | None] = ()
    """Values of a small line without axes. (): no line."""
    href: str = ""


class PageTable(Struct, frozen=True):
    """A table of a page, which users download as CSV or JSON."""

    tabulate: Callable[[PageContext], ExportTable]
    reads_ledger: bool = True
    """False: the table shows the state of the proxy, and is complete if the ledger cannot be read."""


class Page(Struct, frozen=True, kw_only=True):
    section: str
    """Entry of the navigation."""
    template: str
    build: Callable[[PageContext], Mapping[str, Any] | None]
    """Function that returns the values for the template. Result None: the object of the page, such as a request, does
    not exist."""
    tables: Mapping[str, PageTable] = {}
    """The main table of the page is first."""
    missing: str = ""
    """Message for a result None."""
    searches_requests: bool = True
    """False: the text of the search is not looked up in requests, so that the search does not limit the range."""
    checks_servers: bool = False
    """True if the page tries whether own servers accept connections, because it shows the state of the providers."""
    adds_up: bool = True
    """True if the page adds up all stored requests of a time range, which can take some time."""
