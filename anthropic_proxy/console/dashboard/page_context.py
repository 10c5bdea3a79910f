"""What the functions that build pages share: their input, and panels (charts and tables) that can fail one by one.

Pages are built in threads.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Protocol, TypeVar

from markupsafe import Markup
from msgspec import MsgspecError, Struct, structs
from sqlalchemy import Connection, exc

from anthropic_proxy.console.dashboard.view_query import ViewQuery
from anthropic_proxy.console.ledger.periods import MAX_SHORT_RANGE_HOURS
from anthropic_proxy.console.ledger.queries import LedgerExtent
from anthropic_proxy.console.ledger.read_access import describe_read_failure
from anthropic_proxy.console.ledger.request_queries import RequestSelection
from anthropic_proxy.console.ledger.tables import FACETS
from anthropic_proxy.console.ledger.units import HOUR_SECONDS, MICROSECONDS
from anthropic_proxy.errors import ClientError
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import ModelFeatures, Receipt, Setup, Store

_FIVE_MINUTES = 300
ResultT = TypeVar("ResultT")


class WaitFor(Protocol):
    """Function that runs a coroutine on the event loop of the server, and waits in this thread for its result."""

    def __call__(self, call: Coroutine[None, None, ResultT], /) -> ResultT:
        """Run the coroutine `call` on the event loop of the server, and return its result."""


class PageContext(Struct, frozen=True, kw_only=True):
    """Input for building a page: parameters of the URL, state of the proxy, and an open connection to the ledger."""

    query: ViewQuery
    connection: Connection
    facts: LedgerExtent
    now: float
    """Time of the browser's request in seconds since the epoch."""
    running: Sequence[Receipt] = ()
    """Receipts (records) of the running requests of all workers, the latest last."""
    can_read: bool = True
    """True if the ledger can be read. False: the ledger is disabled or fails, and `connection` leads to an empty
    database."""
    log_condition: Callable[[str], None] = lambda _: None
    """Function that logs a warning about a panel (table or chart) of a page that cannot be shown."""
    setup: Setup = Setup()
    settings: Settings
    describe_models: Callable[[Sequence[str]], Sequence[ModelFeatures]] = lambda _: ()
    """Function that returns limits and features of models for ids with prefix. Models that no request can reach are
    left out."""
    store: Store | None = None
    """Store with the counters of limits and budgets. None: not available."""
    wait_for: WaitFor = asyncio.run
    """Function that runs a coroutine of the store on the event loop of the server, and returns its result."""
    path_parameters: dict[str, str] = {}
    form_token: str = ""
    """Token that forms of this browser must contain, as protection against other sites. "": no key is required."""
    cookies: str = ""
    """Value of the header `Cookie` that the browser sent."""

    searched: tuple[int, int] | None = None
    """Time range that a search reads, in microseconds since the epoch. None: the whole range in the URL."""

    @property
    def charted_query(self) -> ViewQuery:
        """Parameters of the URL, with the time range of the charts.

        The range is that of the URL, but a young ledger has no earlier requests: during its first three hours, a range
        until now begins with the hour of its first request, and has at least one hour. Its charts then have periods of
        five minutes.
        """
        query, first = self.query, self.facts.first_hour
        if first is None or query.range_name in ("", "yesterday"):
            return query
        start = min(first * HOUR_SECONDS, query.end // _FIVE_MINUTES * _FIVE_MINUTES - HOUR_SECONDS)
        if start <= query.start or query.end - start > MAX_SHORT_RANGE_HOURS * HOUR_SECONDS:
            return query
        return structs.replace(query, start=start)

    @property
    def model_selection(self) -> RequestSelection:
        """The same as `selection`, without requests that named no model: these are not part of a success rate."""
        return structs.replace(self.selection, has_model=True)

    @property
    def selection(self) -> RequestSelection:
        """Condition for database queries: the time range, the filters and the search text of the page."""
        query = self.charted_query
        start, end = self.searched or (query.start * MICROSECONDS, query.end * MICROSECONDS)
        return RequestSelection(
            start=start,
            end=end,
            values={FACETS[name]: value for name, value in query.facets.items()},
            is_changed=query.has_notes,
            text=query.text,
        )


_VALUE_ERRORS = (ArithmeticError, AttributeError, LookupError, MsgspecError, TimeoutError, TypeError, ValueError)
"""Exceptions by unexpected values, such as a damaged row of the database. They make a panel fail, not the page."""
PanelT = TypeVar("PanelT")


class FailedPanel(Struct, frozen=True):
    """A chart or table that cannot be shown. The page shows `message` in its place."""

    message: str


def build_panel(context: PageContext, name: str, build: Callable[[], PanelT]) -> PanelT | FailedPanel:
    """Return the values of a chart or table, or a `FailedPanel` if it cannot be built.

    A `ClientError` of `build` is not caught, because its cause is the request for the page, such as a wrong URL
    parameter.
    """
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


def memoize_result(build: Callable[[], PanelT]) -> Callable[[], PanelT]:
    """Return a function that calls `build` at most once, and returns the same value or raises the same error each time.

    Several panels (charts or tables) thus share one query.
    """
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
    """One of the numbers at the top of a page, with its label, as texts."""

    label: str
    value: str
    note: str
    line: Markup = Markup("")
    href: str = ""
