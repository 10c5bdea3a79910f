"""OpenAI's reasoning models as users reach them: a real proxy process before the strict stand-in of Responses."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy.engine.wires.thinking import decode_signature
from tests.support.event_grammar import check_bytes
from tests.support.fakes.openai_responses import KEY, new_openai
from tests.support.fakes.server import Running, serving
from tests.support.server_process import Proxy, running_forked_proxy

MESSAGES = "/v1/messages"
ADD = {
    "name": "add",
    "description": "Adds two numbers.",
    "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Running]:
    with serving(new_openai()) as running:
        yield running
        assert running.journal.violations() == []


@contextmanager
def proxy_before(upstream: Running, directory: Path, **settings: str) -> Iterator[Proxy]:
    own = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{upstream.url}/v1", "BIG_MODEL": "gpt-5.5", "SMALL_MODEL": "o3"}
    with running_forked_proxy(directory, {**own, "PREFERRED_PROVIDER": "openai", **settings}) as running:
        yield running
        assert "Traceback" not in running.log


@pytest.fixture(scope="module")
def proxy(upstream: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with proxy_before(upstream, tmp_path_factory.mktemp("responses")) as running:
        yield running


def ask(prompt: Any, **fields: Any) -> dict[str, Any]:
    messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    return {"model": "claude-sonnet-4-6", "max_tokens": 2_000, "messages": messages, **fields}


def last_body(upstream: Running) -> dict[str, Any]:
    exchange = upstream.journal.exchanges[-1]
    assert exchange.path == "/v1/responses"
    body: dict[str, Any] = exchange.body
    return body


def test_text_is_answered_and_streamed(proxy: Proxy, upstream: Running) -> None:
    client = proxy.client()
    whole = client.post(MESSAGES, json=ask("Say exactly: good morning")).json()
    assert [block["type"] for block in whole["content"]] == ["text"]
    assert whole["content"][0]["text"] == "good morning"
    assert whole["stop_reason"] == "end_turn"
    assert whole["usage"]["output_tokens_details"]["thinking_tokens"] > 0
    streamed = client.post(MESSAGES, json=ask("Count to 40", stream=True))
    assert check_bytes(streamed.content) == []
    data = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: ")]
    deltas = [event["delta"] for event in data if event["type"] == "content_block_delta"]
    text = "".join(delta["text"] for delta in deltas if delta["type"] == "text_delta")
    assert text == " ".join(str(number) for number in range(1, 41))
    body = last_body(upstream)
    assert body["store"] is False
    assert body["include"] == ["reasoning.encrypted_content"]


def test_a_count_is_that_of_the_server(proxy: Proxy, upstream: Running) -> None:
    asked = ask("Say exactly: hi", system="Be brief.", tools=[ADD])
    counted = proxy.client().post(f"{MESSAGES}/count_tokens", json=asked).json()
    assert upstream.journal.exchanges[-1].path == "/v1/responses/input_tokens"
    usage = proxy.client().post(MESSAGES, json=asked).json()["usage"]
    assert counted == {"input_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"]}


def test_reasoning_goes_round_through_a_restart_of_the_proxy(upstream: Running, tmp_path: Path) -> None:
    """Only the client's history contains the reasoning: each turn is served by a new proxy."""
    messages: list[Any] = [{"role": "user", "content": "Add 2, 3 and 4"}]
    thoughts: list[dict[str, Any]] = []
    for _ in range(3):
        with proxy_before(upstream, tmp_path) as proxy:
            fields: dict[str, Any] = {"tools": [ADD], "thinking": {"type": "enabled", "budget_tokens": 1_024}}
            reply = proxy.client().post(MESSAGES, json=ask(messages, **fields)).json()
        sent = last_body(upstream)["input"]
        assert [item for item in sent if item["type"] == "reasoning"] == thoughts
        thoughts.append(_given(reply))
        messages.append({"role": "assistant", "content": reply["content"]})
        results = [
            {
                "type": "tool_result",
                "tool_use_id": block["id"],
                "content": str(block["input"]["a"] + block["input"]["b"]),
            }
            for block in reply["content"]
            if block["type"] == "tool_use"
        ]
        messages.append({"role": "user", "content": results})
    assert reply["content"][-1]["text"] == "The sum is 9."
    assert upstream.journal.violations() == []


def _given(reply: dict[str, Any]) -> dict[str, Any]:
    """Return the reasoning item that a reply must come back as: the stand-in refuses any that it did not give."""
    (thinking,) = (block for block in reply["content"] if block["type"] == "thinking")
    carry = decode_signature("oai", thinking["signature"])
    summary = [{"type": "summary_text", "text": thinking["thinking"]}]
    return {"type": "reasoning", "id": carry.item_id, "summary": summary, "encrypted_content": carry.encrypted}


def test_a_server_without_responses_names_the_setting(upstream: Running, tmp_path: Path) -> None:
    with proxy_before(upstream, tmp_path, OPENAI_BASE_URL=f"{upstream.url}/elsewhere") as proxy:
        response = proxy.client().post(MESSAGES, json=ask("hi"))
        assert response.status_code == 424
        assert "set OPENAI_WIRE=chat" in response.json()["error"]["message"]
    upstream.journal.exchanges[:] = [one for one in upstream.journal.exchanges if "/elsewhere" not in one.path]
    with proxy_before(upstream, tmp_path, OPENAI_WIRE="chat", BIG_MODEL="gpt-5.1") as proxy:
        reply = proxy.client().post(MESSAGES, json=ask("Say exactly: x")).json()
        assert reply["content"][-1]["text"] == "x"
    assert upstream.journal.exchanges[-1].path == "/v1/chat/completions"
