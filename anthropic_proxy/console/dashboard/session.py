"""Page of one session: cost, context, and its conversation.

A session is a conversation of a client such as Claude Code, with conversations of sub-agents.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from msgspec import Struct, structs

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.charts import Band, Chart, ChartColumn, Series, build_chart, explain_missing_cost
from anthropic_proxy.console.dashboard.conversation import (
    CacheBreak,
    ToolWait,
    build_turns,
    find_cache_breaks,
    find_tool_waits,
)
from anthropic_proxy.console.dashboard.page import Figure, Page, PageContext, PageTable
from anthropic_proxy.console.dashboard.request import find_max_input
from anthropic_proxy.console.dashboard.tables import page_list
from anthropic_proxy.console.ledger import request_queries as queries
from anthropic_proxy.console.ledger.costs import ModelCosts
from anthropic_proxy.console.ledger.export import tabulate_requests
from anthropic_proxy.console.ledger.records import StoredRequest
from anthropic_proxy.console.ledger.request_queries import SessionRow, read_several_contents
from anthropic_proxy.console.session_names import find_names
from anthropic_proxy.console.units import DAY_SECONDS, MICROSECONDS
from anthropic_proxy.engine.messages.purpose import CLAUDE_CODE, CONVERSATION_KINDS, KINDS_BESIDE
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.money import format_cost

MAX_TURNS = 30
MIN_SHARE_OF_LIMIT = 0.1
"""Share (0 to 1) of the context window that a value must reach, so that the chart also shows the window as a line."""
_MAX_COLUMNS = 60
_MAX_LABELED_BREAKS = 4
_BACKGROUND = "background"
"""Value of the parameter `by` for the requests that Claude Code sends beside the conversation."""
_CLOSE_SECONDS = 600
"""Time between the first and the last request of a chart, below which the axis shows seconds."""


class SessionView(Struct, frozen=True):
    """A session, and the one of its conversations that the page shows."""

    total: SessionRow
    rows: Sequence[StoredRequest]
    """Its latest requests."""
    groups: Mapping[str, str]
    """Request id → conversation: "", the id of a sub-agent, or `_BACKGROUND`."""
    agent: str
    """The shown conversation."""
    shown_rows: Sequence[StoredRequest]
    """Requests of the shown conversation."""
    breaks: Mapping[str, CacheBreak]
    waits: Mapping[str, ToolWait]
    served: Sequence[StoredRequest]
    """Requests of the conversation with the user that have a reply."""
    window: int | None
    """Context window of the latest model, in tokens. None: unknown."""


def build_session_page(context: PageContext) -> Mapping[str, Any] | None:
    """Return the values for the template of the page about the session in the URL. None: the ledger has no
    request of this session.
    """
    view = _read_view(context)
    if view is None:
        return None
    query = context.query
    total = view.total
    rows = view.rows
    shown_rows = view.shown_rows
    earlier = total.sums.cost - sum(row.cost or 0 for row in rows)
    cumulative = dict(zip((row.id for row in rows), accumulate(row.cost or 0 for row in rows), strict=True))

    def measure_cost(group: Sequence[StoredRequest]) -> float | None:
        return float(earlier + cumulative[group[-1].id]) or None

    part, later = page_list(query, shown_rows[::-1], MAX_TURNS, lambda row: row.id)
    hidden = context.open_texts(f"session {total.session}", part.rows)
    texts = read_several_contents(context.connection, [row.id for row in part.rows], ("request", "reply"))
    end = rows[-1].started_at // 60_000_000 * 60 + 60
    costs = _chart(rows, "Cumulative cost", "context", measure_cost, formats.chart_money)
    missing = explain_missing_cost(total.sums, "/dashboard/models#missing-prices")
    return {
        "title": find_names(context.connection, [total])[total.session],
        "session": total.session,
        "verdict": _summarize(view),
        "figures": _list_figures(view),
        "context_chart": _chart(
            shown_rows, "Context", "context", _measure_context, formats.short_count, limit=view.window
        ),
        "cached_chart": _chart(
            shown_rows, "Read from cache", "cached", _measure_cached, "{:.0f} %".format, breaks=view.breaks
        ),
        "time_chart": _chart_times(shown_rows, view.waits),
        "cost_chart": structs.replace(costs, empty_text=missing),
        "agents": [
            (
                query.link(measure=name),
                "Background" if name == _BACKGROUND else f"Sub-agent {name}" if name else "Main",
                sum(view.groups[row.id] == name and bool(row.requested_model) for row in rows),
                name == view.agent,
            )
            for name in _list_conversations(view.groups)
        ],
        "is_background": view.agent == _BACKGROUND,
        "turns": build_turns(part.rows[::-1], texts, view.breaks, view.waits),
        "part": part,
        "first": len(shown_rows) - later - len(part.rows) + 1,
        "turn_count": sum(bool(row.requested_model) for row in shown_rows),
        "has_texts": bool(texts),
        "hidden": hidden,
        "all_rows": query.link_to_requests(total.started_at // 60_000_000 * 60, end),
        "project": rows[-1].project,
        "started": total.started_at,
    }


def _read_view(context: PageContext) -> SessionView | None:
    """None: the ledger has no request of the session. Raises `InvalidRequest` for an unknown sub-agent."""
    query = context.query
    rows = _list_requests(context)
    total = queries.sum_session(context.connection, rows[0].session) if rows else None
    if total is None:
        return None
    has_tools = any(row.tool_count for row in rows if not row.agent)
    groups = {row.id: _BACKGROUND if has_tools and is_background(row) else row.agent for row in rows}
    agents = _list_conversations(groups)
    agent = query.measure if query.measure or "" in agents else agents[0]
    if agent not in agents:
        raise InvalidRequest(f"by: the session has no sub-agent {agent[:40]!r}.", code="dashboard-parameter")
    shown_rows = [row for row in rows if groups[row.id] == agent]
    breaks = find_cache_breaks(shown_rows, ModelCosts(context.settings))
    answered = [row for row in rows if row.all_input_tokens and row.outcome_class != "error"]
    served = [row for row in answered if row.kind in CONVERSATION_KINDS and groups[row.id] == ""]
    window = find_max_input(context, served[-1]) if served else None
    return SessionView(total, rows, groups, agent, shown_rows, breaks, find_tool_waits(shown_rows), served, window)


def _list_requests(context: PageContext) -> Sequence[StoredRequest]:
    session = context.query.facets.get("session", "")
    return queries.list_session_requests(context.connection, session) if session else ()


def _list_conversations(groups: Mapping[str, str]) -> Sequence[str]:
    return list(dict.fromkeys(sorted(groups.values(), key=_BACKGROUND.__eq__)))


def _summarize(view: SessionView) -> str:
    count = view.total.sums.requests
    total = view.total
    verdict = formats.plural(count, "request")
    verdict += f" in {formats.seconds(total.last_at - total.started_at)}." if count > 1 else "."
    if unnamed := sum(not row.requested_model for row in view.rows):
        verdict += f" {unnamed:,} more named no model."
    if count > len(view.rows):
        verdict += f" The charts show the latest {formats.count(len(view.rows))}."
    return verdict


def _list_figures(view: SessionView) -> list[Figure]:
    sums = view.total.sums
    largest = view.total.max_context
    errors = formats.plural(sums.errors, "error")
    if apart := sum(row.outcome_class == "error" and view.groups[row.id] == _BACKGROUND for row in view.rows):
        errors += f", {apart:,} in the background"
    latest = f"{formats.count(view.served[-1].all_input_tokens if view.served else 0)} in the latest request"
    if view.window:
        share = formats.percent(largest, view.window)
        latest = f"{share} of the window of {formats.short_count(view.window)}; {latest}"
    cached = f"{formats.short_count(sums.cache_read_tokens)} tokens"
    if view.breaks:
        cached += f"; {formats.plural(len(view.breaks), 'break')}"
        if more := sum(cache_break.cost or 0 for cache_break in view.breaks.values()):
            cached += f", {format_cost(more)} more"
    cost = formats.UNKNOWN
    cost_note = "no tokens"
    if sums.all_tokens:
        known = sums.requests - sums.unknown_cost_requests
        cost = format_cost(sums.cost, sums.unknown_cost_requests)
        cost_note = "no price is known"
        if sums.known_cost and known:
            cost_note = f"{format_cost(sums.known_cost // known)} per request"
        elif sums.known_cost is not None:
            cost_note = "of all requests"
        if sums.unknown_cost_requests and sums.known_cost:
            cost_note += f"; {sums.unknown_cost_requests:,} unknown"
    return [
        Figure("Requests", formats.count(sums.requests), errors),
        Figure("Cost", cost, cost_note),
        Figure("Largest context", formats.count(largest), latest),
        Figure("Output", formats.count(sums.output_tokens), "tokens"),
        Figure("Input read from cache", formats.percent(sums.cache_read_tokens, sums.all_input_tokens), cached),
    ]


def _measure_context(group: Sequence[StoredRequest]) -> float | None:
    # nothing is counted of a failed request
    return max((row.all_input_tokens for row in group if row.outcome_class != "error"), default=0) or None


def _measure_cached(group: Sequence[StoredRequest]) -> float | None:
    tokens = sum(row.all_input_tokens for row in group if row.outcome_class != "error")
    return 100 * sum(row.cache_read_tokens for row in group) / tokens if tokens else None


def is_background(row: StoredRequest) -> bool:
    """Return True for a request beside the conversation, such as for a title. An earlier version stored no kinds."""
    if row.kind:
        return row.kind in KINDS_BESIDE
    return row.client == CLAUDE_CODE and not row.agent and bool(row.message_count) and not row.tool_count


def _divide(rows: Sequence[StoredRequest]) -> tuple[Sequence[Sequence[StoredRequest]], Sequence[str]]:
    """Return the requests of each column of a chart, and its label."""
    step = -(-len(rows) // _MAX_COLUMNS)
    groups = [rows[start : start + step] for start in range(0, len(rows), step)]
    times = [group[0].started_at for group in groups]
    span = (times[-1] - times[0]) / MICROSECONDS
    if span > DAY_SECONDS / 2:
        return groups, [formats.day_and_time(time) for time in times]
    return groups, [formats.clock_time(time)[: 8 if span < _CLOSE_SECONDS else 5] for time in times]


def _chart_times(rows: Sequence[StoredRequest], waits: Mapping[str, ToolWait]) -> Chart:
    """Stacked bars: the time of each request, and that of the tools that its reply called. Without tools, the chart is
    empty.
    """
    groups, labels = _divide(rows)
    replies = [float(sum(row.duration for row in group)) for group in groups]
    tools = [float(sum(waits[row.id].duration for row in group if row.id in waits)) for group in groups]
    columns = list[ChartColumn]()
    table = [[formats.seconds(round(seconds) or None) for seconds in pair] for pair in zip(replies, tools, strict=True)]
    for group, label, cells in zip(groups, labels, table, strict=True):
        clock = formats.clock_time(group[0].started_at)
        title = f"{clock}: requests = {cells[0]}; tools = {cells[1]}"
        columns.append(ChartColumn(label, clock, title, f"/dashboard/requests/{group[0].id}"))
    parts = [("requests", "output", replies), ("tools", "cache-write", tools)]
    series = [Series(name, role, values, formats.seconds(round(sum(values)))) for name, role, values in parts]
    axis = formats.choose_seconds_axis(max(map(sum, zip(replies, tools, strict=True))))
    return build_chart("Time", series if waits else [], columns, table, axis, is_line=False)


def _chart(
    rows: Sequence[StoredRequest],
    name: str,
    role: str,
    measure: Callable[[Sequence[StoredRequest]], float | None],
    text: Callable[[float], str],
    *,
    limit: int | None = None,
    breaks: Mapping[str, CacheBreak] = {},
) -> Chart:
    """A column has one request, or several adjacent ones of a long session. `limit`: value with a horizontal line,
    unless all values are far below it. `breaks` are marked.
    """
    groups, labels = _divide(rows)
    values = [measure(group) for group in groups]
    columns = list[ChartColumn]()
    bands = list[Band]()
    table = list[list[str]]()
    for index, (group, value) in enumerate(zip(groups, values, strict=True)):
        shown = formats.UNKNOWN if value is None else text(value)
        target = group[0].id
        clock = formats.clock_time(group[0].started_at)
        title = f"{clock}: {name} = {shown}"
        table.append([shown, formats.UNKNOWN] if breaks else [shown])
        if broken := [row.id for row in group if row.id in breaks]:
            target = broken[0]
            cache_break = breaks[broken[0]]
            title += f"; {cache_break.cause} = {cache_break.loss}"
            table[-1][1] = f"{cache_break.cause}: {cache_break.loss}"
            bands.append(
                Band(index, index, cache_break.part or "cache not read" if len(bands) < _MAX_LABELED_BREAKS else "")
            )
        columns.append(ChartColumn(labels[index], clock, title, f"/dashboard/requests/{target}"))
    series = [Series(name, role, values)] if any(value is not None for value in values) else []
    if series and limit and max(value or 0 for value in values) >= limit * MIN_SHARE_OF_LIMIT:
        series.append(Series("context window", "limit", [float(limit)] * len(groups), formats.count(limit)))
        table = [[*cells, formats.count(limit)] for cells in table]
    chart = build_chart(name, series, columns, table, text, is_line=True, bands=bands, area=name)
    return structs.replace(chart, band_title="break")


PAGE = Page(
    section="Sessions",
    template="session.html",
    build=build_session_page,
    tables={"requests": PageTable(lambda context: tabulate_requests(_list_requests(context)))},
    missing="The ledger has no request of this session.",
)
