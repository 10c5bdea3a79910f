"""xAI behind a real proxy process: the replies to a client, and requests that follow the rules of the fake server."""

import json
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

ASK = "How is the weather in Oslo and Rome?"


pair, talk = stand_in("xai", XAI_WIRE="chat")


@pytest.mark.parametrize("stream", [False, True])
def test_text_and_its_counts(talk: Session, stream: bool) -> None:
    reply = talk.send("Count to 30", stream=stream, system="Be brief.", extra_body={"temperature": 0.2})
    assert text_of(reply) == " ".join(map(str, range(1, 31)))
    assert (reply.model, reply.stop_reason) == ("claude-sonnet-4-6", "end_turn")
    assert reply.usage.input_tokens > 0
    assert talk.bodies[0]["model"] == "grok-3"


def test_haiku_and_the_grammar(talk: Session, pair: tuple[Running, Proxy]) -> None:
    body = {"model": "claude-haiku-4-5", "max_tokens": 500, "stream": True, "tools": [WEATHER]}
    answer = pair[1].client().post("/v1/messages", json={**body, "messages": [{"role": "user", "content": ASK}]})
    assert check_bytes(answer.content) == []
    assert talk.bodies[0]["model"] == "grok-3-mini-beta"


@pytest.mark.parametrize("stream", [False, True])
def test_tools_over_several_turns_and_two_at_once(talk: Session, stream: bool) -> None:
    strict = {**ADD, "strict": True, "input_schema": {**ADD["input_schema"], "additionalProperties": False}}
    tools = [strict, WEATHER]
    assert text_of(talk.work("Add 4, 5 and 6", add, stream=stream, tools=tools)) == "The sum is 15."
    assert text_of(talk.work(ASK, weather, stream=stream, tools=tools)) == "Oslo: snow; Rome: sun"
    assistants = [message for message in talk.bodies[-1]["messages"] if message["role"] == "assistant"]
    assert [len(message.get("tool_calls", ())) for message in assistants] == [1, 1, 0, 2]


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_is_shown_counted_and_not_given_back(talk: Session, stream: bool) -> None:
    talk.model = "xai/grok-4.6"
    reply = talk.work(ASK, weather, stream=stream, tools=[WEATHER], thinking=THINK)
    assert text_of(reply) == "Oslo: snow; Rome: sun"
    assert thinking_of(reply)
    assert reply.usage.output_tokens > 64, "the reasoning that xAI counts beside its output is part of ours"
    first, second = talk.bodies
    assert first["reasoning_effort"] == "low"
    assert all("reasoning_content" not in message for message in second["messages"])
    ids = {exchange.headers["x-grok-conv-id"] for exchange in talk.server.journal.exchanges[talk.start :]}
    assert len(ids) == 1, "a conversation stays on one machine, for its cache"


@pytest.mark.parametrize(
    ("model", "asked", "expected_effort"),
    [
        ("xai/grok-4.6", "xhigh", "xhigh"),
        ("xai/grok-4.3", "max", "high"),
        ("xai/grok-3-mini-beta", "medium", "low"),
        ("xai/grok-3", "high", None),
        ("xai/grok-4.20-reasoning", "high", None),
        ("xai/grok-4.20-non-reasoning", "high", None),
    ],
)
def test_effort_is_sent_only_to_models_that_accept_it(
    talk: Session, model: str, asked: str, expected_effort: str | None
) -> None:
    talk.model = model
    fields: Any = {"output_config": {"effort": asked}, "temperature": 0.3, "stop_sequences": ["never"]}
    talk.send("Count to 3", stream=True, extra_body=fields)
    assert talk.bodies[0].get("reasoning_effort") == expected_effort
    assert "stop" not in talk.bodies[0]


def test_thinking_can_be_switched_off_where_the_model_lets(talk: Session) -> None:
    talk.model = "xai/grok-4.3"
    assert thinking_of(talk.send("Count to 3", stream=True, thinking={"type": "disabled"})) == ""
    assert talk.bodies[0]["reasoning_effort"] == "none"


@pytest.mark.parametrize("stream", [False, True])
def test_pictures_of_the_accepted_kinds(talk: Session, stream: bool) -> None:
    talk.model = "xai/grok-4.3"
    ask = {"type": "text", "text": "Describe the pictures"}
    assert "image/png 31 by 17" in text_of(talk.send([picture(), ask], stream=stream))
    talk.send([picture("image/gif"), ask], stream=stream)
    assert "[image omitted: image/gif]" in str(talk.bodies[1]["messages"][-1]["content"])


@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_with_a_schema(talk: Session, stream: bool) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    config = {"format": {"type": "json_schema", "schema": {**schema, "additionalProperties": False}}}
    reply = talk.send("How old?", stream=stream, output_config=config)
    assert list(json.loads(text_of(reply))) == ["age"]
    assert talk.bodies[0]["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [
        ("rate after=20", 429, "rate_limit_error"),
        ("quota", 402, "billing_error"),
        ("unauthorized", 401, "authentication_error"),
        ("forbidden", 403, "permission_error"),
        ("missing", 400, "invalid_request_error"),
        ("server", 500, "api_error"),
        ("overloaded", 529, "overloaded_error"),
    ],
)
def test_every_refusal_has_its_kind(talk: Session, fault: str, status: int, kind: str, stream: bool) -> None:
    assert_refused(talk, fault, status, kind, stream=stream)


def test_a_prompt_over_the_window_makes_the_client_compact(talk: Session) -> None:
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long: 135393 tokens > 131072 maximum"):
        talk.send("Say exactly: x [fault:overflow]", stream=True)
