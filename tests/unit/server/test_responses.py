"""Bytes sent to the client: frames, envelopes and headers, as the official SDK decodes them."""

import json
from typing import Any

import anthropic
import httpx2
import pytest
from msgspec import UNSET, Raw

from anthropic_proxy.engine.exchange.responses import (
    encode_error,
    encode_events,
    encode_message,
    error_headers,
    json_headers,
    stream_headers,
)
from anthropic_proxy.engine.messages.events import (
    BlockStart,
    BlockStop,
    CitationDelta,
    ErrorEvent,
    Event,
    InputDelta,
    MessageDelta,
    MessageStart,
    MessageStop,
    Ping,
    SignatureDelta,
    TextDelta,
    TextStart,
    ThinkingDelta,
    ThinkingStart,
    ToolCallStart,
)
from anthropic_proxy.engine.messages.models import MessagesResponse, UsageBody
from anthropic_proxy.errors import (
    InternalError,
    InvalidRequest,
    LimitReached,
    PermissionDenied,
    ProxyError,
    UpstreamOverloaded,
    UpstreamRefused,
    UpstreamTimeout,
    UriTooLong,
)
from anthropic_proxy.gateway.error_catalog import error_help_headers

TOTALS = UsageBody(
    input_tokens=6,
    cache_creation_input_tokens=1,
    cache_read_input_tokens=64,
    output_tokens=30,
    output_tokens_details={"thinking_tokens": 12},
    server_tool_use=UNSET,
    service_tier=UNSET,
)
USAGE = (
    '{"input_tokens":6,"cache_creation_input_tokens":1,"cache_read_input_tokens":64,"output_tokens":30,'
    '"output_tokens_details":{"thinking_tokens":12}}'
)
MESSAGE = MessagesResponse(
    id="msg_1", model="claude-test", content=[], stop_reason=None, usage=UsageBody(input_tokens=9)
)

FRAMES: list[tuple[Event, str, str]] = [
    (
        MessageStart(MESSAGE),
        "message_start",
        '"message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-test","content":[],'
        '"stop_reason":null,"stop_sequence":null,"stop_details":null,"usage":{"input_tokens":9,'
        '"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":0,'
        '"output_tokens_details":{"thinking_tokens":0},"service_tier":"standard"}}',
    ),
    (Ping(), "ping", ""),
    (TextStart(0), "content_block_start", '"index":0,"content_block":{"type":"text","text":""}'),
    (
        ThinkingStart(1),
        "content_block_start",
        '"index":1,"content_block":{"type":"thinking","thinking":"","signature":""}',
    ),
    (
        ToolCallStart(2, "toolu_1", "read"),
        "content_block_start",
        '"index":2,"content_block":{"type":"tool_use","id":"toolu_1","name":"read","input":{}}',
    ),
    (BlockStart(3, Raw(b'{"type":"later"}')), "content_block_start", '"index":3,"content_block":{"type":"later"}'),
    (TextDelta(0, 'a"b\n'), "content_block_delta", r'"index":0,"delta":{"type":"text_delta","text":"a\"b\n"}'),
    (
        CitationDelta(0, Raw(b'{"cited_text":"c"}')),
        "content_block_delta",
        '"index":0,"delta":{"type":"citations_delta","citation":{"cited_text":"c"}}',
    ),
    (ThinkingDelta(1, "hm"), "content_block_delta", '"index":1,"delta":{"type":"thinking_delta","thinking":"hm"}'),
    (SignatureDelta(1, "s"), "content_block_delta", '"index":1,"delta":{"type":"signature_delta","signature":"s"}'),
    (
        InputDelta(12, '{"p":'),
        "content_block_delta",
        r'"index":12,"delta":{"type":"input_json_delta","partial_json":"{\"p\":"}',
    ),
    (BlockStop(12), "content_block_stop", '"index":12'),
    (
        MessageDelta("end_turn", None, None, TOTALS),
        "message_delta",
        '"delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":' + USAGE,
    ),
    (
        MessageDelta("refusal", None, {"type": "refusal", "category": None}, TOTALS),
        "message_delta",
        '"delta":{"stop_reason":"refusal","stop_sequence":null,"stop_details":{"type":"refusal","category":null}},'
        '"usage":' + USAGE,
    ),
    (MessageStop(), "message_stop", ""),
    (
        ErrorEvent(UpstreamTimeout("openai was silent")),
        "error",
        '"error":{"type":"timeout_error","message":"openai was silent"},"request_id":"req_1"',
    ),
]


@pytest.mark.parametrize(("event", "name", "data"), FRAMES, ids=[type(event).__name__ for event, _, _ in FRAMES])
def test_an_event_is_one_frame(event: Event, name: str, data: str) -> None:
    expected = f'event: {name}\ndata: {{"type":"{name}"{"," if data else ""}{data}}}\n\n'

    assert encode_events([event], "req_1").decode() == expected


def test_many_events_are_one_piece() -> None:
    events = [event for event, _, _ in FRAMES]

    assert encode_events(events, "req_1") == b"".join(encode_events([event], "req_1") for event in events)
    assert encode_events([]) == b""


