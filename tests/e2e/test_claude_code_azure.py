"""Claude Code through the proxy to deployments of Azure OpenAI, with a key and with tokens of Microsoft Entra ID."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from anthropic_proxy.gateway.settings import CONFIG_FILE
from tests.e2e.claude import do_the_task
from tests.support.fakes.azure import HOST, OPENAI_RESOURCE, Azure, ManagedIdentity, new_azure
from tests.support.fakes.server import RequestLog, Running, new_application, serving, serving_strictly
from tests.support.server_process import Proxy

KEY = "the-key-of-azure"
TABLE = f"""
[providers.azure]
base_url = "http://{HOST}/openai/v1"
models = {{ team-large = {{ model_of = "gpt-5.5" }}, team-small = {{ model_of = "gpt-4.1" }} }}
"""


@pytest.fixture
def identity() -> ManagedIdentity:
    found = ManagedIdentity()
    found.resource = OPENAI_RESOURCE
    return found


@pytest.fixture(params=["key", "tokens"])
def azure(request: pytest.FixtureRequest) -> Azure:
    deployments = {"team-large": "gpt-5.5", "team-small": "gpt-4.1"}
    return Azure(deployments, **({"keys": {KEY}} if request.param == "key" else {"tokens": {"eyJ0.token-1"}}))


@pytest.fixture
def upstream(azure: Azure) -> Iterator[Running]:
    with serving_strictly(new_azure(azure)) as running:
        yield running


@pytest.fixture
def settings(azure: Azure, identity: ManagedIdentity, upstream: Running, server: Path) -> Iterator[dict[str, str]]:
    own = 'api_key = { env = "AZURE_OPENAI_API_KEY" }\n' if azure.keys else ""
    (server / CONFIG_FILE).write_text(TABLE + own, encoding="utf-8")
    given = {"PREFERRED_PROVIDER": "azure", "HTTP_PROXY": upstream.url, "NO_PROXY": "127.0.0.1"}
    with serving(new_application(identity.answer, RequestLog())) as tokens:
        yield given | ({"AZURE_OPENAI_API_KEY": KEY} if azure.keys else identity.variables(tokens.url))


@pytest.mark.parametrize(("tier", "api"), [("opus", "/openai/v1/responses"), ("haiku", "/openai/v1/chat/completions")])
def test_a_task_of_several_turns_at_a_deployment(
    tier: str,
    api: str,
    claude: Path,
    proxy: Proxy,
    azure: Azure,
    identity: ManagedIdentity,
    upstream: Running,
    work: Path,
) -> None:
    do_the_task(claude, proxy.url, work, ANTHROPIC_MODEL=tier)
    asked = [exchange for exchange in upstream.journal.exchanges if exchange.path == api]
    assert len(asked) >= 4
    assert {exchange.status for exchange in asked} == {200}
    assert {exchange.body["model"] for exchange in asked} == {"team-large" if tier == "opus" else "team-small"}
    sent = {(exchange.headers.get("api-key"), exchange.headers.get("authorization")) for exchange in asked}
    assert sent == {(KEY, None) if azure.keys else (None, "Bearer eyJ0.token-1")}
    assert len(identity.issued) == (0 if azure.keys else 1)
    assert " 500 " not in proxy.log
