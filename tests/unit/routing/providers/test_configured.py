"""Providers of the configuration file: routes, dialects, limits, the model list and the start-up summary."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy import __version__
from anthropic_proxy.cli.explain import dry_run_request
from anthropic_proxy.engine.providers import PROVIDERS, find_registry
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.providers.credentials import Credentials
from anthropic_proxy.engine.providers.lookup import require_known_wire
from anthropic_proxy.engine.routing.targets import find_capabilities
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.problems import find_problems
from anthropic_proxy.gateway.settings import CONFIG_FILE, Settings, load_settings
from anthropic_proxy.gateway.startup_summary import log_startup_summary
from tests.support.harness import FakeResponse, ProxyHarness
from tests.support.provider_lists import list_unset_names
from tests.support.startup_summary import ADDRESS, NOW

TWO_SERVERS = """
[providers.vllm]
base_url = "http://localhost:8000/v1"
models = ["Qwen/Qwen3-32B", "qwen3-small"]

[providers.vllm.dialect]
output_limit_field = "max_completion_tokens"

[providers.openrouter]
base_url = "https://openrouter.ai/api/v1"
api_key = { env = "OPENROUTER_API_KEY" }

[providers.openrouter.models."qwen/*"]
context_window = 50000
max_output = 4000
accepts_images = true
dialect = { sends_top_k = false }

[providers.openrouter.models."openai/gpt-5"]
"""


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str = TWO_SERVERS, **environ: str) -> Settings:
    Path(CONFIG_FILE).write_text(text, encoding="utf-8")
    return load_settings(environ, PROVIDERS, env_file=".env", resolves_keys=True)


AZURE = """
[providers.azure]
base_url = "https://mine.openai.azure.com/openai/v1"

