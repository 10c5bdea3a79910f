"""Output of the command `explain` for a stored request: route, attempts, result, tokens, costs and changes.

`StoredExplanation` writes the explanation as a summary or as JSON. Stored requests are in the ledger, the database of
requests.
"""

import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime

from anthropic_proxy.cli.output import Output
from anthropic_proxy.ledger.export import build_request_object
from anthropic_proxy.ledger.request_queries import StoredRequest
from anthropic_proxy.ledger.stored_receipts import list_failed_attempts, list_notes
from anthropic_proxy.ledger.units import MICROSECONDS
from anthropic_proxy.log.lines import escape_unprintable
from anthropic_proxy.money import format_cost

_LABEL_COLUMNS = 15
_SIGNS = {"kept": ("✓", "ok"), "approximated": ("~", "warn"), "emulated": ("~", "warn"), "dropped": ("✕", "error")}
"""Handling of a request field (kept, approximated, …) → sign before the row, and its color role."""


class StoredExplanation:
    """Explanation of one stored request. `row` is the request as stored in the ledger, the database of requests."""

    def __init__(self, row: StoredRequest) -> None:
        self._row = row
        self._output = Output()

    def write_summary(self) -> None:
        """Write the route with its attempts, the result, and the changed fields."""
        output, row = self._output, self._row
        requested = output.paint(escape_unprintable(row.requested_model or row.path), "title")
        target = f" → {output.paint(escape_unprintable(_name_target(row)), 'type')}" if row.model else ""
        output.write_line(f"  {requested}{target}")
        for label, text in self._list_facts():
            self._write_labeled(label, text)
        notes = list_notes(row)
        if notes:
            output.write_line()
        width = max((len(note.field) for note in notes), default=0)
        for note in notes:
            sign, role = _SIGNS[note.handling]
            text = escape_unprintable(f"{note.field:<{width}}  {note.reason}")
            output.write_line(f"  {output.paint(sign, role)} {text}")

    def write_json(self) -> None:
        """Write one JSON object with all columns of the request. Costs are in US dollars; null: unknown."""
        self._output.write_json(build_request_object(self._row))

    def _list_facts(self) -> Iterator[tuple[str, str]]:
        """Yield label and text of each line of the summary, such as the model and the cost."""
        row = self._row
        started = datetime.fromtimestamp(row.started_at / MICROSECONDS, UTC).astimezone()
        yield "request", f"{row.id}, {started:%Y-%m-%d %H:%M:%S}"
        if row.route_reason:
            yield "rule", row.route_reason
        failed = list_failed_attempts(row)
        for number, attempt in enumerate(failed, 1):
            yield f"attempt {number}", f"{attempt}, retried"
        if row.model:
            status = f"status {row.status}" if row.status else "no status, the client disconnected"
            yield f"attempt {len(failed) + 1}", f"{_name_target(row)}: {status}, {row.outcome}"
        if row.error_type:
            yield "error", f"{row.status} {row.error_type}: {row.error}"
        if row.input_tokens or row.cache_read_tokens or row.cache_write_tokens or row.output_tokens:
            yield "tokens", _describe_tokens(row)
            yield "cost", _describe_cost(row)
        if row.first_token is not None:
            first, total = row.first_token / MICROSECONDS, row.duration / MICROSECONDS
            yield "time", f"{first:.2f} s to the first token, {total:.1f} s in total"
        if row.session:
            yield "session", row.session
        if row.project:
            yield "project", row.project

    def _write_labeled(self, label: str, text: str) -> None:
        output, text = self._output, escape_unprintable(text)
        width = output.width
        lines = (
            [text] if width is None else textwrap.wrap(text, max(width - _LABEL_COLUMNS, 30), break_on_hyphens=False)
        )
        for number, line in enumerate(lines):
            name = "" if number else label
            output.write_line(f"    {output.paint(f'{name:<{_LABEL_COLUMNS - 4}}', 'quiet')}{line}")


def _name_target(row: StoredRequest) -> str:
    return f"{row.prefix or row.provider}/{row.model}"


def _describe_tokens(row: StoredRequest) -> str:
    incoming = row.all_input_tokens
    cached = f" ({row.cache_read_tokens / incoming:.0%} cached)" if row.cache_read_tokens else ""
    thinking = f" ({row.thinking_tokens:,} of thinking)" if row.thinking_tokens else ""
    return f"{incoming:,} in{cached}, {row.output_tokens:,} out{thinking}"


def _describe_cost(row: StoredRequest) -> str:
    """Return text about the request `row`: its cost, the source of the price, and the cost at the requested model."""
    if row.cost is None:
        reason = row.price_source or f"no price for {_name_target(row)}"
        text = f"unknown: {reason}. Set it in anthropic-proxy.toml, [prices]"
    else:
        text = f"{format_cost(row.cost)} ({row.price_source})" if row.cost else "free"
    if row.requested_cost and row.requested_cost != row.cost:
        text += f"; at the price of {row.requested_model}: {format_cost(row.requested_cost)}"
    return text
