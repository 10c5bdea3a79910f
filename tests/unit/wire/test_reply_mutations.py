"""Streams of translated APIs in which one event or key is removed, doubled, swapped or misspelled."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anthropic_proxy.errors import UpstreamProtocolError
from tests.support.event_grammar import check_events
from tests.support.reply_mutations import WIRES, Json, ReplyMutation, play, read_events, reply_mutations
from tests.support.stream_mutations import find_type_faults
from tests.support.tables import in_one_test

mutations = st.sampled_from([*WIRES]).flatmap(reply_mutations)


def read_object(text: str) -> Any:
    """Return the arguments of a call that a client can run. None: it cannot."""
    try:
        arguments = json.loads(text)
    except ValueError:
        return None
    return arguments if isinstance(arguments, dict) and "__unparsedToolInput" not in arguments else None


def check(mutation: ReplyMutation) -> None:
    received, stated = play(mutation.wire, mutation.sent), read_events(mutation)
    faults = check_events(received.events, requires_json_arguments=False) + find_type_faults(received.events)
    assert [fault for fault in faults if "Unable to parse tool parameter" not in fault] == [], mutation.form
    calls = list(stated.calls)
    for name, text in received.calls:
        arguments = read_object(text)
        if arguments is not None:
            assert (name, arguments) in calls, mutation.form
            calls.remove((name, arguments))
    if received.error is None:
        assert (received.text, received.thinking) == (stated.text, stated.thinking), mutation.form
        assert calls == [], mutation.form


@given(mutations)
@settings(max_examples=100)
def test_one_changed_event_or_key_leaves_a_valid_stream_and_no_wrong_call(mutation: ReplyMutation) -> None:
    check(mutation)


@pytest.mark.merge
@pytest.mark.parametrize("wire", WIRES)
def test_ten_thousand_changes_of_valid_streams(wire: str) -> None:
    @given(reply_mutations(wire))
    @settings(max_examples=2_500, suppress_health_check=list(HealthCheck))
    def check_each(mutation: ReplyMutation) -> None:
        check(mutation)

    check_each()


def chat(*pieces: Json, place: str = "delta") -> list[Json]:
    """Return the chunks of a stream. A piece without `place` of its own is the delta of a chunk."""
    chunks = [{"choices": [{"index": 0, **({} if "message" in piece else {place: {}}), **piece}]} for piece in pieces]
    return [*chunks, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, {"type": "[DONE]"}]


def called(name: str | None, arguments: str, *, index: int | None = 0, call_id: str | None = "c") -> Json:
    fields = {"index": index, "id": call_id, "function": {"name": name, "arguments": arguments}}
    function = {key: value for key, value in fields["function"].items() if value is not None}  # type: ignore[union-attr]
    return {
        "delta": {
            "tool_calls": [
                {key: value for key, value in (fields | {"function": function}).items() if value is not None}
            ]
        }
    }


def in_message(*calls: Json) -> Json:
    """Return the piece of a message with whole calls."""
    return {"message": {"tool_calls": [call["delta"]["tool_calls"][0] for call in calls]}}


def responses(*events: Json, output: list[Json] | None = None, end: str = "completed") -> list[Json]:
    response = {"status": "completed", "output": output or [], "usage": {"input_tokens": 1, "output_tokens": 1}}
    return [
        *({**event, "type": f"response.{event['type']}"} for event in events),
        {"type": f"response.{end}", "response": response},
    ]


def gemini(*calls: Json) -> list[Json]:
    """Return a stream with calls, all with one id, each in an event."""
    parts = [{"functionCall": {"name": "Read", "id": "c", **call}} for call in calls]
    frames: list[Json] = [{"candidates": [{"content": {"role": "model", "parts": [part]}}]} for part in parts]
    return [*frames, {"candidates": [{"finishReason": "STOP"}]}]


def piece(name: str, text: str) -> Json:
    return {"jsonPath": f"$.{name}", "stringValue": text}


CALL = {"type": "function_call", "id": "i", "call_id": "c", "name": "Read"}
BEGIN = {"type": "output_item.added", "output_index": 0, "item": {**CALL, "arguments": ""}}
WHOLE = '{"a": 1}'
BROKEN = "somebody sent a tool call that cannot be run: "
OTHER_ARGUMENTS = UpstreamProtocolError(f"{BROKEN}its fragments differ from its complete arguments")
OTHER_NAME = UpstreamProtocolError(f"{BROKEN}it has two names, 'Read' and 'Write_File'")
NAMELESS = {"type": "function_call", "name": "Read"}
MESSAGE: Json = {"type": "message", "content": [{"type": "output_text", "text": "Hello."}]}
HEL = {"type": "output_text.delta", "output_index": 0, "delta": "Hel"}
SECOND = {**CALL, "id": "j", "call_id": "d", "name": "Write_File"}
FINAL_OBJECTS: dict[str, tuple[str, list[Json], Any]] = {
    "a name in pieces": (
        "openai_chat",
        chat(called("Re", ""), called("ad", "", call_id=None), called(None, WHOLE)),
        [WHOLE],
    ),
    "a name that grows": ("openai_chat", chat(called("Re", ""), called("Read", WHOLE)), [WHOLE]),
    "a name in pieces and no arguments": ("openai_chat", chat(called("Re", ""), called("ad", "")), ["{}"]),
    **{
        f"an index that comes with the arguments{rest}": (
            "openai_chat",
            chat(
                *fragments,
                called(None, WHOLE[3:], call_id=None),
                in_message(called("Read", WHOLE, index=None, call_id=None)),
            ),
            [WHOLE],
        )
        for rest, fragments in {
            "": (called("Read", "", index=None), called(None, WHOLE[:3], call_id=None)),
            " and the id": (called("Read", "", index=None), called(None, WHOLE[:3])),
            " and the name": (called("Read", "", index=None), called("Read", WHOLE[:3])),
            " of a call without an id": (
                called("Read", "", index=None, call_id=None),
                called("Read", WHOLE[:3], call_id=None),
            ),
        }.items()
    },
    "another index for the second part of the arguments": (
        "openai_chat",
        chat(
            called("Read", WHOLE[:3]),
            called(None, WHOLE[3:], index=1),
            in_message(called("Read", WHOLE, index=None, call_id=None)),
        ),
        [WHOLE],
    ),
    "another index without an id for the arguments": (
        "openai_chat",
        chat(called("Read", ""), called(None, WHOLE[:3], index=1, call_id=None), called(None, WHOLE[3:], index=1)),
        [WHOLE],
    ),
    "null as a name in later fragments": (
        "openai_chat",
        chat(called("Read", WHOLE[:3]), called("null", WHOLE[3:-1], call_id=""), called("None", "}", call_id="None")),
        [WHOLE],
    ),
    "whole arguments at another index, under the id and name of a call without any": (
        "openai_chat",
        chat(called("Read", ""), called("Read", WHOLE, index=1), called("Read", WHOLE, index=2)),
        [WHOLE],
    ),
    "the head of a call at the index of the next arguments": (
        "openai_chat",
        chat(
            called("Read", "", index=2),
            called(None, WHOLE, index=1, call_id=None),
            called("Write_File", "", index=3, call_id="d"),
            called(None, '{"b": 2}', index=2, call_id=None),
        ),
        [WHOLE, '{"b": 2}'],
    ),
    "nameless calls without arguments": (
        "openai_chat",
        chat(
            called("Read", WHOLE), called(None, "{}{}", index=1, call_id="d"), called(None, "{}", index=2, call_id="e")
        ),
        [WHOLE],
    ),
    "one id for two tools": (
        "openai_chat",
        chat(called("Read", WHOLE), called("Write_File", '{"b": 2}')),
        [WHOLE, '{"b": 2}'],
    ),
    "whole arguments again": (
        "openai_chat",
        chat(called("Read", '{"a"'), called(None, ": 1}"), called(None, WHOLE)),
        [WHOLE],
    ),
    "a whole text with another index": (
        "openai_responses",
        responses(
            {**HEL, "content_index": 0, "delta": "Hello."},
            {"type": "output_text.done", "output_index": 0, "content_index": 1, "text": "Hello."},
        ),
        "Hello.",
    ),
    "a call without arguments that only its end announces": (
        "openai_responses",
        responses({"type": "output_item.done", "output_index": 0, "item": {**CALL, "arguments": ""}}),
        ["{}"],
    ),
    "a call without arguments in the last object": (
        "openai_responses",
        responses(output=[{**CALL, "arguments": ""}]),
        ["{}"],
    ),
    "equal fragments of a server that counts no events": (
        "openai_responses",
        responses(*[{**HEL, "delta": "ha", "sequence_number": 1}] * 3),
        "hahaha",
    ),
    "a message behind the deltas": (
        "openai_chat",
        chat({"delta": {"content": "Hello."}}, {"message": {"content": "Hello."}}),
        "Hello.",
    ),
    "a message with the text behind reasoning": (
        "openai_chat",
        chat({"delta": {"reasoning_content": "Hm."}}, {"message": {"reasoning_content": "Hm.", "content": "Hello."}}),
        "Hello.",
    ),
    "more text in a message": (
        "openai_chat",
        chat({"delta": {"content": "Hel"}}, {"message": {"content": "Hello."}}),
        "Hello.",
    ),
    "other text in a message": (
        "openai_chat",
        chat({"delta": {"content": "Hi"}}, {"message": {"content": "Hello."}}),
        "Hi",
    ),
    "a fragment behind its message": (
        "openai_chat",
        chat({"delta": {"content": "Hel"}}, {"message": {"content": "Hello."}}, {"delta": {"content": "lo."}}),
        "Hello.",
    ),
    "more of a refusal in a message": (
        "openai_chat",
        chat({"delta": {"refusal": "Hel"}}, {"message": {"refusal": "Hello."}}),
        "Hello.",
    ),
    "reasoning in a message behind text": (
        "openai_chat",
        chat({"delta": {"content": "Hel"}}, {"message": {"reasoning_content": "Hm.", "content": "Hello."}}),
        "Hello.",
    ),
    "a call with another id in a message": (
        "openai_chat",
        chat(called("Read", WHOLE), in_message(called("Read", WHOLE, call_id="d"))),
        [WHOLE],
    ),
    "calls in another order in a message": (
        "openai_chat",
        chat(
            called("Read", '{"a"'),
            called("Write_File", "{}", index=1, call_id="d"),
            in_message(called("Write_File", "{}", call_id="d"), called("Read", WHOLE)),
        ),
        [WHOLE, "{}"],
    ),
    "a call twice in a message": (
        "openai_chat",
        chat(called("Read", '{"a"'), in_message(called("Read", WHOLE), called("Read", WHOLE))),
        [WHOLE],
    ),
    "a call that only the message has": (
        "openai_chat",
        chat(called("Read", WHOLE), in_message(called("Read", WHOLE), called("Write_File", "{}", call_id="d"))),
        [WHOLE, "{}"],
    ),
    "more arguments in a message, and a fragment behind it": (
        "openai_chat",
        chat(called("Read", '{"a"'), in_message(called("Read", WHOLE)), called(None, ": 1}", call_id=None)),
        [WHOLE],
    ),
    "a call behind its message": (
        "openai_chat",
        chat({**in_message(called("Read", WHOLE)), "finish_reason": "tool_calls"}, called("Read", WHOLE)),
        [WHOLE],
    ),
    "an id of a call that only a fragment behind its message has": (
        "openai_chat",
        chat(
            {**in_message(called("Read", WHOLE, index=None, call_id=None)), "finish_reason": "tool_calls"},
            called("Read", WHOLE),
        ),
        [WHOLE],
    ),
    "calls in another order behind their message": (
        "openai_chat",
        chat(
            called("Read", WHOLE),
            {
                **in_message(called("Write_File", "{}", index=None, call_id="d"), called("Read", WHOLE, index=None)),
                "finish_reason": "tool_calls",
            },
            called("Write_File", "{}", index=1, call_id="d"),
        ),
        [WHOLE, "{}"],
    ),
    "a call without an id behind its message": (
        "openai_chat",
        chat(
            {**in_message(called("Read", WHOLE, index=None, call_id=None)), "delta": {}},
            called("Read", WHOLE, call_id=None),
        ),
        [WHOLE],
    ),
    "joined arguments in a message": (
        "openai_chat",
        chat(called("Read", '{}{"a"'), in_message(called("Read", "{}" + WHOLE))),
        [WHOLE],
    ),
    "other arguments in a message": (
        "openai_chat",
        chat(called("Read", WHOLE), in_message(called("Read", '{"a":2}'))),
        OTHER_ARGUMENTS,
    ),
    "other arguments in a message behind text": (
        "openai_chat",
        chat(called("Read", WHOLE), {"delta": {"content": "Hi"}}, in_message(called("Read", '{"a":2}'))),
        OTHER_ARGUMENTS,
    ),
    "a longer call with another id in a message": (
        "openai_chat",
        chat(called("Read", '{"a"'), in_message(called("Read", WHOLE, call_id="d"))),
        OTHER_ARGUMENTS,
    ),
    "another name in a message": (
        "openai_chat",
        chat(called("Read", ""), in_message(called("Write_File", WHOLE))),
        OTHER_NAME,
    ),
    "messages instead of deltas": (
        "openai_chat",
        chat({"message": {"content": "Hel"}}, {"message": {"content": "lo."}}),
        "Hello.",
    ),
    "more text when the part ends": (
        "openai_responses",
        responses(HEL, {"type": "output_text.done", "output_index": 0, "text": "Hello."}),
        "Hello.",
    ),
    "more text in the part": (
        "openai_responses",
        responses(HEL, {"type": "content_part.done", "output_index": 0, "part": MESSAGE["content"][0]}),
        "Hello.",
    ),
    "more text in the item": (
        "openai_responses",
        responses(HEL, {"type": "output_item.done", "output_index": 0, "item": MESSAGE}),
        "Hello.",
    ),
    "more text at the end": ("openai_responses", responses(HEL, output=[MESSAGE]), "Hello."),
    "an empty item, and text at the end": (
        "openai_responses",
        responses(
            {"type": "output_item.done", "output_index": 0, "item": {"type": "message", "content": []}},
            output=[MESSAGE],
        ),
        "Hello.",
    ),
    "other text at the end": ("openai_responses", responses({**HEL, "delta": "Hi"}, output=[MESSAGE]), "Hi"),
    "the end of a text before its last fragment": (
        "openai_responses",
        responses(HEL, {"type": "output_text.done", "output_index": 0, "text": "Hello."}, {**HEL, "delta": "lo."}),
        "Hello.",
    ),
    "parts with one index": (
        "openai_responses",
        responses(
            {**HEL, "delta": "One."},
            {**HEL, "delta": "Two."},
            output=[{**MESSAGE, "content": [{"type": "output_text", "text": text} for text in ("One.", "Two.")]}],
        ),
        "One.Two.",
    ),
    "arguments in the announcement": (
        "openai_responses",
        responses({**BEGIN, "item": {**CALL, "arguments": WHOLE}}),
        [WHOLE],
    ),
    "arguments at the end": (
        "openai_responses",
        responses(
            BEGIN,
            {"type": "output_item.done", "output_index": 0, "item": {**CALL, "arguments": ""}},
            output=[{**CALL, "arguments": WHOLE}],
        ),
        [WHOLE],
    ),
    "more arguments when they end": (
        "openai_responses",
        responses(
            BEGIN,
            {"type": "function_call_arguments.delta", "output_index": 0, "delta": '{"a"'},
            {"type": "function_call_arguments.done", "output_index": 0, "arguments": WHOLE},
        ),
        [WHOLE],
    ),
    "fragments before the announcement": (
        "openai_responses",
        responses({"type": "function_call_arguments.delta", "output_index": 0, "delta": WHOLE}, BEGIN),
        [WHOLE],
    ),
    "the same arguments in another form": (
        "openai_responses",
        responses(
            BEGIN,
            {"type": "function_call_arguments.delta", "output_index": 0, "delta": WHOLE},
            output=[{**CALL, "arguments": '{"a":1}'}],
        ),
        [WHOLE],
    ),
    "an announcement without its index": (
        "openai_responses",
        responses(
            BEGIN,
            {"type": "output_item.done", "output_index": 0, "item": {**CALL, "arguments": WHOLE}},
            {"type": "output_item.added", "item": {**SECOND, "arguments": ""}},
            {"type": "function_call_arguments.delta", "output_index": 1, "delta": "{}"},
            {"type": "output_item.done", "output_index": 1, "item": {**SECOND, "arguments": "{}"}},
        ),
        [WHOLE, "{}"],
    ),
    "a final object without the reasoning": (
        "openai_responses",
        responses(
            {"type": "reasoning_summary_text.delta", "output_index": 0, "delta": "Hm."},
            {**BEGIN, "output_index": 1},
            {"type": "function_call_arguments.delta", "output_index": 1, "delta": WHOLE},
            {**HEL, "output_index": 2},
            output=[{**CALL, "arguments": WHOLE}, MESSAGE],
        ),
        [WHOLE],
    ),
    "a text in a final object without the reasoning": (
        "openai_responses",
        responses(
            {"type": "reasoning_summary_text.delta", "output_index": 0, "delta": "Hm."},
            {**HEL, "output_index": 1},
            output=[MESSAGE],
        ),
        "Hello.",
    ),
    "reasoning that only a final object has, before the text": (
        "openai_responses",
        responses(HEL, output=[{"type": "reasoning", "summary": [{"text": "Hm."}]}, MESSAGE]),
        "Hello.",
    ),
    "calls in another order at the end": (
        "openai_responses",
        responses(
            BEGIN,
            {"type": "function_call_arguments.delta", "output_index": 0, "delta": WHOLE},
            {**BEGIN, "output_index": 1, "item": {**SECOND, "arguments": ""}},
            {"type": "function_call_arguments.delta", "output_index": 1, "delta": "{}"},
            output=[{**SECOND, "arguments": "{}"}, {**CALL, "arguments": WHOLE}],
        ),
        [WHOLE, "{}"],
    ),
    "a call whose item has another id at the end": (
        "openai_responses",
        responses(
            {"type": "reasoning_summary_text.delta", "output_index": 0, "delta": "Hm."},
            {**BEGIN, "output_index": 1},
            {"type": "function_call_arguments.delta", "output_index": 1, "delta": WHOLE},
            output=[{**CALL, "id": "k", "arguments": WHOLE}],
        ),
        [WHOLE],
    ),
    "calls without ids": (
        "openai_responses",
        responses(
            {**BEGIN, "output_index": 1, "item": {**NAMELESS, "arguments": ""}},
            {"type": "function_call_arguments.delta", "output_index": 1, "delta": '{"a"'},
            output=[{**NAMELESS, "arguments": WHOLE}],
        ),
        [WHOLE],
    ),
    "a call twice at the end": (
        "openai_responses",
        responses(BEGIN, output=[{**CALL, "arguments": WHOLE}] * 2),
        [WHOLE],
    ),
    "calls of a server that gives all items one index": (
        "openai_responses",
        responses(
            BEGIN,
            {"type": "function_call_arguments.delta", "output_index": 0, "delta": WHOLE},
            {**BEGIN, "item": {**SECOND, "arguments": ""}},
            {"type": "function_call_arguments.delta", "output_index": 0, "delta": "{}"},
            output=[{**CALL, "arguments": WHOLE}, {**SECOND, "arguments": "{}"}],
        ),
        [WHOLE, "{}"],
    ),
    "complete calls of a server that gives all items one index": (
        "openai_responses",
        responses(
            {"type": "output_item.done", "output_index": 0, "item": {**CALL, "arguments": WHOLE}},
            {"type": "output_item.done", "output_index": 0, "item": {**SECOND, "arguments": "{}"}},
            output=[{**CALL, "arguments": WHOLE}, {**SECOND, "arguments": "{}"}],
        ),
        [WHOLE, "{}"],
    ),
    "an id of a call that only its end states": (
        "openai_responses",
        responses(
            {**BEGIN, "item": {**NAMELESS, "arguments": ""}},
            {"type": "output_item.done", "output_index": 0, "item": {**CALL, "arguments": WHOLE}},
        ),
        [WHOLE],
    ),
    "a call that only the end has": (
        "openai_responses",
        responses(
            BEGIN,
            {"type": "output_item.done", "output_index": 0, "item": {**CALL, "arguments": WHOLE}},
            {"type": "reasoning_summary_text.delta", "output_index": 1, "delta": "Hm."},
            {"type": "output_item.done", "output_index": 1, "item": {"type": "reasoning", "id": "r"}},
            output=[{**CALL, "arguments": WHOLE}, {**SECOND, "arguments": "{}"}],
        ),
        [WHOLE, "{}"],
    ),
    "an equal second part without fragments": (
        "openai_responses",
        responses(
            {**HEL, "content_index": 0, "delta": "Ha."},
            {"type": "output_text.done", "output_index": 0, "content_index": 0, "text": "Ha."},
            {"type": "output_text.done", "output_index": 0, "content_index": 1, "text": "Ha."},
        ),
        "Ha.Ha.",
    ),
    "an equal second part that only the item has": (
        "openai_responses",
        responses({**HEL, "delta": "Hello."}, output=[{**MESSAGE, "content": MESSAGE["content"] * 2}]),
        "Hello.Hello.",
    ),
    "a stream that ends as done": (
        "openai_responses",
        responses(HEL, output=[MESSAGE], end="done"),
        "Hello.",
    ),
    "whole arguments without their item": (
        "openai_responses",
        responses(
            BEGIN,
            {"type": "output_item.added", "output_index": 1, "item": {**SECOND, "arguments": ""}},
            {"type": "function_call_arguments.done", "arguments": WHOLE},
            {"type": "function_call_arguments.done", "arguments": '{"b": 2}'},
        ),
        [WHOLE, '{"b": 2}'],
    ),
    "whole arguments without their item, behind their fragments": (
        "openai_responses",
        responses(
            BEGIN,
            {"type": "function_call_arguments.delta", "item_id": "i", "delta": WHOLE},
            {"type": "output_item.added", "output_index": 1, "item": {**SECOND, "arguments": ""}},
            {"type": "function_call_arguments.delta", "item_id": "j", "delta": '{"b": 2}'},
            {"type": "function_call_arguments.done", "arguments": WHOLE},
            {"type": "function_call_arguments.done", "arguments": '{"b": 2}'},
        ),
        [WHOLE, '{"b": 2}'],
    ),
    "a call at the index of an open text, and its end at another": (
        "openai_responses",
        responses(
            {"type": "output_item.added", "output_index": 0, "item": {"type": "message", "id": "m", "content": []}},
            HEL,
            BEGIN,
            {"type": "function_call_arguments.delta", "output_index": 0, "item_id": "i", "delta": WHOLE},
            {"type": "output_item.done", "output_index": 0, "item": {**MESSAGE, "id": "m"}},
            {"type": "output_item.done", "output_index": 1, "item": {**CALL, "arguments": WHOLE}},
            output=[{**MESSAGE, "id": "m"}, {**CALL, "arguments": WHOLE}],
        ),
        [WHOLE],
    ),
    "arguments and end of a call at another index": (
        "openai_responses",
        responses(
            BEGIN,
            {"type": "function_call_arguments.delta", "output_index": 1, "delta": WHOLE},
            {"type": "output_item.done", "output_index": 1, "item": {**CALL, "arguments": WHOLE}},
            output=[{**CALL, "arguments": WHOLE}],
        ),
        [WHOLE],
    ),
    "a text at the index of an open call": (
        "openai_responses",
        responses(
            BEGIN,
            {"type": "output_item.added", "output_index": 0, "item": {"type": "message", "id": "m", "content": []}},
            {**HEL, "item_id": "m", "delta": "Hello."},
            {"type": "output_text.done", "output_index": 0, "item_id": "m", "text": "Hello."},
            {"type": "output_item.done", "output_index": 0, "item": {**MESSAGE, "id": "m"}},
            {"type": "output_item.done", "output_index": 0, "item": {**CALL, "arguments": "{}"}},
            output=[{**MESSAGE, "id": "m2"}, {**CALL, "id": "k", "arguments": "{}"}],
        ),
        ["{}"],
    ),
    "whole arguments without their item, behind a call without arguments": (
        "openai_responses",
        responses(
            BEGIN,
            {"type": "function_call_arguments.done", "output_index": 0, "arguments": ""},
            {"type": "output_item.added", "output_index": 1, "item": {**SECOND, "arguments": ""}},
            {"type": "function_call_arguments.delta", "output_index": 1, "delta": '{"b": 2}'},
            {"type": "function_call_arguments.done", "arguments": '{"b": 2}'},
        ),
        ["{}", '{"b": 2}'],
    ),
    "two whole texts with another index": (
        "openai_responses",
        responses(
            {**HEL, "content_index": 0, "delta": "Hello."},
            {"type": "output_text.done", "output_index": 0, "content_index": 1, "text": "Hello."},
            {"type": "content_part.done", "output_index": 0, "content_index": 1, "part": MESSAGE["content"][0]},
            output=[MESSAGE],
        ),
        "Hello.",
    ),
    "a call in pieces that is repeated whole": (
        "gemini",
        gemini(
            {"partialArgs": [{"jsonPath": "$.a", "numberValue": 1}], "willContinue": True},
            {"args": {"a": 1}},
        ),
        ['{"a":1}'],
    ),
    "a call in pieces that is completed whole": (
        "gemini",
        gemini({"partialArgs": [piece("a", "x")], "willContinue": True}, {"args": {"a": "xy", "b": 1}}),
        ['{"a":"xy","b":1}'],
    ),
    "a call in pieces that is completed without its name and with a new id": (
        "gemini",
        gemini(
            {"partialArgs": [piece("a", "x")], "willContinue": True}, {"name": None, "id": "d", "args": {"a": "xy"}}
        ),
        ['{"a":"xy"}'],
    ),
    "a call in pieces that is completed without ids": (
        "gemini",
        gemini({"id": None, "partialArgs": [piece("a", "x")], "willContinue": True}, {"id": None, "args": {"a": "xy"}}),
        ['{"a":"xy"}'],
    ),
    "a call that begins with arguments and goes on with pieces": (
        "gemini",
        gemini(
            {"args": {"a": "x"}, "willContinue": True},
            {"name": None, "id": None, "partialArgs": [piece("a", "y")], "willContinue": True},
            {"name": None, "id": None},
        ),
        ['{"a":"xy"}'],
    ),
    "growing arguments of an open call": (
        "gemini",
        gemini({"args": {"a": "x"}, "willContinue": True}, {"args": {"a": "xy"}}),
        ['{"a":"xy"}'],
    ),
    "two open calls whose pieces alternate": (
        "gemini",
        gemini(
            {"willContinue": True},
            {"name": "Write_File", "id": "d", "willContinue": True},
            {"name": None, "partialArgs": [piece("a", "x")], "willContinue": True},
            {"name": None, "id": "d", "partialArgs": [piece("b", "y")]},
            {"name": None},
        ),
        ['{"a":"x"}', '{"b":"y"}'],
    ),
    "a whole call while another one is open": (
        "gemini",
        gemini(
            {"partialArgs": [piece("a", "x")], "willContinue": True},
            {"name": "Write_File", "id": "d", "args": {"b": 1}},
            {"name": None, "partialArgs": [piece("a", "y")]},
        ),
        ['{"a":"xy"}', '{"b":1}'],
    ),
    "another call without ids ends the open one": (
        "gemini",
        gemini(
            {"id": None, "partialArgs": [piece("a", "x")], "willContinue": True},
            {"name": "Write_File", "id": None, "args": {"b": 1}},
        ),
        ['{"a":"x"}', '{"b":1}'],
    ),
    "an open call with whole arguments that is contradicted": (
        "gemini",
        gemini({"args": {"a": "x"}, "willContinue": True}, {"args": {"a": "z"}}),
        OTHER_ARGUMENTS,
    ),
    "an open call that is contradicted": (
        "gemini",
        gemini({"partialArgs": [piece("a", "x")], "willContinue": True}, {"args": {"a": "z"}}),
        OTHER_ARGUMENTS,
    ),
    "an open call that is contradicted without its name": (
        "gemini",
        gemini(
            {"partialArgs": [piece("a", "x")], "willContinue": True}, {"name": None, "id": None, "args": {"a": "z"}}
        ),
        OTHER_ARGUMENTS,
    ),
    "arguments without a name": (
        "gemini",
        gemini({"name": None, "args": {"a": 1}}),
        UpstreamProtocolError("somebody: a function call has arguments, but no name"),
    ),
    "a call whose members are in another order when it is repeated": (
        "gemini",
        gemini({"args": {"a": 1, "b": 2}}, {"args": {"b": 2, "a": 1}}),
        ['{"a":1,"b":2}'],
    ),
    "other arguments at the end": (
        "openai_responses",
        responses(
            BEGIN,
            {"type": "function_call_arguments.delta", "output_index": 0, "delta": WHOLE},
            output=[{**CALL, "arguments": '{"a":2}'}],
        ),
        OTHER_ARGUMENTS,
    ),
    "other arguments after the end of a call": (
        "openai_responses",
        responses(
            BEGIN,
            {"type": "output_item.done", "output_index": 0, "item": {**CALL, "arguments": WHOLE}},
            output=[{**CALL, "arguments": '{"a":2}'}],
        ),
        OTHER_ARGUMENTS,
    ),
    "a longer call with another id at the end": (
        "openai_responses",
        responses(
            BEGIN,
            {"type": "function_call_arguments.delta", "output_index": 0, "delta": '{"a"'},
            output=[{**CALL, "call_id": "d", "id": "k", "arguments": WHOLE}],
        ),
        OTHER_ARGUMENTS,
    ),
    "another name at the end": (
        "openai_responses",
        responses(BEGIN, output=[{**CALL, "name": "Write_File", "arguments": WHOLE}]),
        OTHER_NAME,
    ),
}


@in_one_test
@pytest.mark.parametrize(("wire", "frames", "expected"), FINAL_OBJECTS.values(), ids=FINAL_OBJECTS)
def test_what_a_final_object_has_beyond_the_fragments_is_delivered_once(
    wire: str, frames: list[Json], expected: Any
) -> None:
    """`expected`: the text, the arguments of the calls, or the error. A text before calls is `Hello.` or its part."""
    received = play(wire, frames)
    if isinstance(expected, Exception):
        assert str(received.error) == str(expected)
        return
    assert received.error is None
    calls = [arguments for _, arguments in received.calls]
    assert (calls or received.text) == expected
    assert received.text in ("", "Hel", "Hello.", expected)
    assert [name for name, _ in received.calls] == ["Read", "Write_File"][: len(calls)]


@pytest.mark.parametrize("seconds", ["0000", "0122"])
def test_equal_lines_of_an_ollama_server_are_all_text(seconds: str) -> None:
    """`seconds`: that of each line; a clock of milliseconds gives two lines the same time."""
    line = {"model": "m", "done": False}
    texts = zip(["a", "b", "b", "b"], seconds, strict=True)
    lines = [
        {**line, "created_at": f"2026-11-28T12:00:0{second}.123000Z", "message": {"role": "assistant", "content": text}}
        for text, second in texts
    ]
    end = {**lines[-1], "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"}
    received = play("ollama", [*lines, {**end, "prompt_eval_count": 3, "eval_count": 4}])
    assert (received.text, received.error) == ("abbb", None)
