"""Ollama behind a real proxy process: replies to a client, and requests within the rules of the fake server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest

from tests.support.fakes.ollama import new_ollama
from tests.support.fakes.server import Running, serving
from tests.support.sdk import open_sdk, user_messages
from tests.support.server_process import Proxy, running_forked_proxy

MODEL = "claude-sonnet-5-5"
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
    with running_forked_proxy(tmp_path_factory.mktemp("ollama"), settings) as running:
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


def test_a_prompt_over_the_window_is_reported_with_exact_numbers(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 3072 maximum"):
        client.messages.create(model="ollama/mine:small", max_tokens=100, messages=user_messages("word " * 5_000))


def test_a_model_that_was_not_pulled(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="ollama pull gone:7b"):
        client.messages.create(model="ollama/gone:7b", max_tokens=10, messages=user_messages("hi"))


def test_models_are_those_that_were_pulled(proxy: Proxy) -> None:
    listed = [entry["id"] for entry in proxy.client().get("/v1/models?limit=1000").json()["data"]]
    assert "claude-ollama/qwen3:8b" in listed
    assert "claude-ollama/mixtral" not in listed
    assert "claude-ollama/nomic-embed-text:latest" not in listed


def test_without_any_setting_the_biggest_and_the_smallest_model_answer(
    server: Running, tmp_path: Path, chats: list[Any]
) -> None:
    window = {"OLLAMA_API_BASE": server.url, "OLLAMA_CONTEXT_LENGTH": "12345", "OLLAMA_KEEP_ALIVE": "90"}
    with running_forked_proxy(tmp_path, window) as other:
        for model in (MODEL, "claude-haiku-4-5"):
            body = {"model": model, "max_tokens": 50, "messages": user_messages("Say exactly: here I am")}
            assert other.client().post("/v1/messages", json=body).json()["content"][0]["text"] == "here I am"
    # llama3 is larger, but calls no tools; the window of the setting leaves none of them room for a session
    assert [chats[0]["model"], chats[1]["model"]] == ["qwen3-coder:30b", "llama3.2:latest"]
    assert [chats[0]["options"]["num_ctx"], chats[0]["keep_alive"]] == [12_345, 90]
