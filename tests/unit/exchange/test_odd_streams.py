"""A relay and the streams that the Messages API permits: a valid one passes as the same bytes, an odd one with the same
meaning.
"""

import asyncio
import json
from itertools import pairwise

import pytest
from anthropic._streaming import SSEDecoder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from tests.support.event_grammar import check_events
from tests.support.stream_mutations import (
    BLOCKS,
    CHARACTERS,
    SPELLINGS,
    Json,
    build_stream,
    encode,
    find_type_faults,
)
from tests.unit.exchange.test_relay import TARGET, call_of, relayed, target_of

FIELDS = st.dictionaries(
    st.text(CHARACTERS, max_size=3).map(lambda characters: f"later {characters}"),
    st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.text(CHARACTERS, max_size=3),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(CHARACTERS, max_size=2), inner, max_size=2),
        max_leaves=4,
    ),
    max_size=2,
)
"""Fields that the API has got since."""
LINES = ["id: 7", "id", "retry: 1000", ": note", ":", "later: x"]
"""Lines of an event that clients ignore."""
BESIDE = [
    ["event: ping", 'data: {"type": "ping"}'],
    ["event: ping", 'data: {"type":"ping","later":{"type":"error"}}'],
    ["event: later", 'data: {"type":"later","index":0,"text":"x"}'],
    [": alive"],
    ["retry: 1000"],
    ["id: 7"],
]
"""Events of no block, by line."""
TYPES = {event["type"] for event in build_stream(["text"], pings=False)}


class OddStream(Struct):
    """A stream as it is sent. `chunks`: its bytes. `plain`: the events of a stream with the same meaning.

    `is_valid`: whether the API permits it, so that it passes as the same bytes.
    """

    chunks: list[bytes]
    plain: list[Json]
    is_valid: bool


def give_arguments(events: list[Json], *, repeats: bool) -> list[Json]:
    """Return the events with the arguments of calls in the starts of their blocks. `repeats`: and in the deltas."""
    read = read_meaning(events)["blocks"]
    changed = []
    for event in events:
        if "input" in event.get("content_block", {}):
            block = {**event["content_block"], "input": read[event["index"]]["input"]}
            changed.append({**event, "content_block": block})
        elif repeats or event.get("delta", {}).get("type") != "input_json_delta":
            changed.append(event)
    return changed


def change_ending(ending: Json, how: str) -> list[Json]:
    """Return the events `message_delta` of a server that sends none of a meaning, or several."""
    null = {**ending, "delta": {"stop_reason": None, "stop_sequence": None}}
    earlier = {**ending, "usage": {"output_tokens": 2}}
    return {
        "one": [ending],
        "null before": [{**null, "usage": {"output_tokens": 2}}, ending],
        "null behind": [earlier, null],
        "several": [earlier, ending, ending],
    }[how]


def add_fields(value: Json, draw: st.DrawFn) -> Json:
    """Return an event with fields that the API has got since, also in its objects."""
    inner = {
        name: add_fields(member, draw)
        if isinstance(member, dict) and name in ("message", "content_block", "delta", "usage")
        else member
        for name, member in value.items()
    }
    return {**inner, **draw(FIELDS)} if draw(st.integers(0, 3)) == 0 else inner


