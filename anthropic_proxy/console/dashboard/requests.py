"""Page Requests: search, filters with counts, a chart of requests over time, and the table of requests."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, structs
from sqlalchemy import ColumnElement

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.charts import OUTCOME_TITLES, Chart, chart_groups, divide_range
from anthropic_proxy.console.dashboard.page import Page, PageContext, PageTable
from anthropic_proxy.console.dashboard.query import ViewQuery
from anthropic_proxy.console.dashboard.tables import (
    COLUMNS,
    Names,
    PagedRows,
    TableColumn,
    build_finished_row,
    build_request_table,
    build_running_row,
    decode_columns,
    fit_text,
    list_filters,
    name_providers,
    name_value,
    page_rows,
    read_order,
)
from anthropic_proxy.console.ledger.export import tabulate_requests
from anthropic_proxy.console.ledger.periods import RequestSelection
from anthropic_proxy.console.ledger.queries import MAX_COUNTED_REQUESTS, FacetCounts, count_facets, sum_periods
from anthropic_proxy.console.ledger.records import FACETS, StoredRequest
from anthropic_proxy.console.ledger.request_queries import (
    MAX_SORTED_REQUESTS,
    SortedPosition,
    SortOrder,
    find_stored_request,
    list_sorted_requests,
    list_stored_requests,
    sum_sessions,
)
from anthropic_proxy.console.session_names import find_names
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.errors import InvalidRequest

ROWS_PER_PAGE = 50
MAX_EXPORTED_ROWS = 10_000
_MAX_FACET_VALUES = 10
_TIME_POSITION = compile_later(r"([0-9]{1,18})\.(.*)")
_SORTED_POSITION = compile_later(r"(-?[0-9]{1,20}(?:\.[0-9]{1,20})?(?:e[+-]?[0-9]{1,2})?)~([0-9]{1,18})~(.*)")
_REQUEST_ID = compile_anchored(r"req_\w{8,}")
_LISTED = {name: facet for name, facet in FACETS.items() if facet.sums}
"""Filters with their values. There are too many prompts for a list."""
_SESSION = next(column for column in COLUMNS if column.name == "session")
RequestOrder = tuple[TableColumn[StoredRequest], bool]
"""Column by which requests are sorted, and True for highest first."""
_Placed = tuple[StoredRequest, str]
"""A stored request, and its position in the list as text, for the URL parameters `before` and `after`."""


class FacetChoice(Struct, frozen=True):
    """A value of a filter."""

    text: str
    requests: int
    """Number of the requests with this value."""
    href: str
    """URL of the page with the filter, or without it if it is set."""
    is_set: bool


class FacetPanel(Struct, frozen=True):
    """One of the filters beside the list, with the number of requests of each value."""

    title: str
    choices: Sequence[FacetChoice]
    is_open: bool
    limit: int
    """Number of the latest requests that were counted. 0: all."""


def build_requests_page(context: PageContext) -> Mapping[str, Any]:
    query = context.query
    columns = decode_columns(query.columns)
    order = read_order(query.order, COLUMNS)
    part = _read_rows(context, order, ROWS_PER_PAGE)
    verdict = _summarize(context, len(part.rows), bool(part.newer or part.older))
    if not order:
        part = _continue_search(context, part)
    note = ""
    if order:
        title = order[0].label
        direction = order[0].ends[not order[1]]
        note = f"Sorted by {title[0].lower()}{title[1:]}, {direction} first, among the latest "
        note += f"{formats.count(MAX_SORTED_REQUESTS)} requests of this range"
    shows_running = not (order or query.is_filtered or query.before or query.after or not query.is_running)
    running = context.running[::-1] if shows_running else ()
    listed = [facet.column for facet in _LISTED.values()]
    counted = count_facets(context.connection, context.selection, listed, _MAX_FACET_VALUES)
    names = _name_values(context, counted, [row for row, _ in part.rows] if _SESSION in columns else ())
    rows = [build_running_row(receipt, context.now, columns) for receipt in running]
    for row, _ in part.rows:
        built = build_finished_row(row, context.now, columns)
        if "session" in built.cells and ("session", row.session) in names:
            cell = fit_text(name_value("session", row.session, names), "text")
            built = structs.replace(built, cells={**built.cells, "session": cell})
        rows.append(built)
    filters = list_filters(query, names)
    if query.has_notes:
        filters.append(("changed by the translation", query.link(has_notes=False)))
    if query.text:
        filters.append((f"“{query.text}”", query.link(text="")))
    return {
        "table": build_request_table(rows, "Requests", "rows", columns, query),
        "columns": columns,
        "all_columns": COLUMNS,
        "views": list_views(query),
        "part": part,
        "note": note,
        "facets": _list_facets(query, counted, names),
        "filters": filters,
        "chart": _chart_requests(context),
        "is_empty": not context.facts.requests and not running,
        "verdict": verdict,
    }


def _continue_search(context: PageContext, part: PagedRows[_Placed]) -> PagedRows[_Placed]:
    """A search that read a part of the range continues beyond it."""
    query = context.query
    limit = context.searched
    if limit is None:
        return part
    if query.after:
        return structs.replace(part, newer=part.newer or query.link(before="", after=f"{limit[1]}."))
    return structs.replace(part, older=part.older or query.link(before=f"{limit[0]}.", after=""))


def _name_values(context: PageContext, counted: FacetCounts, rows: Sequence[StoredRequest]) -> Names:
    """Return texts for providers and sessions: those of the filters, and those of `rows`."""
    listed = {*(value for value, _ in counted.values["session"]), context.query.facets.get("session", "")}
    listed |= {row.session for row in rows}
    sessions = find_names(context.connection, sum_sessions(context.connection, listed - {""}))
    return {**name_providers(context.settings), **{("session", session): text for session, text in sessions.items()}}


def _list_facets(query: ViewQuery, counted: FacetCounts, names: Names) -> list[FacetPanel]:
    facets = list[FacetPanel]()
    for name, facet in _LISTED.items():
        values = counted.values[facet.column]
        chosen = query.facets.get(name)
        if len(values) < 2 and (not values or chosen is None):
            continue
        choices = []
        for value, number in values:
            link = query.link_without_facet(name) if value == chosen else query.link_with_facet(name, value)
            choices.append(FacetChoice(name_value(name, value, names), number, link, value == chosen))
        limit = MAX_COUNTED_REQUESTS if facet.column in counted.partial_columns else 0
        facets.append(FacetPanel(facet.title, choices, len(facets) < 3 or chosen is not None, limit))
    return facets


def _chart_requests(context: PageContext) -> Chart | None:
    if not (context.selection.has_hourly_sums or context.selection.is_short_range):
        return None  # no sums have a filtered column
    periods = divide_range(context.charted_query)
    sums = sum_periods(context.connection, context.selection, periods.seconds, "outcome_class", ("requests",))
    return chart_groups(periods, sums, lambda sums: sums.requests, formats.count, OUTCOME_TITLES)


def list_views(query: ViewQuery) -> list[tuple[str, str, bool]]:
    """Return title and URL of frequent selections of the range, and whether it is the present one. Users keep others as
    bookmarks.
    """
    others = {name: value for name, value in query.facets.items() if name != "outcome"}
    chosen = [
        ("All", others, ""),
        ("Failed", {**others, "outcome": "error"}, ""),
        ("Slowest", others, "-total"),
        ("Most expensive", others, "-cost"),
    ]
    here = query.link(before="", after="")
    links = [(title, query.link(facets=facets, order=order)) for title, facets, order in chosen]
    return [(title, href, href == here) for title, href in links]


def list_exported_requests(context: PageContext) -> list[StoredRequest]:
    limit = ROWS_PER_PAGE if context.query.before or context.query.after else MAX_EXPORTED_ROWS
    return [row for row, _ in _read_rows(context, read_order(context.query.order, COLUMNS), limit).rows]


def _read_rows(context: PageContext, order: RequestOrder | None, limit: int) -> PagedRows[_Placed]:
    """A complete request id in the search is found outside the time range and the filters too. `order` None: by time,
    the latest first.
    """
    query = context.query
    if _REQUEST_ID.fullmatch(query.text) and (request := find_stored_request(context.connection, query.text)):
        return PagedRows([(request, "")])
    connection = context.connection
    chosen = context.selection
    form = _SORTED_POSITION if order else _TIME_POSITION
    for text in filter(None, (query.before, query.after)):
        if form.fullmatch(text) is None:
            raise InvalidRequest(
                f"before, after: {text[:40]!r} is not a position in the list. Open the page again.",
                code="dashboard-parameter",
            )
    place = form.fullmatch(query.before)
    other = form.fullmatch(query.after)
    if order is None:
        before, after = (match and (int(match[1]), match[2]) for match in (place, other))
        stored = list_stored_requests(connection, chosen, limit + 1, before=before, after=after)
        rows = [(row, f"{row.started_at}.{row.id}") for row in stored]
    else:
        first, last = (
            match and SortedPosition(value=float(match[1]), started_at=int(match[2]), id=match[3])
            for match in (place, other)
        )
        key = order[0].sort
        assert isinstance(key, ColumnElement)
        sorting = SortOrder(key, is_descending=order[1])
        ordered = list_sorted_requests(connection, chosen, sorting, limit + 1, before=first, after=last)
        rows = [(placed.request, "~".join(map(str, placed.position))) for placed in ordered]
    return page_rows(query, rows, limit, lambda placed: placed[1])


def _summarize(context: PageContext, shown: int, has_more: bool) -> str:
    query = context.query
    if not context.selection.has_hourly_sums:
        return f"{'More than ' if has_more else ''}{_count_matches(shown)}."
    listed = _count_selected(context, context.selection)
    count = _count_selected(context, context.model_selection)
    unnamed = f" {listed - count:,} more named no model." if listed > count else ""
    return f"{_count_matches(count) if query.is_filtered else f'{_count_requests(count)} in this range'}.{unnamed}"


def _count_selected(context: PageContext, chosen: RequestSelection) -> int:
    return sum(row.sums.requests for row in sum_periods(context.connection, chosen, 0, sum_names=("requests",)))


def _count_matches(count: int) -> str:
    return f"{_count_requests(count)} {'matches' if count == 1 else 'match'} the filters"


def _count_requests(count: int) -> str:
    return formats.plural(count, "request") if count else "No requests"


PAGE = Page(
    section="Requests",
    template="requests.html",
    build=build_requests_page,
    tables={"requests": PageTable(lambda context: tabulate_requests(list_exported_requests(context)))},
)
