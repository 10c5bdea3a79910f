"""Groq behind a real proxy process: the replies to a client, and requests that follow the rules of the fake server."""

import json

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

OSS, QWEN = "groq/openai/gpt-oss-120b", "groq/qwen/qwen3.8-27b"


pair, talk = stand_in("groq")


@pytest.mark.parametrize("stream", [False, True])
def test_text_and_its_counts(talk: Session, stream: bool) -> None:
    reply = talk.send("Count to 30", stream=stream, system="Be brief.", extra_body={"temperature": 0.2})
    assert text_of(reply) == " ".join(map(str, range(1, 31)))
    assert (reply.model, reply.stop_reason) == ("claude-sonnet-4-6", "end_turn")
    assert reply.usage.input_tokens > 0
    assert reply.usage.output_tokens > 20
    (body,) = talk.bodies
    assert body["model"] == "llama-3.3-70b-versatile"
    assert {"store", "prompt_cache_key", "safety_identifier"}.isdisjoint(body)


def test_haiku_and_the_grammar(talk: Session, pair: tuple[Running, Proxy]) -> None:
    body = {"model": "claude-haiku-4-5", "max_tokens": 500, "stream": True, "tools": [WEATHER]}
    messages = [{"role": "user", "content": "How is the weather in Oslo and Rome?"}]
    answer = pair[1].client().post("/v1/messages", json={**body, "messages": messages})
    assert check_bytes(answer.content) == []
    assert talk.bodies[0]["model"] == "llama-3.1-8b-instant"


@pytest.mark.parametrize("stream", [False, True])
def test_tools_over_several_turns_and_two_at_once(talk: Session, stream: bool) -> None:
    reply = talk.work("Add 4, 5 and 6", add, stream=stream, tools=[ADD, WEATHER])
    assert text_of(reply) == "The sum is 15."
    reply = talk.work("And the weather in Oslo and Rome?", weather, stream=stream, tools=[ADD, WEATHER])
    assert text_of(reply) == "Oslo: snow; Rome: sun"
    assistants = [message for message in talk.bodies[-1]["messages"] if message["role"] == "assistant"]
    assert [len(message.get("tool_calls", ())) for message in assistants] == [1, 1, 0, 2]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", [OSS, QWEN])
def test_reasoning_over_two_turns_comes_back_as_it_was(talk: Session, model: str, stream: bool) -> None:
    talk.model = model
    reply = talk.work("How is the weather in Oslo and Rome?", weather, stream=stream, tools=[WEATHER], thinking=THINK)
    assert text_of(reply) == "Oslo: snow; Rome: sun"
    assert thinking_of(reply)
    assert reply.usage.output_tokens > 64
    first, second = talk.bodies
    if model == OSS:
        assert first["reasoning_effort"] == "low"
        assert first["include_reasoning"] is True
        thinking = "".join(block.get("thinking", "") for block in talk.history[1]["content"])
        assert [message.get("reasoning") for message in second["messages"][1:2]] == [thinking]
    else:
        assert (first["reasoning_effort"], first["reasoning_format"]) == ("low", "parsed")
    talk.send("Count to 3", stream=stream, thinking={"type": "disabled"})
    assert talk.bodies[-1]["reasoning_effort"] == ("low" if model == OSS else "none")


def test_pictures_where_the_model_sees_and_words_where_not(talk: Session) -> None:
    content = [picture(), {"type": "text", "text": "Describe the pictures"}]
    assert text_of(talk.send(content, stream=True)) == "I see 0 pictures: ."
    assert "[image omitted: image/png]" in talk.bodies[0]["messages"][0]["content"]
    talk.model = QWEN
    assert "image/png 31 by 17" in text_of(talk.send(content, stream=True))


@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_with_a_schema_alone_in_a_stream_and_beside_tools(talk: Session, stream: bool) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    config = {"format": {"type": "json_schema", "schema": {**schema, "additionalProperties": False}}}
    talk.model = OSS
    replies = [
        talk.send("How old is json?", stream=stream, output_config=config),
        talk.send("And with tools?", stream=stream, output_config=config, tools=[ADD]),
    ]
    assert [list(json.loads(text_of(reply))) for reply in replies] == [["age"], ["age"]]
    alone, beside = talk.bodies
    assert ("response_format" in alone) == (not stream)
    assert "response_format" not in beside
    if stream:
        assert alone["tool_choice"]["function"]["name"] == "output"
    assert "JSON Schema" in beside["messages"][0]["content"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [
        ("rate after=20", 429, "rate_limit_error"),
        ("large", 400, "invalid_request_error"),
        ("capacity", 529, "overloaded_error"),
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
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 131072 maximum"):
        talk.send("Say exactly: x [fault:overflow]", stream=True)


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_groq_could_not_read_is_a_call_all_the_same(talk: Session, stream: bool) -> None:
    talk.model = OSS
    reply = talk.send("Weather in Oslo? [fault:unreadable]", stream=stream, tools=[WEATHER])
    assert reply.stop_reason == "tool_use"
    (call,) = [block for block in reply.content if block.type == "tool_use"]
    assert (call.name, call.input) == ("get_weather", {"city": "Oslo"})


def test_a_call_of_an_unknown_tool_is_a_failure_that_names_groq(talk: Session) -> None:
    with pytest.raises(anthropic.APIStatusError, match="groq: Failed to call a function") as caught:
        talk.send("Say exactly: x [fault:unreadable]", stream=False, tools=[ADD])
    assert caught.value.status_code == 502


def test_an_audio_model_is_refused_here(talk: Session) -> None:
    talk.model = "groq/whisper-large-v3"
    with pytest.raises(anthropic.BadRequestError, match="transcribes audio and does not support chat"):
        talk.send("hello", stream=False)
    assert talk.bodies == []
