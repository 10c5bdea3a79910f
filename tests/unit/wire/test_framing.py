"""Splitting of bytes into frames: equal for all network reads."""

import itertools
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.engine.wires.framing import EventSplitter, NDJSONReader, SSEReader
from anthropic_proxy.errors import UpstreamProtocolError
from tests.support.messages import exactly


def read(reader: SSEReader | NDJSONReader, *chunks: bytes) -> list[bytes]:
    frames = [frame for chunk in chunks for frame in reader.feed(chunk)]
    return frames + reader.finish()


def cuts(body: bytes, points: list[int]) -> list[bytes]:
    edges = [0, *sorted(point % (len(body) + 1) for point in points), len(body)]
    return [body[a:b] for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize(
    ("body", "frames"),
    [
        (b'data: {"a":1}\n\ndata: [DONE]\n\n', [b'{"a":1}', b"[DONE]"]),
        (b'data: {"a":1}\r\n\r\ndata: [DONE]\r\n\r\n', [b'{"a":1}', b"[DONE]"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data: a\r\n\ndata: b\n\r\n", [b"a", b"b"]),
        (b": OPENROUTER PROCESSING\n\n: again\n\ndata: a\n\n", [b"a"]),
        (b"event: error\nid: 7\nretry: 10\ndata: a\n\n", [b"a"]),
        (b"data: first\ndata: second\n\n", [b"first\nsecond"]),
        (b"data:tight\n\n", [b"tight"]),
        (b"data:  two spaces\n\n", [b" two spaces"]),
        (b"data:\n\ndata: a\n\ndata: \n\ndata\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\n\ndata: \n\ndata: b\n\n", [b"a", b"b"]),
        (b"event: ping\ndata: \n\nevent: ping\ndata:\ndata:\n\n", []),
        (b"data:\ndata: a\n\n", [b"\na"]),
        (b"data\n\n", []),
        (b"data: a\n", [b"a"]),
        (b"data: a", [b"a"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"\xef\xbb\xbfdata: a", [b"a"]),
        (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [b"a"]),
        (b"data: a data: b\n\n", [b"a data: b"]),
        (b"data: a event: b\ndata: c\n\n", [b"a event: b\nc"]),
        (b"event: a\rdata: b\ndata: c\n\n", [b"b\nc"]),
        (b"event: a\ndata: b\n\n", [b"b"]),
        (b"datagram: a\n\n", []),
        (b"event: ping\n\n\n\n", []),
        (b"", []),
        ("data: Grüße 🎲\n\n".encode(), ["Grüße 🎲".encode()]),
    ],
)
def test_events_are_found_at_every_cut(body: bytes, frames: list[bytes]) -> None:
    assert read(SSEReader(), body) == frames
    assert read(SSEReader(), *(bytes([byte]) for byte in body)) == frames
    for point in range(len(body)):
        assert read(SSEReader(), body[:point], b"", body[point:]) == frames


LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
MARKS = (b"data: ", b"event: ")
BEFORE_MARKS = re.compile(b"|".join(MARKS))
VALUES = st.lists(st.binary(max_size=20) | st.sampled_from(MARKS), max_size=4).map(
    lambda pieces: b"".join(pieces).replace(b"\r", b"").replace(b"\n", b"")
)
EVENTS = st.lists(st.tuples(st.lists(VALUES, min_size=1, max_size=3), LINE_ENDS, st.sampled_from([b"", b": x"])))


@given(EVENTS, st.lists(st.integers(0, 10_000)))
def test_any_values_survive_any_split(events: list[tuple[list[bytes], bytes, bytes]], points: list[int]) -> None:
    body = b"".join(
        b"".join(b"data: " + value + end for value in values) + (comment and comment + end) + end
        for values, end, comment in events
    )
    frames = [b"\n".join(values) for values, _, _ in events if any(values)]
    assert read(SSEReader(), *cuts(body, points)) == frames
    assert read(SSEReader(), *cuts(body, [found.start() for found in BEFORE_MARKS.finditer(body)])) == frames


@given(st.lists(VALUES.filter(bool)), st.lists(st.integers(0, 10_000)), LINE_ENDS, st.booleans())
def test_lines_survive_any_split(lines: list[bytes], points: list[int], end: bytes, ended: bool) -> None:
    body = end.join(lines) + (end if ended else b"")
    assert read(NDJSONReader(), *cuts(body, points)) == [
        line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
        for number, line in enumerate(lines)
        if number or line != b"\xef\xbb\xbf"
    ]


def test_empty_lines_between_objects_are_skipped() -> None:
    assert read(NDJSONReader(), b'\n{"a":1}\r\n\r\n{"b":2}') == [b'{"a":1}', b'{"b":2}']


@pytest.mark.parametrize("reader", [SSEReader, NDJSONReader])
def test_an_endless_line_is_refused(reader: type[SSEReader] | type[NDJSONReader]) -> None:
    endless = reader(limit=1_000)
    with pytest.raises(
        UpstreamProtocolError, match=exactly("The provider sent a single event of more than 1,000 bytes.")
    ):
        read(endless, *[b"data: 4567"] * 101)


def test_an_event_of_endless_lines_is_refused() -> None:
    with pytest.raises(UpstreamProtocolError):
        read(SSEReader(limit=1_000), *[b"data: 456\n"] * 101)


def test_many_events_in_small_pieces_are_not_one_long_one() -> None:
    reader = SSEReader(limit=100)
    body = b"data: 0123456789\n\n" * 100
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    points = [random.Random(seed).randrange(len(body)) for _ in range(50)]
    assert len(read(reader, *cuts(body, points))) == 100


@given(st.lists(st.sampled_from([b"\n", b"\r", b"\r\n", b"data: a", b"b" * 5]), max_size=40), st.data())
def test_events_are_split_behind_boundaries_at_any_cut(parts: list[bytes], data: st.DataObject) -> None:
    body = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=20)))
    splitter = EventSplitter()
    passed = b""
    for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
        complete = splitter.feed(body[start:end])
        assert not complete or complete.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))
        passed += complete
        marks = [mark for mark in (b"\n\n", b"\r\n\r\n", b"\r\r") if mark in body[len(passed) : end]]
        assert not marks
        assert splitter.pending_bytes == len(splitter.peek_pending()) == end - len(passed)
    assert passed + splitter.pop_pending() == body


def test_a_single_event_is_limited_over_all_its_pieces() -> None:
    splitter = EventSplitter()
    splitter.feed(b"data: a\n\n" + b"x" * (8 * 1024 * 1024))
    with pytest.raises(
        UpstreamProtocolError, match=exactly("The provider sent a single event of more than 8,388,608 bytes.")
    ):
        splitter.feed(b"x")
