"""Chat Completions: OpenAI's own types, complete replies of providers, and a case for each quirk."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.engine.messages.deltas import Delta, Text, Thinking, ToolArgs, ToolCall, ToolEnd
from anthropic_proxy.engine.wires import openai_chat
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.openai_chat.reply import REASONING_FIELDS, ChoiceDelta
from anthropic_proxy.engine.wires.tool_call_repair import OPENED_THINKING_TAGS
from anthropic_proxy.errors import UpstreamError
from tests.support import decoding
from tests.support.dialect_fields import changes_a_scenario, missing_proofs, proofs_of
from tests.support.fakes.declared_types import understood
from tests.support.fakes.openai_chat.models import find_model
from tests.support.fakes.openai_chat.rules import check_body
from tests.support.golden_runner import find_cases, read_fields
from tests.support.paths import ROOT

FOLDERS = find_cases("openai_chat")


def new_call(*tools: str, **dialect: Any) -> TranslatedCall:
    return decoding.new_call(openai_chat, tools=decoding.functions(*tools), dialect=dialect)


def decode_stream(body: bytes, call: TranslatedCall) -> list[Delta]:
    return decoding.decode_stream(openai_chat, body, call)


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
                assert understood(ChatCompletionContentPartParam, part) == part
            message["content"] = "parts"
    kind = params.CompletionCreateParamsStreaming if body.get("stream") else params.CompletionCreateParamsNonStreaming
    assert understood(kind, body) == body, "a field that OpenAI's types do not know is lost on the way through them"


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


def deliver_text(text: str, points: list[int], finish: str = "stop") -> str:
    """Return the text of a streamed reply for a client that requested JSON."""
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    call = decoding.new_call(openai_chat, output_config={"format": {"type": "json_schema", "schema": schema}})
    edges = sorted({0, len(text), *(point % (len(text) or 1) for point in points)})
    pieces = [piece(content=text[start:end]) for start, end in itertools.pairwise(edges)]
    deltas = decode_stream(frames(*pieces, piece(finish)), call)
    return "".join(delta.text for delta in deltas if isinstance(delta, Text))


@given(st.dictionaries(st.just("a"), st.text(max_size=20)), st.sampled_from(["", "json", "JSON"]), st.data())
def test_a_fence_around_the_requested_json_is_removed_at_any_cut(
    value: dict[str, str], language: str, data: st.DataObject
) -> None:
    written = json.dumps(value)
    points = data.draw(st.lists(st.integers(0, 60), max_size=6))
    assert deliver_text(f"\n```{language}\n{written}\n```\n", points) == written
    assert deliver_text(written, points) == written


@pytest.mark.parametrize(
    "text", ["", "``", "```", "``` is a fence", "No JSON.", '```json\n{"a": "cut', 'Here: ```json\n{"a": "b"}\n```']
)
def test_other_text_of_a_reply_with_a_schema_stays(text: str) -> None:
    assert deliver_text(text, [1, 2, 9]) == text
    assert deliver_text(text, [], finish="length") == text


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
