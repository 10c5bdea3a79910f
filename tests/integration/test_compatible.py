"""Groq, Moonshot, xAI and a server of the user's own behind a real proxy process, each with its strict fake server."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
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
    running,
    talking,
    text_of,
    thinking_of,
    weather,
)
from tests.support.fakes.server import Running
from tests.support.server_process import Proxy

SETTINGS = {"groq": {}, "moonshot": {}, "xai": {"XAI_WIRE": "chat"}, "local": {"BIG_MODEL": "openai/qwen3-coder"}}
ASK = "How is the weather in Oslo and Rome?"
OSS, GROQ_QWEN = "groq/openai/gpt-oss-120b", "groq/qwen/qwen3.8-27b"
K26, CODE, K3 = "moonshot/kimi-k2.6", "moonshot/kimi-k2.7-code", "moonshot/kimi-k3"
QWEN, GEMMA = "openai/Qwen/Qwen3-8B", "openai/gemma-4-27b"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], tuple[Running, Proxy]]]:
    """Start the fake server of a name, and a proxy that prefers it, once for all tests."""
    with ExitStack() as stack:
        yield cache(lambda name: stack.enter_context(running(name, tmp_path_factory.mktemp(name), **SETTINGS[name])))


@pytest.fixture
def talk(request: pytest.FixtureRequest, start: Callable[[str], tuple[Running, Proxy]]) -> Iterator[Session]:
    with talking(*start(request.param), "claude-sonnet-4-6") as talk:
        yield talk


def on(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("talk", names, indirect=True)


streams = pytest.mark.parametrize("stream", [False, True])


@on("groq", "xai")
@streams
def test_text_and_its_counts(talk: Session, stream: bool) -> None:
    reply = talk.send("Count to 30", stream=stream, system="Be brief.", extra_body={"temperature": 0.2})
    assert text_of(reply) == " ".join(map(str, range(1, 31)))
    assert (reply.model, reply.stop_reason) == ("claude-sonnet-4-6", "end_turn")
    assert reply.usage.input_tokens > 0
    assert reply.usage.output_tokens > 20
    (body,) = talk.bodies
    assert body["model"] in ("llama-3.3-70b-versatile", "grok-3")
    assert {"store", "prompt_cache_key", "safety_identifier"}.isdisjoint(body)


@pytest.mark.parametrize(
    ("talk", "model"),
    [("groq", "llama-3.1-8b-instant"), ("moonshot", "kimi-k2-base"), ("xai", "grok-3-mini-beta")],
    indirect=["talk"],
)
def test_haiku_and_the_grammar(talk: Session, model: str) -> None:
    body = {"model": "claude-haiku-4-5", "max_tokens": 500, "stream": True, "tools": [WEATHER]}
    answer = talk.proxy.client().post("/v1/messages", json={**body, "messages": [{"role": "user", "content": ASK}]})
    assert check_bytes(answer.content) == []
    assert talk.bodies[0]["model"] == model


@on("groq", "xai", "local")
@streams
def test_tools_over_several_turns_and_two_at_once(talk: Session, stream: bool) -> None:
    strict = {**ADD, "strict": True, "input_schema": {**ADD["input_schema"], "additionalProperties": False}}
    tools = [strict, WEATHER]
    assert text_of(talk.work("Add 4, 5 and 6", add, stream=stream, tools=tools)) == "The sum is 15."
    assert text_of(talk.work(ASK, weather, stream=stream, tools=tools)) == "Oslo: snow; Rome: sun"
    assistants = [message for message in talk.bodies[-1]["messages"] if message["role"] == "assistant"]
    assert [len(message.get("tool_calls", ())) for message in assistants] == [1, 1, 0, 2]


REFUSALS = {
    "rate after=20": (429, "rate_limit_error"),
    "quota": (402, "billing_error"),
    "large": (400, "invalid_request_error"),
    "capacity": (529, "overloaded_error"),
    "unauthorized": (401, "authentication_error"),
    "forbidden": (403, "permission_error"),
    "missing": (400, "invalid_request_error"),
    "server": (500, "api_error"),
    "overloaded": (529, "overloaded_error"),
    "loading": (503, "api_error"),
}
"""Fault of a fake server → status and type of the client's error."""
USUAL = ("rate after=20", "unauthorized", "forbidden", "missing", "server", "overloaded")
FAULTS = {
    "groq": (*USUAL, "large", "capacity"),
    "moonshot": (*USUAL, "quota"),
    "xai": (*USUAL, "quota"),
    "local": ("missing", "server", "loading"),
}


