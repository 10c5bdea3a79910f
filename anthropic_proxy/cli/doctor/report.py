"""Forms of the report of `doctor`: text for a terminal, JSON and Markdown."""

import asyncio
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import date
from types import TracebackType
from typing import Any, Literal

import msgspec
from msgspec import structs

from anthropic_proxy import __version__
from anthropic_proxy.cli.doctor.progress import Progress
from anthropic_proxy.cli.output import Output, encode_printed_json
from anthropic_proxy.console import formats
from anthropic_proxy.console.doctor.findings import (
    Diagnosis,
    find_context_window,
    find_max_output,
    lacks_context_window,
)
from anthropic_proxy.console.doctor.fixes import SETTING
from anthropic_proxy.console.doctor.probe_runner import PROBE_TIMEOUT_SECONDS
from anthropic_proxy.console.doctor.report import LEGEND, Report, list_explanations, list_rows
from anthropic_proxy.console.doctor.server_tables import describe_evidence, find_window_setting, hide_credentials
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.telemetry.log.columns import count_columns, cut, pad, wrap_words
from anthropic_proxy.gateway.telemetry.log.lines import escape_unprintable
from anthropic_proxy.secrets import redact_json_value, redact_secrets

_TITLE_WIDTH = 24
_MIN_COLUMN_WIDTH = 18
"""Width of the longest result, `– not recognized`, and a gap. Three columns fit into a terminal of 80 columns."""
_DEFAULT_WIDTH = 100
_ROLES = {"✓": "ok", "~": "warn", "✕": "error", "–": "quiet", "…": "quiet"}


class DoctorProgress(Progress):
    """A table that is updated while the test requests run, or lines with the names of unfinished backends."""

    def __init__(self, *, shows_table: bool) -> None:
        super().__init__(shows_table=shows_table)
        self._diagnoses: Sequence[Diagnosis] = ()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if kind is asyncio.CancelledError:
            self.write_cost_of_stopped_probes()  # after the table, which the end of the display removes

    def update(self, diagnoses: Sequence[Diagnosis]) -> None:
        self._diagnoses = diagnoses
        self.show(lambda output: _format_table(output, diagnoses))

    def describe_waiting(self) -> str:
        names = [one.backend.prefixed_id for one in self._diagnoses if not one.is_complete]
        return f"Waiting for {', '.join(names)}. A request without a reply ends after {PROBE_TIMEOUT_SECONDS:g} s."

    def write_cost_of_stopped_probes(self) -> None:
        """Write the numbers of requests and tokens that were sent before the user stopped the command."""
        totals = [diagnosis.totals for diagnosis in self._diagnoses]
        requests = formats.plural(sum(one.requests for one in totals), "request")
        tokens = sum(one.input_tokens + one.output_tokens for one in totals)
        sys.stderr.write(f"Stopped after {requests} and {tokens:,} tokens.\n")


