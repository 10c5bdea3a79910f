"""Budgets of keys whose requests need several calls to a provider."""

import asyncio
import json
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.gateway.settings.key_rules import Budget, Rules
from anthropic_proxy.plugins import AdmissionTarget
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request
from tests.support.tool_loop import MAIL, REGEX, WEATHER, call, calls, deferred, message_of, reply, text
from tests.support.virtual_keys import Keys

DOLLAR = 1_000_000_000
INPUT_TOKENS, OUTPUT_TOKENS = 15_000, 50
PRICE = INPUT_TOKENS * 2_000 + OUTPUT_TOKENS * 8_000
"""Nano-dollars of each call to gpt-4.1: 2 and 8 dollars for a million tokens."""
FOLLOW = calls(call("tool_search_tool_regex", pattern="weather"), tokens=(INPUT_TOKENS, OUTPUT_TOKENS))


class Provider:
    """A provider whose model searches tools again and again, with bills for each call."""

    def __init__(self, last_call: int = 1000) -> None:
        self.billed = 0
        self._last_call = last_call
        self._ended = asyncio.Event()

    def __call__(self, *_: Any) -> FakeResponse:
        self.billed += PRICE
        if self.billed >= self._last_call * PRICE:
            return FakeResponse(200, *reply(text("So."), tokens=(INPUT_TOKENS, OUTPUT_TOKENS)))
        return FakeResponse(200, *FOLLOW)


async def serve(proxy: ProxyHarness, keys: Keys, key: str, number: int = 0, **fields: Any) -> RecordingSink:
    client = await keys.policy.identify({"x-api-key": key})
    body = {
        "model": "claude-sonnet-4-5",
        "max_tokens": 1_000,
        "messages": [{"role": "user", "content": "many words " * 10_000}],
        "tools": [REGEX, *deferred(WEATHER, MAIL)],
        "stream": True,
        **fields,
    }
    sink = RecordingSink()
    incoming = new_client_request(json.dumps(body).encode(), client=client, request_id=f"req_{number}")
    sink.receipt = incoming.receipt
    await Exchange(proxy.services, incoming, sink).run()
    return sink


def build_proxy(provider: Provider, keys: Keys) -> ProxyHarness:
    proxy = ProxyHarness(provider, OPENAI_API_KEY="sk-test-0123456789", OPENAI_WIRE="chat")
    proxy.services = structs.replace(proxy.services, policies=(keys.policy,))
    return proxy


async def test_parallel_replies_of_many_calls_keep_a_budget(keys: Keys) -> None:
    provider = Provider()
    proxy = build_proxy(provider, keys)
    key = await keys.create("ci", rules=Rules(budgets=(Budget(1, "usd", "total"),)))
    sinks = await asyncio.gather(*(serve(proxy, keys, key, number) for number in range(30)))
    await keys.settled()
    assert DOLLAR // 2 < provider.billed <= DOLLAR
    served = [sink for sink in sinks if sink.error is None]
    assert {message_of(sink).stop_reason for sink in served} == {"pause_turn"}
    assert {sink.error.status for sink in sinks if sink.error is not None} <= {429}
    # what is left can be used by later requests
    for number in range(100):
        if (await serve(proxy, keys, key, number)).error is not None:
            break
        await keys.settled()
    assert DOLLAR - PRICE < provider.billed < DOLLAR + PRICE


async def test_a_reply_ends_before_the_call_for_which_the_budget_is_too_small(keys: Keys) -> None:
    provider = Provider()
    proxy = build_proxy(provider, keys)
    key = await keys.create("ci", rules=Rules(budgets=(Budget(3 * PRICE / DOLLAR, "usd", "total"),)))
    sink = await serve(proxy, keys, key)
    await keys.settled()
    message = message_of(sink)
    kinds = [block.type for block in message.content]
    count = provider.billed // PRICE
    assert (message.stop_reason, kinds) == ("pause_turn", ["server_tool_use", "tool_search_tool_result"] * count)
    assert 0 < count <= 3
    assert message.usage.input_tokens == count * INPUT_TOKENS
    assert sink.receipt.outcome == "pause_turn"
    assert len(sink.receipt.attempts) == count


async def test_a_further_call_within_the_budget_is_sent(keys: Keys) -> None:
    provider = Provider(last_call=4)
    proxy = build_proxy(provider, keys)
    key = await keys.create("ci", rules=Rules(budgets=(Budget(1, "usd", "total"),)))
    sink = await serve(proxy, keys, key)
    await keys.settled()
    assert (message_of(sink).stop_reason, provider.billed) == ("end_turn", 4 * PRICE)
    remaining = await serve(proxy, keys, key)
    assert remaining.error is None
    assert await keys.read_uses() == {}