@st.composite
def odd_streams(draw: st.DrawFn) -> OddStream:
    kinds = draw(st.lists(st.sampled_from([*BLOCKS, "text", "thinking", "tool_use"]), max_size=4))
    reason = draw(st.sampled_from(["end_turn", "max_tokens", "stop_sequence", "refusal"]))
    characters = draw(st.text(CHARACTERS, max_size=4))
    plain = build_stream(kinds, reason=reason, pings=False, characters=characters)
    arguments = draw(st.sampled_from(["deltas", "deltas", "start", "both"]))
    ending = draw(st.sampled_from(["one", "one", "null before", "null behind", "several"]))
    sent = plain if arguments == "deltas" else give_arguments(plain, repeats=arguments == "both")
    is_valid = ending == "one" and sent == plain
    sent = [*sent[:-2], *change_ending(sent[-2], ending), sent[-1]]
    spelling = draw(st.sampled_from(SPELLINGS))
    events = [[f"event: {event['type']}", f"data: {encode(add_fields(event, draw), spelling)}"] for event in sent]
    for lines in events:
        if draw(st.integers(0, 5)) == 0:
            lines.insert(draw(st.integers(0, 2)), draw(st.sampled_from(LINES)))
    for place, lines in draw(st.lists(st.tuples(st.integers(0, 99), st.sampled_from(BESIDE)), max_size=4)):
        events.insert(1 + place % (len(events) - 1), lines)
    end = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    whole = "".join("".join(line + end for line in lines) + end for lines in events).encode()
    cuts = draw(st.lists(st.integers(0, len(whole)), max_size=6))
    chunks = [whole[begin:stop] for begin, stop in pairwise(sorted({0, len(whole), *cuts}))]
    return OddStream(chunks, plain, is_valid)


def read_events(stream: bytes) -> list[Json]:
    """Return the events as the SDK reads them."""
    return [json.loads(event.data) for event in SSEDecoder().iter_bytes(iter([stream])) if event.event in TYPES]


def read_meaning(events: list[Json]) -> Json:
    """Return what a stream says: its blocks, the reason of its end, and its usage."""
    blocks: dict[int, Json] = {}
    arguments: dict[int, str] = {}
    meaning: Json = {}
    for event in events:
        delta = event.get("delta", {})
        match event["type"]:
            case "message_start":
                message = event["message"]
                meaning = {"id": message["id"], "usage": {name: message["usage"][name] for name in ("input_tokens",)}}
            case "content_block_start":
                fields = BLOCKS[event["content_block"]["type"]][0]
                blocks[event["index"]] = {name: event["content_block"][name] for name in fields}
            case "content_block_delta" if delta["type"] == "input_json_delta":
                arguments[event["index"]] = arguments.get(event["index"], "") + delta["partial_json"]
            case "content_block_delta":
                block = blocks[event["index"]]
                for field in ("text", "thinking", "signature", "content", "more"):
                    if field in delta:
                        block[field] = (block.get(field) or "") + delta[field]
            case "message_delta":
                meaning |= {"reason": (delta["stop_reason"], delta["stop_sequence"])}
                meaning["usage"] = {**meaning["usage"], "output_tokens": event["usage"]["output_tokens"]}
    for index, text in arguments.items():
        if text:
            blocks[index]["input"] = json.loads(text)
    return {**meaning, "blocks": blocks}


def check(stream: OddStream) -> None:
    target = target_of(TARGET)
    sent = b"".join(stream.chunks)
    received, relay = asyncio.run(relayed([*stream.chunks], call_of(b"{}", target, asked="an-asked-model"), target))
    assert (relay.failure, relay.ending, relay.complete) == (None, None, True)
    if stream.is_valid:
        name = b'"m"'
        place = sent.index(name, sent.index(b'"model"'))
        assert received == sent[:place] + b'"an-asked-model"' + sent[place + len(name) :]
    events = read_events(received)
    assert (check_events(events), find_type_faults(events)) == ([], [])
    assert read_meaning(events) == read_meaning(stream.plain)
    assert relay.stop_reason == stream.plain[-2]["delta"]["stop_reason"]
    assert relay.usage.output_tokens == 5


@given(odd_streams())
@settings(max_examples=25)
def test_a_valid_stream_passes_as_the_same_bytes_and_an_odd_one_with_the_same_meaning(stream: OddStream) -> None:
    check(stream)


@pytest.mark.slow
@given(odd_streams())
@settings(max_examples=10_000, suppress_health_check=list(HealthCheck), deadline=None)
def test_ten_thousand_valid_and_odd_streams(stream: OddStream) -> None:
    check(stream)
