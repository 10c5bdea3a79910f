"""Tables of pages: their columns, cells and order. Columns and rows of the table of requests."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import quote

from msgspec import Struct, structs
from sqlalchemy import ColumnElement, case

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.charts import OUTCOME_TITLES
from anthropic_proxy.console.dashboard.query import NO_COLUMNS, ViewQuery
from anthropic_proxy.console.ledger.records import FACETS, NOT_SENT, RowBuilder, StoredRequest, UsageSums
from anthropic_proxy.console.ledger.request_queries import list_failed_attempts
from anthropic_proxy.console.ledger.tables import requests
from anthropic_proxy.console.measures import MEASURES
from anthropic_proxy.console.units import MICROSECONDS, to_microseconds
from anthropic_proxy.engine.providers import find_registry
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.money import format_cost
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.telemetry.outcomes import describe_outcome
from anthropic_proxy.plugins import Cost, Receipt

RowT = TypeVar("RowT")
RowT_contra = TypeVar("RowT_contra", contravariant=True)
_SHORT_CHARACTERS = 24
_MAX_ERROR_CHARACTERS = 240
_MAX_PAUSE = 60 * MICROSECONDS
"""Longest time between two equal failures that a page shows as one."""
_PLACES = ("a-", "full")
"""Beginnings of styles by which a column has its place on a phone."""


class ShareBar(Struct, frozen=True):
    """A share of a whole, as text and as a bar."""

    text: str
    share: float | None
    """0 to 1. None: unknown, and no bar is drawn."""
    whole: str
    """Words for the whole, as in 20 % of the budget."""
    role: str = "accent"


class Cell(Struct, frozen=True, kw_only=True):
    """Content of a cell: a text, and what stands around it."""

    text: str = ""
    href: str = ""
    """Link of the text. "": none."""
    label: str = ""
    """Text of the link for screen readers. "": the text itself."""
    title: str = ""
    """Text that appears when the mouse points at the text, such as the full time."""
    model: tuple[str, str, str] | None = None
    """Prefix, model and provider, in place of a text."""
    tag: tuple[str, str, str] | None = None
    """Sign, CSS class and text of a state, in place of a text."""
    line: Sequence[float | None] = ()
    """Values of a small line without axes, in place of a text."""
    bars: Sequence[ShareBar] = ()
    lines: Sequence[tuple[str, str]] = ()
    """Pairs of a quiet title and a text, each in a line of its own."""
    note: str = ""
    """Small text below."""
    phone_note: str = ""
    """The same on a phone only, behind `note`."""
    more: str = ""
    """Link behind the text to the requests that it describes. "": none."""
    style: str = ""
    """CSS classes of this cell, beside those of its column."""


class TableColumn(Struct, Generic[RowT_contra], frozen=True):
    """Column of a table: its titles, its cells, and how it is sorted."""

    name: str
    """Name in the URL."""
    title: str
    text: Callable[[RowT_contra], str | Cell] = lambda _: ""
    """A page adds a cell that depends on more than the row."""
    sort: Callable[[RowT_contra], float | None] | ColumnElement[Any] | None = None
    """Value by which rows are sorted, None as 0, or its expression for the database. None: the title is no link."""
    description: str = ""
    """Title that is clear without the other columns. "": the same as `title`."""
    ends: tuple[str, str] = ("highest", "lowest")
    """Words for the values that are first in descending and in ascending order."""
    style: str = ""
    """CSS classes of the cells. The first one is the place on a phone: `a-…`, or `full` for a line of its own. Without
    a place, a phone shows the column only if the table is sorted by it."""
    phone_label: str = ""
    """Title on a phone, beside a cell with a place."""
    is_number: bool | None = None
    """True: aligned to the right. None: as the column can be sorted."""
    is_time: bool = False
    """True if rows are in the order of this column by default. Its title restores this order."""
    is_early: bool = False
    """True if a running request has the value too."""

    @property
    def has_numbers(self) -> bool:
        return self.sort is not None if self.is_number is None else self.is_number

    @property
    def label(self) -> str:
        return self.description or self.title


class Row(Struct, frozen=True, kw_only=True):
    id: str
    cells: Mapping[str, Cell]
    """Name of a column → its cell."""
    is_link: bool = True
    """True if a click on the row follows its first link."""
    error: str = ""
    """Text below the row, in the color of errors."""


class Table(Struct, frozen=True, kw_only=True):
    """A table of a page, as the template shows it."""

    caption: str
    columns: Sequence[TableColumn[Any]]
    rows: Sequence[Row]
    id: str = "rows"
    style: str = ""
    query: ViewQuery | None = None
    """URL of the page, for links that sort the rows. None: the rows have a fixed order."""
    order: str = ""
    """Present order, in the form of the URL. "": the default order."""
    default_order: str = ""
    """Words for the default order: `label`."""
    shows_all: bool = False
    """True if a phone shows all columns, because the user has chosen them."""

    @property
    def sortable_columns(self) -> Sequence[TableColumn[Any]]:
        return [column for column in self.columns if column.sort is not None]

    def find_style(self, column: TableColumn[Any], cell: Cell) -> str:
        """CSS classes of a cell. "": a number that phones do not show, as most cells of a table."""
        place = column.style
        if not place.startswith(_PLACES):
            place = f"{'full' if self._is_shown(column) else 'extra'} {place}"
        words = f"{'num ' if column.has_numbers else ''}{place} {cell.style}".split()
        return "" if words == ["num", "extra"] else " ".join(words)

    def find_phone_label(self, column: TableColumn[Any]) -> str:
        if column.style.startswith(_PLACES):
            return column.phone_label
        return column.label if self._is_shown(column) else ""

    def _is_shown(self, column: TableColumn[Any]) -> bool:
        return self.shows_all or self.order.lstrip("-") == column.name


def build_table(
    caption: str,
    columns: Sequence[TableColumn[RowT]],
    rows: Iterable[RowT],
    name_row: Callable[[RowT], str] | None = None,
    *,
    is_link: bool = True,
    **fields: Any,
) -> Table:
    """`name_row` None: a row has no name but its place. `fields`: further fields of the table. Its order is
    that of `query` by default.
    """
    built = []
    for place, row in enumerate(rows, 1):
        contents = ((column.name, column.text(row)) for column in columns)
        cells = {name: Cell(text=content) if isinstance(content, str) else content for name, content in contents}
        built.append(Row(id=str(place) if name_row is None else name_row(row), cells=cells, is_link=is_link))
    if (query := fields.get("query")) is not None:
        fields.setdefault("order", query.order)
    return Table(caption=caption, columns=columns, rows=built, **fields)


def fit_text(text: str, style: str = "wrap") -> Cell:
    """Return a cell with the CSS class `style`. A short text has one line."""
    return Cell(text=text, style=f"{style} nowrap" if len(text) <= _SHORT_CHARACTERS else style)


_stored = requests.c
_context = _stored.input_tokens + _stored.cache_read_tokens + _stored.cache_write_tokens
_cached_share = case((_context > 0, _stored.cache_read_tokens * 10_000 // _context), else_=None)


def _short(text: str) -> str:
    return text if len(text) <= _SHORT_CHARACTERS else f"{text[:12]}…{text[-8:]}"


def _label(name: str, title: str, field: str, description: str = "") -> TableColumn[StoredRequest]:
    """Column of a text of the receipt."""
    return TableColumn(name, title, attrgetter(field), description=description, is_early=True)


def _count(
    name: str, title: str, field: str, known: str, description: str = "", *, is_early: bool = False
) -> TableColumn[StoredRequest]:
    """Column of a number. `known`: another number of the request, which is 0 only if no number is known."""
    find = attrgetter(field)
    find_known = attrgetter(known)

    def show(row: StoredRequest) -> str:
        return formats.count(find(row)) if find(row) or find_known(row) else formats.UNKNOWN

    return TableColumn(name, title, show, _stored[field], description, is_early=is_early)


def _duration(name: str, title: str, field: str, description: str) -> TableColumn[StoredRequest]:
    find = attrgetter(field)
    return TableColumn(
        name, title, lambda row: formats.seconds(find(row) or None), _stored[field], description, is_early=True
    )


def _cost(name: str, title: str, field: str, description: str = "", style: str = "") -> TableColumn[StoredRequest]:
    find = attrgetter(field)

    def show(row: StoredRequest) -> str:
        return format_cost(find(row)) if row.all_input_tokens or row.output_tokens else formats.UNKNOWN

    return TableColumn(name, title, show, _stored[field], description, style=style)


RequestColumns = Sequence[TableColumn[StoredRequest]]
COLUMNS: RequestColumns = (
    _label("project", "Project", "project"),
    TableColumn("session", "Session", lambda row: _short(row.session), is_early=True),
    TableColumn("agent", "Agent", lambda row: _short(row.agent), description="Sub-agent", is_early=True),
    _label("kind", "Kind", "kind"),
    _label("agent-type", "Agent type", "agent_type", "Kind of sub-agent"),
    TableColumn("verdict", "Verdict", lambda row: row.verdict.replace("_", " ")),
    _label("key", "Key", "key_label"),
    _label("program", "Program", "user_agent"),
    _label("route", "Route", "route"),
    _label("rule", "Rule", "route_reason", "Reason for the model"),
    TableColumn("error", "Error", lambda row: formats.shorten(row.error)),
    _count("messages", "Messages", "message_count", "message_count", is_early=True),
    _count("tools", "Tools", "tool_count", "message_count", is_early=True),
    _count("tool-errors", "Tool errors", "tool_errors", "message_count", "Tool errors returned"),
    TableColumn("attempts", "Attempts", lambda row: formats.count(row.attempts), _stored.attempts),
    _count("changes", "Changes", "note_count", "id", "Changes by the translation"),
    TableColumn("prefix-change", "Changed prompt", attrgetter("prefix_change"), None, "Changed part of the prompt"),
    TableColumn(
        "in", "In", lambda row: formats.count(row.all_input_tokens or None), _context, "Input tokens", is_early=True
    ),
    TableColumn(
        "cached",
        "Cached",
        lambda row: formats.percent(row.cache_read_tokens, row.all_input_tokens),
        _cached_share,
        "Share of input read from cache",
        style="muted",
    ),
    _count("cache-write", "Cache write", "cache_write_tokens", "all_input_tokens", "Cache write tokens"),
    _count("out", "Out", "output_tokens", "all_input_tokens", "Output tokens"),
    _count("thinking", "Thinking", "thinking_tokens", "output_tokens", "Thinking tokens"),
    _duration("first", "First token", "first_token", "Time to first token"),
    _duration("total", "Total", "duration", "Total time"),
    TableColumn("rate", "Speed", lambda row: formats.rate(row.output_rate), _stored.output_rate, "Speed of output"),
    _cost("requested-cost", "At Claude's price", "requested_cost", "Cost at the price of the requested model"),
    _cost("cost", "Cost", "cost", style="a-cost"),
)
"""Columns of the table of requests that a user can show, hide or sort by. Time, model and outcome are always shown. A
text that is "" becomes `–`."""
_BY_NAME = {column.name: column for column in COLUMNS}
DEFAULT_COLUMNS = tuple(_BY_NAME[name] for name in ("project", "in", "cached", "out", "first", "total", "cost"))


def decode_columns(text: str) -> RequestColumns:
    """Raises `InvalidRequest` for an unknown name."""
    if not text:
        return DEFAULT_COLUMNS
    names = {name for name in text.split(",") if name and name != NO_COLUMNS}
    if unknown := sorted(names - set(_BY_NAME)):
        allowed = ", ".join(_BY_NAME)
        raise InvalidRequest(f"columns: {unknown[0][:40]!r} is not allowed; use {allowed}.", code="dashboard-parameter")
    return tuple(column for column in COLUMNS if column.name in names)


def read_order(text: str, columns: Sequence[TableColumn[RowT]]) -> tuple[TableColumn[RowT], bool] | None:
    """Return the column by which the URL sorts, and True for highest first.

    `cost`: lowest first; `-cost`: highest first; None: `text` is empty. Raises `InvalidRequest` for an unknown column.
    """
    if not text:
        return None
    sortable = {column.name: column for column in columns if column.sort is not None}
    if (column := sortable.get(text.removeprefix("-"))) is None:
        raise InvalidRequest(
            f"sort: {text[:40]!r} is not allowed; use {', '.join(sortable)}, or one with - in front.",
            code="dashboard-parameter",
        )
    return column, text.startswith("-")


def sort_rows(rows: Sequence[RowT], columns: Sequence[TableColumn[RowT]], sort_parameter: str) -> list[RowT]:
    """Return rows in the order of the URL. Raises `InvalidRequest` for a column that is not in `columns`."""
    if (order := read_order(sort_parameter, columns)) is None:
        return list(rows)
    sort = order[0].sort
    assert callable(sort)
    return sorted(rows, key=lambda row: sort(row) or 0, reverse=order[1])


class RowWithSums(Protocol):
    @property
    def sums(self) -> UsageSums: ...


def measure_column(name: str) -> TableColumn[RowWithSums]:
    """Return the column of a measure."""
    measure = MEASURES[name]
    return TableColumn(
        name,
        measure.page_title or measure.title,
        lambda row: measure.show(row.sums),
        lambda row: measure.find(row.sums),
        measure.description,
        style=measure.style,
        phone_label=measure.phone_label,
    )


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
    query: ViewQuery, rows: Sequence[RowT], limit: int, find_position: Callable[[RowT], str]
) -> PagedRows[RowT]:
    """Return the rows of one page, with links to the newer and the older ones.

    `rows`: at most `limit` rows and one more, which follow the position `before` of the URL, or precede `after`.
    """
    shown = rows[-limit:] if query.after else rows[:limit]
    has_more = len(rows) > limit
    has_newer, has_older = (has_more, True) if query.after else (bool(query.before), has_more)
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


_TIME = TableColumn[StoredRequest]("time", "Time", style="a-when nowrap", is_time=True)
_MODEL = TableColumn[StoredRequest]("model", "Model used", style="a-what")
_OUTCOME = TableColumn[StoredRequest]("outcome", "Outcome", style="a-state")


def build_request_table(
    rows: Sequence[Row],
    caption: str,
    name: str = "rows",
    columns: RequestColumns = DEFAULT_COLUMNS,
    query: ViewQuery | None = None,
) -> Table:
    """`name`: id of the table in the page."""
    texts = [column for column in columns if not column.has_numbers]
    numbers = [column for column in columns if column.has_numbers]
    shown = [_TIME, *texts, _MODEL, _OUTCOME, *numbers]
    table = Table(caption=caption, columns=shown, rows=rows, id=name, style="requests")
    if query is None:
        return table
    return structs.replace(table, query=query, order=query.order, shows_all=bool(query.columns))


def _build_request_row(
    row: StoredRequest, columns: RequestColumns, *, time: str, name: str, note: str, tag: tuple[str, str, str]
) -> Row:
    """`name`: prefix of the provider, or the words in its place."""
    cells = {}
    for column in columns:
        content = column.text(row) or formats.UNKNOWN
        if isinstance(content, str):
            content = Cell(text=content) if column.has_numbers else fit_text(content, "text")
        cells[column.name] = content
    href = f"/dashboard/requests/{quote(row.id, safe='')}"
    cells["time"] = Cell(text=time, href=href, title=formats.full_time(row.started_at))
    error = "" if "error" in cells else formats.shorten(row.error, _MAX_ERROR_CHARACTERS)
    cells["model"] = Cell(model=(name, row.model, row.provider), note=note)
    cells["outcome"] = Cell(tag=tag)
    return Row(id=row.id, cells=cells, error=error)


def count_equal_failures(rows: Iterable[StoredRequest]) -> list[tuple[StoredRequest, int]]:
    """Return rows, the latest first, without those that repeat the failure of the row before, and for each its number
    of equal failures.
    """
    counted: list[tuple[StoredRequest, int]] = []
    previous: StoredRequest | None = None
    for row in rows:
        if previous is not None and _is_equal_failure(row, previous):
            counted[-1] = counted[-1][0], counted[-1][1] + 1
        else:
            counted.append((row, 1))
        previous = row
    return counted


_find_failure = attrgetter(
    "error", "status", "outcome", "prefix", "model", "requested_model", "session", "agent", "project", "key_label"
)


def _is_equal_failure(row: StoredRequest, later: StoredRequest) -> bool:
    is_near = later.started_at - row.started_at <= _MAX_PAUSE
    return bool(row.error) and is_near and _find_failure(row) == _find_failure(later)


def build_finished_row(
    row: StoredRequest, now: float, columns: RequestColumns = DEFAULT_COLUMNS, *, count: int = 1
) -> Row:
    """`now`: seconds since the epoch. `count`: number of equal failures that the row stands for."""
    is_exchange = bool(row.requested_model)
    note = f"requested: {_short_model(row.requested_model)}" if is_exchange else "no model"
    if failed := [attempt.replace(" ", "\u00a0") for attempt in list_failed_attempts(row)]:
        note += f" · ↻\u00a0{formats.shorten(', '.join(failed))}"
    sign, role, text = describe_outcome(row.outcome_class, row.outcome, row.status)
    return _build_request_row(
        row,
        columns,
        time=formats.list_time(row.started_at, now),
        name=row.prefix or row.provider or (NOT_SENT if is_exchange else f"{row.method} {row.path}".strip()),
        note=note,
        tag=(sign, role, f"{text} × {count}" if count > 1 else text),
    )


def build_running_row(receipt: Receipt, now: float, columns: RequestColumns = DEFAULT_COLUMNS) -> Row:
    """`now`: seconds since the epoch."""
    row = RowBuilder(()).build(receipt, Cost(None, None, ""))
    row.duration = to_microseconds(max(now - receipt.started_at, 0.0))
    built = _build_request_row(
        row,
        [column for column in columns if column.is_early],
        time=formats.clock_time(row.started_at),
        name=receipt.prefix or "waiting",
        note=f"requested: {_short_model(receipt.requested_model)}",
        tag=("●", "run", "streaming" if receipt.first_token_seconds else "waiting"),
    )
    later = {column.name: Cell(text=formats.UNKNOWN) for column in columns}
    return structs.replace(built, cells={**later, **built.cells})


def _short_model(model: str) -> str:
    return model.removeprefix("claude-") or formats.UNKNOWN
