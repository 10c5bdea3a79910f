"""Server behaviour seen by a client on a socket: endpoints, errors, streams, stopping."""

import json
from pathlib import Path

import pytest

from tests.support.command_line import run_command
from tests.support.event_grammar import check_bytes
from tests.support.fakes.openai_chat.server import KEY
from tests.support.fakes.server import Running
from tests.support.process_checks import MESSAGES, ask, error_of
from tests.support.server_process import Proxy, reserve_closed_port, running_forked_proxy, running_proxy
from tests.support.waiting import wait_for

# Endpoints


def test_root_and_health_answer_probes(proxy: Proxy) -> None:
    client = proxy.client()
    assert client.get("/").json()["message"]
    assert client.head("/").status_code == 200
    assert client.head("/").content == b""
    assert client.get("/health").json()["status"] == "ok"


def test_a_message_is_answered_in_one_piece(proxy: Proxy) -> None:
    response = proxy.client().post(MESSAGES, json=ask("Say exactly: good morning"))
    body = response.json()
    assert response.status_code == 200
    assert response.headers["request-id"].startswith("req_")
    assert body["content"] == [{"type": "text", "text": "good morning"}]
    assert body["model"] == "claude-sonnet-4-5"
    assert body["stop_reason"] == "end_turn"
    assert body["usage"]["input_tokens"] > 0
    assert body["usage"]["output_tokens"] > 0


def test_a_message_is_streamed_in_the_grammar_of_the_api(proxy: Proxy) -> None:
    response = proxy.client().post(MESSAGES + "?beta=true", json=ask("Count to 40", stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    assert check_bytes(response.content) == []
    data = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]
    text = "".join(event["delta"]["text"] for event in data if event["type"] == "content_block_delta")
    assert text == " ".join(str(number) for number in range(1, 41))


def test_max_tokens_of_zero_is_answered_here(proxy: Proxy, openai: Running) -> None:
    before = len(openai.journal.exchanges)
    body = proxy.client().post(MESSAGES, json=ask("Say exactly: x", max_tokens=0)).json()
    assert body["content"] == []
    assert body["stop_reason"] == "max_tokens"
    stream = proxy.client().post(MESSAGES, json=ask("Say exactly: x", max_tokens=0, stream=True)).content
    assert check_bytes(stream) == []
    assert len(openai.journal.exchanges) == before


def test_models_are_listed_in_pages_and_one_by_one(proxy: Proxy) -> None:
    client = proxy.client()
    everything = client.get("/v1/models?limit=1000").json()
    ids = [entry["id"] for entry in everything["data"]]
    assert not everything["has_more"]
    assert everything["first_id"] == ids[0]
    assert everything["last_id"] == ids[-1]
    assert "claude-openai/gpt-4.1" in ids
    assert all("claude" in name or "anthropic" in name for name in ids)
    walked: list[str] = []
    query = "limit=3"
    while True:
        page = client.get(f"/v1/models?{query}").json()
        walked += [entry["id"] for entry in page["data"]]
        if not page["has_more"]:
            break
        query = f"limit=3&after_id={page['last_id']}"
    assert walked == ids
    back = client.get(f"/v1/models?limit=2&before_id={ids[4]}").json()
    assert [entry["id"] for entry in back["data"]] == ids[2:4]
    one = client.get("/v1/models/claude-openai/gpt-4.1").json()
    assert one["type"] == "model"
    assert one["max_input_tokens"] > 0
    assert error_of(client.get("/v1/models/nobody"))[:2] == (404, "not_found_error")
    assert error_of(client.get("/v1/models?limit=0"))[:2] == (400, "invalid_request_error")


# Errors


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"{", "JSON"),
        (b"", "JSON"),
        (b"[1, 2]", "object"),
        (b'"text"', "object"),
        (b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}', "max_tokens: Field required"),
        (b'{"max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}', "model: Field required"),
        (b'{"model": "m", "max_tokens": 5}', "messages: Field required"),
        (b'{"model": "m", "max_tokens": 5, "messages": []}', "messages"),
        (b'{"model": "m", "max_tokens": "5", "messages": [{"role": "user", "content": "x"}]}', "max_tokens"),
        (b'{"model": "m", "max_tokens": 5, "messages": [{"role": "robot", "content": "x"}]}', "role"),
        (b'{"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "\xff"}]}', "UTF-8"),
        (b"[" * 100_000, ""),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_by_name(proxy: Proxy, body: bytes, named: str) -> None:
    status, kind, message = error_of(proxy.client().post(MESSAGES, content=body))
    assert (status, kind) == (400, "invalid_request_error")
    assert named in message


