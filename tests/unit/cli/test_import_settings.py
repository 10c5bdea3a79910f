"""The command `import`. The cases repeat facts of public configurations, not their text."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import run_command

SECRET = "sk-live-0123456789abcdef0123"
ROUTER_CLOUD = {  # a file like those of dotfiles: references, options of transformers, a rule by length
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
ROUTER_RULES = {  # every rule of the README, two accounts at one provider, and entries of other versions
    "Providers": [
        {
            "name": "openai",
            "api_base_url": "https://api.openai.com/v1/chat/completions",
            "api_key": "$OPENAI_API_KEY",
            "models": ["gpt-4.1"],
            "extraHeaders": {"x-team": "a"},
        },
        {
            "name": "openai-team",
            "api_base_url": "https://api.openai.com/v1/responses",
            "api_key": "$TEAM_KEY",
            "models": ["gpt-5"],
            "transformer": {"use": ["openai-responses", ["customparams", {"store": True}]]},
        },
        {
            "name": "openrouter",
            "api_base_url": "https://openrouter.ai/api/v1/chat/completions",
            "api_key": "${OPENROUTER_API_KEY}",
            "models": ["google/gemini-3-pro-preview", "x-ai/grok-4:online"],
            "transformer": {
                "use": ["openrouter", ["sampling", {"max_tokens": 9000, "temperature": 0.1}]],
                "x-ai/grok-4:online": {"use": [["openrouter", {"provider": {}}], "tooluse", "my-script"]},
            },
        },
        {"name": "internal", "api_base_url": "https://$HOST/v1/chat/completions", "api_key": "k", "models": ["m"]},
    ],
    "Router": {
        "default": "openai,gpt-4.1",
        "background": "openai,gpt-4.1",
        "think": "openai-team,gpt-5",
        "longContext": "openrouter,google/gemini-3-pro-preview",
        "longContextThreshold": 100000,
        "webSearch": "openrouter,x-ai/grok-4:online",
        "image": "openrouter,google/gemini-3-pro-preview",
        "review": "openai,gpt-4.1",
        "rules": [{"type": "condition"}],
    },
    "fallback": {"think": ["openai,gpt-4.1"], "webSearch": ["internal,m", "nobody,m", "gpt-4.1"], "plan": ["openai,x"]},
    "CUSTOM_ROUTER_PATH": "$HOME/.claude-code-router/custom-router.js",
    "forceUseImageAgent": True,
    "API_TIMEOUT_MS": "$TIMEOUT",
    "LOG_LEVEL": "silent",
    "PORT": "$PORT",
    "futureSetting": 1,
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
LITELLM_GROUPS = """
model_list:
  - model_name: claude-sonnet-4-5
    litellm_params: {model: azure/gpt-5, api_base: "https://eu.openai.azure.com", api_key: os.environ/EU_KEY, rpm: 6}
  - model_name: claude-sonnet-4-5
    litellm_params: {model: azure/gpt-5, api_base: "https://us.openai.azure.com", api_key: os.environ/US_KEY, rpm: 2}
  - model_name: fast
    litellm_params: {model: groq/openai/gpt-oss-20b, api_key: os.environ/GROQ_API_KEY, order: 2}
  - model_name: fast
    litellm_params: {model: openai/gpt-4.1-nano, api_key: os.environ/OPENAI_API_KEY, order: 1}
  - model_name: embed
    litellm_params: {model: openai/text-embedding-3-small}
    model_info: {mode: embedding}
  - model_name: "local-*"
    litellm_params: {model: hosted_vllm/qwen3, api_base: "http://localhost:8000/v1", tags: [free]}
    model_info: {id: "1", max_output_tokens: 4096, input_cost_per_token: 0.000001, future: 1}
router_settings:
  routing_strategy: usage-based-routing-v2
  model_group_alias: {quick: fast}
  fallbacks: [{claude-sonnet-4-5: [fast]}, {fast: [claude-sonnet-4-5]}]
  num_retries: 2
  redis_host: localhost
  future: 1