@pytest.mark.parametrize(
    ("talk", "fault"), [(name, fault) for name, faults in FAULTS.items() for fault in faults], indirect=["talk"]
)
@streams
def test_every_refusal_has_its_kind(talk: Session, fault: str, stream: bool) -> None:
    assert_refused(talk, fault, *REFUSALS[fault], stream=stream)


@pytest.mark.parametrize(
    ("talk", "numbers"),
    [
        ("groq", r"\d+ tokens > 131072"),
        ("moonshot", r"\d+ tokens > 131072"),
        ("xai", "135393 tokens > 131072"),
        ("local", "69857 tokens > 65536"),
    ],
    indirect=["talk"],
)
def test_a_prompt_over_the_window_makes_the_client_compact(talk: Session, numbers: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=f"prompt is too long: {numbers} maximum"):
        talk.send("Say exactly: x [fault:overflow]", stream=True)


AGE = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"], "additionalProperties": False}
AGE_FORMAT = {"format": {"type": "json_schema", "schema": AGE}}


@on("groq")
@streams
@pytest.mark.parametrize("model", [OSS, GROQ_QWEN])
def test_reasoning_over_two_turns_comes_back_as_it_was(talk: Session, model: str, stream: bool) -> None:
    talk.model = model
    reply = talk.work(ASK, weather, stream=stream, tools=[WEATHER], thinking=THINK)
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


@on("groq")
def test_pictures_where_the_model_sees_and_words_where_not(talk: Session) -> None:
    content = [picture(), {"type": "text", "text": "Describe the pictures"}]
    assert text_of(talk.send(content, stream=True)) == "I see 0 pictures: ."
    assert "[image omitted: image/png]" in talk.bodies[0]["messages"][0]["content"]
    talk.model = GROQ_QWEN
    assert "image/png 31 by 17" in text_of(talk.send(content, stream=True))


@on("groq")
@streams
def test_a_reply_with_a_schema_alone_in_a_stream_and_beside_tools(talk: Session, stream: bool) -> None:
    talk.model = OSS
    replies = [
        talk.send("How old is json?", stream=stream, output_config=AGE_FORMAT),
        talk.send("And with tools?", stream=stream, output_config=AGE_FORMAT, tools=[ADD]),
    ]
    assert [list(json.loads(text_of(reply))) for reply in replies] == [["age"], ["age"]]
    alone, beside = talk.bodies
    assert ("response_format" in alone) == (not stream)
    assert "response_format" not in beside
    if stream:
        assert alone["tool_choice"]["function"]["name"] == "output"
    assert "JSON Schema" in beside["messages"][0]["content"]


@on("groq")
@streams
def test_a_call_that_groq_could_not_read_is_a_call_all_the_same(talk: Session, stream: bool) -> None:
    talk.model = OSS
    reply = talk.send("Weather in Oslo? [fault:unreadable]", stream=stream, tools=[WEATHER])
    assert reply.stop_reason == "tool_use"
    (call,) = [block for block in reply.content if block.type == "tool_use"]
    assert (call.name, call.input) == ("get_weather", {"city": "Oslo"})


@on("groq")
def test_a_call_of_an_unknown_tool_is_a_failure_that_names_groq(talk: Session) -> None:
    with pytest.raises(anthropic.APIStatusError, match="groq: Failed to call a function") as caught:
        talk.send("Say exactly: x [fault:unreadable]", stream=False, tools=[ADD])
    assert caught.value.status_code == 502


@on("groq")
def test_an_audio_model_is_refused_here(talk: Session) -> None:
    talk.model = "groq/whisper-large-v3"
    with pytest.raises(anthropic.BadRequestError, match="transcribes audio and does not support chat"):
        talk.send("hello", stream=False)
    assert talk.bodies == []


@on("moonshot")
@streams
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


