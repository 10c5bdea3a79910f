"""Chat Completions: OpenAI's own types, complete replies of providers, and a case for each quirk."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.engine.messages.deltas import Delta, Stop, Text, Thinking, ToolArgs, ToolCall, ToolEnd
from anthropic_proxy.engine.messages.models import decode_request
from anthropic_proxy.engine.messages.preparation import TargetLimits, prepare
from anthropic_proxy.engine.wires import openai_chat
from anthropic_proxy.engine.wires.contract import Call
from anthropic_proxy.engine.wires.framing import SSEReader
from anthropic_proxy.engine.wires.openai_chat.stream import REASONING_FIELDS, ChoiceDelta
from anthropic_proxy.engine.wires.tool_call_repair import OPENED_THINKING_TAGS
from anthropic_proxy.errors import UpstreamError
from tests.support.decoding import decode_whole
from tests.support.dialect_fields import changes_a_scenario, missing_proofs, proofs_of
from tests.support.fakes.openai_chat.models import find_model
from tests.support.fakes.openai_chat.rules import check_body
from tests.support.golden_runner import find_cases, read_fields
from tests.support.paths import ROOT

FOLDERS = find_cases("openai_chat")


def new_call(*tools: str, stream: bool = True, **dialect: Any) -> Call:
    body = {
        "model": "claude",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [{"name": name, "input_schema": {"type": "object"}} for name in tools],
    }
    prepared = prepare(decode_request(msgspec.json.encode(body)), TargetLimits())
    count = iter(range(1, 1_000_000))
    return Call(
        request=prepared.request,
        model="m",
        dialect=openai_chat.Dialect(**dialect),
        streams_upstream=stream,
        new_id=lambda prefix: f"{prefix}{next(count):022d}",
        provider="somebody",
    )


def decode_stream(body: bytes, call: Call) -> list[Delta]:
    decoder, reader = openai_chat.WIRE.new_decoder(call), SSEReader()
    deltas = [delta for frame in reader.feed(body) + reader.finish() for delta in decoder.decode_frame(frame)]
    return deltas + decoder.decode_end()


def frames(*chunks: Any) -> bytes:
    return b"".join(b"data: " + msgspec.json.encode(chunk) + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


def piece(finish: str | None = None, **delta: Any) -> Any:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


# OpenAI's own types


def openai_scenarios() -> Iterator[Any]:
    for folder in FOLDERS:
        fields = read_fields(folder)
        own_address = "OPENAI_BASE_URL" not in fields.get("settings", {})
        path = folder / "expected_upstream_request.json"
        if fields["provider"] == "openai" and own_address and path.exists():
            yield pytest.param(json.loads(path.read_text(encoding="utf-8"))["body"], id=folder.name)


@pytest.mark.parametrize("body", list(openai_scenarios()))
def test_openai_knows_every_field(body: Any) -> None:
    if (model := find_model(body["model"])) is not None:
        assert [breach for breach in check_body(body, model) if breach.rule != "image_format"] == []
    from openai.types.chat import ChatCompletionContentPartParam
    from openai.types.chat import completion_create_params as params

    for message in body["messages"]:
        if isinstance(message.get("content"), list):  # pydantic reads a list inside a choice of types only once
            for part in message["content"]:
                assert _understood(ChatCompletionContentPartParam, part) == part
            message["content"] = "parts"
    kind = params.CompletionCreateParamsStreaming if body.get("stream") else params.CompletionCreateParamsNonStreaming
    assert _understood(kind, body) == body, "a field that OpenAI's types do not know is lost on the way through them"


def _understood(kind: Any, value: Any) -> Any:
    from pydantic import TypeAdapter

    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    return json.loads(adapter.dump_json(adapter.validate_python(value)))


# Quirks


@pytest.mark.parametrize("field", openai_chat.Dialect.__annotations__)
def test_every_quirk_changes_a_scenario(field: str) -> None:
    learned = all(name.startswith("tests/") for name in proofs_of(openai_chat)[field])
    assert learned or changes_a_scenario(openai_chat, field), f"nothing changes when {field} is reset"


def test_what_quirks_name_as_proof_exists() -> None:
    assert missing_proofs(openai_chat) == {}


@pytest.mark.parametrize("field", REASONING_FIELDS)
def test_each_reasoning_field_of_the_struct_is_decoded_and_is_in_troubleshooting(field: str) -> None:
    stream = frames(piece(**{field: "It is A."}), piece("stop", content="A."))
    assert decode_stream(stream, new_call())[0] == Thinking("It is A.")
    assert not ChoiceDelta(**{field: "It is A."}).is_empty
    assert f"`{field}`" in (ROOT / "docs/guide/troubleshooting.md").read_text("utf-8")


FUNCTION_CALLS = [
    [{"name": "look", "arguments": '{"at": 1}'}],
    [{"name": "look", "arguments": ""}, {"arguments": '{"at"'}, {"arguments": ": 1}"}],
    [{"name": "look", "arguments": '{"at"'}, {"name": "look", "arguments": ": 1}"}],
    [{"name": "look", "arguments": {"at": 1}}],
]


@pytest.mark.parametrize("parts", FUNCTION_CALLS)
@pytest.mark.parametrize("in_both_fields", [False, True])
def test_a_call_in_the_deprecated_field_is_decoded(parts: list[Any], in_both_fields: bool) -> None:
    deltas: list[dict[str, Any]] = [{"function_call": part} for part in parts]
    if in_both_fields:  # llama-cpp-python
        deltas = [{**delta, "tool_calls": [{"index": 0, "function": delta["function_call"]}]} for delta in deltas]
    chunks = [piece(**delta) for delta in deltas]
    decoded = decode_stream(frames(*chunks, piece("function_call")), new_call("look"))
    assert called(decoded) == [("look", {"at": 1})]
    assert decoded[-1] == Stop("tool_use")


def test_a_complete_call_in_the_deprecated_field_is_decoded() -> None:
    message = {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": '{"at": 1}'}}
    decoded = decode_message(message, "function_call")
    assert called(decoded) == [("look", {"at": 1})]
    assert decoded[-1] == Stop("tool_use")


EMPTY_CALLS: list[dict[str, Any]] = [
    {},
    {"name": "", "arguments": ""},
    {"name": None, "arguments": None},
    {"name": None, "arguments": ""},
    {"name": None, "arguments": {}},
]


@pytest.mark.parametrize("empty", EMPTY_CALLS)
def test_an_empty_deprecated_field_is_no_call(empty: dict[str, Any]) -> None:
    chunks = [piece(content=text, function_call=empty) for text in ("Hel", "lo")]
    decoded = decode_stream(frames(*chunks, piece("stop", function_call=empty)), new_call("look"))
    assert decoded == [Text("Hel"), Text("lo"), Stop("end_turn")]
    message = {"role": "assistant", "content": "Hello", "function_call": empty}
    assert decode_message(message, "stop") == [Text("Hello"), Stop("end_turn")]


@pytest.mark.parametrize("empty", EMPTY_CALLS)
def test_an_empty_deprecated_field_beside_a_call_is_ignored(empty: dict[str, Any]) -> None:
    tool_calls = [{"index": 0, "id": "call_1", "function": {"name": "look", "arguments": '{"at": 1}'}}]
    chunks = [piece(tool_calls=tool_calls, function_call=empty), piece("tool_calls", function_call=empty)]
    assert called(decode_stream(frames(*chunks), new_call("look"))) == [("look", {"at": 1})]


EMPTY_ENTRIES: list[dict[str, Any]] = [
    {},
    {"index": 0},
    {"index": 0, "extra_content": None},
    *(
        {"index": 0, "id": call_id, "function": function}
        for call_id in (None, "", "call_1")
        for function in EMPTY_CALLS
    ),
    {"index": 0, "id": "call_1"},
    {"index": 0, "id": "call_1", "function": {"name": "", "arguments": " \n"}},
]


@pytest.mark.parametrize("tools", [("look",), ("look", "move")])
@pytest.mark.parametrize("repairs_names", [False, True])
@pytest.mark.parametrize("entry", EMPTY_ENTRIES)
def test_an_empty_entry_of_tool_calls_is_no_call(
    entry: dict[str, Any], repairs_names: bool, tools: tuple[str, ...]
) -> None:
    dialect = {"repairs_tool_names": repairs_names, "buffers_tool_arguments": repairs_names}
    chunks = [piece(content=text, tool_calls=[entry]) for text in ("Hel", "lo")]
    body = frames(*chunks, piece("stop", tool_calls=[entry]))
    assert decode_stream(body, new_call(*tools, **dialect)) == [Text("Hel"), Text("lo"), Stop("end_turn")]
    message = {"role": "assistant", "content": "Hello", "tool_calls": [entry]}
    decoded = decode_message(message, "stop", new_call(*tools, stream=False, **dialect))
    assert decoded == [Text("Hello"), Stop("end_turn")]


@pytest.mark.parametrize("entry", EMPTY_ENTRIES)
def test_an_empty_entry_of_tool_calls_beside_a_call_is_ignored(entry: dict[str, Any]) -> None:
    real = {"index": 0, "id": "call_1", "function": WHOLE_CALL}
    chunks = [
        piece(tool_calls=[entry]),
        piece(tool_calls=[entry, real, entry]),
        piece("tool_calls", tool_calls=[entry]),
    ]
    assert called(decode_stream(frames(*chunks), new_call("look"))) == [("look", {"at": 1})]


@pytest.mark.parametrize("entry", [entry for entry in EMPTY_ENTRIES if not entry.get("id")])
def test_an_empty_entry_of_tool_calls_does_not_hide_the_deprecated_field(entry: dict[str, Any]) -> None:
    chunks = [piece(tool_calls=[entry], function_call=part) for part in (BEGUN_CALL, ENDED_CALL)]
    decoded = decode_stream(frames(*chunks, piece("function_call", tool_calls=[entry])), new_call("look"))
    assert called(decoded) == [("look", {"at": 1})]
    assert decoded[-1] == Stop("tool_use")


@pytest.mark.parametrize("entry", EMPTY_ENTRIES)
def test_an_empty_entry_of_tool_calls_does_not_cut_a_text_in_a_repaired_reply(entry: dict[str, Any]) -> None:
    """A tag in two chunks is found although an empty entry comes with the first chunk."""
    call = new_call("look", thinking_tags=OPENED_THINKING_TAGS, repairs_tool_names=True, buffers_tool_arguments=True)
    parts = ["<thi", "nk>Hm</think>Hello"]
    entries = [] if entry.get("id") else [entry]
    body = frames(*(piece(content=text, tool_calls=entries) for text in parts), piece("stop"))
    assert decode_stream(body, call) == [Thinking("Hm"), Text("Hello"), Stop("end_turn")]


def test_a_call_that_gets_its_name_after_the_finish_reason_is_complete() -> None:
    chunks = [
        piece(content="Hello", tool_calls=[{"index": 0, "id": "call_1"}]),
        piece("stop"),
        piece(tool_calls=[{"index": 0, "id": "call_1", "function": WHOLE_CALL}]),
    ]
    assert called(decode_stream(frames(*chunks), new_call("look"))) == [("look", {"at": 1})]


def test_a_message_with_an_empty_entry_of_tool_calls_is_replaced_by_the_delta() -> None:
    choice = {"message": {"content": "", "tool_calls": [{}]}, "delta": {"content": "Hello"}, "finish_reason": "stop"}
    decoder = openai_chat.WIRE.new_decoder(new_call("look", stream=False))
    assert decode_whole(decoder, msgspec.json.encode({"choices": [choice]})) == [Text("Hello"), Stop("end_turn")]


def test_an_invalid_frame_after_the_finish_reason_does_not_undo_the_reply() -> None:
    begun = {"index": 0, "id": "call_1", "function": {"name": "look", "arguments": '{"at": 1'}}
    body = frames(piece(tool_calls=[begun]), piece("tool_calls")) + b"data: nonsense\n\n"
    decoded = decode_stream(body, new_call("look", buffers_tool_arguments=True))
    assert (called(decoded), decoded[-1]) == ([("look", {"at": 1})], Stop("tool_use"))


@pytest.mark.parametrize("tools", [("look",), ("look", "move")])
def test_an_unknown_finish_reason_after_an_empty_entry_is_a_normal_end(tools: tuple[str, ...]) -> None:
    chunks = [piece(content="Hello", tool_calls=[{"index": 0, "id": "call_1"}]), piece("done_for_today")]
    assert decode_stream(frames(*chunks), new_call(*tools)) == [Text("Hello"), Stop("end_turn")]


WHOLE_CALL = {"name": "look", "arguments": '{"at": 1}'}
BEGUN_CALL, ENDED_CALL = {"name": "look", "arguments": '{"at"'}, {"arguments": ": 1}"}


@pytest.mark.parametrize("call_id", [{}, {"id": "call_1"}])
@pytest.mark.parametrize(
    ("first_field", "fragments", "repeated"),
    [
        ("tool_calls", [WHOLE_CALL], WHOLE_CALL),
        ("tool_calls", [BEGUN_CALL, ENDED_CALL], WHOLE_CALL),
        ("tool_calls", [BEGUN_CALL, ENDED_CALL], ENDED_CALL),
        ("function_call", [WHOLE_CALL], WHOLE_CALL),
        ("function_call", [BEGUN_CALL, ENDED_CALL], WHOLE_CALL),
    ],
)
def test_a_call_that_the_other_field_repeats_is_one_call(
    first_field: str, fragments: list[Any], repeated: dict[str, Any], call_id: dict[str, str]
) -> None:
    def in_field(field: str, function: dict[str, Any]) -> dict[str, Any]:
        return {field: function if field == "function_call" else [{"index": 0, **call_id, "function": function}]}

    other = "function_call" if first_field == "tool_calls" else "tool_calls"
    chunks = [piece(**in_field(first_field, fragment)) for fragment in fragments]
    decoded = decode_stream(frames(*chunks, piece("tool_calls", **in_field(other, repeated))), new_call("look"))
    assert called(decoded) == [("look", {"at": 1})]
    assert decoded[-1] == Stop("tool_use")


def test_a_call_in_both_fields_of_a_complete_body_is_one_call() -> None:
    tool_calls = [{"id": "call_1", "type": "function", "function": WHOLE_CALL}]
    message = {"role": "assistant", "content": None, "tool_calls": tool_calls, "function_call": WHOLE_CALL}
    assert called(decode_message(message, "tool_calls")) == [("look", {"at": 1})]


def decode_message(message: dict[str, Any], finish: str, call: Call | None = None) -> list[Delta]:
    """Return the deltas of a complete body. `call`: None for a call with one tool."""
    body = {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}
    decoder = openai_chat.WIRE.new_decoder(call or new_call("look", stream=False))
    return decode_whole(decoder, msgspec.json.encode(body))


def called(deltas: list[Delta]) -> list[tuple[str, Any]]:
    """Return the name and the arguments of each complete call."""
    calls: dict[int | str, tuple[str, list[str]]] = {}
    for delta in deltas:
        if isinstance(delta, ToolCall):
            calls[delta.key] = (delta.name, [])
        elif isinstance(delta, ToolArgs):
            calls[delta.key][1].append(delta.json)
    assert [delta.key for delta in deltas if isinstance(delta, ToolEnd)] == [*calls]
    return [(name, json.loads("".join(arguments))) for name, arguments in calls.values()]


# Complete replies of providers


# Streams of any shape

TEXTS = st.text(min_size=1, max_size=8)


@given(st.lists(st.tuples(st.sampled_from(["content", "reasoning", "reasoning_content"]), TEXTS)))
def test_all_text_and_thinking_arrives_in_order(parts: list[tuple[str, str]]) -> None:
    deltas = decode_stream(frames(*(piece(**{name: text}) for name, text in parts), piece("stop")), new_call())
    received = [("content" if isinstance(delta, Text) else "thinking", delta.text) for delta in deltas[:-1]]
    assert received == [("content" if name == "content" else "thinking", text) for name, text in parts]


@given(
    calls=st.lists(
        st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=5), max_size=2), min_size=1, max_size=4
    ),
    size=st.integers(1, 6),
    order=st.randoms(use_true_random=False),
    in_turn=st.booleans(),
    has_ids=st.booleans(),
)
def test_arguments_survive_however_they_are_mixed(
    calls: list[dict[str, Any]], size: int, order: Any, in_turn: bool, has_ids: bool
) -> None:
    texts = [json.dumps(arguments) for arguments in calls]
    queues = [[text[at : at + size] for at in range(0, len(text), size)] for text in texts]
    chunks = []
    for index in range(len(queues)):
        first = {"index": index, "function": {"name": f"tool{index}", "arguments": ""}}
        chunks.append([{**first, "id": f"call_{index}"} if has_ids else first])
        if not in_turn:
            chunks += [[{"index": index, "function": {"arguments": text}}] for text in queues[index]]
            queues[index] = []
    while any(queues):
        index = order.choice([index for index, queue in enumerate(queues) if queue])
        chunks.append([{"index": index, "function": {"arguments": queues[index].pop(0)}}])
    deltas = decode_stream(frames(*(piece(tool_calls=one) for one in chunks), piece("tool_calls")), new_call())
    begun = [delta for delta in deltas if isinstance(delta, ToolCall)]
    assert [delta.name for delta in begun] == [f"tool{index}" for index in range(len(calls))]
    for call, text in zip(begun, texts, strict=True):
        assert "".join(delta.json for delta in deltas if isinstance(delta, ToolArgs) and delta.key == call.key) == text
        assert [type(delta) for delta in deltas if isinstance(delta, ToolEnd) and delta.key == call.key] == [ToolEnd]
    assert len({delta.id for delta in begun}) == len(calls)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("choices", "delta", "message", "content", "tool_calls", "function", "name", "arguments"),
                    *("index", "id", "usage", "error", "finish_reason", "reasoning", "reasoning_details"),
                    *("extra_content", "prompt_tokens"),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.lists(st.one_of(st.binary(max_size=30), JSON.map(msgspec.json.encode)), max_size=4))
def test_whatever_comes_is_read_or_refused(bodies: list[bytes]) -> None:
    call = new_call("a", replays_reasoning_details=True, thinking_tags=OPENED_THINKING_TAGS)
    for read in (openai_chat.WIRE.new_decoder(call).decode_frame, openai_chat.WIRE.new_decoder(call).decode_body):
        try:
            for body in bodies:
                read(body)
        except UpstreamError:
            continue


@given(st.text(max_size=30), st.lists(st.integers(0, 60), max_size=6))
def test_think_tags_are_found_at_any_cut(text: str, points: list[int]) -> None:
    thought = text.replace("<", "")
    whole = f"<think>{thought}</think>\n\nThe answer."
    edges = sorted({0, len(whole), *(point % len(whole) for point in points)})
    parts = [whole[start:end] for start, end in itertools.pairwise(edges)]
    deltas = decode_stream(
        frames(*(piece(content=part) for part in parts), piece("stop")), new_call(thinking_tags=OPENED_THINKING_TAGS)
    )
    expected = thought if thought.strip() else ""  # line breaks alone are no reasoning
    assert "".join(delta.text for delta in deltas if isinstance(delta, Thinking)) == expected
    assert "".join(delta.text for delta in deltas if isinstance(delta, Text)) == "The answer."


@pytest.mark.parametrize(
    "error",
    [
        {"object": "error", "message": "Context size has been exceeded.", "type": "BadRequestError", "code": 400},
        {"message": "The model is overloaded", "code": 503},
    ],
)
def test_an_error_in_its_own_frame_is_reported(error: dict[str, Any]) -> None:
    decoder = openai_chat.WIRE.new_decoder(new_call())
    assert decoder.decode_frame(json.dumps({"object": "x", "message": "y"}).encode()) == []
    with pytest.raises(UpstreamError):
        decoder.decode_frame(json.dumps(error).encode())