general_settings: {master_key: os.environ/PROXY_API_KEY, database_url: os.environ/DATABASE_URL, alerting: [slack]}
litellm_settings: {json_logs: true, max_budget: 100, cache: true, drop_params: true}
guardrails: [{guardrail_name: pii}]
future: 1
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
LITELLM_LIMITS = """
model_list:
  - model_name: claude-sonnet-4-5
    litellm_params: {model: openai/gpt-4.1, api_key: os.environ/OPENAI_API_KEY, max_tokens: 4096}
    model_info: {max_output_tokens: 8192, max_input_tokens: 100000}
  - model_name: claude-haiku-4-5
    litellm_params: {model: ollama/qwen3, api_base: "http://localhost:11434", max_tokens: 2048}
  - model_name: team
    litellm_params: {model: openai/gpt-5, api_key: os.environ/TEAM_KEY, max_tokens: 4096}
    model_info: {max_output_tokens: 8192, max_input_tokens: 50000}
  - model_name: local
    litellm_params: {model: hosted_vllm/qwen3, api_base: "http://localhost:8000/v1", max_tokens: "8k"}
  - model_name: "anthropic/*"
    litellm_params: {model: "anthropic/*"}
  - model_name: embed
    litellm_params: {model: openai/text-embedding-3-small}
    model_info: {mode: embedding}
router_settings:
  fallbacks: [{claude-sonnet-4-5: [team, missing, embed, "anthropic/*"]}, {gpt-5: [team]}, team]
  default_fallbacks: [local, gone]
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
    env = directory / ".env"
    lines = dict(line.split("=", 1) for line in env.read_text().splitlines()) if env.exists() else {}
    return lines, read_tables(directory).get("providers", {})


def read_tables(directory: Path) -> dict[str, Any]:
    config = directory / "anthropic-proxy.toml"
    return tomllib.loads(config.read_text()) if config.exists() else {}


def notes_of(output: str) -> list[str]:
    _, _, notes = output.partition("Notes\n")
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
    assert read_tables(tmp_path)["routes"] == [
        {
            "name": "long context",
            "when": {"tier": ["haiku", "sonnet", "opus", "fable"], "input_above": 60000},
            "targets": ["openrouter/google/gemini-3-pro-preview"],
        },
        {
            "name": "thinking",
            "when": {"tier": ["sonnet", "opus", "fable"], "thinking": True},
            "targets": ["openrouter/z-ai/glm-4.7"],
        },
    ]
    assert notes_of(output) == [
        "Providers[0].transformer: enhancetool: it is not needed, the proxy adapts requests to the server itself.",
        "Providers[0].transformer: sampling: the proxy sends the values of the client and sets no own.",
        "Providers[1].transformer: gemini: it is not needed, the proxy adapts requests to the server itself.",
        "APIKEY: secrets are not copied. Set it in .env:  PROXY_API_KEY=….",
        "LOG: the log is standard error. LOG_LEVEL sets its level.",
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
                "sonnet": "openai-2/gpt-5, then groq/llama-3.1-8b-instant",
                "opus, fable": "gemini/gemini-2.5-pro",
            },
            {
                "PROXY_API_KEY": "${LITELLM_MASTER_KEY}",
                "UPSTREAM_TIMEOUT": "120",
                "MIDDLE_MODEL": "openai-2/gpt-5",
            },
            {
                "openai-2": {
                    "base_url": "https://api.openai.com/v1",
                    "api_key": {"env": "TEAM_KEY"},
                    "wire": "responses",
                    "models": ["gpt-5"],
                }
            },
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


def test_rules_by_the_contents_of_a_request_become_routes(tmp_path: Path) -> None:
    output = run_import(tmp_path, "config.json", ROUTER_RULES)
    variables, servers = read_written(tmp_path)
    models = "openai/gpt-4.1"
    assert variables == {"BIG_MODEL": models, "SMALL_MODEL": models, "PREFERRED_PROVIDER": "openai"}
    all_tiers, others = ["haiku", "sonnet", "opus", "fable"], ["sonnet", "opus", "fable"]
    gemini, grok = "openrouter/google/gemini-3-pro-preview", "openrouter/x-ai/grok-4:online"
    assert read_tables(tmp_path)["routes"] == [
        {"name": "images", "when": {"tier": all_tiers, "images": True}, "targets": [gemini]},
        {"name": "long context", "when": {"tier": all_tiers, "input_above": 100000}, "targets": [gemini]},
        {"name": "web search", "when": {"tier": others, "web_search": True}, "targets": [grok]},
        {"name": "thinking", "when": {"tier": others, "thinking": True}, "targets": ["openai-team/gpt-5", models]},
    ]
    assert servers["openai-team"] == {
        "base_url": "https://api.openai.com/v1",
        "api_key": {"env": "TEAM_KEY"},
        "wire": "responses",
        "models": ["gpt-5"],
    }
    assert notes_of(output) == [
        "Providers[0].extraHeaders: the proxy sends no other headers to providers.",
        "Providers[1].transformer: openai-responses: it is not needed, the proxy adapts requests to the server itself.",
        "Providers[1].transformer: customparams: the proxy adds no fields to requests: store.",
        "Providers[2].transformer: openrouter: it is not needed, the proxy adapts requests to the server itself.",
        "Providers[2].transformer: sampling: the proxy sends the values of the client and sets no temperature.",
        "Providers[2].transformer: openrouter: its options are not sent: provider. Set them in your account there.",
        "Providers[2].transformer: tooluse: the proxy does not force a tool call.",
        "Providers[2].transformer: my-script: scripts do not run here. The proxy translates requests itself.",
        "Providers[3].api_base_url: an address with a variable is not imported. Write the address.",
        "fallback.webSearch: it is not imported, because the entry internal of Providers is not.",
        "fallback.webSearch: it is not imported, because Providers has no entry nobody.",
        'fallback.webSearch: "gpt-4.1" is not imported, because it is not of the form provider,model.',
        "fallback.plan: it is not imported, because Router has no model for plan.",
        "Router.review: import does not know this entry, so it is not imported.",
        "Router.rules: rules of version 3 are not imported. Write them as [[routes]] of anthropic-proxy.toml.",
        "API_TIMEOUT_MS: set UPSTREAM_TIMEOUT, in seconds.",
        'LOG_LEVEL: "silent" is not imported. Set LOG_LEVEL to debug, info, warning or error.',
        "CUSTOM_ROUTER_PATH: scripts do not run here. Write its rules as [[routes]] of anthropic-proxy.toml.",
        "forceUseImageAgent: requests with images go to the route images, and the model gets the images themselves.",
        "futureSetting: import does not know this entry, so it is not imported.",
    ]


def test_models_with_one_name_are_balanced(tmp_path: Path) -> None:
    output = run_import(tmp_path, "config.yaml", LITELLM_GROUPS)
    variables, servers = read_written(tmp_path)
    first, second, nano, oss = "azure/gpt-5", "azure-2/gpt-5", "openai/gpt-4.1-nano", "groq/openai/gpt-oss-20b"
    assert variables == {
        **{f"FALLBACK_{tier}": f"{second},{nano},{oss}" for tier in ("HAIKU", "SONNET", "OPUS", "FABLE")},
        "BIG_MODEL": first,
        "SMALL_MODEL": first,
        "PREFERRED_PROVIDER": "azure",
        "LOG_FORMAT": "json",
    }
    assert {name: (table["base_url"], table.get("api_key")) for name, table in servers.items()} == {
        "azure": ("https://eu.openai.azure.com/openai/v1", {"env": "EU_KEY"}),
        "azure-2": ("https://us.openai.azure.com/openai/v1", {"env": "US_KEY"}),
        "local": ("http://localhost:8000/v1", None),
    }
    assert servers["local"]["models"] == {"qwen3": {"max_output": 4096}}
    assert read_tables(tmp_path)["routes"] == [
        {
            "name": "claude-sonnet-4-5",
            "when": {"tier": ["haiku", "sonnet", "opus", "fable"]},
            "targets": [first, second],
            "balance": "weighted",
            "weights": [6, 2],
        },
        {"name": "fast", "when": {"model": ["fast", "quick"]}, "targets": [nano, oss, first, second]},
        {"name": "local", "when": {"model": ["local-*"]}, "targets": ["local/qwen3"]},
    ]
    rates = (
        "it sets the shares of a balanced route. Limits are those of keys: anthropic-proxy keys create NAME --rpm 60."
    )
    assert notes_of(output) == [
        f"model_list[0].litellm_params.rpm: {rates}",
        f"model_list[1].litellm_params.rpm: {rates}",
        "model_list[4]: the proxy has no endpoint for the mode embedding.",
        "model_list[5].litellm_params.tags: write a route with the condition header.",
        "model_list[5].model_info.future: import does not know this entry, so it is not imported.",
        'model_list[5].model_info.input_cost_per_token: write it as [prices."local/qwen3"] of anthropic-proxy.toml, in '
        "dollars per million tokens.",
        "router_settings.routing_strategy: usage-based-routing-v2: routes balance by weight. "
        'With balance = "latency" they prefer the fastest model, with "cost" the cheapest.',
        "fallbacks of claude-sonnet-4-5: the route claude-sonnet-4-5 calls its other targets if one fails, "
        f"not {nano}, {oss}.",
        "general_settings.database_url: the tables of LiteLLM are not imported. For keys, teams and budgets, set "
        "VIRTUAL_KEYS=true and DATABASE_URL to a database of its own, and create keys: anthropic-proxy keys create.",
        "general_settings.alerting: alerts are rules on GET /metrics.",
        "litellm_settings.max_budget: limits and budgets belong to virtual keys and teams: VIRTUAL_KEYS=true and "
        "anthropic-proxy keys create.",
        "litellm_settings.cache: the proxy does not cache replies.",
        "litellm_settings.drop_params: it is the default. FIDELITY=strict rejects requests instead.",
        "router_settings.num_retries: the proxy retries once, then it calls the next target of the route or "
        "FALLBACK_SONNET and others.",
        "router_settings.redis_host: limits that several instances share need REDIS_URL.",
        "router_settings.future: import does not know this entry, so it is not imported.",
        "guardrails: guardrails do not run here. A plugin can reject requests.",
        "future: import does not know this entry, so it is not imported.",
    ]


def test_claude_of_litellm_at_clouds_becomes_that_of_the_proxy(tmp_path: Path) -> None:
    content = """
