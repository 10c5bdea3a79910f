"""A server of the user's own at OPENAI_BASE_URL, behind a real proxy process: three lines, and nothing it refuses."""

import anthropic
import pytest

from tests.support.compatible import (
    ADD,
    THINK,
    WEATHER,
    Session,
    add,
    picture,
    refused,
    stand_in,
    text_of,
    thinking_of,
    weather,
)

QWEN, GEMMA = "openai/Qwen/Qwen3-8B", "openai/gemma-4-27b"


pair, talk = stand_in("local", BIG_MODEL="openai/qwen3-coder")


@pytest.mark.parametrize("stream", [False, True])
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


@pytest.mark.parametrize("stream", [False, True])
def test_tools_over_several_turns_and_two_at_once(talk: Session, stream: bool) -> None:
    assert text_of(talk.work("Add 4, 5 and 6", add, stream=stream, tools=[ADD, WEATHER])) == "The sum is 15."
    reply = talk.work("How is the weather in Oslo and Rome?", weather, stream=stream, tools=[ADD, WEATHER])
    assert text_of(reply) == "Oslo: snow; Rome: sun"


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_comes_once_and_goes_back(talk: Session, stream: bool) -> None:
    talk.model = QWEN
    ask = "How is the weather in Oslo and Rome?"
    assert text_of(talk.work(ask, weather, stream=stream, tools=[WEATHER], thinking=THINK)) == "Oslo: snow; Rome: sun"
    thinking = "".join(block.get("thinking", "") for block in talk.history[1]["content"])
    assert thinking == f"I am asked: {ask}; this is reply 1."
    assert talk.bodies[1]["messages"][1]["reasoning_content"] == thinking
    assert thinking_of(talk.send("Count to 3", stream=stream))


def test_pictures_go_to_a_model_that_nobody_knows(talk: Session) -> None:
    talk.model = GEMMA
    reply = talk.send([picture(), {"type": "text", "text": "Describe the pictures"}], stream=True)
    assert "image/png 31 by 17" in text_of(reply)


@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [("missing", 400, "invalid_request_error"), ("server", 500, "api_error"), ("loading", 503, "api_error")],
)
def test_every_refusal_has_its_kind(talk: Session, fault: str, status: int, kind: str) -> None:
    assert refused(talk, fault, stream=True)[:2] == (status, kind)


def test_a_prompt_over_the_window_makes_the_client_compact(talk: Session) -> None:
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long: 69857 tokens > 65536 maximum"):
        talk.send("Say exactly: x [fault:overflow]", stream=False)


def test_output_that_does_not_fit_beside_the_input_is_lowered(talk: Session) -> None:
    reply = talk.send("Count to 3", stream=True, system="be kind. " * 10_000, max_tokens=50_000)
    assert text_of(reply) == "1 2 3"
    first, second = talk.bodies
    assert first["max_tokens"] == 50_000
    assert 20_000 < second["max_tokens"] < 50_000


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


@pytest.mark.parametrize("stream", [False, True])
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
