"""Claude at clouds with the settings of users: the running proxy signs and streams, and tells no credential."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fakes.clouds import BEDROCK_MODEL, REGION, Cloud, new_cloud
from tests.support.fakes.server import Running, serving
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
