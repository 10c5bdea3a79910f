"""Efforts of a conversation with GPT-6. Its requests: `golden_texts/exchanges/effort_changes`."""

import json

import pytest

from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.messages.effort_plan import (
    MAX_CHANGES,
    MAX_PLANS,
    EffortPlan,
    KnownPlan,
    decode_plan,
    decode_plans,
    encode_plan,
    encode_plans,
    find_plan,
    follow_effort,
    keep_plan,
)
from anthropic_proxy.engine.messages.models import Message, TextBlock, ToolResultBlock
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.plugins import Client
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request
from tests.support.scripted_answers import respond


def turns(count: int, *, result: bool = False) -> list[Message]:
    messages = [Message(role="user", content=[TextBlock(b'"x"')]) for _ in range(count)]  # type: ignore[arg-type]
    if result:
        messages.append(Message(role="user", content=[ToolResultBlock(tool_use_id="a")]))
    return messages


@pytest.mark.parametrize(
    ("known", "messages", "effort", "plan"),
    [
        (None, turns(3), "high", EffortPlan("high")),
        (EffortPlan("low"), [], "high", EffortPlan("high")),
        (EffortPlan("none"), turns(2), "high", EffortPlan("high")),
        (EffortPlan("low"), turns(2), "none", EffortPlan("none")),
        (EffortPlan("low"), turns(2), "default", EffortPlan("default")),
        (EffortPlan("low"), turns(2), "high", EffortPlan("low", {1: "high"})),
        (EffortPlan("low", {1: "high"}), turns(2), "high", EffortPlan("low", {1: "high"})),
        (EffortPlan("low", {1: "high"}), turns(2), "max", EffortPlan("low", {1: "max"})),
        (EffortPlan("low", {1: "high"}), turns(2), "low", EffortPlan("low", {})),
        (EffortPlan("low", {1: "high", 4: "max"}), turns(3), "high", EffortPlan("low", {1: "high"})),
        (EffortPlan("low", {1: "high"}), turns(2, result=True), "high", EffortPlan("low", {1: "high"})),
        (EffortPlan("low"), turns(2, result=True), "high", EffortPlan("high")),
        (
            EffortPlan("low", {turn: ("max", "high")[turn % 2] for turn in range(1, MAX_CHANGES + 1)}),
            turns(90),
            "low",
            EffortPlan("low"),
        ),
    ],
)
def test_a_plan_follows_the_conversation(
    known: EffortPlan | None, messages: list[Message], effort: str, plan: EffortPlan
) -> None:
    assert follow_effort(known, messages, effort) == plan
    assert follow_effort(plan, messages, effort) == plan
    assert decode_plan(encode_plan(plan)) == plan


@pytest.mark.parametrize("text", ["", "low x:high", "low :", "low 1:high 2", f"low {'9' * 5_000}:high"])
def test_a_damaged_plan_is_none(text: str) -> None:
    assert decode_plan(text) is None


class Conversation:
    """Requests of one conversation and those beside it, with what is kept between them."""

    def __init__(self) -> None:
        self.stored = ""

    def ask(self, texts: str, effort: str, *, in_loop: bool = False) -> EffortPlan:
        """`texts`: one letter for each user message. `in_loop`: results of tools follow."""
        content = [[TextBlock(f'"{letter}"'.encode())] for letter in texts]
        messages = [Message(role="user", content=blocks) for blocks in content]  # type: ignore[arg-type]
        known = decode_plans(self.stored)
        messages += turns(0, result=True) if in_loop else []
        plan = follow_effort(find_plan(known, messages, effort), messages, effort)
        self.stored = encode_plans(keep_plan(known, messages, plan))
        return plan


def test_a_request_beside_the_conversation_with_another_effort_moves_no_change() -> None:
    talk = Conversation()
    talk.ask("a", "medium")
    before = talk.ask("ab", "high")
    assert before == EffortPlan("medium", {1: "high"})
    assert talk.ask("a", "low") == EffortPlan("medium", {0: "low"})
    assert talk.ask("ab", "none") == EffortPlan("none")
    assert talk.ask("ab", "high", in_loop=True) == before
    assert talk.ask("ab", "low", in_loop=True) == EffortPlan("low")
    assert talk.ask("abs", "low") == EffortPlan("low")
    assert talk.ask("abc", "high") == before
    assert talk.ask("abt", "low") == EffortPlan("low")
    assert talk.ask("abcd", "high", in_loop=True) == before
    assert talk.ask("abcde", "max") == EffortPlan("medium", {1: "high", 4: "max"})


def test_a_conversation_without_thinking_begins_its_plan_with_the_first_effort() -> None:
    talk = Conversation()
    assert talk.ask("a", "none") == EffortPlan("none")
    assert talk.ask("a", "high") == EffortPlan("high")
    assert talk.ask("ab", "low") == EffortPlan("high", {1: "low"})


def test_after_an_edited_message_the_latest_request_counts() -> None:
    talk = Conversation()
    talk.ask("a", "high")
    talk.ask("ab", "low")
    assert talk.ask("xyz", "low") == EffortPlan("high", {1: "low"})


def test_only_so_many_plans_are_kept() -> None:
    talk = Conversation()
    for count in range(1, MAX_PLANS + 5):
        talk.ask("abcdefghijklmnop"[:count], "high")
    assert len(decode_plans(talk.stored)) == MAX_PLANS
    assert decode_plans("1 2 high\nx 2 high\n1 high\n\n3 4 low 1:max") == [
        KnownPlan(1, 2, EffortPlan("high")),
        KnownPlan(3, 4, EffortPlan("low", {1: "max"})),
    ]


async def test_another_client_with_the_same_session_begins_its_own_plan() -> None:
    sent: list[tuple[str, list[str]]] = []

    def answer(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        body = json.loads(request.body)
        sent.append((body["reasoning"]["effort"], [item["type"] for item in body["input"]]))
        return respond("200", body, request.path)

    proxy = ProxyHarness(answer, OPENAI_API_KEY="sk-0123456789", BIG_MODEL="openai/gpt-6-astra")
    for client, effort in (("key 1", "low"), ("key 2", "high"), ("key 1", "max")):
        body = {"model": "claude-opus-4-5", "max_tokens": 100, "output_config": {"effort": effort}}
        body |= {"thinking": {"type": "adaptive"}, "messages": [{"role": "user", "content": "a"}]}
        headers = {"x-claude-code-session-id": "s-1"}
        incoming = new_client_request(json.dumps(body).encode(), headers, client=Client(name=client))
        await Exchange(proxy.services, incoming, RecordingSink()).run()
    assert sent == [("low", ["message"]), ("high", ["message"]), ("low", ["configuration_update", "message"])]