def test_a_base_address_that_ends_with_the_version_is_served(proxy: Proxy) -> None:
    client = proxy.client()
    assert client.get("/v1/v1/models").json() == client.get("/v1/models").json()
    assert client.get("/v1/v1/models/claude-opus-5-5").status_code == 200
    assert client.post("/v1/v1/messages/count_tokens", json=ask("hi")).json()["input_tokens"] > 0
    assert client.post("/v1/v1/messages?beta=true", json=ask("Say exactly: hi")).json()["content"][0]["text"] == "hi"
    assert error_of(client.get("/v1/v1/v1/models"))[0] == 404


def test_an_unknown_path_and_a_wrong_method_are_rejected(proxy: Proxy) -> None:
    client = proxy.client()
    assert error_of(client.get("/nowhere"))[:2] == (404, "not_found_error")
    assert error_of(client.post("/v1/complete", json={}))[:2] == (404, "not_found_error")
    assert error_of(client.get(MESSAGES))[:2] == (405, "invalid_request_error")


def test_a_body_over_the_limit_is_refused(proxy: Proxy) -> None:
    response = proxy.client().post(MESSAGES, content=b'{"model": "' + b"x" * (33 << 20) + b'"}')
    assert error_of(response)[:2] == (413, "request_too_large")


def test_a_dead_backend_and_a_missing_key_are_reported_and_the_server_goes_on(tmp_path: Path) -> None:
    dead = {
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": f"http://127.0.0.1:{reserve_closed_port()}/v1",
        "PREFERRED_PROVIDER": "openai",
    }
    with running_forked_proxy(tmp_path, dead) as other:
        client = other.client()
        for stream in (False, True):
            status, kind, message = error_of(client.post(MESSAGES, json=ask("x", stream=stream)))
            assert (status, kind) == (502, "api_error")
            assert "OPENAI_BASE_URL" in message
        response = client.post(MESSAGES, json=ask("x", model="groq/llama-3.3-70b-versatile"))
        status, kind, message = error_of(response)
        assert (status, kind) == (401, "authentication_error")
        assert "GROQ_API_KEY" in message
        assert response.headers["x-should-retry"] == "false"
        assert client.get("/health").status_code == 200


# Access


def test_a_proxy_key_is_asked_for_and_never_forwarded(
    settings: dict[str, str], openai: Running, tmp_path: Path
) -> None:
    with running_forked_proxy(tmp_path, {**settings, "PROXY_API_KEY": "first-key-123456,second-key-123456"}) as guarded:
        client = guarded.client()
        assert client.get("/health").status_code == 200
        assert error_of(client.post(MESSAGES, json=ask("Say exactly: x")))[:2] == (401, "authentication_error")
        wrong = {"x-api-key": "first-key-123457"}
        assert error_of(client.get("/v1/models", headers=wrong))[:2] == (401, "authentication_error")
        for headers in ({"x-api-key": "second-key-123456"}, {"Authorization": "Bearer first-key-123456"}):
            assert client.post(MESSAGES, json=ask("Say exactly: x"), headers=headers).status_code == 200
        assert "key-123456" not in json.dumps([exchange.headers for exchange in openai.journal.exchanges])
        assert "key-123456" not in guarded.log


# Streams that do not go as planned


def test_an_idle_provider_is_bridged_with_pings(proxy: Proxy) -> None:
    response = proxy.client().post(MESSAGES, json=ask("Say exactly: late [fault:silence seconds=9]", stream=True))
    events = [line[7:] for line in response.text.splitlines() if line.startswith("event: ")]
    assert events[:2] == ["message_start", "ping"]
    assert check_bytes(response.content) == []
    assert "late" in response.text


def test_an_unresponsive_upstream_becomes_a_timeout(settings: dict[str, str], tmp_path: Path) -> None:
    with running_forked_proxy(tmp_path, {**settings, "UPSTREAM_TIMEOUT": "1"}) as impatient:
        for stream in (False, True):
            body = ask("Say exactly: never [fault:late seconds=30]", stream=stream)
            assert error_of(impatient.client().post(MESSAGES, json=body))[:2] == (504, "timeout_error")
        stalled = impatient.client().post(MESSAGES, json=ask("Count to 300 [fault:stall seconds=30]", stream=True))
        assert stalled.text.count("event: error") == 1
        assert "timeout_error" in stalled.text


# The process


