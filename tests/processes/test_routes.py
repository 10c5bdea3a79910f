"""Routes of the configuration file in a running server: conditions on headers, keys and size, and kinds of balance."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.fakes.openai_chat.server import KEY, new_openai
from tests.support.fakes.server import Running, serving
from tests.support.process_checks import MESSAGES, ask, reload
from tests.support.routes import TOOLS
from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import wait_for

CONDITIONS = """
[providers.dead]
base_url = "http://127.0.0.1:1/v1"

[[routes]]
name = "header"
when = { header = { x-team = "data-*" } }
targets = ["openai/gpt-4.1-nano"]

[[routes]]
name = "key"
when = { key = "key 2" }
targets = ["openai/gpt-4.1-nano"]

[[routes]]
name = "long"
when = { input_above = 1_500 }
targets = ["openai/gpt-4o"]

[[routes]]
name = "share"
when = { tier = "haiku", share = 50 }
targets = ["openai/gpt-4o-mini"]

[[routes]]
name = "always open"
when = { tier = "opus", time = "00:00-24:00", weekdays = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"] }
targets = ["dead/model", "openai/gpt-4o-mini"]
"""
KEYS = ("local-key-one", "local-key-two")
HELLO = "Say exactly: x"
READ = {"name": "read", "description": "Read a file", "input_schema": {"type": "object", "properties": {}}}
HAIKU, OPUS = "claude-haiku-5-5", "claude-opus-5-5"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Running]:
    with serving(new_openai()) as running:
        yield running


@pytest.fixture(scope="module")
def routed(upstream: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder: Path = tmp_path_factory.mktemp("routes")
    (folder / "anthropic-proxy.toml").write_text(CONDITIONS, encoding="utf-8")
    settings = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{upstream.url}/v1", "PROXY_API_KEY": ",".join(KEYS)}
    with running_proxy(folder, {**settings, "LOG_FORMAT": "json", "OPENAI_WIRE": "chat"}) as proxy:
        yield proxy


def send(proxy: Proxy, headers: dict[str, str] | None = None, key: str = KEYS[0], **fields: Any) -> httpx.Response:
    body, client = ask(HELLO, **fields), proxy.clients[0] if proxy.clients else proxy.client()
    return client.post(MESSAGES, json=body, headers={"x-api-key": key, **(headers or {})})


SAMPLES: list[tuple[str | None, str, dict[str, Any]]] = [
    ("header", "gpt-4.1-nano", {"headers": {"X-Team": "data-1"}}),
    (None, "gpt-4.1", {"headers": {"x-team": "web"}}),
    ("key", "gpt-4.1-nano", {"key": KEYS[1]}),
    ("long", "gpt-4o", {"system": "word " * 2_000}),
    (None, "gpt-4.1", {"model": "openai/gpt-4.1"}),
]


@pytest.mark.parametrize(("route", "model", "request_fields"), SAMPLES, ids=[str(row[0]) for row in SAMPLES])
def test_a_condition_chooses_the_model_of_a_real_request(
    routed: Proxy, upstream: Running, route: str | None, model: str, request_fields: dict[str, Any]
) -> None:
    response = send(routed, **request_fields)
    assert (response.status_code, response.headers.get("x-proxy-route")) == (200, route)
    assert upstream.journal.exchanges[-1].body["model"] == model


def test_the_next_target_serves_a_stream_if_the_first_one_fails_and_the_log_names_the_route(routed: Proxy) -> None:
    response = send(routed, model=OPUS, stream=True)
    assert response.headers["x-proxy-route"] == "always open"
    assert response.headers["x-proxy-failed-attempts"].startswith("dead ")
    assert '"x"' in response.text
    request_id = response.headers["request-id"]
    wait_for(lambda: request_id in routed.log)
    line = next(line for line in routed.log.splitlines() if request_id in line)
    entry = json.loads(line)
    assert entry["route"] == "always open"
    assert entry["route_reason"].startswith('route "always open" (')


def test_a_share_of_the_sessions_is_routed_and_each_session_stays(routed: Proxy) -> None:
    def route(number: int) -> str:
        headers = {"x-claude-code-session-id": f"s{number}"}
        return send(routed, headers, model=HAIKU, tools=TOOLS).headers.get("x-proxy-route", "")

    first = [route(number) for number in range(10)]
    assert set(first) == {"share", ""}
    assert [route(number) for number in range(10)] == first


def test_a_token_count_is_that_of_the_routed_model(routed: Proxy) -> None:
    body = {"model": OPUS, "messages": [{"role": "user", "content": HELLO}]}
    reply = routed.client().post(f"{MESSAGES}/count_tokens", json=body, headers={"x-api-key": KEYS[0]})
    assert reply.json()["input_tokens"] > 0


BALANCES = """
[providers.dead]
base_url = "http://127.0.0.1:1/v1"

[prices."openai/gpt-4.1"]
input = 2.0
output = 8.0
[prices."openai/gpt-4.1-nano"]
input = 0.1
output = 0.4

[[routes]]
name = "weighted"
when.tier = "opus"
targets = ["openai/gpt-4.1", "openai/gpt-4.1-mini", "openai/gpt-4.1-nano"]
balance = "weighted"
weights = [4, 2, 2]

[[routes]]
name = "latency"
when.tier = "haiku"
targets = ["dead/model", "openai/gpt-4o-mini"]
balance = "latency"

[[routes]]
name = "cost"
targets = ["openai/gpt-4.1", "openai/gpt-4.1-nano"]
balance = "cost"
"""


def test_balance_by_weight_latency_and_price_and_a_reload_to_invalid_prices(upstream: Running, tmp_path: Path) -> None:
    file = tmp_path / "anthropic-proxy.toml"
    file.write_text(BALANCES, encoding="utf-8")
    settings = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{upstream.url}/v1", "OPENAI_WIRE": "chat"}
    with running_proxy(tmp_path, settings) as proxy:
        client = proxy.client()

        def model_for(model: str, session: str = "") -> str:
            headers = {"x-claude-code-session-id": session} if session else {}
            response = client.post(MESSAGES, json=ask(HELLO, model=model, tools=[READ]), headers=headers)
            assert response.status_code == 200
            return str(upstream.journal.exchanges[-1].body["model"])

        by_session = {f"s{number}": model_for(OPUS, f"s{number}") for number in range(16)}
        assert len(set(by_session.values())) == 3
        assert all(model_for(OPUS, session) == model for session, model in list(by_session.items())[:6])
        assert len({model_for(OPUS) for _ in range(20)}) > 1

        first, second = (client.post(MESSAGES, json=ask(HELLO, model=HAIKU, tools=[READ])) for _ in range(2))
        assert first.headers["x-proxy-failed-attempts"].startswith("dead ")
        assert "x-proxy-failed-attempts" not in second.headers  # the failed target is last now

        assert model_for("claude-sonnet-5-5") == "gpt-4.1-nano"
        file.write_text(BALANCES.replace('"openai/gpt-4.1-nano"]\ninput', '"openai/other"]\ninput'), encoding="utf-8")
        line = reload(proxy, "The current settings stay active")
        assert 'has balance = "cost", but openai/gpt-4.1-nano has no known price. Add [prices.' in line
        assert model_for("claude-sonnet-5-5") == "gpt-4.1-nano"
