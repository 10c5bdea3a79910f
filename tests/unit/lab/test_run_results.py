"""Stored runs, facts and reports of the doctor: they contain no keys, and a key inside a number damages none."""

import io
import json
from datetime import date
from pathlib import Path

import pytest
from msgspec import structs

from anthropic_proxy.cli.doctor.report import encode_report
from anthropic_proxy.console.doctor import stored_runs
from anthropic_proxy.console.doctor.findings import Diagnosis
from anthropic_proxy.console.doctor.fixes import Fix
from anthropic_proxy.console.doctor.learned import store_facts
from anthropic_proxy.console.doctor.report import Report
from anthropic_proxy.console.doctor.run import select_backends
from anthropic_proxy.console.doctor.stored_runs import DoctorRun, complete_run, mask_keys, new_run
from anthropic_proxy.engine.platforms import files
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import LEARNED_FILE_NAME, load_learned_models
from anthropic_proxy.engine.providers.provider_models import MODEL_LIST
from anthropic_proxy.gateway.services import open_services
from anthropic_proxy.gateway.settings import CONFIG_FILE, load_settings
from anthropic_proxy.gateway.telemetry.log import Log
from anthropic_proxy.secrets import new_redactor

KEY = "1234"
FIX = Fix(name="openai", problem=f"rejects {KEY}.", remedy="OPENAI_API_KEY=<new key>", place="in ~/.env")
REPORT = Report(diagnoses=[], fixes=[FIX], servers=[], seconds=12_345.0, price=0.1234)


def test_a_key_is_masked_in_texts_and_not_in_numbers() -> None:
    settings = load_settings({"OPENAI_API_KEY": KEY}, PROVIDERS, env_file=None)
    run = mask_keys(
        complete_run(DoctorRun(started_at=12_345.0, expected_requests=12_346), REPORT),
        new_redactor(settings.reveal_all_secrets()),
    )
    assert (run.started_at, run.expected_requests, run.price) == (12_345.0, 12_346, 0.1234)
    assert run.fixes == [structs.replace(FIX, problem="rejects ….")]


def test_a_key_that_occurs_in_the_digest_leaves_it_unchanged() -> None:
    known = load_settings({"OPENAI_API_KEY": KEY}, PROVIDERS, env_file=None)
    digest = stored_runs.digest_backend_settings(known)
    at = next(at for at in range(60) if not digest[at : at + 4].isalpha())
    variables = {"OPENAI_API_KEY": KEY, "PROXY_API_KEY": digest[at : at + 4]}
    settings = load_settings(variables, PROVIDERS, env_file=None)
    run = mask_keys(new_run(settings), new_redactor(settings.reveal_all_secrets()))
    assert run.settings_digest == digest == stored_runs.digest_backend_settings(settings)


def test_a_report_stays_json_if_a_key_occurs_in_a_number() -> None:
    report = json.loads(encode_report(REPORT, "json", date.fromordinal(1), [KEY]))
    assert (report["seconds"], report["fixes"]) == (
        12_345.0,
        [
            {
                "name": "openai",
                "problem": "rejects ….",
                "remedy": "OPENAI_API_KEY=<new key>",
                "place": "in ~/.env",
                "failed": [],
            }
        ],
    )


async def test_facts_are_not_stored_while_another_run_stores_its_facts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LOCK_SECONDS", 0.05)
    settings = load_settings({"OPENAI_API_KEY": "sk-0123456789"}, PROVIDERS, env_file=None)
    services = await open_services(settings, log=Log(io.StringIO()))
    (backend,) = select_backends(services, ["openai/mine"])
    await services.close()
    diagnosis = Diagnosis(backend=backend, context_window=65_536)
    with files.locked_folder(tmp_path), pytest.raises(TimeoutError) as raised:
        store_facts(tmp_path, [diagnosis])
    assert stored_runs.describe_not_stored("facts", tmp_path, raised.value) == (
        f"The facts cannot be stored in {tmp_path}: another run stores its facts."
    )
    assert store_facts(tmp_path, [diagnosis]) == 1
    assert (tmp_path / LEARNED_FILE_NAME).exists()


async def test_only_facts_that_the_proxy_does_not_use_yet_are_counted(tmp_path: Path) -> None:
    table = '[providers.router]\nbase_url = "https://router.example/v1"\n'
    (tmp_path / CONFIG_FILE).write_text(table + "[providers.router.models.stated]\ncontext_window = 65_536\n")
    settings = load_settings({}, PROVIDERS, env_file=str(tmp_path / ".env"))
    services = await open_services(settings, log=Log(io.StringIO()))
    names = ["router/listed", "router/stated", "router/unknown"]
    listed, stated, unknown = select_backends(services, names)
    await services.close()
    diagnoses = [
        Diagnosis(backend=listed, context_window=65_536, limits_source=MODEL_LIST),
        Diagnosis(backend=stated, context_window=65_536, limits_source="too long"),
        Diagnosis(backend=unknown),
    ]
    assert store_facts(tmp_path, diagnoses) == 0
    found, _ = load_learned_models(tmp_path, date.today())
    assert {(model, one.context_window) for (_, model), one in found.items()} == {
        ("listed", 65_536),
        ("stated", 65_536),
        ("unknown", None),
    }