model_list:
  - {model_name: claude-opus-5, litellm_params: {model: bedrock/us.anthropic.claude-opus-5, aws_region_name: us-west-2}}
  - {model_name: nova, litellm_params: {model: "bedrock/amazon.nova-pro-v1:0"}}
  - model_name: vertex
    litellm_params: {model: vertex_ai/claude-opus-5, vertex_project: mine, vertex_location: global}
"""
    output = run_import(tmp_path, "config.yaml", content)
    variables, tables = read_written(tmp_path)[0], read_tables(tmp_path)
    assert variables == {
        "AWS_REGION": "us-west-2",
        "VERTEX_PROJECT": "mine",
        "VERTEX_LOCATION": "global",
        "BIG_MODEL": "bedrock/us.anthropic.claude-opus-5",
        "SMALL_MODEL": "bedrock/us.anthropic.claude-opus-5",
        "PREFERRED_PROVIDER": "bedrock",
    }
    assert [route["targets"] for route in tables["routes"]] == [
        ["bedrock/amazon.nova-pro-v1:0"],
        ["vertex_ai/claude-opus-5"],
    ]
    assert notes_of(output) == [
        "model_list[1]: bedrock/… needs the extra litellm and LiteLLM's own variables for this provider."
    ]


def test_entries_that_are_not_copied_have_a_note(tmp_path: Path) -> None:
    assert notes_of(run_import(tmp_path, "config.yaml", LITELLM_CLAUDE, "--dry-run")) == [
        "model_list[2].litellm_params.temperature: the proxy sends the value of the client.",
        "litellm_settings.drop_params: it is the default. FIDELITY=strict rejects requests instead.",
        "litellm_settings.success_callback: callbacks do not run here. Use GET /metrics, OTEL_EXPORTER_OTLP_ENDPOINT, "
        "LOG_FORMAT=json or a plugin.",
    ]
    assert notes_of(run_import(tmp_path, "config.json", ROUTER_KEY, "--dry-run")) == [
        "Providers[0].transformer: deepseek: it is not needed, the proxy adapts requests to the server itself.",
        "Providers[0].transformer: tooluse: the proxy does not force a tool call.",
        "Providers[0].api_key: secrets are not copied. Set it in .env:  DEEPSEEK_API_KEY=….",
        "Providers[1].api_key: secrets are not copied. Set it in .env:  OPENAI_API_KEY=….",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "config.yaml"]


def test_limits_and_fallbacks_of_litellm_that_are_not_imported_have_a_note(tmp_path: Path) -> None:
    output = run_import(tmp_path, "config.yaml", LITELLM_LIMITS)
    limits = "the limits of a built-in provider come from its list"
    missing = "no imported entry of model_list has the model_name"
    assert notes_of(output) == [
        f"model_list[0].model_info.max_output_tokens: {limits}.",
        f"model_list[0].model_info.max_input_tokens: {limits}.",
        f"model_list[0].litellm_params.max_tokens: {limits}.",
        f"model_list[1].litellm_params.max_tokens: {limits}.",
        'model_list[3].litellm_params.max_tokens: "8k" is no whole number of tokens, so it is not imported.',
        "model_list[5]: the proxy has no endpoint for the mode embedding.",
        f"fallbacks of claude-sonnet-4-5: missing is not imported, because {missing} missing.",
        f"fallbacks of claude-sonnet-4-5: embed is not imported, because {missing} embed.",
        "fallbacks of claude-sonnet-4-5: anthropic/* is not imported, because it is a pattern. Write a model.",
        f"fallbacks of gpt-5: they are not imported, because {missing} gpt-5.",
        "fallbacks: team is not imported, because it has no model_name to which it applies.",
        f"default_fallbacks: gone is not imported, because {missing} gone.",
    ]
    variables, servers = read_written(tmp_path)
    assert variables["FALLBACK_SONNET"] == "openai-2/gpt-5"
    assert variables["FALLBACK_HAIKU"] == "local/qwen3"
    assert servers["openai-2"]["models"] == {"gpt-5": {"max_output": 4096, "max_input": 50000}}
    assert servers["local"]["models"] == ["qwen3"]


CLIENT_KEY = (
    "ANTHROPIC_API_KEY: it is imported as the key of the provider Anthropic. If it is the key of your clients, rename "
    "it to PROXY_API_KEY."
)


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        (
            f"OPENAI_API_KEY={SECRET}\nANTHROPIC_API_KEY=client-key-0123456789\nBIG_MODEL=gpt-4.1\n",
            [CLIENT_KEY],
        ),
        (f"OPENAI_API_KEY={SECRET}\nANTHROPIC_API_KEY=sk-ant-1\nPREFERRED_PROVIDER=openai\n", []),
        (f"OPENAI_API_KEY={SECRET}\nANTHROPIC_API_KEY=client-key\nMIDDLE_MODEL=gpt-4.1\n", []),
        (
            f"OPENAI_API_KEY={SECRET}\nANTHROPIC_API_KEY=client-key\nMIDDLE_MODEL=gpt-4.1\nGEMINI_API_KEY=AIza-1\n",
            [CLIENT_KEY],
        ),
    ],
    ids=["no-variable-of-one-project", "several-providers", "one-server", "variables-of-both"],
)
def test_a_key_that_may_be_that_of_the_clients_has_a_note(tmp_path: Path, text: str, notes: list[str]) -> None:
    assert notes_of(run_import(tmp_path, "old.env", text, "--dry-run")) == notes


AZURE = "https://example.openai.azure.com"
AZURE_ADDRESS = (
    "OPENAI_BASE_URL: an address of Azure has the form https://RESOURCE.openai.azure.com/openai/v1 or "
    "https://RESOURCE.openai.azure.com/openai/deployments/NAME?api-version=2024-10-21. Change it to one of them."
)
AZURE_VERSION = (
    "AZURE_API_VERSION: it is not imported. It belongs to an address in OPENAI_BASE_URL that has no version and does "
    "not end with /openai/v1."
)


@pytest.mark.parametrize(
    ("address", "version", "written", "notes"),
    [
        (AZURE, "2024-10-21", f"{AZURE}?api-version=2024-10-21", [AZURE_ADDRESS]),
        (f"{AZURE}/", "", f"{AZURE}/", [AZURE_ADDRESS]),
        (f"{AZURE}/openai/v1/", "2024-10-21", f"{AZURE}/openai/v1/", [AZURE_VERSION]),
        (f"{AZURE}/openai/v1", "", f"{AZURE}/openai/v1", []),
        (
            f"{AZURE}/openai/deployments/a",
            "2024-10-21",
            f"{AZURE}/openai/deployments/a?api-version=2024-10-21",
            [],
        ),
        (
            f"{AZURE}/openai/deployments/a?api-version=2024-06-01",
            "2024-10-21",
            f"{AZURE}/openai/deployments/a?api-version=2024-06-01",
            [AZURE_VERSION],
        ),
        ("", "2024-10-21", None, [AZURE_VERSION]),
        ("https://example.com/v1", "", "https://example.com/v1", []),
    ],
)
def test_an_address_of_azure_without_a_path_has_a_note(
    tmp_path: Path, address: str, version: str, written: str | None, notes: list[str]
) -> None:
    text = f"OPENAI_API_KEY={SECRET}\nOPENAI_BASE_URL={address}\nAZURE_API_VERSION={version}\nBIG_MODEL=a\n"
    assert notes_of(run_import(tmp_path, "old.env", text)) == notes
    assert read_written(tmp_path)[0].get("OPENAI_BASE_URL") == written


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
    assert [route["name"] for route in read_tables(tmp_path)["routes"]] == ["thinking"]


SUPPORTED = (
    "Supported are config.json of claude-code-router, config.yaml of LiteLLM's proxy, and .env of an earlier proxy."
)
NO_CONFIGURATION = "NAME is no configuration of a supported proxy: "
NO_PROVIDER = "it sets no key, address or model of a provider, such as OPENAI_API_KEY or BIG_MODEL"


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.json", '{"mcpServers": {}}', f"{NO_CONFIGURATION}it is JSON without Providers and Router. {SUPPORTED}"),
        (
            "a.yaml",
            "services: {}",
            f"{NO_CONFIGURATION}it is YAML without general_settings, litellm_settings, model_list or router_settings. "
            f"{SUPPORTED}",
        ),
        ("a.txt", "# nothing\n", f"{NO_CONFIGURATION}{NO_PROVIDER}. {SUPPORTED}"),
        ("site.env", "DEBUG=1\nPORT=80\nDATABASE_URL=x\n", f"{NO_CONFIGURATION}{NO_PROVIDER}. {SUPPORTED}"),
        (
            "README.md",
            "# A proxy\n\n```sh\nOPENAI_API_KEY=sk-1\n```\n\nRun it now.\n",
            f"{NO_CONFIGURATION}it is no JSON or YAML, and line 3 does not set a variable. {SUPPORTED}",
        ),
        (
            "pyproject.toml",
            '\n[project]\nname = "x"\nBIG_MODEL = "y"\n',
            f"{NO_CONFIGURATION}it is no JSON or YAML, and line 2 does not set a variable. {SUPPORTED}",
        ),
        ("a.json", '{"Providers": [1]}', f"NAME has an unexpected structure. {SUPPORTED}"),
    ],
)
def test_an_unknown_file_is_rejected(tmp_path: Path, name: str, content: str, error: str) -> None:
    (tmp_path / name).write_text(content)
    done = run_command("import", name, directory=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"✕ {error.replace('NAME', name)}"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize(
    ("words", "limit"),
    [
        (("import", "FILE"), 4 * 1024 * 1024),
        (("explain", "FILE"), 32 * 1024 * 1024),
        (("routes", "explain", "FILE"), 32 * 1024 * 1024),
        (("lint-stream", "FILE"), 64 * 1024 * 1024),
    ],
)
def test_input_files_have_a_limit(tmp_path: Path, words: tuple[str, ...], limit: int) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(limit + 1)
    for name in ("large", "/dev/zero"):
        done = run_command(*(word.replace("FILE", name) for word in words), directory=tmp_path)
        message = f'✕ "{name}" has more than {limit:,} bytes, the maximum of this command.\n'
        assert (done.returncode, done.stdout, done.stderr) == (2, "", message)


def test_standard_input_has_a_limit(tmp_path: Path) -> None:
    done = run_command("import", "-", directory=tmp_path, stdin="#" * (4 * 1024 * 1024 + 1))
    message = "✕ standard input has more than 4,194,304 bytes, the maximum of this command.\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)
