"""LiteLLM's engine in a real server: requests of Claude Code to providers that the proxy does not support itself."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from typing import Any

import anthropic
import pytest

from tests.support.fakes.openai_chat import KEY, new_openai
from tests.support.fakes.server import Running, serving
from tests.support.litellm import needs_litellm
from tests.support.sdk import open_sdk
from tests.support.server_process import Proxy, running_forked_proxy
from tests.support.waiting import wait_for

pytestmark = needs_litellm

MISTRAL = "mistral/gpt-4.1"
OPENAI = "litellm/openai/gpt-4.1"
CLAUDE = "bedrock/converse/us.anthropic.claude-3-7-sonnet-20250219-v1:0"
MARKS_THE_CACHE_SINCE = (1, 106)
"""The version of LiteLLM that this was seen with; 1.83 does not."""
ADD = {
    "name": "add",
    "description": "Adds two numbers.",
    "input_schema": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
}
WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class Bedrock(BaseHTTPRequestHandler):
    """The Converse operation: calls a tool after some signed reasoning, and repeats the result."""

    bodies: list[dict[str, Any]] = []  # noqa: RUF012  # one stand-in a module

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.bodies.append(body)
        reasoning = {"reasoningText": {"text": "I should look.", "signature": "c2lnbmVk"}}
        call = {"toolUseId": "tooluse_1", "name": "get_weather", "input": {"city": "Oslo"}}
        done = any("toolResult" in part for message in body["messages"] for part in message["content"])
        content = [{"text": "Snow."}] if done else [{"reasoningContent": reasoning}, {"toolUse": call}]
        reply = {
            "output": {"message": {"role": "assistant", "content": content}},
            "stopReason": "end_turn" if done else "tool_use",
            "usage": {
                "inputTokens": 20,
                "outputTokens": 5,
                "totalTokens": 125,
                "cacheReadInputTokens": 100,
                "cacheWriteInputTokens": 0,
            },
            "metrics": {"latencyMs": 1},
        }
        reply_bytes = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(reply_bytes)))
        self.end_headers()
        self.wfile.write(reply_bytes)

    def log_message(self, *_: Any) -> None:
        """Write nothing."""


@pytest.fixture(scope="module")
def bedrock() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bedrock)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def openai() -> Iterator[Running]:
    with serving(new_openai()) as running:
        yield running


@pytest.fixture(scope="module")
def proxy(openai: Running, bedrock: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    directory = tmp_path_factory.mktemp("proxy")
    lines = [
        f"MISTRAL_API_KEY={KEY}",
        f"MISTRAL_AZURE_API_BASE={openai.url}/v1",
        "AWS_ACCESS_KEY_ID=AKIAFAKE",
        "AWS_SECRET_ACCESS_KEY=fake",
        "AWS_REGION_NAME=us-east-1",
        f"AWS_BEDROCK_RUNTIME_ENDPOINT={bedrock}",
        f"BIG_MODEL={MISTRAL}",
    ]
    (directory / ".env").write_text("\n".join(lines))
    with running_forked_proxy(directory, {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{openai.url}/v1"}) as running:
        yield running
        assert "Traceback" not in running.log
        assert KEY not in running.log
        assert "Give Feedback" not in running.log


@pytest.fixture(autouse=True)
def _no_breach(openai: Running) -> Iterator[None]:
    """Every request that any of these tests caused was one that the real provider takes."""
    first = len(openai.journal.exchanges)
    yield
    assert [breach for exchange in openai.journal.exchanges[first:] for breach in exchange.breaches] == []


@pytest.fixture
def client(proxy: Proxy) -> Iterator[anthropic.Anthropic]:
    with open_sdk(base_url=proxy.url, api_key="the-clients-own", max_retries=0) as client:
        yield client


def ask(client: anthropic.Anthropic, stream: bool, **fields: Any) -> Any:
    fields = {"max_tokens": 300, **fields}
    if not stream:
        return client.messages.create(**fields)
    with client.messages.stream(**fields) as events:
        return events.get_final_message()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("model", [OPENAI, MISTRAL, "claude-sonnet-5-5"])
def test_a_task_of_several_turns_with_tools(client: anthropic.Anthropic, model: str, stream: bool) -> None:
    turns: list[Any] = [{"role": "user", "content": "Add 17, 25 and 58"}]
    for _ in range(2):
        reply = ask(client, stream, model=model, tools=[ADD], messages=turns)
        assert reply.stop_reason == "tool_use"
        (call,) = [block for block in reply.content if block.type == "tool_use"]
        result = {"type": "tool_result", "tool_use_id": call.id, "content": str(call.input["a"] + call.input["b"])}
        turns += [{"role": "assistant", "content": reply.content}, {"role": "user", "content": [result]}]
    reply = ask(client, stream, model=model, tools=[ADD], messages=turns)
    assert reply.content[-1].text == "The sum is 100."
    assert reply.stop_reason == "end_turn"
    assert reply.model == model
    assert reply.usage.input_tokens > 0
    assert reply.usage.output_tokens > 0


def test_a_parameter_that_a_provider_rejects_is_left_out_and_noted(client: anthropic.Anthropic, proxy: Proxy) -> None:
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    turns: Any = [{"role": "user", "content": "Say exactly: hello"}]
    reply = ask(client, False, model=MISTRAL, max_tokens=2000, thinking=thinking, messages=turns)
    assert reply.content[-1].text == "hello"
    wait_for(lambda: f"litellm/{MISTRAL}: drop reasoning_effort" in proxy.log)


def test_what_a_provider_needs_and_has_not_is_named(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.APIStatusError, match="WX_PROJECT_ID"):
        ask(client, False, model="watsonx/granite", messages=[{"role": "user", "content": "hi"}])


def test_claude_at_bedrock_gets_its_reasoning_back_and_marks_for_its_cache(client: anthropic.Anthropic) -> None:
    Bedrock.bodies.clear()
    thinking: Any = {"type": "enabled", "budget_tokens": 2000}
    fields: dict[str, Any] = {
        "model": CLAUDE,
        "max_tokens": 9000,
        "thinking": thinking,
        "system": "You are brief. " * 400,
    }
    turns: list[Any] = [{"role": "user", "content": "How is the weather in Oslo?"}]
    first = ask(client, False, tools=[WEATHER], messages=turns, **fields)
    assert [block.type for block in first.content] == ["thinking", "tool_use"]
    assert first.content[0].thinking == "I should look."
    assert (first.usage.input_tokens, first.usage.cache_read_input_tokens) == (20, 100)
    result = {"type": "tool_result", "tool_use_id": first.content[1].id, "content": "snow"}
    turns += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    second = ask(client, False, tools=[WEATHER], messages=turns, **fields)
    assert second.content[-1].text == "Snow."
    asked, answered = Bedrock.bodies
    assert asked["additionalModelRequestFields"]["thinking"]["type"] in ("enabled", "adaptive")
    (assistant_message,) = [message for message in answered["messages"] if message["role"] == "assistant"]
    assert assistant_message["content"][0] == {
        "reasoningContent": {"reasoningText": {"text": "I should look.", "signature": "c2lnbmVk"}}
    }
    if tuple(map(int, version("litellm").split(".")[:2])) >= MARKS_THE_CACHE_SINCE:
        marks = [asked["system"][-1], asked["messages"][-1]["content"][-1]]
        assert marks == [{"cachePoint": {"type": "default"}}] * 2


def test_a_conversation_that_began_elsewhere_goes_on_at_claude_without_reasoning(client: anthropic.Anthropic) -> None:
    Bedrock.bodies.clear()
    call = {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": {"city": "Oslo"}}
    turns: list[Any] = [
        {"role": "user", "content": "How is the weather in Oslo?"},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "snow"}]},
    ]
    thinking: Any = {"type": "enabled", "budget_tokens": 2000}
    reply = ask(client, False, model=CLAUDE, max_tokens=9000, thinking=thinking, tools=[WEATHER], messages=turns)
    assert reply.content[-1].text == "Snow."
    assert "thinking" not in Bedrock.bodies[0].get("additionalModelRequestFields", {})


def test_other_requests_are_served_while_litellm_is_loaded(
    openai: Running, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{openai.url}/v1"}
    with running_forked_proxy(tmp_path_factory.mktemp("other"), settings) as proxy:
        body = {"max_tokens": 99, "messages": [{"role": "user", "content": "Say exactly: hello"}]}
        client, ended = proxy.client(), threading.Event()
        statuses: list[int] = []

        def through_litellm() -> None:
            statuses.append(proxy.client().post("/v1/messages", json={"model": OPENAI, **body}).status_code)
            ended.set()

        asking = threading.Thread(target=through_litellm)
        asking.start()
        served = 0
        while not ended.is_set():
            assert client.post("/v1/messages", json={"model": "openai/gpt-4.1", **body}).status_code == 200
            served += 1
        asking.join()
        assert statuses == [200]
        assert served > 5, "the event loop stood still while the library was loaded"