def test_the_log_has_two_lines_for_an_exchange_and_no_content(settings: dict[str, str], tmp_path: Path) -> None:
    with running_forked_proxy(tmp_path, settings) as other:
        other.client().post(MESSAGES, json=ask("Say exactly: quite secret words"))
        wait_for(lambda: "POST /v1/messages" in other.log)
        first, second = other.log.splitlines()[-2:]
        assert "POST /v1/messages 200" in first
        assert "claude-sonnet-4-5 → openai/gpt-4.1" in second
        assert "secret words" not in other.log
        assert KEY not in other.log
    with running_forked_proxy(tmp_path, {**settings, "LOG_FORMAT": "json"}) as other:
        other.client().post(MESSAGES, json=ask("Say exactly: x"))
        wait_for(lambda: '"requested_model"' in other.log)
        line = json.loads(other.log.splitlines()[-1])
        assert line["requested_model"] == "claude-sonnet-4-5"
        assert line["status"] == 200


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"PREFERRED_PROVIDER": "opnai"},
            'PREFERRED_PROVIDER is "opnai". Use openai, google, vertex, ollama, groq, moonshot, xai or anthropic. Set '
            "in the environment. Did you mean:  PREFERRED_PROVIDER=openai",
        ),
        (
            {"PREFERRED_PROVIDER": "DeepSeek"},
            'PREFERRED_PROVIDER is "deepseek". It needs the table [providers.deepseek], BIG_MODEL and SMALL_MODEL. Set '
            "in the environment. Remove it, and choose deepseek in:  anthropic-proxy init",
        ),
        (
            {"HOST": "0.0.0.0"},
            "0.0.0.0 can be reached from other machines, and no key is required. Set PROXY_API_KEY, or "
            "ALLOW_UNAUTHENTICATED=true if access is controlled elsewhere.",
        ),
        (
            {"HOST": "300.1.1.1"},
            "The address 300.1.1.1 cannot be used: the host name is not known. Use another:  HOST=127.0.0.1, or the "
            "option --host 127.0.0.1",
        ),
        (
            {"HOST": "ü"},
            'HOST is "ü". Use an address to listen on, such as 127.0.0.1 or 0.0.0.0. Set in the environment.',
        ),
        (
            {"FALLBACK_SONNET": ","},
            'FALLBACK_SONNET is ",". Use at least one value, or leave it empty. Set in the environment.',
        ),
        (
            {"OPENAI_KNOWN_MODELS": " , ,"},
            'OPENAI_KNOWN_MODELS is ", ,". Use at least one value, or leave it empty. Set in the environment.',
        ),
        (
            {"VIRTUAL_KEYS": "true", "DATABASE_URL": "off"},
            "VIRTUAL_KEYS is true, but DATABASE_URL is off: virtual keys are stored in that database. Unset "
            "DATABASE_URL, or set it to a database, or set VIRTUAL_KEYS=false.",
        ),
    ],
)
@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("config", "check")])
def test_a_wrong_setting_ends_the_start_with_one_message(
    settings: dict[str, str], tmp_path: Path, wrong: dict[str, str], message: str, command: tuple[str, ...]
) -> None:
    ended = run_command(*command, settings={**settings, **wrong}, directory=tmp_path)
    assert (ended.returncode, ended.stderr) == (2, f"✕ {message}\n")


@pytest.mark.parametrize(
    "command",
    [
        ("-m", "uvicorn", "server:app", "--host", "127.0.0.1", "--port", "{port}"),
        ("-m", "uvicorn", "app.main:app", "--port", "{port}", "--workers", "4"),
        ("-m", "anthropic_proxy", "--port", "{port}"),
        ("-m", "anthropic_proxy", "serve", "--port", "{port}", "--workers", "2"),
    ],
)
@pytest.mark.sample(3)
def test_every_historic_command_serves(settings: dict[str, str], tmp_path: Path, command: tuple[str, ...]) -> None:
    with running_proxy(tmp_path, settings, command) as other:
        body = other.client().post(MESSAGES, json=ask("Say exactly: here I am")).json()
        assert body["content"][0]["text"] == "here I am"


def test_without_any_key_the_demo_answers_and_is_announced(tmp_path: Path) -> None:
    with running_forked_proxy(tmp_path, {"OLLAMA_API_BASE": f"http://127.0.0.1:{reserve_closed_port()}"}) as other:
        response = other.client().post(MESSAGES, json=ask("hello", stream=True))
        assert check_bytes(response.content) == []
        assert "demo" in response.text.lower()
        assert "demo" in other.log


def test_the_status_line_has_the_window_of_a_session_whose_long_inputs_another_model_gets(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    route = 'name = "long"\nwhen = { tier = ["opus", "haiku"], input_above = 60000 }\ntargets = ["openai/gpt-4.1"]\n'
    (tmp_path / "anthropic-proxy.toml").write_text(f"[[routes]]\n{route}")
    with running_forked_proxy(tmp_path, {**settings, "BIG_MODEL": "gpt-4o", "SMALL_MODEL": "gpt-4o-mini"}) as other:
        client = other.client()
        for model in ("claude-opus-5-5", "claude-haiku-5-5", "openai/gpt-4o-mini"):
            assert client.post(MESSAGES, json={**ask("Say exactly: ok"), "model": model}).status_code == 200
        windows = client.get("/api/requests/recent").json()["windows"]
    assert windows == {"openai/gpt-4o": 1_047_576, "openai/gpt-4o-mini": 128_000}
