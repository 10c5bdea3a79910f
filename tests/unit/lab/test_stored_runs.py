"""Stored runs of the doctor: damaged files, and the digest of settings."""

import json
import sys
from pathlib import Path

import pytest

from anthropic_proxy.console.doctor import stored_runs
from anthropic_proxy.console.doctor.fixes import Fix
from anthropic_proxy.console.doctor.report import Cell, Row
from anthropic_proxy.console.doctor.stored_runs import DoctorRun, RunColumn, RunTomlTable
from anthropic_proxy.engine.providers import PROVIDERS, Provider
from anthropic_proxy.gateway.settings import load_settings

RUN = DoctorRun(
    started_at=1.0,
    ended_at=2.0,
    requests=41,
    columns=[RunColumn("gemini", "gemini-2.5-pro", "google", {"images": "HTTP 400"})],
    rows=[Row("images", [Cell("✕", "HTTP 400")])],
    fixes=[Fix(name="gemini", problem="rejects images.", remedy="SMALL_MODEL=openai/gpt-4.1")],
    tables=[RunTomlTable("http://127.0.0.1:8000/v1", "[providers.local8000]\n")],
)


def test_a_stored_run_is_read_unchanged(tmp_path: Path) -> None:
    stored_runs.store_current(tmp_path, DoctorRun(started_at=3.0))
    stored_runs.store_complete(tmp_path, RUN)
    assert (stored_runs.load_complete(tmp_path), stored_runs.load_current(tmp_path)) == (RUN, DoctorRun(started_at=3.0))
    assert stored_runs.find_latest_start(tmp_path) == 3.0
    stored_runs.remove_current(tmp_path)
    assert stored_runs.find_latest_start(tmp_path) == 1.0


def test_a_folder_that_cannot_be_read_has_no_run(tmp_path: Path) -> None:
    directory = tmp_path / ("x" * 1_000)  # stat fails, as in the home directory of another user
    assert (stored_runs.load_current(directory), stored_runs.load_complete(directory)) == (None, None)
    assert stored_runs.find_latest_start(directory) == 0.0


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"version":99,"started_at":1}'])
def test_a_damaged_file_or_another_version_is_ignored(tmp_path: Path, content: bytes) -> None:
    stored_runs.find_folder(tmp_path).mkdir()
    (stored_runs.find_folder(tmp_path) / "last-run.json").write_bytes(content)
    assert stored_runs.load_complete(tmp_path) is None


@pytest.mark.parametrize(
    ("changes", "is_equal"),
    [
        ({"LOG_LEVEL": "debug", "PORT": "9000", "PROXY_API_KEY": "team-key-of-this-proxy"}, True),
        ({"SMALL_MODEL": "openai/gpt-4.1"}, False),
        ({"OPENAI_API_KEY": "sk-another-key-5678"}, False),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:8000/v1"}, False),
        ({"GOOGLE_APPLICATION_CREDENTIALS": "/home/user/google.json"}, False),
    ],
    ids=["others", "model", "key", "address", "file"],
)
def test_settings_of_models_and_providers_change_the_digest(changes: dict[str, str], is_equal: bool) -> None:
    before = {"OPENAI_API_KEY": "sk-some-key-of-a-test-1234"}
    digests = [
        stored_runs.digest_backend_settings(load_settings(variables, PROVIDERS, env_file=None))
        for variables in (before, {**before, **changes})
    ]
    assert (digests[0] == digests[1]) is is_equal


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)
def test_key_and_address_of_every_provider_change_the_digest(provider: Provider) -> None:
    before = stored_runs.digest_backend_settings(load_settings({}, PROVIDERS, env_file=None))
    texts = {provider.key_variable: "a-key-of-a-test-1234", provider.base_url_variable: "http://127.0.0.1:8000"}
    for variable, text in texts.items():
        if variable:
            settings = load_settings({variable: text}, PROVIDERS, env_file=None)
            assert (variable, stored_runs.digest_backend_settings(settings) == before) == (variable, False)


def test_a_key_that_a_command_writes_may_rotate_but_its_failure_changes_the_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    program = "import pathlib, sys; key = pathlib.Path('key').read_text(); print(key); sys.exit(not key)"
    Path("anthropic-proxy.toml").write_text(
        '[providers.own]\nbase_url = "http://127.0.0.1:8000/v1"\nmodels = ["some"]\n'
        f"api_key = {{ command = {json.dumps([sys.executable, '-c', program])} }}\n",
        "utf-8",
    )
    digests = []
    for key in ("some-key-of-test-1234", "some-key-of-test-5678", ""):
        Path("key").write_text(key, "utf-8")
        digests.append(
            stored_runs.digest_backend_settings(load_settings({}, PROVIDERS, env_file=".env", resolves_keys=True))
        )
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]
