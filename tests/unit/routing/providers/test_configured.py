"""Providers of the configuration file: routes, dialects, limits, the model list and the start-up summary."""

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy import __version__
from anthropic_proxy.engine.providers import PROVIDERS, find_registry
from anthropic_proxy.engine.providers.catalog import Catalog, build_catalog, find_table_capabilities
from anthropic_proxy.engine.providers.credentials import Credentials
from anthropic_proxy.engine.providers.lookup import require_known_wire
from anthropic_proxy.engine.routing.model_listing import list_models
from anthropic_proxy.engine.routing.router import (
    RoutingQuery,
    Target,
    build_route,
    choose_preferred_provider_name,
    find_preferred_provider,
)
from anthropic_proxy.engine.wires import openai_chat
from anthropic_proxy.errors import AuthenticationFailed, ClientError, ConfigurationError
from anthropic_proxy.gateway.readiness import list_problems_and_warnings
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


def target_of(model: str, settings: Settings) -> Target:
    return build_route(RoutingQuery(model), settings, Catalog()).targets[0]


def dialect_of(model: str, settings: Settings) -> openai_chat.Dialect:
    dialect = target_of(model, settings).dialect
    assert isinstance(dialect, openai_chat.Dialect)
    return dialect


@pytest.mark.parametrize(
    ("requested", "setting", "expected"),
    [
        ("vllm/Qwen/Qwen3-32B", {}, "vllm/Qwen/Qwen3-32B"),
        ("VLLM/other", {}, "vllm/other"),
        ("claude-vllm/other", {}, "vllm/other"),
        ("qwen3-small", {}, "vllm/qwen3-small"),
        ("openrouter/qwen/qwen3-coder", {}, "openrouter/qwen/qwen3-coder"),
        ("claude-opus-5", {"PREFERRED_PROVIDER": "vllm"}, "vllm/Qwen/Qwen3-32B"),
        ("claude-haiku-5", {"PREFERRED_PROVIDER": "vllm"}, "vllm/qwen3-small"),
        ("unlisted", {"PREFERRED_PROVIDER": "vllm"}, "vllm/unlisted"),
        ("claude-opus-5", {"BIG_MODEL": "openrouter/openai/gpt-5"}, "openrouter/openai/gpt-5"),
        ("claude-haiku-5", {"SMALL_MODEL": "vllm/tiny"}, "vllm/tiny"),
        ("claude-opus-5", {"MODEL_OPUS": "vllm/large"}, "vllm/large"),
        ("claude-opus-5", {"OPENAI_API_KEY": "k"}, "openai/gpt-4.1"),
        ("mistral/mistral-large", {}, "litellm/mistral/mistral-large"),
    ],
)
def test_a_prefix_is_accepted_everywhere(requested: str, setting: dict[str, str], expected: str) -> None:
    target = target_of(requested, load(OPENROUTER_API_KEY="key-of-openrouter", **setting))
    assert f"{target.provider.prefix}/{target.model}" == expected


def test_fallbacks_may_be_providers_of_the_file() -> None:
    settings = load(OPENROUTER_API_KEY="k", BIG_MODEL="vllm/a", FALLBACK_OPUS="openrouter/b,vllm/c")
    targets = build_route(RoutingQuery("claude-opus-5"), settings, Catalog()).targets
    assert [f"{target.provider.name}/{target.model}" for target in targets] == ["vllm/a", "openrouter/b", "vllm/c"]


def test_the_dialect_of_the_file_overrides_that_of_the_address() -> None:
    settings = load(OPENROUTER_API_KEY="k")
    local, router = dialect_of("vllm/x", settings), dialect_of("openrouter/x", settings)
    assert (local.output_limit_field, local.sends_top_k) == ("max_completion_tokens", True)
    assert (router.effort_form, router.sends_top_k) == ("reasoning", True)
    assert dialect_of("openrouter/Qwen/Qwen3", settings).sends_top_k is False
    assert local.signature_tag != router.signature_tag


def test_limits_of_the_file_apply_to_matching_models() -> None:
    settings = load(OPENROUTER_API_KEY="k")
    found = target_of("openrouter/qwen/qwen3-coder", settings).capabilities
    assert (found.context_window, found.max_output, found.accepts_images, found.known) == (50_000, 4_000, True, True)
    assert target_of("openrouter/other", settings).capabilities.context_window == 128_000


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


