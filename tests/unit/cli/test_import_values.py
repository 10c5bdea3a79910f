"""Command `import`: values of another type than the other proxies use."""

from pathlib import Path
from typing import Any

import pytest
import trustme

from anthropic_proxy.cli.importing.env_file import read_env_file
from anthropic_proxy.cli.importing.litellm_config import read_litellm_config
from anthropic_proxy.cli.importing.plan import ImportNote, prepare_files
from anthropic_proxy.cli.importing.router_config import read_router_config

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
