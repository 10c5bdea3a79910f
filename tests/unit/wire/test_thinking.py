"""Provider state returns unchanged through the client, foreign text is no state, and late thinking is dropped."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.engine.messages.deltas import (
    Delta,
    Stop,
    Text,
    Thinking,
    ToolArgs,
    ToolCall,
    ToolEnd,
    TrailingThinkingBuffer,
    Usage,
)
from anthropic_proxy.engine.wires.thinking import (
    MAX_SIGNATURE_BYTES,
    ReasoningState,
    decode_signature,
    encode_signature,
)

TEXTS = st.none() | st.text()
CARRIES = st.builds(
    ReasoningState,
    model=TEXTS,
    item_id=TEXTS,
    encrypted=TEXTS,
    call_signature=TEXTS,
    call_index=st.integers(0, 200),
    replay=st.sampled_from([0, 1]),
)


def sign(text: str, tag: str = "ds") -> str:
    return f"px1.{tag}." + base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


@given(CARRIES)
def test_what_is_carried_comes_back(carry: ReasoningState) -> None:
    signature = encode_signature("kimi", carry)
    assert signature.startswith("px1.kimi.")
    assert signature.isascii()
    assert "=" not in signature
    assert decode_signature("kimi", signature) == carry


def test_nothing_to_carry_is_still_a_signature() -> None:
    assert encode_signature("oll", ReasoningState()) == "px1.oll.e30"
    assert decode_signature("oll", "px1.oll.e30") == ReasoningState()


@pytest.mark.parametrize(
    "signature",
    [
        *("", "px1.ds.", "px1.ka.e30", "px1.dsx.e30", "px1.ds.e3", "px1.ds.!!!!", "px1.ds.é30"),
        *("EqQBCkYIARgCIkDanthropic", sign("[]"), sign("null"), sign('"text"'), sign('{"r":2}'), sign('{"r":true}')),
        *(sign('{"m":1}'), sign('{"e":["x"]}'), sign('{"n":"0"}'), sign('{"s":')),
        sign('{"zz":' + "[" * 100_000 + "]" * 100_000 + "}"),
    ],
)
def test_what_is_foreign_or_damaged_is_no_carry(signature: str) -> None:
    assert decode_signature("ds", signature) is None


def test_unknown_keys_are_ignored() -> None:
    assert decode_signature("ds", sign('{"r":1,"zz":{"a":1}}')) == ReasoningState(replay=1)


def test_a_carry_beyond_64_kib_leaves_the_encrypted_part_out() -> None:
    signature = encode_signature("oai", ReasoningState(item_id="rs_1", encrypted="x" * MAX_SIGNATURE_BYTES))
    assert decode_signature("oai", signature) == ReasoningState(item_id="rs_1")
    fits = ReasoningState(item_id="rs_1", encrypted="x" * (MAX_SIGNATURE_BYTES // 2))
    assert decode_signature("oai", encode_signature("oai", fits)) == fits


REPLIES = st.sampled_from(
    [
        [Text("t")],
        [Text("")],
        [Thinking("h")],
        [Thinking(signature="s")],
        [ToolCall(0, "toolu_1", "f"), ToolArgs(0, "{}"), ToolEnd(0)],
        [Usage(input_tokens=1)],
    ]
)
READS = st.lists(st.lists(REPLIES, max_size=3).map(lambda parts: [delta for deltas in parts for delta in deltas]))


def answers(delta: Delta) -> bool:
    return isinstance(delta, ToolCall) or (isinstance(delta, Text) and bool(delta.text))


@given(READS)
def test_only_thinking_behind_the_last_answer_is_left_out(reads: list[list[Delta]]) -> None:
    late = TrailingThinkingBuffer()
    delivered = [delta for deltas in [*reads, [Stop("end_turn")]] for delta in late.feed([*deltas])]
    given = [delta for deltas in reads for delta in deltas]
    last = max((at for at, delta in enumerate(given) if answers(delta)), default=len(given))
    kept = [delta for at, delta in enumerate(given) if at <= last or not isinstance(delta, Thinking)]
    shown = [delta for delta in delivered if isinstance(delta, Thinking) or answers(delta)]
    assert shown == [delta for delta in kept if isinstance(delta, Thinking) or answers(delta)]
    assert [delta for delta in delivered if not isinstance(delta, Thinking)] == [
        *(delta for delta in kept if not isinstance(delta, Thinking)),
        Stop("end_turn"),
    ]
