"""Command `doctor`: what a run stores and when. `golden_commands/doctor` has its tables, remedies and reports."""

import asyncio
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from anthropic_proxy.cli.doctor.report import DoctorProgress
from anthropic_proxy.console.doctor import stored_runs
from anthropic_proxy.console.doctor.findings import Diagnosis
from anthropic_proxy.console.doctor.fixes import list_fixes
from anthropic_proxy.console.doctor.run import select_backends
from anthropic_proxy.console.doctor.server_tables import find_window_setting
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.services import open_services
from anthropic_proxy.gateway.settings import load_settings
from anthropic_proxy.gateway.settings.place import find_data_directory
from anthropic_proxy.gateway.telemetry.log import Log
from tests.support.command_line import run_command
from tests.support.fakes.compatible import new_server
from tests.support.fakes.compatible.groq import GROQ
from tests.support.fakes.server import Running, serving
from tests.support.paths import ROOT
from tests.support.routes import load_routes
from tests.support.terminal import answer_questions
from tests.support.waiting import WAIT_SECONDS


def settings_of(groq: Running, local: Running) -> dict[str, str]:
    return {
        "PREFERRED_PROVIDER": "openai",
        "OPENAI_BASE_URL": f"{local.url}/v1",
        "BIG_MODEL": "openai/qwen3-coder",
        "SMALL_MODEL": "groq/llama-3.3-70b-versatile",
        "GROQ_BASE_URL": f"{groq.url}/openai/v1",
        "GROQ_API_KEY": GROQ.key,
    }


def test_only_a_run_of_all_backends_is_stored_for_the_dashboard(tmp_path: Path) -> None:
    data = find_data_directory({"HOME": str(tmp_path)}) or tmp_path
    with serving(new_server("groq")) as groq, serving(new_server("local")) as local:
        settings = settings_of(groq, local)
        for words in (("groq",), ("--no-learn",)):
            run_command("doctor", *words, directory=tmp_path, settings=settings)
            assert (stored_runs.load_complete(data), stored_runs.load_current(data)) == (None, None)
        run_command("doctor", directory=tmp_path, settings=settings)
    run = stored_runs.load_complete(data)
    assert run is not None
    assert [f"{one.prefix}/{one.model}" for one in run.columns] == [
        "groq/llama-3.3-70b-versatile",
        "openai/qwen3-coder",
    ]
    assert {"key, address", "streaming, tools", "output limit, tokens"} <= {row.title for row in run.rows}
    assert stored_runs.load_current(data) is None


def test_a_run_that_cannot_be_stored_is_reported(tmp_path: Path) -> None:
    data = find_data_directory({"HOME": str(tmp_path)}) or tmp_path
    data.mkdir(parents=True)
    stored_runs.find_folder(data).write_text("a file")
    ended = run_command("doctor", directory=tmp_path, settings={"PREFERRED_PROVIDER": "demo"})
    assert ended.stderr.splitlines()[-1] == f"  ✕ The results cannot be stored in {data}: file exists."


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_results_that_cannot_be_printed_are_stored(tmp_path: Path) -> None:
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "ANTHROPIC_PROXY_CONFIG": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
    }
    with serving(new_server("groq")) as groq, serving(new_server("local")) as local, open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "anthropic_proxy", "doctor", "--report", "report.json"],
            cwd=tmp_path,
            env={**environment, **settings_of(groq, local)},
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=WAIT_SECONDS,
            check=False,
        )
    data = find_data_directory({"HOME": str(tmp_path)}) or tmp_path
    _, *lines = ended.stderr.decode().splitlines()
    assert (ended.returncode, lines) == (
        1,
        [
            "  The proxy uses the found limits of 2 models from its next start.",
            "✕ The output cannot be written: no space left.",
        ],
    )
    assert (stored_runs.load_complete(data) is not None, stored_runs.load_current(data)) == (True, None)
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))["exit_status"] == 0


def test_an_unconfirmed_run_sends_nothing(tmp_path: Path) -> None:
    servers = "".join(f'[providers.s{at}]\nbase_url = "http://127.0.0.1:9/v1"\nmodels = ["x"]\n' for at in range(5))
    (tmp_path / "anthropic-proxy.toml").write_text(servers, encoding="utf-8")
    answers = iter([("Send them? [y/N] ", "n\r")])
    screen = answer_questions("doctor", answers=answers, directory=tmp_path, settings={})
    assert screen.lines[-1] == "✕ Nothing was sent. To send them without a question:  anthropic-proxy doctor --yes"


def test_the_table_for_an_unknown_context_window_names_the_path_of_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    variables = {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
    settings = load_settings(variables, PROVIDERS, env_file=str(tmp_path / "settings" / ".env"))
    setting = find_window_setting(PROVIDERS.find("openai"), "unknown", settings)
    assert setting.place == "add to ~/settings/anthropic-proxy.toml, and use the prefix local9/"


def test_a_route_with_retired_models_gets_the_line_with_their_successors(tmp_path: Path) -> None:
    text = """
[[routes]]
name = "night"
targets = ["groq/llama-3.1-8b-instant", "groq/gone", "groq/llama-3.3-70b-versatile"]
"""
    settings = load_routes(tmp_path, text, GROQ_API_KEY="gsk-test", PREFERRED_PROVIDER="groq", BIG_MODEL="groq/kept")

    async def list_found() -> list[tuple[str, str, str]]:
        services = await open_services(settings)
        try:
            backend, *_ = select_backends(services, ["groq"])
            diagnosis = Diagnosis(backend=backend, models=["kept", "openai/gpt-oss-20b", "openai/gpt-oss-120b"])
            fixes = list_fixes([diagnosis], settings, services.catalog)
            return [(fix.problem, fix.remedy, fix.place.replace(f"{tmp_path}/", "")) for fix in fixes]
        finally:
            await services.close()

    assert asyncio.run(list_found()) == [
        (
            "does not list the models llama-3.1-8b-instant and llama-3.3-70b-versatile of the route night.",
            'targets = ["groq/openai/gpt-oss-20b", "groq/gone", "groq/openai/gpt-oss-120b"]',
            "in anthropic-proxy.toml line 4",
        ),
        ("does not list the model gone of the route night.", "anthropic-proxy doctor groq/gone", ""),
    ]


def test_in_a_pipe_the_backends_without_a_reply_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    async def wait() -> None:
        variables = {"OPENAI_API_KEY": "sk-0123456789"}
        services = await open_services(load_settings(variables, PROVIDERS, env_file=None), log=Log(io.StringIO()))
        backends = select_backends(services, ("openai/gpt-4.1",))
        await services.close()
        with DoctorProgress(shows_table=True) as progress:
            progress.update([Diagnosis(backend=backend) for backend in backends])
            waiting = asyncio.create_task(progress.report_unfinished(0))
            for _ in range(3):
                await asyncio.sleep(0)
            waiting.cancel()
            progress.write_cost_of_stopped_probes()

    asyncio.run(wait())
    line, *_, last = capsys.readouterr().err.splitlines()
    assert line == "Waiting for openai/gpt-4.1. A request without a reply ends after 120 s."
    assert last == "Stopped after 0 requests and 0 tokens."