def write_report(report: Report, settings: Settings, secrets: Sequence[str]) -> None:
    """Write table, cost, remedies and observed deviations to stdout. `secrets`: keys that are masked."""
    output = Output()

    def write(text: str = "") -> None:
        output.write_line(redact_secrets(text, secrets))

    def paint_setting(setting: re.Match[str]) -> str:
        return output.paint(setting[0], "type")

    for line in _format_table(output, report.diagnoses):
        write(line)
    write()
    legend = [f"  {LEGEND}    {report.cost_summary}"]
    if count_columns(legend[0]) > (output.width or _DEFAULT_WIDTH):
        legend = [f"  {LEGEND}", f"  {report.cost_summary}"]
    for line in legend:
        write(line)
    is_demo = all(diagnosis.backend.is_demo for diagnosis in report.diagnoses)
    if report.auto_mode and not is_demo:
        write()
        for line in wrap_words(
            escape_unprintable(f"auto mode: {report.auto_mode}"), (output.width or _DEFAULT_WIDTH) - 2
        ):
            write(f"  {line}")
    if is_demo:
        write()
        write(f"  {output.paint('!', 'warn')} The demo replies. It has no model.")
        write(f"    Choose a provider and store its key:  {output.paint('anthropic-proxy init', 'type')}")
    elif report.fixes or report.route_problems:
        write()
        write("  To fix:")
        names = max((len(fix.name) for fix in report.fixes), default=0)
        problems = max((count_columns(fix.problem) for fix in report.fixes), default=0)
        width = output.width or _DEFAULT_WIDTH
        for fix in report.fixes:
            start = f"  {output.paint('✕', 'error')} {fix.name:<{names}}  "
            painted = SETTING.sub(paint_setting, fix.remedy)
            if painted == fix.remedy:
                painted = output.paint(fix.remedy, "type")
            remedy = f"{painted}  {fix.place}".rstrip()
            needed = 10 + names + count_columns(remedy)
            if padded := next((size for size in (problems, count_columns(fix.problem)) if needed + size <= width), 0):
                write(f"{start}{pad(fix.problem, padded)}    {remedy}")
                continue
            room = max(width - 6 - names, 20)
            further = [remedy] if count_columns(remedy) <= room else [painted, *filter(None, [fix.place])]
            lines = [*wrap_words(fix.problem, room), *further]
            for line in (f"{start}{lines[0]}", *(f"{' ' * (6 + names)}{line}" for line in lines[1:])):
                write(line)
        for problem in report.route_problems:
            write(f"  {output.paint('✕', 'error')} {problem}")

    for diagnosis in report.diagnoses:
        if lacks_context_window(diagnosis):
            target = diagnosis.found_target
            setting = find_window_setting(target.provider, target.model, settings)
            assumed = formats.short_count(target.capabilities.effective_max_input)
            name = diagnosis.backend.prefixed_id
            text = (
                f"The context of {name} is unknown, so {assumed} tokens are assumed. If you know it, {setting.place}:"
            )
            write()
            lines = wrap_words(escape_unprintable(text), (output.width or _DEFAULT_WIDTH) - 4)
            write(f"  {output.paint('!', 'warn')} {lines[0]}")
            for line in (*lines[1:], *(output.paint(line, "type") for line in setting.lines)):
                write(f"    {line}")

    for server in report.servers:  # the observed deviations, and a table if a field should change
        write()
        write(f"  {output.paint(f'Observed at {hide_credentials(server.base_url)}', 'title')}")
        for diagnosis in server.diagnoses:
            model = f"{diagnosis.found_target.model}: " if len(server.diagnoses) > 1 else ""
            for text in diagnosis.quirks.values():
                write(f"  {output.paint('~', 'warn')} {model}{text}")
        is_configured = server.diagnoses[0].backend.target.provider.is_configured
        if not any(diagnosis.evidence for diagnosis in server.diagnoses):
            needs = "Its table in anthropic-proxy.toml needs no change." if is_configured else ""
            write(f"  {needs or 'It needs no table in anthropic-proxy.toml.'}")
            continue
        if all(one.kind == "automatic" for diagnosis in server.diagnoses for one in diagnosis.evidence):
            write("  This is optional: the proxy adapts by itself after a rejection.")
        if is_configured:
            write(f"  Replace the tables of providers.{server.name} in anthropic-proxy.toml by:")
        else:
            used = output.paint(f"PREFERRED_PROVIDER={server.name}", "type")
            file = "Table for anthropic-proxy.toml, beside .env."
            write(f"  {file} Use the server with {used} or the prefix {server.name}/:")
        write()
        for line in server.table.splitlines():
            write(line)
    if not report.exit_status and any(one.backend.tiers and not one.backend.is_demo for one in report.diagnoses):
        write()
        write(f"  Next:  {output.paint('anthropic-proxy code', 'type')}")


def _format_table(output: Output, diagnoses: Sequence[Diagnosis]) -> Iterator[str]:
    """Yield a table with one column for each of `diagnoses`. Columns that do not fit follow in another table."""
    for number, shown in enumerate(_split_columns(output.width, diagnoses)):
        if number:
            yield ""
        indent = " " * (2 + _TITLE_WIDTH)
        yield f"{indent}{''.join(_fit(one.backend.name, width) for one, width in shown)}".rstrip()
        models = "".join(_fit(one.backend.target.model, width) for one, width in shown)
        yield f"{indent}{output.paint(models, 'quiet')}".rstrip()
        for row in list_rows([one for one, _ in shown]):
            line = f"  {row.title:<{_TITLE_WIDTH}}"
            for cell, (_, width) in zip(row.cells, shown, strict=True):
                padded, sign = _fit(str(cell), width), cell.sign
                line += padded.replace(sign, output.paint(sign, _ROLES[sign]), 1) if sign else padded
            yield line.rstrip()


