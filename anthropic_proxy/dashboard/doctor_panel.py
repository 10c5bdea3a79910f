"""Panel of the page Providers about the doctor, the command that tests the models of the configured providers.

`build_doctor_panel` returns a `DoctorPanel` with the latest run: its table of results, and a `Remedy` for each problem.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from anthropic_proxy import doctor_run
from anthropic_proxy.dashboard import formats
from anthropic_proxy.dashboard.capability_matrix import Matrix, MatrixCell, MatrixColumn
from anthropic_proxy.doctor_run import DoctorRun, RunCell, RunTomlTable
from anthropic_proxy.installation import build_extra_install_command
from anthropic_proxy.money import NANO_DOLLARS
from anthropic_proxy.settings import Settings

_NEVER = "The doctor has not run yet."
_ENDED_EARLY = "The proxy or the command has ended."
_MEANINGS = {
    "✓": ("ok", "works"),
    "~": ("warn", "emulated by the proxy"),
    "✕": ("error", "unsupported"),
    "–": ("none", "not applicable"),
    "…": ("none", "not tested yet"),
}
"""Sign of a cell → CSS class and meaning."""
_INSTALL_COMMAND = re.escape(build_extra_install_command("EXTRA")).replace("EXTRA", "[a-z]+")
_COMMAND = re.compile(rf"[A-Z][A-Z0-9_]*=\S.*|(?:anthropic-proxy|ollama|gcloud) .*|{_INSTALL_COMMAND}")
"""Pattern of a remedy that is a setting or a command, so that it can be copied."""


class Remedy(Struct, frozen=True):
    """A problem that the doctor found, with its remedy as text or as a command."""

    problem: str
    text: str = ""
    command: str = ""


class DoctorPanel(Struct, frozen=True, kw_only=True):
    """The latest run of the doctor, as texts and a table."""

    summary: str
    """Time and cost of the latest complete run, or progress of the present run."""
    is_running: bool = False
    is_stopping: bool = False
    """True if a user has asked the run to stop."""
    share: float | None = None
    """Share of the expected requests that were sent, from 0 to 1. None: no run, or the number is not estimated yet."""
    failure: str = ""
    """Sentences about a run that has ended before it was complete. "": the latest run is complete."""
    is_outdated: bool = False
    """True if settings on which the results depend have changed since the run."""
    table: Matrix = Matrix((), ())
    """Results by feature and model."""
    details: Sequence[tuple[str, Mapping[str, str]]] = ()
    """Models with the causes of their results, by feature."""
    remedies: Sequence[Remedy] = ()
    tables: Sequence[RunTomlTable] = ()
    """Tables for `anthropic-proxy.toml`, of unknown servers."""


def build_doctor_panel(settings: Settings, now: float) -> DoctorPanel:
    """Return the panel about the doctor. `now`: time in seconds since the epoch."""
    directory = settings.data_directory
    if directory is None:
        return DoctorPanel(summary=_NEVER)
    is_running = doctor_run.is_running(directory)  # before the files, which then have the end of an ended run
    complete, current = doctor_run.load_complete(directory), doctor_run.load_current(directory)
    if is_running:
        return _describe_progress(directory, current or complete, complete)
    failure = ""
    if current is not None and (complete is None or current.started_at > complete.started_at):
        failure = _describe_failure(current, now)
    if complete is None:
        return DoctorPanel(summary=_NEVER, failure=failure)
    return DoctorPanel(
        summary=f"Doctor ran {formats.ago(max(0, now - complete.ended_at))}, {_describe_cost(complete)}",
        failure=failure,
        is_outdated=complete.settings_digest != doctor_run.digest_backend_settings(settings),
        table=_build_table(complete),
        details=[(f"{one.prefix}/{one.model}", one.details) for one in complete.columns if one.details],
        remedies=_build_remedies(complete),
        tables=complete.tables,
    )


def _describe_progress(directory: Path, run: DoctorRun | None, complete: DoctorRun | None) -> DoctorPanel:
    """Return the panel of a run in progress. Remedies of the previous run stay until its end."""
    summary, share, table = "The doctor is starting.", None, Matrix((), ())
    if run is not None and run.expected_requests:
        expected = max(run.expected_requests, run.requests)
        summary = f"The doctor is running: {run.requests} of about {formats.plural(expected, 'request')}."
        share, table = run.requests / expected, _build_table(run)
    is_stopping = doctor_run.is_stop_requested(directory)
    return DoctorPanel(
        summary="The doctor is stopping." if is_stopping else summary,
        is_running=True,
        is_stopping=is_stopping,
        share=share,
        table=table,
        remedies=() if complete is None else _build_remedies(complete),
        tables=() if complete is None else complete.tables,
    )


def _describe_failure(run: DoctorRun, now: float) -> str:
    sent = f" after {formats.plural(run.requests, 'request')}" if run.requests else ""
    start = formats.ago(max(0, now - run.started_at))
    return f"The run that started {start} ended{sent}, before it was complete. {run.problem or _ENDED_EARLY}"


def _describe_cost(run: DoctorRun) -> str:
    """Return requests and price of a complete run: `41 requests, $0.003`. An unknown price is left out."""
    requests = formats.plural(run.requests, "request")
    if run.price is None:
        return f"{requests}, {formats.plural(run.tokens, 'token')}"
    return f"{requests}, {formats.money(run.price * NANO_DOLLARS)}"


def _build_table(run: DoctorRun) -> Matrix:
    columns = [MatrixColumn(one.prefix, one.model, one.provider) for one in run.columns]
    titles = [row.title[:1].upper() + row.title[1:] for row in run.rows]
    cells = [[_build_cell(cell) for cell in row.cells] for row in run.rows]
    return Matrix(columns, list(zip(titles, cells, strict=True)))


def _build_cell(cell: RunCell) -> MatrixCell:
    if cell.sign not in _MEANINGS:
        return MatrixCell(text=cell.text)
    role, meaning = _MEANINGS[cell.sign]
    return MatrixCell(cell.sign, role, meaning, "" if cell.text == "emulated" else cell.text)


def _build_remedies(run: DoctorRun) -> list[Remedy]:
    found = []
    for fix in run.fixes:
        is_command = fix.remedy.isprintable() and _COMMAND.fullmatch(fix.remedy) is not None
        problem = f"{fix.name}: {fix.problem}"
        found.append(Remedy(problem, command=fix.remedy) if is_command else Remedy(problem, text=fix.remedy))
    return found
