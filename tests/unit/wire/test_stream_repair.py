"""`StreamRepair`: a valid stream comes out, whatever one event or key of a valid stream becomes."""

import itertools
import json
import re
from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anthropic_proxy.engine.wires.anthropic.stream_repair import StreamRepair
from anthropic_proxy.errors import UpstreamProtocolError
from tests.support.event_grammar import check_events
from tests.support.messages import exactly
from tests.support.stream_mutations import (
    BLOCKS,
    CALLS,
    CHARACTERS,
    SPELLINGS,
    Json,
    Mutation,
    Spelling,
    build_stream,
    encode,
    find_type_faults,
    known_block_types,
    mutations,
    read_texts,
)

PING, COMMENT = b'event: ping\ndata: {"type":"ping"}\n\n', b": alive\n\n"


def new_repair(eager_tools: Collection[str] = ()) -> StreamRepair:
    return StreamRepair(
        "m", lambda prefix: f"{prefix}new", 3, lambda _: 4, UpstreamProtocolError, eager_tools=eager_tools
    )


def feed(repair: StreamRepair, pieces: list[bytes]) -> bytes:
    return b"".join([*map(repair.feed, pieces), repair.finish()])


def read(stream: bytes) -> list[Json]:
    """Return the events as clients read them."""
    events = []
    for event in stream.decode().split("\n\n"):
        fields = dict(re.split(": ?", line, maxsplit=1) for line in event.split("\n") if line and line[0] != ":")
        if fields:
            content = json.loads(fields["data"])
            assert fields["event"] == content["type"]
            events.append(content)
    return events


def list_calls(events: list[Json]) -> dict[str, tuple[str, Any]]:
    """Return the calls with a complete input: id → name and input."""
    names: dict[int, tuple[str, str]] = {}
    inputs: dict[int, str] = {}
    calls = {}
    for event in events:
        block, delta, index = event.get("content_block", {}), event.get("delta", {}), event.get("index", -1)
        if block.get("type") in CALLS:
            names[index] = block["id"], block["name"]
        elif delta.get("type") == "input_json_delta":
            inputs[index] = inputs.get(index, "") + delta["partial_json"]
        elif event["type"] == "content_block_stop" and index in names:
            name, text = names[index], inputs.get(index) or "{}"
            if isinstance(decoded := decode(text), dict):
                calls[name[0]] = name[1], decoded
    return calls


