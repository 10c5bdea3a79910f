"""Bytes sent to the client: frames, envelopes and headers, as the official SDK decodes them."""

import json
from typing import Any

import anthropic
import httpx2
import pytest

from anthropic_proxy.engine.exchange.client_side import (
    STREAM_HEADERS,
    encode_error,
    encode_events,
    error_headers,
    json_headers,
)
from anthropic_proxy.engine.messages.events import (
    ErrorEvent,
    Event,
    MessageStart,
    Ping,
    TextDelta,
    TextStart,
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
    UriTooLong,
)
from anthropic_proxy.gateway.error_catalog import error_help_headers

MESSAGE = MessagesResponse(
    id="msg_1",
    model="claude-test",
    content=[],
    stop_reason=None,
    usage=UsageBody(input_tokens=9, output_tokens_details={"thinking_tokens": 0}),
)


class TestOneLine:
    @pytest.mark.parametrize("text", ["\u2028", "\u2029", "\x85", "\r\n", "\x00\x1f\x7f", "漢😀"])
    def test_any_text_stays_in_its_frame_and_is_kept(self, text: str) -> None:
        frame = encode_events([TextDelta(0, text)])

        assert frame.count(b"\n") == 3
        assert b"\r" not in frame
        assert json.loads(frame.split(b"data: ")[1])["delta"]["text"] == text


class TestErrors:
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


def test_headers_of_answers() -> None:
    assert json_headers("req_1") == {"content-type": "application/json", "request-id": "req_1"}
    assert STREAM_HEADERS == {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
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
    client = client_for(200, {**STREAM_HEADERS, "request-id": "req_1"}, encode_events(events, "req_1"))

    with pytest.raises(anthropic.APIStatusError, match="x: full"), client.messages.stream(**ASK) as stream:
        stream.until_done()
