"""The grammar checker: streams in the form of Anthropic's pass, and every violation is named."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from anthropic_proxy.cli.lint_stream import EventGrammar, check_bytes, check_events
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


@pytest.mark.parametrize("length", range(1, 13))
def test_an_error_may_end_it_anywhere(length: int) -> None:
    assert check_events([*GOOD[:length], ERROR]) == []


@pytest.mark.parametrize("name", MESSAGE_STREAMS)
def test_streams_of_anthropic_have_no_fault(name: str) -> None:
    assert check_bytes(MESSAGE_STREAMS[name]) == []


def test_a_stream_that_begins_twice_is_caught() -> None:
    assert check_bytes(DOUBLE_START) == ["event 2: a second message_start"]


def without(*places: int) -> Events:
    return [event for place, event in enumerate(GOOD) if place not in places]


def instead(place: int, *events: dict[str, Any]) -> Events:
    return [*GOOD[:place], *events, *GOOD[place + 1 :]]


def with_usage(**usage: Any) -> Events:
    return instead(0, start(usage={"input_tokens": 1, "output_tokens": 0, **usage}))


FAULTS: list[tuple[Events, str]] = [
    ([], "the stream has no message_start"),
    (without(0), "ping before message_start"),
    (without(14), "ends without message_stop or error"),
    (without(13), "message_stop without message_delta"),
    ([*GOOD, PING], "ping after message_stop"),
    ([start(), ERROR, STOP], "message_stop after error"),
    (instead(13, end(), end()), "message_delta after message_delta"),
    (instead(14, PING, STOP), "ping after message_delta"),
    (instead(1, start()), "a second message_start"),
    (instead(1, {"type": "later"}), '"later" is no event'),
    (instead(1, {}), "the data has no type"),
    (instead(0, {"type": "message_start"}), "message_start without a message"),
    (instead(0, start(id="")), "the message has no id"),
    (instead(0, start(model=None)), "the message has no model"),
    (instead(0, start(content=[1])), "content of the message is [1] instead of []"),
    (instead(0, start(stop_reason="end_turn")), 'stop_reason of the message is "end_turn" instead of null'),
    (instead(0, start(role="user")), 'role of the message is "user" instead of "assistant"'),
    (instead(0, start(usage=None)), "usage is missing"),
    (with_usage(input_tokens=None), "usage without input_tokens"),
    (with_usage(output_tokens=-1), "output_tokens is -1"),
    (with_usage(cache_read_input_tokens=1.5), "cache_read_input_tokens is 1.5"),
    (without(5), "block 1 begins inside another"),
    (without(2), "content_block_delta while no block is open"),
    (instead(6, opening(3, "text", text="")), "index 3 instead of 1"),
    (instead(6, opening(1, "text", text="a")), 'block 1 begins with text "a"'),
    (instead(9, opening(2, "tool_use", id="c", name="read", input={"p": 1})), 'begins with input {"p": 1}'),
    (instead(9, opening(2, "tool_use", id="", name="read", input={})), "a call without id"),
    (instead(9, opening(2, "tool_use", id="c", name="", input={})), "a call without name"),
    (instead(9, {"type": "content_block_start", "index": 2}), "block 2 has no type"),
    (instead(7, delta(0, "text_delta", text="a")), "index 0, but 1 is open"),
    (instead(8, closing(0)), "index 0, but 1 is open"),
    (instead(7, delta(1, "thinking_delta", thinking="a")), "thinking_delta in a text block"),
    (instead(7, delta(1, "input_json_delta", partial_json="")), "input_json_delta in a text block"),
    (instead(7, delta(1, "later_delta")), '"later_delta" in a text block'),
    (instead(7, delta(1, "text_delta", text=None)), "text_delta with text null"),
    (without(4), "thinking block 0 is not signed"),
    (instead(4, delta(0, "signature_delta", signature="")), "block 0 has an empty signature"),
    (instead(5, delta(0, "thinking_delta", thinking="a"), closing(0)), "thinking_delta after the signature of block 0"),
    (instead(4, GOOD[4], GOOD[4]), "signature_delta after the signature of block 0"),
    (without(12), "message_delta while a block is open"),
    (without(11), "the arguments of block 2 are no JSON object"),
    (instead(13, end("later")), 'stop_reason "later"'),
    (instead(13, end(None)), "stop_reason null"),
    (instead(13, end("end_turn")), "end_turn although there is a call"),
    ([start(), end("tool_use"), STOP], "tool_use without a call"),
    (instead(13, end("stop_sequence")), "stop_sequence with stop_sequence null"),
    (instead(13, end("max_tokens", "END")), 'max_tokens with stop_sequence "END"'),
    (instead(13, end(output_tokens="absent")), "usage without output_tokens"),
    (instead(13, {"type": "message_delta", "usage": {"output_tokens": 1}}), "message_delta without a delta"),
    ([start(), {"type": "error"}], "error without an error"),
    ([start(), {"type": "error", "error": {"type": "later", "message": ""}}], 'error of the type "later"'),
    ([start(), {"type": "error", "error": {"type": "api_error"}}], "error without a message"),
]


@pytest.mark.parametrize(("events", "fault"), FAULTS, ids=[fault for _, fault in FAULTS])
def test_a_fault_is_named(events: Events, fault: str) -> None:
    assert any(fault in violation for violation in check_events(events))
    assert any(fault in violation for violation in check_bytes(framed(events)))


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
    (lambda stream: stream.replace(b'{"type": "ping"}', b'{"type":\ndata: "ping"}'), "has more than one line"),
    (lambda stream: stream.replace(b'{"type": "ping"}', b'{"type": "ping"'), "the data is no JSON object"),
    (lambda stream: stream.replace(b'{"type": "ping"}', b"[" * 100_000), "the data is no JSON object"),
    (lambda stream: stream.replace(b'{"type": "ping"}', b'"\xff"'), "the data is not valid UTF-8: 0xff at byte 1"),
    (lambda stream: stream + b"data: [DONE]\n\n", "the data is no JSON object"),
    (lambda stream: stream[:-1], "the stream ends inside a frame"),
]


@pytest.mark.parametrize(("spoil", "fault"), FRAME_FAULTS)
def test_a_fault_in_a_frame_is_named(spoil: Callable[[bytes], bytes], fault: str) -> None:
    assert any(fault in violation for violation in check_bytes(spoil(framed(GOOD))))


@pytest.mark.parametrize("spoil", [lambda s: s.replace(b"\n", b"\r\n"), lambda s: b": hello\n\n" + s])
def test_other_line_ends_and_comments_are_no_fault(spoil: Callable[[bytes], bytes]) -> None:
    assert check_bytes(spoil(framed(GOOD))) == []


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_bytes_may_come_one_at_a_time(line_end: bytes) -> None:
    grammar = EventGrammar()
    for byte in framed(GOOD).replace(b"\n", line_end):
        grammar.feed_bytes(bytes([byte]))

    assert grammar.finish() == []
