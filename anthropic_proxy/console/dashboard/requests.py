"""Page Requests: search, filters with counts, a chart of requests over time, and the table of requests."""

from collections.abc import Mapping
from typing import Any

from msgspec import structs

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.charts import OUTCOME_TITLES, chart_groups, divide_range
from anthropic_proxy.console.dashboard.page import Page, PageContext, PageTable
from anthropic_proxy.console.dashboard.query import ViewQuery
from anthropic_proxy.console.dashboard.tables import (
    COLUMNS,
    PagedRows,
    build_finished_row,
    build_running_row,
    decode_columns,
    list_filters,
    name_providers,
    name_value,
    page_rows,
    read_order,
)
from anthropic_proxy.console.ledger.export import tabulate_requests
from anthropic_proxy.console.ledger.queries import MAX_COUNTED_REQUESTS, count_facets, sum_periods
from anthropic_proxy.console.ledger.records import FACETS, StoredRequest
from anthropic_proxy.console.ledger.request_queries import (
    MAX_SORTED_REQUESTS,
    SORT_KEYS,
    SortOrder,
    find_stored_request,
    list_sorted_requests,
    list_stored_requests,
    sum_sessions,
)
from anthropic_proxy.console.session_names import find_names
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.errors import InvalidRequest

ROWS_PER_PAGE = 50
MAX_EXPORTED_ROWS = 10_000
_MAX_FACET_VALUES = 10
_TIME_POSITION = compile_later(r"([0-9]{1,18})\.(.*)")
_SORTED_POSITION = compile_later(r"(-?[0-9]{1,20}(?:\.[0-9]{1,20})?(?:e[+-]?[0-9]{1,2})?)~([0-9]{1,18})~(.*)")
_REQUEST_ID = compile_later(r"req_\w{8,}")
_Placed = tuple[StoredRequest, str]
"""A stored request, and its position in the list as text, for the URL parameters `before` and `after`."""


def build_requests_page(context: PageContext) -> Mapping[str, Any]:
    query = context.query
    columns, order = decode_columns(query.columns), read_order(query.order, SORT_KEYS)
    part = _read_rows(context, order, ROWS_PER_PAGE)
    verdict, note = _summarize(context, len(part.rows), bool(part.newer or part.older)), ""
    if order is not None:
        title = next(column.label for column in COLUMNS if column.name == order.name)
        direction = "highest" if order.is_descending else "lowest"
        note = f"Sorted by {title[0].lower()}{title[1:]}, {direction} first, among the latest "
        note += f"{formats.count(MAX_SORTED_REQUESTS)} requests of this range"
    elif (limit := context.searched) is not None:  # the search read a part of the range, and continues beyond it
        if query.after:
            part = structs.replace(part, newer=part.newer or query.link(before="", after=f"{limit[1]}."))
        else:
            part = structs.replace(part, older=part.older or query.link(before=f"{limit[0]}.", after=""))
    shows_running = not (order or query.is_filtered or query.before or query.after or not query.is_running)
    running = (
        [build_running_row(receipt, context.now) for receipt in reversed(context.running)] if shows_running else []
    )
    listed_facets = {name: facet for name, facet in FACETS.items() if facet.sums}  # there are too many prompts
    counted = count_facets(
        context.connection, context.selection, [facet.column for facet in listed_facets.values()], _MAX_FACET_VALUES
    )
    listed = {*(value for value, _ in counted.values["session"]), query.facets.get("session", "")}
    if any(column.name == "session" for column in columns):
        listed |= {row.session for row, _ in part.rows}
    sessions = find_names(context.connection, sum_sessions(context.connection, listed - {""}))
    names = {**name_providers(context.settings), **{("session", one): text for one, text in sessions.items()}}
    filters = list_filters(query, names)
    if query.has_notes:
        filters.append(("changed by the translation", query.link(has_notes=False)))
    if query.text:
        filters.append((f"“{query.text}”", query.link(text="")))
    facets: list[Mapping[str, Any]] = []
    for name, facet in listed_facets.items():
        values = [
            {
                "text": name_value(name, value, names),
                "count": number,
                "active": query.facets.get(name) == value,
                "href": query.link_without_facet(name)
                if query.facets.get(name) == value
                else query.link_with_facet(name, value),
            }
            for value, number in counted.values[facet.column]
        ]
        if len(values) > 1 or (values and name in query.facets):
            facets.append(
                {
                    "title": facet.title,
                    "values": values,
                    "open": len(facets) < 3 or name in query.facets,
                    "limit": MAX_COUNTED_REQUESTS if facet.column in counted.partial_columns else 0,
                }
            )
    finished = []
    for row, _ in part.rows:
        built = build_finished_row(row, context.now, columns)
        if ("session", row.session) in names:
            cells = {**built.cells, "session": name_value("session", row.session, names)}
            built = structs.replace(built, cells=cells)
        finished.append(built)
    chart = None
    if context.selection.has_hourly_sums or context.selection.is_short_range:  # else no sums have a filtered column
        periods = divide_range(context.charted_query)
        sums = sum_periods(context.connection, context.selection, periods.seconds, "outcome_class", ("requests",))
        chart = chart_groups(periods, sums, lambda one: one.requests, formats.count, OUTCOME_TITLES)
    return {
        "rows": [*running, *finished],
        "columns": columns,
        "all_columns": COLUMNS,
        "sort_titles": {column.name: column.label for column in COLUMNS if column.is_number},
        "order": order,
        "views": list_views(query),
        "part": part,
        "note": note,
        "facets": facets,
        "filters": filters,
        "chart": chart,
        "is_empty": not context.facts.requests and not running,
        "verdict": verdict,
    }


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
    return [row for row, _ in _read_rows(context, read_order(context.query.order, SORT_KEYS), limit).rows]


