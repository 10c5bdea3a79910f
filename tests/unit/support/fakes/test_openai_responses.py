"""The fake server of the Responses API: each of its rules rejects a request that violates it."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support.fakes.openai_responses import KEY, new_openai
from tests.support.fakes.openai_responses.samples import READ, USER
from tests.support.fakes.server import Running, serving


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(new_openai()) as server:
        yield server


@pytest.fixture
def client(running: Running) -> Iterator[openai.OpenAI]:
    running.journal.exchanges.clear()
    with openai.OpenAI(api_key=KEY, base_url=f"{running.url}/v1", max_retries=0) as client:
        yield client


def test_the_official_client_holds_a_conversation_with_tools_and_reasoning(
    client: openai.OpenAI, running: Running
) -> None:
    asked: dict[str, Any] = {
        "model": "gpt-5",
        "tools": [READ],
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "reasoning": {"summary": "auto"},
    }
    input_items: list[Any] = [{"role": "user", "content": "Read /tmp/note.txt"}]
    first = client.responses.create(input=input_items, **asked)
    thought, call = first.output
    assert thought.type == "reasoning"
    assert thought.encrypted_content
    assert thought.summary[0].text.startswith("**")
    assert call.type == "function_call"
    assert json.loads(call.arguments) == {"file_path": "/tmp/note.txt"}
    input_items += [item.model_dump(exclude_none=True) for item in first.output]
    input_items.append({"type": "function_call_output", "call_id": call.call_id, "output": "    1→milk\n    2→bread"})
    second = client.responses.create(input=input_items, **asked)
    assert second.output_text == "The file says: milk\nbread"
    assert second.status == "completed"
    assert running.journal.violations() == []


def test_other_paths_models_and_keys(running: Running, client: openai.OpenAI) -> None:
    assert client.chat.completions.create(model="gpt-4.1", messages=[USER]).choices[0].message.content
    assert "gpt-5" in [model.id for model in client.models.list()]
    with pytest.raises(openai.BadRequestError, match="gpt-nine"):
        client.responses.create(model="gpt-nine", input="hi")
    with pytest.raises(openai.AuthenticationError, match="Incorrect API key provided"):
        client.with_options(api_key="sk-wrong").responses.create(model="gpt-5", input="hi")
    assert running.journal.violations() == []
