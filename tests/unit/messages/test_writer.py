"""The writer: each cell of its table, its eight rules, and properties with random deltas."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from anthropic_proxy.engine.exchange.client_side import encode_events
from anthropic_proxy.engine.messages.call_states import HiddenThinking, decode_kept_state, decode_state_id
from anthropic_proxy.engine.messages.deltas import (
    BilledUsage,
    Block,
    Citation,
    Delta,
    Stop,
    Text,
    TextEnd,
    Thinking,
    ToolArgs,
    ToolCall,
    ToolEnd,
    Usage,
)
from anthropic_proxy.engine.messages.events import (
    BlockStart,
    BlockStop,
    CitationDelta,
    Event,
    InputDelta,
    MessageDelta,
    MessageStop,
    SignatureDelta,
    TextDelta,
    TextStart,
    ThinkingDelta,
    ThinkingStart,
    ToolCallStart,
)
from anthropic_proxy.engine.messages.writer import KEEP_ALIVE_SIGNATURE, MessageWriter
from anthropic_proxy.errors import InternalError, UpstreamProtocolError, UpstreamTimeout
from tests.support.delta_strategies import a_reply, any_deltas, cut_at
from tests.support.event_grammar import check_bytes
from tests.support.messages import exactly

SIGNED = "px1.test.e30"
CITATION = Raw(b'{"type":"char_location","cited_text":"a"}')
OPAQUE = Raw(b'{"type":"web_search_tool_result","tool_use_id":"s1","content":[]}')


def started(*deltas: Delta, estimate: int = 10) -> MessageWriter:
    writer = MessageWriter(message_id="msg_1", model="claude-test", signature=SIGNED)
    writer.start(estimate)
    writer.feed(deltas)
    return writer


def whole(deltas: Sequence[Delta], estimate: int = 10) -> list[Event]:
    writer = MessageWriter(message_id="msg_1", model="claude-test", signature=SIGNED)
    return writer.start(estimate) + writer.feed(deltas) + writer.finish()


def ending(events: Sequence[Event]) -> MessageDelta:
    (found,) = [event for event in events if isinstance(event, MessageDelta)]
    return found


STATES: dict[str, list[Delta]] = {
    "none": [],
    "text": [Text("a")],
    "thinking": [Thinking("a")],
    "call": [ToolCall(1, "c1", "read")],
    "call, another waiting": [ToolCall(1, "c1", "read"), ToolCall(2, "c2", "list")],
}
CLOSES_TEXT = [BlockStop(0)]
CLOSES_THINKING = [SignatureDelta(0, SIGNED), BlockStop(0)]
CLOSES_CALL = [InputDelta(0, "{}"), BlockStop(0)]
CLOSES_CALL_2 = [BlockStop(0), ToolCallStart(1, "c2", "list")]


def opens_text(index: int) -> list[Event]:
    return [TextStart(index), TextDelta(index, "b")]


def opens_thinking(index: int) -> list[Event]:
    return [ThinkingStart(index), ThinkingDelta(index, "b")]


def opens_call(index: int) -> list[Event]:
    return [ToolCallStart(index, "c3", "write")]


def writes_block(index: int) -> list[Event]:
    return [BlockStart(index, OPAQUE), BlockStop(index)]


CELLS: list[tuple[Delta, str, list[Event]]] = [
    (Text("b"), "none", opens_text(0)),
    (Text("b"), "text", [TextDelta(0, "b")]),
    (Text("b"), "thinking", CLOSES_THINKING + opens_text(1)),
    (TextEnd(), "none", []),
    (TextEnd(), "text", CLOSES_TEXT),
    (TextEnd(), "thinking", []),
    (Citation(CITATION), "none", []),
    (Citation(CITATION), "text", [CitationDelta(0, CITATION)]),
    (Citation(CITATION), "thinking", []),
    (Thinking("b"), "none", opens_thinking(0)),
    (Thinking("b"), "text", CLOSES_TEXT + opens_thinking(1)),
    (Thinking("b"), "thinking", [ThinkingDelta(0, "b")]),
    (ToolCall(3, "c3", "write"), "none", opens_call(0)),
    (ToolCall(3, "c3", "write"), "text", CLOSES_TEXT + opens_call(1)),
    (ToolCall(3, "c3", "write"), "thinking", CLOSES_THINKING + opens_call(1)),
    (ToolArgs(1, "{}"), "call", [InputDelta(0, "{}")]),
    (ToolEnd(1), "call", CLOSES_CALL),
    (Block(OPAQUE), "none", writes_block(0)),
    (Block(OPAQUE), "text", CLOSES_TEXT + writes_block(1)),
    (Block(OPAQUE), "thinking", CLOSES_THINKING + writes_block(1)),
    *[(Usage(output_tokens=1), state, []) for state in STATES],
    *[(Stop("end_turn"), state, []) for state in STATES],
]


@pytest.mark.parametrize(("delta", "state", "expected"), CELLS, ids=lambda value: getattr(value, "__name__", None))
def test_a_delta_is_written_as_in_the_table(delta: Delta, state: str, expected: list[Event]) -> None:
    assert started(*STATES[state]).feed([delta]) == expected


WAITING: list[tuple[Delta, str, list[Event]]] = [
    (Text("b"), "call", CLOSES_CALL + opens_text(1)),
    (TextEnd(), "call", CLOSES_CALL),
    (Citation(CITATION), "call", CLOSES_CALL),
    (Thinking("b"), "call", CLOSES_CALL + opens_thinking(1)),
    (ToolCall(3, "c3", "write"), "call", CLOSES_CALL + opens_call(1)),
    (Block(OPAQUE), "call", CLOSES_CALL + writes_block(1)),
    (ToolArgs(2, "{"), "call, another waiting", [InputDelta(0, "{}"), *CLOSES_CALL_2, InputDelta(1, "{")]),
    (ToolEnd(2), "call, another waiting", [InputDelta(0, "{}"), *CLOSES_CALL_2, InputDelta(1, "{}"), BlockStop(1)]),
]


@pytest.mark.parametrize(("delta", "state", "released"), WAITING)
def test_what_comes_during_a_call_waits_until_the_call_ends(delta: Delta, state: str, released: list[Event]) -> None:
    writer = started(*STATES[state])

    assert writer.feed([delta]) == []
    assert writer.feed([ToolEnd(1)]) == released


@pytest.mark.parametrize("state", ["none", "text", "thinking"])
@pytest.mark.parametrize("delta", [ToolArgs(1, "{"), ToolEnd(1)], ids=["arguments", "end"])
@pytest.mark.parametrize("before", [[], [ToolCall(1, "c1", "read"), ToolEnd(1)]], ids=["never begun", "ended"])
def test_a_call_that_is_not_open_cannot_go_on(state: str, delta: Delta, before: list[Delta]) -> None:
    with pytest.raises(InternalError, match=exactly("A tool call was continued that is not open: key 1.")):
        started(*before, *STATES[state]).feed([delta])


class TestStart:
    @pytest.mark.parametrize("use", [MessageWriter.keep_alive, MessageWriter.finish])
    def test_nothing_may_be_written_before_or_after(self, use: Callable[[MessageWriter], object]) -> None:
        with pytest.raises(InternalError, match=exactly("The message was written before it was started.")):
            use(MessageWriter(message_id="msg_1", model="m", signature=SIGNED))
        writer = started(Stop("end_turn"))
        writer.finish()
        for use_after in (use, lambda writer: writer.feed([Text("a")])):
            with pytest.raises(InternalError, match=exactly("The message was written after its end.")):
                use_after(writer)


class TestSignatures:
    def test_one_from_the_upstream_closes_its_block(self) -> None:
        written = started(Thinking("a")).feed([Thinking(signature="s"), Thinking("b")])

        assert written == [SignatureDelta(0, "s"), BlockStop(0), *opens_thinking(1)]

    def test_one_without_text_makes_a_block(self) -> None:
        assert started().feed([Thinking("", "s")]) == [ThinkingStart(0), SignatureDelta(0, "s"), BlockStop(0)]


class TestKeepAlive:
    @pytest.mark.parametrize(
        ("state", "expected"),
        [
            ("none", [ThinkingStart(0), ThinkingDelta(0, "")]),
            ("text", [TextDelta(0, "")]),
            ("thinking", [ThinkingDelta(0, "")]),
            ("call", [InputDelta(0, "")]),
        ],
    )
    def test_writes_into_the_open_block_or_opens_one(self, state: str, expected: list[Event]) -> None:
        assert started(*STATES[state]).keep_alive() == expected

    def test_a_block_that_stayed_empty_is_signed_as_ours(self) -> None:
        writer = started()
        writer.keep_alive()
        writer.keep_alive()

        assert writer.feed([Text("b")]) == [SignatureDelta(0, KEEP_ALIVE_SIGNATURE), BlockStop(0), *opens_text(1)]

    def test_a_block_that_thinking_filled_is_not(self) -> None:
        writer = started()
        writer.keep_alive()

        assert writer.feed([Thinking("b")]) == [ThinkingDelta(0, "b")]
        assert writer.feed([Text("b")])[0] == SignatureDelta(0, SIGNED)


class TestCalls:
    @pytest.mark.parametrize("state", ["none", "text", "call"])
    def test_a_used_key_is_a_bug(self, state: str) -> None:
        used = [ToolCall(9, "c9", "read"), ToolEnd(9)]
        with pytest.raises(InternalError, match=exactly("Two tool calls of one message have the same key: 9.")):
            started(*used, *STATES[state]).feed([ToolCall(9, "c10", "read")])

    @pytest.mark.parametrize("fragments", [["null"], ["nu", "ll"], [" n", "ull", "\n"], ["None"], ["[]"], ["[", "]"]])
    def test_null_means_no_arguments(self, fragments: list[str]) -> None:
        deltas = [*[ToolArgs(1, text) for text in fragments], ToolEnd(1)]
        assert started(*STATES["call"]).feed(deltas) == CLOSES_CALL

    @pytest.mark.parametrize("fragments", [["nul"], ["nu", "lls"], ["Non"], ["[1", "]"], ['"a"'], ["tr", "ue"]])
    def test_what_begins_no_object_becomes_one_at_its_end(self, fragments: list[str]) -> None:
        text = "".join(fragments)
        writer = started(*STATES["call"])

        assert writer.feed([ToolArgs(1, fragment) for fragment in fragments]) == []
        [arguments, stop] = writer.feed([ToolEnd(1)])
        assert isinstance(arguments, InputDelta)
        assert json.loads(arguments.json) == {"__unparsedToolInput": {"raw": text, "len": len(text)}}
        assert stop == BlockStop(0)

    def test_what_begins_an_object_is_sent_at_once(self) -> None:
        writer = started(*STATES["call"])

        fragments = ["{", "'a': ", "oops"]
        assert [writer.feed([ToolArgs(1, text)]) for text in fragments] == [[InputDelta(0, text)] for text in fragments]


class TestFinish:
    def test_without_a_stop_is_not_an_end(self) -> None:
        writer = started(Text("a"))
        with pytest.raises(UpstreamProtocolError):
            writer.finish()
        assert not writer.finished
        assert writer.fail(UpstreamTimeout("silent"))

    def test_usage_may_follow_the_stop_and_only_the_first_stop_counts(self) -> None:
        end = ending(whole([Stop("max_tokens"), Usage(input_tokens=3, output_tokens=4), Stop("end_turn")]))

        assert (end.stop_reason, end.usage.input_tokens, end.usage.output_tokens) == ("max_tokens", 3, 4)

    @pytest.mark.parametrize(
        ("reported_reason", "called", "reason"),
        [
            ("end_turn", False, "end_turn"),
            ("end_turn", True, "tool_use"),
            ("tool_use", True, "tool_use"),
            ("tool_use", False, "end_turn"),
            ("max_tokens", True, "max_tokens"),
            ("refusal", True, "refusal"),
            ("pause_turn", True, "pause_turn"),
        ],
    )
    def test_the_reason_agrees_with_the_content(self, reported_reason: str, called: bool, reason: str) -> None:
        call: list[Delta] = [ToolCall(1, "c1", "read")] if called else [Text("a")]

        assert ending(whole([*call, Stop(reported_reason)])).stop_reason == reason


class TestUsage:
    def test_the_last_reported_number_wins_and_a_missing_one_changes_none(self) -> None:
        deltas = [
            Usage(input_tokens=10, output_tokens=1, thinking_tokens=1),
            Usage(output_tokens=7, cache_read_tokens=3, cache_write_tokens=2),
            Usage(),
        ]

        usage = ending(whole([*deltas, Stop("end_turn")], estimate=99)).usage

        assert (usage.input_tokens, usage.output_tokens) == (10, 7)
        assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (3, 2)
        assert usage.output_tokens_details == {"thinking_tokens": 1}

    def test_without_usage_the_estimate_stays_and_written_output_counts(self) -> None:
        usage = ending(whole([Thinking("1234"), Text("12345678"), Text("9"), Stop("end_turn")], estimate=99)).usage

        assert (usage.input_tokens, usage.output_tokens) == (99, 4)

    def test_a_reply_cut_at_a_stop_sequence_counts_no_less_than_was_written(self) -> None:
        text = Text("x" * 400)

        assert ending(whole([text, Usage(output_tokens=1), Stop("stop_sequence", "S")])).usage.output_tokens == 100
        assert ending(whole([text, Usage(output_tokens=250), Stop("stop_sequence", "S")])).usage.output_tokens == 250
        assert ending(whole([text, Usage(output_tokens=1), Stop("end_turn")])).usage.output_tokens == 1

    def test_a_cached_part_does_not_count_twice_if_it_is_reported_alone(self) -> None:
        usage = ending(whole([Usage(cache_read_tokens=60), Stop("end_turn")], estimate=100)).usage

        assert (usage.input_tokens, usage.cache_read_input_tokens) == (40, 60)

    def test_no_number_is_negative(self) -> None:
        usage = Usage(
            input_tokens=-1, output_tokens=-1, cache_read_tokens=-1, cache_write_tokens=-1, thinking_tokens=-1
        )

        frame = encode_events([ending(whole([usage, Stop("end_turn")]))])

        assert b"-" not in frame.split(b"usage")[1]

    def test_thinking_is_part_of_the_output_whatever_the_upstream_counts(self) -> None:
        usage = ending(whole([Usage(output_tokens=5, thinking_tokens=16), Stop("end_turn")])).usage

        assert (usage.output_tokens, usage.output_tokens_details) == (5, {"thinking_tokens": 5})

    def test_searches_and_tier_are_written_only_if_known(self) -> None:
        encoded_default = encode_events([ending(whole([Stop("end_turn")]))])
        assert b"server_tool_use" not in encoded_default
        assert b"service_tier" not in encoded_default

        encoded = encode_events(
            [ending(whole([Usage(web_search_requests=2, service_tier="priority"), Stop("end_turn")]))]
        )
        assert b'"server_tool_use":{"web_search_requests":2,"web_fetch_requests":0}' in encoded
        assert b'"service_tier":"priority"' in encoded


def write_in_pieces(writer: MessageWriter, reply: list[Delta], cuts: list[int], pauses: set[int]) -> list[Event]:
    """Return the events of a reply that is cut at the places `cuts`. Before the pieces `pauses`, the writer keeps the
    client waiting.
    """
    events = list[Event]()
    for number, deltas in enumerate(cut_at(reply, cuts)):
        if number in pauses:
            events += writer.keep_alive()
        events += writer.feed(deltas)
    events += writer.finish()
    return events


@given(reply=a_reply(), cuts=st.lists(st.integers(0, 60)), pauses=st.sets(st.integers(0, 60)))
def test_every_reply_keeps_its_content_and_follows_the_grammar(
    reply: list[Delta], cuts: list[int], pauses: set[int]
) -> None:
    writer = MessageWriter(message_id="msg_1", model="claude-test", signature=SIGNED)
    events = writer.start(1)
    events += write_in_pieces(writer, reply, cuts, pauses)

    assert check_bytes(encode_events(events)) == []
    assert _indexes_are_dense(events)
    assert _joined(events, TextDelta) == "".join(delta.text for delta in reply if isinstance(delta, Text))
    assert _joined(events, ThinkingDelta) == "".join(delta.text for delta in reply if isinstance(delta, Thinking))
    assert _arguments_written(events) == _arguments_of_deltas(reply)
    assert _blocks_written(events) == [msgspec.json.decode(d.raw) for d in reply if isinstance(d, Block)]
    assert [type(event) for event in events].count(MessageDelta) == 1
    assert [type(event) for event in events].count(MessageStop) == 1
    assert isinstance(events[-1], MessageStop)


@given(reply=a_reply(), cuts=st.lists(st.integers(0, 60)))
def test_how_the_network_cuts_a_reply_makes_no_difference(reply: list[Delta], cuts: list[int]) -> None:
    writer = started()
    events = [event for deltas in cut_at(reply, cuts) for event in writer.feed(deltas)]

    assert events + writer.finish() == whole(reply)[1:]


@given(deltas=st.lists(any_deltas()), cuts=st.lists(st.integers(0, 60)))
def test_deltas_in_any_order_give_a_lawful_stream_or_our_own_error(deltas: list[Delta], cuts: list[int]) -> None:
    writer = MessageWriter(message_id="msg_1", model="claude-test", signature=SIGNED)
    events = writer.start(1)
    try:
        for some in cut_at(deltas, cuts):
            events += writer.feed(some)
        events += writer.finish()
    except (InternalError, UpstreamProtocolError) as error:
        events += writer.fail(error)

    assert check_bytes(encode_events(events, "req_1"), requires_json_arguments=False) == []


def _indexes_are_dense(events: Sequence[Event]) -> bool:
    starts = [e.index for e in events if isinstance(e, TextStart | ThinkingStart | ToolCallStart | BlockStart)]
    stops = [e.index for e in events if isinstance(e, BlockStop)]
    return starts == stops == list(range(len(starts)))


def _joined(events: Sequence[Event], kind: type[TextDelta] | type[ThinkingDelta]) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


def _blocks_written(events: Sequence[Event]) -> list[dict[str, Any]]:
    blocks = {e.index: msgspec.json.decode(e.raw) for e in events if isinstance(e, BlockStart)}
    given = {e.index: msgspec.json.decode(e.json) for e in events if isinstance(e, InputDelta) and e.index in blocks}
    return [block | ({"input": given[index]} if index in given else {}) for index, block in blocks.items()]


def _arguments_written(events: Sequence[Event]) -> list[tuple[str, str, str]]:
    calls = {e.index: (e.id, e.name) for e in events if isinstance(e, ToolCallStart)}
    fragments = dict.fromkeys(calls, "")
    for event in events:
        if isinstance(event, InputDelta) and event.index in calls:
            fragments[event.index] += event.json
    return [(*calls[index], fragments[index]) for index in calls]


def _arguments_of_deltas(reply: Sequence[Delta]) -> list[tuple[str, str, str]]:
    calls = {d.key: (d.id, d.name) for d in reply if isinstance(d, ToolCall)}
    arguments = dict.fromkeys(calls, "")
    for delta in reply:
        if isinstance(delta, ToolArgs) and (arguments[delta.key] or not delta.json.isspace()):
            arguments[delta.key] += delta.json
    return [(*calls[key], arguments[key] or "{}") for key in calls]


def test_the_input_of_a_call_that_the_api_ran_is_streamed_as_a_delta() -> None:
    raw = Raw(b'{"type":"server_tool_use","id":"srvtoolu_1","name":"web_search","input":{"query":"fjord"}}')
    writer = MessageWriter(message_id="msg_1", model="claude-test", signature="")
    events = writer.start(1) + writer.feed([Block(raw), Stop("end_turn")]) + writer.finish()
    start, delta = (next(event for event in events if isinstance(event, kind)) for kind in (BlockStart, InputDelta))
    assert msgspec.json.decode(start.raw)["input"] == {}
    assert delta == InputDelta(0, '{"query":"fjord"}')


LARGE = "x" * (1 << 20)
TOO_LARGE = "the reply is larger than 64 MiB"


@pytest.mark.parametrize("delta", [ToolArgs(2, LARGE), Text(LARGE)], ids=["second call", "text"])
def test_what_waits_for_the_end_of_a_call_is_bounded(delta: Delta) -> None:
    writer = MessageWriter(message_id="msg_1", model="claude", signature="px1.x.e30")
    writer.start(1)
    writer.feed([ToolCall(1, "call_1", "read"), ToolCall(2, "call_2", "read")])
    with pytest.raises(UpstreamProtocolError) as raised:
        writer.feed([delta] * 65)
    assert (str(raised.value), raised.value.retryable) == (TOO_LARGE, False)


def test_the_times_of_the_first_100_blocks_are_kept() -> None:
    writer = MessageWriter(message_id="msg_1", model="claude", signature="px1.x.e30", clock=lambda: 1.0)
    writer.start(1)
    writer.feed([Text("a"), Thinking("b", "")] * 10_000)
    writer.feed([Stop("end_turn")])
    writer.finish()
    assert writer.marks == [
        (kind, "", 1.0, at) for at, kind in zip(range(101), ["text", "thinking"] * 51, strict=False)
    ]


def hiding(*deltas: Delta) -> tuple[MessageWriter, list[Event]]:
    """Return a writer whose client gets no thinking, and its events."""
    hidden = HiddenThinking(lambda prefix: f"{prefix}1")
    writer = MessageWriter(message_id="msg_1", model="claude-test", signature=SIGNED, hidden=hidden)
    writer.start(10)
    return writer, writer.feed(deltas)


HIDDEN_CELLS: list[tuple[Delta, str]] = [
    (thinking, state) for state in STATES if state != "thinking" for thinking in (Thinking("b"), Thinking("b", SIGNED))
]


@pytest.mark.parametrize(("delta", "state"), HIDDEN_CELLS)
def test_hidden_thinking_is_not_written_and_counts(delta: Delta, state: str) -> None:
    writer, _ = hiding(*STATES[state])
    before = writer.characters
    assert (writer.feed([delta]), writer.characters) == ([], before + 1)


@given(reply=a_reply(), cuts=st.lists(st.integers(0, 60)), pauses=st.sets(st.integers(0, 60)))
def test_a_reply_without_its_thinking_keeps_the_rest_and_follows_the_grammar(
    reply: list[Delta], cuts: list[int], pauses: set[int]
) -> None:
    writer, _ = hiding()
    events = MessageWriter(message_id="msg_1", model="claude-test", signature=SIGNED).start(1)
    events += write_in_pieces(writer, reply, cuts, pauses)

    assert check_bytes(encode_events(events)) == []
    assert _indexes_are_dense(events)
    assert not [event for event in events if isinstance(event, ThinkingStart | ThinkingDelta | SignatureDelta)]
    assert _joined(events, TextDelta) == "".join(delta.text for delta in reply if isinstance(delta, Text))
    assert _arguments_written(events) == _arguments_of_deltas(reply)  # the state of the thinking is empty
    assert writer.counts == ending_counts(reply)


def ending_counts(reply: Sequence[Delta]) -> BilledUsage:
    """Return the counts for a client that gets the thinking."""
    writer = started(*reply)
    writer.finish()
    return writer.counts


def test_an_empty_text_keeps_a_reply_alive_that_hides_its_thinking() -> None:
    writer, events = hiding(Thinking("b"))
    assert events == []
    assert writer.keep_alive() == [TextStart(0), TextDelta(0, "")]
    assert writer.feed([Thinking("b"), Text("a")]) == [TextDelta(0, "a")]


STATE = "px1.test.eyJzIjoiQUJDIn0"  # {"s":"ABC"}
REPLAYED = "px1.test.eyJyIjoxfQ"  # {"r":1}


@pytest.mark.parametrize(
    ("deltas", "carried"),
    [
        ([Thinking("b", STATE)], [("c1", [[0, "test", '{"s":"ABC"}', ""]])]),
        ([Thinking("b", STATE), Text("a")], [("c1", [[1, "test", '{"s":"ABC"}', ""]])]),
        ([Text("a"), Thinking("b", STATE), Text("a")], [("c1", [[0, "test", '{"s":"ABC"}', ""]])]),
        ([Thinking("b"), Thinking("", REPLAYED)], [("c1", [[0, "test", '{"r":1}', "b"]])]),
        (
            [Thinking("b", STATE), Text("a"), Thinking("c", STATE)],
            [("c1", [[1, "test", '{"s":"ABC"}', ""], [0, "test", '{"s":"ABC"}', ""]])],
        ),
        ([Thinking("b"), Thinking("", SIGNED)], [("c1", None)]),
        ([Thinking("b", "of another form")], [("c1", None)]),
        ([Thinking("", REPLAYED)], [("c1", None)]),
        (
            [ToolCall(0, "c0", "read"), Thinking("b", STATE)],
            [("c0", None), ("c1", [[0, "test", '{"s":"ABC"}', ""]])],
        ),
        (
            [ToolCall(0, "c0", "read"), Thinking("b", STATE), *[Text("a")] * 5, TextEnd(), Text(""), Text("d")],
            [("c0", None), ("c1", [[2, "test", '{"s":"ABC"}', ""]])],
        ),
        (
            [ToolCall(0, "c0", "read"), Text("a"), Text("a"), Thinking("b", STATE), Text("a"), TextEnd(), TextEnd()],
            [("c0", None), ("c1", [[0, "test", '{"s":"ABC"}', ""]])],
        ),
        (
            [Text("a"), ToolCall(0, "c0", "read"), Thinking("b", STATE), Text(""), Text("a")],
            [("c0", None), ("c1", [[1, "test", '{"s":"ABC"}', ""]])],
        ),
        (
            [ToolCall(0, "c0", "read"), Text("a"), ToolEnd(0), Thinking("b", STATE), Text("a"), ToolCall(2, "c2", "x")],
            [("c0", None), ("c2", [[0, "test", '{"s":"ABC"}', ""]]), ("c1", None)],
        ),
    ],
)
def test_a_call_carries_the_thinking_since_the_call_before(
    deltas: list[Delta], carried: list[tuple[str, list[Any] | None]]
) -> None:
    hidden = HiddenThinking(lambda prefix: f"{prefix}1")
    writer = MessageWriter(message_id="msg_1", model="claude-test", signature=SIGNED, hidden=hidden)
    events = writer.start(10) + writer.feed([*deltas, ToolCall(1, "c1", "read"), Stop("tool_use")]) + writer.finish()
    found: list[tuple[str, list[Any] | None]] = []
    for event in events:
        if isinstance(event, ToolCallStart):
            kept = hidden.unsaved.get(event.id)
            state = decode_state_id(event.id) if kept is None else decode_kept_state(kept)
            thoughts = None if state is None else msgspec.to_builtins(state)[1]
            found.append((event.id if state is None else state.call_id, thoughts))
    assert found == carried
