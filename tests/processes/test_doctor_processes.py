"""Processes of the doctor that the dashboard starts: estimates, another run, a failed reload, the stop."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec import Struct

from anthropic_proxy.console.dashboard.doctor import DoctorProcesses, Estimate
from anthropic_proxy.console.doctor import stored_runs
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.place import find_data_directory
from anthropic_proxy.plugins import Gateway
from tests.support.paths import ROOT
from tests.support.waiting import wait_for_async

_SYSTEM_VARIABLES = ("PATH", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR")
FREE = Estimate(models=[], requests=0, tokens=0, price=0.0)


@pytest.fixture(autouse=True)
def user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run the processes of the test for a user without settings and keys, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    kept = {name: value for name, value in os.environ.items() if name in _SYSTEM_VARIABLES}
    for name in os.environ:
        monkeypatch.delenv(name)
    own = {
        "HOME": str(tmp_path),
        "ANTHROPIC_PROXY_CONFIG": str(tmp_path),
        "LOCALAPPDATA": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "PREFERRED_PROVIDER": "demo",
    }
    for name, value in {**kept, **own}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def started() -> Iterator[list[bool]]:
    """Yield a list with an element for each process that starts: True for an estimate."""
    found: list[bool] = []
    is_open = True

    def note(event: str, values: tuple[Any, ...]) -> None:
        if is_open and event == "subprocess.Popen" and "doctor" in values[1]:
            found.append("--dry-run" in values[1])

    sys.addaudithook(note)  # there is no function that removes it
    yield found
    is_open = False


async def test_simultaneous_callers_share_one_process(started: list[bool]) -> None:
    processes = DoctorProcesses(None)  # type: ignore[arg-type]  # the proxy is used only after an error
    cancelled = asyncio.ensure_future(processes.estimate())
    others = [asyncio.ensure_future(processes.estimate()) for _ in range(4)]
    await asyncio.sleep(0)
    cancelled.cancel()
    assert await asyncio.gather(*others) == [FREE] * 4
    assert started == [True]
    assert await processes.estimate() == FREE
    assert started == [True, True]


async def test_the_process_imports_nothing_from_the_current_directory(started: list[bool], tmp_path: Path) -> None:
    (tmp_path / "msgspec.py").write_text("raise SystemExit('imported from the current directory')")
    assert await DoctorProcesses(None).estimate() == FREE  # type: ignore[arg-type]
    assert started == [True]


class _Gateway(Struct):
    """Gateway of a server that cannot reload its settings. `failure`: exception of each reload."""

    failure: Exception | None
    warnings: list[str]
    settings: Settings = Settings()

    async def reload_settings(self) -> bool:
        if self.failure is not None:
            raise self.failure
        return False

    def log_warning_each_time(self, text: str) -> None:
        self.warnings.append(text)


def new_processes(failure: Exception | None = None) -> tuple[DoctorProcesses, list[str]]:
    gateway = _Gateway(failure, [])
    return DoctorProcesses(cast("Gateway", gateway)), gateway.warnings


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return find_data_directory(dict(os.environ)) or tmp_path


@pytest.mark.parametrize(
    ("failure", "reason"),
    [(None, "this server reads settings only at its start"), (ValueError("a defect"), "a defect")],
    ids=["unsupported", "failed"],
)
async def test_a_reload_that_fails_is_logged_and_the_run_is_complete(
    failure: Exception | None, reason: str, data: Path
) -> None:
    processes, warnings = new_processes(failure)
    await processes.start(data, 0.0)
    await wait_for_async(lambda: not stored_runs.is_running(data))
    assert (stored_runs.load_complete(data) is not None, stored_runs.load_current(data)) == (True, None)
    assert warnings == [
        f"The results of the doctor are not used yet, because the settings were not reloaded: {reason}."
    ]


async def test_an_old_form_starts_nothing_and_keeps_the_failure_of_the_latest_run(data: Path) -> None:
    failed = stored_runs.DoctorRun(started_at=2.0, problem="The proxy was stopped.")
    stored_runs.find_folder(data).mkdir(parents=True)
    stored_runs.store_current(data, failed)
    processes, _ = new_processes()
    for latest in (1.0, float("nan")):
        with pytest.raises(InvalidRequest) as raised:
            await processes.start(data, latest)
        assert raised.value.message == (
            "The doctor cannot start: another run has begun since this form was opened. Its results are on the page "
            "Providers."
        )
    assert stored_runs.load_current(data) == failed


async def test_a_start_that_fails_keeps_the_reason_of_an_earlier_failed_run(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = stored_runs.DoctorRun(started_at=2.0, requests=7, problem="The proxy was stopped.")
    stored_runs.find_folder(data).mkdir(parents=True)
    stored_runs.store_current(data, failed)
    processes, _ = new_processes()
    monkeypatch.setattr(sys, "executable", str(data / "missing"))
    with pytest.raises(InvalidRequest) as raised:
        await processes.start(data, 2.0)
    with pytest.raises(InvalidRequest) as estimated:
        await processes.estimate()
    message = f"The doctor cannot start: no such file ({data / 'missing'})."
    assert [one.value.message for one in (raised, estimated)] == [message] * 2
    assert stored_runs.load_current(data) == failed


async def test_no_process_is_started_while_the_proxy_stops(data: Path) -> None:
    processes, _ = new_processes()
    await processes.stop()
    with pytest.raises(InvalidRequest) as estimated:
        await processes.estimate()
    with pytest.raises(InvalidRequest) as started:
        await processes.start(data, 0.0)
    assert [one.value.message for one in (estimated, started)] == [
        "The doctor cannot start: the proxy is stopping."
    ] * 2
    assert stored_runs.load_current(data) is None


@asynccontextmanager
async def blocked_key_command(directory: Path) -> AsyncIterator[asyncio.Future[asyncio.StreamWriter]]:
    """Configure a key by a command that does not end in the block. Yield its connection to the test, when it runs."""
    connected: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(lambda _, writer: connected.set_result(writer), "127.0.0.1", 0)
    program = f"import socket; socket.create_connection({server.sockets[0].getsockname()[:2]}).recv(1)"
    (directory / "anthropic-proxy.toml").write_text(
        '[providers.own]\nbase_url = "http://127.0.0.1:1/v1"\n'
        f"api_key = {{ command = {json.dumps([sys.executable, '-c', program])} }}\n"
    )
    try:
        yield connected
    finally:
        server.close()
        if connected.done():
            connected.result().close()


async def test_an_estimate_that_the_stop_of_the_proxy_ends_is_explained(data: Path) -> None:
    processes, _ = new_processes()
    estimate = asyncio.ensure_future(processes.estimate())
    await asyncio.sleep(0)  # its thread starts a process, which imports for longer than the stop takes
    await processes.stop()
    with pytest.raises(InvalidRequest) as raised:
        await estimate
    assert raised.value.message == "The doctor cannot start: the proxy is stopping."


async def test_results_that_cannot_be_stored_are_the_reason_of_a_failure(data: Path) -> None:
    folder = stored_runs.find_folder(data)
    (folder / "last-run.json" / "a file").mkdir(parents=True)
    processes, _ = new_processes()
    await processes.start(data, 0.0)
    await wait_for_async(lambda: not stored_runs.is_running(data))
    failed = stored_runs.load_current(data)
    assert failed.problem == f"The results cannot be stored in {data}: it is a folder."


@pytest.mark.skipif(sys.platform == "win32", reason="platform: a folder with an open file cannot be moved")
async def test_a_failure_that_cannot_be_stored_is_logged(data: Path, tmp_path: Path) -> None:
    folder = stored_runs.find_folder(data)
    processes, warnings = new_processes()
    async with blocked_key_command(tmp_path) as connected:
        await processes.start(data, 0.0)
        await connected
        folder.rename(tmp_path / "moved")
        folder.write_text("a file")
    await wait_for_async(lambda: warnings)
    reason = f"The results cannot be stored in {data}: not a directory."
    assert warnings == [
        f"The doctor ended before it was complete. {reason} This text cannot be stored: not a directory ({folder})."
    ]
