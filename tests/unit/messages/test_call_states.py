"""States of tool calls are restored alike, whether the first messages of the conversation are known or not."""

import base64
import hashlib
import json
import tracemalloc
import zlib
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec import json as msgspec_json
from msgspec import structs

from anthropic_proxy.engine.base64url import encode_base64url
from anthropic_proxy.engine.histories import Histories
from anthropic_proxy.engine.messages.call_states import (
    MAX_ID_CHARACTERS,
    CallState,
    HiddenThinking,
    HiddenThought,
    decode_state_id,
    encode_state_id,
    list_ids_with_states,
    restore_states,
)
from anthropic_proxy.engine.messages.deltas import Thinking
from anthropic_proxy.engine.messages.models import CleanMessages, Message, decode_request_or_envelope
from anthropic_proxy.engine.messages.models.tools import KEPT_ID_PREFIX, STATE_ID_PREFIX, are_valid_ids
from anthropic_proxy.engine.messages.preparation.cleaning import merge_messages
from anthropic_proxy.engine.wires.thinking import ReasoningState, encode_signature

HEADERS = {"x-claude-code-session-id": "one"}
KEPT_STATE = CallState("call_kept", [HiddenThought(0, "ds", '{"r":1}', "Hm.")])


def new_call_id(number: int, *, keeps: bool) -> str:
    if keeps:
        return f"{KEPT_ID_PREFIX}{number:024d}"
    return encode_state_id(CallState(f"call_{number}", [HiddenThought(1, "gem", json.dumps({"s": f"s{number}"}))]))


def write_conversation(steps: int, *, keeps: bool) -> list[Any]:
    messages: list[Any] = [{"role": "user", "content": "begin " * 200}]
    for number in range(steps):
        call_id = new_call_id(number, keeps=keeps)
        text = {"type": "text", "text": f"step {number} " * 100}
        call = {"type": "tool_use", "id": call_id, "name": "Read", "input": {}}
        result = {"type": "tool_result", "tool_use_id": call_id, "content": "line " * 200}
        messages += [{"role": "assistant", "content": [text, call]}, {"role": "user", "content": [result]}]
    return messages


def list_contents(messages: Sequence[Message]) -> list[Any]:
    return [(message.role, message.content) for message in messages]


@pytest.mark.parametrize("keeps", [True, False], ids=["kept", "in the id"])
def test_known_messages_are_restored_as_others(keeps: bool) -> None:
    histories = Histories(min_bytes=0)
    has_known = set[bool]()
    for steps in range(1, 12):
        body = {"model": "m", "max_tokens": 9, "messages": write_conversation(steps, keeps=keeps)}
        content = json.dumps(body, separators=(",", ":")).encode()
        conversation = histories.find("ann", HEADERS, content)
        assert conversation is not None
        request = decode_request_or_envelope(content, known=conversation.known)
        histories.learn(conversation, content, request)
        plain = decode_request_or_envelope(content).messages
        ids = list_ids_with_states(plain)
        assert ids == list_ids_with_states(request.messages)
        assert len(ids) == steps
        kept = dict.fromkeys(ids, KEPT_STATE) if keeps else {}
        restored = restore_states(request.messages, kept)
        expected = restore_states(plain, kept)
        assert list_contents(restored) == list_contents(expected)
        assert list_contents(merge_messages(restored)) == list_contents(merge_messages(expected))
        known = restored.known if isinstance(restored, CleanMessages) else None
        has_known.add(known is not None)
    assert has_known == ({False} if keeps else {True, False})


@pytest.mark.parametrize("calls_per_message", [1, 100])
def test_an_id_brings_its_state_back_once(calls_per_message: int) -> None:
    call_id = new_call_id(1, keeps=True)
    call = {"type": "tool_use", "id": call_id, "name": "Read", "input": {}}
    result = {"type": "tool_result", "tool_use_id": call_id, "content": "line"}
    turn = [
        {"role": "assistant", "content": [call] * calls_per_message},
        {"role": "user", "content": [result] * calls_per_message},
    ]
    messages = [{"role": "user", "content": "begin"}, *turn * 100]
    content = json.dumps({"model": "m", "max_tokens": 9, "messages": messages}).encode()
    restored = restore_states(decode_request_or_envelope(content).messages, {call_id: KEPT_STATE})
    text = msgspec_json.encode(restored).decode()
    assert text.count("Hm.") == 1
    assert text.count("call_kept") == 200 * calls_per_message
    assert call_id not in text


