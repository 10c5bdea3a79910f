"""The command `import`: the upstream requests with the written files equal those of the other project.

Each configuration has the structure of a public one: its fields, forms of values, and number of servers. The names and
values are our own.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import run_command

KEY = "sk-0123456789abcdef0123456789"
ROUTER_THREE_SERVERS = {  # a cloud server with transformers for each model, an aggregator, and Ollama
    "LOG": True,
    "NON_INTERACTIVE_MODE": False,
    "API_TIMEOUT_MS": 600000,
    "Providers": [
        {
            "name": "deepseek",
            "api_base_url": "https://api.deepseek.com/chat/completions",
            "api_key": "$DEEPSEEK_API_KEY",
            "models": ["deepseek-chat", "deepseek-reasoner"],
            "transformer": {"use": ["deepseek"], "deepseek-chat": {"use": ["tooluse"]}},
        },
        {
            "name": "openrouter",
            "api_base_url": "https://openrouter.ai/api/v1/chat/completions",
            "api_key": "$OPENROUTER_API_KEY",
            "models": ["google/gemini-2.5-pro", "deepseek/deepseek-chat-v3:free"],
            "transformer": {"use": ["openrouter"]},
            "params": {"deepseek/deepseek-chat-v3:free": {"tool_choice": "none"}},
        },
        {
            "name": "ollama",
            "api_base_url": "http://127.0.0.1:9/v1/chat/completions",
            "api_key": "ollama",
            "models": ["qwen2.5-coder:latest"],
        },
    ],
    "Router": {
        "default": "openrouter,deepseek/deepseek-chat-v3:free",
        "background": "ollama,qwen2.5-coder:latest",
        "think": "deepseek,deepseek-reasoner",
        "longContext": "openrouter,google/gemini-2.5-pro",
        "longContextThreshold": 60000,
    },
}
ROUTER_OWN_SERVER = {  # written by its user interface: empty settings, a script, upper case, `transformers`
    "LOG": False,
    "LOG_LEVEL": "debug",
    "CLAUDE_PATH": "",
    "HOST": "127.0.0.1",
    "PORT": 3456,
    "APIKEY": "",
    "API_TIMEOUT_MS": "600000",
    "PROXY_URL": "",
    "transformers": [{"name": "own", "path": "C:\\Users\\u\\own.js", "options": {}}],
    "Providers": [
        {
            "name": "GLM",
            "api_base_url": "http://127.0.0.1:8080/v1/chat/completions",
            "api_key": KEY,
            "models": ["GLM-4.5", "GLM-4.5-Air"],
            "transformers": {"use": ["own"]},
        }
    ],
    "StatusLine": {"enabled": False, "default": {"modules": []}},
    "Router": {
        "default": "GLM,GLM-4.5",
        "background": "GLM,GLM-4.5-Air",
        "think": "GLM,GLM-4.5",
        "longContextThreshold": 60000,
        "webSearch": "GLM,GLM-4.5",
        "image": "GLM,GLM-4.5",
    },
    "CUSTOM_ROUTER_PATH": "",
}
ROUTER_LOWER_CASE = {  # written by a manager of configurations: names in lower case
    "providers": [
        {
            "name": "gemini",
            "api_base_url": "https://generativelanguage.googleapis.com/v1beta/models/",
            "api_key": "$GOOGLE_API_KEY",
            "models": ["gemini-2.5-flash"],
            "provider_type": "gemini",
        },
        {
            "name": "nvidia",
            "api_base_url": "https://integrate.api.nvidia.com/v1/chat/completions",
            "api_key": "$NVIDIA_API_KEY",
            "models": ["meta/llama-3.3-70b-instruct"],
        },
    ],
    "router": {"default": "nvidia,meta/llama-3.3-70b-instruct", "background": "gemini,gemini-2.5-flash"},
}
LITELLM_TIERS = f"""
# one alias for each tier, keys in the file, models of other vendors beside them
model_list:
  - model_name: claude-haiku
    litellm_params:
      model: "anthropic/claude-3-5-haiku-20241022"
      api_key: "{KEY}"
  - model_name: claude-sonnet-4
    litellm_params: {{model: "deepseek/deepseek-chat", api_key: "{KEY}"}}
  - model_name: kimi
    litellm_params: {{model: "moonshot/moonshot-v1-auto", api_key: "{KEY}"}}
environment_variables: {{OPENAI_API_KEY: "{KEY}"}}
litellm_settings: {{drop_params: true, success_callback: []}}
"""
LITELLM_TWO_INSTANCES = """
# Anthropic with the client's credential, and a second instance as an own server
model_list:
  - model_name: claude-sonnet-4-5
    litellm_params:
      model: claude-sonnet-4-5
      api_base: https://api.anthropic.com/v1
      forward_client_headers_to_llm_api: true
  - model_name: claude-haiku-4-5
    litellm_params: {model: openai/qwen-3-coder, api_base: "http://localhost:4001/v1"}
general_settings: {master_key: sk-1234}
"""
LITELLM_AGGREGATOR = """
# models of one aggregator, a reference in quotation marks, and an alias outside the tiers
model_list:
  - model_name: claude-sonnet-4-6
    litellm_params:
      model: openrouter/anthropic/claude-sonnet-4.6
      api_key: "os.environ/OPENROUTER_API_KEY"
  - model_name: claude-haiku-4-5
    litellm_params:
      model: openrouter/deepseek/deepseek-r1:free
      api_key: "os.environ/OPENROUTER_API_KEY"
      timeout: 30
  - model_name: deepseek-r1
    litellm_params: {model: "openrouter/deepseek/deepseek-r1:free", api_key: "os.environ/OPENROUTER_API_KEY"}
