"""Form that runs the doctor, the test of the configured providers, as a process of the command `doctor`.

It shows the expected cost of a run and starts it, or stops the run in progress. The page Providers shows progress and
results, which the process stores in files.
"""

import asyncio
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from anthropic_proxy.console.dashboard.page import Form, OpenedForm
from anthropic_proxy.console.dashboard.permissions import explain_doctor_denial
from anthropic_proxy.console.dashboard.settings import reload_settings
from anthropic_proxy.console.dashboard.web import is_from_own_page, redirect
from anthropic_proxy.console.doctor import stored_runs
from anthropic_proxy.console.doctor.stored_runs import DoctorRun
from anthropic_proxy.engine.json_decoding import InvalidJson, decode_json
from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.platforms.processes import background_popen_options, end_process, proxy_command
from anthropic_proxy.gateway.readiness import describe_demo
from anthropic_proxy.gateway.settings import copy_environment
from anthropic_proxy.plugins import Gateway, RouteResponse
from anthropic_proxy.secrets import redact_secrets

PROVIDERS_PATH = "/dashboard/providers"
_EMPTY: Mapping[str, Any] = {"is_running": False, "estimate": None, "latest": "", "demo": "", "problem": ""}
_ESTIMATE_SECONDS = 60.0
"""Maximum seconds of the estimate. It lists the models of a local server, and sends no request to a model."""
_RELOAD_SECONDS = 30.0
_STOP_SECONDS = 5.0
"""Seconds in which a process must end after its standard input. Then it is killed."""
_MAX_OUTPUT_CHARACTERS = 2_000
_PROXY_STOPPED = "The proxy was stopped."
_IN_PROGRESS = "another run is in progress."
_OUTDATED = "another run has begun since this form was opened. Its results are on the page Providers."
_STOPPING = "the proxy is stopping."
_IN_A_TERMINAL = "For details, run in a terminal: anthropic-proxy doctor"


async def _show(form: OpenedForm) -> RouteResponse:
    if not is_from_own_page(form.request):
        return redirect(PROVIDERS_PATH)  # another site must not make this process compute an estimate
    directory = form.site.gateway.settings.data_directory
    assert directory is not None
    if await asyncio.to_thread(stored_runs.is_running, directory):
        return await form.respond("doctor.html", {**_EMPTY, "is_running": True})
    latest = await asyncio.to_thread(stored_runs.find_latest_start, directory)
    try:
        estimate = await form.site.doctor.estimate()
        values = {"estimate": estimate, "latest": repr(latest), "demo": describe_demo(form.site.gateway.settings)}
    except InvalidRequest as error:
        values = {"problem": error.message}
    return await form.respond("doctor.html", {**_EMPTY, **values})


async def _submit(form: OpenedForm, sent: Mapping[str, str]) -> RouteResponse:
    directory = form.site.gateway.settings.data_directory
    assert directory is not None
    try:
        if sent.get("action") == "stop":
            await asyncio.to_thread(_stop, directory)
        else:
            try:
                latest = float(sent.get("latest", ""))
            except ValueError:
                latest = -1.0  # no run has this start, so the form is rejected as outdated
            await form.site.doctor.start(directory, latest)
    except InvalidRequest as error:
        return await form.respond("doctor.html", {**_EMPTY, "problem": error.message})
    return redirect(f"{PROVIDERS_PATH}#doctor")


def _stop(directory: Path) -> None:
    if not stored_runs.is_running(directory):
        return
    try:
        stored_runs.request_stop(directory)
    except OSError as error:
        raise InvalidRequest(
            f"The doctor cannot be stopped: {describe_os_error(error)}.", code="dashboard-doctor"
        ) from None


class Estimate(Struct, frozen=True):
    models: Sequence[str]
    requests: int
    tokens: int
    price: float | None
    """Price in US dollars. None: a price is unknown."""


class _StartFailed(Exception):
    """The process cannot be started. The text is the reason, as the end of a sentence."""


