"""Groq, Moonshot, xAI and a server of the user's own behind a real proxy process, each with its strict fake server."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from typing import Any

import pytest

from tests.support.compatible import (
    ADD,
    THINK,
    WEATHER,
    Session,
    add,
    assert_refused,
    running,
    talking,
    thinking_of,
    weather,
)
from tests.support.fakes.server import Running
from tests.support.sdk import text_of
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


@on("local")
def test_a_count_is_that_of_the_server(talk: Session) -> None:
    asked: Any = {"system": "Be brief.", "messages": [{"role": "user", "content": "Count to 9"}]}
    counted = talk.client.messages.count_tokens(model=talk.model, **asked)
    assert talk.server.journal.exchanges[-1].path == "/tokenize"
    usage = talk.client.messages.create(model=talk.model, max_tokens=1_000, **asked).usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


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
    "unauthorized": (424, "invalid_request_error"),
    "forbidden": (424, "invalid_request_error"),
    "missing": (400, "policy_blocked"),
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
