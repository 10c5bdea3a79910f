"""Full-screen view of `logs --live`: running and finished requests of the proxy, in a table that updates itself.

Textual calls the methods of the view: `on_*` for events, and `action_*` for the keys in `BINDINGS`.
"""

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import ClassVar

from msgspec import Struct
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Input, Static

from anthropic_proxy.cli.request_updates import RequestUpdate
from anthropic_proxy.console import formats
from anthropic_proxy.console.units import MICROSECONDS
from anthropic_proxy.errors import ProxyError
from anthropic_proxy.gateway.telemetry.log.columns import count_columns, cut
from anthropic_proxy.gateway.telemetry.log.lines import escape_unprintable
from anthropic_proxy.gateway.telemetry.logged_requests import LoggedRequest
from anthropic_proxy.gateway.telemetry.outcomes import VERDICTS, classify_outcome, describe_check, describe_outcome
from anthropic_proxy.plugins import Receipt

COLUMNS = ("Time", "Model used", "Requested", "Outcome", "In", "Cached", "Out", "First", "Total")
"""Titles of the table columns, one for each cell of `Row.cells`."""
RATE_WINDOW_SECONDS = 60.0
"""Length in seconds of the period before now from which the requests per minute are computed."""
_MIN_SAMPLES = 2


class RequestRow(Struct, frozen=True):
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
) -> list[RequestRow]:
    """Return the table rows of running and finished requests, the latest first.

    `now`: seconds since the epoch. `search_words`: only rows that contain each of these words. `failed_only`: only
    failed requests.
    """
    receipts = [*(request.receipt for request in finished), *running]
    receipts.sort(key=lambda receipt: receipt.started_at, reverse=True)
    is_running = {receipt.request_id for receipt in running}
    rows = []
    for receipt in receipts:
        if receipt.request_id in is_running:
            outcome = "waiting" if receipt.first_token_seconds is None else "streaming"
            role = "type"
        else:
            sign, role, text = describe_outcome(classify_outcome(receipt), receipt.outcome, receipt.status)
            outcome = f"{sign} {text}"
        context = receipt.all_input_tokens
        total = now - receipt.started_at if receipt.request_id in is_running else receipt.duration_seconds
        first = receipt.first_token_seconds
        cells = (
            formats.list_time(receipt.started_at * MICROSECONDS, now),
            f"{receipt.prefix}/{receipt.model}" if receipt.model else "–",
            receipt.requested_model.removeprefix("claude-") or f"{receipt.method} {receipt.path}",
            outcome,
            f"{context:,}" if context else "–",
            formats.percent(receipt.cache_read_tokens, context) if receipt.cache_read_tokens else formats.UNKNOWN,
            f"{receipt.output_tokens:,}" if receipt.output_tokens else "–",
            formats.seconds(None if first is None else first * MICROSECONDS),
            formats.seconds(max(total, 0.0) * MICROSECONDS),
        )
        rows.append(RequestRow(receipt, tuple(map(escape_unprintable, cells)), role))
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
    text = f"{address} · {len(running)} in flight · {recent}/min"
    times = [first for request in finished if (first := request.receipt.first_token_seconds) is not None]
    if len(times) >= _MIN_SAMPLES:
        points = statistics.quantiles(times, n=20, method="inclusive")
        p50 = formats.seconds(points[9] * MICROSECONDS)
        p95 = formats.seconds(points[18] * MICROSECONDS)
        text += f" · first token p50 {p50}, p95 {p95}"
    return text


def describe_request(receipt: Receipt) -> Iterator[str]:
    """Yield lines about one request: its id, route, failed attempts, error, verdicts and changed fields."""
    yield receipt.request_id
    if receipt.route_reason:
        yield f"route: {receipt.route_reason}"
    if receipt.failed_attempts:
        yield f"↻ {', '.join(receipt.failed_attempts)}"
    if receipt.error:
        yield f"✕ {receipt.error}"
    for check in receipt.checks:
        yield f"{VERDICTS[check.verdict].sign} {check.tool}: {describe_check(check)}"
    for note in receipt.notes:
        yield f"{'✕' if note.handling == 'dropped' else '~'} {note.field} {note.handling}: {note.reason}"


MAX_ROWS = 500
"""Maximum number of finished requests in the table of the view."""
REFRESH_SECONDS = 1.0
"""Interval in seconds at which the durations of running requests are updated."""
_STYLES = {"ok": "green", "warn": "yellow", "error": "bold red", "quiet": "dim", "type": "cyan"}
_MIN_WIDTH_OF_ALL_COLUMNS = 100
"""Width of the terminal below which the requested model is left out; the line about the selected row explains it."""
_MODEL = "Model used"
_MIN_MODEL = 12
_CELL_PADDING = 2
_NUMBER_COLUMNS = frozenset({"In", "Cached", "Out", "First", "Total"})


