"""Conversations with thinking of several providers, of which Anthropic's API accepts only its own."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from anthropic_proxy.engine.engine import Engine, build_engine
from anthropic_proxy.engine.exchange.in_process import send_request
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.gateway.settings import load_settings
from tests.support.fakes.anthropic.rules import sign
from tests.support.fakes.anthropic.server import KEY, new_anthropic
from tests.support.fakes.server import Running, serving
from tests.support.harness import FakeResponse, ProxyHarness

MANUAL, ADAPTIVE = {"type": "enabled", "budget_tokens": 2_000}, {"type": "adaptive"}
TOOLS = [{"name": "f", "input_schema": {"type": "object"}}]
CLEARS = {"type": "clear_thinking_20251015", "keep": "all"}
QUESTION = {"role": "user", "content": "Say exactly: hello"}


def thought(signature: str | None = None, text: str = "hm") -> dict[str, Any]:
    """Return a thinking block, signed by Anthropic if no other signature is given."""
    return {"type": "thinking", "thinking": text, "signature": sign(text) if signature is None else signature}


OF_PROXY, OF_GATEWAY = thought("px1.file-ds.eyJyIjoxfQ"), thought("gateway-1")


def calls(number: int, *before: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a reply with a tool call, and its result."""
    call = {"type": "tool_use", "id": f"toolu_{number}", "name": "f", "input": {}}
    result = {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": "ok"}
    return [{"role": "assistant", "content": [*before, call]}, {"role": "user", "content": [result]}]


def says(*before: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": [*before, {"type": "text", "text": "yes"}]}, QUESTION]


@asynccontextmanager
async def serving_anthropic() -> AsyncIterator[tuple[Engine, Running]]:
    with serving(new_anthropic(KEY)) as running:
        variables = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_UPSTREAM_URL": running.url, "LOG_LEVEL": "critical"}
        engine = build_engine(load_settings(variables, PROVIDERS, env_file=None))
        yield engine, running
        await engine.close()


async def ask(engine: Engine, model: str, messages: list[Any], **fields: Any) -> tuple[int, Any]:
    body = {"model": f"anthropic/{model}", "max_tokens": 4_000, "messages": messages, "tools": TOOLS, **fields}
    headers = {"anthropic-version": "2023-06-01", "content-type": "application/json"}
    headers["anthropic-beta"] = "context-management-2025-06-27"
    reply = await send_request(engine, json.dumps(body).encode(), headers)
    return reply.status, json.loads(b"".join([piece async for piece in reply.body]))


def types_of(body: dict[str, Any]) -> list[list[str]]:
    replies = [message["content"] for message in body["messages"] if message["role"] == "assistant"]
    return [[block["type"] for block in content] for content in replies]


def refuse(text: str) -> FakeResponse:
    error = {"type": "error", "error": {"type": "invalid_request_error", "message": text}}
    return FakeResponse(400, json.dumps(error).encode())


def reply() -> FakeResponse:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "usage": {}}
    return FakeResponse(200, json.dumps(message | {"stop_reason": "end_turn"}).encode())


@pytest.mark.parametrize("foreign", [OF_PROXY, OF_GATEWAY])
async def test_tool_calls_that_another_provider_began_go_on_without_manual_thinking(foreign: dict[str, Any]) -> None:
    loop = [QUESTION, *calls(1, foreign), *calls(2, thought())]
    edits = [CLEARS, {"type": "clear_tool_uses_20250919"}]
    async with serving_anthropic() as (engine, running):
        for given, kept in ((edits, {"edits": edits[1:]}), (edits[:1], None)):
            status, message = await ask(
                engine, "claude-sonnet-4-5", loop, thinking=MANUAL, context_management={"edits": given}
            )
            assert status == 200, message
            sent = running.journal.exchanges[-1].body
            assert (sent["thinking"], sent.get("context_management")) == ({"type": "disabled"}, kept)
            assert types_of(sent) == [["tool_use"], ["tool_use"]]
        status, message = await ask(engine, "claude-sonnet-4-5", [*loop, *says()], thinking=MANUAL)
        assert status == 200, message
        sent = running.journal.exchanges[-1].body
        assert sent["thinking"] == MANUAL
        assert types_of(sent) == [["tool_use"], ["thinking", "tool_use"], ["text"]]
        refused = 1 if foreign is OF_GATEWAY else 0
        assert [exchange.status for exchange in running.journal.exchanges] == [400] * refused + [200] * 3


@pytest.mark.parametrize(
    ("model", "thinking", "messages", "expected"),
    [
        ("claude-opus-5-5", ADAPTIVE, [QUESTION, *calls(1, OF_PROXY)], [["tool_use"]]),
        (
            "claude-sonnet-4-5",
            MANUAL,
            [QUESTION, *calls(1, thought()), *calls(2, OF_PROXY)],
            [["thinking", "tool_use"], ["tool_use"]],
        ),
        (
            "claude-sonnet-4-5",
            MANUAL,
            [QUESTION, *calls(1, OF_PROXY), *says(), *calls(2, thought())],
            [["tool_use"], ["text"], ["thinking", "tool_use"]],
        ),
    ],
    ids=["adaptive", "begun by Anthropic", "an earlier turn"],
)
async def test_thinking_stays_where_the_rule_of_manual_thinking_does_not_apply(
    model: str, thinking: dict[str, Any], messages: list[Any], expected: list[list[str]]
) -> None:
    async with serving_anthropic() as (engine, running):
        context_management = {"edits": [CLEARS]}
        status, message = await ask(engine, model, messages, thinking=thinking, context_management=context_management)
        assert status == 200, message
        (sent,) = [exchange.body for exchange in running.journal.exchanges]
    assert (sent["thinking"], sent["context_management"]) == (thinking, context_management)
    assert types_of(sent) == expected


async def test_a_server_with_a_stricter_rule_gets_the_request_without_thinking() -> None:
    """It wants thinking at the beginning of each reply. The proxy cannot know before."""
    bodies: list[dict[str, Any]] = []

    def answer(_: str, request: UpstreamRequest, __: Credential | None) -> FakeResponse:
        bodies.append(json.loads(request.body))
        if bodies[-1]["thinking"] == MANUAL:
            return refuse("messages.3.content.0.type: Expected `thinking`, but found `tool_use`.")
        return reply()

    proxy = ProxyHarness(answer, ANTHROPIC_API_KEY=KEY)
    loop = [QUESTION, *calls(1, thought()), *calls(2)]
    await proxy.post(model="anthropic/claude-sonnet-4-5", messages=loop, tools=TOOLS, thinking=MANUAL)
    assert [body["thinking"] for body in bodies] == [MANUAL, {"type": "disabled"}]
    assert [types_of(body) for body in bodies] == [
        [["thinking", "tool_use"], ["tool_use"]],
        [["tool_use"], ["tool_use"]],
    ]
    assert proxy.receipts[0].adaptations == ["thinking disabled"]


async def test_only_the_named_thinking_is_left_out_and_the_own_thinking_stays() -> None:
    messages = [QUESTION, *says(thought(text="one")), *says(OF_GATEWAY), *says(thought(text="two"))]
    async with serving_anthropic() as (engine, running):
        for _ in range(2):
            status, message = await ask(engine, "claude-opus-5-5", messages, thinking=ADAPTIVE)
            assert status == 200, message
        sent = [exchange.body for exchange in running.journal.exchanges]
    own, other = ["thinking", "text"], ["text"]
    assert [types_of(body) for body in sent] == [[own, own, own], [own, other, own], [own, other, own]]


async def test_of_thinking_without_a_text_only_the_named_one_is_left_out() -> None:
    bodies: list[dict[str, Any]] = []

    def answer(_: str, request: UpstreamRequest, __: Credential | None) -> FakeResponse:
        body = json.loads(request.body)
        bodies.append(body)
        for number, message in enumerate(body["messages"]):
            if message["content"][0].get("data") == "of another account":
                return refuse(f"messages.{number}.content.0: Invalid `signature` in `thinking` block")
        return reply()

    proxy = ProxyHarness(answer, ANTHROPIC_API_KEY=KEY)
    replies = [{"type": "redacted_thinking", "data": data} for data in ("own", "of another account", "own too")]
    question = {"role": "user", "content": [{"type": "text", "text": "hello"}]}
    messages = [question, *(message for one in replies for message in (says(one)[0], question))]
    for _ in range(2):
        await proxy.post(model="anthropic/claude-opus-5-5", messages=messages, thinking=ADAPTIVE)
    own, other = ["redacted_thinking", "text"], ["text"]
    assert [types_of(body) for body in bodies] == [[own, own, own], [own, other, own], [own, other, own]]


def refuse_thinking(body: dict[str, Any], place: int) -> FakeResponse | None:
    """Return an error that names one of the foreign thinking blocks: 0 the first, -1 the last. None: there is none."""
    wrong = [
        f"messages.{number}.content.{position}"
        for number, message in enumerate(body["messages"])
        if message["role"] == "assistant"
        for position, block in enumerate(message["content"])
        if block.get("signature", "").startswith("gateway-")
    ]
    return refuse(f"{wrong[place]}: Invalid `signature` in `thinking` block") if wrong else None


OWN, OTHER = ["thinking", "text"], ["text"]


@pytest.mark.parametrize(("count", "turns_without_own"), [(2, 0), (4, 0), (5, 0), (6, 1), (9, 1), (12, 2)])
async def test_own_thinking_behind_refused_thinking_is_never_lost_for_good(count: int, turns_without_own: int) -> None:
    """The proxy knows nothing of the conversation, as after its restart."""
    messages: list[Any] = [QUESTION]
    for number in range(count):
        messages += says(thought(f"gateway-{number}"))
    for number in range(3):
        messages += says(thought(text=f"own {number}"))
    async with serving_anthropic() as (engine, running):
        for turn in range(4):
            status, message = await ask(engine, "claude-opus-5-5", messages, thinking=ADAPTIVE)
            assert status == 200, message
            sent = types_of(running.journal.exchanges[-1].body)
            own = OTHER if turn < turns_without_own else OWN
            assert sent == [*[OTHER] * count, *[own] * (3 + turn)]
            messages += says(thought(text=f"turn {turn}"))
        refusals = [exchange for exchange in running.journal.exchanges if exchange.status == 400]
    assert len(refusals) == count


GATEWAY = {"OPENAI_API_KEY": KEY, "OPENAI_WIRE": "messages", "OPENAI_BASE_URL": "https://gateway.example/v1"}


@pytest.mark.parametrize("signature", ["", "constant"])
async def test_thinking_that_one_model_refuses_stays_for_others_and_other_thinking_too(signature: str) -> None:
    """Models that sign nothing want their thinking back. All of theirs in one request costs one refused call."""
    bodies: list[dict[str, Any]] = []
    own = {f"{word} {sign(word)}" for word in ("one", "two")}

    def answer(_: str, request: UpstreamRequest, __: Credential | None) -> FakeResponse:
        body = json.loads(request.body)
        bodies.append(body)
        for number, message in enumerate(body["messages"] if body["model"] == "claude-opus-5-5" else ()):
            block = message["content"][0] if message["role"] == "assistant" else {"type": ""}
            if block["type"] == "thinking" and f"{block['thinking']} {block['signature']}" not in own:
                return refuse(f"messages.{number}.content.0: Invalid `signature` in `thinking` block")
        return reply()

    proxy = ProxyHarness(answer, **GATEWAY)

    async def ask_model(model: str, *replies: dict[str, Any]) -> list[list[str]]:
        messages = [QUESTION, *(message for one in replies for message in says(one))]
        await proxy.post(model=f"openai/{model}", messages=messages, thinking=ADAPTIVE)
        return types_of(bodies[-1])

    foreign = [thought(signature, f"thought {number}") for number in range(12)]
    assert await ask_model("claude-opus-5-5", *foreign, thought(text="one")) == [*[OTHER] * 12, OWN]
    assert len(bodies) == 2
    assert await ask_model("minimax-m3", *foreign) == [OWN] * 12
    assert await ask_model("claude-opus-5-5", *foreign, thought(text="two")) == [*[OTHER] * 12, OWN]
    assert len(bodies) == 4


@pytest.mark.parametrize("place", [0, -1], ids=["first", "last"])
async def test_a_request_is_answered_whichever_refused_thinking_the_server_names(place: int) -> None:
    bodies: list[dict[str, Any]] = []

    def answer(_: str, request: UpstreamRequest, __: Credential | None) -> FakeResponse:
        bodies.append(json.loads(request.body))
        return refuse_thinking(bodies[-1], place) or reply()

    proxy = ProxyHarness(answer, ANTHROPIC_API_KEY=KEY)
    messages = [QUESTION, *says(thought(text="one"))]
    for number in range(9):
        messages += says(thought(f"gateway-{number}"))
    messages += says(thought(text="two"))
    counts, accepted = [], []
    for _ in range(3):
        before = len(bodies)
        await proxy.post(model="anthropic/claude-opus-5-5", messages=messages, thinking=ADAPTIVE)
        counts.append(len(bodies) - before)
        accepted.append(types_of(bodies[-1]))
    assert counts == [7, 4, 1]
    assert accepted == [[OTHER] * 11, [OWN, *[OTHER] * 9, OWN], [OWN, *[OTHER] * 9, OWN]]


async def test_the_refusal_of_a_field_leaves_the_thinking_behind_refused_thinking() -> None:
    bodies: list[dict[str, Any]] = []

    def answer(_: str, request: UpstreamRequest, __: Credential | None) -> FakeResponse:
        bodies.append(json.loads(request.body))
        if "service_tier" in bodies[-1]:
            return refuse("service_tier: Extra inputs are not permitted")
        return refuse_thinking(bodies[-1], 0) or reply()

    foundry = {"ANTHROPIC_FOUNDRY_API_KEY": KEY, "FOUNDRY_BASE_URL": "https://foundry.example/anthropic"}
    proxy = ProxyHarness(answer, **foundry)
    messages = [QUESTION, *says(OF_GATEWAY), *says(thought())]
    model = "foundry/claude-opus-5-5"
    await proxy.post(model=model, messages=messages, thinking=ADAPTIVE, service_tier="auto")
    assert [types_of(body) for body in bodies] == [[OWN, OWN], [OWN, OWN], [OTHER, OWN]]


@pytest.mark.parametrize(
    ("own", "foreign", "calls_of_turns", "kept"),
    [(1, 1, [2, 1], 1), (8, 2, [2, 1], 5), (3, 7, [3, 1], 2), (0, 4, [4, 1], 0), (0, 60, [7, 1], 0)],
)
async def test_if_the_error_names_no_block_at_least_half_of_the_thinking_before_the_foreign_one_stays(
    own: int, foreign: int, calls_of_turns: list[int], kept: int
) -> None:
    bodies: list[dict[str, Any]] = []

    def answer(_: str, request: UpstreamRequest, __: Credential | None) -> FakeResponse:
        bodies.append(json.loads(request.body))
        refused = refuse_thinking(bodies[-1], 0)
        return reply() if refused is None else refuse("Invalid `signature` in `thinking` block")

    proxy = ProxyHarness(answer, ANTHROPIC_API_KEY=KEY)
    messages: list[Any] = [QUESTION]
    for number in range(own):
        messages += says(thought(text=f"own {number}"))
    for number in range(foreign):
        messages += says(thought(f"gateway-{number}"))
    counts = []
    for turn in range(2):
        before = len(bodies)
        await proxy.post(model="anthropic/claude-opus-5-5", messages=messages, thinking=ADAPTIVE)
        counts.append(len(bodies) - before)
        assert types_of(bodies[-1]) == [*[OWN] * kept, *[OTHER] * (own + foreign - kept), *[OWN] * turn]
        messages += says(thought(text=f"turn {turn}"))
    assert counts == calls_of_turns


def proxy_of_loops_with_thinking() -> tuple[ProxyHarness, list[dict[str, Any]]]:
    """Return a proxy before a server that refuses a tool loop without thinking, and the bodies that it gets."""
    bodies: list[dict[str, Any]] = []

    def answer(_: str, request: UpstreamRequest, __: Credential | None) -> FakeResponse:
        bodies.append(json.loads(request.body))
        if bodies[-1]["thinking"] == MANUAL and any("thinking" not in types for types in types_of(bodies[-1])):
            return refuse("messages.3.content.0.type: Expected `thinking`, but found `tool_use`.")
        return reply()

    return ProxyHarness(answer, ANTHROPIC_API_KEY=KEY), bodies


@pytest.mark.parametrize("begins", [[thought()], []], ids=["a stricter server", "no thinking before"])
async def test_tool_calls_whose_thinking_was_refused_cost_one_rejected_call(begins: list[dict[str, Any]]) -> None:
    proxy, bodies = proxy_of_loops_with_thinking()
    loop = [QUESTION, *calls(1, *begins), *calls(2)]
    for number in (3, 4):
        await proxy.post(model="anthropic/claude-sonnet-4-5", messages=loop, tools=TOOLS, thinking=MANUAL)
        loop += calls(number)
    disabled = {"type": "disabled"}
    assert [body["thinking"] for body in bodies] == [MANUAL, disabled, disabled]
    other = [QUESTION, *calls(5, thought())]
    await proxy.post(model="anthropic/claude-sonnet-4-5", messages=other, tools=TOOLS, thinking=MANUAL)
    assert bodies[-1]["thinking"] == MANUAL
    assert types_of(bodies[-1]) == [["thinking", "tool_use"]]


async def test_tool_calls_of_others_with_the_same_id_keep_their_thinking() -> None:
    proxy, bodies = proxy_of_loops_with_thinking()
    other = {"role": "user", "content": "Another question"}
    for messages in (
        [QUESTION, *calls(1, thought()), *calls(2)],
        [QUESTION, *calls(1, thought(text="mine"))],
        [other, *calls(1, thought())],
    ):
        await proxy.post(model="anthropic/claude-sonnet-4-5", messages=messages, tools=TOOLS, thinking=MANUAL)
    assert [body["thinking"] for body in bodies] == [MANUAL, {"type": "disabled"}, MANUAL, MANUAL]
    assert [types_of(body) for body in bodies[2:]] == [[["thinking", "tool_use"]]] * 2


MODIFIED = "`thinking` or `redacted_thinking` blocks in the latest assistant message cannot be modified."
FIRST = "If an assistant message contains any thinking blocks, the first block must be `thinking`. Found `text`."
REDACTED = {"type": "redacted_thinking", "data": "encrypted"}


@pytest.mark.parametrize("place", ["messages.1.content.0: ", ""])
@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        (MODIFIED, [thought("a"), REDACTED]),
        (MODIFIED, [thought("a"), thought("b")]),
        ("Invalid `data` in `redacted_thinking` block", [REDACTED]),
        ("Invalid `signature` in `thinking` block", [thought("a"), REDACTED]),
        (FIRST, [{"type": "text", "text": "I look."}, thought("a")]),
        ("Thinking blocks of the last reply are not valid here", [thought("a"), thought("b")]),
    ],
)
async def test_a_reply_whose_thinking_is_refused_loses_all_of_it(
    text: str, blocks: list[dict[str, Any]], place: str
) -> None:
    sent: list[list[str]] = []

    def answer(_: str, request: UpstreamRequest, __: Credential | None) -> FakeResponse:
        types = types_of(json.loads(request.body))[0]
        sent.append(types)
        return refuse(place + text) if {"thinking", "redacted_thinking"} & {*types} else reply()

    proxy = ProxyHarness(answer, **GATEWAY)
    messages = [QUESTION, *calls(1, *blocks)]
    for _ in range(2):
        assert (await proxy.post(model="openai/claude-opus-5-5", messages=messages, thinking=ADAPTIVE)).error is None
    kept = [block["type"] for block in blocks if block["type"] == "text"]
    assert sent[-1] == [*kept, "tool_use"]
    assert len(sent) <= 4  # the next turn needs one call


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("This model does not support the effort parameter.", ["output_config"]),
        ("effort is not available for this deployment", ["output_config"]),
        ("adaptive thinking is not supported on this model", ["thinking"]),
        ("Unsupported value: thinking type 'adaptive'", ["thinking"]),
        ("thinking: Input tag 'adaptive' found using 'type' does not match any of the expected tags", ["thinking"]),
        ("`clear_thinking_20251015` strategy requires `thinking` to be enabled", ["context_management"]),
        ("temperature may only be 1 when thinking is enabled", []),
        ("max_tokens must be greater than thinking.budget_tokens", []),
    ],
)
async def test_a_feature_that_a_claude_of_an_unknown_name_lacks_is_left_out(text: str, lost: list[str]) -> None:
    bodies: list[dict[str, Any]] = []

    def answer(_: str, request: UpstreamRequest, __: Credential | None) -> FakeResponse:
        bodies.append(json.loads(request.body))
        return refuse(text) if not lost or lost[0] in bodies[-1] else reply()

    gateway = {"ANTHROPIC_FOUNDRY_API_KEY": "sk-test-0123456789", "FOUNDRY_BASE_URL": "http://127.0.0.1:8000/foundry"}
    proxy = ProxyHarness(answer, **gateway)
    fields = {"output_config": {"effort": "high"}, "thinking": ADAPTIVE, "context_management": {"edits": [CLEARS]}}
    sink = await proxy.post(model="foundry/team-small", **fields)
    assert (sink.error is None) == bool(lost)
    if lost:  # else the plain form was refused too
        assert [name for name in fields if name not in bodies[-1]] == lost
