"""Output of the command `doctor`: a table of backends (models of providers) and remedies.

`DoctorProgress` shows the table on stderr while the test requests run. `write_report` writes the final table and the
remedies to stdout.
"""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from textwrap import wrap
from types import TracebackType
from typing import TYPE_CHECKING

from anthropic_proxy.cli.output import Output
from anthropic_proxy.lab.doctor import Diagnosis, Report
from anthropic_proxy.lab.doctor.dialect_row import FoundServer, hide_credentials
from anthropic_proxy.lab.doctor.probe_runner import PROBE_TIMEOUT_SECONDS
from anthropic_proxy.lab.doctor.report import LEGEND, format_count, uses_demo_provider
from anthropic_proxy.lab.doctor.rows import ROWS, Cell
from anthropic_proxy.redaction import redact_secrets

if TYPE_CHECKING:
    from rich.live import Live

_TITLE_WIDTH = 28
_MIN_COLUMN_WIDTH = 16
_DEFAULT_WIDTH = 100
_ROLES = {"✓": "ok", "~": "warn", "✕": "error", "–": "quiet", "…": "quiet"}


_WAITING_SECONDS = 10.0
"""Interval in seconds of the lines that name the backends without a reply, if stderr is no terminal."""


class DoctorProgress:
    """Progress of the command `doctor`: a table on stderr that is updated while the test requests run.

    If stderr is no terminal or `shows_table` is False, lines with the names of unfinished backends replace the table.
    """

    def __init__(self, *, shows_table: bool) -> None:
        self._diagnoses: Sequence[Diagnosis] = ()
        self._live = _new_live_display() if shows_table and sys.stderr.isatty() else None

    def __enter__(self) -> "DoctorProgress":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        if kind is asyncio.CancelledError:
            self.write_cost_of_stopped_probes()  # after the table, which the end of the display removes

    def update(self, diagnoses: Sequence[Diagnosis]) -> None:
        """Show the present state of `diagnoses`, the results of all backends so far."""
        self._diagnoses = diagnoses
        if self._live is not None:
            from rich.text import Text  # noqa: PLC0415

            output = Output(sys.stderr)
            self._live.update(Text.from_ansi("\n".join(_format_table(output, diagnoses))))

    async def report_unfinished_backends(self, interval: float = _WAITING_SECONDS) -> None:
        """Write a line with the names of unfinished backends every `interval` seconds, unless the table is shown."""
        while self._live is None:
            await asyncio.sleep(interval)
            names = [one.backend.prefixed_id for one in self._diagnoses if not one.is_complete]
            limit = f"A request without a reply ends after {PROBE_TIMEOUT_SECONDS:g} s."
            sys.stderr.write(f"Waiting for {', '.join(names)}. {limit}\n")
            sys.stderr.flush()

    def write_cost_of_stopped_probes(self) -> None:
        """Write the numbers of requests and tokens that were sent before the user stopped the command."""
        totals = [diagnosis.totals for diagnosis in self._diagnoses]
        requests = format_count(sum(one.requests for one in totals), "request")
        tokens = sum(one.input_tokens + one.output_tokens for one in totals)
        sys.stderr.write(f"Stopped after {requests} and {tokens:,} tokens.\n")


def _new_live_display() -> "Live":
    from rich.console import Console  # noqa: PLC0415  # needed on a terminal only
    from rich.live import Live  # noqa: PLC0415

    return Live(console=Console(stderr=True, highlight=False), refresh_per_second=8, transient=True)


def write_report(report: Report, secrets: Sequence[str]) -> None:
    """Write the results of the doctor to stdout: table of backends, cost of the run, and remedies.

    If the doctor has examined a server for deviations from its API, its findings are written too.
    `secrets`: keys that are masked in the output.
    """
    output = Output()

    def write(text: str = "") -> None:
        output.write_line(redact_secrets(text, secrets))

    for line in _format_table(output, report.diagnoses):
        write(line)
    write()
    for line in _format_legend(report, output.width or _DEFAULT_WIDTH):
        write(line)
    for line in _format_fixes(output, report):
        write(line)
    for server in report.servers:
        write()
        for line in _format_server(output, server):
            write(line)


