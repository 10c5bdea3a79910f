"""Panel about the doctor: texts of complete, running and ended runs, and remedies. Permission to run the doctor."""

from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy import doctor_run
from anthropic_proxy.dashboard.browser_sessions import Session
from anthropic_proxy.dashboard.doctor_permission import explain_doctor_refusal
from anthropic_proxy.dashboard.permissions import Role
from anthropic_proxy.dashboard.providers import (
    DoctorPanel,
    Matrix,
    MatrixCell,
    MatrixColumn,
    Remedy,
    build_doctor_panel,
)
from anthropic_proxy.doctor_run import (
    DoctorRun,
    RunCell,
    RunColumn,
    RunFix,
    RunRow,
    RunTomlTable,
    digest_backend_settings,
)
from anthropic_proxy.installation import build_extra_install_command
from anthropic_proxy.plugins import Client, RouteRequest
from anthropic_proxy.settings import Settings
from tests.support.ledger import NOON

TABLE = RunTomlTable("http://127.0.0.1:8000/v1", "[providers.local8000]\n")
COMPLETE = DoctorRun(
    started_at=NOON - 370,
    ended_at=NOON - 360,
    expected_requests=44,
    requests=41,
    tokens=3_120,
    price=0.003,
    columns=[RunColumn("groq", "llama-3.3-70b", "groq", {"images": "HTTP 400: no images"})],
    rows=[
        RunRow("images", [RunCell("✕", "HTTP 400")]),
        RunRow("stop sequences", [RunCell("~", "emulated")]),
        RunRow("context window, tokens", [RunCell("", "131,072")]),
    ],
    fixes=[
        RunFix("groq", "rejects images; haiku requests are sent to it.", "SMALL_MODEL=gemini/gemini-2.0-flash"),
        RunFix("local", "needs other values of sends_top_k.", "the table below, in anthropic-proxy.toml"),
    ],
    tables=[TABLE],
)
SHOWN = DoctorPanel(
    summary="Doctor ran 6 min ago, 41 requests, $0.003",
    table=Matrix(
        [MatrixColumn("groq", "llama-3.3-70b", "groq")],
        [
            ("Images", [MatrixCell("✕", "error", "unsupported", "HTTP 400")]),
            ("Stop sequences", [MatrixCell("~", "warn", "emulated by the proxy")]),
            ("Context window, tokens", [MatrixCell(text="131,072")]),
        ],
    ),
    details=[("groq/llama-3.3-70b", {"images": "HTTP 400: no images"})],
    remedies=[
        Remedy("groq: rejects images; haiku requests are sent to it.", command="SMALL_MODEL=gemini/gemini-2.0-flash"),
        Remedy("local: needs other values of sends_top_k.", text="the table below, in anthropic-proxy.toml"),
    ],
    tables=[TABLE],
)


def build(directory: Path | None) -> DoctorPanel:
    return build_doctor_panel(Settings(data_directory=directory), NOON)


def store(directory: Path, *, complete: DoctorRun | None = None, current: DoctorRun | None = None) -> None:
    doctor_run.find_folder(directory).mkdir(exist_ok=True)
    if complete is not None:
        known = structs.replace(complete, settings_digest=digest_backend_settings(Settings()))
        doctor_run.store_complete(directory, known)
    if current is not None:
        doctor_run.store_current(directory, current)


@pytest.mark.parametrize("has_directory", [True, False])
def test_before_the_first_run(tmp_path: Path, has_directory: bool) -> None:
    panel = build(tmp_path if has_directory else None)
    assert panel == DoctorPanel(summary="The doctor has not run yet.")


def test_a_complete_run_shows_cost_table_and_remedies(tmp_path: Path) -> None:
    store(tmp_path, complete=COMPLETE)
    assert build(tmp_path) == SHOWN


def test_a_run_without_a_known_price_shows_its_tokens(tmp_path: Path) -> None:
    store(tmp_path, complete=structs.replace(COMPLETE, price=None, requests=1))
    assert build(tmp_path).summary == "Doctor ran 6 min ago, 1 request, 3,120 tokens"


def test_a_remedy_with_a_line_break_cannot_be_copied_as_a_command(tmp_path: Path) -> None:
    text = "BIG_MODEL=openai/x\rPROXY_API_KEY=y"  # a browser converts the character to a line break
    fix = doctor_run.RunFix("openai", "has no such model.", text)
    store(tmp_path, complete=structs.replace(COMPLETE, fixes=[fix]))
    assert build(tmp_path).remedies == [Remedy("openai: has no such model.", text=text)]


