"""Commands `config show` and `config check`: values with their sources, and findings."""

import json
import sys
from pathlib import Path

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.settings import list_variables
from anthropic_proxy.gateway.settings.table_fields import list_table_fields
from anthropic_proxy.gateway.settings.values import redact_and_shorten
from tests.support.command_line import OPENAI, run_command


def test_all_settings_are_listed_with_defaults(tmp_path: Path) -> None:
    ended = run_command("config", "show", "--all", "--json", directory=tmp_path)
    rows = {row["name"]: row for row in json.loads(ended.stdout)["settings"]}
    assert list(rows) == [*list_variables(PROVIDERS), *(field.name for field in list_table_fields())]
    expected = {"PORT": "8082", "FETCH_URLS": "false", "STOP_TIMEOUT": "25", "OPENAI_WIRE": "auto"}
    expected |= {"SMALL_MODEL": "openai/gpt-4.1-mini", "PREFERRED_PROVIDER": "openai"}
    assert {name: rows[name]["value"] for name in expected} == expected
    assert {name: rows[name]["source"] for name in expected} == dict.fromkeys(expected, "default")
    assert rows["OPENAI_API_KEY"]["value"] == "…cdef"
    assert OPENAI["OPENAI_API_KEY"] not in ended.stdout


def test_check_shows_the_error_text_of_a_key_command(tmp_path: Path) -> None:
    command = json.dumps([sys.executable, "-c", "import sys; sys.exit('\x1b[31mlocked')"])
    (tmp_path / "anthropic-proxy.toml").write_text(
        f'[providers.a]\nbase_url = "https://models.example/v1"\nmodels = ["x"]\napi_key = {{ command = {command} }}\n'
    )
    ended = run_command("config", "check", directory=tmp_path, settings={"PREFERRED_PROVIDER": "a"})
    assert (ended.returncode, ended.stdout, ended.stderr) == (
        0,
        "  ✓ The settings are valid. No provider was called.\n",
        "  Keys in files and from commands were not read. Check them too:  anthropic-proxy config check --keys\n",
    )
    ended = run_command("config", "check", "--keys", directory=tmp_path, settings={"PREFERRED_PROVIDER": "a"})
    assert (ended.returncode, ended.stdout, ended.stderr.split()) == (
        1,
        "",
        f"✕ a has no key: the command {redact_and_shorten(sys.executable)} (providers.a.api_key in "
        r"anthropic-proxy.toml, line 4) ended with status 1: \x1b[31mlocked.".split(),
    )
