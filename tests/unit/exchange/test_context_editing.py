"""Conversations that `context_management` edits, at providers with a prefix cache, a window and a token count."""

import itertools
import json
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.engine.exchange.forwarding import count_tokens
from anthropic_proxy.engine.histories import Histories
from tests.support.cache_sessions import ROWS, Row
from tests.support.fakes.prefix_cache import CachingProvider
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request

Json = dict[str, Any]
TURNS = 40
KEYS = {f"{name}_API_KEY": "key" for name in ("OPENAI", "GEMINI", "MOONSHOT", "XAI")}
READ: Json = {"name": "read", "description": "Read a file.", "input_schema": {"type": "object", "properties": {}}}
ONE_OF_EACH = [
    next(row for row in ROWS if row.title.startswith(title))
    for title in ("llama.cpp", "OpenAI, Responses, gpt-5.1", "Gemini", "Ollama", "DeepSeek")
]


def editing(clear_at_least: int) -> Json:
    """Return edits whose triggers all turns but the first ones pass."""
    tool_uses: Json = {
        "type": "clear_tool_uses_20250919",
        "trigger": {"type": "input_tokens", "value": 10_000},
        "keep": {"type": "tool_uses", "value": 3},
        "clear_at_least": {"type": "input_tokens", "value": clear_at_least},
        "clear_tool_inputs": True,
    }
    return {"edits": [tool_uses]}


async def play(row: Row, management: Json | None) -> tuple[CachingProvider, list[Json]]:
    """Play a conversation of 40 calls of a tool, and return the provider and the reports of the replies."""
    provider = CachingProvider([("read", {"path": f"file {turn}"}) for turn in range(TURNS)], row.cache)
    proxy = ProxyHarness(provider, **KEYS | row.settings)
    proxy.services = structs.replace(proxy.services, histories=Histories(min_bytes=2_000))
    messages: list[Json] = [{"role": "user", "content": "Read all files."}]
    reports = []
    for turn in range(TURNS):
        fields = {} if management is None else {"context_management": management}
        sink = await proxy.post(
            headers={"x-claude-code-session-id": "one"},
            model="claude-opus-4-5",
            system="Be brief. " * 300,
            tools=[READ],
            messages=messages,
            metadata={"user_id": json.dumps({"session_id": "one"})},
            **fields,
        )
        assert sink.error is None, sink.error
        message = sink.body or json.loads(sink.stream)
        reports.append(message.get("context_management"))
        (call,) = [block for block in message["content"] if block["type"] == "tool_use"]
        content = "\n".join(f"{turn}: line {number}" for number in range(400))
        result = {"type": "tool_result", "tool_use_id": call["id"], "content": content}
        messages += [{"role": "assistant", "content": message["content"]}, {"role": "user", "content": [result]}]
    return provider, reports


def cached_share(provider: CachingProvider) -> float:
    return sum(call.cached for call in provider.calls) / sum(call.tokens for call in provider.calls)


@pytest.mark.parametrize(
    "row",
    [ONE_OF_EACH[0], *(pytest.param(row, marks=pytest.mark.merge) for row in ONE_OF_EACH[1:])],
    ids=lambda row: row.title,
)
async def test_forty_turns_stay_short_and_move_the_boundary_rarely(row: Row) -> None:
    (plain, _), (often, reports), (rarely, spared) = [
        await play(row, management) for management in (None, editing(0), editing(8_000))
    ]
    applied = [report["applied_edits"] for report in reports]
    assert applied[0] == []
    numbers = [sum(one["cleared_tool_uses"] for one in edits) for edits in applied]
    assert numbers == sorted(numbers)
    assert numbers[-1] == TURNS - 1 - 3
    assert often.calls[-1].tokens < plain.calls[-1].tokens / 4
    tokens = [sum(one["cleared_input_tokens"] for one in report["applied_edits"]) for report in spared]
    moves = [after - before for before, after in itertools.pairwise(tokens) if after != before]
    assert min(moves) >= 8_000
    assert rarely.calls[-1].tokens < plain.calls[-1].tokens / 2
    # the beginning between two moves is that of the turn before
    kept = [turn for turn in range(2, TURNS) if tokens[turn] == tokens[turn - 1]]
    for turn in kept:
        before = rarely.calls[turn - 1].tokens
        assert rarely.calls[turn].cached >= before - row.cache.block - (row.cache.minimum if turn < 8 else 0)
    assert cached_share(often) < cached_share(rarely) < cached_share(plain)


@pytest.mark.parametrize("clear_at_least", [0, 8_000])
async def test_instances_send_the_same_body(clear_at_least: int) -> None:
    row = ONE_OF_EACH[0]
    first, second = [await play(row, editing(clear_at_least)) for _ in range(2)]
    assert first[0].calls == second[0].calls
    assert first[1] == second[1]


def conversation(words: int) -> list[Json]:
    messages: list[Json] = [{"role": "user", "content": "hello"}]
    for turn in range(6):
        call = {"type": "tool_use", "id": f"call_{turn}", "name": "read", "input": {}}
        result = {"type": "tool_result", "tool_use_id": f"call_{turn}", "content": f"{turn} " + "word " * words}
        messages += [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    return messages


LOCAL = {"PREFERRED_PROVIDER": "openai", "OPENAI_BASE_URL": "http://localhost:8000/v1", "BIG_MODEL": "openai/qwen3"}
BETAS = {"anthropic-beta": "context-management-2025-06-27"}
TEXT_REPLY = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "done"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
    }
).encode()
BY_USES: Json = {"edits": [{"type": "clear_tool_uses_20250919", "trigger": {"type": "tool_uses", "value": 2}}]}


