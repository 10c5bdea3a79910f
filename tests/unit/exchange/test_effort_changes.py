"""Efforts of a conversation with GPT-6. Its requests: `golden_texts/exchanges/effort_changes`."""

import pytest

from anthropic_proxy.engine.messages.effort_plan import MAX_CHANGES, EffortPlan, decode_plan, encode_plan, follow_effort
from anthropic_proxy.engine.messages.models import Message, TextBlock, ToolResultBlock


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
