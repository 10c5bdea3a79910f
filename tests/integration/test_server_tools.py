"""Tools that the proxy runs itself, as the official SDK uses them: a real process before three strict stand-ins."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest

from tests.support.event_grammar import check_bytes
from tests.support.fakes.gemini.server import KEY as GEMINI_KEY
from tests.support.fakes.gemini.server import new_gemini
from tests.support.fakes.ollama import new_ollama
from tests.support.fakes.openai_chat.server import KEY as OPENAI_KEY
from tests.support.fakes.openai_chat.server import new_openai
from tests.support.fakes.searxng import Searxng, new_searxng, result
from tests.support.fakes.server import Running, serving
from tests.support.sdk import open_sdk
from tests.support.server_process import Proxy, reserve_closed_port, running_forked_proxy

MODELS = ("openai/gpt-4.1", "ollama/qwen3-coder:30b", "gemini/gemini-2.5-flash")
SEARCH: Any = {"type": "web_search_20250305", "name": "web_search"}
WEATHER: Any = {
    "name": "get_weather",
    "description": "Tells the weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
READ: Any = {
    "name": "read_document",
    "description": "Reads a document.",
    "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    "defer_loading": True,
}


@pytest.fixture(scope="module")
def upstreams() -> Iterator[list[Running]]:
    with serving(new_openai()) as openai, serving(new_ollama()) as ollama, serving(new_gemini()) as gemini:
        yield [openai, ollama, gemini]
        assert [breach for running in (openai, ollama, gemini) for breach in running.journal.violations()] == []


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    pages = [result("https://cold.example/oslo", "Oslo", content="Snow lies in Oslo.")]
    with serving(new_searxng(Searxng(pages))) as running:
        yield running
        assert running.journal.violations() == []


@pytest.fixture(scope="module")
def proxy(upstreams: list[Running], service: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    openai, ollama, gemini = upstreams
    settings = {
        "OPENAI_API_KEY": OPENAI_KEY,
        "OPENAI_BASE_URL": f"{openai.url}/v1",
        "OLLAMA_API_BASE": ollama.url,
        "GEMINI_API_KEY": GEMINI_KEY,
        "GEMINI_BASE_URL": f"{gemini.url}/v1beta",
        "SEARCH_URL": service.url,
    }
    with running_forked_proxy(tmp_path_factory.mktemp("server_tools"), settings) as running:
        yield running
        assert "Traceback" not in running.log


@pytest.fixture
def client(proxy: Proxy) -> Iterator[anthropic.Anthropic]:
    with open_sdk(base_url=proxy.url, api_key="the-clients-own", max_retries=0) as sdk:
        yield sdk


def ask(client: anthropic.Anthropic, prompt: Any, *, stream: bool, **fields: Any) -> Any:
    messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    fields = {"max_tokens": 2_000, "messages": messages, **fields}
    if not stream:
        return client.messages.create(**fields)
    with client.messages.stream(**fields) as events:
        return events.get_final_message()


def kinds(message: Any) -> list[str]:
    return [block.type for block in message.content if block.type != "thinking"]


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("model", MODELS)
def test_a_search_is_answered_and_remembered(client: anthropic.Anthropic, model: str, stream: bool) -> None:
    options: Any = {"model": model, "tools": [SEARCH, WEATHER], "stream": stream}
    turns: list[Any] = [{"role": "user", "content": "Search the web for Oslo"}]
    message = ask(client, turns, **options)
    assert kinds(message) == ["server_tool_use", "web_search_tool_result", "text"]
    blocks = [block for block in message.content if block.type != "thinking"]
    assert blocks[0].input == {"query": "Oslo"}
    assert blocks[1].content[0].url == "https://cold.example/oslo"
    assert "Snow lies in Oslo." in blocks[2].text
    assert message.stop_reason == "end_turn"
    assert message.usage.server_tool_use.web_search_requests == 1
    turns += [{"role": "assistant", "content": message.content}, {"role": "user", "content": "What did I say first?"}]
    assert "Search the web for Oslo" in ask(client, turns, **options).content[-1].text


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("model", MODELS)
def test_a_paused_reply_goes_on(client: anthropic.Anthropic, model: str, stream: bool) -> None:
    options: Any = {"model": model, "tools": [SEARCH, WEATHER], "stream": stream}
    turns: list[Any] = [{"role": "user", "content": "Search the web 11 times for Oslo"}]
    message = ask(client, turns, **options)
    assert message.stop_reason == "pause_turn"
    assert kinds(message) == ["server_tool_use", "web_search_tool_result"] * 10
    message = ask(client, [*turns, {"role": "assistant", "content": message.content}], **options)
    assert message.stop_reason == "end_turn"
    assert kinds(message) == ["server_tool_use", "web_search_tool_result", "text"]
    assert message.content[-1].text == "I searched 11 times."


@pytest.mark.parametrize("model", MODELS[:2])  # alone in a request Gemini's own search serves
def test_the_side_call_of_claude_code(proxy: Proxy, model: str) -> None:
    body = {
        "model": model,
        "max_tokens": 2_000,
        "stream": True,
        "system": [{"type": "text", "text": "You are an assistant for performing a web search tool use"}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Perform a web search for the query: Oslo"}]}
        ],
        "tools": [{**SEARCH, "max_uses": 8}],
        "tool_choice": {"type": "auto"},
    }
    answer = proxy.client().post("/v1/messages", json=body)
    assert check_bytes(answer.content) == []
    for expected in ('"server_tool_use"', '"web_search_tool_result"', "https://cold.example/oslo", "end_turn"):
        assert expected in answer.text


@pytest.mark.parametrize("model", MODELS)
def test_a_deferred_tool_is_found_and_called(client: anthropic.Anthropic, model: str) -> None:
    search: Any = {"type": "tool_search_tool_bm25_20251119", "name": "tool_search_tool_bm25"}
    prompt, tools = "Load read_document and read notes.txt", [search, READ, WEATHER]
    message = ask(client, prompt, model=model, tools=tools, stream=True)
    assert kinds(message) == ["server_tool_use", "tool_search_tool_result", "tool_use"]
    call = message.content[-1]
    assert (call.name, call.input) == ("read_document", {"path": "notes.txt"})


def test_the_log_states_once_why_searches_fail(upstreams: list[Running], tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{reserve_closed_port()}"
    settings = {"OPENAI_API_KEY": OPENAI_KEY, "OPENAI_BASE_URL": f"{upstreams[0].url}/v1", "SEARCH_URL": address}
    with running_forked_proxy(tmp_path, settings) as running:
        with open_sdk(base_url=running.url, api_key="the-clients-own", max_retries=0) as sdk:
            options: Any = {"model": MODELS[0], "tools": [SEARCH], "stream": False}
            replies = [ask(sdk, f"Search the web for {city}", **options) for city in ("Oslo", "Bergen")]
        found = [block.content.error_code for reply in replies for block in reply.content if "result" in block.type]
        assert found == ["unavailable", "unavailable"]
    assert [line.partition("  ")[2] for line in running.log.splitlines() if "web_search failed" in line] == [
        f"web_search failed: SEARCH_URL: no server responds at {address} (connection refused)"
    ]