async def test_what_earlier_further_calls_have_reserved_is_not_reserved_again(keys: Keys) -> None:
    """The fourth call needs the costs of three calls and its own highest cost: less than those of six calls."""
    provider = Provider(last_call=4)
    key = await keys.create("ci", rules=Rules(budgets=(Budget(6 * PRICE / DOLLAR, "usd", "total"),)))
    sink = await serve(build_proxy(provider, keys), keys, key)
    assert (message_of(sink).stop_reason, provider.billed) == ("end_turn", 4 * PRICE)


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({}, 4),
        ({"service_tier": "fast"}, 2),
        ({"max_searches": 20}, 2),
        ({"max_searches": 20, "service_tier": "fast"}, 1),
    ],
    ids=["normal", "fast mode", "searches", "both"],
)
async def test_the_tier_and_the_searches_of_a_request_are_reserved(
    keys: Keys, fields: dict[str, Any], count: int
) -> None:
    """Each request reserves 0.225 dollars for its tokens, 0.45 in fast mode, and 0.2 for 20 searches."""
    target = AdmissionTarget(prefix="anthropic", model="claude-opus-4-8", max_output_tokens=1_000, **fields)
    key = await keys.create("ci", rules=Rules(budgets=(Budget(1, "usd", "total"),)))
    for _ in range(count):
        await keys.admit(key, targets=[target], estimate_input_tokens=lambda: 20_000)
    await keys.refuse(key, 429, targets=[target], estimate_input_tokens=lambda: 20_000)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"tools": []}, ("", 0)),
        (
            {"speed": "fast", "tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 20}]},
            ("fast", 20),
        ),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, ("", 5)),
    ],
)
@pytest.mark.parametrize("model", ["anthropic/claude-opus-4-6", "openai/gpt-4.1"])
async def test_policies_learn_what_a_request_may_cost_besides_tokens(
    keys: Keys, model: str, fields: dict[str, Any], expected: tuple[str, int]
) -> None:
    asked: list[AdmissionTarget] = []

    class Policy:
        async def identify(self, _: Any) -> None: ...

        async def admit(self, request: Any) -> None:
            asked.extend(request.targets)

    proxy = ProxyHarness(
        lambda *_: FakeResponse(400, b"{}"),
        OPENAI_API_KEY="sk-test-0123456789",
        ANTHROPIC_API_KEY="sk-ant-test-01234567",
    )
    proxy.services = structs.replace(proxy.services, policies=(Policy(),))
    await proxy.post(model=model, **fields)
    assert [(target.service_tier, target.max_searches) for target in asked] == [expected]


VERDICT = {
    "message": {"content": '{"rule": "none", "verdict": "not_flagged", "explanation": ""}'},
    "finish_reason": "stop",
}
CHECK_USAGE = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": OUTPUT_TOKENS}
SAFEGUARDS = [{"type": "dangerous_tool_use", "classifier_context": {"v": 1}}]
BASH = {"name": "Bash", "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}}}


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (2, ("not_flagged", "model", "")),  # it is then used up by a reply and its check
        (0.2, ("unavailable", "error", "the checking model failed: rate_limit_error")),  # the reply reserves all of it
    ],
)
async def test_checks_of_tool_calls_count_in_a_budget(
    keys: Keys, budget: float, expected: tuple[str, str, str]
) -> None:
    billed = 0

    def provide(*_: Any) -> FakeResponse:
        nonlocal billed
        billed += 1
        if billed == 1:
            return FakeResponse(200, *calls(call("Bash", command="make"), tokens=(INPUT_TOKENS, OUTPUT_TOKENS)))
        return FakeResponse(200, json.dumps({"choices": [VERDICT], "usage": CHECK_USAGE}).encode())

    proxy = ProxyHarness(provide, OPENAI_API_KEY="sk-test-0123456789", OPENAI_WIRE="chat")
    proxy.services = structs.replace(proxy.services, policies=(keys.policy,))
    key = await keys.create("ci", rules=Rules(budgets=(Budget(budget * PRICE / DOLLAR, "usd", "total"),)))
    fields: dict[str, Any] = {"tools": [BASH], "safeguards": SAFEGUARDS, "messages": [{"role": "user", "content": "x"}]}
    sink = await serve(proxy, keys, key, **fields)
    await keys.settled()
    (check,) = sink.receipt.checks
    assert (check.verdict, check.kind, check.reason) == expected
    assert billed == (1 if check.verdict == "unavailable" else 2)
    assert (await keys.refuse(key, 429)).message.startswith("The key 'ci' has used up its budget of ")