@pytest.mark.parametrize(("size", "is_kept"), [(1, False), (2_048, False), (2_400, True)])
@pytest.mark.parametrize("state", [ReasoningState(model="gemini-3.8-flash"), ReasoningState(item_id="rs_" + "7" * 48)])
def test_a_state_up_to_2_kb_stands_in_the_id(state: ReasoningState, size: int, is_kept: bool) -> None:
    digests = (hashlib.sha512(bytes([number])).digest() for number in range(48))
    opaque = base64.b64encode(b"".join(digests)).decode()[:size]
    name = "call_signature" if state.model else "encrypted"
    hidden = HiddenThinking(lambda prefix: f"{prefix}1")
    hidden.add(Thinking(signature=encode_signature("tag", structs.replace(state, **{name: opaque}))), 0)
    call_id = hidden.assign_id("call_" + "c" * 24, 0, "")
    assert call_id.startswith(KEPT_ID_PREFIX if is_kept else STATE_ID_PREFIX)
    assert len(call_id) <= MAX_ID_CHARACTERS
    assert [*hidden.unsaved] == ([call_id] if is_kept else [])


@pytest.mark.parametrize("size", [0, 1, 100, 500])
def test_a_state_comes_back_from_the_id_that_carries_it(size: int) -> None:
    opaque = "".join(chr(48 + place * 7 % 43) for place in range(size))
    state = CallState("call_1", [HiddenThought(2, "oai", json.dumps({"e": opaque}), "é" * (size // 10))])
    call_id = encode_state_id(state)
    assert decode_state_id(call_id) == state
    assert call_id.isascii()
    assert not are_valid_ids([call_id])  # for another provider


@pytest.mark.parametrize("opaque", ["", "A" * 4_000], ids=["short", "long"])
def test_signed_thinking_that_no_call_follows_is_bounded(opaque: str) -> None:
    state = encode_signature("tag", ReasoningState(item_id="rs_1", encrypted=opaque))
    hidden = HiddenThinking(lambda prefix: f"{prefix}1")
    tracemalloc.start()
    for _ in range(20_000):
        hidden.add(Thinking(signature=f"{state} "[:-1]), 0)  # a text of its own, as a provider sends it
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 1024 * 1024
    assert hidden.assign_id("call_1", 0, "") == "call_1"
    hidden.add(Thinking(signature=state), 0)
    assert hidden.assign_id("call_2", 0, "") != "call_2"  # which has its own thinking


def test_an_id_that_nobody_wrote_so_has_no_state() -> None:
    thought = HiddenThought(0, "t", '{"s":"x"}')
    many = CallState("toolu_1", [thought] * 9)
    assert decode_state_id(encode_state_id(CallState("toolu_1", [thought] * 8))) == CallState("toolu_1", [thought] * 8)
    assert decode_state_id(encode_state_id(many)) is None
    packed = zlib.compressobj(wbits=-15)
    bomb = packed.compress(b'["toolu_1",[[0,"",""]' + b',[0,"",""]' * 100_000 + b"]]") + packed.flush()
    assert decode_state_id(STATE_ID_PREFIX + encode_base64url(bomb)) is None
    for state in ('{"r":1}', '{"r":', "[]"):
        assert decode_state_id(encode_state_id(CallState("toolu_1", [HiddenThought(0, "t", state, "Hm.")]))) is None
    empty = HiddenThought(0, "t", '{"i":"rs_1"}', " " * 1_000)
    assert decode_state_id(encode_state_id(CallState("toolu_1", [empty]))) is None
    long = HiddenThought(0, "t", json.dumps({"s": "".join(chr(48 + place * 7 % 43) for place in range(4_000))}))
    assert decode_state_id(encode_state_id(CallState("toolu_1", [long]))) is None
