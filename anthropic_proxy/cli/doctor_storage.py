"""Storage of the results of the command `doctor`: for the dashboard, and for the next start of the proxy.

`open_recorder` opens the `RunRecorder`, which stores the progress and the results of a run. It also holds a lock,
so that two runs are not stored at the same time. `store_results` stores the results.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import date
from pathlib import Path

from anthropic_proxy import doctor_run
from anthropic_proxy.lab.doctor import Report
from anthropic_proxy.lab.doctor.learned_facts import list_learned_models
from anthropic_proxy.lab.doctor.run_recorder import RunRecorder
from anthropic_proxy.platforms.os_errors import describe_os_error
from anthropic_proxy.routing.catalog import store_learned_models
from anthropic_proxy.settings import Settings

_LOCK_SECONDS = 1.0
"""Seconds for which the command waits for the lock of stored runs. A page of the dashboard may hold it for a moment."""


@contextmanager
def open_recorder(settings: Settings, directory: Path | None, *, is_attached: bool) -> Iterator[RunRecorder]:
    """Return a context manager that yields the recorder, which stores the run for the dashboard.

    `directory` is the data directory. With None, nothing is stored. The context manager holds a lock, so that no other
    run is stored meanwhile. With `is_attached`, the dashboard has started this run and already holds the lock. If
    another run holds it, or the folder cannot be written, a line is written to stderr and nothing is stored.
    """
    with ExitStack() as stack:
        if directory is not None and not is_attached:
            try:
                with ExitStack() as opened:
                    opened.enter_context(doctor_run.locked_run(directory, _LOCK_SECONDS))
                    doctor_run.remove_current(directory)  # an earlier run that failed
                    stack.enter_context(opened.pop_all())
            except OSError as error:
                folder = doctor_run.find_folder(directory)
                is_locked = isinstance(error, TimeoutError)
                reason = "another run is in progress" if is_locked else f"{describe_os_error(error)} ({folder})"
                sys.stderr.write(f"! This run is not stored for the dashboard: {reason}.\n")
                directory = None
        yield RunRecorder(directory, settings, time.time)
        if directory is not None and not is_attached:
            with suppress(OSError):
                doctor_run.remove_current(directory)


def store_results(recorder: RunRecorder, result: Report, directory: Path) -> list[str]:
    """Store the complete run for the dashboard, and the observed limits and features of models in `directory`.

    Return lines for stderr: one with the file in which the limits and features are stored, and one for each failure.
    """
    lines = _store_facts(result, directory)
    try:
        recorder.finish(result)
    except OSError as error:
        lines.append(f"✕ The results cannot be stored in {directory}: {describe_os_error(error)}.")
    return lines


def _store_facts(result: Report, directory: Path) -> list[str]:
    learned = list_learned_models(result.diagnoses, date.today())
    if not learned:
        return []
    try:
        file = store_learned_models(directory, learned, date.today())
    except OSError as error:
        is_locked = isinstance(error, TimeoutError)
        reason = "another run stores its facts" if is_locked else describe_os_error(error)
        return [f"✕ The facts cannot be stored in {directory}: {reason}."]
    noun = "model" if len(learned) == 1 else "models"
    return [f"Facts about {len(learned)} {noun} for the next start or reload: {file}"]
