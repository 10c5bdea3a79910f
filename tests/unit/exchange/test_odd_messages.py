"""A relay and messages that are not streamed: one changed key of a valid message leaves a valid message."""

import asyncio
import json
from contextlib import suppress

import pytest
from anthropic.types.beta import BetaMessage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct
from pydantic import TypeAdapter, ValidationError

from anthropic_proxy.engine.exchange.relay import RelayStream
from anthropic_proxy.errors import UpstreamProtocolError
from tests.support.stream_mutations import (
    BLOCKS,
    CALLS,
    CHARACTERS,
    SPELLINGS,
    Json,
    build_stream,
    change_key,
    encode,
)
from tests.unit.exchange.test_odd_streams import FIELDS, read_meaning
from tests.unit.exchange.test_relay import TARGET, call_of, relayed, target_of

ASKED = "an-asked-model"
_MESSAGES = TypeAdapter(BetaMessage)


class ChangedMessage(Struct):
    """A message with one changed key. `valid`: the message before. `block`: the changed block, if it is one."""

    body: bytes
    what: str
    valid: Json
    block: Json | None


def build_message(kinds: list[str], reason: str, characters: str) -> Json:
    events = build_stream(kinds, reason=reason, pings=False, characters=characters)
    content = [*read_meaning(events)["blocks"].values()]
    ending = events[-2]
    return {
        **events[0]["message"],
        "content": content,
        **ending["delta"],
        "usage": {"input_tokens": 7, "output_tokens": 5},
    }


def swap_keys(value: Json, key: str) -> Json:
    """Return an object with a key at the end, and the value of each key unchanged."""
    return {**{name: member for name, member in value.items() if name != key}, key: value[key]}


@st.composite
def changed_messages(draw: st.DrawFn) -> ChangedMessage:
    kinds = draw(st.lists(st.sampled_from([*BLOCKS, "text", "thinking", "tool_use"]), max_size=4))
    reason = draw(st.sampled_from(["end_turn", "end_turn", "max_tokens", "stop_sequence", "refusal"]))
    later = {name: value for name, value in draw(FIELDS).items() if not isinstance(value, list)}  # as `content` is
    valid = {**build_message(kinds, reason, draw(st.text(CHARACTERS, max_size=4))), **later}
    places = draw(st.sampled_from(["message", "usage", "block", "block"] if kinds else ["message", "usage"]))
    how = draw(st.sampled_from(["remove", "double", "misspell", "swap"]))
    place = draw(st.integers(0, max(len(kinds) - 1, 0)))
    part = {"message": valid, "usage": valid["usage"], "block": valid["content"][place] if kinds else {}}[places]
    key = draw(st.sampled_from([name for name in part if not name.startswith("later ")]))
    new = swap_keys(part, key) if how == "swap" else change_key(part, (key,), how)
    changed = new
    if places == "usage":
        changed = {**valid, "usage": new}
    elif places == "block":
        content = valid["content"]
        changed = {**valid, "content": [*content[:place], new, *content[place + 1 :]]}
    body = encode(changed, draw(st.sampled_from(SPELLINGS))).encode()
    return ChangedMessage(body, f"{how} {places}.{key}", valid, part if places == "block" else None)


def list_calls(message: Json) -> list[tuple[str, str, Json]]:
    return [(block["id"], block["name"], block["input"]) for block in message["content"] if block["type"] in CALLS]


def read_texts(content: list[Json], field: str) -> str:
    """Return the texts of blocks, by the name of their field or by its misspelled name."""
    names = (field, f"{field[:1]}{field[2:]}x")
    return "".join(block[name] for block in content for name in names if isinstance(block.get(name), str))


def find_faults(message: Json) -> list[str]:
    """Return the deviations of a message from the type of the SDK."""
    content = [
        {"trigger": {"type": "refusal", "category": None}, **block} if block["type"] == "fallback" else block
        for block in message["content"]
        if block["type"] in BLOCKS and block["type"] != "later"
    ]
    try:
        _MESSAGES.validate_python({**message, "content": content})
    except ValidationError as error:
        return [str(error)]
    return []


def check(message: ChangedMessage) -> None:
    target = target_of(TARGET)
    is_of_call = message.block is not None and message.block["type"] in CALLS
    call = call_of(b"{}", target, asked=ASKED, stream=False)
    if is_of_call and not message.what.startswith("swap"):
        with suppress(UpstreamProtocolError):
            check_received(message, *asyncio.run(relayed([message.body], call, target)))
    else:
        check_received(message, *asyncio.run(relayed([message.body], call, target)))


def check_received(message: ChangedMessage, whole: bytes, relay: RelayStream) -> None:
    is_of_call = message.block is not None and message.block["type"] in CALLS
    received = json.loads(whole)
    if message.what.startswith("swap"):
        assert whole == message.body.replace(b'"m"', f'"{ASKED}"'.encode(), 1), message.what
    assert find_faults(received) == [], message.what
    assert received["model"] == ASKED
    sent = json.loads(message.body)
    content = next((value for value in sent.values() if isinstance(value, list)), [])
    for field in ("text", "thinking"):
        assert read_texts(received["content"], field) == read_texts(content, field), message.what
    calls = list_calls(message.valid) if content else []
    assert [call for call in list_calls(received) if call not in calls] == [], message.what
    assert is_of_call or list_calls(received) == calls, message.what
    assert relay.usage_so_far.output_tokens == received["usage"]["output_tokens"], message.what


@given(changed_messages())
@settings(max_examples=100)
def test_one_changed_key_of_a_valid_message_leaves_a_valid_message(message: ChangedMessage) -> None:
    check(message)


@pytest.mark.slow
@given(changed_messages())
@settings(max_examples=10_000, suppress_health_check=list(HealthCheck), deadline=None)
def test_ten_thousand_changes_of_valid_messages(message: ChangedMessage) -> None:
    check(message)
