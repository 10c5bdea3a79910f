"""Page of one session: cost, context, and its conversation.

A session is a conversation of a client such as Claude Code, with conversations of sub-agents.
"""

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import structs

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.charts import Chart, Column, Series, build_chart, explain_missing_cost
from anthropic_proxy.console.dashboard.conversation import build_turns
from anthropic_proxy.console.dashboard.page import Figure, Page, PageContext, Table
from anthropic_proxy.console.dashboard.request import find_context_window
from anthropic_proxy.console.dashboard.sessions import find_names
from anthropic_proxy.console.dashboard.tables import page_rows
from anthropic_proxy.console.ledger import request_queries as queries
from anthropic_proxy.console.ledger.contents import read_several_contents
from anthropic_proxy.console.ledger.export import ExportTable, tabulate_requests
from anthropic_proxy.console.ledger.records import StoredRequest
from anthropic_proxy.console.ledger.units import DAY_SECONDS, MICROSECONDS
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.money import format_cost

MAX_TURNS = 30
MIN_SHARE_OF_LIMIT = 0.1
"""Share (0 to 1) of the context window that a value must reach, so that the chart also shows the window as a line."""
_MAX_COLUMNS = 60
_CLOSE_SECONDS = 600
"""Time between the first and the last request of a chart, below which the axis shows seconds."""


def build_session_page(context: PageContext) -> Mapping[str, Any] | None:
    """Return the values for the template of the page about the session in the URL. None: the ledger (database of
    requests) has no request of this session.
    """
    query, session = context.query, context.query.facets.get("session", "")
    if not session:
        return None
    rows = queries.list_session_requests(context.connection, session)
    total = queries.sum_session(context.connection, session)
    if not rows or total is None:
        return None
    length = rows[-1].started_at + rows[-1].duration - total.started_at
    count = total.sums.requests
    verdict = f"{formats.plural(count, 'request')} in {formats.seconds(length)}."
    if count > len(rows):
        verdict += f" The charts show the latest {formats.count(len(rows))}."
    agents = dict.fromkeys(row.agent for row in rows)
    agent = query.measure if query.measure or "" in agents else next(iter(agents))
    if agent not in agents:
        raise InvalidRequest(f"by: the session has no sub-agent {agent[:40]!r}.", code="dashboard-parameter")
    own = [row for row in rows if row.agent == agent]
    served = [row for row in rows if row.all_input_tokens and row.outcome_class != "error"]
    window = find_context_window(context, served[-1]) if served else None
    # nothing is counted of a failed request
    contexts = [None if row.outcome_class == "error" else float(row.all_input_tokens) or None for row in own]
    earlier = total.sums.cost - sum(row.cost or 0 for row in rows)
    costs: list[float | None] = []
    for row in rows:
        earlier += row.cost or 0
        costs.append(float(earlier))
    sums = total.sums
    known = sums.requests - sums.unknown_cost_requests
    each = "no price is known"
    if sums.known_cost and known:
        each = f"{formats.money(sums.known_cost // known)} per request"
    elif sums.known_cost is not None:
        each = "of all requests"
    if sums.unknown_cost_requests and sums.known_cost:
        each += f"; {sums.unknown_cost_requests:,} unknown"
    latest = f"{formats.count(served[-1].all_input_tokens if served else 0)} in the latest request"
    if window:
        whole = formats.short_count(window)
        latest = f"{formats.percent(total.max_context, window)} of the window of {whole}; {latest}"
    share = formats.percent(sums.cache_read_tokens, sums.all_input_tokens)
    ids, start, stop = [row.id for row in own[::-1]], 0, len(own)
    if query.before in ids:
        start = ids.index(query.before) + 1
    elif query.after in ids:
        stop = ids.index(query.after)
        start = max(stop - MAX_TURNS - 1, 0)
    part = page_rows(query, own[::-1][start:stop][: MAX_TURNS + 1], MAX_TURNS, lambda row: row.id)
    texts = read_several_contents(context.connection, [row.id for row in part.rows], ("request", "reply"))
    end = rows[-1].started_at // 60_000_000 * 60 + 60
    return {
        "title": find_names(context.connection, [total])[session],
        "session": session,
        "verdict": verdict,
        "figures": [
            Figure("Requests", formats.count(sums.requests), formats.plural(sums.errors, "error")),
            Figure("Cost", format_cost(sums.cost, sums.unknown_cost_requests), each),
            Figure("Largest context", formats.count(total.max_context), latest),
            Figure("Output", formats.count(sums.output_tokens), "tokens"),
            Figure("Input read from cache", share, f"{formats.short_count(sums.cache_read_tokens)} tokens"),
        ],
        "context_chart": _chart(own, "Context per request", contexts, formats.short_count, window),
        "cost_chart": structs.replace(
            _chart(rows, "Cumulative cost", costs, formats.chart_money),
            empty_text=explain_missing_cost(total.sums),
        ),
        "agents": [
            (
                query.link(measure=name),
                f"Sub-agent {name}" if name else "Main",
                sum(row.agent == name for row in rows),
                name == agent,
            )
            for name in agents
        ],
        "turns": build_turns(part.rows[::-1], texts),
        "part": part,
        "first": len(own) - start - len(part.rows) + 1,
        "turn_count": len(own),
        "has_texts": bool(texts),
        "all_rows": query.link_to_range(total.started_at // 60_000_000 * 60, end, "/dashboard/requests"),
        "project": rows[-1].project,
        "started": total.started_at,
    }


def _chart(
    rows: list[StoredRequest],
    name: str,
    values: list[float | None],
    text: Callable[[float], str],
    limit: int | None = None,
) -> Chart:
    """`limit`: value with a horizontal line, unless all values are far below it."""
    step = -(-len(rows) // _MAX_COLUMNS)
    picked = list(range(0, len(rows), step))
    shown = [formats.UNKNOWN if (value := values[index]) is None else text(value) for index in picked]
    columns = [
        Column(
            label,
            f"{formats.clock_time(rows[index].started_at)}: {name} = {shown_value}",
            f"/dashboard/requests/{rows[index].id}",
        )
        for index, label, shown_value in zip(picked, _label_times([rows[i] for i in picked]), shown, strict=True)
    ]
    series = [Series(name, "context", [values[index] for index in picked])] if any(values) else []
    if series and limit and max(filter(None, values)) >= limit * MIN_SHARE_OF_LIMIT:
        series.append(Series("context window", "limit", [float(limit)] * len(picked), formats.count(limit)))
    limits = [one.total for one in series[1:]]
    rows_of_table = [[value, *limits] for value in shown]
    return build_chart(name, series, columns, rows_of_table, text, is_line=True, area=name)


def _label_times(rows: list[StoredRequest]) -> list[str]:
    """Return the times of `rows` for an axis: with seconds if they are close together, with days if they are far."""
    span = (rows[-1].started_at - rows[0].started_at) / MICROSECONDS
    if span > DAY_SECONDS / 2:
        return [formats.day_and_time(row.started_at) for row in rows]
    length = 8 if span < _CLOSE_SECONDS else 5
    return [formats.clock_time(row.started_at)[:length] for row in rows]


def _tabulate_session(context: PageContext) -> ExportTable:
    session = context.query.facets.get("session", "")
    return tabulate_requests(queries.list_session_requests(context.connection, session))


PAGE = Page(
    section="Sessions",
    template="session.html",
    build=build_session_page,
    tables={"requests": Table(_tabulate_session)},
    missing="The ledger has no request of this session.",
)
