"""Page Providers: states, the panel of the doctor and who may run it; page Models: times, speed and costs."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.models import build_models_page
from anthropic_proxy.console.dashboard.overview import build_overview_page
from anthropic_proxy.console.dashboard.panels import FailedPanel
from anthropic_proxy.console.dashboard.permissions import Session, explain_denial
from anthropic_proxy.console.dashboard.providers import (
    PAGE,
    DoctorPanel,
    Matrix,
    MatrixCell,
    MatrixColumn,
    ProviderRemedy,
    build_doctor_panel,
    build_matrix,
    build_providers_page,
    list_checkers,
)
from anthropic_proxy.console.dashboard.requests import build_requests_page
from anthropic_proxy.console.doctor import stored_runs
from anthropic_proxy.console.doctor.auto_mode_runs import AutoModeRun, Rate, RunUsage, store_run
from anthropic_proxy.console.doctor.fixes import FailedCall, Fix
from anthropic_proxy.console.doctor.report import Cell, Row
from anthropic_proxy.console.doctor.stored_runs import (
    DoctorRun,
    RunColumn,
    RunTomlTable,
    digest_backend_settings,
)
from anthropic_proxy.engine.messages.server_tools import SERVER_TOOLS
from anthropic_proxy.errors import build_extra_install_command
from anthropic_proxy.gateway.permissions import Role
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Client, Cost, ModelFeatures, ProviderSetup, Receipt, RouteRequest, Setup
from tests.support.ledger import NOON, UNKNOWN_COST, new_receipt, reading, store
from tests.support.page_context import build_context, read_table
from tests.support.virtual_keys import running_app, send

FAILURE = "groq returned HTTP 503."


def setup_of(**fields: Any) -> Setup:
    return Setup(providers=[ProviderSetup(**{"name": "groq", "prefix": "groq", "state": "ready", **fields})])


@pytest.mark.parametrize(
    ("fields", "state", "remedy", "verdict"),
    [
        ({}, "ready", "1 of 3 requests was answered with an error. It has replied since.", "1 provider ready."),
        (
            {"open_seconds": 12.0, "failure": FAILURE},
            "blocked",
            f"Repeated failures opened the circuit; the next call is tried in 12.0 s. {FAILURE}",
            "0 providers ready. groq: circuit open.",
        ),
        (
            {"key_count": 2, "cooldowns": [30.0]},
            "ready",
            "1 of 2 keys is skipped after failures; the next one is used again in 30.0 s.",
            "1 provider ready.",
        ),
        (
            {"key_count": 2, "cooldowns": [30.0, 9.0]},
            "cooldown",
            "2 of 2 keys are skipped after failures; the next one is used again in 9.00 s.",
            "0 providers ready. groq: all keys in cooldown.",
        ),
        (
            {"state": "unset", "remedy": "GROQ_API_KEY is not set."},
            "not set",
            "GROQ_API_KEY is not set.",
            "No provider is chosen, so the demo replies: it streams and calls tools, but has no model.",
        ),
    ],
    ids=["ready", "circuit", "one key", "all keys", "unset"],
)
async def test_a_provider_has_a_state_and_a_remedy(
    tmp_path: Path, fields: dict[str, Any], state: str, remedy: str, verdict: str
) -> None:
    page = await build_page(tmp_path, setup_of(**fields))
    assert (read_table(page, "state", "remedy"), page["verdict"]) == ([[state, remedy]], verdict)
    assert read_table(page, "requests", "errors", "p50", "p95") == [["3", "33.3 %", "0.51 s", "1.95 s"]]
    assert [one for one in page["table"].rows[0].cells["latency"].line if one] == [514_305, 1_953_073]


async def build_page(tmp_path: Path, setup: Setup, page: Any = build_providers_page) -> dict[str, Any]:
    """Return the values of a page about three requests to Groq."""
    settings = Settings(data_directory=tmp_path / "data")
    failed = {"outcome": "error", "status": 429, "first_token_seconds": None, "output_tokens": 0}
    await store(
        settings,
        new_receipt(1, output_tokens=100),
        new_receipt(2, started_at=NOON + 3_600, first_token_seconds=2.0, duration_seconds=3.0, output_tokens=100),
        new_receipt(3, **failed),
    )
    with reading(settings) as engine, engine.connect() as connection:
        return dict(page(build_context("/dashboard/providers", connection, settings, now=NOON + 7_200, setup=setup)))


@pytest.mark.parametrize("path", ["/dashboard", "/dashboard/providers"])
async def test_a_warning_about_the_settings_is_no_error(path: str, tmp_path: Path) -> None:
    settings = {"VIRTUAL_KEYS": "false", "OPENAI_API_KEY": "sk-test-0123456789", "MODEL_HAIKU": "groq/x"}
    (tmp_path / ".env").write_text("LOG_LEVL=debug\n")
    async with running_app(tmp_path, **settings) as app:
        page = (await send(app, "GET", path)).body.decode()
    notices = re.findall(r'<span class="mark (\w+)" aria-hidden="true">(.)</span><div><p class="wrap">(.*?)</p>', page)
    assert [notice for notice in notices if "groq" in notice[2] or "LOG_LEVL" in notice[2]] == [
        (
            "error",
            "✕",
            "groq has no key: GROQ_API_KEY is not set. Set it in .env and reload the proxy, or in the environment and "
            "start it again.",
        ),
        ("warn", "!", ".env line 1: LOG_LEVL is not a setting. Did you mean:  LOG_LEVEL"),
    ]


async def test_a_model_has_total_times_and_the_speed_of_its_output(tmp_path: Path) -> None:
    page = await build_page(tmp_path, Setup(), build_models_page)
    assert not [name for name, value in page.items() if isinstance(value, FailedPanel)]
    assert read_table(page, "p50", "p95", "total50", "total95") == [["0.51 s", "1.95 s", "1.47 s", "3.15 s"]]
    assert read_table(page, "speed") == [["100"]], (
        "200 tokens in 2 s after the first tokens, without the failed request"
    )


async def test_unused_providers_are_one_line_and_keys_are_no_addresses(tmp_path: Path) -> None:
    own = ProviderSetup(
        name="own", prefix="own", state="ready", detail="http://127.0.0.1:9/v1", base_url="http://127.0.0.1:9/v1"
    )
    listed = ProviderSetup(
        name="ollama", prefix="ollama", state="ready", detail="3 models", base_url="http://localhost"
    )
    unused = ProviderSetup(name="google", prefix="gemini", state="unset", remedy="GEMINI_API_KEY is not set.")
    keyed = ProviderSetup(name="groq", prefix="groq", state="ready", detail="…1234, .env", key_count=1)
    page = await build_page(tmp_path, Setup(providers=[own, listed, unused, keyed]))
    assert read_table(page, "provider", "address", "key", "remedy") == [
        ["own", "127.0.0.1:9/v1", "no key", "Nothing to do."],
        ["ollama", "localhost", "no key; 3 models", "Nothing to do."],
        ["groq", "–", "…1234, .env", "1 of 3 requests was answered with an error. It has replied since."],
    ]
    assert page["unused"] == [("google", "gemini", "GEMINI_API_KEY is not set.")]
    assert "outcome=error&provider=groq" in page["table"].rows[2].cells["remedy"].more


async def test_a_provider_whose_requests_go_to_a_fallback_needs_attention(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    fallback = {"provider": "deepseek", "prefix": "deepseek", "failed_attempts": ["groq 503", "groq 503"]}
    await store(
        settings,
        new_receipt(1, failed_attempts=["groq 404"]),
        new_receipt(2),
        *(new_receipt(number, failed_attempts=["deepseek 413", "deepseek 400"]) for number in range(12, 20)),
        *(new_receipt(number, **fallback) for number in range(3, 11)),
        new_receipt(11, **{**fallback, "outcome": "error", "status": 429, "failed_attempts": ["groq 429"]}),
        *(new_receipt(number, **{**fallback, "failed_attempts": ["azure 503"]}) for number in range(20, 23)),
    )
    providers = [
        ProviderSetup(name=name, prefix=name, state="ready", detail="…1234, .env", key_count=1)
        for name in ("groq", "deepseek")
    ]
    with reading(settings) as engine, engine.connect() as connection:
        setup = Setup(providers=providers)
        page = build_providers_page(
            build_context("/dashboard/providers", connection, settings, now=NOON + 7_200, setup=setup)
        )
        overview = build_overview_page(build_context("/dashboard", connection, settings, now=NOON + 7_200))
        query = {"q": ['"groq']}
        listed = build_requests_page(
            build_context("/dashboard/requests", connection, settings, query, now=NOON + 7_200)
        )
    assert read_table(page, "provider", "remedy") == [
        ["groq", "10 of 19 requests failed here first, and 9 went to another provider."],
        ["deepseek", "1 of 12 requests was answered with an error. It has replied since."],
    ]
    assert page["table"].rows[0].cells["remedy"].more == "/dashboard/requests?q=%22groq"
    shown = [row.cells["model"].note for row in listed["table"].rows]
    assert len(shown) == 10
    assert {text.replace("\u00a0", " ").partition(" · ")[2] for text in shown} == {
        "↻ groq 404",
        "↻ groq 503, groq 503",
        "↻ groq 429",
    }
    assert [notice.text for notice in overview["notices"]] == [
        "3 of 3 requests failed at azure first, and 3 went to another provider."
    ]
    assert [notice.text for notice in overview["solved"]] == [
        "1 request failed at deepseek with 429.",
        "10 of 19 requests failed at groq first, and 9 went to another provider.",
    ]


async def test_the_costs_at_other_models_are_of_the_same_requests(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    costs = {"small": Cost(50_000_000, None, "own")}
    await store(
        settings,
        new_receipt(1, input_tokens=100_000),
        new_receipt(2, model="unpriced", input_tokens=9_000_000),
        cost=lambda receipt: costs.get(receipt.model, UNKNOWN_COST),
    )
    with reading(settings) as engine, engine.connect() as connection:
        query = {"at": ["openai/gpt-4.1"]}
        page = build_models_page(build_context("/dashboard/models", connection, settings, query, now=NOON + 7_200))
    comparison = page["comparison"]
    (row,) = [row for row in comparison["rows"] if row[0] == "openai/gpt-4.1"]
    assert (comparison["actual"], comparison["left_out"]) == ("$0.050", 1)
    assert row[1:3] == ("$0.20", "+$0.15 (+300 %)")


TABLE = RunTomlTable("http://127.0.0.1:8000/v1", "[providers.local8000]\n")


def new_fix(name: str, problem: str, remedy: str, place: str = "") -> Fix:
    return Fix(name=name, problem=problem, remedy=remedy, place=place)


COMPLETE = DoctorRun(
    started_at=NOON - 370,
    ended_at=NOON - 360,
    expected_requests=44,
    requests=41,
    tokens=3_120,
    price=0.003,
    columns=[RunColumn("groq", "llama-3.3-70b", "groq", {"images": "HTTP 400: no images"})],
    rows=[
        Row("images", [Cell("✕", "HTTP 400")]),
        Row("stop sequences", [Cell("~", "emulated")]),
        Row("context window, tokens", [Cell("", "131,072")]),
    ],
    fixes=[
        new_fix(
            "groq",
            "rejects images; haiku requests are sent to it.",
            "SMALL_MODEL=gemini/gemini-2.0-flash",
            "in ~/proxy/.env",
        ),
        new_fix("groq", "groq/gone is set.", 'targets = ["groq/kept"]', "in ~/proxy/anthropic-proxy.toml line 3"),
        new_fix(
            "groq", "groq/gone is set.", 'targets = ["groq/<another model>"]', "in ~/proxy/anthropic-proxy.toml line 3"
        ),
        new_fix("xai", "has no key: XAI_API_KEY is not set.", "XAI_API_KEY=<key>", "in ~/proxy/.env"),
        new_fix("local", "needs other values of sends_top_k.", "the table below, in anthropic-proxy.toml"),
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
        ProviderRemedy(
            "groq: rejects images; haiku requests are sent to it.",
            text="Set in ~/proxy/.env:",
            command="SMALL_MODEL=gemini/gemini-2.0-flash",
        ),
        ProviderRemedy(
            "groq: groq/gone is set.",
            text="Set in ~/proxy/anthropic-proxy.toml line 3:",
            command='targets = ["groq/kept"]',
        ),
        ProviderRemedy(
            "groq: groq/gone is set.",
            text='targets = ["groq/<another model>"]  in ~/proxy/anthropic-proxy.toml line 3',
        ),
        ProviderRemedy("xai: has no key: XAI_API_KEY is not set.", text="XAI_API_KEY=<key>  in ~/proxy/.env"),
        ProviderRemedy("local: needs other values of sends_top_k.", text="the table below, in anthropic-proxy.toml"),
    ],
    tables=[TABLE],
)


def build(directory: Path | None, running: DoctorRun | None = None) -> DoctorPanel:
    return build_doctor_panel(Settings(data_directory=directory), NOON, running)


def store_runs(directory: Path, *, complete: DoctorRun | None = None, current: DoctorRun | None = None) -> None:
    stored_runs.find_folder(directory).mkdir(exist_ok=True)
    if complete is not None:
        known = structs.replace(complete, settings_digest=digest_backend_settings(Settings()))
        stored_runs.store_complete(directory, known)
    if current is not None:
        stored_runs.store_current(directory, current)


@pytest.mark.parametrize("has_directory", [True, False])
def test_before_the_first_run(tmp_path: Path, has_directory: bool) -> None:
    panel = build(tmp_path if has_directory else None)
    assert panel == DoctorPanel(summary="The doctor has not run yet.")


def test_a_complete_run_shows_cost_table_and_remedies(tmp_path: Path) -> None:
    store_runs(tmp_path, complete=COMPLETE)
    assert build(tmp_path) == SHOWN


def test_measured_checkers_are_listed_and_those_of_other_cases_are_marked(tmp_path: Path) -> None:
    rate, none = Rate(1, 150, 0.0012, 0.0368), Rate(0, 0, 0.0, 1.0)
    run = AutoModeRun(
        started_at=NOON,
        ended_at=NOON + 60,
        model="openai/gpt-4.1",
        set="a",
        set_cases=300,
        cases=300,
        misses=rate,
        false_alarms=rate,
        kinds={},
        without_verdict=6,
        reasons={"timeout": 6},
        without_model=0,
        usage=RunUsage(300, 900_000, 30_000, 2_040_000_000),
        seconds=(1.5, 4.0),
        missed=(),
        wrongly_flagged=(),
    )
    other = structs.replace(
        run,
        started_at=NOON - 60,
        confirmed_by="gemini/gemini-3-pro",
        set="b",
        cases=12,
        false_alarms=none,
        usage=RunUsage(cost=None),
    )
    assert list_checkers(Settings(data_directory=tmp_path)) == list_checkers(Settings()) == []
    for one in (run, other):
        store_run(tmp_path, one)
    rates = "1 of 150 (0.1–3.7 %)"
    assert [cells[1:] for cells in list_checkers(Settings(data_directory=tmp_path))] == [
        ("openai/gpt-4.1", rates, rates, "2.0 %", "$2.04", "1.50 s", "300"),
        (
            "openai/gpt-4.1, confirmed by gemini/gemini-3-pro",
            *(rates, "no verdict", "50.0 %", "unknown", "1.50 s", "12 of 300, another set"),
        ),
    ]


def test_a_run_without_a_known_price_shows_its_tokens(tmp_path: Path) -> None:
    store_runs(tmp_path, complete=structs.replace(COMPLETE, price=None, requests=1))
    assert build(tmp_path).summary == "Doctor ran 6 min ago, 1 request, 3,120 tokens"


def test_a_remedy_with_a_line_break_cannot_be_copied_as_a_command(tmp_path: Path) -> None:
    text = "BIG_MODEL=openai/x\rPROXY_API_KEY=y"  # a browser converts the character to a line break
    fix = new_fix("openai", "has no such model.", text)
    store_runs(tmp_path, complete=structs.replace(COMPLETE, fixes=[fix]))
    assert build(tmp_path).remedies == [ProviderRemedy("openai: has no such model.", text=text)]


def test_only_the_whole_command_that_installs_a_package_can_be_copied(tmp_path: Path) -> None:
    command = build_extra_install_command("vertex")
    problem = "Vertex AI needs google-auth, which is not installed."
    fixes = [new_fix("vertex_ai", problem, text) for text in (command, f"{command}; other")]
    store_runs(tmp_path, complete=structs.replace(COMPLETE, fixes=fixes))
    shown = f"vertex_ai: {problem}"
    assert build(tmp_path).remedies == [
        ProviderRemedy(shown, command=command),
        ProviderRemedy(shown, text=f"{command}; other"),
    ]


def test_a_run_with_other_settings_is_outdated(tmp_path: Path) -> None:
    stored_runs.find_folder(tmp_path).mkdir()
    stored_runs.store_complete(tmp_path, structs.replace(COMPLETE, settings_digest="of other settings"))
    assert build(tmp_path) == structs.replace(SHOWN, is_outdated=True)


@pytest.mark.parametrize(
    ("fields", "failure"),
    [
        ({}, "The run that started 1 min ago ended, before it was complete. The proxy has ended."),
        (
            {"requests": 7, "problem": "The proxy was stopped."},
            "The run that started 1 min ago ended after 7 requests, before it was complete. The proxy was stopped.",
        ),
    ],
)
def test_a_run_that_ended_early_is_explained_beside_the_results_before(
    tmp_path: Path, fields: dict[str, Any], failure: str
) -> None:
    store_runs(tmp_path, complete=COMPLETE, current=DoctorRun(started_at=NOON - 60, **fields))
    assert build(tmp_path) == structs.replace(SHOWN, failure=failure)


def test_a_later_complete_run_replaces_the_failure(tmp_path: Path) -> None:
    store_runs(tmp_path, complete=COMPLETE, current=DoctorRun(started_at=NOON - 9_000))
    assert build(tmp_path) == SHOWN


def test_a_run_in_progress_shows_its_share_and_keeps_the_remedies(tmp_path: Path) -> None:
    rows = [Row("images", [Cell("…", "")])]
    present = structs.replace(COMPLETE, started_at=NOON - 5, ended_at=0.0, requests=11, rows=rows, fixes=(), tables=())
    store_runs(tmp_path, complete=COMPLETE, current=DoctorRun(started_at=NOON - 5))
    starting = build(tmp_path, DoctorRun(started_at=NOON - 5))
    running = build(tmp_path, present)
    longer = build(tmp_path, structs.replace(present, requests=50))
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
    assert explain_denial("run the doctor", request, session, Settings(data_directory=tmp_path)) == refusal


def test_without_a_folder_for_data_the_doctor_is_not_run() -> None:
    request = RouteRequest(path="/dashboard/providers/doctor", client=Client(name="local", address_trusted=True))
    assert explain_denial("run the doctor", request, None, Settings()) == (
        "Results of the doctor cannot be stored, because the environment names no directory for data. Set "
        "XDG_DATA_HOME or HOME."
    )


async def test_what_a_run_found_with_earlier_settings_is_no_problem(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    await store(settings, new_receipt())
    stored_runs.find_folder(tmp_path / "data").mkdir()
    setup = Setup(providers=[ProviderSetup(name="openai", prefix="openai", state="ready", key_count=1)])
    verdicts, states = [], []
    for digest in (stored_runs.digest_backend_settings(settings), "of other settings"):
        stored_runs.store_complete(tmp_path / "data", structs.replace(COMPLETE, settings_digest=digest))
        with reading(settings) as engine, engine.connect() as connection:
            context = build_context("/dashboard/providers", connection, settings, setup=setup)
            verdicts.append(build_providers_page(context)["verdict"])
            overview = build_context("/dashboard", connection, settings, setup=setup)
            states.append(len(build_overview_page(overview)["notices"]))
    count = len(COMPLETE.fixes)
    assert verdicts == [f"1 provider ready. {count} open problems.", "1 provider ready."]
    assert states == [count, 0]


OF_PROVIDER = Fix(
    name="openai",
    problem="rejects the key.",
    remedy="OPENAI_API_KEY=<new key>",
    failed=(FailedCall(provider="openai", error_code="rejected-key"),),
)
OF_MODELS = Fix(
    name="openai",
    problem="has no such model.",
    remedy="anthropic-proxy models openai",
    failed=tuple(FailedCall(provider="openai", model=name, error_code="model-not-found") for name in ("old", "older")),
)
OF_WINDOW = Fix(name="openai", problem="context of gpt-4.1 is 8,192 tokens.", remedy="BIG_MODEL=<another model>")


def _later(seconds: int, model: str = "gpt-4.1", provider: str = "openai", **fields: Any) -> Receipt:
    """Return the receipt of a request, so many seconds after the end of the run."""
    usual = {"provider": provider, "prefix": provider, "model": model, "requested_model": "claude-opus-5-5"}
    return new_receipt(seconds, started_at=COMPLETE.ended_at + seconds, **{**usual, **fields})


def _failed(seconds: int, code: str, kind: str, model: str = "gpt-4.1") -> Receipt:
    error = {"status": 401, "error_type": kind, "error_code": code, "error": "no", "first_token_seconds": None}
    return _later(seconds, model, outcome="error", **error)


@pytest.mark.parametrize(
    ("receipts", "found", "state"),
    [
        ([_later(-5)], [OF_PROVIDER, OF_MODELS, OF_WINDOW], "failing"),
        ([_later(5, provider="groq")], [OF_PROVIDER, OF_MODELS, OF_WINDOW], "failing"),
        ([_later(5)], [OF_MODELS, OF_WINDOW], "ready"),
        ([_later(5, "old")], [OF_MODELS, OF_WINDOW], "ready"),
        ([_later(5, "old"), _later(6, "older")], [OF_WINDOW], "ready"),
        ([_failed(-5, "rejected-key", "authentication_error")], [OF_MODELS, OF_WINDOW], "failing"),
        ([_failed(-5, "overloaded", "overloaded_error")], [OF_PROVIDER, OF_MODELS, OF_WINDOW], "failing"),
        ([_failed(5, "overloaded", "overloaded_error")], [OF_MODELS, OF_WINDOW], "failing"),
        ([_failed(5, "prompt-too-long", "invalid_request_error")], [OF_PROVIDER, OF_MODELS, OF_WINDOW], "failing"),
        ([_later(5), _failed(6, "overloaded", "overloaded_error")], [OF_MODELS, OF_WINDOW], "failing"),
        ([_later(5), _failed(6, "prompt-too-long", "invalid_request_error")], [OF_MODELS, OF_WINDOW], "ready"),
    ],
    ids=[
        "a reply before the run",
        "a reply of another provider",
        "a reply",
        "a reply of one of two models",
        "replies of both models",
        "the same failure before the run",
        "another failure before the run",
        "a later failure of the provider",
        "a later failure of a request",
        "a reply and a later failure of the provider",
        "a reply and a later failure of a request",
    ],
)
async def test_later_requests_know_more_than_the_doctor(
    tmp_path: Path, receipts: Sequence[Receipt], found: Sequence[Fix], state: str
) -> None:
    """A failure of clients is a problem of its own. What a reply does not prove stays until the next run."""
    settings = Settings(data_directory=tmp_path / "data")
    await store(settings, *receipts)
    stored_runs.find_folder(tmp_path / "data").mkdir()
    digest = stored_runs.digest_backend_settings(settings)
    run = structs.replace(COMPLETE, settings_digest=digest, fixes=[OF_PROVIDER, OF_MODELS, OF_WINDOW])
    stored_runs.store_complete(tmp_path / "data", run)
    setup = Setup(providers=[ProviderSetup(name="openai", prefix="openai", state="ready", key_count=1)])
    with reading(settings) as engine, engine.connect() as connection:
        overview = build_overview_page(build_context("/dashboard", connection, settings, setup=setup))
        context = build_context("/dashboard/providers", connection, settings, setup=setup)
        page, exported = build_providers_page(context), PAGE.tables["providers"].tabulate(context)
    listed = [one.text for one in overview["notices"] if one.detail == "Found by the doctor."]
    assert listed == [f"openai: {fix.problem}" for fix in found]
    assert (read_table(page, "state"), exported.rows[0][2]) == ([[state]], state)
    count = len(overview["notices"])
    ready = "1 provider ready." if state == "ready" else "0 providers ready."
    assert page["verdict"] == f"{ready} {formats.plural(count, 'open problem')}."


async def test_what_did_not_work_for_the_doctor_is_no_capability(tmp_path: Path) -> None:
    """The table of models says that the model calls tools and reads images."""
    settings = Settings(data_directory=tmp_path / "data")
    await store(settings, new_receipt())
    stored_runs.find_folder(tmp_path / "data").mkdir()
    run = structs.replace(
        COMPLETE,
        settings_digest=stored_runs.digest_backend_settings(settings),
        columns=[RunColumn("openai", "gpt-4.1", "openai")],
        rows=[Row("streaming, tools", [Cell("✕", "no call")]), Row("images", [Cell("✓")])],
    )
    shown = []
    model = ModelFeatures(
        model="openai/gpt-4.1",
        provider="openai",
        context_window=None,
        max_input=None,
        max_output=None,
        tools=True,
        images=True,
        documents=True,
        efforts=[],
        has_thinking_budget=False,
        server_tools=dict.fromkeys(SERVER_TOOLS, "none"),
        source="built-in table",
    )
    with reading(settings) as engine, engine.connect() as connection:
        path = "/dashboard/providers"
        context = build_context(path, connection, settings, setup=Setup(), describe_models=lambda *_: [model])
        for _ in range(2):
            rows = dict(build_matrix(context).rows)
            shown.append([(rows[title][0].sign, rows[title][0].text) for title in ("Tools", "Images")])
            stored_runs.store_complete(tmp_path / "data", run)
    assert shown == [[("✓", "works"), ("✓", "works")], [("✕", "no call"), ("✓", "works")]]
    assert rows["Tools"][0].note == "doctor, 21 Nov 2026"
