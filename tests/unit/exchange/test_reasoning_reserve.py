"""A small output limit on a model that reasons: strict fakes count reasoning toward the limit, as providers do.

The table of `docs/guide/compatibility.md` is generated from these fakes: what a client of 64 tokens gets if its limit
is sent as it is, and what it gets through the proxy.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
from msgspec import Struct

from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from tests.support.harness import FakeResponse, ProxyHarness
from tests.support.paths import ROOT
from tests.support.replies import CHAT, GEMINI, OLLAMA, RESPONSES, Reply, ReplyForm

LIMIT = 64
LIMITS = (1, 10, LIMIT)
"""The first two are below the minimum of the Responses API."""
THOUGHTS = 700
"""Tokens of reasoning before the first word."""
WORDS = 100
"""Tokens of the text that the model would write."""
KEYS = dict.fromkeys(
    ("OPENAI_API_KEY", "GEMINI_API_KEY", "XAI_API_KEY", "MOONSHOT_API_KEY", "GROQ_API_KEY"), "k-0123456789"
)
LOCAL = {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "OPENAI_WIRE": "chat"}
DEEPSEEK = {**KEYS, "OPENAI_BASE_URL": "https://api.deepseek.com/v1"}
ZAI = {**KEYS, "OPENAI_BASE_URL": "https://api.z.ai/api/paas/v4"}
MINIMAX = {**KEYS, "OPENAI_BASE_URL": "https://api.minimax.io/v1"}
OPENROUTER = {**KEYS, "OPENAI_BASE_URL": "https://openrouter.ai/api/v1"}
OLLAMA_SERVER = {"OLLAMA_API_BASE": "http://127.0.0.1:9"}


class Row(Struct, frozen=True):
    name: str
    model: str
    settings: Mapping[str, str] = MappingProxyType(KEYS)
    always: bool = True
    """False: the model does not reason if the request switches it off."""


ROWS = (
    Row("gemini-3.1-pro-preview", "gemini/gemini-3.1-pro-preview"),
    Row("gpt-6.2-sol", "openai/gpt-6.2-sol"),
    Row("gpt-5.6 (default `medium`)", "openai/gpt-5.6", always=False),
    Row("openai/gpt-oss-120b at Groq", "groq/openai/gpt-oss-120b"),
    Row("grok-4.7", "xai/grok-4.7"),
    Row("kimi-k3", "moonshot/kimi-k3"),
    Row("kimi-k2.6", "moonshot/kimi-k2.6", always=False),
    Row("MiniMax-M3", "openai/MiniMax-M3", MINIMAX),
    Row("deepseek-v4-pro", "openai/deepseek-v4-pro", DEEPSEEK, always=False),
    Row("glm-5.2", "openai/glm-5.2", ZAI, always=False),
    Row("google/gemini-3.1-pro-preview at OpenRouter", "openai/google/gemini-3.1-pro-preview", OPENROUTER),
    Row("openai/gpt-oss-120b at OpenRouter", "openai/openai/gpt-oss-120b", OPENROUTER),
    Row("moonshotai/kimi-k2.6 at OpenRouter", "openai/moonshotai/kimi-k2.6", OPENROUTER, always=False),
    Row("minimax/minimax-m3 at OpenRouter", "openai/minimax/minimax-m3", OPENROUTER),
    Row("qwen3.6-27b, local", "openai/qwen3.6-27b", LOCAL, always=False),
    Row("unknown model, local, cannot be switched off", "openai/mine", LOCAL),
    Row("unknown model at Ollama", "ollama/mine", OLLAMA_SERVER),
)


def find_form(url: str) -> ReplyForm:
    if url.endswith("/responses"):
        return RESPONSES
    if "generateContent" in url or "streamGenerateContent" in url:
        return GEMINI
    return OLLAMA if url.endswith("/api/chat") else CHAT


def read_limit(body: Any) -> int:
    found = [body.get(name) for name in ("max_tokens", "max_completion_tokens", "max_output_tokens")]
    found += [body.get("generationConfig", {}).get("maxOutputTokens"), body.get("options", {}).get("num_predict")]
    (limit,) = filter(None, found)
    return int(limit)


def is_switched_off(body: Any) -> bool:
    reasoning = body.get("reasoning") or {}
    return (
        body.get("reasoning_effort") == "none"
        or reasoning.get("effort") == "none"
        or reasoning.get("enabled") is False
        or (body.get("thinking") or {}).get("type") == "disabled"
        or (body.get("chat_template_kwargs") or {}).get("enable_thinking") is False
        or body.get("think") is False
    )


class Model:
    """A model that writes `THOUGHTS` tokens before the text, and stops at the limit of the request."""

    def __init__(self, *, always: bool, shows: bool = True, thoughts: int = THOUGHTS, fails_after: int = 99) -> None:
        self.always, self.shows, self.thoughts, self.fails_after = always, shows, thoughts, fails_after
        self.bodies: list[Any] = []

    def count_thoughts(self, body: Any) -> int:
        return 0 if is_switched_off(body) and not self.always else self.thoughts

    def __call__(self, url: str, request: UpstreamRequest, _: Any) -> FakeResponse:
        if request.path in ("/api/show", "/api/tags", "/api/ps"):
            return FakeResponse(404, b'{"error": "not found"}')
        body = json.loads(request.body)
        self.bodies.append(body)
        form = find_form(f"{url}{request.path}".partition("?")[0])
        if len(self.bodies) > self.fails_after:
            return FakeResponse(500, b'{"error": {"message": "The server failed.", "type": "x"}}')
        thoughts = self.count_thoughts(body)
        words = max(min(read_limit(body) - thoughts, WORDS), 0)
        reply = Reply(
            thoughts=["hmm "] * 5 if thoughts and self.shows else (),
            texts=["word"] * words,
            count=read_limit(body),
            stop="max_tokens" if words < WORDS else "",
        )
        is_stream = bool(body.get("stream")) or "streamGenerate" in request.path
        chunks = form.stream(reply) if is_stream else [form.whole(reply)]
        kind = "application/x-ndjson" if form is OLLAMA else "text/event-stream"
        return FakeResponse(200, *chunks, headers={"content-type": kind if is_stream else "application/json"})


async def ask(row: Row, harness: ProxyHarness, *, stream: bool, disabled: bool, limit: int = LIMIT) -> tuple[str, str]:
    """Return text and stop reason of the reply."""
    fields: dict[str, Any] = {"thinking": {"type": "disabled"}} if disabled else {}
    sink = await harness.post(model=row.model, max_tokens=limit, stream=stream, **fields)
    assert sink.error is None
    if not stream:
        texts = [block["text"] for block in sink.body["content"] if block["type"] == "text"]
        return "".join(texts), sink.body["stop_reason"]
    events = [json.loads(line[6:]) for line in sink.stream.splitlines() if line.startswith(b"data: ")]
    deltas = [event["delta"] for event in events if "delta" in event]
    text = "".join(delta["text"] for delta in deltas if delta.get("type") == "text_delta")
    return text, next(delta["stop_reason"] for delta in deltas if "stop_reason" in delta)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("disabled", [False, True], ids=["by default", "disabled"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.sample(4)
async def test_no_reply_is_empty_or_longer_than_the_limit(row: Row, disabled: bool, stream: bool, limit: int) -> None:
    model = Model(always=row.always)
    harness = ProxyHarness(model, **row.settings)
    for turn in range(3):
        calls = len(model.bodies)
        text, reason = await ask(row, harness, stream=stream, disabled=disabled, limit=limit)
        assert (len(text), reason) == (limit * 4, "max_tokens")
        # what the first reply has shown is remembered
        assert len(model.bodies) - calls <= (3 if turn == 0 else 1)


async def test_the_table_of_the_guide_is_what_the_fakes_measure() -> None:
    rows = ["| model | before | sent now, by default | sent now, thinking disabled |", "| --- | --- | --- | --- |"]
    for row in ROWS:
        before, sent = list[str](), list[str]()
        for disabled in (False, True):
            model = Model(always=row.always)
            harness = ProxyHarness(model, **row.settings)
            for _ in range(2):
                assert (await ask(row, harness, stream=True, disabled=disabled))[0] == "word" * LIMIT
            words = max(LIMIT - model.count_thoughts(model.bodies[0]), 0)
            before.append(f"{words} tokens" if words else "empty")
            sent.append(", then ".join(dict.fromkeys(f"{read_limit(body):,}" for body in model.bodies)))
        own = before[0] if before[0] == before[1] else f"{before[0]}; {before[1]} if disabled"
        rows.append(f"| {row.name} | {own} | {' | '.join(sent)} |")
    guide = (ROOT / "docs/guide/compatibility.md").read_text(encoding="utf-8")
    assert "\n".join(rows) in guide, "\n".join(rows)


async def test_both_calls_of_a_repeated_reply_are_counted() -> None:
    row = next(row for row in ROWS if row.settings is LOCAL)
    model = Model(always=True)
    harness = ProxyHarness(model, **row.settings)
    await ask(row, harness, stream=True, disabled=False)
    (receipt,) = harness.receipts
    assert receipt.output_tokens == sum(map(read_limit, model.bodies))
    assert receipt.input_tokens == receipt.output_tokens  # the fake counts both alike
    assert len(receipt.attempts) == 2


@pytest.mark.parametrize("stream", [True, False])
async def test_hidden_reasoning_is_given_room_too(stream: bool) -> None:
    model = Model(always=True, shows=False)
    harness = ProxyHarness(model, **LOCAL)
    row = Row("hidden", "openai/mine", LOCAL)
    for _ in range(2):
        assert await ask(row, harness, stream=stream, disabled=False) == ("word" * LIMIT, "max_tokens")
    assert [read_limit(body) for body in model.bodies] == [64, 8256, 8256]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_repetition_that_fails_leaves_the_reply_as_it_is(stream: bool) -> None:
    model = Model(always=True, fails_after=1)
    harness = ProxyHarness(model, **LOCAL)
    row = Row("failing", "openai/mine", LOCAL)
    assert await ask(row, harness, stream=stream, disabled=False) == ("", "max_tokens")
    assert harness.receipts[0].outcome == "max_tokens"


async def test_the_question_of_claude_code_whether_a_model_answers_is_one_call() -> None:
    model = Model(always=True)
    harness = ProxyHarness(model, **LOCAL)
    await harness.post("quota", {"user-agent": "claude-cli/2.1.332"}, model="openai/mine", max_tokens=1)
    assert [read_limit(body) for body in model.bodies] == [1]


async def test_a_reply_that_uses_up_a_large_limit_is_not_repeated() -> None:
    model = Model(always=True, thoughts=40_000)
    harness = ProxyHarness(model, **LOCAL)
    await harness.post(model="openai/mine", max_tokens=16_000, stream=True)
    assert [read_limit(body) for body in model.bodies] == [16_000]
