"""The grammar checker: streams in the form of Anthropic's pass, and every violation is named."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from anthropic_proxy.engine.messages import stream_grammar
from anthropic_proxy.engine.messages.server_tools import CALL_TYPES
from messages_conformance import grammar as grammar_tables
from messages_conformance.grammar import EventGrammar
from tests.support.event_grammar import check_bytes, check_events
from tests.support.golden_texts import Check
from tests.support.provider_replies.messages import DOUBLE_START, MESSAGE_STREAMS

Events = list[dict[str, Any]]


def start(**changes: Any) -> dict[str, Any]:
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "usage": {"input_tokens": 1, "output_tokens": 0},
    }
    return {"type": "message_start", "message": {**message, **changes}}


def opening(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": {"type": kind, **fields}}


def delta(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


def closing(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def end(reason: str | None = "tool_use", sequence: str | None = None, **usage: Any) -> dict[str, Any]:
    counted = {"output_tokens": 5, **usage}
    return {
        "type": "message_delta",
        "delta": {"stop_reason": reason, "stop_sequence": sequence},
        "usage": {name: value for name, value in counted.items() if value != "absent"},
    }


STOP = {"type": "message_stop"}
PING = {"type": "ping"}
ERROR = {"type": "error", "error": {"type": "api_error", "message": "x"}, "request_id": "req_1"}

# 0 start, 1 ping, 2–5 thinking, 6–8 text, 9–12 call, 13 end, 14 stop
GOOD: Events = [
    *(start(), PING, opening(0, "thinking", thinking="", signature=""), delta(0, "thinking_delta", thinking="hm")),
    *(delta(0, "signature_delta", signature="s"), closing(0), opening(1, "text", text="")),
    *(delta(1, "text_delta", text="a"), closing(1), opening(2, "tool_use", id="c", name="read", input={})),
    *(delta(2, "input_json_delta", partial_json='{"p"'), delta(2, "input_json_delta", partial_json=":1}"), closing(2)),
    *(end(), STOP),
]


def framed(events: Events) -> bytes:
    return b"".join(b"event: %b\ndata: %b\n\n" % (e.get("type", "").encode(), json.dumps(e).encode()) for e in events)


def test_a_lawful_stream_has_no_fault() -> None:
    assert check_events(GOOD) == []
    assert check_bytes(framed(GOOD)) == []


@pytest.mark.parametrize("length", range(15))
def test_an_error_may_end_it_anywhere(length: int) -> None:
    assert check_events([*GOOD[:length], ERROR]) == []


@pytest.mark.parametrize("name", MESSAGE_STREAMS)
def test_streams_of_anthropic_have_no_fault(name: str) -> None:
    assert check_bytes(MESSAGE_STREAMS[name]) == []


@pytest.mark.parametrize("length", range(15))
def test_pings_may_come_anywhere_before_the_end(length: int) -> None:
    assert check_events([*GOOD[:length], PING, *GOOD[length:]]) == []


def test_the_last_of_several_message_deltas_has_the_stop_reason() -> None:
    assert check_events(instead(13, end(None), PING, end())) == []
    assert check_events(instead(13, end(), end(None))) == ["event 15: stop_reason null"]
    assert check_events(instead(13, end(), end("stop"))[:-1]) == [
        'event 15: stop_reason "stop"',
        "the stream ends without message_stop or error",
    ]


def test_a_stream_that_begins_twice_is_caught() -> None:
    assert check_bytes(DOUBLE_START) == ["event 2: a second message_start"]


def without(*places: int) -> Events:
    return [event for place, event in enumerate(GOOD) if place not in places]


def instead(place: int, *events: dict[str, Any]) -> Events:
    return [*GOOD[:place], *events, *GOOD[place + 1 :]]


def test_golden_faults(golden: Check) -> None:
    """`golden_texts/stream_grammar`: a good stream without some events, with others instead of one, or only these."""

    def show(given: str) -> str:
        word, _, rest = given.partition(" ")
        place, _, rest = rest.partition(" ") if word == "instead" else ("0", "", rest)
        if word == "without":
            events = without(*map(int, rest.split()))
        else:
            events = json.loads(f"[{rest.replace('} {', '}, {')}]")
            events = instead(int(place), *events) if word == "instead" else events
        found = check_events(events)
        assert check_bytes(framed(events)) == found
        return "\n".join(found)

    golden("stream_grammar", show)


def test_two_calls_may_not_share_an_id() -> None:
    again = [{**event, "index": 3} for event in GOOD[9:13]]

    assert check_events([*GOOD[:13], *again, *GOOD[13:]]) == ['event 14: two calls with the id "c"']


def test_a_call_may_be_cut_by_the_limit_but_only_the_last() -> None:
    cut = without(11)
    cut[12] = end("max_tokens")
    assert check_events(cut) == []

    followed = [*cut[:12], opening(3, "text", text=""), closing(3), *cut[12:]]
    assert check_events(followed) == ["event 15: the arguments of block 2 are no JSON object"]


def test_arguments_that_the_model_broke_can_be_forgiven() -> None:
    assert check_events(without(11), requires_json_arguments=False) == []


def test_blocks_of_a_later_api_may_have_deltas_of_their_own() -> None:
    later = [opening(0, "later"), delta(0, "later_delta"), closing(0)]

    assert check_events([start(), *later, end("end_turn"), STOP]) == []


FRAME_FAULTS: list[tuple[Callable[[bytes], bytes], str]] = [
    (lambda stream: stream.replace(b"event: ping\n", b""), 'the field event is "", the type in the data "ping"'),
    (
        lambda stream: stream.replace(b"event: ping", b"event: pong"),
        'the field event is "pong", the type in the data "ping"',
    ),
    (lambda stream: stream.replace(b'{"type": "ping"}', b'{"type": "ping"'), "the data is no JSON object"),
    (lambda stream: stream.replace(b'{"type": "ping"}', b"[" * 100_000), "the data is no JSON object"),
    (lambda stream: stream.replace(b'{"type": "ping"}', b'"\xff"'), "the data is not valid UTF-8: 0xff at byte 1"),
    (lambda stream: stream + b"data: [DONE]\n\n", "the data is no JSON object"),
    (lambda stream: stream[:-1], "the stream ends inside a frame"),
]


@pytest.mark.parametrize(("spoil", "fault"), FRAME_FAULTS)
def test_a_fault_in_a_frame_is_named(spoil: Callable[[bytes], bytes], fault: str) -> None:
    assert any(fault in violation for violation in check_bytes(spoil(framed(GOOD))))


SPELLINGS: list[Callable[[bytes], bytes]] = [
    lambda stream: stream.replace(b"\n", b"\r\n"),
    lambda stream: stream.replace(b"\n", b"\r"),
    lambda stream: b": hello\n\n" + stream,
    lambda stream: b"retry: 5000\n\n" + stream.replace(b"event: ping\n", b"id: 1\nevent:ping\n"),
    lambda stream: stream.replace(b'{"type": "ping"}', b'{"type":\ndata: "ping"}'),
    lambda stream: b"event: ping\n\n" + stream,
]


@pytest.mark.parametrize("spell", SPELLINGS)
def test_other_spellings_of_the_same_events_are_no_fault(spell: Callable[[bytes], bytes]) -> None:
    assert check_bytes(spell(framed(GOOD))) == []


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_bytes_may_come_one_at_a_time(line_end: bytes) -> None:
    grammar = EventGrammar()
    for byte in framed(GOOD).replace(b"\n", line_end):
        grammar.feed_bytes(bytes([byte]))

    assert grammar.finish() == []


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value inside `value`, and of `value` itself."""
    yield path
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield from places(member, (*path, key))