async def test_what_is_cleared_does_not_fill_the_window() -> None:
    sent: list[Json] = []

    def answer(base_url: str, request: Any, credential: Any) -> FakeResponse:
        sent.append(json.loads(request.body))
        return FakeResponse(200, TEXT_REPLY, headers={"content-type": "application/json"})

    proxy = ProxyHarness(answer, GROQ_API_KEY="key", BIG_MODEL="groq/openai/gpt-oss-120b", CHECK_WINDOW="true")
    long = conversation(30_000)
    refused = await proxy.post(model="claude-opus-4-5", max_tokens=100, tools=[READ], messages=long)
    assert refused.error is not None
    assert refused.error.message.startswith("prompt is too long: ")
    assert sent == []
    sink = await proxy.post(
        model="claude-opus-4-5", max_tokens=100, tools=[READ], messages=long, context_management=BY_USES
    )
    assert sink.error is None, sink.error
    results = [message["content"] for message in sent[0]["messages"] if message["role"] == "tool"]
    assert [len(text) < 100 for text in results] == [True, True, True, False, False, False]
    notes = [(note.handling, note.field, note.reason) for note in proxy.receipts[-1].notes]
    edited = "the proxy edits the conversation, and counts tokens by its own estimate"
    assert ("emulated", "context_management", edited) in notes


async def test_searches_of_the_proxy_are_cleared_as_results_of_calls() -> None:
    sent: list[Json] = []

    def answer(base_url: str, request: Any, credential: Any) -> FakeResponse:
        sent.append(json.loads(request.body))
        return FakeResponse(200, TEXT_REPLY, headers={"content-type": "application/json"})

    proxy = ProxyHarness(answer, **LOCAL)
    messages: list[Json] = [{"role": "user", "content": "hello"}]
    for turn in range(4):
        call = {"type": "server_tool_use", "id": f"srvtoolu_{turn}", "name": "web_search", "input": {"query": "news"}}
        page = {"type": "web_search_result", "url": "https://a.example", "title": "word " * 90, "encrypted_content": ""}
        result = {"type": "web_search_tool_result", "tool_use_id": call["id"], "content": [page]}
        said = {"type": "text", "text": "Nothing new."}
        messages += [{"role": "assistant", "content": [call, result, said]}, {"role": "user", "content": "And now?"}]
    tool = {"type": "web_search_20250305", "name": "web_search"}
    sink = await proxy.post(
        model="claude-opus-4-5", max_tokens=100, tools=[tool], messages=messages, context_management=BY_USES
    )
    assert sink.error is None, sink.error
    results = [message["content"] for message in sent[0]["messages"] if message["role"] == "tool"]
    kept = "word " * 90 + " – https://a.example"
    assert results == ["[This result was removed to save space. Call the tool again if you need it.]", *[kept] * 3]
    assert sink.body is not None
    (applied,) = sink.body["context_management"]["applied_edits"]
    assert (applied["cleared_tool_uses"], applied["cleared_input_tokens"] > 40) == (1, True)


async def test_a_relay_to_anthropic_forwards_the_field() -> None:
    bodies: list[bytes] = []

    def answer(base_url: str, request: Any, credential: Any) -> FakeResponse:
        bodies.append(bytes(request.body))
        return FakeResponse(400, b'{"type":"error","error":{"type":"invalid_request_error","message":"no"}}')

    proxy = ProxyHarness(answer, PREFERRED_PROVIDER="anthropic", ANTHROPIC_API_KEY="key")
    fields: Json = {"model": "claude-opus-4-5", "max_tokens": 100, "tools": [READ], "messages": conversation(10)}
    for management in (BY_USES, {"edits": [{"type": "clear_tool_uses_20250919", "keep": "new"}]}):
        await proxy.post(headers=BETAS, **fields, context_management=management)
        assert json.loads(bodies[-1])["context_management"] == management
        assert json.loads(bodies[-1])["messages"] == fields["messages"]


@pytest.mark.parametrize("counts", [False, True])
async def test_a_count_has_the_tokens_before_and_after(counts: bool) -> None:
    counted: list[int] = []

    def answer(base_url: str, request: Any, credential: Any) -> FakeResponse:
        if not counts:
            return FakeResponse(404, b'{"error":"not found"}')
        counted.append(len(request.body) // 4)
        return FakeResponse(200, b'{"input_tokens":%d}' % counted[-1])

    proxy = ProxyHarness(answer, **LOCAL)
    asked: Json = {"model": "claude-opus-4-5", "tools": [READ], "messages": conversation(1_000)}
    whole = await count(proxy, asked)
    edited = await count(proxy, asked | {"context_management": BY_USES})
    unchanged = await count(proxy, asked | {"context_management": {"edits": []}})
    assert list(whole) == ["input_tokens"]
    assert edited["input_tokens"] < whole["input_tokens"] - 2_500
    original = edited["context_management"]["original_input_tokens"]
    assert original == whole["input_tokens"]
    assert unchanged == whole | {"context_management": {"original_input_tokens": whole["input_tokens"]}}
    assert len(counted) == (4 if counts else 0)


async def count(proxy: ProxyHarness, asked: Json) -> Json:
    incoming = new_client_request(json.dumps(asked).encode(), path="/v1/messages/count_tokens")
    reply = await count_tokens(proxy.services, incoming, RecordingSink().wait_disconnected)
    counted: Json = json.loads(reply.body)
    return counted
