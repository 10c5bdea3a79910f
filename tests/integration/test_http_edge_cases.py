"""The door of a real process: odd requests, and their lines in the log."""

import asyncio
import json
import re
import socket
from pathlib import Path

import pytest

from tests.support.process_checks import MESSAGES, ask, error_of
from tests.support.raw_http import exchange, post, read_answer
from tests.support.server_process import Proxy, running_forked_proxy
from tests.support.waiting import WAIT_SECONDS, wait_for


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2])), timeout=WAIT_SECONDS)


def test_a_wrong_method_is_answered_with_the_right_one(proxy: Proxy) -> None:
    client = proxy.client()
    response = client.put(MESSAGES, json={})
    assert error_of(response)[:2] == (405, "invalid_request_error")
    assert response.headers["allow"] == "POST"
    assert client.delete("/").headers["allow"] == "GET, HEAD"


def test_a_compressed_body_is_refused_as_such(proxy: Proxy) -> None:
    response = proxy.client().post(MESSAGES, content=b"\x1f\x8b", headers={"content-encoding": "gzip"})
    assert error_of(response)[:2] == (415, "invalid_request_error")


def test_a_body_that_is_too_large_is_refused_behind_requests_with_the_same_head(proxy: Proxy) -> None:
    body = json.dumps({"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": "x"}]}).encode()
    request = post(f"{MESSAGES}/count_tokens", body)
    head = request.removesuffix(body).replace(b"%d" % len(body), b"40000000")
    answers = asyncio.run(exchange(int(proxy.url.rpartition(":")[2]), request * 3 + head))
    statuses = re.findall(rb"HTTP/1\.1 (\d+)", answers)
    assert statuses == [b"200", b"200", b"200", b"413"]
    assert read_answer(answers[answers.rindex(b"HTTP/1.1") :]).json["error"] == {
        "type": "request_too_large",
        "message": "The body is larger than 33,554,432 bytes.",
    }


@pytest.mark.parametrize("limit", ["9" * 5_000, "\u0663", "-1", "1e2", "1001"])
def test_a_wrong_limit_is_the_clients_mistake(proxy: Proxy, limit: str) -> None:
    response = proxy.client().get("/v1/models", params={"limit": limit})
    assert error_of(response)[:2] == (400, "invalid_request_error")


@pytest.mark.parametrize(
    "model",
    [
        *("claude-sonnet-4-5-20250929", "claude-3-5-haiku-latest", "claude-sonnet-4-5[1m]", "gpt-4.1"),
        *("openai/anything-new", "claude-groq/llama-3.3-70b-versatile"),
    ],
)
def test_a_model_of_messages_is_described_under_the_requested_name(proxy: Proxy, model: str) -> None:
    entry = proxy.client().get(f"/v1/models/{model}").json()
    assert entry["id"] == model
    assert entry["type"] == "model"
    assert entry["max_input_tokens"] > 0


def test_a_models_name_is_decoded_once(proxy: Proxy) -> None:
    entry = proxy.client().get("/v1/models/openai%2Ffine%2525tuned").json()
    assert entry["id"] == "openai/fine%25tuned"


def test_every_request_leaves_a_line(settings: dict[str, str], tmp_path: Path) -> None:
    with running_forked_proxy(tmp_path, settings) as other:
        client = other.client()
        counted = {"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": "x"}]}
        assert client.post(MESSAGES + "/count_tokens", json=counted).status_code == 200
        assert client.get("/v1/models").status_code == 200
        assert client.get("/health").status_code == 200
        wait_for(lambda: "GET /v1/models 200" in other.log)
        assert "/count_tokens" not in other.log
        assert "/health" not in other.log
    with running_forked_proxy(tmp_path, {**settings, "LOG_LEVEL": "debug"}) as other:
        client = other.client()
        assert client.post(MESSAGES + "/count_tokens", json=counted).status_code == 200
        client.head("/")
        wait_for(lambda: "HEAD / 200" in other.log)
        assert "POST /v1/messages/count_tokens 200" in other.log


def test_a_client_that_leaves_is_no_error(settings: dict[str, str], tmp_path: Path) -> None:
    with running_forked_proxy(tmp_path, settings) as other:
        with connect(other) as client:
            client.sendall(b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        wait_for(lambda: "client left" in other.log)
        body = json.dumps(ask("Say exactly: never [fault:late seconds=30]")).encode()
        head = f"POST /v1/messages?second HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with connect(other) as client:
            client.sendall(head + body)
        wait_for(lambda: other.log.count("client left") == 2)
        lines = [line for line in other.log.splitlines() if "POST" in line]
        assert all("POST /v1/messages – " in line for line in lines)
        assert "✕" not in "".join(lines)


@pytest.mark.parametrize("expect", ["", "Expect: 100-continue\r\n"])
def test_a_short_answer_comes_in_one_piece_with_its_head(proxy: Proxy, expect: str) -> None:
    body = json.dumps({"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": "x"}]}).encode()
    head = f"POST {MESSAGES}/count_tokens HTTP/1.1\r\nHost: localhost\r\n{expect}Content-Length: {len(body)}\r\n\r\n"
    with connect(proxy) as client:
        client.sendall(head.encode())
        if expect:
            assert client.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        head_of_answer, _, answer = client.recv(65_536).partition(b"\r\n\r\n")
        assert head_of_answer.startswith(b"HTTP/1.1 200 ")
        assert expect or json.loads(answer)["input_tokens"] > 0
