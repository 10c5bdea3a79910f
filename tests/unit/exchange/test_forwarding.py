"""Token counts by a relay: successful responses that are invalid, and other unusable responses."""

import asyncio
import json
from collections.abc import Mapping

import pytest

from anthropic_proxy.engine.exchange.forwarding import count_tokens, list_models
from anthropic_proxy.engine.trace_context import TraceContext
from anthropic_proxy.engine.wires.contract import Credential, UpstreamRequest
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request
from tests.support.virtual_time import in_virtual_time

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


def proxy(*answers: bytes, **settings: str) -> ProxyHarness:
    """Return a proxy with an upstream that sends the same bytes to every client."""

    def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        if "openai" in base_url:
            body = {"choices": [{"message": {"role": "assistant", "content": "other"}, "finish_reason": "stop"}]}
            return FakeResponse(200, json.dumps(body).encode())
        return FakeResponse(200, *answers)

    return ProxyHarness(upstream, **{**SETTINGS, **settings})


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_inside_a_success_is_a_status_without_the_key(stream: bool) -> None:
    somewhere = proxy(json.dumps(OVERLOADED).encode())
    sink = await somewhere.post(stream=stream)
    assert sink.error.status == 529
    assert sink.stream == b""
    assert "odd-key-0123456789" not in sink.error.message + str(getattr(sink.error, "body", b""))
    assert "odd-key-0123456789" not in somewhere.log.getvalue()


async def test_an_error_inside_a_success_falls_back() -> None:
    sink = await proxy(
        json.dumps(OVERLOADED).encode(), OPENAI_API_KEY="sk-test-0123456789", FALLBACK_SONNET="openai/gpt-4.1"
    ).post()
    assert sink.error is None
    assert sink.body["content"] == [{"type": "text", "text": "other"}]


@pytest.mark.parametrize("body", [b"", b'{"id":"m","content":[{"ty', b"event: ping\ndata: {}\n\n", b"[]"])
async def test_what_is_no_message_is_no_success(body: bytes) -> None:
    sink = await proxy(body).post()
    assert sink.error.status == 502


async def test_an_error_with_an_odd_reason_to_stop_is_an_error() -> None:
    sink = await proxy(json.dumps({**OVERLOADED, "stop_reason": 5}).encode()).post()
    assert sink.error.status == 529


@pytest.mark.parametrize("kind", [None, 7, [], {"a": 1}])
async def test_a_reply_of_an_odd_type_is_counted_and_its_end_known(kind: object) -> None:
    somewhere = proxy(json.dumps({**MESSAGE, "type": kind}).encode())
    sink = await somewhere.post()
    assert json.loads(sink.stream)["type"] == kind
    (receipt,) = somewhere.receipts
    assert (receipt.input_tokens, receipt.output_tokens, receipt.outcome) == (3, 1, "end_turn")


async def test_a_whole_reply_to_a_stream_is_noted_once() -> None:
    somewhere = proxy(json.dumps(MESSAGE).encode())
    sink = await somewhere.post(stream=True)
    assert sink.error.status == 502
    assert sink.error.message == "anthropic: the reply was not streamed although a stream was requested"
    assert somewhere.receipts[0].failed_attempts == []


async def test_an_error_event_without_a_type_is_an_error_and_goes_out_once() -> None:
    start = b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":1}}}\n\n'
    text = b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{}}\n\n'
    boom = b'event: error\ndata: {"error":{"message":"boom","code":503}}\n\n'
    sink = await proxy(start + text, boom).post(stream=True)
    assert sink.stream.count(b"event: error") == 1
    first = await proxy(boom).post(stream=True)
    assert first.error.status == 503


async def test_keys_found_by_an_engine_are_removed_from_its_errors() -> None:
    key = "Zq9ProviderSecretKey0123456789ab"

    def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        error = {"message": f"Unauthorized key {key}", "type": "x", "code": None}
        return FakeResponse(401, json.dumps({"error": error}).encode())

    somewhere = ProxyHarness(
        upstream, BIG_MODEL="mistral/mistral-large-latest", MISTRAL_API_KEY=key, OPENAI_API_KEY="sk-a-0123456789"
    )
    somewhere.services.transports["litellm"] = somewhere.services.transports["http"]  # type: ignore[index]
    sink = await somewhere.post()
    assert sink.error.message == "litellm: Unauthorized key …89ab"
    assert key not in sink.error.message + somewhere.log.getvalue()


TRACE = TraceContext(trace_id="4bf92f3577b34da6a3ce929d0e0e4736", span_id="b7ad6b7169203331", flags="01")


@pytest.mark.parametrize(
    ("path", "status", "answer", "error"),
    [
        ("/v1/messages/count_tokens", 200, {"input_tokens": 3}, ("", "")),
        ("/v1/messages/count_tokens", 529, OVERLOADED, ("overloaded_error", "anthropic: over …cdef")),
        ("/v1/models", 200, {"data": []}, ("", "")),
    ],
)
async def test_token_counts_and_model_lists_are_attempts_of_their_trace(
    path: str, status: int, answer: Mapping[str, object], error: tuple[str, str]
) -> None:
    sent: list[UpstreamRequest] = []

    def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        sent.append(request)
        return FakeResponse(status, json.dumps(answer).encode())

    services = ProxyHarness(upstream, **SETTINGS).services
    body = json.dumps({"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": "hello"}]}).encode()
    incoming = new_client_request(body, path=path, trace=TRACE)
    await (list_models if path == "/v1/models" else count_tokens)(services, incoming, RecordingSink().wait_disconnected)
    (attempt,) = incoming.receipt.attempts
    assert (attempt.provider, attempt.status, attempt.error_type, attempt.error) == ("anthropic", status, *error)
    assert sent[0].trace_headers["traceparent"] == f"00-{TRACE.trace_id}-{attempt.span_id}-01"


@in_virtual_time
async def test_a_slow_error_body_does_not_prolong_the_time_for_a_token_count() -> None:
    class Slow(FakeResponse):
        async def read(self) -> bytes:
            await asyncio.sleep(6)
            return await super().read()

    somewhere = ProxyHarness(lambda *_: Slow(500, *[b" "] * 9), **SETTINGS)
    body = json.dumps({"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": "hello"}]}).encode()
    incoming = new_client_request(body, path="/v1/messages/count_tokens")
    counted_reply = await count_tokens(somewhere.services, incoming, RecordingSink().wait_disconnected)
    assert json.loads(counted_reply.body)["input_tokens"] > 0
    assert asyncio.get_running_loop().time() == pytest.approx(10)
    assert "estimated by the proxy, because anthropic did not answer within 10 s" in somewhere.log.getvalue()