def test_only_the_whole_command_that_installs_a_package_can_be_copied(tmp_path: Path) -> None:
    command = build_extra_install_command("vertex")
    problem = "Vertex AI needs google-auth, which is not installed."
    fixes = [RunFix("vertex_ai", problem, text) for text in (command, f"{command}; other")]
    store(tmp_path, complete=structs.replace(COMPLETE, fixes=fixes))
    shown = f"vertex_ai: {problem}"
    assert build(tmp_path).remedies == [Remedy(shown, command=command), Remedy(shown, text=f"{command}; other")]


def test_a_run_with_other_settings_is_outdated(tmp_path: Path) -> None:
    doctor_run.find_folder(tmp_path).mkdir()
    doctor_run.store_complete(tmp_path, structs.replace(COMPLETE, settings_digest="of other settings"))
    assert build(tmp_path) == structs.replace(SHOWN, is_outdated=True)


@pytest.mark.parametrize(
    ("fields", "failure"),
    [
        ({}, "The run that started 1 min ago ended, before it was complete. The proxy or the command has ended."),
        (
            {"requests": 7, "problem": "The proxy was stopped."},
            "The run that started 1 min ago ended after 7 requests, before it was complete. The proxy was stopped.",
        ),
    ],
)
def test_a_run_that_ended_early_is_explained_beside_the_results_before(
    tmp_path: Path, fields: dict[str, Any], failure: str
) -> None:
    store(tmp_path, complete=COMPLETE, current=DoctorRun(started_at=NOON - 60, **fields))
    assert build(tmp_path) == structs.replace(SHOWN, failure=failure)


def test_a_later_complete_run_replaces_the_failure(tmp_path: Path) -> None:
    store(tmp_path, complete=COMPLETE, current=DoctorRun(started_at=NOON - 9_000))
    assert build(tmp_path) == SHOWN


def test_a_run_in_progress_shows_its_share_and_keeps_the_remedies(tmp_path: Path) -> None:
    rows = [RunRow("images", [RunCell("…", "")])]
    present = structs.replace(COMPLETE, started_at=NOON - 5, ended_at=0.0, requests=11, rows=rows, fixes=(), tables=())
    with doctor_run.locked_run(tmp_path):
        store(tmp_path, complete=COMPLETE, current=DoctorRun(started_at=NOON - 5))
        starting = build(tmp_path)
        store(tmp_path, current=present)
        running = build(tmp_path)
        store(tmp_path, current=structs.replace(present, requests=50))
        longer = build(tmp_path)
        doctor_run.request_stop(tmp_path)
        stopping = build(tmp_path)
    cells = [("Images", [MatrixCell("…", "none", "not tested yet")])]
    expected = structs.replace(
        SHOWN,
        summary="The doctor is running: 11 of about 44 requests.",
        is_running=True,
        share=0.25,
        table=Matrix(SHOWN.table.columns, cells),
        details=(),
    )
    assert running == expected
    started = structs.replace(expected, summary="The doctor is starting.", share=None, table=Matrix((), ()))
    assert starting == started
    summary = "The doctor is running: 50 of about 50 requests."
    assert longer == structs.replace(expected, summary=summary, share=1.0)
    summary = "The doctor is stopping."
    assert stopping == structs.replace(longer, summary=summary, is_stopping=True)


@pytest.mark.parametrize(
    ("role", "refusal"),
    [
        ("admin", ""),
        ("owner", ""),
        ("viewer", "ann@example.com has the role viewer, which does not run the doctor."),
        ("member", "ann@example.com has the role member, which does not run the doctor."),
    ],
)
def test_the_role_of_a_signed_in_user_decides(tmp_path: Path, role: Role, refusal: str) -> None:
    request = RouteRequest(path="/dashboard/providers/doctor", client=Client(name=""))
    session = Session(client_name="ann@example.com", role=role, form_token="t")
    assert explain_doctor_refusal(request, session, Settings(data_directory=tmp_path)) == refusal


def test_without_a_folder_for_data_the_doctor_is_not_run() -> None:
    request = RouteRequest(path="/dashboard/providers/doctor", client=Client(name="local", address_trusted=True))
    assert explain_doctor_refusal(request, None, Settings()) == (
        "Results of the doctor cannot be stored, because the environment names no directory for data. Set "
        "XDG_DATA_HOME or HOME."
    )
