"""`RunRecorder`: stores the progress and the results of a run of the doctor, so that the dashboard can show them."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path

import msgspec
from msgspec import structs

from anthropic_proxy.cli.doctor.dialect_row import hide_credentials
from anthropic_proxy.cli.doctor.findings import Diagnosis
from anthropic_proxy.cli.doctor.report import ROWS, Cell, Report, list_explanations
from anthropic_proxy.console import doctor_run
from anthropic_proxy.console.doctor_run import DoctorRun, RunCell, RunColumn, RunFix, RunRow, RunTomlTable
from anthropic_proxy.engine.providers.catalog import LearnedModel
from anthropic_proxy.engine.providers.servers import build_server_name
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.secrets import redact_json_value

INTERVAL_SECONDS = 0.5
"""Seconds between two writes of the progress, and between two checks for a request to stop."""
_STOPPED = "A user stopped it on this page."


class RunRecorder:
    """Recorder of one run of the doctor, which stores it in the files of the module `doctor_run`.

    `directory` is the data directory of the user. None: nothing is stored. `clock` is a function that returns seconds
    since the epoch.
    """

    def __init__(self, directory: Path | None, settings: Settings, clock: Callable[[], float]) -> None:
        self._directory = directory
        self._secrets = settings.reveal_all_secrets()
        self._clock = clock
        self._run = DoctorRun(started_at=clock(), settings_digest=doctor_run.digest_backend_settings(settings))
        self._diagnoses: Sequence[Diagnosis] = ()
        self._stored: DoctorRun | None = None
        self.is_stopped = False
        """True if a user of the dashboard has stopped the run."""

    def start(self, expected_requests: int) -> None:
        """Store the start of the run. `expected_requests`: estimated number of requests."""
        self._run = structs.replace(self._run, expected_requests=expected_requests)
        self._store_progress()

    def update_diagnoses(self, diagnoses: Sequence[Diagnosis]) -> None:
        """Replace the results so far by `diagnoses`, which `store_progress_periodically` stores later."""
        self._diagnoses = diagnoses

    async def store_progress_periodically(
        self, on_stop_request: Callable[[], object], interval: float = INTERVAL_SECONDS
    ) -> None:
        """Store the progress every `interval` seconds.

        If a user of the dashboard stops the run, `on_stop_request` is called once, and the function returns.
        """
        while self._directory is not None and not self.is_stopped:
            await asyncio.sleep(interval)
            self._store_progress()
            if doctor_run.is_stop_requested(self._directory):
                self.is_stopped = True
                self._run = structs.replace(self._run, problem=_STOPPED)
                self._store_progress()
                on_stop_request()

    def finish(self, report: Report) -> None:
        """Store the results of the complete run. Raises `OSError` if the file cannot be written."""
        if self._directory is None:
            return
        self._diagnoses = report.diagnoses
        fixes = [RunFix(fix.name, fix.problem, fix.remedy) for fix in report.fixes]
        tables = [
            RunTomlTable(hide_credentials(server.base_url), server.table)
            for server in report.servers
            if any(diagnosis.evidence for diagnosis in server.diagnoses)
        ]
        run = structs.replace(self._build(), ended_at=self._clock(), price=report.price, fixes=fixes, tables=tables)
        doctor_run.store_complete(self._directory, self._redact(run))

    def _store_progress(self) -> None:
        """Store the results so far, if they have changed. A failure is ignored, because later results follow."""
        run = self._build()
        if self._directory is None or run == self._stored:
            return
        with suppress(OSError):
            doctor_run.store_current(self._directory, self._redact(run))
            self._stored = run

    def _build(self) -> DoctorRun:
        totals = [one.totals for one in self._diagnoses]
        targets = [one.backend.target for one in self._diagnoses]
        details = [list_explanations(one) for one in self._diagnoses]
        columns = [
            RunColumn(one.provider.prefix, one.model, one.provider.name, found)
            for one, found in zip(targets, details, strict=True)
        ]
        return structs.replace(
            self._run,
            requests=sum(one.requests for one in totals),
            tokens=sum(one.input_tokens + one.output_tokens for one in totals),
            columns=columns,
            rows=[RunRow(row.title, [_copy(row.build(one)) for one in self._diagnoses]) for row in ROWS],
        )

    def _redact(self, run: DoctorRun) -> DoctorRun:
        redacted = redact_json_value(msgspec.to_builtins(run), self._secrets)
        return msgspec.convert({**redacted, "settings_digest": run.settings_digest}, DoctorRun)


def _copy(cell: Cell) -> RunCell:
    return RunCell(cell.sign, cell.text)


def list_learned_models(diagnoses: Sequence[Diagnosis], today: date) -> list[LearnedModel]:
    """Return the limits and features of models that the doctor observed.

    `today` is stored as the date of the observation.
    """
    # without models of Ollama, which reports these values itself
    return [
        learned
        for diagnosis in diagnoses
        if diagnosis.problem is None
        and not diagnosis.backend.target.provider.uses_installed_models
        and (learned := _learn(diagnosis, today)) is not None
    ]


def _learn(diagnosis: Diagnosis, today: date) -> LearnedModel | None:
    images = diagnosis.state_of("images")
    # the probe of images is a streamed request, which a server without streaming rejects for another reason
    is_unknown = images == "untested" or diagnosis.state_of("streaming") == "unsupported"
    accepts_images = None if is_unknown else images != "unsupported"
    facts = (diagnosis.context_window, diagnosis.max_output, *diagnosis.efforts)
    if not any(facts) and accepts_images is None:
        return None
    reasons = [diagnosis.limits_source]
    if accepts_images is False:
        reasons.append(diagnosis.outcomes["images"].reason)
    target = diagnosis.found_target
    return LearnedModel(
        server=build_server_name(target.provider, target.base_url),
        model=target.model,
        observed_on=today,
        evidence="; ".join(filter(None, reasons)) or "observed by probes",
        context_window=diagnosis.context_window,
        max_output=diagnosis.max_output,
        accepts_images=accepts_images,
        efforts=tuple(diagnosis.efforts),
    )
