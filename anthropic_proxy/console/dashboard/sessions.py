"""Page Sessions: cost, context and name of each session.

A session is a conversation of a client such as Claude Code.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from msgspec import Struct, structs

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.page import Page, PageContext, PageTable
from anthropic_proxy.console.dashboard.query import session_link
from anthropic_proxy.console.dashboard.tables import (
    Cell,
    ShareBar,
    TableColumn,
    build_table,
    measure_column,
    sort_rows,
)
from anthropic_proxy.console.ledger import request_queries as queries
from anthropic_proxy.console.ledger.export import format_time, tabulate
from anthropic_proxy.console.ledger.records import UsageSums
from anthropic_proxy.console.ledger.request_queries import LatestModel, SessionList, SessionRow
from anthropic_proxy.console.session_names import find_names, name_session

MAX_SESSIONS = 100
MAX_SEARCHED_SESSIONS = 1_000


class ListedSession(Struct, frozen=True):
    facts: SessionRow
    name: str
    window: int | None = None
    """Context window of the latest model, in tokens. None: unknown."""

    @property
    def sums(self) -> UsageSums:
        return self.facts.sums

    def show_name(self) -> Cell:
        session = self.facts
        project = "" if self.name == name_session(session.project, session.session) else session.project
        start = formats.day_and_time(session.started_at)
        return Cell(text=self.name, href=session_link(session.session), note=project, phone_note=start)

    def show_context(self) -> Cell:
        tokens = formats.count(self.facts.max_context) if self.facts.max_context else formats.UNKNOWN
        if not (self.facts.max_context and self.window):
            return Cell(text=tokens)
        note = f"{formats.percent(self.facts.max_context, self.window)} of {formats.short_count(self.window)}"
        return Cell(bars=[ShareBar(tokens, min(self.facts.max_context / self.window, 1.0), "of the window")], note=note)

    def show_length(self) -> str:
        return formats.seconds(self.facts.last_at - self.facts.started_at if self.sums.requests > 1 else None)


_COLUMNS: Sequence[TableColumn[ListedSession]] = (
    TableColumn("name", "Session", ListedSession.show_name, style="a-what wrap"),
    TableColumn("started", "Started", lambda row: formats.day_and_time(row.facts.started_at), style="nowrap"),
    TableColumn("length", "Length", ListedSession.show_length, lambda row: row.facts.last_at - row.facts.started_at),
    measure_column("requests"),
    TableColumn("errors", "Errors", lambda row: str(row.sums.errors), lambda row: row.sums.errors),
    TableColumn(
        "context", "Largest context", ListedSession.show_context, lambda row: row.facts.max_context, style="context"
    ),
    structs.replace(measure_column("cached"), style="muted"),
    structs.replace(measure_column("output"), text=lambda row: formats.count(row.sums.output_tokens)),
    measure_column("cost"),
)


def build_sessions_page(context: PageContext) -> Mapping[str, Any]:
    session_list, sessions = _find_sessions(context)
    models = queries.find_latest_models(context.connection, [row.facts for row in sessions])
    named: dict[str, set[str]] = {}  # label of a key → its models
    for latest in models.values():
        named.setdefault(latest.key_label, set()).add(latest.name)
    windows = {
        LatestModel(model.model, label): model.max_input
        for label, names in named.items()
        for model in context.describe_models(sorted(names), label)
    }
    session_windows = {session: windows.get(latest) for session, latest in models.items()}
    shown = [structs.replace(row, window=session_windows.get(row.facts.session)) for row in sessions]
    matching = f" with “{context.query.text}”" if context.query.text else ""
    verdict = f"{formats.plural(session_list.count, 'session') if shown else 'No sessions'}{matching} in this range."
    if session_list.count > len(shown):
        verdict += f" The latest {len(shown)} are shown."
    if not session_list.is_complete:
        verdict += f" Only the latest {formats.count(queries.MAX_SAMPLED_REQUESTS)} requests are added up."
    order: Mapping[str, Any] = {"query": context.query, "default_order": "last request, latest first"}
    table = build_table("Sessions", _COLUMNS, shown, lambda row: row.facts.session, **order)
    return {"table": table, "verdict": verdict, "is_empty": not context.facts.requests}


def _find_sessions(context: PageContext) -> tuple[SessionList, Sequence[ListedSession]]:
    """Return the found sessions, and those that the page shows in their order."""
    text = context.query.text
    selection = structs.replace(context.selection, text="")
    session_list = queries.list_sessions(context.connection, selection, MAX_SEARCHED_SESSIONS if text else MAX_SESSIONS)
    names: Mapping[str, str] = {}
    if text:
        names = find_names(context.connection, session_list.rows)
        words = text.lower().split()
        matching = [
            row
            for row in session_list.rows
            if all(word in f"{names[row.session]} {row.project} {row.session}".lower() for word in words)
        ]
        session_list = SessionList(matching[:MAX_SESSIONS], len(matching), session_list.is_complete)
    listed = sort_rows([ListedSession(row, "") for row in session_list.rows], _COLUMNS, context.query.order)
    names = names or find_names(context.connection, [row.facts for row in listed])
    return session_list, [structs.replace(row, name=names[row.facts.session]) for row in listed]


_EXPORT: Mapping[str, Callable[[ListedSession], Any]] = {
    "session": attrgetter("facts.session"),
    "project": attrgetter("facts.project"),
    "started_at": lambda row: format_time(row.facts.started_at),
    "last_at": lambda row: format_time(row.facts.last_at),
    "max_context": attrgetter("facts.max_context"),
}


PAGE = Page(
    section="Sessions",
    template="sessions.html",
    build=build_sessions_page,
    tables={"sessions": PageTable(lambda context: tabulate(_EXPORT, _find_sessions(context)[1], attrgetter("sums")))},
    searches_requests=False,
)
