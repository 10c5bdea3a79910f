"""Moonshot behind a real proxy process: replies to a client, and requests within the rules of the fake server."""

from typing import Any

import anthropic
import pytest

from anthropic_proxy.cli.lint_stream import check_bytes
from tests.support.compatible import (
    ADD,
    THINK,
    WEATHER,
    Session,
    add,
    assert_refused,
    picture,
    stand_in,
    text_of,
    thinking_of,
    weather,
)
from tests.support.fakes.server import Running
from tests.support.server_process import Proxy

K26, CODE, K3 = "moonshot/kimi-k2.6", "moonshot/kimi-k2.7-code", "moonshot/kimi-k3"
ASK = "How is the weather in Oslo and Rome?"


pair, talk = stand_in("moonshot")


@pytest.mark.parametrize("stream", [False, True])
def test_text_and_its_counts_which_stand_in_the_last_choice(talk: Session, stream: bool) -> None:
    long = "be kind. " * 1_000
    first = talk.send("Count to 30", stream=stream, system=long, extra_body={"temperature": 0.2})
    assert text_of(first) == " ".join(map(str, range(1, 31)))
    assert (first.model, first.stop_reason) == ("claude-sonnet-4-6", "end_turn")
    assert first.usage.input_tokens + (first.usage.cache_read_input_tokens or 0) > 2_000
    again = talk.send("Count to 3", stream=stream, system=long)
    assert (again.usage.cache_read_input_tokens or 0) >= 2_000
    assert talk.bodies[0]["model"] == "kimi-k2-instruct"
    assert talk.bodies[0]["temperature"] == 0.2


def test_haiku_and_the_grammar(talk: Session, pair: tuple[Running, Proxy]) -> None:
    body = {"model": "claude-haiku-4-5", "max_tokens": 500, "stream": True, "tools": [WEATHER]}
    answer = pair[1].client().post("/v1/messages", json={**body, "messages": [{"role": "user", "content": ASK}]})
    assert check_bytes(answer.content) == []
    assert talk.bodies[0]["model"] == "kimi-k2-base"


@pytest.mark.parametrize("stream", [False, True])
def test_tools_over_several_turns_are_counted_through_the_conversation(talk: Session, stream: bool) -> None:
    assert text_of(talk.work("Add 4, 5 and 6", add, stream=stream, tools=[ADD, WEATHER])) == "The sum is 15."
    reply = talk.work(ASK, weather, stream=stream, tools=[ADD, WEATHER])
    assert text_of(reply) == "Oslo: snow; Rome: sun"
    calls = [call["id"] for message in talk.bodies[-1]["messages"] for call in message.get("tool_calls") or ()]
    names = ("add:0", "add:1", "get_weather:2", "get_weather:3")
    assert calls == [f"functions.{name}" for name in names]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", [K26, CODE, K3])
def test_reasoning_comes_back_as_it_was_and_what_is_lost_is_a_space(talk: Session, model: str, stream: bool) -> None:
    talk.model = model
    options: dict[str, Any] = {"tools": [WEATHER], "thinking": THINK, "extra_body": {"temperature": 0.5}}
    assert text_of(talk.work(ASK, weather, stream=stream, **options)) == "Oslo: snow; Rome: sun"
    thinking = "".join(block.get("thinking", "") for block in talk.history[1]["content"])
    assert thinking
    asked = talk.bodies[1]["messages"]
    assert [message["reasoning_content"] for message in asked if message["role"] == "assistant"] == [thinking]
    assert "temperature" not in talk.bodies[0]
    talk.history[1]["content"] = [block for block in talk.history[1]["content"] if block["type"] != "thinking"]
    talk.send("Count to 3", stream=stream, **options)
    assert talk.bodies[-1]["messages"][1]["reasoning_content"] == " "


