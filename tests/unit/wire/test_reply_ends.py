"""Finish reasons of many servers: a truncated tool call never reaches a tool, on any wire."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.engine.messages.fold import fold
from anthropic_proxy.engine.messages.models import decode_request
from anthropic_proxy.engine.messages.preparation import TargetLimits, prepare
from anthropic_proxy.engine.messages.tool_arguments import is_truncated_object
from anthropic_proxy.engine.wires import gemini, ollama, openai_chat, openai_responses
from anthropic_proxy.engine.wires.contract import Call
from anthropic_proxy.engine.wires.reply_ends import find_worst_kind, split_input_tokens
from anthropic_proxy.errors import UpstreamError
from tests.support.decoding import decode_whole

REQUEST = {
    "model": "m",
    "max_tokens": 1000,
    "messages": [{"role": "user", "content": "go"}],
    "tools": [{"name": "Read", "input_schema": {"type": "object"}}],
}
KINDS = {
    "end": "stop end_turn eos eos_token stop_sequence complete COMPLETE stop_string eosFound",
    "calls": "tool_calls tool_call tool_use function_call TOOL_CALLS toolCalls",
    "limit": "length max_tokens MAX_TOKENS max_output_tokens max_completion_tokens token_limit max-tokens truncated"
    " maxPredictedTokensReached output_limit repetition max_length",
    "window": "model_length model_context_window_exceeded contextLengthReached context_length_exceeded context-window",
    "blocked": "content_filter content-filter sensitive SAFETY content_filtered guardrail_intervened refusal"
    " prohibited_content recitation blocklist moderation",
    "unreadable": "MALFORMED_FUNCTION_CALL malformed_function_call UNEXPECTED_TOOL_CALL MALFORMED_RESPONSE",
    "failed": "abort aborted error network_error insufficient_system_resource cancelled canceled timeout failed"
    " rate_limit_exceeded interrupted ERROR server_error timed_out",
    "unknown": "max_tool_calls steered load unload paused other toolbox stopped_by_user",
}


def new_call(wire: Any, **dialect: Any) -> Call:
    prepared = prepare(decode_request(json.dumps(REQUEST).encode()), TargetLimits())
    return Call(
        request=prepared.request,
        model="m",
        dialect=wire.Dialect(**dialect),
        streams_upstream=True,
        new_id=lambda prefix: f"{prefix}1",
        provider="p",
    )


@pytest.mark.parametrize(
    ("reason", "native", "kind"),
    [
        ("tool_calls", "max_output_tokens", "limit"),
        ("stop", "MAX_TOKENS", "limit"),
        ("stop", "model_context_window_exceeded", "window"),
        ("stop", "SAFETY", "blocked"),
        ("error", "MALFORMED_FUNCTION_CALL", "unreadable"),
        ("stop", "UNEXPECTED_TOOL_CALL", "unreadable"),
        ("tool_calls", "STOP", "calls"),
        ("length", "completed", "limit"),
        ("content_filter", "max_output_tokens", "blocked"),
        ("stop", "", "end"),
        ("stop", "something_new", "end"),
    ],
)
def test_the_native_reason_behind_a_gateway_counts_if_it_is_worse(reason: str, native: str, kind: str) -> None:
    assert find_worst_kind(reason, native) == kind


def chat(reason: str, arguments: str, *, streams: bool) -> str | None:
    """Return the stop reason of a reply that calls a tool."""
    decoder = openai_chat.WIRE.new_decoder(new_call(openai_chat))
    function = {"name": "Read", "arguments": arguments}
    message = {"role": "assistant", "tool_calls": [{"index": 0, "id": "c", "function": function}]}
    choice = {"index": 0, ("delta" if streams else "message"): message, "finish_reason": reason}
    body = json.dumps({"choices": [choice]}).encode()
    deltas = [*decoder.decode_frame(body), *decoder.decode_end()] if streams else decode_whole(decoder, body)
    return fold(deltas, message_id="m", model="m", signature="").stop_reason


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


@pytest.mark.parametrize(
    ("status", "reason", "item_status", "arguments", "expected"),
    [
        ("completed", None, "completed", '{"a":1}', "tool_use"),
        ("completed", None, "completed", '{"a":1', "max_tokens"),
        ("completed", None, "incomplete", '{"a":1}', "max_tokens"),
        ("incomplete", None, "incomplete", '{"a":1}', "max_tokens"),
        ("incomplete", None, None, '{"a":1}', "max_tokens"),
        ("incomplete", "steered", None, '{"a":1}', "max_tokens"),
        ("incomplete", "steered", "completed", '{"a":1}', "tool_use"),
        ("incomplete", "max_output_tokens", "completed", '{"a":1}', "max_tokens"),
        ("incomplete", "max_tokens", "completed", '{"a":1}', "max_tokens"),
        ("incomplete", "context_length_exceeded", None, '{"a":1', "model_context_window_exceeded"),
        ("incomplete", "content_filter", "completed", '{"a":1}', "refusal"),
        ("incomplete", "safety", None, '{"a":1}', "refusal"),
    ],
)
def test_responses(status: str, reason: str | None, item_status: str | None, arguments: str, expected: str) -> None:
    """`item_status`: None: the call was still open at the end."""
    item = {"type": "function_call", "id": "fc", "call_id": "c", "name": "Read"}
    response = {"status": status, "output": [], "incomplete_details": {"reason": reason} if reason else None}
    events: list[dict[str, Any]] = [
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "arguments": ""}},
        {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": arguments},
    ]
    if item_status:
        done = {**item, "arguments": arguments, "status": item_status}
        events.append({"type": "response.output_item.done", "output_index": 0, "item": done})
        body = {**response, "output": [done]}
        decoder = openai_responses.WIRE.new_decoder(new_call(openai_responses))
        deltas = decode_whole(decoder, json.dumps(body).encode())
        assert fold(deltas, message_id="m", model="m", signature="").stop_reason == expected
    events.append({"type": f"response.{status}", "response": response})
    decoder = openai_responses.WIRE.new_decoder(new_call(openai_responses))
    deltas = [delta for event in events for delta in decoder.decode_frame(json.dumps(event).encode())]
    assert fold([*deltas, *decoder.decode_end()], message_id="m", model="m", signature="").stop_reason == expected


@pytest.mark.parametrize(
    ("wire", "reason", "expected"),
    [
        (ollama, "stop", "tool_use"),
        (ollama, None, "tool_use"),
        (ollama, "length", "max_tokens"),
        (ollama, "model_context_window_exceeded", "model_context_window_exceeded"),
        (ollama, "content_filter", "refusal"),
        (gemini, "STOP", "tool_use"),
        (gemini, "OTHER", "tool_use"),
        (gemini, "MAX_TOKENS", "max_tokens"),
        (gemini, "MAX_OUTPUT_TOKENS", "max_tokens"),
        (gemini, "CONTEXT_WINDOW_EXCEEDED", "model_context_window_exceeded"),
        (gemini, "SAFETY", "refusal"),
        (gemini, "IMAGE_PROHIBITED_CONTENT", "refusal"),
        (gemini, "NEW_SAFETY_POLICY", "refusal"),
    ],
)
def test_ollama_and_gemini(wire: Any, reason: str | None, expected: str) -> None:
    if wire is ollama:
        message = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "Read", "arguments": {}}}]}
        reply: dict[str, Any] = {"message": message, "done": True, "done_reason": reason}
    else:
        parts = [{"functionCall": {"name": "Read", "args": {}}}]
        reply = {"candidates": [{"content": {"parts": parts}, "finishReason": reason}]}
    body = json.dumps(reply).encode()
    decoder = wire.WIRE.new_decoder(new_call(wire))
    for deltas in (
        [*decoder.decode_frame(body), *decoder.decode_end()],
        decode_whole(wire.WIRE.new_decoder(new_call(wire)), body),
    ):
        assert fold(deltas, message_id="m", model="m", signature="").stop_reason == expected


FULL = {"code": 500, "message": "Context size has been exceeded.", "type": "server_error"}
LIMITED = {"message": "Could not finish the message because max_tokens or model output limit was reached."}
TEXTS: dict[Any, dict[str, Any]] = {
    openai_chat: {"choices": [{"index": 0, "delta": {"content": "Once"}}]},
    ollama: {"message": {"role": "assistant", "content": "Once"}, "done": False},
    gemini: {"candidates": [{"content": {"parts": [{"text": "Once"}]}}]},
    openai_responses: {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "Once"},
}
"""A frame with text, by wire."""


@pytest.mark.parametrize(
    ("error", "expected"), [(FULL, "model_context_window_exceeded"), (LIMITED, "max_tokens")], ids=["full", "limited"]
)
@pytest.mark.parametrize("wire", TEXTS, ids=lambda wire: wire.__name__.rpartition(".")[2])
def test_an_error_about_tokens_after_text_ends_the_reply(wire: Any, error: dict[str, Any], expected: str) -> None:
    decoder = wire.WIRE.new_decoder(new_call(wire))
    failed = {"error": error} | ({"type": "error"} if wire is openai_responses else {})
    deltas = [delta for frame in (TEXTS[wire], failed) for delta in decoder.decode_frame(json.dumps(frame).encode())]
    reply = fold([*deltas, *decoder.decode_end()], message_id="m", model="m", signature="")
    assert (reply.stop_reason, [json.loads(bytes(block))["text"] for block in reply.content]) == (expected, ["Once"])


@pytest.mark.parametrize("wire", TEXTS, ids=lambda wire: wire.__name__.rpartition(".")[2])
def test_an_error_about_a_full_context_before_any_content_has_no_invented_numbers(wire: Any) -> None:
    error = wire.WIRE.decode_error(new_call(wire), 500, {}, json.dumps({"error": FULL}).encode())
    assert isinstance(error, UpstreamError)
    assert (error.status, error.error_type, error.cause) == (500, "api_error", None)
    assert error.message == "p: Context size has been exceeded."


@pytest.mark.parametrize("wire", TEXTS, ids=lambda wire: wire.__name__.rpartition(".")[2])
def test_a_reached_output_limit_as_status_400_is_a_reply(wire: Any) -> None:
    deltas = wire.WIRE.decode_error(new_call(wire), 400, {}, json.dumps({"error": LIMITED}).encode())
    assert fold(deltas, message_id="m", model="m", signature="").stop_reason == "max_tokens"


@pytest.mark.parametrize(
    ("generation", "called"),
    [
        ('<function=Read>{"path": "a"}', True),
        ('<function=Read>{"path": "a"}</function>', True),
        ('<tool_call>{"name": "Read", "arguments": {"path": "a"}}', True),
        ('<function=Read>{"path": "<p>"}</function>', True),
        ('[TOOL_CALLS][{"name": "Read", "arguments": {"path": "a"}}]', True),
        ('[TOOL_CALLS][{"name": "Read", "arguments": {"path": "a"}', False),
        ('<function=Read>{"path": "a"', False),
        ('<function=Read>{"path": "a", ', False),
        ('<function=Read>{"path": "a"}</function>\n<function=Read>{"path": "b"', False),
        ('<tool_call>{"name": "Read", "arguments": {"path": "a"}', False),
        ('<tool_call>{"name": "Read", "arguments": {"path": "a", ', False),
    ],
)
def test_a_call_that_groq_could_not_read_is_made_only_if_it_is_whole(generation: str, called: bool) -> None:
    error = {"message": "Failed to call a function.", "code": "tool_use_failed", "failed_generation": generation}
    body = json.dumps({"error": error}).encode()
    reply = openai_chat.WIRE.decode_error(new_call(openai_chat), 400, {}, body)
    assert isinstance(reply, list) == called
    if isinstance(reply, list):
        assert fold(reply, message_id="m", model="m", signature="").stop_reason == "tool_use"


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
    if total is None:
        assert parts == (None, read, written)
        return
    uncached, reads, writes = (part or 0 for part in parts)
    assert min(uncached, reads, writes) >= 0
    assert reads == max(read or 0, 0)
    assert uncached + writes + (reads if reads <= total else 0) == max(total, 0)
