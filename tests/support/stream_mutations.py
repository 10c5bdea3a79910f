"""Valid streams of the Messages API, and the same with one event or key removed, doubled, swapped or misspelled.

The blocks are one of each type that the official SDK knows, and one that nobody knows. Their texts, names and arguments
have any characters.
"""

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, get_args

from anthropic.lib.streaming._beta_messages import accumulate_event
from anthropic.types.beta import BetaContentBlock, BetaRawMessageStreamEvent
from hypothesis import strategies as st
from msgspec import Struct
from pydantic import TypeAdapter, ValidationError

Json = dict[str, Any]
USAGE = {"input_tokens": 7, "output_tokens": 1}
_RESULT = {"type": "{}_error", "error_code": "unavailable"}
BLOCKS: dict[str, tuple[Json, list[Json]]] = {
    "text": (
        {"type": "text", "text": ""},
        [{"type": "text_delta", "text": text} for text in ("Hel", "lo", " there")],
    ),
    "thinking": (
        {"type": "thinking", "thinking": "", "signature": ""},
        [
            {"type": "thinking_delta", "thinking": "I "},
            {"type": "thinking_delta", "thinking": "see."},
            {"type": "signature_delta", "signature": "sig"},
        ],
    ),
    "tool_use": (
        {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {}},
        [{"type": "input_json_delta", "partial_json": text} for text in ("", '{"file', '_path": ', '"a"}')],
    ),
    "server_tool_use": (
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}},
        [{"type": "input_json_delta", "partial_json": text} for text in ('{"query"', ': "x"}')],
    ),
    "mcp_tool_use": (
        {"type": "mcp_tool_use", "id": "mcptoolu_1", "name": "find", "server_name": "s", "input": {}},
        [{"type": "input_json_delta", "partial_json": text} for text in ('{"a"', ": 1}")],
    ),
    "redacted_thinking": ({"type": "redacted_thinking", "data": "x"}, []),
    **{
        kind: (
            {
                "type": kind,
                "tool_use_id": "srvtoolu_1",
                "content": {"type": f"{kind}_error", "error_code": "unavailable"},
            },
            [],
        )
        for kind in (
            *("web_search_tool_result", "web_fetch_tool_result", "code_execution_tool_result"),
            *("bash_code_execution_tool_result", "text_editor_code_execution_tool_result"),
            *("tool_search_tool_result", "advisor_tool_result"),
        )
    },
    "mcp_tool_result": (
        {"type": "mcp_tool_result", "tool_use_id": "mcptoolu_1", "is_error": False, "content": []},
        [],
    ),
    "mcp_tool_listing": ({"type": "mcp_tool_listing", "mcp_server_name": "s", "tools": []}, []),
    "container_upload": ({"type": "container_upload", "file_id": "file_1"}, []),
    "compaction": ({"type": "compaction", "content": None}, [{"type": "compaction_delta", "content": "short"}]),
    "fallback": (
        {
            "type": "fallback",
            "from": {"model": "claude-a"},
            "to": {"model": "claude-b"},
            "trigger": {"type": "refusal", "category": None},
        },
        [],
    ),
    "later": ({"type": "later", "what": "ever"}, [{"type": "later_delta", "more": "x"}]),
}
"""Type of a block → its start and its deltas."""
CALLS = ("tool_use", "server_tool_use", "mcp_tool_use")


def known_block_types() -> set[str]:
    """Return the types of the blocks of the SDK."""
    union = get_args(BetaContentBlock)[0]
    return {get_args(block.model_fields["type"].annotation)[0] for block in get_args(union)}


CHARACTERS = 'e\u00e9\u4e2d\U0001f600\u2028\u0085\u200d\ufeff\x00\x1f \n"\\'
"""Characters of one to four bytes, ends of lines of some programs, and those that JSON has to escape."""