def _read_rows(context: PageContext, order: SortOrder | None, limit: int) -> PagedRows[_Placed]:
    """A complete request id in the search is found outside the time range and the filters too. `order` None: by time,
    the latest first.
    """
    query = context.query
    if _REQUEST_ID.fullmatch(query.text) and (found := find_stored_request(context.connection, query.text)):
        return PagedRows([(found, "")])
    connection = context.connection
    chosen = context.selection
    form = _SORTED_POSITION if order else _TIME_POSITION
    for text in filter(None, (query.before, query.after)):
        if form.fullmatch(text) is None:
            raise InvalidRequest(
                f"before, after: {text[:40]!r} is not a position in the list. Open the page again.",
                code="dashboard-parameter",
            )
    place, other = form.fullmatch(query.before), form.fullmatch(query.after)
    if order is None:
        before = place and (int(place[1]), place[2])
        after = other and (int(other[1]), other[2])
        stored = list_stored_requests(connection, chosen, limit + 1, before=before, after=after)
        rows = [(row, f"{row.started_at}.{row.id}") for row in stored]
    else:
        first = place and (float(place[1]), int(place[2]), place[3])
        last = other and (float(other[1]), int(other[2]), other[3])
        ordered = list_sorted_requests(connection, chosen, order, limit + 1, before=first, after=last)
        rows = [(one.request, "~".join(map(str, one.position))) for one in ordered]
    return page_rows(query, rows, limit, lambda placed: placed[1])


def _summarize(context: PageContext, shown: int, has_more: bool) -> str:
    query = context.query
    if not context.selection.has_hourly_sums:
        return f"{'More than ' if has_more else ''}{_count_matches(shown)}."
    listed, count = (
        sum(row.sums.requests for row in sum_periods(context.connection, chosen, 0, sum_names=("requests",)))
        for chosen in (context.selection, context.model_selection)
    )
    unnamed = f" {listed - count:,} more named no model." if listed > count else ""
    return f"{_count_matches(count) if query.is_filtered else f'{_count_requests(count)} in this range'}.{unnamed}"


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