@pytest.mark.parametrize(
    ("name", "model", "wire", "dialect", "limits"),
    [
        ("gpt-4o-prod", "gpt-5.6-sol", "responses", {}, {}),
        ("GPT-4o-prod", "gpt-5.6-sol", "responses", {}, {}),
        ("small-1", "gpt-4.1", "chat", {}, {"max_output": 5000}),
        ("small-chat", "gpt-5.6-sol", "chat", {"sends_top_k": True}, {}),  # its dialect is that of Chat Completions
        ("large-1", "gpt-5.6-terra", "responses", {}, {}),
        ("large-chat", "gpt-5.6-terra", "chat", {"sends_top_k": True}, {}),
        ("gpt-5.6-luna", "gpt-5.6-luna", "chat", {}, {}),
    ],
)
def test_a_deployment_has_the_limits_the_rules_and_the_api_of_its_model(
    name: str, model: str, wire: str, dialect: dict[str, Any], limits: dict[str, Any]
) -> None:
    found = target_of(f"azure/{name}", load(AZURE))
    variables = {"OPENAI_BASE_URL": "https://mine.openai.azure.com/openai/v1", "OPENAI_WIRE": wire}
    known = target_of(f"openai/{model}", load_settings(variables, PROVIDERS, env_file=None))
    assert (found.model, found.wire) == (name, known.wire)
    assert found.dialect == structs.replace(known.dialect, signature_tag="file-azure", **dialect)
    assert found.capabilities == structs.replace(known.capabilities, **limits)


def test_a_model_of_another_provider_gives_its_limits() -> None:
    found, known = target_of("azure/claude", load(AZURE)), find_table_capabilities("anthropic", "claude-opus-5-5")
    assert known.known
    assert found.capabilities == known


@pytest.mark.parametrize(
    ("line", "wire"),
    [('wire = "responses"', "responses"), ('wire = "chat"', "chat"), ("dialect = { sends_top_k = false }", "chat")],
)
def test_a_wire_or_dialect_of_the_provider_applies_to_all_its_models(line: str, wire: str) -> None:
    without = re.sub(r",? ?dialect = \{.*?\}", "", AZURE)
    settings = load(without.replace('/v1"\n', f'/v1"\n{line}\n'))
    assert target_of("azure/gpt-4o-prod", settings).wire is PROVIDERS.find("openai").wires[wire].wire
    assert target_of("azure/small-1", settings).capabilities.max_output == 5_000


@pytest.mark.parametrize(
    "address",
    ["https://mine.openai.azure.com/openai/deployments/a?api-version=2024-10-21", "https://openrouter.ai/api/v1"],
)
def test_an_address_without_the_responses_api_gets_chat_completions(address: str) -> None:
    settings = load(AZURE.replace("https://mine.openai.azure.com/openai/v1", address))
    target = target_of("azure/gpt-4o-prod", settings)
    assert target.wire is openai_chat.WIRE
    assert target.capabilities.context_window == 1_050_000


