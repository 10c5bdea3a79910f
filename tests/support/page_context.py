"""Input of a page of the dashboard, with a database of a test."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from sqlalchemy import Connection

from anthropic_proxy.console.dashboard.page import PageContext
from anthropic_proxy.console.dashboard.query import read_view_query
from anthropic_proxy.console.dashboard.tables import Cell
from anthropic_proxy.console.ledger.queries import read_ledger_extent
from anthropic_proxy.gateway.settings import Settings
from tests.support.ledger import NOON


def build_context(
    path: str,
    connection: Connection,
    settings: Settings,
    query: Mapping[str, Sequence[str]] | None = None,
    *,
    now: float = NOON + 3_600,
    **fields: Any,
) -> PageContext:
    """Return the input of the page at a URL path. `query`: parameters of the URL. `now`: time of the request."""
    return PageContext(
        query=read_view_query(path, query or {}, now),
        connection=connection,
        facts=read_ledger_extent(connection),
        now=now,
        settings=settings,
        **fields,
    )


def read_table(page: Mapping[str, Any], *names: str) -> list[list[str]]:
    """Return the texts of some columns of the main table of a page, by their names in the URL."""
    return [[read_cell(row.cells[name]) for name in names] for row in page["table"].rows]


def read_cell(cell: Cell) -> str:
    """Return the text of a cell without the small text below it."""
    if cell.model is not None:
        return "/".join(filter(None, cell.model[:2]))
    bars = [bar.text for bar in cell.bars]
    return ", ".join([cell.tag[2]] if cell.tag else bars or [Markup(cell.text).striptags()])