def _add_characters(start: Json, deltas: list[Json], characters: str) -> tuple[Json, list[Json]]:
    """Return a block whose texts, name and arguments have these characters. No part of the arguments can be missing
    without a trace: a middle one has the end of the key and the start of the value.
    """
    if "input" in start:
        arguments = json.dumps({f"file_path{characters}": characters}, ensure_ascii=len(characters) % 2 == 0)
        cuts = [0, 5, arguments.rindex(': "') + 3 + len(characters) // 2, len(arguments)]
        pieces = ["", *(arguments[begin:end] for begin, end in pairwise(cuts))]
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
        if start["type"] != "server_tool_use":  # its names are those of the API
            start = {**start, "name": start["name"] + characters}
        return start, deltas
    changed = [
        {
            name: value + characters if name in ("text", "thinking", "content", "more") else value
            for name, value in delta.items()
        }
        for delta in deltas
    ]
    return {name: value + characters if name in ("what", "data") else value for name, value in start.items()}, changed


def build_stream(kinds: list[str], *, reason: str = "end_turn", pings: bool = True, characters: str = "") -> list[Json]:
    """Return the events of a valid stream with these blocks. `characters`: further ones of their values."""
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": USAGE,
    }
    events: list[Json] = [{"type": "message_start", "message": message}]
    events += [{"type": "ping"}] if pings else []
    for index, kind in enumerate(kinds):
        start, deltas = BLOCKS[kind]
        if characters:
            start, deltas = _add_characters(start, deltas, characters)
        start = {**start, "id": f"{start['id']}{index}"} if "id" in start else start
        events.append({"type": "content_block_start", "index": index, "content_block": start})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    if reason == "end_turn" and "tool_use" in kinds:
        reason = "tool_use"
    delta = {"stop_reason": reason, "stop_sequence": "END" if reason == "stop_sequence" else None}
    return [*events, {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 5}}, {"type": "message_stop"}]


class Doubled(Struct):
    """A member of an object that is written twice."""

    value: Any


class Spelling(Struct, frozen=True):
    """How a server writes JSON. `escapes`: whether it escapes all characters that are not ASCII."""

    separators: tuple[str, str] = (",", ":")
    escapes: bool = False


COMPACT = Spelling()
SPELLINGS = [COMPACT, Spelling((", ", ": ")), Spelling(escapes=True)]


def encode(value: Any, spelling: Spelling = COMPACT) -> str:
    separators = spelling.separators
    if isinstance(value, dict):
        members = []
        for name, member in value.items():
            given = member.value if isinstance(member, Doubled) else member
            text = f"{json.dumps(name)}{separators[1]}{encode(given, spelling)}"
            members += [text] * (1 + isinstance(member, Doubled))
        return f"{{{separators[0].join(members)}}}"
    if isinstance(value, list):
        return f"[{separators[0].join(encode(member, spelling) for member in value)}]"
    return json.dumps(value, ensure_ascii=spelling.escapes)


def _strip(value: Any) -> Any:
    """Return a value with each member once."""
    if isinstance(value, Doubled):
        return _strip(value.value)
    return {name: _strip(member) for name, member in value.items()} if isinstance(value, dict) else value


class SentEvent(Struct):
    """An event in a stream. `origin`: that of the valid stream."""

    name: str | None
    data: Json
    origin: Json

    def to_bytes(self, spelling: Spelling) -> bytes:
        name = f"event: {self.name}\n" if self.name is not None else ""
        return f"{name}data: {encode(self.data, spelling)}\n\n".encode()


def list_paths(event: Json) -> Iterator[tuple[str, ...]]:
    """Yield the place of each key that the grammar has: of an event, and of the objects in it."""
    for key, value in event.items():
        yield (key,)
        if isinstance(value, dict):
            for inner, member in value.items():
                yield key, inner
                if key == "message" and isinstance(member, dict):
                    yield from ((key, inner, name) for name in member)


def change_key(event: Json, path: tuple[str, ...], how: str) -> Json:
    changed = dict(event)
    if len(path) > 1:
        return {**changed, path[0]: change_key(event[path[0]], path[1:], how)}
    key = path[0]
    if how == "remove":
        del changed[key]
    elif how == "double":
        changed[key] = Doubled(changed[key])
    else:
        changed = {f"{name[:1]}{name[2:]}x" if name == key else name: value for name, value in changed.items()}
    return changed