class LiveView(App[None]):
    """Full-screen view of the recent and running requests of one proxy.

    `updates` yields the changes of the requests. A daemon thread reads them, because a read may wait for seconds.
    """

    CSS = """
    #summary { text-style: bold; }
    #details { height: auto; max-height: 8; border-top: solid $primary; }
    DataTable { height: 1fr; }
    DataTable > .datatable--header { background: $background; color: $foreground; text-style: bold underline; }
    DataTable > .datatable--cursor { background: $background; color: $foreground; text-style: bold reverse; }
    DataTable:focus > .datatable--cursor { background: $background; color: $foreground; text-style: bold reverse; }
    #filter { display: none; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "filter"),
        Binding("e", "toggle_errors", "errors only"),
        Binding("p", "toggle_pause", "pause"),
        Binding("y", "copy_id", "copy id"),
        Binding("escape", "clear_filter", "clear", show=False),
        Binding("question_mark", "show_help_panel", "keys"),
        Binding("q", "quit", "quit"),
    ]

    def __init__(
        self, address: str, updates: Iterable[RequestUpdate], *, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(ansi_color=True)
        self.theme = "ansi-light"  # the colors of the terminal, readable on a dark background too
        self.reader = threading.Thread(target=self._read_updates, daemon=True)
        self._address = address
        self._request_updates = updates
        self._now = clock
        self._ended_requests: deque[LoggedRequest] = deque(maxlen=MAX_ROWS)
        self._in_flight: list[Receipt] = []
        self._request_rows: list[RequestRow] = []
        self._titles: tuple[str, ...] = COLUMNS
        self._words = ""
        self._errors_only = self._is_paused = False
        self._is_connected = True

    def compose(self) -> ComposeResult:
        yield Static(id="summary", markup=False)
        yield DataTable(cursor_type="row", zebra_stripes=False)
        yield Static(id="details", markup=False)
        yield Input(id="filter", placeholder="words in a row, for example: groq 429")
        yield Footer()

    def on_mount(self) -> None:
        table = self._table
        if self.size.width < _MIN_WIDTH_OF_ALL_COLUMNS:
            self._titles = tuple(title for title in COLUMNS if title != "Requested")
        for title in self._titles:
            table.add_column(Text(title, justify="right" if title in _NUMBER_COLUMNS else "left"), key=title)
        table.focus()
        self.set_interval(REFRESH_SECONDS, self._show_all)
        self._show_all()
        self.reader.start()

    def _read_updates(self) -> None:
        try:
            for update in self._request_updates:
                self.call_from_thread(self.apply_update, update)
        except ProxyError as error:
            self.call_from_thread(self.exit, return_code=1, message=error.message)
        except RuntimeError:
            if self.is_running:
                raise

    def apply_update(self, update: RequestUpdate) -> None:
        self._ended_requests.extend(update.finished)
        if update.running is not None:
            self._in_flight = update.running
        ended = {request.receipt.request_id for request in update.finished}
        self._in_flight = [receipt for receipt in self._in_flight if receipt.request_id not in ended]
        self._is_connected = update.is_connected
        self._show_all()

    def action_filter(self) -> None:
        field = self.query_one("#filter", Input)
        field.display = True
        field.focus()

    def action_clear_filter(self) -> None:
        """Show all rows, and hide the list of keys."""
        self.action_hide_help_panel()
        field = self.query_one("#filter", Input)
        field.value = ""
        field.display = False
        self._table.focus()

    def action_toggle_errors(self) -> None:
        self._errors_only = not self._errors_only
        self._show_all()

    def action_toggle_pause(self) -> None:
        self._is_paused = not self._is_paused
        self._show_all()

    def action_copy_id(self) -> None:
        if row := self._selected():
            self.copy_to_clipboard(row.receipt.request_id)
            self.notify(f"{row.receipt.request_id} copied")

    def on_input_changed(self, event: Input.Changed) -> None:
        self._words = event.value
        self._show_all()

    def on_input_submitted(self) -> None:
        """Move the focus to the table. The words still filter the rows."""
        self.query_one("#filter", Input).display = bool(self._words)
        self._table.focus()

    def on_data_table_row_highlighted(self) -> None:
        self._show_details()

    @property
    def _table(self) -> DataTable[Text]:
        return self.query_one(DataTable)

    def _show_all(self) -> None:
        now = self._now()
        summary = format_summary(self._address, self._ended_requests, self._in_flight, now)
        states = [
            *(["paused"] if self._is_paused else []),
            *(["errors only"] if self._errors_only else []),
            *([] if self._is_connected else ["the proxy has stopped"]),
        ]
        self.query_one("#summary", Static).update("    ".join((summary, *states)))
        if self._is_paused:
            return
        selected = self._selected()
        self._request_rows = build_rows(
            self._ended_requests, self._in_flight, now, self._words, failed_only=self._errors_only
        )
        table = self._table
        table.clear()
        others = [place for place, title in enumerate(COLUMNS) if title in self._titles and title != _MODEL]
        texts = [COLUMNS, *(row.cells for row in self._request_rows)]
        width = sum(_CELL_PADDING + max(count_columns(row_texts[place]) for row_texts in texts) for place in others)
        room = max(self.size.width - self._table.scrollbar_size_vertical - width - _CELL_PADDING, _MIN_MODEL)
        for row in self._request_rows:
            cells = [
                Text(
                    cut(cell, room) if title == _MODEL else cell,
                    style=_STYLES[row.role] if title == "Outcome" else "",
                    justify="right" if title in _NUMBER_COLUMNS else "left",
                )
                for title, cell in zip(COLUMNS, row.cells, strict=True)
                if title in self._titles
            ]
            table.add_row(*cells)
        ids = [row.receipt.request_id for row in self._request_rows]
        if selected is not None and selected.receipt.request_id in ids:
            table.move_cursor(row=ids.index(selected.receipt.request_id))
        self._show_details()

    def _show_details(self) -> None:
        row = self._selected()
        text = "No requests." if row is None else "   ".join(map(escape_unprintable, describe_request(row.receipt)))
        self.query_one("#details", Static).update(text)

    def _selected(self) -> RequestRow | None:
        position = self._table.cursor_row
        return self._request_rows[position] if 0 <= position < len(self._request_rows) else None