@on("moonshot")
@streams
def test_tools_over_several_turns_are_counted_through_the_conversation(talk: Session, stream: bool) -> None:
    assert text_of(talk.work("Add 4, 5 and 6", add, stream=stream, tools=[ADD, WEATHER])) == "The sum is 15."
    reply = talk.work(ASK, weather, stream=stream, tools=[ADD, WEATHER])
    assert text_of(reply) == "Oslo: snow; Rome: sun"
    calls = [call["id"] for message in talk.bodies[-1]["messages"] for call in message.get("tool_calls") or ()]
    names = ("add:0", "add:1", "get_weather:2", "get_weather:3")
    assert calls == [f"functions.{name}" for name in names]


@on("moonshot")
@streams
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


@on("moonshot")
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


@on("moonshot")
@streams
def test_thinking_can_be_switched_off_where_the_model_of_moonshot_lets(talk: Session, stream: bool) -> None:
    talk.model = K26
    reply = talk.send("Count to 3", stream=stream, thinking={"type": "disabled"})
    assert (thinking_of(reply), text_of(reply)) == ("", "1 2 3")
    assert talk.bodies[0]["thinking"] == {"type": "disabled"}


@on("moonshot")
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


@on("moonshot")
def test_names_of_tools_that_begin_with_a_digit_have_an_alias(talk: Session) -> None:
    tool = {**WEATHER, "name": "1_get_weather"}
    reply = talk.work(ASK, weather, stream=True, tools=[tool])
    assert text_of(reply) == "Oslo: snow; Rome: sun"
    assert [block["name"] for block in talk.history[1]["content"] if block["type"] == "tool_use"] == [tool["name"]] * 2
    assert talk.bodies[0]["tools"][0]["function"]["name"][0].isalpha()


@on("moonshot")
@streams
def test_pictures_by_their_data_and_addresses_as_words(talk: Session, stream: bool) -> None:
    talk.model = K26
    ask = {"type": "text", "text": "Describe the pictures"}
    assert "image/png 31 by 17" in text_of(talk.send([picture(), ask], stream=stream))
    address = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
    talk.send([address, ask], stream=stream)
    assert "https://example.com/a.png" in str(talk.bodies[1]["messages"][-1]["content"])