class TestOneLine:
    @pytest.mark.parametrize("text", ["\u2028", "\u2029", "\x85", "\r\n", "\x00\x1f\x7f", "漢😀"])
    def test_any_text_stays_in_its_frame_and_is_kept(self, text: str) -> None:
        frame = encode_events([TextDelta(0, text)])

        assert frame.count(b"\n") == 3
        assert b"\r" not in frame
        assert json.loads(frame.split(b"data: ")[1])["delta"]["text"] == text

    @pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
    def test_so_does_a_block_that_came_on_many_lines(self, end: bytes) -> None:
        raw = Raw(b'{"type":"later",' + end + b' "text":"a\\nb"}')

        for event in (BlockStart(0, raw), CitationDelta(0, raw)):
            frame = encode_events([event])
            assert frame.count(b"\n") == 3
            assert b"\r" not in frame
            assert b'"a\\nb"' in frame

    @pytest.mark.parametrize(
        "event", [TextDelta(0, "é\ud83d"), InputDelta(0, "\ude00é"), ToolCallStart(0, "\ud83d", "é")]
    )
    def test_half_a_character_becomes_one_that_can_be_sent(self, event: Event) -> None:
        frame = encode_events([TextDelta(0, "kept é😀"), event]).decode()

        assert "kept é😀" in frame
        assert "\ufffd" in frame
        assert "é" in frame


class TestErrors:
    def test_the_envelope_names_kind_message_and_request(self) -> None:
        assert json.loads(encode_error(InvalidRequest("max_tokens: Field required"), "req_1")) == {
            "type": "error",
            "error": {"type": "invalid_request_error", "message": "max_tokens: Field required"},
            "request_id": "req_1",
        }

    def test_details_are_sent_if_there_are_any(self) -> None:
        error = InvalidRequest("no threads", details={"error_code": "thread_unsupported_request"})

        assert json.loads(encode_error(error, "req_1"))["error"]["details"] == error.details

    def test_a_message_that_cannot_be_encoded_is_mended(self) -> None:
        assert json.loads(encode_error(InternalError("half \ud83d"), "req_1"))["error"]["message"] == "half \ufffd"

    @pytest.mark.parametrize(("seconds", "header"), [(0, "1"), (0.2, "1"), (1.0, "1"), (11.01, "12"), (1e6, "3600")])
    def test_the_wait_is_in_whole_seconds(self, seconds: float, header: str) -> None:
        assert error_headers(LimitReached("slow down", retry_after=seconds), "req_1")["retry-after"] == header

    def test_headers_contain_only_known_values(self) -> None:
        assert error_headers(InternalError("bug"), "req_1") == {
            "content-type": "application/json",
            "request-id": "req_1",
        }
        assert error_headers(LimitReached("no", should_retry=False), "req_1")["x-should-retry"] == "false"
        assert error_headers(LimitReached("no", should_retry=True), "req_1")["x-should-retry"] == "true"

    def test_the_help_header_names_an_entry_or_a_section_of_the_error_catalog(self) -> None:
        class TooManyTokens(LimitReached):
            """An error of a plugin."""

        class TooSad(PermissionDenied):
            """An error of a plugin whose base class has several entries."""

        assert error_help_headers(UriTooLong("long")) == {"x-proxy-help": "/help/errors#address-too-long"}
        assert error_help_headers(TooManyTokens("no")) == {"x-proxy-help": "/help/errors#plugin-limit"}
        assert error_help_headers(TooSad("no")) == {"x-proxy-help": "/help/errors#permission-denied"}


def test_a_message_is_one_object() -> None:
    message = MessagesResponse(
        id="msg_1", model="m", content=[Raw(b'{"type":"text","text":"a"}')], stop_reason="end_turn", usage=UsageBody()
    )

    assert list(json.loads(encode_message(message))) == [
        "id",
        "type",
        "role",
        "model",
        "content",
        "stop_reason",
        "stop_sequence",
        "stop_details",
        "usage",
    ]


def test_headers_of_answers() -> None:
    assert json_headers("req_1") == {"content-type": "application/json", "request-id": "req_1"}
    assert stream_headers("req_1") == {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
        "request-id": "req_1",
    }


def client_for(status: int, headers: dict[str, str], content: bytes) -> anthropic.Anthropic:
    answer = httpx2.MockTransport(lambda request: httpx2.Response(status, headers=headers, content=content))
    return anthropic.Anthropic(
        api_key="none", base_url="http://proxy.test", max_retries=0, http_client=httpx2.Client(transport=answer)
    )


ASK: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (InvalidRequest("x"), anthropic.BadRequestError),
        (LimitReached("x", retry_after=2), anthropic.RateLimitError),
        (UpstreamRefused("x", status=401, kind="authentication_error"), anthropic.AuthenticationError),
        (UpstreamOverloaded("x"), anthropic.InternalServerError),
    ],
)
def test_the_sdk_knows_a_refusal(error: ProxyError, raised: type[anthropic.APIStatusError]) -> None:
    client = client_for(error.status, error_headers(error, "req_1"), encode_error(error, "req_1"))

    with pytest.raises(raised) as caught:
        client.messages.create(**ASK)

    assert caught.value.request_id == "req_1"
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"] == {"type": error.error_type, "message": "x"}


def test_the_sdk_knows_an_error_in_a_stream() -> None:
    events: list[Event] = [MessageStart(MESSAGE), Ping(), TextStart(0), ErrorEvent(UpstreamOverloaded("x: full"))]
    client = client_for(200, stream_headers("req_1"), encode_events(events, "req_1"))

    with pytest.raises(anthropic.APIStatusError, match="x: full"), client.messages.stream(**ASK) as stream:
        stream.until_done()
