"""The stop-sequence filter, against a reference that reads the complete text."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from anthropic_proxy.engine.messages.deltas import (
    Block,
    Citation,
    Delta,
    Stop,
    Text,
    Thinking,
    ToolArgs,
    ToolCall,
    ToolEnd,
    Usage,
)
from anthropic_proxy.engine.messages.stop_sequences import StopSequenceFilter

CITATION = Citation(Raw(b'{"cited_text":"c"}'))


def cut(sequences: Sequence[str], *deltas: Delta) -> list[Delta]:
    cutter = StopSequenceFilter(sequences)
    return cutter.feed(deltas) + cutter.flush()


def text_of(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas if isinstance(delta, Text))


class TestHoldingBack:
    def test_a_citation_stays_behind_its_text(self) -> None:
        assert cut(["END"], Text("E"), CITATION, Text("x")) == [Text("E"), CITATION, Text("x")]
        assert cut(["END"], Text("a"), CITATION) == [Text("a"), CITATION]


class TestAfterTheMatch:
    def test_only_the_cost_is_passed_on(self) -> None:
        usage = Usage(input_tokens=3)

        written = cut(["END"], Text("aEND"), Text("b"), usage, ToolCall(0, "c", "read"), Stop("end_turn"))

        assert written == [Text("a"), Stop("stop_sequence", "END"), usage]

    def test_later_lists_give_nothing_more(self) -> None:
        cutter = StopSequenceFilter(["END"])
        cutter.feed([Text("END")])

        assert cutter.feed([Text("END"), Stop("end_turn")]) == []
        assert cutter.flush() == []


@pytest.mark.parametrize("sequences", [[], [""], [" ", "\n\t"]])
def test_empty_sequences_and_white_space_cut_nothing(sequences: list[str]) -> None:
    deltas: list[Delta] = [Text("a \n\t b"), CITATION, Stop("end_turn")]

    assert cut(sequences, *deltas) == deltas


letters = st.text("ab", max_size=4)  # few, so that sequences often begin alike
breaks = st.sampled_from([Thinking("abc"), ToolCall(0, "c", "abc"), Block(Raw(b"{}"))])
others = st.sampled_from([Usage(output_tokens=1), ToolArgs(0, "abc"), ToolEnd(0)])


@given(
    sequences=st.lists(letters | st.just(" "), max_size=4),
    deltas=st.lists(st.one_of(letters.map(Text), letters.map(Text), breaks, others, st.just(Stop("end_turn")))),
)
def test_the_same_as_a_reader_of_the_whole_text(sequences: list[str], deltas: list[Delta]) -> None:
    cutter = StopSequenceFilter(sequences)
    written: list[Delta] = []
    for delta in deltas:
        written += cutter.feed([delta])
    written += cutter.flush()

    runs, matched = _reference([sequence for sequence in sequences if sequence.strip()], deltas)

    assert _runs(written) == runs
    assert cutter.matched == matched
    assert (Stop("stop_sequence", matched) in written) == (matched is not None)


@given(sequences=st.lists(st.text("abc", min_size=1, max_size=9), max_size=30), text=st.text("abc", max_size=60))
def test_many_sequences_that_begin_alike(sequences: list[str], text: str) -> None:
    expected = _reference(sequences, [Text(text)])

    for deltas in ([Text(text)], [*map(Text, text)], [Text(text[:30]), Text(text[30:])]):
        cutter = StopSequenceFilter(sequences)
        written = cutter.feed(deltas) + cutter.flush()

        assert (_runs(written), cutter.matched) == expected


@given(sequences=st.lists(letters, min_size=1, max_size=4), texts=st.lists(letters))
def test_no_more_is_held_than_a_match_needs(sequences: list[str], texts: list[str]) -> None:
    cutter = StopSequenceFilter(sequences)
    received = written = ""
    for text in texts:
        received += text
        written += text_of(cutter.feed([Text(text)]))
        held = received[len(written) :]
        assert cutter.matched is not None or any(sequence.startswith(held) for sequence in [*sequences, ""])


def _runs(deltas: Sequence[Delta]) -> list[str]:
    """The text between the borders of blocks, up to the answer's end by a sequence."""
    runs = [""]
    for delta in deltas:
        if isinstance(delta, Text):
            runs[-1] += delta.text
        elif isinstance(delta, Thinking | ToolCall | Block) or delta == Stop("end_turn"):
            runs.append("")
    return runs


def _reference(sequences: Sequence[str], deltas: Sequence[Delta]) -> tuple[list[str], str | None]:
    runs = _runs(deltas)
    for number, run in enumerate(runs):
        places = [(run.find(sequence), order) for order, sequence in enumerate(sequences) if sequence in run]
        if places:
            place, order = min(places)
            return [*runs[:number], run[:place]], sequences[order]
    return runs, None