def _split_columns(line_width: int | None, diagnoses: Sequence[Diagnosis]) -> Iterator[Sequence[tuple[Diagnosis, int]]]:
    """Yield the columns of each table with their widths in characters.

    `line_width`: width of the terminal; None: no limit, so all columns are in one table.
    """
    free = sys.maxsize if line_width is None else max(line_width - 2 - _TITLE_WIDTH, _MIN_COLUMN_WIDTH)
    shown: list[tuple[Diagnosis, int]] = []
    for diagnosis in diagnoses:
        wanted = 2 + max(map(count_columns, (diagnosis.backend.target.model, diagnosis.backend.name)))
        width = min(max(wanted, _MIN_COLUMN_WIDTH), free)
        if shown and sum(used for _, used in shown) + width > free:
            yield shown
            shown = []
        shown.append((diagnosis, width))
    yield shown


def _fit(text: str, width: int) -> str:
    return pad(cut(text, width - 1), width)


def encode_report(report: Report, file_format: Literal["json", "markdown"], today: date, secrets: Sequence[str]) -> str:
    """Return `report` as text. Keys in `secrets` are masked, because an error message may contain one."""
    if file_format == "json":
        content = {
            "version": __version__,
            "date": today.isoformat(),
            "exit_status": report.exit_status,
            "requests": report.totals.requests,
            "seconds": round(report.seconds, 3),
            "input_tokens": report.totals.input_tokens,
            "output_tokens": report.totals.output_tokens,
            "backends": [_build_backend(diagnosis) for diagnosis in report.diagnoses],
            "fixes": [structs.asdict(fix) for fix in report.fixes],
            "route_problems": report.route_problems,
            "auto_mode": report.auto_mode,
            "tables": [server.table for server in report.servers],
        }
        values = redact_json_value(msgspec.to_builtins(content), secrets)
        return encode_printed_json(values, indent=2)
    return redact_secrets("\n".join(_format_markdown(report, today)) + "\n", secrets)


def _build_backend(diagnosis: Diagnosis) -> dict[str, Any]:
    backend = diagnosis.backend
    return {
        "provider": backend.name,
        "model": backend.target.model,
        "tiers": backend.tiers,
        "problem": diagnosis.problem,
        "seconds": None if diagnosis.seconds is None else round(diagnosis.seconds, 3),
        "listed_models": None if diagnosis.models is None else len(diagnosis.models),
        "context_window": find_context_window(diagnosis),
        "max_output": find_max_output(diagnosis),
        "limits_source": diagnosis.limits_source,
        "efforts": diagnosis.efforts,
        "probes": diagnosis.outcomes,
        "quirks": diagnosis.quirks,
        "evidence": [
            {
                **structs.asdict(evidence),
                "value": msgspec.to_builtins(evidence.value),
                "previous": msgspec.to_builtins(evidence.previous),
            }
            for evidence in diagnosis.evidence
        ],
        "dialect": diagnosis.dialect if diagnosis.shows_dialect else {},
    }


def _format_markdown(report: Report, today: date) -> Iterator[str]:
    yield f"# anthropic-proxy {__version__} doctor, {today.isoformat()}"
    yield ""
    names = [f"{one.backend.name}<br>{one.backend.target.model}" for one in report.diagnoses]
    yield f"| | {' | '.join(names)} |"
    yield f"| --- |{' --- |' * len(names)}"
    for row in list_rows(report.diagnoses):
        cells = [str(cell).replace("|", "\\|") for cell in row.cells]
        yield f"| {row.title} | {' | '.join(cells)} |"
    yield ""
    yield f"{LEGEND}. {report.cost_summary}."
    if report.auto_mode:
        yield ""
        yield f"Auto mode: {report.auto_mode}."
    if report.fixes or report.route_problems:
        yield ""
        yield "## To fix"
        yield ""
        yield from (f"- **{fix.name}** {fix.problem} `{fix.remedy}` {fix.place}".rstrip() for fix in report.fixes)
        yield from (f"- {problem}" for problem in report.route_problems)
    for diagnosis in report.diagnoses:
        details = list_explanations(diagnosis)
        if details.keys() - {"limits"} or diagnosis.evidence:
            yield from ("", f"## {diagnosis.backend.prefixed_id}", "")
            yield from (f"- {name}: {text}" for name, text in details.items())
            for evidence in diagnosis.evidence:
                yield f"- `{evidence.field}`: " + " ".join(line.strip() for line in describe_evidence(evidence))
    for server in report.servers:
        yield from (
            "",
            f"## Table for {hide_credentials(server.base_url)}",
            "",
            "```toml",
            server.table.rstrip(),
            "```",
        )
