"""A changed effort in a conversation with gpt-6-astra: the beginning of the request stays, an item has the change."""

import json
from typing import Any

import pytest

from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.messages.effort_plan import MAX_CHANGES, EffortPlan, decode_plan, encode_plan, follow_effort
from anthropic_proxy.engine.messages.models import Message, TextBlock, ToolResultBlock
from anthropic_proxy.engine.wires.contract import Credential, UpstreamRequest
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request

REPLY = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "well"}]}],
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "read", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "x"}
TOOL = {"name": "read", "input_schema": {"type": "object"}}


class Astra:
    def __init__(self, *refusals: str, model: str = "gpt-6-astra") -> None:
        self.bodies: list[dict[str, Any]] = []
        self._refusals = list(refusals)
        self._proxy = ProxyHarness(self._answer, OPENAI_API_KEY="sk-0123456789", BIG_MODEL=f"openai/{model}")

    def _answer(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        body = json.loads(request.body)
        self.bodies.append(body)
        if self._refusals and any(item["type"] == "configuration_update" for item in body["input"]):
            error = {"type": "invalid_request_error", "message": self._refusals.pop(), "param": "input[0].type"}
            return FakeResponse(400, json.dumps({"error": error}).encode())
        return FakeResponse(200, json.dumps(REPLY).encode())

    async def ask(self, effort: str, *messages: Any, session: str = "s-1") -> tuple[str, list[str]]:
        """Return the effort of the sent request, and its items in short."""
        body = {
            "model": "claude-sonnet-4-5",
            "max_tokens": 100,
            "tools": [TOOL],
            "messages": [
                {"role": "assistant" if number % 2 else "user", "content": content}
                for number, content in enumerate(messages)
            ],
            "output_config": {"effort": effort},
            "thinking": {"type": "adaptive"},
        }
        headers = {"x-claude-code-session-id": session} if session else {}
        sink = RecordingSink()
        incoming = new_client_request(json.dumps(body).encode(), headers)
        await Exchange(self._proxy.services, incoming, sink).run()
        assert sink.error is None, sink.error
        sent = self.bodies[-1]
        items = [
            f"effort {item['reasoning']['effort']}" if item["type"] == "configuration_update" else item["type"]
            for item in sent["input"]
        ]
        return sent["reasoning"]["effort"], items


async def test_a_changed_effort_is_an_item_before_its_user_message_in_all_later_requests() -> None:
    astra = Astra()
    assert await astra.ask("low", "a") == ("low", ["message"])
    assert await astra.ask("low", "a", "b", "c") == ("low", ["message"] * 3)
    changed = ["message"] * 4 + ["effort high", "message"]
    assert await astra.ask("high", "a", "b", "c", "d", "e") == ("low", changed)
    assert await astra.ask("high", "a", "b", "c", "d", "e", "f", "g") == ("low", [*changed, "message", "message"])
    back = [*changed, "message", "message", "message", "effort low", "message"]
    assert await astra.ask("low", *"abcdefghi") == ("low", back)
    assert astra.bodies[-1]["input"][4] == {"type": "configuration_update", "reasoning": {"effort": "high"}}
    before, after = (json.dumps(body["input"])[:-1] for body in astra.bodies[-2:])
    assert after.startswith(before)


async def test_the_change_stays_while_tools_run() -> None:
    astra = Astra()
    await astra.ask("low", "a")
    await astra.ask("high", "a", "b", "c")
    effort, items = await astra.ask("high", "a", "b", "c", [CALL], [RESULT])
    assert effort == "low"
    assert items == ["message", "message", "effort high", "message", "function_call", "function_call_output"]


async def test_a_change_in_the_middle_of_a_turn_begins_again() -> None:
    astra = Astra()
    await astra.ask("low", "a")
    assert (await astra.ask("high", "a", [CALL], [RESULT]))[0] == "high"
    assert await astra.ask("high", "a", [CALL], [RESULT], "d", "e") == (
        "high",
        ["message", "function_call", "function_call_output", "message", "message"],
    )


async def test_conversations_are_told_apart() -> None:
    astra = Astra()
    await astra.ask("low", "a")
    assert await astra.ask("high", "title") == ("high", ["message"])
    assert await astra.ask("high", "a", "b", "c", session="s-2") == ("high", ["message"] * 3)
    assert await astra.ask("high", "a", "b", "c", session="") == ("high", ["message"] * 3)
    assert (await astra.ask("high", "a", "b", "c"))[0] == "low"


@pytest.mark.parametrize(
    "message",
    [
        "The 'configuration_update' item type is not supported with this model.",
        "Invalid value: 'configuration_update'. Supported values are: 'message', 'reasoning'.",
    ],
)
async def test_a_server_that_rejects_the_item_gets_the_effort_as_before(message: str) -> None:
    astra = Astra(message)
    await astra.ask("low", "a")
    assert await astra.ask("high", "a", "b", "c") == ("high", ["message"] * 3)
    assert await astra.ask("low", "a", "b", "c", "d", "e") == ("low", ["message"] * 5)
    assert len(astra.bodies) == 4


@pytest.mark.parametrize("model", ["gpt-5.6-sol", "gpt-6-astra-pro", "gpt-6.1-sol"])
async def test_other_models_get_the_effort_of_the_request(model: str) -> None:
    astra = Astra(model=model)
    await astra.ask("low", "a")
    assert await astra.ask("high", "a", "b", "c") == ("high", ["message"] * 3)


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