"""
ENV_COMMENTS = f"""
# values in quotation marks, comments behind them, and a default that is commented out
OPENAI_API_KEY="{KEY}" # needed for the fallback
GEMINI_API_KEY="AIza0123456789abcdef0123456789"
PREFERRED_PROVIDER="google"
BIG_MODEL="gemini-2.5-pro"   # the default
# SMALL_MODEL="gemini-2.5-flash"
SMALL_MODEL="gpt-4.1-mini"
"""
ENV_AGGREGATOR = f"""
# a server with many vendors: its model names contain the names of our prefixes
OPENAI_API_KEY="{KEY}"
OPENAI_BASE_URL="https://router.requesty.ai/v1"
BIG_MODEL="anthropic/claude-opus-4.1"
MIDDLE_MODEL="groq/moonshotai/Kimi-K2-Instruct"
SMALL_MODEL="openai/gpt-4o-mini"
PORT="8081"
CUSTOM_HEADER_USER_AGENT="Mozilla/5.0 (compatible)"
ANTHROPIC_API_KEY="dummy"
"""
ENV_REASONING = f"""
# a fork with settings for reasoning, without MIDDLE_MODEL
OPENAI_API_KEY="{KEY}"
OPENAI_BASE_URL="https://openrouter.ai/api/v1"
BIG_MODEL="openai/gpt-5"
SMALL_MODEL="openai/gpt-5-mini"
REASONING_EFFORT="high"
VERBOSITY="high"
"""
VARIABLES = ("DEEPSEEK_API_KEY", "OPENROUTER_API_KEY", "GOOGLE_API_KEY", "NVIDIA_API_KEY", "GLM_API_KEY")
"""Variables that the user sets for the imported files, because secrets are not copied from JSON and YAML."""
REFERENCES = dict.fromkeys(VARIABLES, KEY)
OPENROUTER = "https://openrouter.ai/api/v1/chat/completions"
REQUESTY = "https://router.requesty.ai/v1/chat/completions"
GEMINI = "https://generativelanguage.googleapis.com/v1beta/models"


def explain(directory: Path, model: str, settings: dict[str, str]) -> tuple[str, str]:
    """Return the URL and the model of the upstream request that `explain` shows. "": the URL contains the model."""
    request = json.dumps({"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]})
    done = run_command("explain", "-", "--json", directory=directory, settings=settings, stdin=request)
    upstream = json.loads(done.stdout)["upstream"]
    return upstream["url"], json.loads(upstream["body"]).get("model", "")


@pytest.mark.parametrize(
    ("name", "content", "haiku", "sonnet"),
    [
        (
            "config.json",
            ROUTER_THREE_SERVERS,
            ("http://127.0.0.1:9/v1/chat/completions", "qwen2.5-coder:latest"),
            (OPENROUTER, "deepseek/deepseek-chat-v3:free"),
        ),
        (
            "config.json",
            ROUTER_OWN_SERVER,
            ("http://127.0.0.1:8080/v1/chat/completions", "GLM-4.5-Air"),
            ("http://127.0.0.1:8080/v1/chat/completions", "GLM-4.5"),
        ),
        (
            "config.json",
            ROUTER_LOWER_CASE,
            (f"{GEMINI}/gemini-2.5-flash:generateContent", ""),
            ("https://integrate.api.nvidia.com/v1/chat/completions", "meta/llama-3.3-70b-instruct"),
        ),
        (
            "config.yaml",
            LITELLM_TIERS,
            ("https://api.anthropic.com/v1/messages", "claude-3-5-haiku-20241022"),
            ("https://api.deepseek.com/v1/chat/completions", "deepseek-chat"),
        ),
        (
            "config.yaml",
            LITELLM_TWO_INSTANCES,
            ("http://localhost:4001/v1/chat/completions", "qwen-3-coder"),
            ("https://api.anthropic.com/v1/messages", "claude-sonnet-4-5"),
        ),
        (
            "config.yaml",
            LITELLM_AGGREGATOR,
            (OPENROUTER, "deepseek/deepseek-r1:free"),
            (OPENROUTER, "anthropic/claude-sonnet-4.6"),
        ),
        (
            "old.env",
            ENV_COMMENTS,
            ("https://api.openai.com/v1/chat/completions", "gpt-4.1-mini"),
            (f"{GEMINI}/gemini-2.5-pro:generateContent", ""),
        ),
        ("old.env", ENV_AGGREGATOR, (REQUESTY, "openai/gpt-4o-mini"), (REQUESTY, "groq/moonshotai/Kimi-K2-Instruct")),
        ("old.env", ENV_REASONING, (OPENROUTER, "openai/gpt-5-mini"), (OPENROUTER, "openai/gpt-5")),
    ],
    ids=[
        *("router-three-servers", "router-own-server", "router-lower-case"),
        *("litellm-tiers", "litellm-two-instances", "litellm-aggregator"),
        *("env-comments", "env-aggregator", "env-reasoning"),
    ],
)
def test_upstream_requests_equal_those_of_the_other_project(
    tmp_path: Path, name: str, content: str | dict[str, Any], haiku: tuple[str, str], sonnet: tuple[str, str]
) -> None:
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    done = run_command("import", name, directory=tmp_path, settings={})
    assert (done.returncode, done.stderr) == (0, "")
    assert explain(tmp_path, "claude-haiku-4-5", REFERENCES) == haiku
    assert explain(tmp_path, "claude-sonnet-4-5", REFERENCES) == sonnet
