"""The fold: equal to the message that the official SDK accumulates from the stream, also for invalid model output."""

import json
from collections.abc import Sequence
from typing import Any

import anthropic
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jiter import from_json

from anthropic_proxy.engine.exchange.client_side import encode_events, encode_message
from anthropic_proxy.engine.messages.deltas import (
    Delta,
    Stop,
    Text,
    ToolArgs,
    ToolCall,
)
from anthropic_proxy.engine.messages.fold import Fold
from anthropic_proxy.engine.messages.models import MessagesResponse
from anthropic_proxy.engine.messages.models.tool_arguments import build_arguments_object
from anthropic_proxy.engine.messages.writer import MessageWriter
from anthropic_proxy.errors import UpstreamProtocolError
from tests.support.delta_strategies import a_reply, cut_at, json_objects
from tests.support.fold import fold

NAMES: dict[str, Any] = {"message_id": "msg_1", "model": "claude-test", "signature": "px1.test.e30"}
ESTIMATE = 12


class Answers(httpx2.BaseTransport):
    """Answers every request with the bytes that it is given."""

    def __init__(self) -> None:
        self.body = b""
        self.content_type = ""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": self.content_type}, content=self.body)


class Sdk:
    """The official client, which decodes a reply in both forms."""

    def __init__(self) -> None:
        self._answers = Answers()
        self._client = anthropic.Anthropic(
            api_key="none", base_url="http://proxy.test", http_client=httpx2.Client(transport=self._answers)
        )
        self._ask: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}

    def accumulate(self, stream: bytes) -> dict[str, Any]:
        self._answers.body, self._answers.content_type = stream, "text/event-stream; charset=utf-8"
        with self._client.messages.stream(**self._ask) as events:
            return events.get_final_message().to_dict(mode="json", exclude_none=True)

    def read(self, body: bytes) -> dict[str, Any]:
        self._answers.body, self._answers.content_type = body, "application/json"
        return self._client.messages.create(**self._ask).to_dict(mode="json", exclude_none=True)


@pytest.fixture(scope="module")
def sdk() -> Sdk:
    return Sdk()


def streamed(deltas: Sequence[Delta]) -> bytes:
    writer = MessageWriter(**NAMES)
    return encode_events(writer.start(ESTIMATE) + writer.feed(deltas) + writer.finish())


def folded(*deltas: Delta) -> MessagesResponse:
    return fold(deltas, estimated_input_tokens=ESTIMATE, **NAMES)


def content(message: MessagesResponse) -> list[Any]:
    return [json.loads(bytes(block)) for block in message.content]


@given(reply=a_reply())
def test_a_whole_message_is_what_the_sdk_accumulates_from_the_stream(sdk: Sdk, reply: list[Delta]) -> None:
    assert sdk.read(encode_message(folded(*reply))) == sdk.accumulate(streamed(reply))


@given(reply=a_reply(), cuts=st.lists(st.integers(0, 60)))
def test_lists_as_the_network_brings_them_give_the_same(reply: list[Delta], cuts: list[int]) -> None:
    writer = MessageWriter(**NAMES)
    writer.start(ESTIMATE)
    piecemeal = Fold(writer)
    for deltas in cut_at(reply, cuts):
        piecemeal.feed(deltas)

    assert piecemeal.finish() == folded(*reply)


@given(value=json_objects, length=st.integers(0, 200), indent=st.sampled_from([None, 1]))
def test_a_call_that_the_limit_cut_is_what_the_sdk_accumulates(
    sdk: Sdk, value: dict[str, Any], length: int, indent: int | None
) -> None:
    cut = json.dumps(value, indent=indent)[:length]
    reply: list[Delta] = [ToolCall(0, "c", "read"), ToolArgs(0, cut), Stop("max_tokens")]

    assert sdk.read(encode_message(folded(*reply))) == sdk.accumulate(streamed(reply))


class TestContent:
    def test_arguments_pass_as_they_were_written(self) -> None:
        arguments = '{"b": 1.50, "a": 12345678901234567890, "b": "\\u00e9"}'

        message = folded(ToolCall(0, "c", "read"), ToolArgs(0, arguments), Stop("tool_use"))

        assert arguments.encode() in encode_message(message)


class TestArguments:
    @pytest.mark.parametrize(
        "text",
        [
            *("[1]", '"text"', "1", "no JSON", "{'a': 1}", '{"a":1,}', '{"a":NaN}', '{"a" 1', '{"a":[1}', '{"a":01'),
            *('{"a":tx', '{"a":"\\q', '{"a":"\x01"}', "{tru", "{,", '{"a":' * 100_000),
        ],
    )
    def test_what_is_no_object_is_shown_as_it_was(self, text: str) -> None:
        wrapped = json.loads(bytes(build_arguments_object(text)))

        assert wrapped == {"__unparsedToolInput": {"raw": text, "len": len(text)}}

    def test_half_of_a_surrogate_pair_leaves_an_object_one(self) -> None:
        assert bytes(build_arguments_object(r'{"\ud800":"a\udfff"}')) == rb'{"\ufffd":"a\ufffd"}'

    @pytest.mark.parametrize("text", ["[]", " [] ", '""', '"{}"', r'"{\u007d"', '"null"'])
    def test_what_means_no_arguments_is_an_empty_object(self, text: str) -> None:
        assert bytes(build_arguments_object(text)) == b"{}"

    def test_an_object_in_a_string_is_the_object(self) -> None:
        assert bytes(build_arguments_object(r'"{\"a\": \"\u00e9\"}"')) == '{"a": "é"}'.encode()

    def test_length_is_counted_as_the_client_counts_it(self) -> None:
        assert json.loads(bytes(build_arguments_object("😀")))["__unparsedToolInput"]["len"] == 2

    @given(value=json_objects, ascii_only=st.booleans())
    def test_every_beginning_of_an_object_reads_as_the_sdk_reads_it(
        self, value: dict[str, Any], ascii_only: bool
    ) -> None:
        text = json.dumps(value, ensure_ascii=ascii_only)
        for length in range(1, len(text) + 1):
            read = json.loads(bytes(build_arguments_object(text[:length])))
            assert read == from_json(text[:length].encode(), partial_mode=True)


def test_a_message_is_bounded() -> None:
    message = Fold(MessageWriter(message_id="msg_1", model="claude", signature="px1.x.e30"))
    message.feed([Text("x" * (1 << 20))] * 64)
    with pytest.raises(UpstreamProtocolError) as raised:
        message.feed([Text("x")])
    assert (str(raised.value), raised.value.retryable) == ("the reply is larger than 64 MiB", False)
