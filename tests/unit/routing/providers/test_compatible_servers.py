"""The server at `OPENAI_BASE_URL`: recognized by its address alone, and the dialect that results."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import build_catalog
from anthropic_proxy.engine.providers.credentials import Credentials
from anthropic_proxy.engine.providers.servers import find_server_override
from anthropic_proxy.engine.routing.router import RoutingQuery, Target, build_route
from anthropic_proxy.engine.upstream.http.url import join_url
from anthropic_proxy.engine.wires import openai_chat, openai_responses
from anthropic_proxy.engine.wires.contract import Credential, UpstreamRequest
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings, load_settings
from tests.support.golden_runner import GoldenCase, find_cases
from tests.support.harness import FakeResponse, ProxyHarness
from tests.support.messages import exactly
from tests.support.paths import ROOT

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


def test_levels_of_effort_hold_for_models_that_no_table_knows() -> None:
    target = aim("https://api.deepseek.com", "deepseek-v9")
    assert "max" in target.capabilities.efforts
    assert not target.capabilities.known, "the window stays unknown, so nothing is cut"
    assert aim("https://openrouter.ai/api/v1", "x/y").capabilities.efforts
    assert not aim("http://127.0.0.1:8000/v1", "x").capabilities.efforts


def test_azure_gets_the_key_in_a_header_of_its_own() -> None:
    credential = Credentials(load("https://mine.openai.azure.com/openai/v1")).next_credential(OPENAI)
    assert credential is not None
    assert (credential.header, credential.value) == ("api-key", KEY)
    for address in (None, "https://api.deepseek.com", "http://127.0.0.1:8000/v1"):
        credential = Credentials(load(address)).next_credential(OPENAI)
        assert credential is not None
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


def test_every_server_is_named_once_documented_and_proven() -> None:
    names = [server.name for server in OPENAI.servers]
    assert len(names) == len(set(names))
    scenarios = [GoldenCase(folder) for folder in find_cases("openai_chat")]
    played = set()
    for scenario in scenarios:
        address = scenario.fields.get("settings", {}).get("OPENAI_BASE_URL")
        server = find_server_override(OPENAI, load(address)) if scenario.provider is OPENAI else None
        played.add(server and server.name)
    own = {"openai", "groq", "moonshot", "xai"}
    """Servers named as in their rows, which other scenarios prove."""
    assert set(names) - own <= played
    text = (ROOT / "docs/guide/providers.md").read_text("utf-8")
    section = text.partition("## Servers with the Chat Completions API")[2].partition("\n## ")[0]
    for server in OPENAI.servers:
        if server.name not in own | {"local", "other", "deepseek_beta"}:
            host = re.sub(r"^\*\.|/.*$", "", server.url_patterns[0])
            assert host in section, f"docs/guide/providers.md says nothing about {host}"


Body = dict[str, Any]
LOCAL = {
    "PREFERRED_PROVIDER": "openai",
    "OPENAI_BASE_URL": "http://127.0.0.1:8000/v1",
    "BIG_MODEL": "openai/qwen3-coder",
}
GROQ = {"GROQ_API_KEY": KEY, "BIG_MODEL": "groq/llama-99"}
REPLY = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "well"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1},
}
WINDOW = "This model's maximum context length is 40000 tokens"


def over(limit: int) -> Callable[[Body], bool]:
    return lambda body: max(body.get("max_tokens", 0), body.get("max_completion_tokens", 0)) > limit


@pytest.mark.parametrize(
    ("settings", "fields", "is_refused", "message"),
    [
        (
            LOCAL,
            {},
            over(27_534),
            f"{WINDOW}. However, you requested 64000 output tokens and your prompt contains at least 12466 input "
            "tokens, for a total of at least 76466 tokens. (parameter=input_tokens, value=12466)",
        ),
        (
            LOCAL,
            {},
            over(27_534),
            f"'max_tokens' or 'max_completion_tokens' is too large: 64000. {WINDOW} and your request has 12466 input "
            "tokens (64000 > 40000 - 12466). None",
        ),
        (
            LOCAL,
            {},
            over(27_534),
            f"{WINDOW}. However, you requested 76466 tokens (12466 in the messages, 64000 in the completion).",
        ),
        (LOCAL, {}, over(8_192), "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]"),
        (LOCAL, {}, over(8_192), "max_tokens (64000) exceeds the maximum allowed output of 8192"),
        (
            LOCAL,
            {"stream": True},
            lambda body: "stream_options" in body,
            [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}],
        ),
        (
            GROQ,
            {},
            over(32_768),
            "`max_completion_tokens` must be less than or equal to `32768`, the maximum value for "
            "`max_completion_tokens` is less than the `context_window` for this model",
        ),
        (
            {"XAI_API_KEY": KEY, "BIG_MODEL": "xai/grok-4.3-turbo"},
            {"output_config": {"effort": "low"}},
            lambda body: "reasoning_effort" in body,
            "Model grok-4.3-turbo does not support parameter reasoningEffort.",
        ),
        (
            {"MOONSHOT_API_KEY": KEY, "BIG_MODEL": "moonshot/kimi-next"},
            {"temperature": 0.5},
            lambda body: "temperature" in body,
            "invalid temperature: only 1 is allowed for this model",
        ),
    ],
    ids=["vllm", "vllm-before", "vllm-first", "deepseek", "lm-studio", "mistral", "groq", "xai", "moonshot"],
)
async def test_a_refusal_in_a_server_s_own_words_is_learned_from(
    settings: dict[str, str], fields: Body, is_refused: Callable[[Body], bool], message: Any
) -> None:
    bodies: list[Body] = []

    def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        bodies.append(json.loads(request.body))
        if is_refused(bodies[-1]):
            return FakeResponse(
                400, json.dumps({"error": {"message": message, "type": "invalid_request_error"}}).encode()
            )
        if bodies[-1].get("stream"):
            chunk = {**REPLY, "choices": [{"index": 0, "delta": {"content": "well"}, "finish_reason": "stop"}]}
            return FakeResponse(200, f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode())
        return FakeResponse(200, json.dumps(REPLY).encode())

    sink = await ProxyHarness(upstream, **settings).post(**fields)
    assert sink.error is None
    assert len(bodies) == 2
    assert b"well" in sink.stream or sink.body["content"][0]["text"] == "well"


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
