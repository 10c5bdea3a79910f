"""A small output limit gives text at a model that always reasons, from a server that counts reasoning toward it."""

import json
from typing import Any

import pytest

from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from tests.support.golden_runner import fold_events
from tests.support.harness import FakeResponse, ProxyHarness

REASONING_TOKENS = 300
WORDS = "The Baltic Sea lies between Sweden and Finland. " * 40


def answer(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
    body = json.loads(request.body)
    left = int(body.get("max_completion_tokens") or body["max_tokens"])
    reasoning = min(left, REASONING_TOKENS)
    text = WORDS[: (left - reasoning) * 4]
    message: dict[str, Any] = {"role": "assistant", "content": text, "reasoning": "x " * reasoning}
    choice = {"index": 0, "message": message, "finish_reason": "stop" if text == WORDS else "length"}
    spent = reasoning + len(text) // 4
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": spent,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    return FakeResponse(200, json.dumps({"choices": [choice], "usage": usage}).encode())


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("limit", [1, 64, 400])
async def test_a_small_limit_gives_text_up_to_the_limit_and_the_usage_that_is_billed(limit: int, stream: bool) -> None:
    proxy = ProxyHarness(answer, BIG_MODEL="groq/openai/gpt-oss-120b", GROQ_API_KEY="gsk_0123456789abcdef")
    sink = await proxy.post(max_tokens=limit, stream=stream)
    assert sink.error is None
    message = fold_events(sink.stream) if stream else sink.body
    texts = [block["text"] for block in message["content"] if block["type"] == "text"]
    assert texts == [WORDS[: limit * 4]]
    assert message["stop_reason"] == "max_tokens"
    assert message["usage"]["output_tokens"] == REASONING_TOKENS + len(WORDS) // 4
