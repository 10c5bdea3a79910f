"""Columns and rows of the table of requests, and the order of the rows of tables."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Generic, TypeVar

from msgspec import Struct

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.charts import OUTCOME_TITLES
from anthropic_proxy.console.dashboard.query import NO_COLUMNS, ViewQuery
from anthropic_proxy.console.ledger.records import FACETS, NOT_SENT, StoredRequest, UsageSums
from anthropic_proxy.console.ledger.request_queries import SORT_KEYS, SortOrder, list_failed_attempts
from anthropic_proxy.console.ledger.units import MICROSECONDS
from anthropic_proxy.engine.providers import find_registry
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.money import format_cost
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.telemetry.outcomes import describe_outcome
from anthropic_proxy.plugins import Receipt


class RequestColumn(Struct, frozen=True):
    """Column of the table of requests that a user can show or hide. Time, model and outcome are always shown."""

    name: str
    title: str
    text: Callable[[StoredRequest], str]
    description: str = ""
    """Title in the list from which a user chooses columns. "": the same as `title`."""

    @property
    def is_number(self) -> bool:
        return self.name in SORT_KEYS

    @property
    def label(self) -> str:
        return self.description or self.title


def _short(text: str) -> str:
    return (text if len(text) <= 24 else f"{text[:12]}…{text[-8:]}") or formats.UNKNOWN


def _number(value: int, is_known: int) -> str:
    """`is_known`: another number of the request, which is 0 only if no number is known."""
    return formats.count(value) if value or is_known else formats.UNKNOWN


def _cost(row: StoredRequest, nano_dollars: int | None) -> str:
    return format_cost(nano_dollars) if row.all_input_tokens or row.output_tokens else formats.UNKNOWN


COLUMNS: Sequence[RequestColumn] = (
    RequestColumn("project", "Project", lambda row: row.project or formats.UNKNOWN),
    RequestColumn("session", "Session", lambda row: _short(row.session)),
    RequestColumn("agent", "Agent", lambda row: _short(row.agent), "Sub-agent"),
    RequestColumn("kind", "Kind", lambda row: row.kind or formats.UNKNOWN),
    RequestColumn("agent-type", "Agent type", lambda row: row.agent_type or formats.UNKNOWN, "Kind of sub-agent"),
    RequestColumn("verdict", "Verdict", lambda row: row.verdict.replace("_", " ") or formats.UNKNOWN),
    RequestColumn("key", "Key", lambda row: row.key_label or formats.UNKNOWN),
    RequestColumn("program", "Program", lambda row: row.user_agent or formats.UNKNOWN),
    RequestColumn("route", "Route", lambda row: row.route or formats.UNKNOWN),
    RequestColumn("rule", "Rule", lambda row: row.route_reason or formats.UNKNOWN, "Reason for the model"),
    RequestColumn("error", "Error", lambda row: formats.shorten(row.error) or formats.UNKNOWN),
    RequestColumn("messages", "Messages", lambda row: _number(row.message_count, 0)),
    RequestColumn("tools", "Tools", lambda row: _number(row.tool_count, row.message_count)),
    RequestColumn(
        "tool-errors", "Tool errors", lambda row: _number(row.tool_errors, row.message_count), "Tool errors returned"
    ),
    RequestColumn("attempts", "Attempts", lambda row: formats.count(row.attempts)),
    RequestColumn("changes", "Changes", lambda row: formats.count(row.note_count), "Changes by the translation"),
    RequestColumn(
        "prefix-change",
        "Changed prompt",
        lambda row: row.prefix_change or formats.UNKNOWN,
        "Changed part of the prompt",
    ),
    RequestColumn("in", "In", lambda row: _number(row.all_input_tokens, 0), "Input tokens"),
    RequestColumn(
        "cached",
        "Cached",
        lambda row: formats.percent(row.cache_read_tokens, row.all_input_tokens),
        "Share of input read from cache",
    ),
    RequestColumn(
        "cache-write",
        "Cache write",
        lambda row: _number(row.cache_write_tokens, row.all_input_tokens),
        "Cache write tokens",
    ),
    RequestColumn("out", "Out", lambda row: _number(row.output_tokens, row.all_input_tokens), "Output tokens"),
    RequestColumn(
        "thinking", "Thinking", lambda row: _number(row.thinking_tokens, row.output_tokens), "Thinking tokens"
    ),
    RequestColumn("first", "First token", lambda row: formats.seconds(row.first_token or None), "Time to first token"),
    RequestColumn("total", "Total", lambda row: formats.seconds(row.duration), "Total time"),
    RequestColumn("rate", "Speed", lambda row: formats.rate(row.output_rate), "Speed of output"),
    RequestColumn(
        "requested-cost",
        "At Claude's price",
        lambda row: _cost(row, row.requested_cost),
        "Cost at the price of the requested model",
    ),
    RequestColumn("cost", "Cost", lambda row: _cost(row, row.cost)),
)
_BY_NAME: Mapping[str, RequestColumn] = {column.name: column for column in COLUMNS}
DEFAULT_COLUMNS: Sequence[RequestColumn] = tuple(
    _BY_NAME[name] for name in ("project", "in", "cached", "out", "first", "total", "cost")
)


def decode_columns(text: str) -> Sequence[RequestColumn]:
    """Raises `InvalidRequest` for an unknown name."""
    if not text:
        return DEFAULT_COLUMNS
    names = {name for name in text.split(",") if name and name != NO_COLUMNS}
    if unknown := sorted(names - set(_BY_NAME)):
        raise InvalidRequest(
            f"columns: {unknown[0][:40]!r} is not allowed; use {', '.join(_BY_NAME)}.", code="dashboard-parameter"
        )
    return tuple(column for column in COLUMNS if column.name in names)


def format_sums(sums: UsageSums) -> str:
    """Return the cost of several requests as text. Requests without tokens, such as failed ones, have none: `–`."""
    if not sums.has_replies:
        return formats.UNKNOWN
    return formats.cost_with_unknown(sums.cost, sums.unknown_cost_requests)


RowT = TypeVar("RowT")


class SortableColumn(Struct, Generic[RowT], frozen=True):
    name: str
    title: str
    value: Callable[[RowT], float | None]
    """Value by which rows are sorted. None is sorted as 0."""
    description: str = ""
    """Title that is clear without the other columns. "": the same as `title`."""
    ends: tuple[str, str] = ("highest", "lowest")
    """Words for the values that are first in descending and in ascending order."""

    @property
    def is_number(self) -> bool:
        """The template aligns numbers to the right, and their titles are links that sort the rows."""
        return True

    @property
    def label(self) -> str:
        return self.description or self.title


def read_order(text: str, names: Collection[str]) -> SortOrder | None:
    """Return the column and direction of an order in the URL.

    `cost`: lowest first; `-cost`: highest first; None: `text` is empty. Raises `InvalidRequest` for an unknown column.
    """
    if not text:
        return None
    name = text.removeprefix("-")
    if name not in names:
        raise InvalidRequest(
            f"sort: {text[:40]!r} is not allowed; use {', '.join(names)}, or one with - in front.",
            code="dashboard-parameter",
        )
    return SortOrder(name, is_descending=text.startswith("-"))


def sort_rows(rows: Sequence[RowT], columns: Sequence[SortableColumn[RowT]], sort_parameter: str) -> list[RowT]:
    """Return rows in the order of the URL. Raises `InvalidRequest` for a column that is not in `columns`."""
    values = {column.name: column.value for column in columns}
    order = read_order(sort_parameter, values)
    if order is None:
        return list(rows)
    return sorted(rows, key=lambda row: values[order.name](row) or 0, reverse=order.is_descending)


_MAX_SESSION_CHARACTERS = 48


Names = Mapping[tuple[str, str], str]
"""Name of a facet and one of its values → text for the value, if it is not the value itself."""


def name_value(name: str, value: str, names: Names) -> str:
    """Return the text of a value of a facet."""
    if name == "outcome":
        return OUTCOME_TITLES.get(value, (value,))[0]
    if name == "verdict" and value:
        return value.replace("_", " ")
    text = names.get((name, value), value) or FACETS[name].none_text
    return formats.shorten(text, _MAX_SESSION_CHARACTERS) if name == "session" else text


def name_providers(settings: Settings) -> Names:
    """Return the prefixes of providers, by which model ids name them."""
    return {("provider", provider.name): provider.prefix for provider in find_registry(settings)}


def list_filters(query: ViewQuery, names: Names) -> list[tuple[str, str]]:
    """Return text of each filter, and URL of the page without it."""
    return [
        (f"{FACETS[name].title}: {name_value(name, value, names)}", query.link_without_facet(name))
        for name, value in query.facets.items()
    ]


class PagedRows(Struct, Generic[RowT], frozen=True):
    """A part of a list, with the URLs of the parts before and after it. "": there is none."""

    rows: Sequence[RowT]
    newer: str = ""
    older: str = ""


def page_rows(
    query: ViewQuery, found: Sequence[RowT], limit: int, find_position: Callable[[RowT], str]
) -> PagedRows[RowT]:
    """Return the rows of one page, with links to the newer and the older ones.

    `found`: at most `limit` rows and one more, which follow the position `before` of the URL, or precede `after`.
    """
    has_more = len(found) > limit
    if query.after:
        shown = found[-limit:]
        has_newer = has_more
        has_older = True
    else:
        shown = found[:limit]
        has_newer = bool(query.before)
        has_older = has_more
    newer = query.link(after=find_position(shown[0]), before="") if shown and has_newer else ""
    older = query.link(before=find_position(shown[-1]), after="") if shown and has_older else ""
    return PagedRows(shown, newer, older)


def page_list(
    query: ViewQuery, rows: Sequence[RowT], limit: int, find_position: Callable[[RowT], str]
) -> tuple[PagedRows[RowT], int]:
    """Return the part of a complete list that the URL selects, and the number of rows before it. A position that is not
    in the list selects its first part.
    """
    positions = [find_position(row) for row in rows]
    start = 0
    end = len(rows)
    if query.before in positions:
        start = positions.index(query.before) + 1
    elif query.after in positions:
        end = positions.index(query.after)
        start = max(end - limit - 1, 0)
    part = page_rows(query, rows[start:end][: limit + 1], limit, find_position)
    return part, positions.index(find_position(part.rows[0])) if part.rows else 0


class TableRow(Struct, frozen=True, kw_only=True):
    id: str
    time: str
    full_time: str
    prefix: str
    model: str
    provider: str
    subtitle: str
    """Requested model and failed attempts."""
    sign: str
    role: str
    outcome: str
    cells: Mapping[str, str]
    error: str = ""


def build_finished_row(row: StoredRequest, now: float, columns: Sequence[RequestColumn] = DEFAULT_COLUMNS) -> TableRow:
    """`now`: seconds since the epoch."""
    sign, role, outcome = describe_outcome(row.outcome_class, row.outcome, row.status)
    is_exchange = bool(row.requested_model)
    subtitle = f"requested: {_short_model(row.requested_model)}" if is_exchange else "no model"
    failed = [one.replace(" ", "\u00a0") for one in list_failed_attempts(row)]
    return TableRow(
        id=row.id,
        time=formats.list_time(row.started_at, now),
        full_time=formats.full_time(row.started_at),
        prefix=row.prefix or row.provider or (NOT_SENT if is_exchange else f"{row.method} {row.path}".strip()),
        model=row.model,
        provider=row.provider,
        subtitle=subtitle + (f" · ↻\u00a0{formats.shorten(', '.join(failed))}" if failed else ""),
        sign=sign,
        role=role,
        outcome=outcome,
        cells={column.name: column.text(row) for column in columns},
        error="" if any(column.name == "error" for column in columns) else formats.shorten(row.error),
    )


def build_running_row(receipt: Receipt, now: float) -> TableRow:
    """`now`: seconds since the epoch."""
    started = int(receipt.started_at * MICROSECONDS)
    context = receipt.all_input_tokens
    first = receipt.first_token_seconds
    cells = {
        "project": receipt.project,
        "session": receipt.session,
        "agent": receipt.agent,
        "kind": receipt.kind,
        "agent-type": receipt.agent_type,
        "key": receipt.client.name,
        "program": receipt.user_agent,
        "route": receipt.route,
        "rule": receipt.route_reason,
        "messages": formats.count(receipt.message_count),
        "tools": formats.count(receipt.tool_count),
        "in": formats.count(context) if context else "",
        "first": "" if first is None else formats.seconds(first * MICROSECONDS),
        "total": formats.seconds(max(now - receipt.started_at, 0.0) * MICROSECONDS),
    }
    return TableRow(
        id=receipt.request_id,
        time=formats.clock_time(started),
        full_time=formats.full_time(started),
        prefix=receipt.prefix or "waiting",
        model=receipt.model,
        provider=receipt.provider,
        subtitle=f"requested: {_short_model(receipt.requested_model)}",
        sign="●",
        role="run",
        outcome="streaming" if first else "waiting",
        cells=dict.fromkeys((column.name for column in COLUMNS), formats.UNKNOWN)
        | {name: text for name, text in cells.items() if text},
    )


def _short_model(model: str) -> str:
    return model.removeprefix("claude-") or formats.UNKNOWN
