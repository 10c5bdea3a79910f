"""Handling by a relay of a success that is none, and of whatever else is no reply."""

import json
from collections.abc import Mapping

import pytest

from anthropic_proxy.exchange.client_request import ClientRequest
from anthropic_proxy.exchange.forwarding import count_tokens
from anthropic_proxy.plugins import Client
from anthropic_proxy.wire.contract import Credential, UpstreamRequest
from tests.support.harness import FakeResponse, ProxyHarness

SETTINGS = {"PREFERRED_PROVIDER": "anthropic", "ANTHROPIC_API_KEY": "odd-key-0123456789abcdef"}
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "over odd-key-0123456789abcdef"}}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5",
    "content": [{"type": "text", "text": "well"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 3, "output_tokens": 1},
}


def town(*answers: bytes, **settings: str) -> ProxyHarness:
    """Return a house with an upstream that sends the same bytes to every client."""

    def street(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        if "openai" in base_url:
            body = {"choices": [{"message": {"role": "assistant", "content": "other"}, "finish_reason": "stop"}]}
            return FakeResponse(200, json.dumps(body).encode())
        return FakeResponse(200, *answers)

    return ProxyHarness(street, **{**SETTINGS, **settings})


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_inside_a_success_is_a_status_without_the_key(stream: bool) -> None:
    somewhere = town(json.dumps(OVERLOADED).encode())
    keeper = await somewhere.ask(stream=stream)
    assert keeper.error is not None
    assert keeper.error.status == 529
    assert keeper.stream == b""
    assert "odd-key-0123456789" not in keeper.error.message + str(getattr(keeper.error, "body", b""))
    assert "odd-key-0123456789" not in somewhere.log.getvalue()


async def test_an_error_inside_a_success_falls_back() -> None:
    keeper = await town(
        json.dumps(OVERLOADED).encode(), OPENAI_API_KEY="sk-test-0123456789", FALLBACK_SONNET="openai/gpt-4.1"
    ).ask()
    assert keeper.error is None
    assert keeper.body["content"] == [{"type": "text", "text": "other"}]


@pytest.mark.parametrize("body", [b"", b'{"id":"m","content":[{"ty', b"event: ping\ndata: {}\n\n", b"[]"])
async def test_what_is_no_message_is_no_success(body: bytes) -> None:
    keeper = await town(body).ask()
    assert keeper.error is not None
    assert keeper.error.status == 502


async def test_an_error_with_an_odd_reason_to_stop_is_an_error() -> None:
    keeper = await town(json.dumps({**OVERLOADED, "stop_reason": 5}).encode()).ask()
    assert keeper.error is not None
    assert keeper.error.status == 529


@pytest.mark.parametrize("kind", [None, 7, [], {"a": 1}])
async def test_a_reply_of_an_odd_type_is_counted_and_its_end_known(kind: object) -> None:
    somewhere = town(json.dumps({**MESSAGE, "type": kind}).encode())
    keeper = await somewhere.ask()
    assert json.loads(keeper.stream)["type"] == kind
    (receipt,) = somewhere.receipts
    assert (receipt.input_tokens, receipt.output_tokens, receipt.outcome) == (3, 1, "end_turn")


async def test_a_whole_reply_to_a_stream_is_told_once() -> None:
    somewhere = town(json.dumps(MESSAGE).encode())
    keeper = await somewhere.ask(stream=True)
    assert keeper.error is not None
    assert keeper.error.status == 502
    assert keeper.error.message == "anthropic: the reply was not streamed although a stream was requested"
    assert somewhere.receipts[0].failed_attempts == []


async def test_an_error_event_without_a_type_is_an_error_and_goes_out_once() -> None:
    start = b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":1}}}\n\n'
    text = b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{}}\n\n'
    boom = b'event: error\ndata: {"error":{"message":"boom","code":503}}\n\n'
    keeper = await town(start + text, boom).ask(stream=True)
    assert keeper.stream.count(b"event: error") == 1
    first = await town(boom).ask(stream=True)
    assert first.error is not None
    assert first.error.status == 503


@pytest.mark.parametrize("answer", [b"<html>x", b'{"error":"Unexpected endpoint"}', b'{"input_tokens":"many"}'])
async def test_a_count_that_is_none_is_estimated_here(answer: bytes) -> None:
    body: Mapping[str, object] = {"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": "hello"}]}
    inbound = ClientRequest(
        request_id="req_test",
        client=Client(),
        headers={},
        body=json.dumps(body).encode(),
        path="/v1/messages/count_tokens",
    )
    told = await count_tokens(town(answer).house, inbound)
    assert json.loads(told.body)["input_tokens"] > 0


async def test_keys_that_an_engine_finds_itself_are_taken_out_of_its_errors() -> None:
    key = "Zq9ProviderSecretKey0123456789ab"

    def street(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        error = {"message": f"Unauthorized key {key}", "type": "x", "code": None}
        return FakeResponse(401, json.dumps({"error": error}).encode())

    somewhere = ProxyHarness(
        street, BIG_MODEL="mistral/mistral-large-latest", MISTRAL_API_KEY=key, OPENAI_API_KEY="sk-a-0123456789"
    )
    somewhere.house.transports["litellm"] = somewhere.house.transports["http"]  # type: ignore[index]
    keeper = await somewhere.ask()
    assert keeper.error is not None
    assert keeper.error.message == "litellm: Unauthorized key …89ab"
    assert key not in keeper.error.message + somewhere.log.getvalue()
