"""The fake server of Anthropic: each of its rules rejects a request that violates it."""

import re
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2 as httpx
import pytest

from tests.support.event_grammar import check_bytes
from tests.support.fakes.anthropic import KEY, new_anthropic
from tests.support.fakes.anthropic.samples import READ, body
from tests.support.fakes.server import Running, serving
from tests.support.sdk import open_sdk
from tests.support.tls import NO_AUTHORITIES


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(new_anthropic()) as server:
        yield server


@pytest.fixture
def client(running: Running) -> Iterator[anthropic.Anthropic]:
    running.journal.exchanges.clear()
    with open_sdk(api_key=KEY, base_url=running.url, max_retries=0) as client:
        yield client


def test_the_official_client_holds_a_conversation_with_thinking_and_tools(
    client: anthropic.Anthropic, running: Running
) -> None:
    messages: list[Any] = [{"role": "user", "content": "Read /note.txt"}]
    given: Any = {"model": "claude-sonnet-5-5", "max_tokens": 200, "tools": [READ], "thinking": {"type": "adaptive"}}
    with client.messages.stream(messages=messages, **given) as stream:
        first = stream.get_final_message()
    assert [block.type for block in first.content] == ["thinking", "tool_use"]
    call = first.content[1]
    assert call.type == "tool_use"
    assert call.input == {"path": "/note.txt"}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "milk"}
    messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    second = client.messages.create(messages=messages, **given)
    assert second.content[-1].type == "text"
    assert second.content[-1].text == "The file says: milk"
    assert running.journal.violations() == []


def test_a_stream_keeps_to_the_grammar_and_a_marked_prompt_is_cached(running: Running) -> None:
    marked = [{"type": "text", "text": "be kind. " * 2_000, "cache_control": {"type": "ephemeral"}}]
    headers = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
    asked = body({"role": "user", "content": "Count to 12"}, system=marked, stream=True)
    for written in (True, False):
        answer = httpx.post(
            f"{running.url}/v1/messages", json=asked, headers=headers, trust_env=False, verify=NO_AUTHORITIES
        )
        assert check_bytes(answer.content) == []
        (start,) = re.findall(r'"message_start".*', answer.text)
        assert (re.search(r'"cache_creation_input_tokens":0\b', start) is None) == written
        assert (re.search(r'"cache_read_input_tokens":0\b', start) is None) != written


@pytest.mark.parametrize(
    ("headers", "status", "words"),
    [
        ({"anthropic-version": "2023-06-01"}, 401, "x-api-key header is required"),
        ({"x-api-key": "sk-ant-other", "anthropic-version": "2023-06-01"}, 401, "invalid x-api-key"),
        ({"authorization": "Bearer other", "anthropic-version": "2023-06-01"}, 401, "Invalid bearer token"),
        ({"x-api-key": KEY}, 400, "anthropic-version: header is required"),
        ({"authorization": f"Bearer {KEY}", "anthropic-version": "2023-06-01"}, 200, "hello"),
    ],
)
def test_key_and_version_are_asked_for(running: Running, headers: dict[str, str], status: int, words: str) -> None:
    answer = httpx.post(
        f"{running.url}/v1/messages", json=body(), headers=headers, trust_env=False, verify=NO_AUTHORITIES
    )
    assert answer.status_code == status
    assert words in answer.text
    assert answer.headers["request-id"].startswith("req_")
