"""Order of table rows by a column with numbers, as the URL parameter `sort` requests it.

`sort_rows` sorts rows by a `SortableColumn`. `read_order` checks the parameter and returns the order; `cost` means
lowest cost first, and `-cost` means highest cost first.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Generic, TypeVar

from msgspec import Struct

from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.ledger.request_queries import SortOrder

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
