"""Stored runs and reports of the doctor contain no keys, and a key that occurs in a number damages none."""

import json
from datetime import date
from pathlib import Path

from anthropic_proxy.cli.doctor.report import Fix, encode_report
from anthropic_proxy.cli.doctor.run import Report
from anthropic_proxy.cli.doctor.run_recorder import RunRecorder
from anthropic_proxy.console import doctor_run
from anthropic_proxy.console.doctor_run import RunFix
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.settings import load_settings

KEY = "1234"
FIX = Fix(name="openai", problem=f"rejects {KEY}.", remedy="OPENAI_API_KEY=<new key>")
REPORT = Report(diagnoses=[], fixes=[FIX], servers=[], seconds=12_345.0, price=0.1234)


def test_a_key_is_masked_in_texts_and_not_in_numbers(tmp_path: Path) -> None:
    settings = load_settings({"OPENAI_API_KEY": KEY}, PROVIDERS, env_file=None)
    digest = doctor_run.digest_backend_settings(settings)
    with doctor_run.locked_run(tmp_path):
        recorder = RunRecorder(tmp_path, settings, lambda: 12_345.0)
        recorder.start(12_346)
        started = doctor_run.load_current(tmp_path)
        recorder.finish(REPORT)
    run = doctor_run.load_complete(tmp_path)
    assert started is not None
    assert (started.started_at, started.expected_requests, started.settings_digest) == (12_345.0, 12_346, digest)
    assert run is not None
    assert (run.ended_at, run.price) == (12_345.0, 0.1234)
    assert run.fixes == [RunFix("openai", "rejects ….", "OPENAI_API_KEY=<new key>")]


def test_a_key_that_occurs_in_the_digest_leaves_it_unchanged(tmp_path: Path) -> None:
    known = load_settings({"OPENAI_API_KEY": KEY}, PROVIDERS, env_file=None)
    digest = doctor_run.digest_backend_settings(known)
    at = next(at for at in range(60) if not digest[at : at + 4].isalpha())
    variables = {"OPENAI_API_KEY": KEY, "PROXY_API_KEY": digest[at : at + 4]}
    settings = load_settings(variables, PROVIDERS, env_file=None)
    with doctor_run.locked_run(tmp_path):
        RunRecorder(tmp_path, settings, lambda: 1.0).start(2)
    run = doctor_run.load_current(tmp_path)
    assert run is not None
    assert run.settings_digest == digest == doctor_run.digest_backend_settings(settings)


def test_a_report_stays_json_if_a_key_occurs_in_a_number() -> None:
    report = json.loads(encode_report(REPORT, "json", date.fromordinal(1), [KEY]))
    assert (report["seconds"], report["fixes"]) == (
        12_345.0,
        [{"name": "openai", "problem": "rejects ….", "remedy": "OPENAI_API_KEY=<new key>"}],
    )
