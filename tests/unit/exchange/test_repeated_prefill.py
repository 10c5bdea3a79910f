"""A reply that begins with the client's prefill: the client, which joins both, gets the prefill once."""

import json
from typing import Any

import pytest

from tests.support.harness import FakeResponse, ProxyHarness
from tests.support.replies import CHAT, GEMINI, OLLAMA, RESPONSES, Reply, ReplyForm

KEYS = {
    "OPENAI_API_KEY": "sk-one-0123456789",
    "MISTRAL_API_KEY": "mistral-0123456789",
    "GROQ_API_KEY": "gsk_two0123456789",
    "GEMINI_API_KEY": "AIza-one-0123456789",
    "OLLAMA_API_BASE": "http://127.0.0.1:9",
}
MODELS: dict[str, tuple[str, ReplyForm]] = {
    "chat": ("groq/qwen/qwen3-32b", CHAT),
    "responses": ("openai/gpt-5.5", RESPONSES),
    "gemini": ("gemini/gemini-3.6-flash", GEMINI),
    "ollama": ("ollama/llama3", OLLAMA),
}
CASES = [
    ('{"name": "', '{"name": "Ann"}', 'Ann"}'),
    ("{", '{"a": 1}', '"a": 1}'),
    ("The answer is", "\n\nThe answer is 4.", " 4."),
    ("The answer is", " 4.", " 4."),
    ("The answer is", "The answer, then: 4.", "The answer, then: 4."),
    ("The answer is", "The answer", "The answer"),
    ("1", "1.", "1."),
    ("#", "# A title", "# A title"),
    ("{", "{", ""),
    ("[", "[1, 2], [3, 4]]", "[1, 2], [3, 4]]"),
    ("`", "``json", "``json"),
    ("ha", "ha ha", "ha ha"),
]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("wire", MODELS)
async def test_a_prefill_that_the_model_repeats_is_removed(wire: str, stream: bool) -> None:
    model, form = MODELS[wire]
    for prefill, text, expected in CASES:
        reply = Reply(texts=[text])

        def answer(*_: Any, reply: Reply = reply) -> FakeResponse:
            if stream:
                kind = "application/x-ndjson" if form is OLLAMA else "text/event-stream"
                return FakeResponse(200, *form.stream(reply), headers={"content-type": kind})
            return FakeResponse(200, form.whole(reply))

        proxy = ProxyHarness(answer, **KEYS)
        messages = [{"role": "user", "content": "go"}, {"role": "assistant", "content": prefill}]
        sink = await proxy.post(model=model, stream=stream, messages=messages, max_tokens=300)
        if stream:
            events = [json.loads(line[6:]) for line in sink.stream.decode().splitlines() if line.startswith("data: ")]
            found = "".join(
                event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta"
            )
        else:
            found = "".join(block["text"] for block in sink.body["content"])
        assert found == expected, (prefill, text)
