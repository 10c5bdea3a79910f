"""The fake server of Ollama: each of its rules rejects a request that violates it."""

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.fakes.ollama import new_ollama
from tests.support.fakes.ollama.models import MODELS
from tests.support.fakes.ollama.samples import ASKS, READ, TOOL_RESULT, USER, body
from tests.support.fakes.server import Running, serving
from tests.support.waiting import WAIT_SECONDS


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(new_ollama()) as running:
        yield running


def post(running: Running, path: str, request: Any) -> tuple[int, bytes]:
    data = json.dumps(request).encode()
    asked = urllib.request.Request(running.url + path, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=WAIT_SECONDS) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_the_official_client_understands_it(running: Running) -> None:
    import ollama

    client = ollama.Client(running.url)
    assert [model.model for model in client.list().models] == list(MODELS)
    shown = client.show("qwen3:8b")
    assert (shown.modelinfo or {})["qwen3.context_length"] == 40_960
    for request in (
        body(USER, ASKS, TOOL_RESULT, USER, tools=[READ]),
        body({"role": "user", "content": "Count to 30"}),
    ):
        answer = json.loads(post(running, "/api/chat", request | {"stream": False})[1])
        lines = [json.loads(line) for line in post(running, "/api/chat", request)[1].splitlines()]
        assert "".join(line["message"]["content"] for line in lines) == answer["message"]["content"]
        assert lines[-1]["done"]
        assert lines[-1]["eval_count"] == answer["eval_count"] > 0
        assert ollama.ChatResponse.model_validate(answer).message.content == answer["message"]["content"]
    with pytest.raises(ollama.ResponseError, match="silence"):  # the package cannot set what it wants of a long prompt
        client.chat("qwen3:8b", messages=[USER], options={"num_ctx": 8192})
    with pytest.raises(ollama.ResponseError, match="not found"):
        client.chat("gone", messages=[USER])


def test_a_prompt_over_the_window_is_refused_in_the_engine_s_words(running: Running) -> None:
    long = {"role": "user", "content": "word " * 5_000}
    status, answer = post(running, "/api/chat", body(long, options={"num_ctx": 2048}))
    assert status == 400
    inner = json.loads(json.loads(answer)["error"])["error"]
    assert (inner["type"], inner["n_ctx"]) == ("exceed_context_size_error", 2048)
    assert inner["n_prompt_tokens"] > 2048