@pytest.mark.parametrize("wrong", [None, True, -1, 1.5, "x", [], {}, [[]]], ids=repr)
def test_a_value_of_any_type_in_any_place_is_no_error_of_the_checker(wrong: Any) -> None:
    for events in (GOOD, [*GOOD[:-2], ERROR]):
        feed_with_wrong_values(events, wrong)


def feed_with_wrong_values(events: Events, wrong: Any) -> None:
    for number, event in enumerate(events):
        for path in places(event):
            changed = {"event": json.loads(json.dumps(event))}
            holder: Any = changed
            for key in ("event", *path)[:-1]:
                holder = holder[key]
            holder[("event", *path)[-1]] = wrong
            grammar, stream = EventGrammar(), [*events[:number], changed["event"], *events[number + 1 :]]
            grammar.feed_bytes(b"".join(b"data: %b\n\n" % json.dumps(each).encode() for each in stream))
            grammar.finish()


def test_the_repair_of_streams_knows_the_same_forms() -> None:
    """The suite has tables of its own, so that a wrong row does not hide in both. There is no intended difference."""
    assert grammar_tables.DELTAS == stream_grammar.DELTAS
    assert grammar_tables.EMPTY_STARTS == stream_grammar.EMPTY_STARTS
    assert grammar_tables.CUTTING_REASONS == stream_grammar.CUTTING_REASONS
    assert grammar_tables.COUNTS == stream_grammar.COUNTS
    assert {*CALL_TYPES} == grammar_tables.CALL_TYPES
