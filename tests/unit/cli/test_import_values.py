"""Command `import`: values of another type than the other proxies use."""

import json
from pathlib import Path
from typing import Any

import pytest
import trustme

from anthropic_proxy.cli.importing.env_file import read_env_file
from anthropic_proxy.cli.importing.files import prepare_files
from anthropic_proxy.cli.importing.litellm_config import read_litellm_config
from anthropic_proxy.cli.importing.plan import ImportNote
from anthropic_proxy.cli.importing.router_config import read_router_config
from anthropic_proxy.errors import ConfigurationError
from tests.support.command_line import run_command

SERVER = {"name": "own", "api_base_url": "http://127.0.0.1:8000/v1/chat/completions", "models": ["m"]}
MODEL = {"model_name": "claude-sonnet", "litellm_params": {"model": "openai/gpt-4.1"}}


@pytest.mark.parametrize(
    ("config", "setting", "problem"),
    [
        ({"Providers": "own"}, "Providers", 'is "own". Use a list'),
        ({"Providers": [{"name": "own", "models": "m"}]}, "Providers[0].models", 'is "m". Use a list'),
        (
            {"Providers": [{"api_key": ["sk-secret"]}]},
            "Providers[0].api_key",
            "has a value that is not shown. Use true or false, a number or a text",
        ),
        (
            {"Providers": [{"transformer": {"use": "openrouter"}}]},
            "Providers[0].transformer.use",
            'is "openrouter". Use a list',
        ),
        (
            {"Providers": [{"transformer": {"m": ["maxtoken"]}}]},
            "Providers[0].transformer.m",
            "is a list. Use an object",
        ),
        ({"Router": ["own,m"]}, "Router", "is a list. Use an object"),
        (
            {"Providers": [SERVER], "Router": {"default": "own,m"}, "fallback": {"default": "own,m"}},
            "fallback.default",
            'is "own,m". Use a list',
        ),
        ({"PORT": [1]}, "PORT", "is a list. Use true or false, a number or a text"),
    ],
)
def test_a_wrong_value_of_claude_code_router_is_named(config: dict[str, Any], setting: str, problem: str) -> None:
    note = ImportNote(setting, f"it is not imported, because it {problem}", is_error=True)
    assert note in read_router_config(config).notes


@pytest.mark.parametrize(
    ("config", "setting", "problem"),
    [
        ({"model_list": {"a": 1}}, "model_list", "is an object. Use a list"),
        ({"model_list": ["gpt"]}, "model_list[0]", 'is "gpt". Use an object'),
        ({"model_list": [{"litellm_params": "gpt"}]}, "model_list[0].litellm_params", 'is "gpt". Use an object'),
        (
            {"model_list": [{"litellm_params": {"weight": "high"}}]},
            "model_list[0].litellm_params.weight",
            'is "high". Use a number',
        ),
        (
            {"model_list": [{"litellm_params": {"weight": -1}}]},
            "model_list[0].litellm_params.weight",
            "is -1. Use a number of 0 or more",
        ),
        (
            {"model_list": [{"litellm_params": {"rpm": float("inf")}}]},
            "model_list[0].litellm_params.rpm",
            "is Infinity. Use a number",
        ),
        (
            {"model_list": [MODEL], "router_settings": {"fallbacks": [{"claude-sonnet": "other"}]}},
            "fallbacks of claude-sonnet",
            'is "other". Use a list',
        ),
        (
            {"litellm_settings": {"default_fallbacks": "other"}},
            "default_fallbacks",
            'is "other". Use a list',
        ),
        (
            {"router_settings": {"model_group_alias": {1: "x"}}},
            "model_group_alias",
            "has a name that is no text. Use a text",
        ),
    ],
)
def test_a_wrong_value_of_litellm_is_named(config: dict[str, Any], setting: str, problem: str) -> None:
    note = ImportNote(setting, f"it is not imported, because it {problem}", is_error=True)
    assert note in read_litellm_config(config).notes


@pytest.mark.parametrize("digits", ["9" * 5_000, "²", "-1", "1.5"])
def test_a_text_that_is_no_whole_number_gets_a_note(digits: str) -> None:
    plan = read_router_config(
        {
            "Providers": [SERVER],
            "Router": {"longContext": "own,m", "longContextThreshold": digits},
            "API_TIMEOUT_MS": digits,
        }
    )
    shown = digits if len(digits) <= 60 else f"{digits[:59]}…"
    reason = f'it is not imported, because its value is "{shown}". Use a whole number of tokens from 1 to 100000000'
    milliseconds = reason.replace("tokens from 1 to 100000000", "milliseconds")
    instead = "The route has 60000, the default of claude-code-router"
    assert plan.notes == [
        ImportNote("Router.longContextThreshold", f"{reason}. {instead}", is_error=True),
        ImportNote("API_TIMEOUT_MS", f"{milliseconds} from 1000 to 1000000000", is_error=True),
    ]
    model = {"model_name": "m", "litellm_params": {"model": "openai/m", "api_base": "http://127.0.0.1:8000/v1"}}
    model["litellm_params"]["max_tokens"] = digits  # type: ignore[index]
    note = read_litellm_config({"model_list": [model]}).notes[0]
    assert note == ImportNote("model_list[0].litellm_params.max_tokens", reason, is_error=True)


