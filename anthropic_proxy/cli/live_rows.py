"""Texts of the full-screen view `logs --live`.

`build_rows` returns a `Row` for each request, `format_summary` the line above the table, and `describe_request` the
lines about one request.
"""

import statistics
import time
from collections.abc import Iterator, Sequence

from msgspec import Struct

from anthropic_proxy.log import escape_unprintable
from anthropic_proxy.log.request_feed import LoggedRequest
from anthropic_proxy.plugins import Receipt

COLUMNS = ("Time", "Model used", "Requested", "Outcome", "In", "Cached", "Out", "First", "Total")
"""Titles of the table columns, one for each cell of `Row.cells`."""
RATE_WINDOW_SECONDS = 60.0
"""Length in seconds of the period before now from which the requests per minute are computed."""
_MIN_SAMPLES = 2
_SUCCESSES = ("end_turn", "tool_use", "stop_sequence")


class Row(Struct, frozen=True):
    """One request as a row of the table, with the texts of its cells."""

    receipt: Receipt
    cells: tuple[str, ...]
    """Cells in the order of `COLUMNS`."""
    role: str
    """Color role of the outcome: ok, warn, error, quiet."""


def build_rows(
    finished: Sequence[LoggedRequest],
    running: Sequence[Receipt],
    now: float,
    search_words: str = "",
    *,
    failed_only: bool = False,
) -> list[Row]:
    """Return the table rows of running and finished requests, the latest first.

    `now`: seconds since the epoch. `search_words`: only rows that contain each of these words. `failed_only`: only
    failed requests.
    """
    receipts = [*(request.receipt for request in finished), *running]
    receipts.sort(key=lambda receipt: receipt.started_at, reverse=True)
    is_running = {receipt.request_id for receipt in running}
    rows = [_build_row(receipt, now, is_running=receipt.request_id in is_running) for receipt in receipts]
    wanted = search_words.lower().split()
    return [
        row
        for row in rows
        if (not failed_only or row.role == "error")
        and all(word in " ".join((*row.cells, row.receipt.request_id)).lower() for word in wanted)
    ]


def format_summary(address: str, finished: Sequence[LoggedRequest], running: Sequence[Receipt], now: float) -> str:
    """Return the line above the table: address, running requests, requests per minute, time to first token.

    `address`: host and port of the proxy. `now`: seconds since the epoch.
    """
    recent = sum(now - request.receipt.started_at < RATE_WINDOW_SECONDS for request in finished) + len(running)
    text = f"anthropic-proxy  {address}    {len(running)} in flight    {recent}/min"
    times = [first for request in finished if (first := request.receipt.first_token_seconds) is not None]
    if len(times) >= _MIN_SAMPLES:
        points = statistics.quantiles(times, n=20, method="inclusive")
        text += f"    first token p50 {points[9]:.2f}s  p95 {points[18]:.2f}s"
    return text


def describe_request(receipt: Receipt) -> Iterator[str]:
    """Yield lines about one request: its id, route, failed attempts, error and changed fields."""
    yield receipt.request_id
    if receipt.route_reason:
        yield f"route: {receipt.route_reason}"
    if receipt.failed_attempts:
        yield f"↻ {', '.join(receipt.failed_attempts)}"
    if receipt.error:
        yield f"✕ {receipt.error}"
    for note in receipt.notes:
        yield f"{'✕' if note.handling == 'dropped' else '~'} {note.field} {note.handling}: {note.reason}"


def _build_row(receipt: Receipt, now: float, *, is_running: bool) -> Row:
    outcome, role = _describe_outcome(receipt, is_running=is_running)
    context = receipt.input_tokens + receipt.cache_read_tokens + receipt.cache_write_tokens
    total = now - receipt.started_at if is_running else receipt.duration_seconds
    first = receipt.first_token_seconds
    cells = (
        time.strftime("%H:%M:%S", time.localtime(receipt.started_at)),
        f"{receipt.prefix}/{receipt.model}" if receipt.model else "–",
        receipt.requested_model.removeprefix("claude-") or f"{receipt.method} {receipt.path}",
        outcome,
        f"{context:,}" if context else "–",
        f"{receipt.cache_read_tokens / context:.0%}" if receipt.cache_read_tokens else "–",
        f"{receipt.output_tokens:,}" if receipt.output_tokens else "–",
        "–" if first is None else f"{first:.2f}s",
        f"{max(total, 0.0):.1f}s",
    )
    return Row(receipt, tuple(map(escape_unprintable, cells)), role)


def _describe_outcome(receipt: Receipt, *, is_running: bool) -> tuple[str, str]:
    if is_running:
        return ("waiting" if receipt.first_token_seconds is None else "streaming"), "type"
    if receipt.outcome == "cancelled":
        return "– cancelled", "quiet"
    if receipt.outcome == "error" or receipt.status >= 400:
        return f"✕ {receipt.status or 'error'}", "error"
    if receipt.failed_attempts:
        return "↻ retried", "warn"
    if receipt.outcome == "max_tokens":
        return "! truncated", "warn"
    is_success = not receipt.outcome or receipt.outcome in _SUCCESSES
    return f"{'✓' if is_success else '!'} {receipt.outcome or receipt.status}", "ok" if is_success else "warn"
