"""Runs of the doctor in the server, which users of the dashboard start and stop.

Theory of operation. A run is a task of one worker, which holds the lock of stored runs. The store that all workers
share has the results so far, which each worker shows, and the wish of a user to stop, which the task reads twice a
second. Both expire soon after the last renewal, in case that the worker ends. The data directory has the latest
complete run, and one that ended early, so that a later start of the proxy shows them too.

The task shares the event loop with requests of clients. A probe waits for its provider like a request; what computes
longer runs in a thread.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

import msgspec
from msgspec import structs

from anthropic_proxy.console.doctor import stored_runs
from anthropic_proxy.console.doctor.findings import Diagnosis
from anthropic_proxy.console.doctor.learned import store_facts
from anthropic_proxy.console.doctor.report import Report
from anthropic_proxy.console.doctor.run import Estimate, estimate_run, open_backends, run_doctor
from anthropic_proxy.console.doctor.stored_runs import DoctorRun, add_results, complete_run, describe_not_stored
from anthropic_proxy.engine.json_decoding import InvalidJson, decode_json
from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Gateway, Store, StoreUnavailable
from anthropic_proxy.secrets import new_redactor

INTERVAL_SECONDS = 0.5
"""Seconds between two updates of the shared results, and between two checks for the wish to stop."""
_LEASE_SECONDS = 10.0
"""Lifetime of the shared results after their last renewal."""
_STOP_SECONDS = 5.0
"""Maximum seconds in which a run ends after it was stopped."""
_STOP_POLLS = 100
_RELOAD_SECONDS = 30.0
_STOPPED = "A user stopped it on this page."
_PROXY_STOPPED = "The proxy was stopped."
_NO_STORE = "Redis is unavailable. Try again in a moment."


class DoctorRuns:
    """`reload` reads the settings again, in all workers. False: this server can read them only at its start."""

    def __init__(self, gateway: Gateway[Settings], reload: Callable[[], Awaitable[bool]]) -> None:
        self._gateway, self._reload = gateway, reload
        self._run: _Run | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False

    async def estimate(self) -> Estimate:
        """Return the expected cost of a run, without the demo."""
        settings = self._gateway.settings
        async with open_backends(settings) as (_, backends):
            examined = [backend for backend in backends if not backend.is_demo]
        return await asyncio.to_thread(estimate_run, examined, settings)

    async def current(self) -> DoctorRun | None:
        """Return the run in progress, of any worker. None: there is none."""
        with suppress(StoreUnavailable, InvalidJson):
            if text := await self._gateway.store.get(_name(self._gateway.settings, "run")):
                return decode_json(text, DoctorRun)
        return None

    async def start(self, expected_latest_start: float) -> None:
        """Start a run; do nothing if another one is in progress.

        `expected_latest_start`: start of the latest run when the user opened the form. Raises `InvalidRequest` if
        another run has begun since, because its results are then available, or if the run cannot start.
        """
        if await self.current() is not None:
            return
        settings, store = self._gateway.settings, self._gateway.store
        directory = find_directory(settings)
        async with AsyncExitStack() as lock:
            try:
                await asyncio.to_thread(lock.enter_context, stored_runs.locked_run(directory))
                if await asyncio.to_thread(stored_runs.find_latest_start, directory) != expected_latest_start:
                    raise _refuse(
                        "another run has begun since this form was opened. Its results are on the page Providers."
                    )
                if self._is_closing:
                    raise _refuse("the proxy is stopping.")
                run = _Run(self._gateway, store)
                await run.begin()
            except StoreUnavailable:
                raise _refuse(_NO_STORE) from None
            except TimeoutError:
                if await self.current() is not None:
                    return
                raise _refuse("another run is in progress.") from None
            except OSError as error:
                raise _refuse(f"{describe_os_error(error)} ({stored_runs.find_folder(directory)}).") from None
            self._run = run
            self._task = asyncio.create_task(self._complete(run, lock.pop_all()))

    async def stop(self) -> None:
        """Stop the run in progress, of any worker, and wait for its end. Raises `InvalidRequest`."""
        if (run := await self.current()) is None:
            return
        try:
            await self._gateway.store.put(_name_stop(self._gateway.settings, run), "wished", _LEASE_SECONDS)
        except StoreUnavailable:
            raise InvalidRequest(f"The doctor cannot be stopped: {_NO_STORE}", code="dashboard-doctor") from None
        for _ in range(_STOP_POLLS):
            if await self.current() is None:
                return
            await asyncio.sleep(_STOP_SECONDS / _STOP_POLLS)

    async def close(self) -> None:
        """End a run of this process, because the server stops."""
        self._is_closing = True
        if self._run is not None and self._task is not None:
            self._run.stop(_PROXY_STOPPED)
            await asyncio.wait([self._task], timeout=_STOP_SECONDS)

    async def _complete(self, run: "_Run", lock: AsyncExitStack) -> None:
        sharing = asyncio.create_task(run.keep_shared())
        try:
            async with lock:
                await run.examine()
                if await run.store():
                    if not self._is_closing:
                        await self._reload_settings()
                    await asyncio.to_thread(stored_runs.remove_current, run.directory)
        finally:
            sharing.cancel()
            await asyncio.wait([sharing])
            await run.unshare()  # a page shows the end of a run only if nobody has its lock

    async def _reload_settings(self) -> None:
        """A failure is logged."""
        reloading = asyncio.ensure_future(self._reload())
        if not (await asyncio.wait([reloading], timeout=_RELOAD_SECONDS))[0]:
            reason = f"the reload takes more than {_RELOAD_SECONDS:g} s"
        elif (error := reloading.exception()) is not None:
            reason = describe_os_error(error)
        elif reloading.result():
            return
        else:
            reason = "this server reads settings only at its start"
        self._gateway.log_warning_each_time(
            f"The results of the doctor are not used yet, because the settings were not reloaded: {reason}."
        )


class _Run:
    """A run of this process. It uses the settings of its start."""

    def __init__(self, gateway: Gateway[Settings], store: Store) -> None:
        self._gateway, self._store = gateway, store
        self._settings = gateway.settings
        self._redact = new_redactor(self._settings.reveal_all_secrets())
        self.directory = find_directory(self._settings)
        self._run = stored_runs.new_run(self._settings)
        self._diagnoses: Sequence[Diagnosis] = ()
        self._report: Report | None = None
        self._problem = ""
        """Reason for which the run ended before it was complete."""
        self._examining: asyncio.Task[Report] | None = None

    async def begin(self) -> None:
        """Raises `StoreUnavailable` and `OSError`."""
        await self._share()
        try:
            await asyncio.to_thread(stored_runs.store_current, self.directory, self._run)
        except OSError:
            await self.unshare()
            raise

    async def _share(self) -> None:
        results = await self._mask_keys(add_results(self._run, self._diagnoses))
        await self._store.put(_name(self._settings, "run"), msgspec.json.encode(results).decode(), _LEASE_SECONDS)

    async def unshare(self) -> None:
        with suppress(StoreUnavailable):
            await self._store.delete(_name(self._settings, "run"))

    def stop(self, problem: str) -> None:
        self._problem = self._problem or problem
        if self._examining is not None:
            self._examining.cancel()

    async def keep_shared(self) -> None:
        """Share the results so far again and again, and stop the run if a user wants it."""
        try:
            while True:
                await asyncio.sleep(INTERVAL_SECONDS)
                with suppress(StoreUnavailable):  # the run goes on
                    await self._share()
                    if await self._store.get(_name_stop(self._settings, self._run)) is not None:
                        self.stop(_STOPPED)
        except Exception as error:  # noqa: BLE001  # nobody could stop the run any more
            self.stop(_describe_failure(error))

    async def examine(self) -> None:
        """Send the probes."""
        if self._problem:  # the server has stopped meanwhile
            return

        async def send_probes() -> Report:
            async with open_backends(self._settings) as (services, backends):
                expected = await asyncio.to_thread(estimate_run, backends, self._settings)
                self._run = structs.replace(self._run, expected_requests=expected.requests)
                return await run_doctor(services, backends, partial(setattr, self, "_diagnoses"), checks_settings=True)

        self._examining = asyncio.create_task(send_probes())
        await asyncio.wait([self._examining])
        if self._examining.cancelled():
            return
        if (error := self._examining.exception()) is None:
            self._report = self._examining.result()
        else:
            self._problem = _describe_failure(error)

    async def store(self) -> bool:
        """Store the results in the data directory. Return True if they are complete."""
        if self._report is not None:
            try:
                await asyncio.to_thread(store_facts, self.directory, self._report.diagnoses)
            except OSError as error:
                self._warn(f"Doctor: {describe_not_stored('facts', self.directory, error)}")
            try:
                run = await self._mask_keys(complete_run(self._run, self._report))
                await asyncio.to_thread(stored_runs.store_complete, self.directory, run)
            except OSError as error:
                self._problem = describe_not_stored("results", self.directory, error)
            else:
                return True
        text = self._redact(self._problem)
        run = await self._mask_keys(add_results(structs.replace(self._run, problem=text), self._diagnoses))
        try:
            await asyncio.to_thread(stored_runs.store_current, self.directory, run)
        except OSError as error:
            place = f"{describe_os_error(error)} ({stored_runs.find_folder(self.directory)})"
            self._warn(f"The doctor ended before it was complete. {text} This text cannot be stored: {place}.")
        return False

    async def _mask_keys(self, run: DoctorRun) -> DoctorRun:
        return await asyncio.to_thread(stored_runs.mask_keys, run, self._redact)

    def _warn(self, text: str) -> None:
        self._gateway.log_warning_each_time(self._redact(text))


def find_directory(settings: Settings) -> Path:
    assert settings.data_directory is not None  # else nobody has the permission to run the doctor
    return settings.data_directory


def _name(settings: Settings, kind: str) -> str:
    """Servers with one Redis and several data directories have runs of their own."""
    return f"doctor/{kind}/{settings.data_directory}"


def _name_stop(settings: Settings, run: DoctorRun) -> str:
    return _name(settings, f"stop/{run.started_at!r}")


def _describe_failure(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    reason = describe_os_error(error).rstrip(".")
    return f"{reason}. For details, run in a terminal: anthropic-proxy doctor"


def _refuse(reason: str) -> InvalidRequest:
    return InvalidRequest(f"The doctor cannot start: {reason}", code="dashboard-doctor")
