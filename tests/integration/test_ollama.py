"""Ollama behind a real proxy process: replies to a client, and requests within the rules of the fake server."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest

from anthropic_proxy.cli.lint_stream import check_bytes
from tests.support.fakes.ollama import new_ollama
from tests.support.fakes.openai_chat.samples import png
from tests.support.fakes.server import Running, serving
from tests.support.sdk import open_sdk
from tests.support.server_process import Proxy, running_proxy

MODEL = "claude-sonnet-5-5"
THINKER = "ollama/qwen3:8b"
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "Tell the weather of a city.",
    "input_schema": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"city": {"type": "string", "minLength": 1}, "unit": {"$ref": "#/$defs/unit"}},
        "required": ["city"],
        "additionalProperties": False,
        "$defs": {"unit": {"enum": ["C", "F"]}},
    },
}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving(new_ollama()) as running:
        yield running


@pytest.fixture(scope="module")
def settings(server: Running) -> dict[str, str]:
    return {"OLLAMA_API_BASE": server.url, "BIG_MODEL": "qwen3-coder:30b", "SMALL_MODEL": "llama3.2"}


@pytest.fixture(scope="module")
def proxy(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running_proxy(tmp_path_factory.mktemp("ollama"), settings) as running:
        yield running
        assert "Traceback" not in running.log


@pytest.fixture
def chats(server: Running) -> Iterator[list[Any]]:
    """The bodies of the chats of one test, filled in when they are looked at; none of them breaks a rule."""
    start = len(server.journal.exchanges)
    seen = _Chats(server, start)
    yield seen
    assert [breach for exchange in server.journal.exchanges[start:] for breach in exchange.breaches] == []


class _Chats(list[Any]):
    def __init__(self, server: Running, start: int) -> None:
        super().__init__()
        self._server = server
        self._start = start

    def __getitem__(self, place: Any) -> Any:
        exchanges = self._server.journal.exchanges[self._start :]
        return [exchange.body for exchange in exchanges if exchange.path == "/api/chat"][place]


@pytest.fixture
def client(proxy: Proxy, chats: list[Any]) -> Iterator[anthropic.Anthropic]:
    with open_sdk(base_url=proxy.url, api_key="the-clients-own", max_retries=0) as client:
        yield client


def user_messages(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_the_stream_keeps_to_the_grammar(proxy: Proxy, chats: list[Any]) -> None:
    body = {"model": THINKER, "max_tokens": 400, "stream": True, "tools": [WEATHER]}
    answer = proxy.client().post("/v1/messages", json={**body, "messages": user_messages("Weather in Oslo and Rome?")})
    assert check_bytes(answer.content) == []
    assert chats[0]["options"]["num_ctx"] == 40_960


def test_pictures_alone_and_from_a_tool(client: anthropic.Anthropic, chats: list[Any]) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(png(31, 17)).decode()}
    call = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "X"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "image", "source": source}]}
    turns: Any = [
        {
            "role": "user",
            "content": [{"type": "image", "source": source}, {"type": "text", "text": "Describe the pictures"}],
        },
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]
    options: Any = {"max_tokens": 100, "tools": [WEATHER], "messages": turns}
    seen = client.messages.create(model="ollama/qwen3-vl:8b", **options)
    assert text_of(seen) == "I see 2 pictures: image/png 31 by 17; image/png 31 by 17."
    blind = client.messages.create(model=MODEL, **options)
    assert text_of(blind) == "I see 0 pictures: ."


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        ({"type": "auto"}, []),
        ({"type": "none"}, []),
        ({"type": "any"}, ["get_time"]),
        ({"type": "tool", "name": "get_weather"}, ["get_weather"]),
    ],
)
def test_the_choice_of_a_tool(client: anthropic.Anthropic, choice: Any, called: list[str]) -> None:
    time: Any = {"name": "get_time", "input_schema": {"type": "object", "properties": {}}}
    tools: Any = [time, WEATHER]
    message = client.messages.create(
        model=MODEL, max_tokens=100, tools=tools, tool_choice=choice, messages=user_messages("Say exactly: hello")
    )
    assert [block.name for block in message.content if block.type == "tool_use"] == called


def test_stops_and_limits(client: anthropic.Anthropic, chats: list[Any]) -> None:
    stopped = client.messages.create(
        model=MODEL, max_tokens=100, messages=user_messages("Count to 50"), stop_sequences=["8 9"]
    )
    assert (text_of(stopped).strip(), stopped.stop_sequence) == ("1 2 3 4 5 6 7", "8 9")
    assert "stop" not in chats[0]["options"]
    cut = client.messages.create(model=MODEL, max_tokens=3, messages=user_messages("Count to 50"))
    assert (text_of(cut), cut.stop_reason) == ("1 2 3", "max_tokens")


def test_a_prompt_over_the_window_is_reported_with_exact_numbers(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 3072 maximum"):
        client.messages.create(model="ollama/mine:small", max_tokens=100, messages=user_messages("word " * 5_000))


def test_a_window_that_fills_up_is_named(client: anthropic.Anthropic) -> None:
    message = client.messages.create(
        model="ollama/mine:small", max_tokens=20_000, messages=user_messages("word " * 1_800 + "Count to 5000")
    )
    assert message.stop_reason in ("max_tokens", "model_context_window_exceeded")
    assert message.usage.output_tokens > 300


def test_a_model_that_was_not_pulled(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="ollama pull gone:7b"):
        client.messages.create(model="ollama/gone:7b", max_tokens=10, messages=user_messages("hi"))


@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [
        ("rate after=30", 429, "rate_limit_error"),
        ("missing", 400, "invalid_request_error"),
        ("unauthorized", 401, "authentication_error"),
        ("forbidden", 403, "permission_error"),
        ("server", 500, "api_error"),
        ("memory", 500, "api_error"),
        ("overloaded", 529, "overloaded_error"),
        ("unavailable", 503, "api_error"),
        ("error", 500, "api_error"),
        ("reset", 502, "api_error"),
        ("cut pieces=0", 502, "api_error"),
        ("torn pieces=0", 502, "api_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_before_the_reply_has_its_status(
    proxy: Proxy, chats: list[Any], fault: str, status: int, kind: str, stream: bool
) -> None:
    body = {
        "model": MODEL,
        "max_tokens": 50,
        "stream": stream,
        "messages": user_messages(f"Count to 9 [fault:{fault}]"),
    }
    answer = proxy.client().post("/v1/messages", json=body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)


@pytest.mark.parametrize("fault", ["error pieces=3", "cut pieces=3", "torn pieces=3"])
def test_a_failure_in_the_middle_is_an_event(proxy: Proxy, chats: list[Any], fault: str) -> None:
    body = {"model": MODEL, "max_tokens": 50, "stream": True, "messages": user_messages(f"Count to 9 [fault:{fault}]")}
    answer = proxy.client().post("/v1/messages", json=body)
    assert check_bytes(answer.content) == []
    assert answer.text.count("event: error") == 1
    assert "message_stop" not in answer.text


def test_a_model_that_will_not_think_is_asked_again_without(client: anthropic.Anthropic, server: Running) -> None:
    thinking: Any = {"type": "enabled", "budget_tokens": 1_024}
    message = client.messages.create(
        model="ollama/qwen3-vl:8b",
        max_tokens=2_000,
        thinking=thinking,
        messages=user_messages("Say exactly: well [fault:thinking times=1]"),
    )
    assert text_of(message).startswith("well")


def test_models_are_those_that_were_pulled(proxy: Proxy) -> None:
    listed = [entry["id"] for entry in proxy.client().get("/v1/models?limit=1000").json()["data"]]
    assert "claude-ollama/qwen3:8b" in listed
    assert "claude-ollama/mixtral" not in listed
    assert "claude-ollama/nomic-embed-text:latest" not in listed


def test_without_any_setting_the_biggest_and_the_smallest_model_answer(
    server: Running, tmp_path: Path, chats: list[Any]
) -> None:
    window = {"OLLAMA_API_BASE": server.url, "OLLAMA_CONTEXT_LENGTH": "12345", "OLLAMA_KEEP_ALIVE": "90"}
    with running_proxy(tmp_path, window) as other:
        for model in (MODEL, "claude-haiku-4-5"):
            body = {"model": model, "max_tokens": 50, "messages": user_messages("Say exactly: here I am")}
            assert other.client().post("/v1/messages", json=body).json()["content"][0]["text"] == "here I am"
    assert [chats[0]["model"], chats[1]["model"]] == ["llama3", "llama3.2:latest"]
    assert [chats[0]["options"]["num_ctx"], chats[0]["keep_alive"]] == [12_345, 90]
