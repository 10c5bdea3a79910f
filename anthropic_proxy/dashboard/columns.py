"""Columns of the table of requests that a user can choose.

`COLUMNS` lists them, and `decode_columns` reads the choice from the URL. A `RequestColumn` has a title, and a
function that returns the text for a request.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Generic, TypeVar

from msgspec import Struct

from anthropic_proxy.dashboard import formats
from anthropic_proxy.dashboard.view_query import NO_COLUMNS
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.ledger.request_queries import SORT_KEYS, SortOrder, StoredRequest


class RequestColumn(Struct, frozen=True):
    """Column of the table of requests that a user can show or hide. Time, model and outcome are always shown."""

    name: str
    """Name of the column in the URL."""
    title: str
    text: Callable[[StoredRequest], str]
    """Function that returns the text of the cell for a request."""
    description: str = ""
    """Title in the list from which a user chooses columns. "": the same as `title`."""

    @property
    def is_number(self) -> bool:
        """True if the column has numbers, by which the rows can be sorted."""
        return self.name in SORT_KEYS

    @property
    def label(self) -> str:
        """Title of the column in the list from which a user chooses columns."""
        return self.description or self.title


def _short(text: str) -> str:
    """Return the beginning and the end of `text`, such as a session id.

    The page of the request shows the complete text.
    """
    return (text if len(text) <= 24 else f"{text[:12]}…{text[-8:]}") or formats.UNKNOWN


def _number(value: int) -> str:
    return formats.count(value) if value else formats.UNKNOWN


def _cost(row: StoredRequest) -> str:
    return formats.money(row.cost) if row.all_input_tokens or row.output_tokens else formats.UNKNOWN


def _requested_cost(row: StoredRequest) -> str:
    return formats.money(row.requested_cost) if row.all_input_tokens or row.output_tokens else formats.UNKNOWN


def _cached(row: StoredRequest) -> str:
    return formats.percent(row.cache_read_tokens, row.all_input_tokens) if row.cache_read_tokens else formats.UNKNOWN


COLUMNS: Sequence[RequestColumn] = (
    RequestColumn("project", "Project", lambda row: row.project or formats.UNKNOWN),
    RequestColumn("session", "Session", lambda row: _short(row.session)),
    RequestColumn("agent", "Agent", lambda row: _short(row.agent), "Sub-agent"),
    RequestColumn("key", "Key", lambda row: row.key_label or formats.UNKNOWN),
    RequestColumn("program", "Program", lambda row: row.user_agent or formats.UNKNOWN),
    RequestColumn("route", "Route", lambda row: row.route or formats.UNKNOWN),
    RequestColumn("rule", "Rule", lambda row: row.route_reason or formats.UNKNOWN, "Reason for the model"),
    RequestColumn("error", "Error", lambda row: formats.shorten(row.error) or formats.UNKNOWN),
    RequestColumn("messages", "Messages", lambda row: _number(row.message_count)),
    RequestColumn("tools", "Tools", lambda row: _number(row.tool_count)),
    RequestColumn("tool-errors", "Tool errors", lambda row: _number(row.tool_errors), "Tool errors returned"),
    RequestColumn("attempts", "Attempts", lambda row: _number(row.attempts)),
    RequestColumn("changes", "Changes", lambda row: _number(row.note_count), "Changes by the translation"),
    RequestColumn("in", "In", lambda row: _number(row.all_input_tokens), "Input tokens"),
    RequestColumn("cached", "Cached", _cached, "Share of input read from cache"),
    RequestColumn("cache-write", "Cache write", lambda row: _number(row.cache_write_tokens), "Cache write tokens"),
    RequestColumn("out", "Out", lambda row: _number(row.output_tokens), "Output tokens"),
    RequestColumn("thinking", "Thinking", lambda row: _number(row.thinking_tokens), "Thinking tokens"),
    RequestColumn("first", "First token", lambda row: formats.seconds(row.first_token or None), "Time to first token"),
    RequestColumn("total", "Total", lambda row: formats.seconds(row.duration), "Total time"),
    RequestColumn("rate", "Speed", lambda row: formats.rate(row.output_rate), "Speed of output"),
    RequestColumn("requested-cost", "Requested model", _requested_cost, "Cost at the requested model"),
    RequestColumn("cost", "Cost", _cost),
)
"""All columns that can be chosen, in the order of the table."""
_BY_NAME: Mapping[str, RequestColumn] = {column.name: column for column in COLUMNS}
DEFAULT_COLUMNS: Sequence[RequestColumn] = tuple(
    _BY_NAME[name] for name in ("project", "in", "cached", "out", "first", "total", "cost")
)


def decode_columns(text: str) -> Sequence[RequestColumn]:
    """Return the columns that the URL parameter `columns` selects, in the order of the table.

    Raises `InvalidRequest` for an unknown name.
    """
    if not text:
        return DEFAULT_COLUMNS
    names = {name for name in text.split(",") if name and name != NO_COLUMNS}
    if unknown := sorted(names - set(_BY_NAME)):
        raise InvalidRequest(f"columns: {unknown[0][:40]!r} is not allowed; use {', '.join(_BY_NAME)}.")
    return tuple(column for column in COLUMNS if column.name in names)


RowT = TypeVar("RowT")


class SortableColumn(Struct, Generic[RowT], frozen=True):
    """Column of a table by which the rows can be sorted."""

    name: str
    """Name of the column in the URL."""
    title: str
    value: Callable[[RowT], float | None]
    """Function that returns the value of a row by which the rows are sorted. None: unknown, sorted as 0."""

    @property
    def is_number(self) -> bool:
        """Always True, because tables are only sorted by columns with numbers.

        The template then aligns the column to the right, and makes its title a link that sorts the rows.
        """
        return True


def read_order(text: str, names: Collection[str]) -> SortOrder | None:
    """Return the order that the URL parameter `sort` requests: `cost` for lowest first, `-cost` for highest first.

    None: `text` is empty. Raises `InvalidRequest` for an unknown column.
    """
    if not text:
        return None
    name = text.removeprefix("-")
    if name not in names:
        raise InvalidRequest(f"sort: {text[:40]!r} is not allowed; use {', '.join(names)}, or one with - in front.")
    return SortOrder(name, is_descending=text.startswith("-"))


def sort_rows(rows: Sequence[RowT], columns: Sequence[SortableColumn[RowT]], sort_parameter: str) -> list[RowT]:
    """Return `rows` in the order that `sort_parameter`, the URL parameter `sort`, requests.

    Raises `InvalidRequest` for a column that is not in `columns`.
    """
    values = {column.name: column.value for column in columns}
    order = read_order(sort_parameter, values)
    if order is None:
        return list(rows)
    return sorted(rows, key=lambda row: values[order.name](row) or 0, reverse=order.is_descending)
