"""Runs of the doctor in the server: workers share one, a user or the stop of the server ends it, failures are told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
from msgspec import Struct, field, structs

from anthropic_proxy.console.dashboard.providers import DoctorPanel, build_doctor_panel
from anthropic_proxy.console.doctor import stored_runs
from anthropic_proxy.console.doctor.runs import DoctorRuns
from anthropic_proxy.console.doctor.stored_runs import DoctorRun
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.settings import Settings, load_settings
from anthropic_proxy.gateway.stores.memory import MemoryStore
from anthropic_proxy.plugins import Gateway, Store, StoreUnavailable
from tests.support.fakes.compatible.groq import GROQ
from tests.support.fakes.gate import Gate, held_provider
from tests.support.fakes.server import Running
from tests.support.waiting import wait_for_async

OUTDATED = (
    "The doctor cannot start: another run has begun since this form was opened. Its results are on the page Providers."
)


class _Gateway(Struct):
    """What a run uses of the proxy. `store` is that of all workers."""

    settings: Settings
    store: Store = field(default_factory=MemoryStore)
    warnings: list[str] = field(default_factory=list)

    def log_warning_each_time(self, text: str) -> None:
        self.warnings.append(text)


async def reload() -> bool:
    return True


def new_runs(gateway: _Gateway, reload: Callable[[], Awaitable[bool]] = reload) -> DoctorRuns:
    return DoctorRuns(cast("Gateway", gateway), reload)


def new_gateway(directory: Path, server: Running | None = None) -> _Gateway:
    """Return the gateway of a proxy with one model of `server`. None: the demo replies."""
    variables = {"PREFERRED_PROVIDER": "demo"}
    if server is not None:
        models = {"BIG_MODEL": "openai/gpt-oss-120b", "SMALL_MODEL": "openai/gpt-oss-120b"}
        address = {"GROQ_BASE_URL": f"{server.url}/openai/v1", "GROQ_API_KEY": GROQ.key}
        variables = {"PREFERRED_PROVIDER": "groq", **models, **address}
    settings = load_settings(variables, PROVIDERS, env_file=None)
    return _Gateway(structs.replace(settings, data_directory=directory))


@asynccontextmanager
async def held_run(directory: Path) -> AsyncIterator[tuple[_Gateway, DoctorRuns, Gate]]:
    """Start a run whose first test request gets no answer."""
    with held_provider() as (server, gate):
        gateway = new_gateway(directory, server)
        runs = new_runs(gateway)
        await runs.start(stored_runs.find_latest_start(directory))
        await wait_for_async(lambda: gate.held)
        yield gateway, runs, gate
        await runs.close()


async def wait_for_end(runs: DoctorRuns) -> None:
    await wait_for_async(runs.current, lambda run: run is None)


async def test_the_estimate_names_models_and_not_the_demo(tmp_path: Path) -> None:
    with held_provider() as (server, gate):
        known = await new_runs(new_gateway(tmp_path, server)).estimate()
        demo = await new_runs(new_gateway(tmp_path)).estimate()
    assert (known.models, known.requests, known.tokens) == (["groq/openai/gpt-oss-120b"], 12, 3_000)
    assert (demo.models, demo.requests, demo.tokens, demo.price) == ([], 0, 0, 0.0)
    assert gate.held == 0


async def test_workers_share_a_run_and_each_of_them_stops_it(tmp_path: Path) -> None:
    async with held_run(tmp_path) as (gateway, runs, gate):
        other = new_runs(gateway)
        await other.start(0.0)
        assert gate.held == 1
        shown = await wait_for_async(other.current, lambda run: run is not None and run.columns)
        assert shown is not None
        assert (shown, shown.expected_requests) == (await runs.current(), 12)
        assert [row.cells[0].sign for row in shown.rows] == ["…"] * 12
        await other.stop()
        assert (await runs.current(), await other.current()) == (None, None)
        await wait_for_async(lambda: gate.cancelled)
    ended = stored_runs.load_current(tmp_path)
    assert ended is not None
    assert (ended.started_at, ended.requests) == (shown.started_at, 1)
    assert ended.problem == "A user stopped it on this page."
    assert stored_runs.load_complete(tmp_path) is None


async def test_another_proxy_of_the_user_starts_no_run_and_shows_no_failure_meanwhile(tmp_path: Path) -> None:
    async with held_run(tmp_path) as (gateway, runs, _):
        other = new_runs(structs.replace(gateway, store=MemoryStore()))
        assert await other.current() is None
        started = await runs.current()
        assert started is not None
        with pytest.raises(InvalidRequest) as raised:
            await other.start(started.started_at)
        assert raised.value.message == "The doctor cannot start: another run is in progress."
        assert build_doctor_panel(gateway.settings, started.started_at) == DoctorPanel(
            summary="The doctor has not run yet."
        )
        await runs.close()
        assert build_doctor_panel(gateway.settings, started.started_at).failure == (
            "The run that started 0 s ago ended after 1 request, before it was complete. The proxy was stopped."
        )


async def test_a_stopped_run_does_not_stop_the_next_one(tmp_path: Path) -> None:
    async with held_run(tmp_path) as (_, runs, gate):
        await runs.stop()
        gate.opened.set()
        await runs.start(stored_runs.find_latest_start(tmp_path))
        await wait_for_end(runs)
    assert stored_runs.load_complete(tmp_path) is not None
    assert stored_runs.load_current(tmp_path) is None


async def test_the_stop_of_the_server_ends_the_run_and_refuses_others(tmp_path: Path) -> None:
    async with held_run(tmp_path) as (_, runs, gate):
        await runs.close()
        assert await runs.current() is None
        await wait_for_async(lambda: gate.cancelled)
        ended = stored_runs.load_current(tmp_path)
        assert ended.problem == "The proxy was stopped."
        with pytest.raises(InvalidRequest) as raised:
            await runs.start(ended.started_at)
    assert raised.value.message == "The doctor cannot start: the proxy is stopping."
    assert stored_runs.load_current(tmp_path) == ended


async def test_a_run_that_the_server_stops_at_once_sends_nothing(tmp_path: Path) -> None:
    with held_provider() as (server, gate):
        runs = new_runs(new_gateway(tmp_path, server))
        await runs.start(0.0)
        await runs.close()
        assert gate.held == 0
    ended = stored_runs.load_current(tmp_path)
    assert ended is not None
    assert (ended.requests, ended.problem) == (0, "The proxy was stopped.")


class _ClosedStore(MemoryStore):
    """Redis that is away, with `REDIS_FAILURE=closed`."""

    async def put(self, key: str, value: str, lifetime_seconds: float) -> None:
        raise StoreUnavailable


async def test_without_redis_nothing_is_started_or_stored(tmp_path: Path) -> None:
    runs = new_runs(structs.replace(new_gateway(tmp_path), store=_ClosedStore()))
    for _ in range(2):  # the lock is free again
        with pytest.raises(InvalidRequest) as raised:
            await runs.start(0.0)
        assert raised.value.message == "The doctor cannot start: Redis is unavailable. Try again in a moment."
    assert stored_runs.load_current(tmp_path) is None


async def test_a_run_of_a_worker_that_has_ended_is_shown_for_seconds_only(tmp_path: Path) -> None:
    now = 0.0
    with held_provider() as (server, gate):
        gateway = structs.replace(new_gateway(tmp_path, server), store=MemoryStore(clock=lambda: now))
        worker, other = new_runs(gateway), new_runs(gateway)
        await worker.start(0.0)
        await wait_for_async(lambda: gate.held)
        assert await other.current() is not None
        now = 11.0  # as if the worker did not renew it
        assert await other.current() is None
        await worker.close()


async def test_an_old_form_starts_nothing_and_keeps_the_failure_of_the_latest_run(tmp_path: Path) -> None:
    failed = DoctorRun(started_at=2.0, requests=7, problem="The proxy was stopped.")
    stored_runs.store_current(tmp_path, failed)
    runs = new_runs(new_gateway(tmp_path))
    for latest in (1.0, float("nan")):
        with pytest.raises(InvalidRequest) as raised:
            await runs.start(latest)
        assert raised.value.message == OUTDATED
    assert (stored_runs.load_current(tmp_path), await runs.current()) == (failed, None)
    await runs.start(2.0)  # the lock is free
    await wait_for_end(runs)
    assert stored_runs.load_current(tmp_path) is None


@pytest.mark.parametrize(
    ("failure", "reason"),
    [(None, "this server reads settings only at its start"), (ValueError("a defect"), "a defect")],
    ids=["unsupported", "failed"],
)
async def test_a_reload_that_fails_is_logged_and_the_run_is_complete(
    failure: Exception | None, reason: str, tmp_path: Path
) -> None:
    async def fail() -> bool:
        if failure is not None:
            raise failure
        return False

    gateway = new_gateway(tmp_path)
    runs = new_runs(gateway, fail)
    await runs.start(0.0)
    await wait_for_end(runs)
    assert (stored_runs.load_complete(tmp_path) is not None, stored_runs.load_current(tmp_path)) == (True, None)
    assert gateway.warnings == [
        f"The results of the doctor are not used yet, because the settings were not reloaded: {reason}."
    ]


class _CountingStore(MemoryStore):
    puts = 0

    async def put(self, key: str, value: str, lifetime_seconds: float) -> None:
        await super().put(key, value, lifetime_seconds)
        self.puts += 1


async def test_other_workers_know_the_run_while_the_settings_are_reloaded(tmp_path: Path) -> None:
    now, reloading, ended = 0.0, asyncio.Event(), asyncio.Event()

    async def wait() -> bool:
        reloading.set()
        return await ended.wait()

    store = _CountingStore(clock=lambda: now)
    gateway = structs.replace(new_gateway(tmp_path), store=store)
    runs = new_runs(gateway, wait)
    await runs.start(0.0)
    await reloading.wait()
    puts, now = store.puts, 9.0
    await wait_for_async(lambda: store.puts > puts)
    now = 18.0
    assert await new_runs(gateway).current() is not None
    ended.set()
    await wait_for_end(runs)


class _FailingStore(MemoryStore):
    """It fails after the start of a run, with an error that no store should raise."""

    async def get(self, key: str) -> str | None:
        if key.startswith("doctor/stop/"):
            raise ValueError("a defect")
        return await super().get(key)


async def test_a_defect_while_the_results_are_shared_ends_the_run_and_is_told(tmp_path: Path) -> None:
    with held_provider() as (server, gate):
        runs = new_runs(structs.replace(new_gateway(tmp_path, server), store=_FailingStore()))
        await runs.start(0.0)
        await wait_for_async(lambda: gate.held)
        await wait_for_async(lambda: gate.cancelled)
        await wait_for_end(runs)
    ended = stored_runs.load_current(tmp_path)
    assert ended is not None
    assert ended.problem == "a defect. For details, run in a terminal: anthropic-proxy doctor"


async def test_a_folder_that_cannot_be_written_refuses_the_run(tmp_path: Path) -> None:
    folder = stored_runs.find_folder(tmp_path)
    folder.write_text("a file")
    runs = new_runs(new_gateway(tmp_path))
    for _ in range(2):  # the lock is free again
        with pytest.raises(InvalidRequest) as raised:
            await runs.start(0.0)
        assert raised.value.message == f"The doctor cannot start: file exists ({folder})."
    assert await runs.current() is None


async def test_results_that_cannot_be_stored_are_the_reason_of_a_failure(tmp_path: Path) -> None:
    (stored_runs.find_folder(tmp_path) / "last-run.json" / "a file").mkdir(parents=True)
    runs = new_runs(new_gateway(tmp_path))
    await runs.start(0.0)
    await wait_for_end(runs)
    failed = stored_runs.load_current(tmp_path)
    assert failed.problem == f"The results cannot be stored in {tmp_path}: it is a folder."


async def test_a_failure_that_cannot_be_stored_is_logged(tmp_path: Path) -> None:
    folder = stored_runs.find_folder(tmp_path)
    async with held_run(tmp_path) as (gateway, runs, _):
        folder.rename(tmp_path / "moved")
        folder.write_text("a file")
        await runs.stop()
    assert gateway.warnings == [
        "The doctor ended before it was complete. A user stopped it on this page. This text cannot be stored: "
        f"file exists ({folder})."
    ]
