"""The command `import`. The cases repeat facts of public configurations, not their text."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import run_command

SECRET = "sk-live-0123456789abcdef0123"
ROUTER_CLOUD = {  # a file like those of dotfiles: references, options of transformers, rules without an equivalent
    "LOG": True,
    "LOG_LEVEL": "warn",
    "HOST": "127.0.0.1",
    "PORT": 3456,
    "APIKEY": SECRET,
    "API_TIMEOUT_MS": "600000",
    "PROXY_URL": "http://127.0.0.1:7890",
    "CUSTOM_ROUTER_PATH": "",
    "Providers": [
        {
            "name": "openrouter",
            "api_base_url": "https://openrouter.ai/api/v1/chat/completions",
            "api_key": "$OPENROUTER_API_KEY",
            "models": ["z-ai/glm-4.7", "google/gemini-3-pro-preview"],
            "transformer": {"use": [["maxtoken", {"max_tokens": 16384}], "enhancetool", "sampling"]},
        },
        {
            "name": "gemini",
            "api_base_url": "https://generativelanguage.googleapis.com/v1beta/models/",
            "api_key": "${GOOGLE_KEY}",
            "models": ["gemini-2.5-flash"],
            "transformer": {"use": ["gemini"]},
        },
    ],
    "Router": {
        "default": "openrouter,z-ai/glm-4.7",
        "background": "gemini,gemini-2.5-flash",
        "think": "openrouter,z-ai/glm-4.7",
        "longContext": "openrouter,google/gemini-3-pro-preview",
        "longContextThreshold": 60000,
    },
    "fallback": {"default": ["gemini,gemini-2.5-flash"]},
}
ROUTER_LOCAL = """{
  // comments and trailing commas are permitted
  "Providers": [
    {"name": "Ollama", "api_base_url": "http://localhost:11434/v1/chat/completions", "api_key": "ollama",
     "models": ["qwen3-coder:30b"],},
    {"name": "LM Studio", "api_base_url": "http://192.168.1.20:1234/v1/chat/completions", "api_key": "dummy",
     "models": ["gpt-oss-20b"]},
  ],
  "Router": {"default": "LM Studio,gpt-oss-20b", "background": "Ollama,qwen3-coder:30b", "think": ""},
}"""
ROUTER_KEY = {
    "Providers": [
        {
            "name": "deepseek",
            "api_base_url": "https://api.deepseek.com/chat/completions",
            "api_key": SECRET,
            "models": ["deepseek-chat", "deepseek-reasoner"],
            "transformer": {"use": ["deepseek"], "deepseek-chat": {"use": ["tooluse"]}},
        },
        {
            "name": "openai",
            "api_base_url": "https://api.openai.com/v1/responses",
            "api_key": SECRET,
            "models": ["gpt-5"],
        },
    ],
    "Router": {"default": "deepseek,deepseek-chat", "think": "deepseek,deepseek-reasoner"},
}
LITELLM_CLAUDE = """
model_list:
  - model_name: claude-3-5-haiku-20241022
    litellm_params: {model: openai/gpt-5-mini, api_key: os.environ/OPENAI_API_KEY}
  - model_name: claude-haiku-4-5
    litellm_params: {model: openai/gpt-5-nano, api_key: os.environ/OPENAI_API_KEY}
  - model_name: claude-sonnet-4-5
    litellm_params: {model: openai/gpt-5, api_key: os.environ/TEAM_KEY, temperature: 0.2}
  - model_name: claude-opus-4-5
    litellm_params: {model: gemini/gemini-2.5-pro, api_key: os.environ/GEMINI_API_KEY}
  - model_name: cheap
    litellm_params: {model: groq/llama-3.1-8b-instant}
router_settings:
  routing_strategy: simple-shuffle
  fallbacks: [{claude-sonnet-4-5: [cheap]}]
litellm_settings: {drop_params: true, request_timeout: 120, success_callback: [langfuse]}
general_settings: {master_key: os.environ/LITELLM_MASTER_KEY}
"""
LITELLM_SERVERS = f"""
model_list:
  - model_name: "claude-*"
    litellm_params:
      model: azure/gpt-4o-eu
      api_base: https://example-eu.openai.azure.com/
      api_version: 2024-10-21
      api_key: {SECRET}
      rpm: 6
  - model_name: vllm-models
    litellm_params: {{model: hosted_vllm/qwen3, api_base: "http://localhost:8000/v1", api_key: none, max_tokens: 8192}}
