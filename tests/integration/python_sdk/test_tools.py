"""Tools: calls, results, choices, the tool runner."""

import base64
from typing import Any

import anthropic
import pytest

from tests.support.fakes.openai_chat.samples import png
from tests.support.sdk import MODEL, TIME, WEATHER, Upstream, text_of, user_messages


def test_a_failed_tool_and_a_picture_from_one(client: anthropic.Anthropic, upstream: Upstream) -> None:
    picture = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(png(5, 7)).decode()}
    results = [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": "no such city", "is_error": True},
        {"type": "tool_result", "tool_use_id": "toolu_2", "content": [{"type": "image", "source": picture}]},
    ]
    calls = [
        {"type": "tool_use", "id": f"toolu_{number}", "name": "get_weather", "input": {"city": "X"}}
        for number in (1, 2)
    ]
    turns: Any = [
        *user_messages("Describe the pictures"),
        {"role": "assistant", "content": calls},
        {"role": "user", "content": results},
    ]
    message = client.messages.create(model=MODEL, max_tokens=200, tools=[WEATHER], messages=turns)  # type: ignore[list-item]
    assert text_of(message) == "I see 1 pictures: image/png 5 by 7."
    results = [sent["content"] for sent in upstream.last["messages"] if sent["role"] == "tool"]
    assert "no such city" in results[0]
    assert results[1]


@pytest.mark.parametrize(
    ("choice", "called", "sent"),
    [
        ({"type": "auto"}, [], "auto"),
        ({"type": "none"}, [], "none"),
        ({"type": "any"}, ["get_weather"], "required"),
        ({"type": "tool", "name": "get_time"}, ["get_time"], {"type": "function", "function": {"name": "get_time"}}),
    ],
)
def test_the_choice_of_a_tool(
    client: anthropic.Anthropic, upstream: Upstream, choice: Any, called: list[str], sent: Any
) -> None:
    message = client.messages.create(
        model=MODEL,
        max_tokens=100,
        tools=[WEATHER, TIME],  # type: ignore[list-item]
        tool_choice=choice,
        messages=user_messages("Say exactly: hello"),
    )
    assert [block.name for block in message.content if block.type == "tool_use"] == called
    assert upstream.last.get("tool_choice", "auto") == sent


def test_one_call_at_a_time_where_that_is_asked(client: anthropic.Anthropic, upstream: Upstream) -> None:
    message = client.messages.create(
        model=MODEL,
        max_tokens=100,
        tools=[WEATHER],  # type: ignore[list-item]
        tool_choice={"type": "auto", "disable_parallel_tool_use": True},
        messages=user_messages("Compare the weather in Oslo and Rome"),
    )
    assert len([block for block in message.content if block.type == "tool_use"]) == 1
    assert upstream.last["parallel_tool_calls"] is False


def test_tool_names_that_the_provider_does_not_allow_come_back_as_they_were(client: anthropic.Anthropic) -> None:
    name = "mcp__" + "a_rather_long_server_name" * 3 + "__look"
    tool: Any = {"name": name, "input_schema": {"type": "object", "properties": {"where": {"type": "string"}}}}
    turns = user_messages(f"Call the tool {name[:64]} or so")
    message = client.messages.create(
        model=MODEL, max_tokens=100, tools=[tool], tool_choice={"type": "tool", "name": name}, messages=turns
    )
    call = next(block for block in message.content if block.type == "tool_use")
    assert call.name == name
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "seen"}
    turns = [*turns, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    assert client.messages.create(model=MODEL, max_tokens=100, tools=[tool], messages=turns).stop_reason == "end_turn"
