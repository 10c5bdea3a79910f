"""Azure OpenAI: what it gets is what the official SDK's own client sends, with a key and with tokens of Entra ID."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai
import pytest

from anthropic_proxy.engine.engine import Engine, build_engine
from anthropic_proxy.engine.exchange.in_process import send_request
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.credentials import Credentials
from anthropic_proxy.engine.wires.upstream_http import Credential
from anthropic_proxy.gateway.settings import CONFIG_FILE, load_settings
from tests.support.fakes.azure import API_VERSIONS, HOST, Azure, new_azure
from tests.support.fakes.server import Exchange, Running, serving

KEY, TOKEN = "the-key-of-the-resource", "eyJ0.the-token"
RESOURCE = f"http://{HOST}"
V1 = f"{RESOURCE}/openai/v1"
CHAT_VERSION, RESPONSES_VERSION = API_VERSIONS["chat/completions"], API_VERSIONS["responses"]
CHAT_URL = f"{RESOURCE}/openai/deployments/small?api-version={CHAT_VERSION}"
RESPONSES_URL = f"{RESOURCE}/openai?api-version={RESPONSES_VERSION}"
MODELS = 'models = { small = { model_of = "gpt-4.1" }, large = { model_of = "openai/gpt-5.5" } }'
WITH_KEY = 'api_key = { env = "AZURE_OPENAI_API_KEY" }'
CALL: dict[str, Any] = {
    "max_tokens": 900,
    "system": "Be brief.",
    "messages": [{"role": "user", "content": "Say exactly: hello"}],
    "tools": [{"name": "get_time", "input_schema": {"type": "object", "properties": {}}}],
}


class Tokens:
    """Tokens of Entra ID that never end."""

    rejection_statuses = (401,)

    async def acquire_token(self, *, max_seconds: float | None = None) -> tuple[Credential, str | None]:
        return Credential("authorization", f"Bearer {TOKEN}", "a test"), None

    def invalidate_token(self, credential: Credential) -> bool:
        return False


@contextmanager
def serving_azure(host: str = HOST) -> Iterator[Running]:
    azure = Azure({"small": "gpt-4.1", "large": "gpt-5.5"}, keys={KEY}, tokens={TOKEN}, host=host)
    with serving(new_azure(azure)) as running:
        yield running
        assert running.journal.violations() == []


def engine_of(running: Running, base_url: str, *lines: str) -> Engine:
    """Return an engine for which the stand-in is an HTTP proxy, so that addresses of Azure lead to it."""
    Path(CONFIG_FILE).write_text("\n".join(["[providers.azure]", f'base_url = "{base_url}"', *lines]), encoding="utf-8")
    variables = {"HTTP_PROXY": running.url, "AZURE_OPENAI_API_KEY": KEY}
    options = load_settings(variables, PROVIDERS, env_file=".env", resolves_keys=True)
    return build_engine(options, credentials=Credentials(options, {"azure_openai": Tokens()}))


async def ask(engine: Engine, model: str, **fields: Any) -> tuple[int, str]:
    reply = await send_request(engine, json.dumps({"model": model, **CALL, **fields}).encode(), {})
    return reply.status, b"".join([piece async for piece in reply.body]).decode()


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _v1_client(http: httpx2.Client) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{V1}/", api_key=lambda: TOKEN, http_client=http, max_retries=0)


def _dated_client(version: str, **credential: Any) -> Callable[[httpx2.Client], openai.OpenAI]:
    return lambda http: openai.AzureOpenAI(
        azure_endpoint=RESOURCE, api_version=version, http_client=http, max_retries=0, **credential
    )


def _deployment_client(http: httpx2.Client) -> openai.OpenAI:
    return _dated_client(RESPONSES_VERSION, azure_ad_token=TOKEN, azure_deployment="small")(http)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("base_url", "lines", "model", "new_client"),
    [
        (V1, [MODELS], "small", _v1_client),
        (V1, [MODELS], "large", _v1_client),
        (V1, ['wire = "responses"', MODELS], "small", _v1_client),
        (CHAT_URL, [MODELS, WITH_KEY], "small", _dated_client(CHAT_VERSION, api_key=KEY)),
        (CHAT_URL, [MODELS], "small", _dated_client(CHAT_VERSION, azure_ad_token_provider=lambda: TOKEN)),
        (
            CHAT_URL.replace(CHAT_VERSION, RESPONSES_VERSION),
            ['wire = "responses"', MODELS],
            "small",
            _deployment_client,
        ),
        (
            f"{RESOURCE}/openai?api-version={CHAT_VERSION}",
            [MODELS],
            "small",
            _dated_client(CHAT_VERSION, azure_ad_token=TOKEN),
        ),
        (
            f"{RESOURCE}?api-version={CHAT_VERSION}",
            [MODELS],
            "small",
            _dated_client(CHAT_VERSION, azure_ad_token=TOKEN),
        ),
        (
            f"HTTP://{HOST.upper()}:80/?api-version={RESPONSES_VERSION}",
            [MODELS],
            "large",
            _dated_client(RESPONSES_VERSION, azure_ad_token=TOKEN),
        ),
        (RESPONSES_URL, [MODELS, WITH_KEY], "large", _dated_client(RESPONSES_VERSION, api_key=KEY)),
        (RESPONSES_URL, [MODELS], "large", _dated_client(RESPONSES_VERSION, azure_ad_token=TOKEN)),
    ],
)
@pytest.mark.sample(3)
async def test_azure_gets_the_request_of_the_official_client(
    base_url: str, lines: list[str], model: str, new_client: Callable[[httpx2.Client], Any], stream: bool
) -> None:
    with serving_azure() as running:
        engine = engine_of(running, base_url, *lines)
        status, text = await ask(engine, f"azure/{model}", stream=stream)
        await engine.close()
        assert status == 200, text
        assert "hello" in text
        (sent,) = running.journal.exchanges
        is_chat = "/chat/" in sent.path
        with httpx2.Client(proxy=running.url) as http:
            client = new_client(http)
            create = client.chat.completions.create if is_chat else client.responses.create
            reply = create(**sent.body)
            assert "hello" in (str([*reply]) if stream else str(reply))
        _, reference = running.journal.exchanges
    compare(sent, reference)


def compare(ours: Exchange, theirs: Exchange) -> None:
    assert (ours.method, ours.path) == (theirs.method, theirs.path)
    assert ours.body == theirs.body
    names = ("api-key", "authorization", "content-type")
    assert {name: ours.headers.get(name) for name in names} == {name: theirs.headers.get(name) for name in names}
    of_each_request = {"accept", "accept-encoding", "content-length", "host", "user-agent"}
    assert set(ours.headers) - of_each_request <= set(theirs.headers)


@pytest.mark.parametrize(
    "base_url",
    [
        *(V1, f"{RESOURCE}/openai", RESOURCE, f"{RESOURCE}:80", f"http://{HOST.upper()}/"),
        "http://westeurope.api.cognitive.microsoft.com/openai/v1",
    ],
)
async def test_a_key_is_sent_in_a_header_of_its_own(base_url: str) -> None:
    with serving_azure(urlsplit(base_url).hostname or "") as running:
        engine = engine_of(running, base_url, MODELS, WITH_KEY)
        assert [(await ask(engine, f"azure/{model}"))[0] for model in ("small", "large")] == [200, 200]
        await engine.close()
        sent = running.journal.exchanges
    assert [exchange.path for exchange in sent] == ["/openai/v1/chat/completions", "/openai/v1/responses"]
    assert {exchange.headers["api-key"] for exchange in sent} == {KEY}
    assert not any("authorization" in exchange.headers for exchange in sent)
    assert [exchange.body["model"] for exchange in sent] == ["small", "large"]


@pytest.mark.parametrize(
    "base_url", [f"http://gateway.example/{HOST}/openai/v1", f"http://{HOST}.gateway.example/openai/v1"]
)
async def test_a_gateway_with_a_host_of_azure_in_its_address_gets_no_token(base_url: str) -> None:
    azure = Azure({"small": "gpt-4.1"}, tokens={TOKEN})
    with serving(new_azure(azure)) as running:
        engine = engine_of(running, base_url)
        await ask(engine, "azure/small")
        await engine.close()
        (sent,) = running.journal.exchanges
    assert "authorization" not in sent.headers


REASONING = {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ['models = ["gpt-5.5", "gpt-4.1"]'],
        ['[providers.azure.models."gpt-5.5"]', "[providers.azure.models.small]", 'model_of = "gpt-4.1"'],
        ['[providers.azure.models."gpt-5.5"]', 'model_of = "gpt-5.5"'],
    ],
)
async def test_a_deployment_with_the_name_of_a_model_is_that_model(lines: list[str]) -> None:
    azure = Azure({"gpt-5.5": "gpt-5.5", "gpt-4.1": "gpt-4.1"}, keys={KEY}, tokens={TOKEN})
    with serving(new_azure(azure)) as running:
        engine = engine_of(running, V1, *lines)
        found = [await ask(engine, f"azure/{model}", **REASONING) for model in ("gpt-5.5", "gpt-4.1")]
        await engine.close()
        sent = running.journal.exchanges
        assert running.journal.violations() == []
    assert [status for status, _ in found] == [200, 200], found
    assert [exchange.path for exchange in sent] == ["/openai/v1/responses", "/openai/v1/chat/completions"]
    assert sent[0].body["reasoning"] == {"effort": "high", "summary": "auto"}
    assert "reasoning_effort" not in sent[1].body


async def test_a_table_whose_api_cannot_serve_tools_names_its_own_setting() -> None:
    with serving_azure() as running:
        engine = engine_of(running, V1, 'wire = "chat"')
        status, text = await ask(engine, "azure/gpt-6.2-astra")
        await engine.close()
        assert running.journal.exchanges == []
    message = json.loads(text)["error"]["message"]
    assert (status, message) == (
        400,
        "azure: gpt-6.2-astra does not support tools over Chat Completions. Set wire = "
        '"responses" in [providers.azure], or choose another model.',
    )


async def test_ten_requests_at_once_and_an_unknown_deployment() -> None:
    with serving_azure() as running:
        engine = engine_of(running, V1, MODELS)
        found = await asyncio.gather(*(ask(engine, "azure/large") for _ in range(10)))
        assert {status for status, _ in found} == {200}
        status, text = await ask(engine, "azure/absent")
        await engine.close()
    assert status == 404
    assert "The API deployment for this resource does not exist" in text
