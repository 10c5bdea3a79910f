"""Token counts by a relay: successful responses that are invalid, and other unusable responses."""

import asyncio
import json
from collections.abc import Mapping

import pytest

from anthropic_proxy.engine.exchange.forwarding import count_tokens, list_models
from anthropic_proxy.engine.trace_context import TraceContext
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request
from tests.support.virtual_time import in_virtual_time

SETTINGS = {"PREFERRED_PROVIDER": "anthropic", "ANTHROPIC_API_KEY": "odd-key-0123456789abcdef"}
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "over odd-key-0123456789abcdef"}}


def proxy(*answers: bytes, **settings: str) -> ProxyHarness:
    """Return a proxy with an upstream that sends the same bytes to every client."""

    def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        if "openai" in base_url:
            body = {"choices": [{"message": {"role": "assistant", "content": "other"}, "finish_reason": "stop"}]}
            return FakeResponse(200, json.dumps(body).encode())
        return FakeResponse(200, *answers)

    return ProxyHarness(upstream, **{**SETTINGS, **settings})


async def test_an_error_event_without_a_type_is_an_error_and_goes_out_once() -> None:
    start = b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":1}}}\n\n'
    block = b'{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}'
    text = b"event: content_block_start\ndata: %b\n\n" % block
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
    somewhere.services.transports["litellm"] = somewhere.services.http  # type: ignore[index]
    sink = await somewhere.post()
    assert sink.error.message == "litellm: Unauthorized key …89ab"
    assert key not in sink.error.message + somewhere.log.getvalue()


@pytest.mark.parametrize("address", ["https://gateway.example", "https://gateway.example/v1"])
async def test_the_address_of_anthropic_may_contain_the_version_of_the_api(address: str) -> None:
    asked: list[str] = []

    def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        asked.append(base_url + request.path)
        return FakeResponse(200, b'{"data":[],"input_tokens":3,"type":"message","content":[],"stop_reason":"end_turn"}')

    somewhere = ProxyHarness(upstream, **SETTINGS, ANTHROPIC_UPSTREAM_URL=address)
    await somewhere.post(model="anthropic/claude-opus-5-5")
    body = json.dumps({"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": "hello"}]}).encode()
    for path, send in (("/v1/messages/count_tokens", count_tokens), ("/v1/models", list_models)):
        await send(somewhere.services, new_client_request(body, path=path), RecordingSink().wait_disconnected)
    paths = ("/v1/messages", "/v1/messages/count_tokens", "/v1/models")
    assert asked == [f"https://gateway.example{path}" for path in paths]


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
