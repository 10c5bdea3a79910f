"""Storage of a run of the doctor: its progress and results for the dashboard, and what it learned for the proxy."""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import date
from pathlib import Path

import msgspec
from msgspec import structs

from anthropic_proxy.console import formats
from anthropic_proxy.console.doctor import stored_runs
from anthropic_proxy.console.doctor.findings import Diagnosis
from anthropic_proxy.console.doctor.report import ROWS, Report, list_explanations
from anthropic_proxy.console.doctor.server_tables import hide_credentials
from anthropic_proxy.console.doctor.stored_runs import DoctorRun, RunCell, RunColumn, RunFix, RunRow, RunTomlTable
from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.engine.providers.catalog import LearnedModel, ModelCapabilities, store_learned_models
from anthropic_proxy.engine.providers.provider_models import MODEL_LIST
from anthropic_proxy.engine.providers.servers import build_server_name
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.secrets import redact_json_value

INTERVAL_SECONDS = 0.5
"""Seconds between two writes of the progress, and between two checks for a request to stop."""
_LOCK_SECONDS = 1.0
"""Seconds for which the command waits for the lock of stored runs. A page of the dashboard may hold it for a moment."""
_STOPPED = "A user stopped it on this page."


class RunRecorder:
    """Recorder of one run. `directory`: data directory; None: nothing is stored. `clock`: seconds since the epoch."""

    def __init__(self, directory: Path | None, settings: Settings, clock: Callable[[], float]) -> None:
        self._directory = directory
        self._secrets = settings.reveal_all_secrets()
        self._clock = clock
        self._run = DoctorRun(started_at=clock(), settings_digest=stored_runs.digest_backend_settings(settings))
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
            if stored_runs.is_stop_requested(self._directory):
                self.is_stopped = True
                self._run = structs.replace(self._run, problem=_STOPPED)
                self._store_progress()
                on_stop_request()

    def finish(self, report: Report) -> None:
        """Store the results of the complete run. Raises `OSError` if the file cannot be written."""
        if self._directory is None:
            return
        self._diagnoses = report.diagnoses
        fixes = [RunFix(fix.name, fix.problem, fix.remedy, fix.place) for fix in report.fixes]
        tables = [
            RunTomlTable(hide_credentials(server.base_url), server.table)
            for server in report.servers
            if any(diagnosis.evidence for diagnosis in server.diagnoses)
        ]
        run = structs.replace(self._build(), ended_at=self._clock(), price=report.price, fixes=fixes, tables=tables)
        stored_runs.store_complete(self._directory, self._redact(run))

    def _store_progress(self) -> None:
        """Store the results so far, if they have changed. A failure is ignored, because later results follow."""
        run = self._build()
        if self._directory is None or run == self._stored:
            return
        with suppress(OSError):
            stored_runs.store_current(self._directory, self._redact(run))
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
            rows=[
                RunRow(row.title, [RunCell(cell.sign, cell.text) for cell in map(row.build, self._diagnoses)])
                for row in ROWS
            ],
        )

    def _redact(self, run: DoctorRun) -> DoctorRun:
        redacted = redact_json_value(msgspec.to_builtins(run), self._secrets)
        return msgspec.convert({**redacted, "settings_digest": run.settings_digest}, DoctorRun)


def store_results(recorder: RunRecorder, result: Report, directory: Path, reload: str = "") -> list[str]:
    """Store the complete run for the dashboard, and the observed limits and features of models in `directory`.

    Return lines for stderr: one that says when the proxy uses the limits and features, and one for each failure.
    `reload`: command by which the running proxy reads that file; "": none runs.
    """
    lines = []
    if examined := list_learned_models(result.diagnoses, date.today()):
        try:
            store_learned_models(directory, [learned for _, learned in examined], date.today())
        except OSError as error:
            is_locked = isinstance(error, TimeoutError)
            reason = "another run stores its facts" if is_locked else describe_os_error(error)
            lines.append(f"✕ The facts cannot be stored in {directory}: {reason}.")
        else:
            if changed := sum(learned.apply(used) != used for used, learned in examined):
                limits = f"the found limits of {formats.plural(changed, 'model')}"
                lines.append(
                    f"To use {limits} now:  {reload}" if reload else f"The proxy uses {limits} from its next start."
                )
    try:
        recorder.finish(result)
    except OSError as error:
        lines.append(f"✕ The results cannot be stored in {directory}: {describe_os_error(error)}.")
    return lines


@contextmanager
def open_recorder(settings: Settings, directory: Path | None, *, is_attached: bool) -> Iterator[RunRecorder]:
    """Yield the recorder, and hold the lock of stored runs meanwhile.

    `directory`: data directory; None: nothing is stored. `is_attached`: the dashboard has started this run and holds
    the lock itself. If another run holds it, or the folder cannot be written, a line is written to stderr and nothing
    is stored.
    """
    with ExitStack() as stack:
        if directory is not None and not is_attached:
            try:
                with ExitStack() as opened:
                    opened.enter_context(stored_runs.locked_run(directory, _LOCK_SECONDS))
                    stored_runs.remove_current(directory)  # an earlier run that failed
                    stack.enter_context(opened.pop_all())
            except OSError as error:
                folder = stored_runs.find_folder(directory)
                is_locked = isinstance(error, TimeoutError)
                reason = "another run is in progress" if is_locked else f"{describe_os_error(error)} ({folder})"
                sys.stderr.write(f"! This run is not stored for the dashboard: {reason}.\n")
                directory = None
        yield RunRecorder(directory, settings, time.time)
        if directory is not None and not is_attached:
            with suppress(OSError):
                stored_runs.remove_current(directory)


def list_learned_models(diagnoses: Sequence[Diagnosis], today: date) -> list[tuple[ModelCapabilities, LearnedModel]]:
    """Return the limits and features of models that a proxy uses without the doctor, and those that it observed.

    A model without any is part of it: the command `code` then does not propose to examine it. `today`: date of the
    observations.
    """
    learned = []
    for diagnosis in diagnoses:
        if diagnosis.problem is not None or diagnosis.backend.target.provider.uses_installed_models:
            continue  # Ollama reports these values itself
        images = diagnosis.state_of("images")
        # the probe of images is a streamed request, which a server without streaming rejects for another reason
        is_unknown = images == "untested" or diagnosis.state_of("streaming") == "unsupported"
        accepts_images = None if is_unknown else images != "unsupported"
        reasons = [diagnosis.limits_source]
        if accepts_images is False:
            reasons.append(diagnosis.outcomes["images"].reason)
        target = diagnosis.found_target
        found = LearnedModel(
            server=build_server_name(target.provider, target.base_url),
            model=target.model,
            observed_on=today,
            evidence="; ".join(filter(None, reasons)) or "observed by probes",
            context_window=diagnosis.context_window,
            max_output=diagnosis.max_output,
            accepts_images=accepts_images,
            efforts=tuple(diagnosis.efforts),
        )
        used = diagnosis.backend.target.capabilities
        if diagnosis.limits_source == MODEL_LIST and not used.known:  # the proxy reads the list itself
            used = structs.replace(found, accepts_images=None, efforts=()).apply(used)
        learned.append((used, found))
    return learned