def _format_table(output: Output, diagnoses: Sequence[Diagnosis]) -> Iterator[str]:
    """Yield the lines of the table with one column for each of `diagnoses`.

    Columns that do not fit into the width of the terminal follow in another table.
    """
    for number, shown in enumerate(_split_columns(output.width, diagnoses)):
        if number:
            yield ""
        indent = " " * (2 + _TITLE_WIDTH)
        yield f"{indent}{''.join(_fit(one.backend.name, width) for one, width in shown)}".rstrip()
        models = "".join(_fit(one.backend.target.model, width) for one, width in shown)
        yield f"{indent}{output.paint(models, 'quiet')}".rstrip()
        for row in ROWS:
            cells = "".join(_paint_cell(output, row.build(one), width) for one, width in shown)
            yield f"  {row.title:<{_TITLE_WIDTH}}{cells}".rstrip()


def _split_columns(line_width: int | None, diagnoses: Sequence[Diagnosis]) -> Iterator[Sequence[tuple[Diagnosis, int]]]:
    """Yield the columns of each table with their widths in characters.

    `line_width`: width of the terminal; None: no limit, so all columns are in one table.
    """
    free = sys.maxsize if line_width is None else max(line_width - 2 - _TITLE_WIDTH, _MIN_COLUMN_WIDTH)
    shown: list[tuple[Diagnosis, int]] = []
    for diagnosis in diagnoses:
        wanted = 2 + max(len(diagnosis.backend.target.model), len(diagnosis.backend.name))
        width = min(max(wanted, _MIN_COLUMN_WIDTH), free)
        if shown and sum(used for _, used in shown) + width > free:
            yield shown
            shown = []
        shown.append((diagnosis, width))
    yield shown


def _fit(text: str, width: int) -> str:
    return f"{text if len(text) < width else f'{text[: width - 2]}…':<{width}}"


def _paint_cell(output: Output, cell: Cell, width: int) -> str:
    padded = _fit(str(cell), width)
    return padded.replace(cell.sign, output.paint(cell.sign, _ROLES[cell.sign]), 1) if cell.sign else padded


def _format_legend(report: Report, width: int) -> Iterator[str]:
    line = f"  {LEGEND}    {report.cost_summary}"
    yield from [line] if len(line) <= width else [f"  {LEGEND}", f"  {report.cost_summary}"]


def _format_fixes(output: Output, report: Report) -> Iterator[str]:
    if all(uses_demo_provider(diagnosis) for diagnosis in report.diagnoses):
        yield ""
        yield f"  {output.paint('!', 'warn')} No provider is configured, so the demo replies. It has no model."
        yield f"    Set the key of a provider in .env:  {output.paint('OPENAI_API_KEY=…', 'type')}"
        return
    if not report.fixes:
        return
    yield ""
    yield "  To fix:"
    names = max(len(fix.name) for fix in report.fixes)
    problems = max(len(fix.problem) for fix in report.fixes)
    width = output.width or _DEFAULT_WIDTH
    for fix in report.fixes:
        start, remedy = f"  {output.paint('✕', 'error')} {fix.name:<{names}}  ", output.paint(fix.remedy, "type")
        padded = next(
            (size for size in (problems, len(fix.problem)) if 10 + names + size + len(fix.remedy) <= width), 0
        )
        if padded:
            yield f"{start}{fix.problem:<{padded}}    {remedy}"
            continue
        first, *others = wrap(fix.problem, max(width - 6 - names, 20), break_long_words=False) or [""]
        yield f"{start}{first}"
        yield from (f"{' ' * (6 + names)}{line}" for line in others)
        yield f"{' ' * (6 + names)}{remedy}"


def _format_server(output: Output, server: FoundServer) -> Iterator[str]:
    """Yield lines about `server`, a server that is not known to the proxy: the observed deviations.

    If a field of the configuration file should change, its table is included.
    """
    yield f"  {output.paint(f'Observed at {hide_credentials(server.base_url)}', 'title')}"
    several = len(server.diagnoses) > 1
    for diagnosis in server.diagnoses:
        model = f"{diagnosis.found_target.model}: " if several else ""
        yield from (f"  {output.paint('~', 'warn')} {model}{text}" for text in diagnosis.quirks.values())
    if not any(diagnosis.evidence for diagnosis in server.diagnoses):
        yield "  The dialect of the proxy needs no change."
        return
    if server.diagnoses[0].backend.target.provider.is_configured:
        yield f"  Replace the tables of providers.{server.name} in anthropic-proxy.toml by:"
    else:
        used = output.paint(f"PREFERRED_PROVIDER={server.name}", "type")
        yield f"  Table for anthropic-proxy.toml, beside .env. Use the server with {used} or the prefix {server.name}/:"
    yield ""
    yield from server.table.splitlines()