def decode(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def check(mutation: Mutation, spelling: Spelling) -> None:
    repair, of_one_packet = new_repair(), new_repair()
    sent = [event.to_bytes(spelling) for event in mutation.sent]
    received = feed(repair, sent)
    assert received == feed(of_one_packet, [b"".join(sent)]), mutation.what
    events = read(received)
    if repair.error is not None:
        assert mutation.is_of_call, mutation.what
        assert events.pop() == {"type": "error"}
        events.append({"type": "error", "error": {"type": "api_error", "message": "x"}})
    elif events[-1]["type"] != "message_stop":
        events.append({"type": "message_stop"})  # the relay adds it
    faults = check_events(events, requires_json_arguments=repair.error is None) + find_type_faults(events)
    if repair.error is not None:  # a client reads arguments while they come, and sees itself that they are no JSON
        faults = [fault for fault in faults if "Unable to parse tool parameter" not in fault]
    assert faults == [], (mutation.what, faults)
    calls = list_calls(mutation.valid)
    assert [item for item in list_calls(events).items() if calls.get(item[0]) != item[1]] == [], mutation.what
    if repair.error is None:
        assert read_texts(events) == read_texts([event.data for event in mutation.sent]), mutation.what
        assert mutation.is_of_call or list_calls(events) == calls, mutation.what


@given(mutations(), st.sampled_from(SPELLINGS))
@settings(max_examples=200)
def test_one_changed_event_or_key_of_a_valid_stream_leaves_a_valid_stream(
    mutation: Mutation, spelling: Spelling
) -> None:
    check(mutation, spelling)


@pytest.mark.merge
@pytest.mark.parametrize("spelling", SPELLINGS)
@given(mutation=mutations())
@settings(max_examples=10_000 // len(SPELLINGS), suppress_health_check=list(HealthCheck))
def test_ten_thousand_changes_of_valid_streams(mutation: Mutation, spelling: Spelling) -> None:
    check(mutation, spelling)


def test_the_streams_have_every_block_of_the_sdk() -> None:
    assert known_block_types() | {"later"} == {*BLOCKS}


@given(
    st.lists(st.sampled_from([*BLOCKS]), max_size=5),
    st.sampled_from(SPELLINGS),
    st.text(CHARACTERS, max_size=4),
    st.lists(st.integers(0, 100), max_size=5),
    st.sampled_from(["end_turn", "max_tokens", "stop_sequence"]),
    st.lists(st.tuples(st.integers(1, 100), st.sampled_from([PING, COMMENT])), max_size=4),
)
def test_a_valid_stream_passes_as_the_same_bytes(
    kinds: list[str],
    spelling: Spelling,
    characters: str,
    cuts: list[int],
    reason: str,
    others: list[tuple[int, bytes]],
) -> None:
    events = [
        f"event: {event['type']}\ndata: {encode(event, spelling)}\n\n".encode()
        for event in build_stream(kinds, reason=reason, characters=characters)
    ]
    for place, other in others:
        events.insert(1 + place % (len(events) - 1), other)
    places = sorted({0, len(events), *(cut % (len(events) + 1) for cut in cuts)})
    pieces = [b"".join(events[start:end]) for start, end in itertools.pairwise(places)]
    assert feed(new_repair(), pieces) == b"".join(events)


def begin(*kinds: str, ends: int = 0) -> list[bytes]:
    """Return the events of a valid stream with these blocks, without the last ones."""
    events = build_stream([*kinds], pings=False)
    return [f"event: {event['type']}\ndata: {encode(event)}\n\n".encode() for event in events[: len(events) - ends]]


@pytest.mark.parametrize(
    "begun",
    [
        begin("text", ends=3),
        begin("thinking", ends=3),  # the signature is held
        [*begin("tool_use", ends=4), b'data: {"type":"content_block_stop","index":0}\n\n'],
        [*begin("text", ends=2), b'data: {"type":"message_delta","delta":{"stop_reason":null}}\n\n'],
    ],
    ids=["text", "signature", "end of a call with incomplete arguments", "end without a reason"],
)
@pytest.mark.parametrize("sign_of_life", [PING, COMMENT])
def test_a_sign_of_life_of_the_server_reaches_the_client_at_once(begun: list[bytes], sign_of_life: bytes) -> None:
    repair = new_repair()
    for event in begun:
        repair.feed(event)
    assert [repair.feed(sign_of_life).endswith(sign_of_life) for _ in range(3)] == [True] * 3


def test_a_second_signature_behind_a_ping_is_the_last_that_the_client_gets() -> None:
    first = begin("thinking", ends=3)
    second = first[-1].replace(b'"sig"', b'"other"')
    sent = [*first, PING, second, *begin("thinking")[-3:]]
    assert feed(new_repair(), sent) == b"".join(sent)


LARGE = b":" + b" " * 4_000_000 + b"\n\n"
BLANKS = (
    f'data: {{"type":"content_block_delta","index":1,"delta":{{"type":"text_delta","text":"{" " * 4_000_000}"}}}}\n\n'
)


@pytest.mark.parametrize(
    ("begun", "held"),
    [(begin("text", ends=1), LARGE), (begin("text", ends=2), BLANKS.encode())],
    ids=["comments behind the end", "white space outside of a block"],
)
def test_what_is_held_is_bounded(begun: list[bytes], held: bytes) -> None:
    with pytest.raises(UpstreamProtocolError, match=exactly("the reply is larger than 64 MiB")):
        feed(new_repair(), [*begun, *[held] * 17])


ODD_STARTS = [
    b'event: message_start\ndata:{"type":"message_start","message":%b}\n\n',
    b'data: {"type":"message_start","message":%b}\n\n',
    b'event: message_start\ndata: {"type":"message_start","half":"\\ud83d","message":%b}\n\n',
]


@pytest.mark.parametrize("start", ODD_STARTS)
def test_a_second_start_has_later_counts_whatever_form_the_first_has(start: bytes) -> None:
    message = {**build_stream([])[0]["message"], "usage": {"input_tokens": 7, "output_tokens": 1}}
    later = {**message, "usage": {"input_tokens": 9, "output_tokens": 1}}
    starts = [start % encode(value).encode() for value in (message, message, later)]
    events = read(feed(new_repair(), [*starts, *begin("text")[1:]]))
    ending = next(event for event in events if event["type"] == "message_delta")
    assert (ending["usage"], len(events)) == ({"input_tokens": 9, "output_tokens": 5}, 8)


GIVEN_CALL = [
    {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"a": "\u00e9"}},
    },
    *(
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": text}}
        for text in ('{"a":', ' "\u00e9"}')
    ),
]
"""A call whose arguments are in its start, and again in its deltas."""
CALL_STOP = {"type": "content_block_stop", "index": 0}
OTHER_BLOCK = [
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Hi"}},
    {"type": "content_block_stop", "index": 1},
]