class Mutation(Struct):
    """What was done to a stream. `is_of_call`: the changed events belong to a call. `valid`: the events before."""

    sent: list[SentEvent]
    what: str
    is_of_call: bool
    valid: list[Json]


@st.composite
def mutations(draw: st.DrawFn) -> Mutation:
    kinds = draw(st.lists(st.sampled_from([*BLOCKS, "text", "thinking", "tool_use"]), min_size=1, max_size=4))
    reason = draw(st.sampled_from(["end_turn", "end_turn", "max_tokens", "stop_sequence", "refusal"]))
    characters = draw(st.text(CHARACTERS, max_size=4))
    events = build_stream(kinds, reason=reason, pings=draw(st.booleans()), characters=characters)
    sent = [SentEvent(event["type"], event, event) for event in events]
    indexes = {index for index, kind in enumerate(kinds) if kind in CALLS}
    place = draw(st.integers(0, len(sent) - 1))
    chosen, how = sent[place], draw(st.sampled_from(["remove", "double", "swap", "name", "key", "key", "key", "key"]))
    touched = [chosen.origin]
    what = f"{how} event {place} {chosen.origin['type']}"
    if how == "remove":
        del sent[place]
    elif how == "double":
        sent.insert(place, chosen)
    elif how == "swap":
        other = min(place + 1, len(sent) - 1)
        touched.append(sent[other].origin)
        sent[place], sent[other] = sent[other], sent[place]
    elif how == "name":
        name = draw(st.sampled_from([None, f"x{chosen.name}", "message"]))
        sent[place] = SentEvent(name, chosen.data, chosen.origin)
        what += f" → {name}"
    else:
        path = draw(st.sampled_from([*list_paths(chosen.data)]))
        kind = draw(st.sampled_from(["remove", "double", "misspell"]))
        sent[place] = SentEvent(chosen.name, change_key(chosen.data, path, kind), chosen.origin)
        what += f": {kind} {'.'.join(path)}"
    if draw(st.booleans()) and how == "key":
        for event in sent:  # a server that names no events
            event.name = None
        what += ", no names"
    return Mutation(sent, what, any(event.get("index") in indexes for event in touched), events)


def read_texts(events: list[Json]) -> dict[str, str]:
    """Return the texts of the deltas in the order in which they came, by the first letter of their field."""
    texts = {"text": "", "thinking": ""}
    for event in events:
        for delta in _strip(event).values():
            if not isinstance(delta, dict) or "content" in delta or delta.get("type") in BLOCKS:
                continue
            kind = str(delta.get("type", ""))
            for field, value in delta.items():
                name = next((name for name in texts if field in (name, f"{name[:1]}{name[2:]}x")), "")
                if name and isinstance(value, str) and (name in kind or not kind or kind not in _DELTA_TYPES):
                    texts[name] += value
    return texts


_DELTA_TYPES = ("text_delta", "thinking_delta")
_EVENTS: TypeAdapter[Any] = TypeAdapter(BetaRawMessageStreamEvent)
_KNOWN = known_block_types()


def find_type_faults(events: list[Json]) -> list[str]:
    """Return the deviations of a stream from the types of the SDK, and what its helper for streams cannot read."""
    faults = []
    later = {
        event["index"]
        for event in events
        if event["type"] == "content_block_start" and event["content_block"]["type"] not in _KNOWN
    }
    snapshot, pieces = None, dict[int, bytes]()
    for event in events:
        if event["type"] in ("ping", "error"):
            continue
        given = event
        if event.get("index") in later:
            given = {
                **event,
                "content_block": {"type": "text", "text": ""},
                "delta": {"type": "text_delta", "text": ""},
            }
        elif event.get("content_block", {}).get("type") == "fallback":  # older servers state no trigger
            trigger = {"type": "refusal", "category": None}
            given = {**event, "content_block": {"trigger": trigger, **event["content_block"]}}
        try:
            read = _EVENTS.validate_python(given)
            snapshot = accumulate_event(event=read, current_snapshot=snapshot, json_bufs=pieces, request_headers={})  # type: ignore[arg-type]
        except (ValidationError, ValueError, RuntimeError, IndexError) as error:
            faults.append(f"{event}: {error}")
    return faults
