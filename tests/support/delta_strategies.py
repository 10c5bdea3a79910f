"""Random replies, as deltas: lawful ones, and ones that no upstream should send."""

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from hypothesis import strategies as st
from msgspec import Raw

from anthropic_proxy.engine.messages.deltas import (
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

texts = st.text(
    st.one_of(st.sampled_from('ab \n\r"\\{}\u2028\u2029\x85\x00é漢😀'), st.characters(codec="utf-8")), max_size=8
)
json_objects = st.dictionaries(
    texts,
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**53), 2**53)
        | st.floats(allow_nan=False, allow_infinity=False)
        | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
)
blocks = st.sampled_from(
    [
        Raw(b'{"type":"web_search_tool_result","tool_use_id":"srv_1","content":[]}'),
        Raw(b'{"type":"server_tool_use","id":"srv_1","name":"web_search","input":{"query":"q"}}'),
        Raw(b'{\n "type":"redacted_thinking",\r\n "data":"x\\ny"\n}'),
    ]
)
citations = st.just(
    Raw(
        b'{"type":"web_search_result_location","url":"http://a.test",\n"title":"t","cited_text":"c","encrypted_index":"e"}'
    )
)
counts = st.none() | st.integers(0, 10**6)
usages = st.builds(
    Usage,
    input_tokens=counts,
    output_tokens=counts,
    cache_read_tokens=counts,
    cache_write_tokens=counts,
    thinking_tokens=counts,
    web_search_requests=st.none() | st.integers(0, 9),
)
refusals = st.just(Stop("refusal", details={"type": "refusal", "category": None, "explanation": "no"}))
stops = (
    st.sampled_from(["end_turn", "tool_use", "max_tokens", "pause_turn", "model_context_window_exceeded"]).map(Stop)
    | st.just(Stop("stop_sequence", "END"))
    | refusals
)


def cut_at(deltas: Sequence[Delta], places: Iterable[int]) -> list[Sequence[Delta]]:
    """Return the deltas in consecutive lists, cut at these places; some may be empty."""
    borders = [0, *sorted(place for place in places if place <= len(deltas)), len(deltas)]
    return [deltas[start:end] for start, end in pairwise(borders)]


class Begin(NamedTuple):
    """The beginning of a call; its arguments will come in these fragments."""

    fragments: list[str]


class Continue(NamedTuple):
    """One of the open calls gets its next fragment, or ends where it has none."""

    which: int


def _fragments(text: str, places: Iterable[int]) -> list[str]:
    borders = [0, *sorted(place for place in places if place <= len(text)), len(text)]
    return [text[start:end] for start, end in pairwise(borders)]


_arguments = st.one_of(
    json_objects.map(lambda value: json.dumps(value, ensure_ascii=False)),
    json_objects.map(lambda value: json.dumps(value, indent=1)),
    st.sampled_from(["", " ", "{}"]),
)
_calls = st.builds(_fragments, _arguments, st.lists(st.integers(0, 30), max_size=4)).map(Begin)
_thinking = st.builds(Thinking, texts, st.sampled_from(["", "", "px1.test.e30"]))
_moves = st.lists(
    st.one_of(
        texts.map(Text),
        _thinking,
        citations.map(Citation),
        st.just(TextEnd()),
        blocks.map(Block),
        usages,
        stops,
        _calls,
        st.integers(0, 9).map(Continue),
        st.integers(0, 9).map(Continue),
    ),
    max_size=30,
)


def a_reply() -> st.SearchStrategy[list[Delta]]:
    """Return a lawful reply: parallel calls with their arguments in turn, anything else between them, and a `Stop`."""
    return st.builds(_play, _moves, st.booleans(), stops)


def _play(moves: Sequence[Delta | Begin | Continue], ends_calls: bool, stop: Stop) -> list[Delta]:
    reply: list[Delta] = []
    open_calls: dict[int, list[str]] = {}
    for number, move in enumerate(moves):
        if isinstance(move, Begin):
            open_calls[number] = list(move.fragments)
            reply.append(ToolCall(number, f"toolu_{number}", f"tool_{number}"))
        elif isinstance(move, Block):
            reply.append(Block(Raw(bytes(move.raw).replace(b"srv_1", b"srv_%d" % number))))
        elif not isinstance(move, Continue):
            reply.append(move)
        elif open_calls:
            key = sorted(open_calls)[move.which % len(open_calls)]
            if open_calls[key]:
                reply.append(ToolArgs(key, open_calls[key].pop(0)))
            else:
                del open_calls[key]
                reply.append(ToolEnd(key))
    for key, fragments in open_calls.items():
        reply += [ToolArgs(key, fragment) for fragment in fragments]
        if ends_calls:
            reply.append(ToolEnd(key))
    return [*reply, stop]


def any_deltas() -> st.SearchStrategy[Delta]:
    """Any delta at any time, with keys that clash and halves of characters."""
    keys = st.sampled_from([0, 1, "a"])
    hostile = st.text('ab\ud83d\ude00{}"', max_size=4)
    return st.one_of(
        st.builds(Text, hostile),
        st.builds(Thinking, hostile, st.sampled_from(["", "s"])),
        citations.map(Citation),
        st.just(TextEnd()),
        blocks.filter(lambda raw: b"server_tool_use" not in bytes(raw)).map(Block),
        keys.map(lambda key: ToolCall(key, f"toolu_{key}", "read")),
        st.builds(ToolArgs, keys, hostile),
        st.builds(ToolEnd, keys),
        usages,
        stops,
    )
