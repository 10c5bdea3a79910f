"""The server at `OPENAI_BASE_URL`: recognized by its address alone, and the dialect that results."""

import pytest

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import build_catalog
from anthropic_proxy.engine.providers.credentials import Credentials
from anthropic_proxy.engine.providers.servers import find_server_override
from anthropic_proxy.engine.routing.router import RoutingQuery, Target, build_route
from anthropic_proxy.engine.upstream.http.url import join_url
from anthropic_proxy.engine.wires import openai_chat, openai_responses
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings, load_settings
from tests.support.messages import exactly

OPENAI = PROVIDERS.find("openai")
KEY = "sk-test-0123456789abcdef"


def load(address: str | None, **settings: str) -> Settings:
    given = {} if address is None else {"OPENAI_BASE_URL": address}
    return load_settings({"OPENAI_API_KEY": KEY, **given, **settings}, PROVIDERS, env_file=None)


def aim(address: str | None, model: str = "gpt-4.1", **settings: str) -> Target:
    return build_route(RoutingQuery(f"openai/{model}"), load(address, **settings), build_catalog()).targets[0]


def dialect_of(address: str | None, model: str, **settings: str) -> openai_chat.Dialect | openai_responses.Dialect:
    dialect = aim(address, model, **settings).dialect
    assert isinstance(dialect, (openai_chat.Dialect, openai_responses.Dialect))
    return dialect


def chat_dialect_of(address: str, model: str) -> openai_chat.Dialect:
    dialect = dialect_of(address, model)
    assert isinstance(dialect, openai_chat.Dialect)
    return dialect


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (None, None),
        ("https://api.openai.com/v1/", None),
        ("https://eu.api.openai.com/v1", "openai"),
        ("https://mine.openai.azure.com/openai/v1/", "azure"),
        ("https://mine.services.ai.azure.com/openai/v1", "azure"),
        ("https://api.deepseek.com", "deepseek"),
        ("https://API.DeepSeek.com/v1", "deepseek"),
        ("https://api.deepseek.com/beta", "deepseek_beta"),
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("https://api.mistral.ai/v1", "mistral"),
        ("https://api.z.ai/api/coding/paas/v4", "zai"),
        ("https://generativelanguage.googleapis.com/v1beta/openai/", "gemini"),
        ("https://api.groq.com/openai/v1", "groq"),
        ("https://api.fireworks.ai/inference/v1", "fireworks"),
        ("https://api.together.xyz/v1", "together"),
        ("https://api.cerebras.ai/v1", "cerebras"),
        ("https://api.deepinfra.com/v1/openai", "deepinfra"),
        ("https://dashscope.aliyuncs.com/compatible-mode/v1", "dashscope"),
        ("https://dashscope-us.aliyuncs.com/compatible-mode/v1", "dashscope"),
        ("https://coding-intl.dashscope.aliyuncs.com/v1", "dashscope"),
        ("https://token-plan.cn-beijing.maas.aliyuncs.com/compatible-mode/v1", "dashscope"),
        ("https://api.minimaxi.com/v1", "minimax"),
        ("http://localhost:8000/v1", "local"),
        ("http://127.0.0.1:1234/v1", "local"),
        ("http://[::1]:8080", "local"),
        ("http://192.168.0.9:8000/v1", "local"),
        ("http://172.20.0.2:8000/v1", "local"),
        ("http://box.local:8000/v1", "local"),
        ("http://172.32.0.2:8000/v1", "other"),
        ("https://localhost.example.com/v1", "other"),
        ("https://api.deepseek.com.example.com/v1", "other"),
        ("https://gateway.example.com/https/api.deepseek.com/", "other"),
    ],
)
def test_the_address_identifies_the_server(address: str | None, name: str | None) -> None:
    server = find_server_override(OPENAI, load(address))
    assert (server and server.name) == name


@pytest.mark.parametrize("model", ["gpt-4.1", "o3", "gpt-5", "qwen3-coder"])
@pytest.mark.parametrize("wire", ["chat", "responses"])
def test_what_only_openai_keeps_goes_to_nobody_else(model: str, wire: str) -> None:
    for server in OPENAI.servers:
        address = server.url_patterns[0].replace("*.", "mine.").replace("*", "")
        if server.name in ("openai", "xai", "groq", "moonshot") or wire not in server.wires:
            continue
        dialect = dialect_of(f"https://{address or 'example.com'}", model, OPENAI_WIRE=wire)
        assert not dialect.sends_user_id, server.name
        assert not dialect.sends_service_tier, server.name
        if isinstance(dialect, openai_chat.Dialect):  # a Responses server needs the instruction to keep nothing
            assert not dialect.sends_store, server.name
    assert dialect_of(None, model, OPENAI_WIRE=wire).sends_user_id


def test_the_address_never_decides_the_wire() -> None:
    for address in (
        None,
        "http://127.0.0.1:8000/v1",
        "https://api.deepseek.com",
        "https://mine.openai.azure.com/openai/v1",
    ):
        assert aim(address, "gpt-5").wire is openai_responses.WIRE
        assert aim(address, "gpt-4.1").wire is openai_chat.WIRE
        assert aim(address, "gpt-5", OPENAI_WIRE="chat").wire is openai_chat.WIRE


def test_names_of_models_count_in_any_case_and_with_their_maker_in_front() -> None:
    for model in ("mistralai/Devstral-Small-2-24B", "mistral-large", "Ministral-8B"):
        assert chat_dialect_of("http://127.0.0.1:8000/v1", model).requires_message_after_results
        assert chat_dialect_of("https://inference.example.com/v1", model).call_id_form == "nine"
    assert not chat_dialect_of("http://127.0.0.1:8000/v1", "qwen3-coder").requires_message_after_results