@pytest.mark.parametrize(
    ("value", "end"),
    [
        ("gtp-5.6-sol", ' Did you mean model_of = "gpt-5.6-sol"'),
        ("my-own", ""),
        ("anthropic/opus", ""),
        ("nobody/gpt-5.6-sol", ' Did you mean model_of = "gpt-5.6-sol"'),
    ],
)
def test_an_unknown_model_behind_a_deployment_is_refused(value: str, end: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(AZURE.replace('"gpt-5.6-sol" }', f'"{value}" }}', 1))
    assert str(caught.value) == (
        f'providers.azure.models.gpt-4o-prod.model_of is "{value}". Use the id of a model that the proxy knows, such '
        "as gpt-5.6-sol or anthropic/claude-opus-5-5 (anthropic-proxy models lists them), or set the limits instead. "
        f"Set in {CONFIG_FILE}, line 6.{end}"
    )


def test_an_engine_without_the_server_refuses_an_unknown_model_behind_a_deployment() -> None:
    table = load(AZURE).configured_providers[0]
    unknown = structs.replace(table, models=[structs.replace(table.models[0], model_of="my-own")])
    with pytest.raises(ConfigurationError) as caught:
        require_known_wire(unknown, PROVIDERS)
    assert str(caught.value) == (
        'The model_of of azure/gpt-4o-prod is "my-own". Use the id of a model that the proxy knows, such as '
        "gpt-5.6-sol."
    )


def test_without_the_library_of_entra_the_start_up_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden: Any = None
    monkeypatch.setattr("anthropic_proxy.gateway.readiness.find_spec", lambda name: hidden)
    settings = load(AZURE, PREFERRED_PROVIDER="azure", BIG_MODEL="azure/a", SMALL_MODEL="azure/b")
    problems, _ = list_problems_and_warnings(settings, build_catalog(), date(2026, 11, 23))
    assert [problem.partition(":")[0] for problem in problems] == [
        "Azure OpenAI without an API key needs azure-identity, which is not installed"
    ]


def test_azure_needs_no_key_because_entra_gives_tokens() -> None:
    settings = load(AZURE)
    provider = find_registry(settings).find("azure")
    assert Credentials(settings).next_credential(provider) is None
    assert Credentials(settings).uses_tokens(provider)
    with_key = load(AZURE.replace('/v1"\n', '/v1"\napi_key = { env = "AZURE_KEY" }\n'), AZURE_KEY="a-key")
    provider = find_registry(with_key).find("azure")
    credential = Credentials(with_key).next_credential(provider)
    assert credential is not None
    assert (credential.header, credential.value) == ("api-key", "a-key")
    assert not Credentials(with_key).uses_tokens(provider)
    without = load(AZURE.replace('/v1"\n', '/v1"\napi_key = { env = "AZURE_KEY" }\n'))
    with pytest.raises(AuthenticationFailed) as caught:  # no tokens instead of a key that is missing
        Credentials(without).next_credential(find_registry(without).find("azure"))
    assert caught.value.message == (
        f"azure has no key: the variable of providers.azure.api_key in {CONFIG_FILE}, line 4, is not set. For "
        "details:  anthropic-proxy config check"
    )


def test_the_address_of_a_vendor_selects_its_entry() -> None:
    text = """
[providers.ds]
base_url = "https://api.deepseek.com/v1"
[providers.work]
base_url = "https://api.anthropic.com"
wire = "messages"
[providers.ai-studio]
base_url = "https://generativelanguage.googleapis.com"
wire = "gemini"
[providers.gateway]
base_url = "http://gateway:4000/v1"
wire = "messages"
"""
    settings = load(text)
    assert dialect_of("ds/deepseek-flash", settings).thinking_replay_scope == "every"
    work, studio, gateway = (target_of(f"{name}/m", settings) for name in ("work", "ai-studio", "gateway"))
    assert (work.provider.key_header, work.is_relayed, work.base_url) == (
        "x-api-key",
        True,
        "https://api.anthropic.com",
    )
    assert (studio.provider.key_header, studio.base_url.endswith("/v1beta")) == ("x-goog-api-key", True)
    assert (gateway.provider.key_header, gateway.base_url) == ("authorization", "http://gateway:4000")
    assert Credentials(settings).next_credential(gateway.provider) is None
    with pytest.raises(AuthenticationFailed) as caught:
        Credentials(settings).next_credential(target_of("ds/deepseek-flash", settings).provider)
    assert caught.value.message == (
        "ds has no key: DeepSeek requires one. Add it to [providers.ds] (anthropic-proxy.toml, line 3):  "
        'api_key = { env = "DS_API_KEY" }'
    )


def test_a_host_of_open_models_has_its_limits_efforts_and_dialect_in_the_file_too() -> None:
    settings = load("""
[providers.fw]
base_url = "https://api.fireworks.ai/inference/v1"
api_key = { env = "FIREWORKS_API_KEY" }
""")
    model = "fw/accounts/fireworks/models/kimi-k3"
    target = target_of(model, settings)
    assert (target.capabilities.context_window, target.capabilities.efforts) == (1_048_576, ("low", "high", "max"))
    dialect = dialect_of(model, settings)
    assert (dialect.signature_tag, dialect.effort_form) == ("file-fw", "reasoning_effort")
    assert (dialect.replayed_thinking_field, dialect.session_field) == ("reasoning_content", "prompt_cache_key")


def test_a_variable_without_a_key_is_named() -> None:
    settings = load()
    with pytest.raises(AuthenticationFailed) as caught:
        Credentials(settings).next_credential(find_registry(settings).find("openrouter"))
    assert caught.value.message == (
        "openrouter has no key: the variable of providers.openrouter.api_key in anthropic-proxy.toml, line 11, is not "
        "set. For details:  anthropic-proxy config check"
    )


def test_a_name_may_replace_a_prefix_of_litellm_only() -> None:
    registry = find_registry(load())
    assert registry.find_by_extra_prefix("openrouter") is None
    assert PROVIDERS.find_by_extra_prefix("openrouter") is PROVIDERS.find("litellm")


@pytest.mark.parametrize(
    ("text", "environ", "installed", "expected"),
    [
        (TWO_SERVERS, {}, None, "vllm"),
        (TWO_SERVERS, {"GROQ_API_KEY": "k"}, None, "groq"),
        (TWO_SERVERS, {"ANTHROPIC_API_KEY": "k"}, None, "vllm"),
        ('[providers.a]\nbase_url = "http://a"\n', {}, ["llama3"], "ollama"),
        ('[providers.a]\nbase_url = "http://a"\n', {}, None, "a"),
        ('[providers.a]\nbase_url = "http://a"\n', {"BIG_MODEL": "a/b"}, ["llama3"], "a"),
        ('[providers.a]\nbase_url = "http://a"\nmodels = ["m"]\napi_key = { env = "A" }\n', {}, ["llama3"], "ollama"),
    ],
)
def test_preference_without_a_setting(text: str, environ: dict[str, str], installed: Any, expected: str) -> None:
    assert choose_preferred_provider_name(load(text, **environ), installed) == expected


def test_models_of_the_file_are_listed() -> None:
    settings = load(OPENROUTER_API_KEY="k")
    entries = {entry.id: entry.max_tokens for entry in list_models(settings, Catalog())}
    assert {name: limit for name, limit in entries.items() if "openrouter" in name or "vllm" in name} == {
        "claude-vllm/Qwen/Qwen3-32B": 8_192,
        "claude-vllm/qwen3-small": 8_192,
        "claude-openrouter/openai/gpt-5": entries["claude-openrouter/openai/gpt-5"],
    }
    without_key = {entry.id for entry in list_models(load(), Catalog())}
    assert "claude-openrouter/openai/gpt-5" not in without_key


def test_another_ollama_uses_its_installed_models() -> None:
    settings = load('[providers.box]\nbase_url = "http://box:11434"\nwire = "ollama"\n', PREFERRED_PROVIDER="box")
    catalog = Catalog({"box": ("large", "small")})
    assert find_preferred_provider(settings, catalog).name == "box"
    assert build_route(RoutingQuery("claude-opus-5"), settings, catalog).targets[0].model == "large"
    assert build_route(RoutingQuery("claude-haiku-5"), settings, catalog).targets[0].model == "small"
    with pytest.raises(ClientError) as caught:
        build_route(RoutingQuery("claude-opus-5"), settings, Catalog())
    assert caught.value.message == (
        "box has no default models. Set BIG_MODEL and SMALL_MODEL, for example to box/<model>"
    )


def test_the_start_up_summary() -> None:
    text = TWO_SERVERS.replace("OPENROUTER_API_KEY", "ROUTER_KEY")
    proxy = ProxyHarness(lambda *_: pytest.fail("start-up calls nobody"))
    services = structs.replace(proxy.services, settings=load(text), catalog=build_catalog())
    log_startup_summary(services, ADDRESS, NOW)
    assert proxy.log.getvalue().splitlines() == [
        f"anthropic-proxy {__version__}   http://127.0.0.1:8082",
        f"  settings: {Path.cwd()}/anthropic-proxy.toml",
        "",
        "  haiku           → vllm/qwen3-small          SMALL_MODEL, default",
        "  sonnet, opus …  → vllm/Qwen/Qwen3-32B       BIG_MODEL, default",
        "  ! openrouter has no key: the variable of providers.openrouter.api_key in anthropic-proxy.toml, line 11, is "
        "not set. For details:  anthropic-proxy config check",
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
    proxy.services = structs.replace(proxy.services, settings=settings, credentials=Credentials(settings))
    sink = await proxy.post(model="a/m")
    assert sink.error.message == (
        "a: nothing is served at http://a:8000/chat/completions: HTTP 404 (Not Found). The address is set by base_url "
        'of [providers.a], anthropic-proxy.toml line 2. Is /v1 missing? Try base_url = "http://a:8000/v1"'
    )
