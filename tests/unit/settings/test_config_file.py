"""Keys, examples and commands of the configuration file. `golden_texts/settings` has the messages about it."""

import json
import os
import re
import sys
from pathlib import Path

import pytest

from anthropic_proxy.engine.exchange.safeguards.check import find_auto_mode
from anthropic_proxy.engine.options import AutoMode
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.settings import CONFIG_FILE, Settings, load_settings
from anthropic_proxy.gateway.settings.key_references import UNRESOLVED_KEY
from anthropic_proxy.gateway.settings.values import redact_and_shorten
from tests.support.paths import ROOT

VLLM = '[providers.vllm]\nbase_url = "http://localhost:8000/v1"\n'


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str, env_file_text: str = "", **environ: str) -> Settings:
    Path(CONFIG_FILE).write_text(text, encoding="utf-8")
    Path(".env").write_text(env_file_text, encoding="utf-8")
    return load_settings(environ, PROVIDERS, env_file=".env", resolves_keys=True)


def test_a_preferred_provider_needs_models() -> None:
    assert load(VLLM + "models = ['qwen']\n", PREFERRED_PROVIDER="vllm").preferred_provider == "vllm"


def test_a_key_in_a_variable() -> None:
    settings = load(VLLM + 'api_key = { env = "MY_KEY" }\n', "MY_KEY=first-key-0123456,second-key-012345\n")
    assert [key.reveal() for key in settings.keys["vllm"]] == ["first-key-0123456", "second-key-012345"]
    assert settings.keys["vllm"][0].origin == "MY_KEY in .env, line 1"
    assert settings.warnings == ()
    assert "first-key-0123456" in settings.reveal_all_secrets()
    assert "first-key" not in repr(settings)


def test_a_variable_that_is_similar_to_a_setting_is_not_misspelled() -> None:
    text = VLLM + 'api_key = { env = "OPENAI_API_KEY2" }\n'
    assert load("", "OPENAI_API_KEY2=k\n").warnings
    assert load(text, "OPENAI_API_KEY2=k\n").warnings == ()


def test_a_key_in_a_file() -> None:
    Path("secret").write_text("the-key-of-the-file\n", encoding="utf-8")
    settings = load(VLLM + 'api_key = { file = "secret" }\n')
    assert [key.reveal() for key in settings.keys["vllm"]] == ["the-key-of-the-file"]
    assert settings.keys["vllm"][0].origin == "the file secret (providers.vllm.api_key in anthropic-proxy.toml, line 3)"


def test_a_key_from_a_command() -> None:
    def run(code: str, *, resolves_keys: bool = True) -> Settings:
        command = json.dumps([sys.executable, "-c", code])
        Path(CONFIG_FILE).write_text(f"{VLLM}api_key = {{ command = {command} }}\n", encoding="utf-8")
        return load_settings({}, PROVIDERS, env_file=".env", resolves_keys=resolves_keys)

    assert [key.reveal() for key in run("print('key-of-the-command')").keys["vllm"]] == ["key-of-the-command"]
    failed = run("import sys; sys.exit('locked')")
    where = f"the command {redact_and_shorten(sys.executable)} (providers.vllm.api_key in anthropic-proxy.toml, line 3)"
    assert failed.key_problem_details == {"vllm": f"{where} ended with status 1: locked."}
    assert failed.key_problems == {
        "vllm": "the command of providers.vllm.api_key in anthropic-proxy.toml, line 3, ended with status 1. "
        "For details:  anthropic-proxy config check --keys"
    }
    endless = run("import sys\nwhile True: sys.stdout.write('x' * 9_999)")
    assert endless.key_problem_details == {"vllm": f"{where} wrote more than 64 KiB."}
    loud = run("import sys; sys.stderr.write('x' * 300_000); print('key-of-the-command')")
    assert [key.reveal() for key in loud.keys["vllm"]] == ["key-of-the-command"]
    skipped = run("raise SystemExit(9)", resolves_keys=False)
    assert ([key.reveal() for key in skipped.keys["vllm"]], skipped.key_problems) == ([UNRESOLVED_KEY], {})
    for output in ("Notice of the vault\n# a comment\nkey-of-the-command", "schl\u00fcssel", "two words"):
        invalid = run(f"import sys; sys.stdout.buffer.write({output!r}.encode())")
        assert invalid.key_problem_details == {
            "vllm": f"{where} wrote a space, a line break or a letter outside ASCII, which is invalid in a key."
        }
        assert "vllm" not in invalid.keys
    marked = run("import sys; sys.stdout.buffer.write(b'\\xef\\xbb\\xbfkey-of-the-command\\r\\n')")
    assert [key.reveal() for key in marked.keys["vllm"]] == ["key-of-the-command"]


