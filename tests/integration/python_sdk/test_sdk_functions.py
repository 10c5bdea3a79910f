"""The functions of the SDK on four wires, unchanged: their user does not notice which model answers."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pydantic
import pytest
from anthropic import beta_async_tool, beta_tool

from tests.support.sdk import MODEL, WEATHER, open_async_sdk, open_sdk, text_of, user_messages
from tests.support.waiting import wait_for
from tests.support.wires import Upstream

COUNTED = " ".join(str(number) for number in range(1, 31))


@pytest.fixture
async def waiting(wire: Upstream) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """The client that does not block."""
    async with open_async_sdk(base_url=wire.proxy.url, api_key="x", max_retries=0) as client:
        yield client


def test_a_stream_is_gathered_into_the_message_that_create_gives(client: anthropic.Anthropic) -> None:
    options: Any = {"model": MODEL, "max_tokens": 4_000, "messages": user_messages("Count to 30")}
    whole = client.messages.create(**options)
    with client.messages.stream(**options) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
        assert stream.get_final_text() == COUNTED
        assert stream.request_id is not None
    assert text == text_of(final) == text_of(whole) == COUNTED
    assert [block.type for block in final.content] == [block.type for block in whole.content]
    assert final.stop_reason == whole.stop_reason == "end_turn"
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_the_events_of_a_call_show_it_as_it_grows(client: anthropic.Anthropic) -> None:
    options: Any = {"model": MODEL, "max_tokens": 4_000, "tools": [WEATHER]}
    kinds: list[str] = []
    grown: list[Any] = []
    with client.messages.stream(**options, messages=user_messages("Compare the weather in Oslo and Rome")) as stream:
        for event in stream:
            kinds.append(event.type)
            if event.type == "input_json":
                grown.append(event.snapshot)
        final = stream.get_final_message()
    calls = [block.input for block in final.content if block.type == "tool_use"]
    assert calls == [{"city": "Oslo"}, {"city": "Rome"}]
    assert grown[-1] == calls[-1]
    assert [kind for kind in kinds if kind in ("message_start", "message_stop")] == ["message_start", "message_stop"]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == len(final.content)


def test_thoughts_are_gathered_and_given_back(client: anthropic.Anthropic, wire: Upstream) -> None:
    options: Any = {"model": MODEL, "max_tokens": 4_000, "thinking": {"type": "enabled", "budget_tokens": 2_000}}
    turns = user_messages("Compare the weather in Oslo and Rome")
    with client.messages.stream(**options, tools=[WEATHER], messages=turns) as stream:
        reply = stream.get_final_message()
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": f"{index} degrees"}
        for index, block in enumerate(reply.content)
        if block.type == "tool_use"
    ]
    turns = [*turns, {"role": "assistant", "content": reply.content}, {"role": "user", "content": results[::-1]}]
    first = len(reply.content) - 2
    final_message = client.messages.create(**options, tools=[WEATHER], messages=turns)
    assert text_of(final_message) == f"Oslo: {first} degrees; Rome: {first + 1} degrees"
    thoughts = [thought for turn in wire.conversations[-1].turns for thought in turn.thoughts]
    assert len(thoughts) == (1 if wire.kind.thoughts else 0)


@beta_tool
def add(a: int, b: int) -> str:
    """Add two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return str(a + b)