@pytest.mark.parametrize(
    ("model", "field"),
    [
        ("moonshotai/Kimi-K2-Thinking", "reasoning_content"),
        ("accounts/example/models/kimi-k3", "reasoning_content"),
        ("deepseek-ai/DeepSeek-V4-Pro", "reasoning_content"),
        ("zai-org/GLM-5.3", "reasoning_content"),
        ("MiniMaxAI/MiniMax-M2.7", "reasoning_content"),
        ("Qwen/Qwen3.8-27B", "reasoning_content"),
        ("openai/gpt-oss-120b", "reasoning_content"),
        ("meta-llama/Llama-4-Scout", ""),
        ("deepseek-ai/DeepSeek-V3.1", ""),
        ("gpt-4.1", ""),
    ],
)
def test_models_that_expect_their_reasoning_get_it_back_from_unknown_hosts(model: str, field: str) -> None:
    assert chat_dialect_of("https://inference.example.com/v1", model).replayed_thinking_field == field


def test_gpt_oss_has_its_levels_at_servers_of_no_known_vendor() -> None:
    for address in ("https://inference.example.com/v1", "http://127.0.0.1:8000/v1"):
        for model in ("gpt-oss-20b", "openai/gpt-oss-120b"):
            target = aim(address, model)
            assert target.capabilities.efforts == ("low", "medium", "high")
            assert not target.capabilities.known, "the window depends on the host"
            assert chat_dialect_of(address, model).effort_form == "reasoning_effort"
    assert chat_dialect_of("http://127.0.0.1:8000/v1", "openai/gpt-oss-120b").replayed_thinking_field == "both"


def test_levels_of_effort_hold_for_models_that_no_table_knows() -> None:
    target = aim("https://api.deepseek.com", "deepseek-v9")
    assert "max" in target.capabilities.efforts
    assert not target.capabilities.known, "the window stays unknown, so nothing is cut"
    assert aim("https://openrouter.ai/api/v1", "x/y").capabilities.efforts
    assert not aim("http://127.0.0.1:8000/v1", "x").capabilities.efforts


def test_azure_gets_the_key_in_a_header_of_its_own() -> None:
    credential = Credentials(load("https://mine.openai.azure.com/openai/v1")).next_credential(OPENAI)
    assert (credential.header, credential.value) == ("api-key", KEY)
    for address in (None, "https://api.deepseek.com", "http://127.0.0.1:8000/v1"):
        credential = Credentials(load(address)).next_credential(OPENAI)
        assert (credential.header, credential.value) == ("authorization", f"Bearer {KEY}")


def test_an_address_may_have_the_version_of_an_api_and_no_other_query() -> None:
    address = "https://mine.openai.azure.com/openai/deployments/big/?api-version=2024-10-21"
    base = aim(address).base_url
    assert base == "https://mine.openai.azure.com/openai/deployments/big?api-version=2024-10-21"
    assert join_url(base, "/chat/completions") == base.replace("?", "/chat/completions?")
    assert join_url(base, "/models?limit=3").endswith("/models?limit=3&api-version=2024-10-21")
    for query in ("key=sk-1234567890", "api-version=1&key=x", "api-version="):
        with pytest.raises(
            ConfigurationError,
            match=exactly(
                'OPENAI_BASE_URL is "https://mine.openai.azure.com/openai?…". Use an address that begins with '
                "http:// or https://, without password and query. Set in the environment."
            ),
        ):
            load(f"https://mine.openai.azure.com/openai?{query}")


LOCAL = {
    "PREFERRED_PROVIDER": "openai",
    "OPENAI_BASE_URL": "http://127.0.0.1:8000/v1",
    "BIG_MODEL": "openai/qwen3-coder",
}
GROQ = {"GROQ_API_KEY": KEY, "BIG_MODEL": "groq/llama-99"}
WINDOW = "This model's maximum context length is 40000 tokens"


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize(
    ("address", "called"),
    [
        ("https://api.deepseek.com", "https://api.deepseek.com/anthropic/v1/messages"),
        ("https://api.deepseek.com/v1", "https://api.deepseek.com/anthropic/v1/messages"),
        ("https://api.deepseek.com/beta", "https://api.deepseek.com/anthropic/v1/messages"),
        ("https://api.deepseek.com/beta/v1", "https://api.deepseek.com/anthropic/v1/messages"),
        ("https://api.deepseek.com/anthropic", "https://api.deepseek.com/anthropic/v1/messages"),
        ("https://api.deepseek.com/anthropic/v1", "https://api.deepseek.com/anthropic/v1/messages"),
        ("https://api.moonshot.ai/v1", "https://api.moonshot.ai/anthropic/v1/messages"),
        ("https://api.moonshot.ai/anthropic", "https://api.moonshot.ai/anthropic/v1/messages"),
        ("https://api.moonshot.ai/anthropic/v1", "https://api.moonshot.ai/anthropic/v1/messages"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1/messages"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1/messages"),
        ("http://127.0.0.1:8000/beta", "http://127.0.0.1:8000/beta/v1/messages"),
    ],
)
def test_the_address_of_a_messages_api_is_found_from_that_of_its_chat_completions(
    address: str, called: str, slash: str
) -> None:
    settings = load_settings(
        {"OPENAI_API_KEY": "x", "OPENAI_BASE_URL": address + slash, "OPENAI_WIRE": "messages", "BIG_MODEL": "openai/m"},
        PROVIDERS,
        env_file=None,
    )
    target = build_route(RoutingQuery("claude-opus-4-5"), settings, build_catalog()).targets[0]
    assert join_url(target.base_url, "/v1/messages") == called
