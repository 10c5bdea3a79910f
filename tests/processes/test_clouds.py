"""Models at clouds with the settings of users: the running proxy signs and streams, and tells no credential."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from anthropic_proxy.gateway.settings import CONFIG_FILE
from tests.support.fakes.azure import HOST, OPENAI_RESOURCE, Azure, ManagedIdentity, new_azure
from tests.support.fakes.clouds import BEDROCK_MODEL, REGION, Cloud, new_cloud
from tests.support.fakes.server import RequestLog, Running, new_application, serving, serving_strictly
from tests.support.sdk import open_sdk, user_messages
from tests.support.server_process import running_proxy

ACCESS_KEY, SECRET_KEY, SESSION_TOKEN = (
    "ASIAFAKEFAKEFAKE0001",
    "secret/of+aws-in-the-process",
    "session-token-in-process",
)


@pytest.fixture
def bedrock() -> Iterator[Running]:
    cloud = Cloud("bedrock", aws_keys={ACCESS_KEY: (SECRET_KEY, SESSION_TOKEN)})
    with serving(new_cloud(cloud)) as running:
        yield running
        assert running.journal.violations() == []


@pytest.mark.parametrize("place", ["environment", "env_file"])
def test_a_stream_of_bedrock_is_signed_and_converted(place: str, bedrock: Running, tmp_path: Path) -> None:
    secrets = {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_SESSION_TOKEN": SESSION_TOKEN,
    }
    settings = {"AWS_REGION": REGION, "BEDROCK_BASE_URL": bedrock.url, "MODEL_OPUS": f"bedrock/{BEDROCK_MODEL}"}
    settings["LOG_LEVEL"] = "debug"
    if place == "env_file":
        (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in secrets.items()))
    else:
        settings |= secrets
    with running_proxy(tmp_path, settings) as proxy:
        client = open_sdk(proxy.url, api_key="-", max_retries=0)
        with client.messages.stream(
            model="claude-opus-5-5", max_tokens=500, messages=user_messages("Say exactly: hello")
        ) as stream:
            assert "".join(stream.text_stream) == "hello"
        log = proxy.log
    assert "Traceback" not in log
    assert not [secret for secret in (SECRET_KEY, SESSION_TOKEN) if secret in log]
    (exchange,) = bedrock.journal.exchanges
    assert exchange.path == f"/model/{BEDROCK_MODEL}/invoke-with-response-stream"


@pytest.mark.parametrize("model", ["gpt-5.5", "gpt-4.1"])
def test_a_stream_of_azure_openai_has_a_token_of_entra(model: str, tmp_path: Path) -> None:
    identity = ManagedIdentity()
    identity.resource = OPENAI_RESOURCE
    table = (
        f'[providers.azure]\nbase_url = "http://{HOST}/openai/v1"\nmodels = {{ mine = {{ model_of = "{model}" }} }}\n'
    )
    (tmp_path / CONFIG_FILE).write_text(table, encoding="utf-8")
    with (
        serving(new_application(identity.answer, RequestLog())) as tokens,
        serving_strictly(new_azure(Azure({"mine": model}, tokens={"eyJ0.token-1"}))) as azure,
        running_proxy(
            tmp_path,
            {"HTTP_PROXY": azure.url, "NO_PROXY": "127.0.0.1", "LOG_LEVEL": "debug", **identity.variables(tokens.url)},
        ) as proxy,
    ):
        client = open_sdk(proxy.url, api_key="-", max_retries=0)
        with client.messages.stream(
            model="claude-opus-5-5", max_tokens=500, messages=user_messages("Say exactly: hello")
        ) as stream:
            assert "".join(stream.text_stream) == "hello"
        log = proxy.log
    assert "Traceback" not in log
    assert "eyJ0" not in log
    (exchange,) = azure.journal.exchanges
    assert exchange.path == f"/openai/v1/{'responses' if model == 'gpt-5.5' else 'chat/completions'}"
    assert exchange.headers["authorization"] == "Bearer eyJ0.token-1"