@beta_async_tool
async def add_later(a: int, b: int) -> str:
    """Add two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return str(a + b)


@pytest.mark.parametrize("stream", [False, True])
def test_the_tool_runner_goes_on_until_the_answer(client: anthropic.Anthropic, stream: bool) -> None:
    runner: Any = client.beta.messages.tool_runner(
        model=MODEL, max_tokens=4_000, tools=[add], messages=user_messages("Add 3, 4 and 5"), stream=stream
    )
    assert text_of(runner.until_done()) == "The sum is 12."


async def test_the_runner_that_does_not_block_gives_each_step(waiting: anthropic.AsyncAnthropic) -> None:
    runner = waiting.beta.messages.tool_runner(
        model=MODEL, max_tokens=4_000, tools=[add_later], messages=user_messages("Add 3, 4 and 5")
    )
    steps = [message.stop_reason async for message in runner]
    assert steps == ["tool_use", "tool_use", "end_turn"]


class City(pydantic.BaseModel):
    name: str
    inhabitants: int
    rivers: list[str]


def test_an_answer_in_the_shape_of_a_model(client: anthropic.Anthropic, wire: Upstream) -> None:
    options: Any = {
        "model": MODEL,
        "max_tokens": 4_000,
        "messages": user_messages("Name a city"),
        "output_format": City,
    }
    assert isinstance(client.messages.parse(**options).parsed_output, City)
    with client.messages.stream(**options) as stream:
        assert isinstance(stream.get_final_message().parsed_output, City)
    assert all(set((one.schema or {})["properties"]) == set(City.model_fields) for one in wire.conversations)


def test_tokens_are_counted(client: anthropic.Anthropic, wire: Upstream) -> None:
    few = client.messages.count_tokens(model=MODEL, messages=user_messages("one")).input_tokens
    more = client.messages.count_tokens(
        model=MODEL,
        system="Be brief.",
        messages=user_messages("one two three four five"),
        tools=[WEATHER],  # type: ignore[list-item]
    ).input_tokens
    assert 0 < few < more
    assert wire.exchanges == []


async def test_models_are_paged_through_one_by_one(
    client: anthropic.Anthropic, waiting: anthropic.AsyncAnthropic
) -> None:
    whole = [model.id for model in client.models.list(limit=1000)]
    assert whole
    assert [model.id for model in client.models.list(limit=1)] == whole
    assert [model.id async for model in waiting.models.list(limit=2)] == whole
    first = client.models.list(limit=1)
    assert (len(first.data), first.has_more, first.last_id) == (1, len(whole) > 1, whole[0])
    assert client.models.retrieve(whole[-1]).id == whole[-1]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("unauthorized", anthropic.APIStatusError),
        ("forbidden", anthropic.APIStatusError),
        ("missing", anthropic.BadRequestError),
        ("overflow", anthropic.BadRequestError),
        ("rate after=30", anthropic.RateLimitError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_each_failure_is_its_own_exception(
    client: anthropic.Anthropic, fault: str, error: type[anthropic.APIStatusError], stream: bool
) -> None:
    with pytest.raises(anthropic.APIStatusError) as caught:
        client.messages.create(model=MODEL, max_tokens=50, messages=user_messages(f"hi [fault:{fault}]"), stream=stream)
    assert type(caught.value) is error
    assert caught.value.request_id is not None
    assert caught.value.request_id == caught.value.response.headers["request-id"]


def test_a_raw_response_has_its_headers_and_the_message(client: anthropic.Anthropic) -> None:
    options: Any = {"model": MODEL, "max_tokens": 4_000, "messages": user_messages("Count to 30")}
    raw = client.messages.with_raw_response.create(**options)
    assert raw.headers["request-id"].startswith("req_")
    assert raw.request_id == raw.headers["request-id"]
    message = raw.parse()
    assert text_of(message) == COUNTED
    assert message._request_id == raw.request_id
    with client.messages.with_streaming_response.create(**options, stream=True) as streamed:
        assert streamed.headers["content-type"].startswith("text/event-stream")
        assert any(line.startswith("event: message_stop") for line in streamed.iter_lines())


def test_a_reply_that_is_too_slow_times_out_and_is_not_paid_for(client: anthropic.Anthropic, wire: Upstream) -> None:
    for seconds in (0.7, 7, 50):  # a busy machine may need more time until the provider has the request
        with pytest.raises(anthropic.APITimeoutError):
            client.with_options(timeout=seconds).messages.create(
                model=MODEL, max_tokens=50, messages=user_messages("Count to 30 [fault:late seconds=60]")
            )
        if wire.exchanges:
            break
    assert_left(wire)


async def test_a_stream_that_is_left_early_ends_the_call(waiting: anthropic.AsyncAnthropic, wire: Upstream) -> None:
    stalled = f"Count to 30 [fault:stall pieces={wire.kind.first_block} seconds=60]"
    stream = await waiting.messages.create(
        model=MODEL,
        max_tokens=4_000,
        messages=user_messages(stalled),
        stream=True,
        thinking={"type": "adaptive"},  # the first block may be thinking
    )
    async for event in stream:
        if event.type == "content_block_start":
            break
    await stream.close()
    await asyncio.to_thread(assert_left, wire)


def assert_left(wire: Upstream) -> None:
    assert wait_for(lambda: wire.exchanges[-1].outcome, lambda outcome: outcome != "open") == "cancelled"


def test_the_sdk_waits_for_retry_after_and_asks_again(wire: Upstream) -> None:
    """The proxy repeats a short limit once itself; the second one reaches the client."""
    with open_sdk(base_url=wire.proxy.url, api_key="x", max_retries=1) as client:
        asked = user_messages("Say exactly: at last [fault:rate after=1 times=2]")
        assert text_of(client.messages.create(model=MODEL, max_tokens=400, messages=asked)).startswith("at last")
    assert [exchange.status for exchange in wire.exchanges] == [429, 429, 200]