def with_ends(events: list[Json]) -> list[bytes]:
    """Return the events of a message with these events of its blocks."""
    complete = build_stream([], pings=False)[:1] + events + build_stream([], pings=False, reason="tool_use")[1:]
    return [f"event: {event['type']}\ndata: {encode(event)}\n\n".encode() for event in complete]


@pytest.mark.parametrize("stops", [True, False], ids=["with its stop", "without stops"])
@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("deltas", [0, 2])
def test_a_block_within_a_call_with_arguments_in_its_start_leaves_both_as_they_are(
    *, before: int, deltas: int, stops: bool
) -> None:
    call = GIVEN_CALL[: 1 + deltas]
    if stops:
        call.append(CALL_STOP)
    sent = call[: 1 + before] + OTHER_BLOCK[: 2 + stops] + call[1 + before :]
    repair = new_repair()
    events = read(feed(repair, with_ends(sent)))
    assert (repair.error, check_events(events), find_type_faults(events)) == (None, [], [])
    assert list_calls(events) == {"toolu_1": ("Read", {"a": "\u00e9"})}
    assert read_texts(events)["text"] == "Hi"


@pytest.mark.parametrize("pieces", [[], [""]])
def test_a_call_without_arguments_passes_as_the_same_bytes(pieces: list[str]) -> None:
    start = {**GIVEN_CALL[0], "content_block": {**GIVEN_CALL[0]["content_block"], "input": {}}}
    deltas = [{**GIVEN_CALL[1], "delta": {"type": "input_json_delta", "partial_json": piece}} for piece in pieces]
    sent = with_ends([start, *deltas, CALL_STOP])
    repair = new_repair()
    assert (feed(repair, sent), repair.error) == (b"".join(sent), None)


def test_a_second_start_of_a_call_with_arguments_in_it_is_an_error() -> None:
    repair = new_repair()
    feed(repair, with_ends([GIVEN_CALL[0], *GIVEN_CALL, CALL_STOP]))
    assert str(repair.error) == "its arguments are incomplete"


EAGER_ARGUMENTS = ['{"a": tru', '{"a": 1}}', '["a"]', "no object"]


def eager_call(arguments: str) -> list[bytes]:
    """Return a stream with a call whose arguments the server has not checked."""
    delta = {"type": "input_json_delta", "partial_json": arguments}
    piece = encode({"type": "content_block_delta", "index": 0, "delta": delta})
    events = begin("tool_use")
    return [*events[:2], f"event: content_block_delta\ndata: {piece}\n\n".encode(), *events[-3:]]


@pytest.mark.parametrize("arguments", EAGER_ARGUMENTS)
def test_arguments_that_the_client_wants_unchecked_pass_as_they_are(arguments: str) -> None:
    sent = eager_call(arguments)
    repair = new_repair(eager_tools={"Read"})
    assert (feed(repair, sent), repair.error) == (b"".join(sent), None)


@pytest.mark.parametrize("arguments", EAGER_ARGUMENTS)
def test_arguments_that_the_client_wants_checked_are_an_error(arguments: str) -> None:
    repair = new_repair(eager_tools={"Write"})
    feed(repair, eager_call(arguments))
    assert repair.error is not None


def test_an_unchecked_call_with_a_gap_is_an_error() -> None:
    start, piece, *end = eager_call('{"a": tru')[1:]
    damaged = piece.replace(b"}}\n\n", b"}\n\n")
    errors = []
    for sent in ([start, piece, *end[1:]], [start, piece, damaged, *end]):
        repair = new_repair(eager_tools={"Read"})
        feed(repair, [*begin(ends=2), *sent])
        errors.append(str(repair.error))
    assert errors == ["its arguments are incomplete", "a part of its arguments cannot be read"]


