"""The client receives no more text than it asked for, wherever the fragments of a reply end."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.engine.messages.deltas import (
    CHARACTERS_PER_TOKEN,
    Delta,
    Stop,
    Text,
    Thinking,
    ToolArgs,
    ToolCall,
    ToolEnd,
    Usage,
    merge_stops,
)
from anthropic_proxy.engine.messages.output_limit import OutputLimitFilter
from anthropic_proxy.engine.messages.reply_filter import ReplyFilter

CALL = [ToolCall(0, "call_1", "weather"), ToolArgs(0, '{"city":'), ToolArgs(0, '"Oslo"}'), ToolEnd(0)]
SECOND_CALL = [ToolCall(1, "call_2", "weather"), ToolArgs(1, "{}"), ToolEnd(1)]


def read_text(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas if isinstance(delta, Text))


@given(st.text(), st.lists(st.integers(0, 90), max_size=6), st.integers(1, 15))
def test_text_ends_at_the_limit_at_the_same_place_for_all_fragments(text: str, cuts: list[int], limit: int) -> None:
    edges = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    pieces = [Text(text[start:end]) for start, end in itertools.pairwise(edges)]
    cutter = OutputLimitFilter(limit)
    kept = [delta for piece in pieces for delta in cutter.feed([piece])] + cutter.feed([Stop("end_turn")])
    assert read_text(kept) == text[: limit * CHARACTERS_PER_TOKEN]
    assert kept[-1] == Stop("end_turn" if read_text(kept) == text else "max_tokens")
    assert [type(delta) for delta in kept].count(Stop) == 1


DELTAS = st.lists(
    st.builds(Text, st.text("abE ND", max_size=9)) | st.builds(Thinking, st.text("t", max_size=40)), max_size=12
)


@given(DELTAS, st.integers(1, 8), st.sampled_from([[], ["END"], ["a", "E"]]))
def test_a_reply_is_never_longer_than_the_limit_and_is_a_beginning(
    deltas: list[Delta], limit: int, sequences: list[str]
) -> None:
    end = ReplyFilter(sequences, limit)
    kept = [received for delta in deltas for received in end.feed([delta])]
    kept += end.feed([Stop("end_turn")])
    kept += end.flush()
    assert len(read_text(kept)) <= limit * CHARACTERS_PER_TOKEN
    assert read_text(deltas).startswith(read_text(kept))
    stop: Stop | None = None
    for delta in kept:
        if isinstance(delta, Stop):
            stop = merge_stops(stop, delta)
    assert stop is not None
    if stop.reason == "end_turn":
        assert kept == [*deltas, Stop("end_turn")] or read_text(kept) == read_text(deltas)


def test_reasoning_before_the_text_does_not_count() -> None:
    cutter = OutputLimitFilter(1)
    thoughts = Thinking("Long thoughts", "px1.oai.e30")
    assert cutter.feed([thoughts, Text("Yes, it is"), Stop("end_turn")]) == [thoughts, Text("Yes,"), Stop("max_tokens")]


def test_usage_after_the_end_is_returned_and_nothing_else() -> None:
    cutter = OutputLimitFilter(1)
    cutter.feed([Text("Yes, it is")])
    usage = Usage(output_tokens=900)
    assert cutter.feed([Text("more"), *CALL, usage, Stop("end_turn")]) == [usage]


def test_a_call_that_begins_within_the_limit_stays_whole_and_no_other_begins() -> None:
    cutter = OutputLimitFilter(2)
    assert cutter.feed([Text("Look"), *CALL, Stop("tool_use")]) == [Text("Look"), *CALL, Stop("tool_use")]
    cutter = OutputLimitFilter(2)
    assert cutter.feed([Text("Look"), *CALL, *SECOND_CALL, Stop("tool_use")]) == [
        Text("Look"),
        *CALL,
        Stop("max_tokens"),
    ]


def test_calls_in_turn_stay_whole_if_all_began_within_the_limit() -> None:
    cutter = OutputLimitFilter(4)
    mixed = [CALL[0], SECOND_CALL[0], CALL[1], SECOND_CALL[1], CALL[2], SECOND_CALL[2], CALL[3]]
    assert cutter.feed([*mixed, Stop("tool_use")]) == [*mixed, Stop("tool_use")]


def test_a_call_after_text_that_fills_the_limit_is_left_out() -> None:
    cutter = OutputLimitFilter(1)
    assert cutter.feed([Text("Look"), *CALL, Stop("tool_use")]) == [Text("Look"), Stop("max_tokens")]


def test_a_stop_sequence_before_the_limit_ends_the_reply_and_one_behind_it_does_not() -> None:
    end = ReplyFilter(["END"], 2)
    assert end.feed([Text("one END two")]) == [Text("one "), Stop("stop_sequence", "END")]
    end = ReplyFilter(["END"], 1)
    assert end.feed([Text("one two END")]) == [Text("one "), Stop("max_tokens")]