environment_variables: {{LANGFUSE_SECRET_KEY: {SECRET}}}
"""
LITELLM_ANTHROPIC = """
model_list:
  - model_name: claude-sonnet-4-5
    litellm_params: {model: anthropic/claude-sonnet-4-5-20250929, api_key: os.environ/ANTHROPIC_API_KEY}
  - model_name: claude-haiku-4-5
    litellm_params: {model: openrouter/deepseek/deepseek-chat}
"""
ENV_TWO_PROVIDERS = f"""OPENAI_API_KEY="{SECRET}"
GEMINI_API_KEY="AIza-0123456789abcdef0123456789"
PREFERRED_PROVIDER="google"
BIG_MODEL="gemini-2.5-pro-preview-03-25"
"""
ENV_ONE_SERVER = f"""OPENAI_API_KEY="{SECRET}"
ANTHROPIC_API_KEY="client-key-0123456789"
OPENAI_BASE_URL="https://example.openai.azure.com/openai/deployments/gpt-4"
AZURE_API_VERSION="2024-03-01-preview"
BIG_MODEL="gemini-2.5-pro"
SMALL_MODEL="gpt-35-turbo"
LOG_LEVEL="CRITICAL"
REQUEST_TIMEOUT="90"
MAX_TOKENS_LIMIT="4096"
"""
ENV_BY_TIER = f"""OPENAI_BASE_URL=https://openrouter.ai/api/v1
OPENAI_API_KEY={SECRET}
ANTHROPIC_DEFAULT_SONNET_MODEL=x-ai/grok-code-fast-1
ANTHROPIC_DEFAULT_HAIKU_MODEL=google/gemini-2.5-flash
"""


def run_import(directory: Path, name: str, content: str | dict[str, Any], *options: str) -> str:
    """Import a file and return the output without the list of files."""
    source = directory / name
    source.write_text(content if isinstance(content, str) else json.dumps(content))
    done = run_command("import", name, *options, directory=directory, settings={})
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout


def read_written(directory: Path) -> tuple[dict[str, str], dict[str, Any]]:
    env, config = directory / ".env", directory / "anthropic-proxy.toml"
    lines = dict(line.split("=", 1) for line in env.read_text().splitlines()) if env.exists() else {}
    return lines, tomllib.loads(config.read_text())["providers"] if config.exists() else {}


def notes_of(output: str) -> list[str]:
    _, _, notes = output.partition("Without an equivalent\n")
    return [line.removeprefix("  ! ") for line in notes.partition("\n\n")[0].splitlines()]


def mapping_of(output: str) -> dict[str, str]:
    return {tiers.strip(): target for tiers, target in re.findall(r"^  (.+?) +→ (.+)$", output, re.MULTILINE)}


def explained_target(directory: Path, model: str, **settings: str) -> str:
    """Return the target that `explain` shows for a request with the written files."""
    request = json.dumps({"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]})
    done = run_command("explain", "-", "--json", directory=directory, settings=settings, stdin=request)
    target: str = json.loads(done.stdout)["target"]
    return target


def test_rules_of_the_router_become_tiers(tmp_path: Path) -> None:
    output = run_import(tmp_path, "config.json", ROUTER_CLOUD)
    variables, servers = read_written(tmp_path)
    assert variables == {
        "GEMINI_API_KEY": "${GOOGLE_KEY}",
        "FALLBACK_SONNET": "gemini/gemini-2.5-flash",
        "FALLBACK_OPUS": "gemini/gemini-2.5-flash",
        "FALLBACK_FABLE": "gemini/gemini-2.5-flash",
        "BIG_MODEL": "openrouter/z-ai/glm-4.7",
        "SMALL_MODEL": "gemini/gemini-2.5-flash",
        "PREFERRED_PROVIDER": "openrouter",
        "HOST": "127.0.0.1",
        "PORT": "3456",
        "UPSTREAM_TIMEOUT": "600",
        "LOG_LEVEL": "warning",
    }
    limit = {"max_output": 16384}
    assert servers == {
        "openrouter": {
            "base_url": "https://openrouter.ai/api/v1",
            "api_key": {"env": "OPENROUTER_API_KEY"},
            "models": {"z-ai/glm-4.7": limit, "google/gemini-3-pro-preview": limit},
        }
    }
    assert notes_of(output) == [
        "Providers[0].transformer: the transformer sampling has no equivalent.",
        "Router.longContext: long requests have no rule of their own: the model of the tier serves them.",
        "APIKEY: secrets are not copied. Set it in .env:  PROXY_API_KEY=….",
        "PROXY_URL: HTTP proxies come from the environment. Set HTTPS_PROXY.",
    ]
    assert mapping_of(output) == {
        "haiku": "gemini/gemini-2.5-flash",
        "sonnet, opus, fable": "openrouter/z-ai/glm-4.7, then gemini/gemini-2.5-flash",
    }
    assert explained_target(tmp_path, "claude-opus-4-5", OPENROUTER_API_KEY="sk-or-0123456789abcdef") == (
        "openrouter/z-ai/glm-4.7"
    )
    assert SECRET not in output + (tmp_path / ".env").read_text()


@pytest.mark.parametrize(
    ("name", "content", "mapping", "variables", "servers"),
    [
        (
            "config.json",
            ROUTER_LOCAL,
            {"haiku": "ollama/qwen3-coder:30b", "sonnet, opus, fable": "lm-studio/gpt-oss-20b"},
            {"PREFERRED_PROVIDER": "lm-studio"},
            {"lm-studio": {"base_url": "http://192.168.1.20:1234/v1", "models": ["gpt-oss-20b"]}},
        ),
        (
            "config.json",
            ROUTER_KEY,
            {"haiku, sonnet, opus, fable": "deepseek/deepseek-chat"},
            {"PREFERRED_PROVIDER": "deepseek"},
            {
                "deepseek": {
                    "base_url": "https://api.deepseek.com",
                    "api_key": {"env": "DEEPSEEK_API_KEY"},
                    "models": ["deepseek-chat", "deepseek-reasoner"],
                }
            },
        ),
        (
            "config.yaml",
            LITELLM_CLAUDE,
            {
                "haiku": "openai/gpt-5-nano",
                "sonnet": "openai/gpt-5, then groq/llama-3.1-8b-instant",
                "opus, fable": "gemini/gemini-2.5-pro",
            },
            {
                "OPENAI_API_KEY": "${TEAM_KEY}",
                "PROXY_API_KEY": "${LITELLM_MASTER_KEY}",
                "UPSTREAM_TIMEOUT": "120",
                "MIDDLE_MODEL": "openai/gpt-5",
            },
            {},
        ),
        (
            "litellm.yaml",
            LITELLM_SERVERS,
            {"haiku, sonnet, opus, fable": "azure/gpt-4o-eu"},
            {"PREFERRED_PROVIDER": "azure"},
            {
                "azure": {
                    "base_url": "https://example-eu.openai.azure.com/openai/v1",
                    "api_key": {"env": "AZURE_API_KEY"},
                    "models": ["gpt-4o-eu"],
                },
                "local": {"base_url": "http://localhost:8000/v1", "models": {"qwen3": {"max_output": 8192}}},
            },
        ),
        (
            "config.yaml",
            LITELLM_ANTHROPIC,
            {
                "haiku": "openrouter/deepseek/deepseek-chat",
                "sonnet, opus, fable": "anthropic/claude-sonnet-4-5-20250929",
            },
            {"PREFERRED_PROVIDER": "anthropic"},
            {
                "openrouter": {
                    "base_url": "https://openrouter.ai/api/v1",
                    "api_key": {"env": "OPENROUTER_API_KEY"},
                    "models": ["deepseek/deepseek-chat"],
                }
            },
        ),
        (
            "old.env",
            ENV_TWO_PROVIDERS,
            {"haiku": "gemini/gemini-2.0-flash", "sonnet, opus, fable": "gemini/gemini-2.5-pro-preview-03-25"},
            {"OPENAI_API_KEY": SECRET, "PREFERRED_PROVIDER": "google"},
            {},
        ),
        (
            "old.env",
            ENV_ONE_SERVER,
            {"haiku": "openai/gpt-35-turbo", "sonnet, opus, fable": "openai/gemini-2.5-pro"},
            {
                "PROXY_API_KEY": "client-key-0123456789",
                "OPENAI_BASE_URL": "https://example.openai.azure.com/openai/deployments/gpt-4"
                "?api-version=2024-03-01-preview",
                "UPSTREAM_TIMEOUT": "90",
                "LOG_LEVEL": "error",
            },
            {},
        ),
        (
            "proxy.env",
            ENV_BY_TIER,
            {
                "haiku": "openai/google/gemini-2.5-flash",
                "sonnet": "openai/x-ai/grok-code-fast-1",
                "opus, fable": "openai/gpt-5",
            },
            {"OPENAI_BASE_URL": "https://openrouter.ai/api/v1"},
            {},
        ),
    ],
    ids=[
        *("router-local", "router-key", "litellm-claude", "litellm-servers", "litellm-anthropic"),
        *("env-providers", "env-one-server", "env-by-tier"),
    ],
)
def test_the_mapping_is_equal(
    tmp_path: Path,
    name: str,
    content: str | dict[str, Any],
    mapping: dict[str, str],
    variables: dict[str, str],
    servers: dict[str, Any],
) -> None:
    output = run_import(tmp_path, name, content)
    assert mapping_of(output) == mapping
    written, tables = read_written(tmp_path)
    assert variables.items() <= written.items()
    assert tables == servers
    assert SECRET not in output
    if not name.endswith(".env"):
        assert SECRET not in (tmp_path / ".env").read_text()


def test_settings_without_an_equivalent_have_a_reason(tmp_path: Path) -> None:
    assert notes_of(run_import(tmp_path, "config.yaml", LITELLM_CLAUDE, "--dry-run")) == [
        "model_list[2].litellm_params.temperature: the client sets it, or it has no equivalent.",
        "model_name claude-3-5-haiku-20241022: one model per tier is set: openai/gpt-5-nano for haiku.",
        "model_name cheap: request it by its own name: groq/llama-3.1-8b-instant.",
        "litellm_settings.success_callback: the proxy has no such setting.",
        "router_settings.routing_strategy: the proxy has no such setting.",
    ]
    assert notes_of(run_import(tmp_path, "config.json", ROUTER_KEY, "--dry-run")) == [
        "Providers[0].api_key: secrets are not copied. Set it in .env:  DEEPSEEK_API_KEY=….",
        "Providers[1].api_key: secrets are not copied. Set it in .env:  OPENAI_API_KEY=….",
        "Router.think: requests with thinking have no rule of their own: the model of the tier serves them.",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "config.yaml"]


def test_existing_lines_stay(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BIG_MODEL=groq/openai/gpt-oss-120b\nPORT=")
    (tmp_path / "anthropic-proxy.toml").write_text('[providers.deepseek]\nbase_url = "https://example.com/v1"')
    output = run_import(tmp_path, "config.json", ROUTER_KEY)
    assert "  ! BIG_MODEL stays as it is: the file has another value.\n" in output
    assert "  ! [providers.deepseek] stays as it is: the file has another value.\n" in output
    variables, servers = read_written(tmp_path)
    assert variables["BIG_MODEL"] == "groq/openai/gpt-oss-120b"
    assert servers == {"deepseek": {"base_url": "https://example.com/v1"}}
    before = (tmp_path / ".env").read_bytes()
    run_import(tmp_path, "config.json", ROUTER_KEY)
    assert (tmp_path / ".env").read_bytes() == before, "a second import adds nothing"


ACCEPTED = (
    "Accepted are config.json of claude-code-router, config.yaml of LiteLLM's proxy, and .env of an earlier proxy."
)


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.json", '{"mcpServers": {}}', f"a.json is JSON without Providers and Router. {ACCEPTED}"),
        ("a.yaml", "services: {}", f"a.yaml is YAML without model_list. {ACCEPTED}"),
        ("a.txt", "# nothing\n", f"a.txt has an unknown format. {ACCEPTED}"),
        ("a.json", '{"Providers": [1]}', f"a.json has an unexpected structure. {ACCEPTED}"),
    ],
)
def test_an_unknown_file_is_rejected(tmp_path: Path, name: str, content: str, error: str) -> None:
    (tmp_path / name).write_text(content)
    done = run_command("import", name, directory=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"✕ {error}")
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]
