"""Forms of the report of `doctor`: text for a terminal, JSON and Markdown."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from datetime import date
from types import TracebackType
from typing import Literal

import msgspec

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
from anthropic_proxy.console.doctor.server_tables import (
    FoundServer,
    describe_evidence,
    find_window_setting,
    hide_credentials,
)
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.telemetry.log.columns import count_columns, cut, pad, wrap_words
from anthropic_proxy.gateway.telemetry.log.lines import escape_unprintable
from anthropic_proxy.secrets import new_redactor, redact_json_value, redact_secrets

_TITLE_WIDTH = 24
_MIN_COLUMN_WIDTH = 18
"""Width of the longest result, `– not recognized`, and a gap. Three columns fit into a terminal of 80 columns."""
_DEFAULT_WIDTH = 100


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
    width = output.width or _DEFAULT_WIDTH
    is_demo = all(diagnosis.backend.is_demo for diagnosis in report.diagnoses)
    next_step = f"  Next:  {output.paint('anthropic-proxy code', 'type')}"
    is_ready = any(one.backend.tiers and not one.backend.is_demo for one in report.diagnoses)
    legend = f"  {LEGEND}    {report.cost_summary}"
    facts = [f"auto mode: {report.auto_mode}"] if report.auto_mode else []
    facts += [f"pictures: {report.pictures}"] if report.pictures else []
    facts += [f"certificate: {report.gateway.fingerprint}"] if report.gateway.fingerprint else []
    fact_lines = [line for text in facts for line in wrap_words(escape_unprintable(text), width - 2)]
    sections = [
        [*_format_table(output, report.diagnoses)],
        [legend] if count_columns(legend) <= width else [f"  {LEGEND}", f"  {report.cost_summary}"],
        [] if is_demo else [f"  {line}" for line in fact_lines],
        [
            f"  {output.mark('!')} The demo replies. It has no model.",
            f"    Choose a provider and store its key:  {output.paint('anthropic-proxy init', 'type')}",
        ]
        if is_demo
        else [],
        [*_format_fixes(output, report, width)],
        *([*_format_unknown_window(output, one, settings, width)] for one in report.diagnoses),
        *([*_format_server(output, server)] for server in report.servers),
        [next_step] if is_ready and not report.exit_status else [],
    ]
    for number, lines in enumerate(filter(None, sections)):
        for line in (*([""] if number else []), *lines):
            output.write_line(redact_secrets(line, secrets))


def _format_fixes(output: Output, report: Report, width: int) -> Iterator[str]:
    if report.fixes or report.problems:
        yield "  To fix:"
    names = max((len(fix.name) for fix in report.fixes), default=0)
    problems = max((count_columns(fix.problem) for fix in report.fixes), default=0)
    for fix in report.fixes:
        start = f"  {output.mark('✕')} {fix.name:<{names}}  "
        painted = SETTING.sub(lambda setting: output.paint(setting[0], "type"), fix.remedy)
        if painted == fix.remedy:
            painted = output.paint(fix.remedy, "type")
        remedy = f"{painted}  {fix.place}".rstrip()
        needed = 10 + names + count_columns(remedy)
        if padded := next((size for size in (problems, count_columns(fix.problem)) if needed + size <= width), 0):
            yield f"{start}{pad(fix.problem, padded)}    {remedy}"
            continue
        room = max(width - 6 - names, 20)
        further = [remedy] if count_columns(remedy) <= room else [painted, *filter(None, [fix.place])]
        first, *lines = *wrap_words(fix.problem, room), *further
        yield f"{start}{first}"
        yield from (f"{' ' * (6 + names)}{line}" for line in lines)
    yield from (f"  {output.mark(one.sign)} {one.text}" for one in report.problems)


def _format_unknown_window(output: Output, diagnosis: Diagnosis, settings: Settings, width: int) -> Iterator[str]:
    if not lacks_context_window(diagnosis):
        return
    target = diagnosis.found_target
    setting = find_window_setting(target.provider, target.model, settings)
    assumed = formats.short_count(target.capabilities.effective_max_input)
    name = diagnosis.backend.prefixed_id
    text = f"The context of {name} is unknown, so {assumed} tokens are assumed. If you know it, {setting.place}:"
    first, *lines = wrap_words(escape_unprintable(text), width - 4)
    yield f"  {output.mark('!')} {first}"
    yield from (f"    {line}" for line in (*lines, *(output.paint(line, "type") for line in setting.lines)))


def _format_server(output: Output, server: FoundServer) -> Iterator[str]:
    """Yield the observed deviations, and a table if a field should change."""
    yield f"  {output.paint(f'Observed at {hide_credentials(server.base_url)}', 'title')}"
    for diagnosis in server.diagnoses:
        model = f"{diagnosis.found_target.model}: " if len(server.diagnoses) > 1 else ""
        yield from (f"  {output.mark('~')} {model}{text}" for text in diagnosis.quirks.values())
    is_configured = server.diagnoses[0].backend.target.provider.is_configured
    evidence = [one for diagnosis in server.diagnoses for one in diagnosis.evidence]
    if not evidence:
        needs = "Its table in anthropic-proxy.toml needs no change." if is_configured else ""
        yield f"  {needs or 'It needs no table in anthropic-proxy.toml.'}"
        return
    if all(one.kind == "automatic" for one in evidence):
        yield "  This is optional: the proxy adapts by itself after a rejection."
    if is_configured:
        yield f"  Replace the tables of providers.{server.name} in anthropic-proxy.toml by:"
    else:
        used, file = output.paint(f"PREFERRED_PROVIDER={server.name}", "type"), "Table for anthropic-proxy.toml"
        yield f"  {file}, beside .env. Use the server with {used} or the prefix {server.name}/:"
    yield from ("", *server.table.splitlines())


def _format_table(output: Output, diagnoses: Sequence[Diagnosis]) -> Iterator[str]:
    """Yield a table with one column for each of `diagnoses`. Columns that do not fit follow in another table."""
    free = sys.maxsize if output.width is None else max(output.width - 2 - _TITLE_WIDTH, _MIN_COLUMN_WIDTH)
    tables: list[list[tuple[Diagnosis, int]]] = [[]]
    for diagnosis in diagnoses:
        wanted = 2 + max(map(count_columns, (diagnosis.backend.target.model, diagnosis.backend.name)))
        width = min(max(wanted, _MIN_COLUMN_WIDTH), free)
        if tables[-1] and sum(used for _, used in tables[-1]) + width > free:
            tables.append([])
        tables[-1].append((diagnosis, width))
    for number, shown in enumerate(tables):
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
                line += padded.replace(sign, output.mark(sign), 1) if sign else padded
            yield line.rstrip()


def _fit(text: str, width: int) -> str:
    return pad(cut(text, width - 1), width)


def encode_report(report: Report, file_format: Literal["json", "markdown"], today: date, secrets: Sequence[str]) -> str:
    """Return `report` as text. Keys in `secrets` are masked, because an error message may contain one."""
    if file_format == "json":
        backends = [
            {
                "provider": one.backend.name,
                "model": one.backend.target.model,
                "tiers": one.backend.tiers,
                "problem": one.problem,
                "seconds": None if one.seconds is None else round(one.seconds, 3),
                "listed_models": None if one.models is None else len(one.models),
                "context_window": find_context_window(one),
                "max_output": find_max_output(one),
                "limits_source": one.limits_source,
                "efforts": one.efforts,
                "probes": one.outcomes,
                "quirks": one.quirks,
                "evidence": one.evidence,
                "dialect": one.dialect if one.shows_dialect else {},
            }
            for one in report.diagnoses
        ]
        content = {
            "version": __version__,
            "date": today.isoformat(),
            "exit_status": report.exit_status,
            "requests": report.totals.requests,
            "seconds": round(report.seconds, 3),
            "input_tokens": report.totals.input_tokens,
            "output_tokens": report.totals.output_tokens,
            "backends": backends,
            "fixes": report.fixes,
            "problems": [problem.text for problem in report.settings_problems],
            "certificate": report.gateway.fingerprint,
            "certificate_problems": report.gateway.problems,
            "identity_problems": report.identity_problems,
            "auto_mode": report.auto_mode,
            "pictures": report.pictures,
            "tables": [server.table for server in report.servers],
        }
        values = redact_json_value(msgspec.to_builtins(content), new_redactor(secrets))
        return encode_printed_json(values, indent=2)
    return redact_secrets("\n".join(_format_markdown(report, today)) + "\n", secrets)


def _format_markdown(report: Report, today: date) -> Iterator[str]:
    yield from (f"# anthropic-proxy {__version__} doctor, {today.isoformat()}", "")
    names = [f"{one.backend.name}<br>{one.backend.target.model}" for one in report.diagnoses]
    yield f"| | {' | '.join(names)} |"
    yield f"| --- |{' --- |' * len(names)}"
    for row in list_rows(report.diagnoses):
        cells = [str(cell).replace("|", "\\|") for cell in row.cells]
        yield f"| {row.title} | {' | '.join(cells)} |"
    yield from ("", f"{LEGEND}. {report.cost_summary}.")
    if report.auto_mode:
        yield from ("", f"Auto mode: {report.auto_mode}.")
    if report.pictures:
        yield from ("", f"Pictures: {report.pictures}.")
    if report.gateway.fingerprint:
        yield from ("", f"Certificate: {report.gateway.fingerprint}.")
    if report.fixes or report.problems:
        yield from ("", "## To fix", "")
        yield from (f"- **{fix.name}** {fix.problem} `{fix.remedy}` {fix.place}".rstrip() for fix in report.fixes)
        yield from (f"- {problem.text}" for problem in report.problems)
    for diagnosis in report.diagnoses:
        details = list_explanations(diagnosis)
        if details.keys() - {"limits"} or diagnosis.evidence:
            yield from ("", f"## {diagnosis.backend.prefixed_id}", "")
            yield from (f"- {name}: {text}" for name, text in details.items())
            for evidence in diagnosis.evidence:
                yield f"- `{evidence.field}`: " + " ".join(line.strip() for line in describe_evidence(evidence))
    for server in report.servers:
        title = f"## Table for {hide_credentials(server.base_url)}"
        yield from ("", title, "", "```toml", server.table.rstrip(), "```")
