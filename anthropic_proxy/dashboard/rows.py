"""Rows of tables of requests, for finished and for running requests.

A `TableRow` is one row as texts. `build_finished_row` builds it from a stored request. `build_running_row` builds it
from a receipt, the record of a running request. `describe_outcome` returns sign, color and text for the outcome of a
request. `decode_json_list` decodes a list that the ledger (database of requests) stores as JSON text.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from msgspec import Struct

from anthropic_proxy.dashboard import formats
from anthropic_proxy.dashboard.columns import COLUMNS, DEFAULT_COLUMNS, RequestColumn
from anthropic_proxy.ledger.queries import NOT_SENT
from anthropic_proxy.ledger.request_queries import StoredRequest
from anthropic_proxy.ledger.units import MICROSECONDS
from anthropic_proxy.plugins import Receipt

_SIGNS = {"ok": ("✓", "ok"), "retried": ("↻", "warn"), "truncated": ("!", "warn"), "error": ("✕", "error")}
"""Value of `outcome_class` → (sign, CSS class of its color)."""


class TableRow(Struct, frozen=True, kw_only=True):
    """One row of a table of requests, with the texts of its cells."""

    id: str
    time: str
    full_time: str
    prefix: str
    model: str
    provider: str
    subtitle: str
    """Requested model, or the URL path of a request to another endpoint."""
    sign: str
    role: str
    outcome: str
    cells: Mapping[str, str]
    """Name of a column → text of the cell."""


class Outcome(NamedTuple):
    """Outcome of a request for a table, as sign, CSS class and text: `✕`, `error`, `429`."""

    sign: str
    role: str
    """CSS class of the color."""
    text: str


def describe_outcome(row: StoredRequest) -> Outcome:
    """Return sign, color and text for the outcome of the request `row`."""
    sign, role = _SIGNS.get(row.outcome_class, ("–", ""))
    texts = {"error": str(row.status), "retried": "retried", "truncated": "truncated", "cancelled": "cancelled"}
    return Outcome(sign, role, texts.get(row.outcome_class, row.outcome or str(row.status)))


def build_finished_row(
    row: StoredRequest, *, with_day: bool = False, columns: Sequence[RequestColumn] = DEFAULT_COLUMNS
) -> TableRow:
    """Return the table row of a finished request.

    With `with_day`, the time contains the day. `columns` are the columns that the user has chosen.
    """
    sign, role, outcome = describe_outcome(row)
    is_exchange = bool(row.requested_model)
    return TableRow(
        id=row.id,
        time=formats.day_and_time(row.started_at) if with_day else formats.clock_time(row.started_at),
        full_time=formats.full_time(row.started_at),
        prefix=row.prefix or row.provider or (NOT_SENT if is_exchange else f"{row.method} {row.path}".strip()),
        model=row.model,
        provider=row.provider,
        subtitle=f"requested: {_short_model(row.requested_model)}" if is_exchange else "no model",
        sign=sign,
        role=role,
        outcome=outcome,
        cells={column.name: column.text(row) for column in columns},
    )


def build_running_row(receipt: Receipt, now: float) -> TableRow:
    """Return the table row of a running request from its receipt, the record so far.

    `now` is in seconds since the epoch.
    """
    started = int(receipt.started_at * MICROSECONDS)
    context = receipt.input_tokens + receipt.cache_read_tokens + receipt.cache_write_tokens
    first = receipt.first_token_seconds
    cells = {
        "project": receipt.project,
        "session": receipt.session,
        "agent": receipt.agent,
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


def decode_json_list(text: str) -> Sequence[Any]:
    """Return the items of a list that the ledger stores as JSON. An empty `text` stands for an empty list."""
    return json.loads(text) if text else ()


def _short_model(model: str) -> str:
    return model.removeprefix("claude-") or formats.UNKNOWN
