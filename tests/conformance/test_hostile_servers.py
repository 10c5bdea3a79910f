"""Replies of any form are failures of the server: no fault of the suite, and nothing for a terminal."""

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from messages_conformance.__main__ import main
from messages_conformance.client import Exchange, Request
from messages_conformance.events import EventReader, join_message
from tests.support.conformance import reply, serve

STREAM = [
    {"type": "message_start", "message": {"type": "message", "content": [], "usage": {"input_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "", "citations": []}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "citations_delta", "citation": {}}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "input": {}}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
    {"type": "message_stop"},
]
WRONG = (None, True, -1, 1.5, "x", [], {}, [[]], {"type": []})


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield from places(member, (*path, key))


def test_a_message_is_joined_from_events_with_any_value_in_any_place() -> None:
    for path in places(STREAM):
        for wrong in WRONG if path else ():
            events = json.loads(json.dumps(STREAM))
            holder = events
            for key in path[:-1]:
                holder = holder[key]
            holder[path[-1]] = wrong
            reader = EventReader()
            reader.feed(0, b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events))
            join_message(reader.events)
            exchange = Exchange(Request("POST", "/", (), None), events=reader.events)
            exchange.headers = (("content-type", "text/event-stream"),)
            assert exchange.error is None


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_events_may_come_in_any_pieces(line_end: str) -> None:
    text = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n: ping\n\n" for event in STREAM)
    data = text.replace("\n", line_end).encode() + b"\n"
    for seed in range(20):
        rng = random.Random(seed)
        cuts = sorted(rng.choices(range(len(data)), k=30))
        reader = EventReader()
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            reader.feed(0, data[start:end])
        assert [(event.name, event.data) for event in reader.events] == [(event["type"], event) for event in STREAM]


HOSTILE = [
    b"",
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'{"type": "message", "role": "\\ud800\\u001b[2J", "content": 7}',
    b'"text"',
    b'{"type": "message", "content": [' + b"1" * 10_000 + b"]}",
    b"event: message_start\ndata: {}\n\ndata: [[\n\n\x1b[31m",
]


@pytest.mark.parametrize("body", HOSTILE, ids=lambda body: repr(body[:20]))
@pytest.mark.parametrize("kind", ["application/json", "text/event-stream", "\x1b[31m"])
def test_no_reply_is_a_fault_of_the_suite(
    body: bytes, kind: str, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def handle(handler: Any, request: Any) -> None:
        reply(handler, body, kind)

    names = ("junit", "json", "badge", "write-expected")
    words = [word for name in names for word in (f"--{name}", str(tmp_path / name))]
    with serve(handle) as url:
        assert main([url, "--model", "m", "--check", "*", *words]) == 0
        assert main([url, "--model", "m", "--check", "*", "--expected", str(tmp_path / "write-expected")]) == 0
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert all(check["outcome"] != "fault" for check in json.loads((tmp_path / "json").read_bytes())["checks"])
