"""Page Sessions: cost, context and name of each session.

A session is a conversation of a client such as Claude Code.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.page import Page, PageContext, Table
from anthropic_proxy.console.dashboard.tables import SortableColumn, format_sums, sort_rows
from anthropic_proxy.console.ledger import request_queries as queries
from anthropic_proxy.console.ledger.export import EXPORT_TITLES, ExportTable, encode_sums, format_time
from anthropic_proxy.console.ledger.request_queries import SessionRow
from anthropic_proxy.console.session_names import find_names, name_session

MAX_SESSIONS = 100
_COLUMNS: Sequence[SortableColumn[SessionRow]] = (
    SortableColumn("length", "Length", lambda row: row.last_at - row.started_at),
    SortableColumn("requests", "Requests", lambda row: row.sums.requests),
    SortableColumn("errors", "Errors", lambda row: row.sums.errors),
    SortableColumn("context", "Largest context", lambda row: row.max_context),
    SortableColumn("cached", "Cached", lambda row: row.sums.cached_input_share),
    SortableColumn("output", "Out", lambda row: row.sums.output_tokens),
    SortableColumn("cost", "Cost", lambda row: row.sums.cost),
)


def build_sessions_page(context: PageContext) -> Mapping[str, Any]:
    found = queries.list_sessions(context.connection, context.selection, MAX_SESSIONS)
    rows = sort_rows(found.rows, _COLUMNS, context.query.order)
    names = find_names(context.connection, rows)
    models = queries.find_latest_models(context.connection, rows)
    windows = {one.model: one.context_window for one in context.describe_models(sorted(set(models.values())))}
    sessions = [
        {
            "id": row.session,
            "name": names[row.session],
            "is_text": names[row.session] != name_session(row),
            "project": row.project,
            "requests": formats.count(row.sums.requests),
            "errors": row.sums.errors,
            "started": formats.day_and_time(row.started_at),
            "length": formats.seconds(row.last_at - row.started_at) if row.sums.requests > 1 else formats.UNKNOWN,
            "context": formats.count(row.max_context),
            "share": min(row.max_context / window, 1.0)
            if (window := windows.get(models.get(row.session, "")))
            else None,
            "window": f"{formats.percent(row.max_context, window)} of {formats.short_count(window)}" if window else "",
            "cached": formats.percent(row.sums.cache_read_tokens, row.sums.all_input_tokens),
            "output": formats.count(row.sums.output_tokens),
            "cost": format_sums(row.sums),
        }
        for row in rows
    ]
    verdict = f"{formats.plural(found.count, 'session')} in this range." if rows else "No session in this range."
    if found.count > len(rows):
        verdict += f" The latest {len(rows)} are shown."
    if not found.is_complete:
        verdict += f" Only the latest {formats.count(queries.MAX_SAMPLED_REQUESTS)} requests are added up."
    return {
        "sessions": sessions,
        "columns": _COLUMNS,
        "order": context.query.order,
        "verdict": verdict,
        "is_empty": not context.facts.requests,
    }


def _tabulate_sessions(context: PageContext) -> ExportTable:
    found = queries.list_sessions(context.connection, context.selection, MAX_SESSIONS).rows
    titles = ["session", "project", "started_at", "last_at", "max_context", *EXPORT_TITLES]
    rows = [
        [
            *(one.session, one.project, format_time(one.started_at), format_time(one.last_at), one.max_context),
            *encode_sums(one.sums).values(),
        ]
        for one in found
    ]
    return ExportTable(titles, rows)


PAGE = Page(
    section="Sessions",
    template="sessions.html",
    build=build_sessions_page,
    tables={"sessions": Table(_tabulate_sessions)},
)
