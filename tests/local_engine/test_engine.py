"""Results for users that run llama.cpp behind the proxy: the real engine, the real process, the official SDK."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import httpx2 as httpx
import pytest

from tests.support.paths import ROOT

pytest.importorskip("xllamacpp", reason="engine: llama.cpp is not installed: python3 scripts/ci.py engine")

from tests.local_engine.model import WINDOW, write_model
from tests.support.sdk import text_of
from tests.support.secret_canaries import new_canary
from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import WAIT_SECONDS, wait_for

MODEL = "claude-sonnet-5-5"
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "Tells the weather.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@dataclass(frozen=True)
class Engine:
    """A llama.cpp server that runs."""

    url: str
    key: str

    def busy(self) -> list[dict[str, Any]]:
        """Return the request in progress."""
        headers = {"authorization": f"Bearer {self.key}"}
        slots = httpx.get(f"{self.url}/slots", headers=headers, trust_env=False).json()
        return [slot for slot in slots if slot["is_processing"]]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    directory = tmp_path_factory.mktemp("engine")
    model, key = directory / "tiny.gguf", new_canary("llama-")
    write_model(model)
    with (directory / "engine.log").open("w") as log:
        command = [sys.executable, "-m", "tests.local_engine.server", str(model), key]
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        wait_for(lambda: process.poll() is not None or "listening on http" in (directory / "engine.log").read_text())
        text = (directory / "engine.log").read_text()
        assert process.poll() is None, text
        yield Engine(text.partition("\nlistening on ")[2].partition("\n")[0], key)
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)


@pytest.fixture(scope="module")
def proxy(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    settings = {
        "PREFERRED_PROVIDER": "openai",
        "OPENAI_BASE_URL": f"{engine.url}/v1",
        "OPENAI_API_KEY": engine.key,
        "BIG_MODEL": "openai/tiny",
        "SMALL_MODEL": "openai/tiny",
    }
    with running_proxy(tmp_path_factory.mktemp("proxy"), settings) as running:
        yield running
        assert "Traceback" not in running.log


@pytest.fixture
def client(proxy: Proxy) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=proxy.url, api_key="none", max_retries=0, timeout=WAIT_SECONDS)


def ask(text: str = "Tell me of the sea.", **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    greedy = {"extra_body": {"temperature": 0}}  # the SDK has no argument for it any more
    return {"model": MODEL, "max_tokens": 60, "messages": messages, **greedy, **fields}


def test_a_reply_and_a_stream_are_equal(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(**ask())
    with client.messages.stream(**ask()) as stream:
        pieces = list(stream.text_stream)
        streamed = stream.get_final_message()
    assert len(pieces) > 5
    assert text_of(streamed) == "".join(pieces) == text_of(whole) != ""
    for message in (whole, streamed):
        assert message.stop_reason == "max_tokens"
        assert message.usage.output_tokens == 60
        assert input_of(message) > 20


@pytest.mark.parametrize("streams", [True, False])
def test_a_stop_sequence_ends_the_reply_before_it(client: anthropic.Anthropic, streams: bool) -> None:
    text = text_of(client.messages.create(**ask()))
    sequence = text[20:24]
    request = ask(stop_sequences=["never said", sequence])
    if streams:
        with client.messages.stream(**request) as stream:
            message = stream.get_final_message()
    else:
        message = client.messages.create(**request)
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", sequence)
    assert text_of(message) == text[: text.index(sequence)]


def input_of(message: anthropic.types.Message) -> int:
    return message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)


@pytest.mark.parametrize("choice", ["auto", "any"])
@pytest.mark.parametrize("streams", [True, False])
def test_tools_reach_the_model(client: anthropic.Anthropic, choice: Any, streams: bool) -> None:
    """The model gets a tool and the format of its calls; text that it writes by chance is never a call."""
    request = ask(tools=[WEATHER], tool_choice={"type": choice})
    if streams:
        with client.messages.stream(**request) as stream:
            message = stream.get_final_message()
    else:
        message = client.messages.create(**request)
    assert message.stop_reason == "max_tokens"
    assert input_of(message) > input_of(client.messages.create(**ask())) + len(WEATHER["description"])


def test_a_result_goes_back(client: anthropic.Anthropic) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Oslo"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain ✓"}
    messages = [
        {"role": "user", "content": "What is the weather?"},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]
    message = client.messages.create(**ask(messages=messages, tools=[WEATHER], system="Be brief."))
    assert message.content


def test_a_reply_keeps_to_a_schema(client: anthropic.Anthropic) -> None:
    schema = {
        "type": "object",
        "properties": {"answer": {"type": "string", "enum": ["yes"]}},
        "required": ["answer"],
        "additionalProperties": False,
    }
    message = client.messages.create(**ask(output_config={"format": {"type": "json_schema", "schema": schema}}))
    assert json.loads(text_of(message)) == {"answer": "yes"}


def test_a_client_that_leaves_stops_the_engine(client: anthropic.Anthropic, engine: Engine) -> None:
    with client.messages.create(**ask(max_tokens=WINDOW - 500), stream=True) as stream:
        for event in stream:
            if event.type == "content_block_delta":
                break
        assert engine.busy()
    wait_for(lambda: not engine.busy())
    next_reply = client.messages.create(**ask("And now?"))
    assert next_reply.usage.output_tokens == 60


@pytest.mark.parametrize("streams", [True, False])
def test_an_overlong_prompt_has_the_error_of_the_messages_api(client: anthropic.Anthropic, streams: bool) -> None:
    with pytest.raises(anthropic.BadRequestError, match=rf"prompt is too long: \d+ tokens > {WINDOW} maximum"):
        client.messages.create(**ask("sea " * WINDOW), stream=streams)


def test_a_wrong_key_is_rejected_and_not_shown(engine: Engine, tmp_path: Path) -> None:
    settings = {
        "PREFERRED_PROVIDER": "openai",
        "OPENAI_BASE_URL": f"{engine.url}/v1",
        "OPENAI_API_KEY": new_canary("wrong-"),
        "BIG_MODEL": "openai/tiny",
        "SMALL_MODEL": "openai/tiny",
    }
    with running_proxy(tmp_path, settings) as other:
        client = anthropic.Anthropic(base_url=other.url, api_key="none", max_retries=0)
        with pytest.raises(anthropic.APIStatusError, match="OPENAI_API_KEY") as rejected:
            client.messages.create(**ask())
    assert rejected.value.status_code == 424  # the key is that of the proxy
