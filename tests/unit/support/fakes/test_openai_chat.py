"""The fake server of OpenAI: each of its rules rejects a request that violates it."""

import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from tests.support.fakes.openai_chat import KEY, new_openai
from tests.support.fakes.openai_chat.samples import READ, USER, body
from tests.support.fakes.server import Running, serving
from tests.support.waiting import WAIT_SECONDS


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(new_openai()) as server:
        yield server


@pytest.fixture
def client(running: Running) -> Iterator[openai.OpenAI]:
    running.journal.exchanges.clear()
    with openai.OpenAI(api_key=KEY, base_url=f"{running.url}/v1", max_retries=0) as client:
        yield client


def test_the_official_client_holds_a_conversation_with_tools(client: openai.OpenAI, running: Running) -> None:
    messages: list[Any] = [{"role": "user", "content": "Read /notes/today.txt"}]
    first = client.chat.completions.create(model="gpt-4.1", messages=messages, tools=[READ])
    asked = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    assert json.loads(asked.tool_calls[0].function.arguments) == {"file_path": "/notes/today.txt"}
    tool = {"role": "tool", "tool_call_id": asked.tool_calls[0].id, "content": "    1→milk\n    2→bread"}
    assistant_message = {"role": "assistant", "tool_calls": [call.model_dump() for call in asked.tool_calls]}
    second = client.chat.completions.create(
        model="gpt-4.1", messages=[*messages, assistant_message, tool], tools=[READ]
    )
    assert second.choices[0].message.content == "The file says: milk\nbread"
    assert running.journal.violations() == []


def test_keys_and_models(running: Running, client: openai.OpenAI) -> None:
    assert "gpt-4.1" in [model.id for model in client.models.list()]
    with pytest.raises(openai.NotFoundError, match="gpt-nine"):
        client.chat.completions.create(model="gpt-nine", messages=[USER])
    with pytest.raises(openai.NotFoundError, match="v1/responses"):
        client.chat.completions.create(model="o1-pro", messages=[USER])
    with pytest.raises(openai.AuthenticationError, match="Incorrect API key provided"):
        client.with_options(api_key="sk-wrong").chat.completions.create(model="gpt-4.1", messages=[USER])
    assert running.journal.violations() == []


def post(running: Running, path: str, raw: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    address = urlsplit(running.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=WAIT_SECONDS)
    sent = {"authorization": f"Bearer {KEY}", "content-type": "application/json"} | headers
    connection.request("POST", path, raw, sent)
    response = connection.getresponse()
    answer = response.status, json.loads(response.read())
    connection.close()
    return answer


@pytest.mark.parametrize(
    ("path", "raw", "headers", "rule", "status"),
    [
        ("/v1/chat/completions", b"{", {}, "json", 400),
        ("/v1/chat/completions", b"", {}, "json", 400),
        ("/v1/chat/completions", b"[]", {}, "json", 400),
        ("/v1/chat/completions", b'{"model":"gpt-4.1","model":"gpt-4o","messages":[]}', {}, "json", 400),
        ("/v1/chat/completions", b'{"model":"gpt-4.1","temperature":NaN}', {}, "json", 400),
        ("/v1/chat/completions", json.dumps(body()).encode(), {"content-type": "text/plain"}, "content_type", 400),
        ("/chat/completions", json.dumps(body()).encode(), {}, "url", 404),
        ("/v1/chat/completions", json.dumps(body()).encode(), {"anthropic-version": "2023-06-01"}, "leak", 200),
        ("/v1/chat/completions", json.dumps(body()).encode(), {"x-api-key": "theirs"}, "leak", 200),
    ],
)
def test_what_is_wrong_before_the_fields(
    running: Running, path: str, raw: bytes, headers: dict[str, str], rule: str, status: int
) -> None:
    running.journal.exchanges.clear()
    answered, error = post(running, path, raw, **headers)
    assert answered == status
    assert status == 200 or set(error["error"]) == {"message", "type", "param", "code"}
    assert [violation["rule"] for violation in running.journal.violations()] == [rule]