TWO_STARTS = [
    OTHER_BLOCK[0],
    OTHER_BLOCK[1],
    OTHER_BLOCK[0],
    {**OTHER_BLOCK[1], "delta": {"type": "text_delta", "text": "Ho"}},
    OTHER_BLOCK[2],
]
CALL_START = {**GIVEN_CALL[0], "content_block": {**GIVEN_CALL[0]["content_block"], "input": {}}}
HEAD = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":'
INDEX_TWICE = HEAD + b'{"type":"text_delta","text":"Ho"},"index":%d}\n\n'
NO_JSON = HEAD + b'{"type":"%b","%b":"x"}\n\n'
ODD_PACKETS: dict[str, list[bytes]] = {
    "a second start of a block with text": with_ends([{**event, "index": 0} for event in TWO_STARTS]),
    "a second index": [*begin("text", ends=3), INDEX_TWICE % 1, *begin("text")[-3:]],
    "the same index again": [*begin("text", ends=3), INDEX_TWICE % 0, *begin("text")[-3:]],
    "a text that is no JSON": [*begin("text", ends=3), NO_JSON % (b"text_delta", b"text"), *begin("text")[-3:]],
    "arguments that are no JSON": [
        *with_ends([CALL_START, *GIVEN_CALL[1:]])[:-2],
        NO_JSON % (b"input_json_delta", b"partial_json"),
        *with_ends([CALL_STOP])[1:],
    ],
    "arguments behind the end of a call": with_ends([CALL_START, GIVEN_CALL[1], CALL_STOP, GIVEN_CALL[2], CALL_STOP]),
}


@pytest.mark.parametrize("events", ODD_PACKETS.values(), ids=ODD_PACKETS)
def test_packets_of_the_server_change_nothing(events: list[bytes]) -> None:
    """Each division of the events into two packets, and each event alone."""
    packets = [[b"".join(events[:cut]), b"".join(events[cut:])] for cut in range(len(events))]
    outcomes = set()
    for pieces in (events, *packets):
        repair = new_repair()
        outcomes.add((feed(repair, pieces), str(repair.error)))
    assert len(outcomes) == 1


def test_a_second_start_of_a_block_with_text_begins_another_block() -> None:
    events = read(feed(new_repair(), ODD_PACKETS["a second start of a block with text"]))
    assert (check_events(events), [event.get("index") for event in events]) == (
        [],
        [None, 0, 0, 0, 1, 1, 1, None, None],
    )


def repeated_call(index: int, *arguments: str, given: Json | None = None, **fields: str) -> list[Json]:
    block = {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": given or {}} | fields
    deltas = [{"type": "input_json_delta", "partial_json": text} for text in arguments]
    return [
        {"type": "content_block_start", "index": index, "content_block": block},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


ONCE = {"toolu_1": ("Read", {"a": 1, "b": 2})}
WHOLE, OTHER = '{"a": 1, "b": 2}', {"toolu_pxnew": ("Read", {"a": 2})}
PARTS = repeated_call(1, WHOLE[:3], WHOLE[3:])
TEXT_BEHIND = [event | {"index": 2} for event in OTHER_BLOCK]
REPEATED_CALLS: dict[str, tuple[list[Json], dict[str, tuple[str, Any]]]] = {
    "of the same index": (repeated_call(0, WHOLE), ONCE),
    "of the next index": (repeated_call(1, WHOLE), ONCE),
    "in other words": (repeated_call(1, '{"b":2', ',"a":1}'), ONCE),
    "whole in its start": (repeated_call(1, given={"b": 2, "a": 1}), ONCE),
    "twice more": (repeated_call(1, WHOLE) + repeated_call(2, WHOLE), ONCE),
    "without a stop": (repeated_call(1, WHOLE)[:-1], ONCE),
    "before a text": (repeated_call(1, WHOLE) + TEXT_BEHIND, ONCE),
    "with a text within": (PARTS[:2] + TEXT_BEHIND + PARTS[2:], ONCE),
    "its beginning alone": (repeated_call(1), ONCE),
    "its beginning alone, without a stop": (repeated_call(1)[:-1], ONCE),
    "its beginning alone, without a stop, before a text": (repeated_call(1)[:-1] + TEXT_BEHIND, ONCE),
    "its beginning alone, twice": (repeated_call(0)[:-1] + repeated_call(1), ONCE),
    "the beginning of another name": (repeated_call(1, name="Write"), ONCE | {"toolu_pxnew": ("Write", {})}),
    "of another name": (repeated_call(1, WHOLE, name="Write"), ONCE | {"toolu_pxnew": ("Write", ONCE["toolu_1"][1])}),
    "with other arguments": (repeated_call(1, '{"a":', " 2}"), ONCE | OTHER),
    "with other arguments, twice": (repeated_call(1, '{"a":', " 2}") + repeated_call(2, '{"a": 2}'), ONCE | OTHER),
    "with another id": (repeated_call(1, WHOLE, id="toolu_2"), ONCE | {"toolu_2": ONCE["toolu_1"]}),
}
"""What follows a call → the calls of the client."""


@pytest.mark.parametrize(("further", "calls"), REPEATED_CALLS.values(), ids=REPEATED_CALLS)
def test_a_call_with_the_id_of_another_one_is_a_call_only_if_it_differs(
    further: list[Json], calls: dict[str, tuple[str, Any]]
) -> None:
    sent = with_ends([*repeated_call(0, WHOLE), *further])
    streams = [feed(new_repair(), pieces) for pieces in (sent, [b"".join(sent)])]
    events = read(streams[0])
    assert streams[0] == streams[1]
    assert (check_events(events), find_type_faults(events), list_calls(events)) == ([], [], calls)


@pytest.mark.parametrize("is_joined", [True, False], ids=["one packet", "packets"])
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([WHOLE, WHOLE], ""),
        ([WHOLE, WHOLE, WHOLE], ""),
        ([WHOLE[:3], WHOLE[3:5], WHOLE[5:], WHOLE], ""),
        ([WHOLE, '{"a":3}'], "its arguments are incomplete"),
        ([WHOLE[:-1], WHOLE], ""),
        ([WHOLE[:2], WHOLE[2:7], WHOLE.replace(" ", "")], ""),
        ([WHOLE[:4], '{"c":3}'], "its arguments are incomplete"),
    ],
)
def test_whole_arguments_once_more_add_what_was_missing(arguments: list[str], error: str, is_joined: bool) -> None:
    repair, sent = new_repair(), with_ends(repeated_call(0, *arguments))
    out = feed(repair, [b"".join(sent)] if is_joined else sent)
    assert str(repair.error or "") == error
    if not error:
        assert list_calls(read(out)) == {"toolu_1": ("Read", json.loads(WHOLE))}


