"""Thinking after the last text or call is dropped. All other deltas stay, in their order."""

from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.messages.deltas import Delta, Stop, Text, Thinking, ToolArgs, ToolCall, ToolEnd, Usage
from anthropic_proxy.wire.thinking import TrailingThinkingBuffer

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
