"""The fake server of the Responses API: each of its rules rejects a request that violates it."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support.fakes.openai_chat.models import MODELS
from tests.support.fakes.openai_responses import KEY, new_openai
from tests.support.fakes.openai_responses.rules import check_body
from tests.support.fakes.openai_responses.samples import BAD, GOOD, ISSUED, READ, USER
from tests.support.fakes.server import Running, serving
from tests.support.paths import FAKES, ROOT


@pytest.mark.parametrize("good", GOOD, ids=range(len(GOOD)))
def test_a_good_request_breaks_no_rule(good: dict[str, Any]) -> None:
    assert list(check_body(good, MODELS[good["model"]], ISSUED)) == []


@pytest.mark.parametrize(("rule", "words", "bad"), BAD, ids=[f"{rule}-{words[:30]}" for rule, words, _ in BAD])
def test_a_bad_request_is_named_by_its_rule(rule: str, words: str, bad: dict[str, Any]) -> None:
    breaches = list(check_body(bad, MODELS[bad["model"]], ISSUED))
    assert [breach for breach in breaches if breach.rule == rule and words in breach.message], breaches


def test_every_rule_has_a_sample_that_breaks_it() -> None:
    folder = FAKES / "openai_responses"
    text = "\n".join((folder / name).read_text("utf-8") for name in ("items.py", "rules.py"))
    named = set(re.findall(r'(?:ContractViolation|empty)\(\s*"(\w+)"', text))
    assert named <= {rule for rule, _, _ in BAD}


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


def test_a_stream_has_the_same_content_as_the_whole_reply(client: openai.OpenAI) -> None:
    whole = client.responses.create(model="gpt-5", input="Count to 12", store=False)
    with client.responses.stream(model="gpt-5", input="Count to 12", store=False) as stream:
        events = [event.type for event in stream]
        final = stream.get_final_response()
    assert final.output_text == whole.output_text == "1 2 3 4 5 6 7 8 9 10 11 12"
    assert final.usage is not None
    assert whole.usage is not None
    assert final.usage.total_tokens == whole.usage.total_tokens
    assert events[0] == "response.created"
    assert events[-1] == "response.completed"


@pytest.mark.parametrize(
    ("fault", "error", "code"),
    [
        ("unauthorized", openai.AuthenticationError, "invalid_api_key"),
        ("missing", openai.BadRequestError, "model_not_found"),
        ("rate after=3", openai.RateLimitError, "rate_limit_exceeded"),
        ("overflow", openai.BadRequestError, "context_length_exceeded"),
        ("server", openai.InternalServerError, None),
        ("reset", openai.APIConnectionError, None),
    ],
)
def test_a_fault_by_marker(client: openai.OpenAI, fault: str, error: type[openai.APIError], code: str | None) -> None:
    with pytest.raises(error) as caught:
        client.responses.create(model="gpt-5", input=f"hi [fault:{fault}]", store=False)
    assert caught.value.code == code


@pytest.mark.parametrize(("fault", "reason"), [("filter", "content_filter"), ("length", "max_output_tokens")])
def test_a_reply_that_ends_otherwise(client: openai.OpenAI, fault: str, reason: str) -> None:
    reply = client.responses.create(model="gpt-5", input=f"hi [fault:{fault}]", store=False)
    assert reply.status == "incomplete"
    assert reply.incomplete_details is not None
    assert reply.incomplete_details.reason == reason


def test_other_paths_models_and_keys(running: Running, client: openai.OpenAI) -> None:
    assert client.chat.completions.create(model="gpt-4.1", messages=[USER]).choices[0].message.content
    assert "gpt-5" in [model.id for model in client.models.list()]
    with pytest.raises(openai.BadRequestError, match="gpt-nine"):
        client.responses.create(model="gpt-nine", input="hi")
    with pytest.raises(openai.AuthenticationError, match="Incorrect API key provided"):
        client.with_options(api_key="sk-wrong").responses.create(model="gpt-5", input="hi")
    assert running.journal.violations() == []


@pytest.mark.slow
def test_the_stand_in_runs_by_itself() -> None:
    command = [sys.executable, "-m", "tests.support.fakes.openai_responses", "--port", "0", "--key", "sk-other-key"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            with openai.OpenAI(api_key="sk-other-key", base_url=f"{url}/v1", max_retries=0) as client:
                assert client.responses.create(model="gpt-5", input="Count to 2", store=False).output_text == "1 2"
        finally:
            process.terminate()