class DoctorProcesses:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._estimating: asyncio.Task[Estimate] | None = None
        self._processes: set[subprocess.Popen[str]] = set()
        self._threads: set[threading.Thread] = set()
        self._opening = threading.Lock()
        """Held while a process is started, so that `stop` ends every process."""
        self._is_stopping = False

    async def estimate(self) -> Estimate:
        """Simultaneous calls share one process. Raises `InvalidRequest` with the error of the command."""
        if self._estimating is None:
            self._estimating = asyncio.create_task(asyncio.to_thread(self._estimate))
            self._estimating.add_done_callback(self._end_estimate)
        return await asyncio.shield(self._estimating)  # other callers wait for it if this one is cancelled

    async def start(self, directory: Path, expected_latest_start: float) -> None:
        """Start a run and return as soon as its process has started; do nothing if another run is in progress.

        `expected_latest_start`: start of the latest run when the user opened the form. Raises `InvalidRequest` if
        another run has begun since, because its results are then available, or if the process cannot start.
        """
        if await asyncio.to_thread(stored_runs.is_running, directory):
            return
        loop = asyncio.get_running_loop()
        started: asyncio.Future[str] = loop.create_future()

        def set_result(problem: str) -> None:
            if not started.done():
                started.set_result(problem)

        def report(problem: str) -> None:
            with suppress(RuntimeError):  # at the end of a run, the event loop may have ended
                loop.call_soon_threadsafe(set_result, problem)

        thread = threading.Thread(
            target=self._run, args=(directory, expected_latest_start, loop, report), name="doctor", daemon=True
        )
        self._threads.add(thread)
        thread.start()
        if problem := await started:
            raise InvalidRequest(f"The doctor cannot start: {problem}", code="dashboard-doctor")

    async def stop(self) -> None:
        await asyncio.to_thread(self._refuse_processes)
        for process in list(self._processes):
            await asyncio.to_thread(end_process, process, _STOP_SECONDS)
        for thread in list(self._threads):
            await asyncio.to_thread(thread.join, _STOP_SECONDS)

    def _refuse_processes(self) -> None:
        with self._opening:
            self._is_stopping = True

    def _run(
        self,
        directory: Path,
        latest_start: float,
        loop: asyncio.AbstractEventLoop,
        report: Callable[[str], None],
    ) -> None:
        """`report`: receives the reason for which the process cannot start, or "" when it runs."""
        problem = ""
        try:
            with stored_runs.locked_run(directory):
                if stored_runs.find_latest_start(directory) == latest_start:
                    self._run_locked(directory, loop, report)
                else:
                    problem = _OUTDATED
        except TimeoutError:
            problem = _IN_PROGRESS
        except _StartFailed as error:
            problem = str(error)
        except OSError as error:
            problem = f"{describe_os_error(error)} ({stored_runs.find_folder(directory)})."
        finally:
            report(problem)  # after the lock is released: whoever tries again must not find a run
            self._threads.discard(threading.current_thread())

    def _run_locked(self, directory: Path, loop: asyncio.AbstractEventLoop, report: Callable[[str], None]) -> None:
        previous, failed = stored_runs.load_complete(directory), stored_runs.load_current(directory)
        stored_runs.store_current(directory, DoctorRun(started_at=time.time()))
        try:
            process = self._open_process("--yes", "--attached", stdin=subprocess.PIPE)
        except _StartFailed:
            if failed is None:
                stored_runs.remove_current(directory)
            else:
                stored_runs.store_current(directory, failed)
            raise
        report("")
        try:
            assert process.stderr is not None
            output = ""
            for line in process.stderr:
                output = (output + line)[-_MAX_OUTPUT_CHARACTERS:]
            status = process.wait()
        finally:
            self._close(process)
        if stored_runs.load_complete(directory) == previous:
            self._store_failure(directory, _find_error(output, status))
            return
        if errors := _list_errors(output):  # the facts about models could not be stored
            self._gateway.log_warning_each_time(redact_secrets(f"Doctor: {' '.join(errors)}", self._list_secrets()))
        try:
            if not self._is_stopping:
                self._reload(loop)
        finally:
            stored_runs.remove_current(directory)

    def _reload(self, loop: asyncio.AbstractEventLoop) -> None:
        """Reload the settings in all workers. A failure is logged."""
        reloading = reload_settings(self._gateway)
        try:
            future = asyncio.run_coroutine_threadsafe(reloading, loop)
            error = future.exception(_RELOAD_SECONDS)
        except TimeoutError:
            reason = f"the reload takes more than {_RELOAD_SECONDS:g} s"
        except (RuntimeError, CancelledError):  # the event loop has ended
            reloading.close()
            return
        else:
            if error is None and future.result():
                return
            reason = describe_os_error(error) if error else "this server reads settings only at its start"
        self._gateway.log_warning_each_time(
            f"The results of the doctor are not used yet, because the settings were not reloaded: {reason}."
        )

    def _store_failure(self, directory: Path, problem: str) -> None:
        """Store the reason for which the run ended early, unless the process has stored one."""
        run = stored_runs.load_current(directory) or DoctorRun(started_at=time.time())
        if run.problem:
            return
        text = redact_secrets(_PROXY_STOPPED if self._is_stopping else problem, self._list_secrets())
        try:
            stored_runs.store_current(directory, structs.replace(run, problem=text))
        except OSError as error:
            place = stored_runs.find_folder(directory)
            self._gateway.log_warning_each_time(
                f"The doctor ended before it was complete. {text} This text cannot be stored: "
                f"{describe_os_error(error)} ({place})."
            )

    def _list_secrets(self) -> Sequence[str]:
        return self._gateway.settings.reveal_all_secrets()

    def _end_estimate(self, task: "asyncio.Task[Estimate]") -> None:
        self._estimating = None
        if not task.cancelled():
            task.exception()  # all callers may be cancelled; asyncio would then report the error as unhandled

    def _estimate(self) -> Estimate:
        try:
            process = self._open_process("--dry-run", "--json", "--attached", stdin=subprocess.DEVNULL)
        except _StartFailed as error:
            raise InvalidRequest(f"The doctor cannot start: {error}", code="dashboard-doctor") from None
        try:
            output, errors = process.communicate(timeout=_ESTIMATE_SECONDS)
            return decode_json(output, Estimate)
        except subprocess.TimeoutExpired:
            raise InvalidRequest(
                f"The doctor did not respond within {_ESTIMATE_SECONDS:g} s. {_IN_A_TERMINAL}",
                code="dashboard-doctor",
            ) from None
        except InvalidJson:
            problem = _STOPPING if self._is_stopping else _find_error(errors, process.returncode)
            problem = redact_secrets(problem, self._list_secrets())
            raise InvalidRequest(f"The doctor cannot start: {problem}", code="dashboard-doctor") from None
        finally:
            self._close(process)

    def _open_process(self, *options: str, stdin: int) -> subprocess.Popen[str]:
        """Start the command. Raises `_StartFailed`, also if the proxy is stopping."""
        environment = {**copy_environment(), "PYTHONIOENCODING": "utf-8", "NO_COLOR": "1"}
        command = proxy_command("doctor", *options)
        with self._opening:
            if self._is_stopping:
                raise _StartFailed(_STOPPING)
            try:
                process = subprocess.Popen(
                    command,
                    stdin=stdin,
                    stdout=subprocess.PIPE if "--json" in options else subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env=environment,
                    encoding="utf-8",
                    errors="replace",
                    **background_popen_options(),
                )
            except OSError as error:
                raise _StartFailed(f"{describe_os_error(error)} ({command[0]}).") from None
            self._processes.add(process)
        return process

    def _close(self, process: subprocess.Popen[str]) -> None:
        end_process(process, _STOP_SECONDS)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        self._processes.discard(process)


def _find_error(output: str, status: int) -> str:
    if errors := _list_errors(output):
        return " ".join(errors)
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = f" ({lines[-1]})" if lines else ""
    return f"The command ended with status {status}{last}. {_IN_A_TERMINAL}"


def _list_errors(output: str) -> Sequence[str]:
    lines = map(str.strip, output.splitlines())
    return [line.removeprefix("✕ ") for line in lines if line.startswith("✕ ")]


FORM = Form(
    section="Providers",
    page_path=PROVIDERS_PATH,
    explain_denial=explain_doctor_denial,
    show=_show,
    submit=_submit,
)