@on("moonshot")
@pytest.mark.parametrize(("model", "form"), [(K26, "json_schema"), ("claude-sonnet-4-6", "json_object")])
def test_a_reply_with_a_schema_of_moonshot(talk: Session, model: str, form: str) -> None:
    schema = {"$schema": "x", "type": "object", "properties": {"age": {"$ref": "#/$defs/a"}}, "required": ["age"]}
    schema |= {"$defs": {"a": {"type": "integer"}}, "additionalProperties": False}
    talk.model = model
    talk.send("How old?", stream=True, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert talk.bodies[0]["response_format"]["type"] == form


@on("moonshot")
def test_a_last_assistant_message_is_continued(talk: Session) -> None:
    talk.history = [{"role": "user", "content": "Count to 3"}, {"role": "assistant", "content": "1, 2,"}]
    options: Any = {"model": talk.model, "max_tokens": 100, "messages": talk.history}
    talk.client.messages.create(**options)
    assert talk.bodies[0]["messages"][-1] == {"role": "assistant", "content": "1, 2,", "partial": True}


@on("moonshot")
def test_a_rejected_prompt_is_a_refusal(talk: Session) -> None:
    reply = talk.send("Say exactly: x [fault:policy]", stream=False)
    assert reply.stop_reason == "refusal"


@on("moonshot")
def test_a_stream_that_is_torn_is_an_error(talk: Session) -> None:
    with pytest.raises(anthropic.APIStatusError, match="ended its answer before it was complete"):
        talk.send("Count to 30 [fault:torn pieces=5]", stream=True)


@on("xai")
@streams
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


@on("xai")
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


@on("xai")
def test_thinking_can_be_switched_off_where_the_model_of_xai_lets(talk: Session) -> None:
    talk.model = "xai/grok-4.3"
    assert thinking_of(talk.send("Count to 3", stream=True, thinking={"type": "disabled"})) == ""
    assert talk.bodies[0]["reasoning_effort"] == "none"


@on("xai")
@streams
def test_pictures_of_the_accepted_kinds(talk: Session, stream: bool) -> None:
    talk.model = "xai/grok-4.3"
    ask = {"type": "text", "text": "Describe the pictures"}
    assert "image/png 31 by 17" in text_of(talk.send([picture(), ask], stream=stream))
    talk.send([picture("image/gif"), ask], stream=stream)
    assert "[image omitted: image/gif]" in str(talk.bodies[1]["messages"][-1]["content"])


@on("xai")
@streams
def test_a_reply_with_a_schema_of_xai(talk: Session, stream: bool) -> None:
    reply = talk.send("How old?", stream=stream, output_config=AGE_FORMAT)
    assert list(json.loads(text_of(reply))) == ["age"]
    assert talk.bodies[0]["response_format"]["type"] == "json_schema"


@on("local")
@streams
def test_text_with_a_system_message_in_the_middle_and_a_user_s_name(talk: Session, stream: bool) -> None:
    talk.history = [{"role": "user", "content": "Hello"}, {"role": "system", "content": "Be brief."}]
    reply = talk.send(
        "Count to 30", stream=stream, system="Be kind.", metadata={"user_id": "user_1_account_2_session_3"}
    )
    assert text_of(reply) == " ".join(map(str, range(1, 31)))
    assert reply.usage.input_tokens > 0
    (body,) = talk.bodies
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["max_tokens"] == 4_000
    assert "user_1" not in str(body)


@on("local")
@streams
def test_reasoning_comes_once_and_goes_back(talk: Session, stream: bool) -> None:
    talk.model = QWEN
    assert text_of(talk.work(ASK, weather, stream=stream, tools=[WEATHER], thinking=THINK)) == "Oslo: snow; Rome: sun"
    thinking = "".join(block.get("thinking", "") for block in talk.history[1]["content"])
    assert thinking == f"I am asked: {ASK}; this is reply 1."
    assert talk.bodies[1]["messages"][1]["reasoning_content"] == thinking
    assert thinking_of(talk.send("Count to 3", stream=stream))


@on("local")
def test_pictures_go_to_a_model_that_nobody_knows(talk: Session) -> None:
    talk.model = GEMMA
    reply = talk.send([picture(), {"type": "text", "text": "Describe the pictures"}], stream=True)
    assert "image/png 31 by 17" in text_of(reply)


@on("local")
def test_output_that_does_not_fit_beside_the_input_is_lowered(talk: Session) -> None:
    reply = talk.send("Count to 3", stream=True, system="be kind. " * 10_000, max_tokens=50_000)
    assert text_of(reply) == "1 2 3"
    first, second = talk.bodies
    assert first["max_tokens"] == 50_000
    assert 20_000 < second["max_tokens"] < 50_000


@on("local")
@pytest.mark.parametrize(
    ("model", "window"), [(QWEN, 40_960), ("openai/Qwen/Qwen3-32B", 32_768), ("openai/Qwen/Qwen3-14B", 32_768)]
)
def test_output_that_never_fits_is_asked_for_once(talk: Session, model: str, window: int) -> None:
    talk.model = model
    for number in (1, 2, 3):
        assert text_of(talk.send(f"Count to {number}", stream=True, max_tokens=128_000))
    first, *others = [body["max_tokens"] for body in talk.bodies]
    assert first == 128_000
    assert len(others) == 3
    assert all(window * 3 // 4 < limit < window for limit in others)


@on("local")
@streams
@pytest.mark.parametrize("model", [QWEN, "openai/Qwen/Qwen3-32B", "openai/Qwen/Qwen3-14B"])
def test_each_later_turn_of_a_growing_conversation_needs_one_call(talk: Session, model: str, stream: bool) -> None:
    talk.model = model
    for number in range(1, 12):
        lines = "\n".join(f"Line {line} of file {number} is read and understood." for line in range(200))
        reply = talk.send(f"{lines}\nCount to {number}", stream=stream, max_tokens=128_000, timeout=60)
        assert text_of(reply) == " ".join(map(str, range(1, number + 1)))
        if number == 1:
            calls_before = len(talk.bodies) - 1
    assert len(talk.bodies) - calls_before == 11
    assert calls_before <= 2
