"""The fake server of OpenAI: each of its rules rejects a request that violates it."""

import http.client
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from tests.support.fakes.model_scripts import decide
from tests.support.fakes.openai_chat import KEY, new_openai
from tests.support.fakes.openai_chat.models import MODELS
from tests.support.fakes.openai_chat.rules import check_body
from tests.support.fakes.openai_chat.samples import BAD, GOOD, READ, USER, body
from tests.support.fakes.scripted_model import Conversation, Tool, Toolbox, sample
from tests.support.fakes.server import Running, serving
from tests.support.paths import FAKES, ROOT
from tests.support.waiting import WAIT_SECONDS


@pytest.mark.parametrize("good", GOOD, ids=range(len(GOOD)))
def test_a_good_request_breaks_no_rule(good: dict[str, Any]) -> None:
    assert list(check_body(good, MODELS[good["model"]])) == []


@pytest.mark.parametrize(("rule", "words", "bad"), BAD, ids=[f"{rule}-{words[:30]}" for rule, words, _ in BAD])
def test_a_bad_request_is_named_by_its_rule(rule: str, words: str, bad: dict[str, Any]) -> None:
    breaches = list(check_body(bad, MODELS[bad.get("model", "gpt-4.1")]))
    assert [breach for breach in breaches if breach.rule == rule and words in breach.message], breaches


def test_every_rule_has_a_sample_that_breaks_it() -> None:
    sources = (FAKES / "openai_chat").glob("*.py")
    text = "\n".join(source.read_text("utf-8") for source in sources if source.name not in ("server.py", "samples.py"))
    named = set(re.findall(r'(?:ContractViolation|empty)\(\s*"(\w+)"', text))
    assert named == {rule for rule, _, _ in BAD}


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
    assert asked.tool_calls is not None
    assert json.loads(asked.tool_calls[0].function.arguments) == {"file_path": "/notes/today.txt"}
    tool = {"role": "tool", "tool_call_id": asked.tool_calls[0].id, "content": "    1→milk\n    2→bread"}
    assistant_message = {"role": "assistant", "tool_calls": [call.model_dump() for call in asked.tool_calls]}
    second = client.chat.completions.create(
        model="gpt-4.1", messages=[*messages, assistant_message, tool], tools=[READ]
    )
    assert second.choices[0].message.content == "The file says: milk\nbread"
    assert running.journal.violations() == []


def test_a_stream_has_the_same_content_as_the_whole_reply(client: openai.OpenAI) -> None:
    asked = [{"role": "user", "content": "Count to 12"}]
    whole = client.chat.completions.create(model="gpt-4.1", messages=asked)
    with client.chat.completions.stream(
        model="gpt-4.1", messages=asked, stream_options={"include_usage": True}
    ) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == whole.choices[0].message.content == "1 2 3 4 5 6 7 8 9 10 11 12"
    assert final.usage is not None
    assert whole.usage is not None
    assert final.usage.total_tokens == whole.usage.total_tokens


def test_a_repeated_long_beginning_is_billed_as_cached(client: openai.OpenAI) -> None:
    long = {"role": "system", "content": "be kind. " * 2_000}
    first = client.chat.completions.create(model="gpt-4.1", messages=[long, USER])
    second = client.chat.completions.create(
        model="gpt-4.1", messages=[long, USER, {"role": "user", "content": "go on"}]
    )
    cached = [reply.usage.prompt_tokens_details.cached_tokens for reply in (first, second)]
    assert cached[0] == 0
    assert cached[1] >= 4_096


@pytest.mark.parametrize(
    ("fault", "error", "code"),
    [
        ("unauthorized", openai.AuthenticationError, "invalid_api_key"),
        ("forbidden", openai.PermissionDeniedError, "unsupported_country_region_territory"),
        ("missing", openai.NotFoundError, "model_not_found"),
        ("rate after=3", openai.RateLimitError, "rate_limit_exceeded"),
        ("quota", openai.RateLimitError, "insufficient_quota"),
        ("server", openai.InternalServerError, None),
        ("overloaded", openai.InternalServerError, None),
        ("unavailable", openai.InternalServerError, None),
        ("gateway", openai.InternalServerError, None),
        ("overflow", openai.BadRequestError, "context_length_exceeded"),
        ("policy", openai.BadRequestError, "invalid_prompt"),
        ("reset", openai.APIConnectionError, None),
    ],
)
def test_a_fault_by_marker(client: openai.OpenAI, fault: str, error: type[openai.APIError], code: str | None) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(model="gpt-4.1", messages=[{"role": "user", "content": f"hi [fault:{fault}]"}])
    assert caught.value.code == code