def test_the_result_is_checked_in_the_folder_of_the_files(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    (tmp_path / "anthropic-proxy.toml").write_text('[providers.openai]\nca_file = "ca.pem"\n')
    plan = read_env_file({"OPENAI_API_KEY": "sk-0123456789abcdefghijklmnop", "BIG_MODEL": "gpt-4.1"})
    files = prepare_files(plan, tmp_path)
    assert files.settings.call_options["openai"].ca_file == str(tmp_path / "ca.pem")


def _nest(levels: int) -> dict[str, Any]:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return {"deep": value}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        *(
            (
                {"extraBody": _nest(levels)},
                "body.deep is not imported. anthropic-proxy.toml nests tables or lists deeper than 50 levels",
            )
            for levels in (60, 400)
        ),
        (
            {"extraBody": {"stop": [None]}},
            "body.stop is not imported. It contains null, which anthropic-proxy.toml cannot have",
        ),
        (
            {"extraBody": {"temperature": float("inf")}},
            'body.temperature is not imported. providers.own.body.temperature is "inf". Use a text, a finite number, '
            "true, false, a list or a table, because JSON has no other values",
        ),
        (
            {"extraHeaders": {"X-Team": " a"}},
            'headers.X-Team is not imported. providers.own.headers.X-Team is " a". Use a text of visible ASCII '
            "characters in one line",
        ),
        (
            {"extraBody": {"user": {"api_key": "secret-0123456789"}}},
            "body.user is not imported. providers.own.body.user.api_key may be a key, but this file must not contain "
            "keys. Put the value into .env as OWN_USER_API_KEY=… and write "
            ' { env = "OWN_USER_API_KEY" }',
        ),
    ],
)
def test_a_field_of_a_server_that_cannot_be_written_has_the_reason(fields: dict[str, Any], text: str) -> None:
    plan = read_router_config({"Providers": [{**SERVER, **fields}], "Router": {"default": "own,m"}})
    assert plan.notes == [ImportNote("Providers.own", text, is_error=True)]
    assert not plan.servers["own"].body
    assert not plan.servers["own"].headers


def test_a_field_of_a_server_that_may_be_a_key_has_a_variable() -> None:
    fields = {"extraHeaders": {"X-Api-Key": "secret-0123456789"}, "extraBody": {"ключ": "sk-0123456789abcdef"}}
    plan = read_router_config({"Providers": [{**SERVER, **fields}], "Router": {"default": "own,m"}})
    assert plan.notes == [
        ImportNote(
            "Providers.own",
            "headers.X-Api-Key is not imported, because it may be a key. Write OWN_X_API_KEY=… to .env, and in "
            "[providers.own]",
            'headers.X-Api-Key = { env = "OWN_X_API_KEY" }',
            is_error=True,
        ),
        ImportNote(
            "Providers.own",
            "body.ключ is not imported, because it may be a key. Write OWN_BODY=… to .env, and in [providers.own]",
            'body."ключ" = { env = "OWN_BODY" }',
            is_error=True,
        ),
    ]


@pytest.mark.parametrize(
    ("present", "text"),
    [
        (
            'providers = { vllm = { base_url = "http://127.0.0.1:8001/v1" } }\n',
            '[providers.own] cannot be added to {file}, because "providers" is written in one line there. Write '
            "[providers.NAME] in its place, with a line for each field",
        ),
        (
            'routes = [{ name = "long", when = { agent = "x" }, targets = ["demo/demo"] }]\n',
            '[[routes]] "background" cannot be added to {file}, because "routes" is written in one line there. Write '
            "[[routes]] in its place, with a line for each field",
        ),
    ],
)
def test_a_table_in_one_line_cannot_be_extended(present: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "anthropic-proxy.toml"
    file.write_text(present)
    plan = read_router_config({"Providers": [SERVER], "Router": {"default": "own,m"}})
    if "routes" in present:
        plan.servers.clear()
        plan.add_route("background", {"agent": "y"}, ["demo/demo"])
    with pytest.raises(ConfigurationError) as failed:
        prepare_files(plan, tmp_path)
    assert failed.value.messages == (f"{text.format(file=file)}.",)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "mark"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_a_file_in_the_form_of_another_system_is_extended_in_it(mark: bytes, end: bytes, tmp_path: Path) -> None:
    present = mark + end.join((b"[auto_mode]", b'environment = ["""a', b'b"""]', b"[[routes]]", b'name = "long"'))
    present += end + b'when = { agent = "x" }' + end + b'targets = ["demo/demo"]' + end
    (tmp_path / "anthropic-proxy.toml").write_bytes(present)
    plan = read_router_config({"Providers": [SERVER], "Router": {"default": "own,m"}})
    plan.add_route("background", {"agent": "y"}, ["demo/demo"])
    files = prepare_files(plan, tmp_path)
    (change,) = (each for each in files.changes if each.path.name == "anthropic-proxy.toml")
    assert change.after.encode().startswith(present + b"[providers.own]" + end)
    assert [route.name for route in files.settings.routes] == ["long", "background"]


def test_a_key_with_a_variable_inside_is_copied(tmp_path: Path) -> None:
    server = {**SERVER, "api_base_url": "https://own.example/v1/chat/completions", "api_key": "sk-${PART}"}
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"Providers": [server], "Router": {"default": "own,m"}}))
    done = run_command("import", str(file), "--copy-keys", directory=tmp_path, settings={"PART": "0123456789abcdef"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "OWN_API_KEY=" not in done.stdout  # it is not missing
    assert "OWN_API_KEY='sk-${PART}'\n" in (tmp_path / ".env").read_text()