@pytest.mark.skipif(os.name == "nt", reason="platform: programs without endings")
def test_a_key_command_in_a_relative_folder_of_path_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("bin").mkdir()
    Path("bin/print-key").write_text("#!/bin/sh\necho key-of-a-stranger\n")
    Path("bin/print-key").chmod(0o755)
    monkeypatch.setenv("PATH", "bin")
    settings = load(f'{VLLM}api_key = {{ command = ["print-key"] }}\n')
    where = "providers.vllm.api_key in anthropic-proxy.toml, line 3"
    assert settings.key_problem_details == {
        "vllm": f'the command print-key ({where}) was not found: it is only in "bin". Relative folders of PATH are not '
        "searched, because the current directory would decide. Use the absolute path of this folder."
    }
    assert settings.key_problems == {
        "vllm": f"the command of {where}, was not found. For details:  anthropic-proxy config check --keys"
    }


def test_the_examples_of_the_documentation_are_valid() -> None:
    pages = [(ROOT / "docs/guide" / name).read_text("utf-8") for name in ("configuration.md", "providers.md")]
    examples = [example for page in pages for example in re.findall(r"```toml\n(.*?)```", page, re.DOTALL)]
    assert len(examples) >= 2
    for example in examples:
        Path(CONFIG_FILE).write_text(example, encoding="utf-8")
        settings = load_settings({}, PROVIDERS, env_file=".env")
        assert bool(settings.configured_providers) == ("[providers." in example)
        assert (settings.search is not None) == ("[search]" in example)


def test_the_guide_sets_auto_mode_sentences_of_a_company_and_a_second_model() -> None:
    page = (ROOT / "docs/guide/auto-mode.md").read_text("utf-8")
    first, second = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    route = '[[routes]]\nname = "ci"\ntargets = ["default"]\nauto_mode = "off"\nauto_mode_timeout = 3\n'
    settings = load(f"{first}{second.removeprefix('[auto_mode]')}{route}")
    assert settings.auto_mode == AutoMode(
        mode="check",
        model="openai/gpt-4.1",
        timeout_seconds=12,
        confirm_with="gemini/gemini-3-pro",
        deny=("Changing or reading anything below payroll/.",),
        allow=("Restarting services in the namespace staging.",),
        environment=("git.example.com and its repositories are ours.",),
    )
    assert find_auto_mode(settings.auto_mode, settings.routes[0]).mode == "off"
    assert find_auto_mode(settings.auto_mode, settings.routes[0]).model == "openai/gpt-4.1"
    assert find_auto_mode(settings.auto_mode, settings.routes[0]).timeout_seconds == 3


def test_a_missing_file_changes_nothing() -> None:
    assert load_settings({}, PROVIDERS, env_file=".env") == Settings(env_file=".env")


def test_a_key_command_is_not_searched_in_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, hostile, own = (tmp_path / name for name in ("settings", "hostile", "own"))
    for folder, key in ((settings, "settings"), (hostile, "hostile"), (own, "own")):
        folder.mkdir()
        (folder / "print-key").write_text(f"#!/bin/sh\necho sk-{key}-0123456789\n")
        (folder / "print-key").chmod(0o755)
    (settings / CONFIG_FILE).write_text(VLLM + 'api_key = { command = ["print-key"] }\n')
    monkeypatch.chdir(hostile)
    monkeypatch.setenv("PATH", f":.:{own}:{os.defpath}")
    loaded = load_settings({}, PROVIDERS, env_file=str(settings / ".env"), resolves_keys=True)
    assert [key.reveal() for key in loaded.keys["vllm"]] == ["sk-own-0123456789"]


def test_a_changed_field_of_calls_is_a_change_of_the_table() -> None:
    first, second = (load(f"[providers.openai]\nheaders = {{ x = '{value}' }}\n") for value in "ab")
    assert first.raw_values["providers.openai"] != second.raw_values["providers.openai"]
    assert [row.name for row in first.configured_providers] == []
