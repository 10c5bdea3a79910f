"""`StreamRepair`: a valid stream comes out, whatever one event or key of a valid stream becomes."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anthropic_proxy.engine.wires.anthropic.stream_repair import StreamRepair
from anthropic_proxy.errors import UpstreamProtocolError
from tests.support.event_grammar import check_events
from tests.support.stream_mutations import (
    BLOCKS,
    CALLS,
    Json,
    Mutation,
    build_stream,
    encode,
    find_type_faults,
    known_block_types,
    mutations,
    read_texts,
)

COMPACT, SPACED = (",", ":"), (", ", ": ")


def new_repair() -> StreamRepair:
    return StreamRepair("m", lambda prefix: f"{prefix}new", 3, len, UpstreamProtocolError)


def feed(repair: StreamRepair, pieces: list[bytes]) -> bytes:
    return b"".join([*map(repair.feed, pieces), repair.finish()])


def read(stream: bytes) -> list[Json]:
    """Return the events as clients read them."""
    events = []
    for event in stream.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in event.splitlines() if not line.startswith(":"))
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


def check(mutation: Mutation, separators: tuple[str, str]) -> None:
    repair = new_repair()
    events = read(feed(repair, [event.to_bytes(separators) for event in mutation.sent]))
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


@given(mutations(), st.sampled_from([COMPACT, SPACED]))
@settings(max_examples=200)
def test_one_changed_event_or_key_of_a_valid_stream_leaves_a_valid_stream(mutation: Mutation, separators: Any) -> None:
    check(mutation, separators)


@pytest.mark.merge
@given(mutations(), st.sampled_from([COMPACT, SPACED]))
@settings(max_examples=10_000, suppress_health_check=list(HealthCheck))
def test_ten_thousand_changes_of_valid_streams(mutation: Mutation, separators: Any) -> None:
    check(mutation, separators)


def test_the_streams_have_every_block_of_the_sdk() -> None:
    assert known_block_types() | {"later"} == {*BLOCKS}


@given(
    st.lists(st.sampled_from([*BLOCKS]), max_size=5),
    st.sampled_from([COMPACT, SPACED]),
    st.lists(st.integers(0, 100), max_size=5),
    st.sampled_from(["end_turn", "max_tokens", "stop_sequence"]),
)
def test_a_valid_stream_passes_as_the_same_bytes(
    kinds: list[str], separators: Any, cuts: list[int], reason: str
) -> None:
    events = [
        f"event: {event['type']}\ndata: {encode(event, separators=separators)}\n\n".encode()
        for event in build_stream(kinds, reason=reason)
    ]
    places = sorted({0, len(events), *(cut % (len(events) + 1) for cut in cuts)})
    pieces = [b"".join(events[start:end]) for start, end in itertools.pairwise(places)]
    assert feed(new_repair(), pieces) == b"".join(events)