@pytest.mark.parametrize("fault", ["cut pieces=3", "torn pieces=3", "error pieces=3"])
def test_a_stream_that_breaks(client: openai.OpenAI, fault: str) -> None:
    asked = [{"role": "user", "content": f"Count to 9 [fault:{fault}]"}]
    text, finishes = "", []
    try:
        for chunk in client.chat.completions.create(model="gpt-4.1", messages=asked, stream=True):
            text += chunk.choices[0].delta.content or ""
            finishes.append(chunk.choices[0].finish_reason)
    except openai.APIError:
        assert not fault.startswith("torn")
    assert text == "1 2"
    assert set(finishes) == {None}


def test_a_fault_that_happens_twice_and_then_no_more(client: openai.OpenAI) -> None:
    asked = [{"role": "user", "content": "Count to 2 [fault:server times=2]"}]
    for _ in range(2):
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(model="gpt-4.1", messages=asked)
    assert client.chat.completions.create(model="gpt-4.1", messages=asked).choices[0].message.content == "1 2"


@pytest.mark.parametrize(("fault", "finish"), [("filter", "content_filter"), ("length", "length"), ("empty", "stop")])
def test_a_reply_that_ends_otherwise(client: openai.OpenAI, fault: str, finish: str) -> None:
    reply = client.chat.completions.create(model=f"fault-{fault}", messages=[USER])
    assert reply.choices[0].finish_reason == finish


def test_the_token_limit_cuts_the_reply(client: openai.OpenAI) -> None:
    asked = [{"role": "user", "content": "Count to 50"}]
    reply = client.chat.completions.create(model="gpt-4.1", messages=asked, max_completion_tokens=3)
    assert reply.choices[0].message.content == "1 2 3"
    assert reply.choices[0].finish_reason == "length"


def test_the_window_is_a_limit(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context length is 8192 tokens") as caught:
        client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": "word " * 9_000}])
    assert caught.value.code == "context_length_exceeded"


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


def test_a_caller_that_leaves_is_journalled(running: Running) -> None:
    running.journal.exchanges.clear()
    address = urlsplit(running.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=WAIT_SECONDS)
    asked = body({"role": "user", "content": "hi [fault:silence seconds=30]"}, stream=True)
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(asked), headers)
    response = connection.getresponse()
    response.close()
    connection.close()
    for _ in range(2_000):
        status, _error = post(running, "/__reset_not", b"")
        if running.journal.exchanges[0].outcome == "cancelled":
            break
    assert status == 404
    assert running.journal.exchanges[0].outcome == "cancelled"


@pytest.mark.slow
def test_the_stand_in_runs_by_itself_and_keeps_a_log(tmp_path: Path) -> None:
    log = tmp_path / "journal.jsonl"
    command = [
        sys.executable,
        "-m",
        "tests.support.fakes.openai_chat",
        "--port",
        "0",
        "--key",
        "sk-other-key",
        "--log",
        str(log),
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            with openai.OpenAI(api_key="sk-other-key", base_url=f"{url}/v1", max_retries=0) as client:
                client.chat.completions.create(model="gpt-4.1", messages=[USER])
                with pytest.raises(openai.BadRequestError):
                    client.chat.completions.create(model="gpt-4.1", messages=[], stream=True)
                for page, numbers in (("__requests", [1, 2]), ("__violations", [2])):
                    kept = client.get(f"{url}/{page}", cast_to=list[dict[str, Any]])  # type: ignore[type-var]
                    assert [entry["number"] for entry in kept] == numbers
        finally:
            process.terminate()
    assert process.returncode == 0
    assert [json.loads(line)["outcome"] for line in log.read_text().splitlines()] == ["answered", "refused"]


UNLIKE = {
    "read_file": Tool(
        "read_file", {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
    ),
    "shell": Tool(
        "shell",
        {
            "type": "object",
            "properties": {"command": {"type": "string"}, "timeout": {"type": "integer", "minimum": 5}},
            "required": ["command", "timeout"],
        },
    ),
}


def test_the_scripted_model_calls_the_offered_tool() -> None:
    assert Toolbox(UNLIKE).read("/a b").arguments == {"path": "/a b"}
    only_shell = Toolbox({"shell": UNLIKE["shell"]})
    assert only_shell.read("/a b").arguments == {"command": "cat '/a b'", "timeout": 5}
    reply = decide(Conversation("gpt-4.1", [], {}))
    assert reply.calls == ()


def test_a_sample_has_what_the_schema_requires() -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 3}, "k": {"enum": ["x", "y"]}, "l": {"type": "array"}},
        "required": ["n", "k", "l"],
    }
    assert sample(schema) == {"n": 3, "k": "x", "l": ["l"]}