@pytest.mark.parametrize(
    ("model", "asked", "expected_fields"),
    [
        (K3, "low", {"reasoning_effort": "low"}),
        (K3, "medium", {"reasoning_effort": "high"}),
        (K3, "xhigh", {"reasoning_effort": "max"}),
        (K3, "max", {"reasoning_effort": "max"}),
        (K26, "high", {"thinking": {"type": "enabled", "keep": "all"}}),
        (CODE, "high", {"thinking": {"type": "enabled", "keep": "all"}}),
        ("moonshot/kimi-k2.5", "high", {"thinking": {"type": "enabled"}}),
    ],
)
def test_effort_is_encoded_with_the_values_of_each_model(
    talk: Session, model: str, asked: str, expected_fields: dict[str, Any]
) -> None:
    talk.model = model
    talk.send("Count to 3", stream=True, extra_body={"output_config": {"effort": asked}})
    (body,) = talk.bodies
    for name, value in expected_fields.items():
        assert body[name] == value
    assert ("reasoning_effort" in body) == ("reasoning_effort" in expected_fields)


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_can_be_switched_off_where_the_model_lets(talk: Session, stream: bool) -> None:
    talk.model = K26
    reply = talk.send("Count to 3", stream=stream, thinking={"type": "disabled"})
    assert (thinking_of(reply), text_of(reply)) == ("", "1 2 3")
    assert talk.bodies[0]["thinking"] == {"type": "disabled"}


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_a_forced_tool_is_asked_for_in_words_while_it_thinks_as_asked(talk: Session, choice: dict[str, Any]) -> None:
    talk.model = K26
    talk.send("Hello", stream=True, tools=[WEATHER], tool_choice=choice)
    assert talk.bodies[0]["tool_choice"] not in ("auto", None)
    assert talk.bodies[0]["thinking"] == {"type": "disabled"}
    talk.send(
        [{"type": "tool_result", "tool_use_id": talk.history[1]["content"][0]["id"], "content": "ok"}], stream=True
    )
    talk.send(
        ASK, stream=True, tools=[WEATHER], tool_choice=choice, thinking={"type": "enabled", "budget_tokens": 2000}
    )
    assert talk.bodies[2]["tool_choice"] == "auto"
    assert talk.bodies[2]["messages"][-1]["content"].startswith("Call ")


def test_names_of_tools_that_begin_with_a_digit_have_an_alias(talk: Session) -> None:
    tool = {**WEATHER, "name": "1_get_weather"}
    reply = talk.work(ASK, weather, stream=True, tools=[tool])
    assert text_of(reply) == "Oslo: snow; Rome: sun"
    assert [block["name"] for block in talk.history[1]["content"] if block["type"] == "tool_use"] == [tool["name"]] * 2
    assert talk.bodies[0]["tools"][0]["function"]["name"][0].isalpha()


@pytest.mark.parametrize("stream", [False, True])
def test_pictures_by_their_data_and_addresses_as_words(talk: Session, stream: bool) -> None:
    talk.model = K26
    ask = {"type": "text", "text": "Describe the pictures"}
    assert "image/png 31 by 17" in text_of(talk.send([picture(), ask], stream=stream))
    address = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
    talk.send([address, ask], stream=stream)
    assert "https://example.com/a.png" in str(talk.bodies[1]["messages"][-1]["content"])


@pytest.mark.parametrize(("model", "form"), [(K26, "json_schema"), ("claude-sonnet-4-6", "json_object")])
def test_a_reply_with_a_schema(talk: Session, model: str, form: str) -> None:
    schema = {"$schema": "x", "type": "object", "properties": {"age": {"$ref": "#/$defs/a"}}, "required": ["age"]}
    schema |= {"$defs": {"a": {"type": "integer"}}, "additionalProperties": False}
    talk.model = model
    talk.send("How old?", stream=True, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert talk.bodies[0]["response_format"]["type"] == form


def test_a_last_assistant_message_is_continued(talk: Session) -> None:
    talk.history = [{"role": "user", "content": "Count to 3"}, {"role": "assistant", "content": "1, 2,"}]
    options: Any = {"model": talk.model, "max_tokens": 100, "messages": talk.history}
    talk.client.messages.create(**options)
    assert talk.bodies[0]["messages"][-1] == {"role": "assistant", "content": "1, 2,", "partial": True}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [
        ("rate after=20", 429, "rate_limit_error"),
        ("quota", 402, "billing_error"),
        ("overloaded", 529, "overloaded_error"),
        ("unauthorized", 401, "authentication_error"),
        ("forbidden", 403, "permission_error"),
        ("missing", 400, "invalid_request_error"),
        ("server", 500, "api_error"),
    ],
)
def test_every_refusal_has_its_kind(talk: Session, fault: str, status: int, kind: str, stream: bool) -> None:
    assert_refused(talk, fault, status, kind, stream=stream)


def test_a_rejected_prompt_is_a_refusal(talk: Session) -> None:
    reply = talk.send("Say exactly: x [fault:policy]", stream=False)
    assert reply.stop_reason == "refusal"


def test_a_prompt_over_the_window_makes_the_client_compact(talk: Session) -> None:
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 131072 maximum"):
        talk.send("Say exactly: x [fault:overflow]", stream=True)


def test_a_stream_that_is_torn_is_an_error(talk: Session) -> None:
    with pytest.raises(anthropic.APIStatusError, match="ended its answer before it was complete"):
        talk.send("Count to 30 [fault:torn pieces=5]", stream=True)
