"""Storage of the results of the doctor while another run stores its facts."""

import io
from pathlib import Path

import pytest

from anthropic_proxy.cli.doctor.run import Diagnosis, Report, select_backends
from anthropic_proxy.cli.doctor.run_recorder import RunRecorder, store_results
from anthropic_proxy.engine.platforms import files
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import LEARNED_FILE_NAME
from anthropic_proxy.engine.services import open_services
from anthropic_proxy.gateway.settings import load_settings
from anthropic_proxy.gateway.telemetry.log import Log


async def test_facts_are_not_stored_while_another_run_stores_its_facts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LOCK_SECONDS", 0.05)
    settings = load_settings({"OPENAI_API_KEY": "sk-0123456789"}, PROVIDERS, env_file=None)
    services = await open_services(settings, log=Log(io.StringIO()))
    (backend,) = select_backends(services, ["openai/mine"])
    await services.close()
    diagnosis = Diagnosis(backend=backend, context_window=65_536)
    result = Report(diagnoses=[diagnosis], fixes=[], servers=[], seconds=1.0, price=None)
    recorder = RunRecorder(None, settings, lambda: 1.0)
    with files.locked_folder(tmp_path):
        assert store_results(recorder, result, tmp_path) == [
            f"✕ The facts cannot be stored in {tmp_path}: another run stores its facts."
        ]
    assert store_results(recorder, result, tmp_path) == [
        f"Facts about 1 model for the next start or reload: {tmp_path / LEARNED_FILE_NAME}"
    ]