[providers.azure.models]
"gpt-4o-prod" = { model_of = "gpt-5.6-sol" }
"small-*" = { model_of = "openai/gpt-4.1", max_output = 5000 }
"large-*" = { model_of = "gpt-5.6-terra" }
"large-chat" = { dialect = { sends_top_k = true } }
"small-chat" = { model_of = "gpt-5.6-sol", dialect = { sends_top_k = true } }
"gpt-5.6-luna" = {}
"claude" = { model_of = "anthropic/claude-opus-5-5" }
"""


def test_an_engine_without_the_server_refuses_an_unknown_model_behind_a_deployment() -> None:
    table = load(AZURE).configured_providers[0]
    unknown = structs.replace(
        table, models={name: structs.replace(model, model_of="my-own") for name, model in table.models.items()}
    )
    with pytest.raises(ConfigurationError) as caught:
        require_known_wire(unknown, PROVIDERS)
    assert str(caught.value) == (
        'The model_of of azure/gpt-4o-prod is "my-own". Use the id of a model that the proxy knows, such as '
        "gpt-5.6-sol."
    )


def test_without_the_library_of_entra_the_start_up_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden: Any = None
    monkeypatch.setattr("anthropic_proxy.errors.find_spec", lambda name: hidden)
    settings = load(AZURE, PREFERRED_PROVIDER="azure", BIG_MODEL="azure/a", SMALL_MODEL="azure/b")
    problems = find_problems(settings, Catalog(), date(2026, 11, 23))
    assert [(problem.severity, problem.cause) for problem in problems] == [
        ("error", "Azure OpenAI without an API key needs azure-identity, which is not installed:  ")
    ]


def test_a_name_may_replace_a_prefix_of_litellm_only() -> None:
    registry = find_registry(load())
    assert registry.find_by_extra_prefix("openrouter") is None
    assert PROVIDERS.find_by_extra_prefix("openrouter") is PROVIDERS.find("litellm")


def test_the_start_up_summary() -> None:
    text = TWO_SERVERS.replace("OPENROUTER_API_KEY", "ROUTER_KEY")
    proxy = ProxyHarness(lambda *_: pytest.fail("start-up calls nobody"))
    services = structs.replace(proxy.services, settings=load(text), catalog=Catalog())
    log_startup_summary(services, ADDRESS, NOW)
    assert proxy.log.getvalue().splitlines() == [
        f"anthropic-proxy {__version__}   http://127.0.0.1:8082",
        f"  settings: {Path.cwd()}/anthropic-proxy.toml",
        "",
        "  haiku           → vllm/qwen3-small          SMALL_MODEL, default",
        "  sonnet, opus …  → vllm/Qwen/Qwen3-32B       BIG_MODEL, default",
        "  ! openrouter has no key: ROUTER_KEY is not set (providers.openrouter.api_key in anthropic-proxy.toml, "
        "line 11). Set it in .env or in the environment.",
        "  ready: vllm (http://localhost:8000/v1)         not set: "
        + " ".join(list_unset_names("ollama", "anthropic")),
        "",
        "  Use it:  anthropic-proxy code",
        "      or:  ANTHROPIC_BASE_URL=http://127.0.0.1:8082 ANTHROPIC_AUTH_TOKEN=local claude",
    ]


async def test_a_wrong_path_is_explained() -> None:
    def reply(*_: object) -> FakeResponse:
        return FakeResponse(404, json.dumps({"detail": "Not Found"}).encode())

    proxy = ProxyHarness(reply)
    settings = load('[providers.a]\nbase_url = "http://a:8000"\nmodels = ["m"]\n')
    changed = {"settings": settings, "credentials": Credentials(settings), "transports": {"a": proxy.services.http}}
    proxy.services = structs.replace(proxy.services, **changed)
    sink = await proxy.post(model="a/m")
    assert sink.error.message == (
        "a: nothing is served at http://a:8000/chat/completions: HTTP 404 (Not Found). The address is set by base_url "
        'of [providers.a], anthropic-proxy.toml line 2. Is /v1 missing? Try base_url = "http://a:8000/v1"'
    )


@pytest.mark.parametrize("base_url", ["https://apim.example/openai/v1", "http://127.0.0.1:8000/openai/v1"])
@pytest.mark.parametrize(
    ("model_of", "further", "path", "fields"),
    [
        ("gpt-5.6-sol", "", "/responses", {"reasoning": {"effort": "high", "summary": "auto"}}),
        ("openai/gpt-6.2-astra", "", "/responses", {"reasoning": {"effort": "high", "summary": "auto"}}),
        (
            "openai/gpt-6.2-astra",
            'key_header = "api-key"',
            "/responses",
            {"reasoning": {"effort": "high", "summary": "auto"}},
        ),
        ("gpt-5.6-sol", 'wire = "chat"', "/chat/completions", {"reasoning_effort": "none"}),
        ("gpt-4.1", "", "/chat/completions", {}),
        ("anthropic/claude-opus-5-5", "", "/v1/messages", {"output_config": {"effort": "high"}}),
        ("gemini/gemini-3.6-flash", "", "/chat/completions", {}),
    ],
)
async def test_behind_a_gateway_the_named_model_decides_the_api(
    base_url: str, model_of: str, further: str, path: str, fields: dict[str, Any]
) -> None:
    sent: list[tuple[str, dict[str, Any]]] = []

    def reply(_: str, request: UpstreamRequest, __: object) -> FakeResponse:
        sent.append((request.path, json.loads(request.body)))
        return FakeResponse(500, b"{}")

    proxy = ProxyHarness(reply)
    table = f'[providers.a]\nbase_url = "{base_url}"\n{further}\nmodels = {{ team = {{ model_of = "{model_of}" }} }}\n'
    settings = load(table)
    changed = {"settings": settings, "credentials": Credentials(settings), "transports": {"a": proxy.services.http}}
    proxy.services = structs.replace(proxy.services, **changed)
    tool = {"name": "get_time", "input_schema": {"type": "object", "properties": {}}}
    thinking = {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}
    await proxy.post(model="a/team", tools=[tool], **thinking)
    assert [each for each, _ in sent] == [path]
    effort_fields = ("reasoning", "reasoning_effort", "output_config")
    assert {name: value for name, value in sent[0][1].items() if name in effort_fields} == fields


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("mine", 'model_of = "gpt-5.6-sol", context_window = 200_000', 200_000),
        ("mine", 'model_of = "gpt-5.6-sol", context_window = 200_000, max_input = 150_000', 150_000),
        ("gpt-5.6-sol", "context_window = 200_000", 200_000),
        ("gpt-5*", "context_window = 200_000", 200_000),
        ("mine", 'model_of = "gpt-5.6-sol"', 922_000),
    ],
)
def test_a_stated_window_is_the_maximum_of_the_input(name: str, fields: str, expected: int) -> None:
    model = name.replace("*", ".6-sol")
    settings = load(f'[providers.az]\nbase_url = "https://api.openai.com/v1"\nmodels = {{ "{name}" = {{ {fields} }} }}')
    limits = find_capabilities(find_registry(settings).find("az"), model, settings, Catalog())
    assert limits.effective_max_input == expected


@pytest.mark.parametrize(
    ("base_url", "model_of", "max_output"),
    [
        ("https://mine.openai.azure.com/openai/v1", "gpt-oss-120b", 131_072),
        ("https://models.example/v1", "openai/gpt-oss-20b", 131_072),
        ("https://models.example/v1", "groq/openai/gpt-oss-120b", 65_536),
        ("https://api.cerebras.ai/v1", "gpt-oss-120b", 40_960),
    ],
)
def test_an_open_model_has_the_limits_of_a_host_only_there(base_url: str, model_of: str, max_output: int) -> None:
    settings = load(f'[providers.mine]\nbase_url = "{base_url}"\nmodels = {{ team = {{ model_of = "{model_of}" }} }}')
    limits = find_capabilities(find_registry(settings).find("mine"), "team", settings, Catalog())
    assert (limits.context_window, limits.max_output) == (131_072, max_output)


@pytest.mark.parametrize(
    ("name", "model", "other"),
    [("Own[ab]*", "own[AB]-2", "owna-2"), ("own[ab]", "own[ab]", "owna"), ("own[1m]", "own", "own1")],
)
def test_brackets_in_the_name_of_a_model_are_text(name: str, model: str, other: str) -> None:
    table = f'models = {{ "{name}" = {{ context_window = 200_000 }} }}'
    settings = load(f'[providers.mine]\nbase_url = "https://models.example/v1"\n{table}')
    provider = find_registry(settings).find("mine")
    found = [find_capabilities(provider, each, settings, Catalog()).context_window for each in (model, other)]
    assert found[0] == 200_000
    assert found[1] != 200_000
    assert list(provider.known_models) == [model] * ("*" not in name)


@pytest.mark.parametrize("model", ["z-ai/glm-9", "gpt-4.1"])
def test_a_table_has_the_capabilities_of_the_same_server_behind_openai_base_url(model: str) -> None:
    compared = 0
    for server in PROVIDERS.find("openai").hosts:
        if not server.base_url or server.has_local_url:
            continue
        named = load(f'[providers.named]\nbase_url = "{server.base_url}"')
        other = load("", OPENAI_API_KEY="k-0123456789", OPENAI_BASE_URL=server.base_url)
        found = [
            find_capabilities(find_registry(settings).find(name), model, settings, Catalog())
            for settings, name in ((named, "named"), (other, "openai"))
        ]
        assert found[0] == found[1], server.name
        compared += 1
    assert compared > 20


@pytest.mark.parametrize(
    ("effort_form", "forced"),
    [("enable_thinking", "auto"), ("reasoning_effort", {"type": "function", "function": {"name": "look"}})],
)
def test_thinking_without_a_level_prevents_a_forced_call_where_a_switch_asks_for_it(
    effort_form: str, forced: object
) -> None:
    settings = load(
        f"""
        [providers.box]
        base_url = "http://127.0.0.1:9/v1"
        models = {{ m = {{ efforts = ["none", "medium"] }} }}
        dialect = {{ effort_form = "{effort_form}", accepts_forced_tool = "not_thinking" }}
        """
    )
    body = {
        "model": "box/m",
        "max_tokens": 900,
        "thinking": {"type": "adaptive"},
        "tools": [{"name": "look", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "tool", "name": "look"},
        "messages": [{"role": "user", "content": "hello"}],
    }
    shown = dry_run_request(settings, json.dumps(body).encode(), "a file", None).result.recorded
    assert shown is not None
    assert json.loads(shown.request.body)["tool_choice"] == forced
