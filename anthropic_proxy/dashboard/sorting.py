"""Order of table rows by a column with numbers, as the parameter `sort` of the URL names it: `cost`, or `-cost`.

`read_order` checks the parameter. `sort_rows` sorts rows by a `SortableColumn`.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Generic, TypeVar

from msgspec import Struct

from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.ledger.sorted_requests import SortOrder

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
        """True: the texts of the column are aligned to the right, and its title is a link that sorts the rows."""
        return True


def read_order(text: str, names: Collection[str]) -> SortOrder | None:
    """Return the order that `text`, the parameter `sort` of the URL, names.

    `cost`: lowest first. `-cost`: highest first. None: `text` is empty. `names`: names of the columns. Raises
    `InvalidRequest` for any other text.
    """
    if not text:
        return None
    name = text.removeprefix("-")
    if name not in names:
        raise InvalidRequest(f"sort: {text[:40]!r} is not allowed; use {', '.join(names)}, or one with - in front.")
    return SortOrder(name, is_descending=text.startswith("-"))


def sort_rows(rows: Sequence[RowT], columns: Sequence[SortableColumn[RowT]], text: str) -> list[RowT]:
    """Return `rows` in the order that `text`, the parameter `sort` of the URL, names. "": the order is unchanged.

    Raises `InvalidRequest` for an unknown column.
    """
    values = {column.name: column.value for column in columns}
    order = read_order(text, values)
    if order is None:
        return list(rows)
    return sorted(rows, key=lambda row: values[order.name](row) or 0, reverse=order.is_descending)