@pytest.mark.parametrize("further", [WHOLE, '{"a":3}'])
def test_whole_arguments_behind_their_call_are_left_out(further: str) -> None:
    start, delta, stop = repeated_call(0, WHOLE)
    repair = new_repair()
    out = feed(repair, with_ends([start, delta, stop, repeated_call(0, further)[1], stop]))
    assert str(repair.error or "") == ("" if further == WHOLE else "a part of its arguments has no place")
    assert list_calls(read(out)) == {"toolu_1": ("Read", json.loads(WHOLE))}


def test_an_object_within_arguments_that_equals_what_is_before_it_stays() -> None:
    parts = ['{"a": ', '{"a": ', "1}}"]
    repair = new_repair()
    assert list_calls(read(feed(repair, with_ends(repeated_call(0, *parts))))) == {"toolu_1": ("Read", {"a": {"a": 1}})}


OPEN_CALL = repeated_call(0, WHOLE)[:-1]
NEXT_CALL = repeated_call(1, '{"a": 2}', id="toolu_2")
WITHIN: dict[str, list[Json]] = {
    "a text": [OTHER_BLOCK[1]],
    "thinking": [OTHER_BLOCK[1] | {"delta": {"type": "thinking_delta", "thinking": "Hi"}}],
    "a block": OTHER_BLOCK[:2],
}
BEHIND: dict[str, tuple[list[Json], dict[str, tuple[str, Any]]]] = {
    "a call": (NEXT_CALL, ONCE | {"toolu_2": ("Read", {"a": 2})}),
    "a call without a stop": (NEXT_CALL[:-1], ONCE | {"toolu_2": ("Read", {"a": 2})}),
    "a block": ([event | {"index": 2} for event in OTHER_BLOCK], ONCE),
    "a text": ([OTHER_BLOCK[1]], ONCE),
    "the end": ([], ONCE),
}


@pytest.mark.parametrize("within", WITHIN.values(), ids=WITHIN)
@pytest.mark.parametrize(("behind", "calls"), BEHIND.values(), ids=BEHIND)
def test_what_comes_within_a_call_that_has_no_stop_ends_before_the_next_block(
    within: list[Json], behind: list[Json], calls: dict[str, tuple[str, Any]]
) -> None:
    events = read(feed(new_repair(), with_ends([*OPEN_CALL, *within, *behind])))
    assert (check_events(events), find_type_faults(events), list_calls(events)) == ([], [], calls)
