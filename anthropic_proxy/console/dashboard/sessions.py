"""Page Sessions: cost, context and name of each session.

A session is a conversation of a client such as Claude Code.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import structs

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.page import Page, PageContext, PageTable
from anthropic_proxy.console.dashboard.tables import SortableColumn, format_sums, sort_rows
from anthropic_proxy.console.ledger import request_queries as queries
from anthropic_proxy.console.ledger.export import EXPORT_TITLES, ExportTable, encode_sums, format_time
from anthropic_proxy.console.ledger.request_queries import SessionList, SessionRow
from anthropic_proxy.console.session_names import find_names, name_session, shorten_session_id

MAX_SESSIONS = 100
MAX_SEARCHED_SESSIONS = 1_000
MAX_SEARCHED_TEXTS = 200
"""Number of sessions, the latest first, whose texts a search reads for their names. Of others, it knows project, start
and id."""
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
    found, names = _find_sessions(context)
    rows = found.rows
    models = queries.find_latest_models(context.connection, rows)
    windows = {one.model: one.max_input for one in context.describe_models(sorted(set(models.values())))}
    sessions = []
    for row in rows:
        name = names[row.session]
        is_text = not name.startswith(name_session(row))
        session = {
            "id": row.session,
            # the start has a column of its own
            "name": name if is_text else f"{row.project or 'Session'} {shorten_session_id(row.session)}",
            "project": row.project if is_text else "",
            "requests": formats.count(row.sums.requests),
            "errors": row.sums.errors,
            "started": formats.day_and_time(row.started_at),
            "length": formats.seconds(row.last_at - row.started_at) if row.sums.requests > 1 else formats.UNKNOWN,
            "context": formats.count(row.max_context) if row.max_context else formats.UNKNOWN,
            "share": None,
            "window": "",
            "cached": formats.percent(row.sums.cache_read_tokens, row.sums.all_input_tokens),
            "output": formats.count(row.sums.output_tokens),
            "cost": format_sums(row.sums),
        }
        if row.max_context and (window := windows.get(models.get(row.session, ""))):
            session["share"] = min(row.max_context / window, 1.0)
            session["window"] = f"{formats.percent(row.max_context, window)} of {formats.short_count(window)}"
        sessions.append(session)
    matching = f" with “{context.query.text}”" if context.query.text else ""
    verdict = f"{formats.plural(found.count, 'session') if rows else 'No sessions'}{matching} in this range."
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


def _find_sessions(context: PageContext) -> tuple[SessionList, Mapping[str, str]]:
    """Return the sessions that the page shows in their order, and their names."""
    text, selection = context.query.text, structs.replace(context.selection, text="")
    found = queries.list_sessions(context.connection, selection, MAX_SEARCHED_SESSIONS if text else MAX_SESSIONS)
    if not text:
        rows = sort_rows(found.rows, _COLUMNS, context.query.order)
        return structs.replace(found, rows=rows), find_names(context.connection, rows)
    names, words = find_names(context.connection, found.rows, MAX_SEARCHED_TEXTS), text.lower().split()
    matching = [
        row
        for row in found.rows
        if all(word in f"{names[row.session]} {name_session(row)} {row.session}".lower() for word in words)
    ]
    rows = sort_rows(matching[:MAX_SESSIONS], _COLUMNS, context.query.order)
    return SessionList(rows, len(matching), found.is_complete), names


def _tabulate_sessions(context: PageContext) -> ExportTable:
    found = _find_sessions(context)[0].rows
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
    tables={"sessions": PageTable(_tabulate_sessions)},
    searches_requests=False,
)
