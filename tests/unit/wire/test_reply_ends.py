"""Finish reasons of many servers: a truncated tool call never reaches a tool, on any wire."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.engine.messages.models.tool_arguments import is_truncated_object
from anthropic_proxy.engine.wires import openai_chat
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.reply_ends import split_input_tokens
from anthropic_proxy.errors import UpstreamError
from tests.support import decoding
from tests.support.decoding import decode_whole
from tests.support.fold import fold
from tests.support.tables import in_one_test

KINDS = {
    "end": "stop end_turn eos eos_token stop_sequence complete COMPLETE stop_string eosFound",
    "calls": "tool_calls tool_call tool_use function_call TOOL_CALLS toolCalls",
    "limit": "length max_tokens MAX_TOKENS max_output_tokens max_completion_tokens token_limit max-tokens truncated"
    " maxPredictedTokensReached output_limit repetition max_length CONTINUATION",
    "window": "model_length model_context_window_exceeded contextLengthReached context_length_exceeded context-window",
    "blocked": "content_filter content-filter sensitive SAFETY content_filtered guardrail_intervened refusal"
    " prohibited_content recitation blocklist moderation SPII LANGUAGE MODEL_ARMOR ESCALATION PUP_LIMITED_DISABLED"
    " IMAGE_OTHER",
    "unreadable": "MALFORMED_FUNCTION_CALL malformed_function_call UNEXPECTED_TOOL_CALL MALFORMED_RESPONSE",
    "failed": "abort aborted error network_error insufficient_system_resource cancelled canceled timeout failed"
    " rate_limit_exceeded interrupted ERROR server_error timed_out",
    "unknown": "max_tool_calls steered load unload paused other toolbox stopped_by_user",
}


def new_call(wire: Any) -> TranslatedCall:
    return decoding.new_call(wire, provider="p", max_tokens=1_000, tools=decoding.functions("Read"))


def chat(reason: str, arguments: str, *, streams: bool) -> str | None:
    """Return the stop reason of a reply that calls a tool."""
    decoder = openai_chat.WIRE.new_decoder(new_call(openai_chat))
    function = {"name": "Read", "arguments": arguments}
    message = {"role": "assistant", "tool_calls": [{"index": 0, "id": "c", "function": function}]}
    choice = {"index": 0, ("delta" if streams else "message"): message, "finish_reason": reason}
    body = json.dumps({"choices": [choice]}).encode()
    deltas = [*decoder.decode_frame(body), *decoder.decode_end()] if streams else decode_whole(decoder, body)
    return fold(deltas, message_id="m", model="m", signature="").stop_reason


@in_one_test
@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("arguments", ['{"path":"a"}', '{"path":"a', '{"path":{"a":1}', "", "{"])
@pytest.mark.parametrize(("kind", "reason"), [(kind, one) for kind, words in KINDS.items() for one in words.split()])
def test_a_cut_call_never_reaches_a_tool(kind: str, reason: str, arguments: str, streams: bool) -> None:
    if kind in ("failed", "unreadable"):
        with pytest.raises(UpstreamError) as failure:
            chat(reason, arguments, streams=streams)
        unreadable = f"p: the model's reply could not be read ({reason})"
        assert failure.value.message == (unreadable if kind == "unreadable" else f"p: the answer ended with {reason!r}")
        return
    whole = arguments == '{"path":"a"}' or (arguments == "" and kind != "unknown")
    normal = "tool_use" if whole else "max_tokens"
    expected = {"limit": "max_tokens", "window": "model_context_window_exceeded", "blocked": "refusal"}
    assert chat(reason, arguments, streams=streams) == expected.get(kind, normal)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(value=st.dictionaries(st.text(max_size=3), VALUES, max_size=3), ascii_only=st.booleans(), data=st.data())
def test_every_beginning_of_an_object_is_cut_short(value: Any, ascii_only: bool, data: st.DataObject) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert not is_truncated_object(text)
    assert not is_truncated_object(text + "}")
    assert is_truncated_object(text[: data.draw(st.integers(1, len(text) - 1))])


@given(total=st.none() | st.integers(-3, 300), read=st.none() | st.integers(-3, 300), written=st.none() | st.integers())
def test_input_is_never_negative_lost_or_counted_twice(
    total: int | None, read: int | None, written: int | None
) -> None:
    parts = split_input_tokens(total, read, written)
    if total is None or total < 0:  # an impossible count is replaced later, with a note
        assert parts == (total, read, written)
        return
    uncached, reads, writes = (part or 0 for part in parts)
    assert min(uncached, reads, writes) >= 0
    assert reads == max(read or 0, 0)
    assert uncached + writes + (reads if reads <= total else 0) == total
