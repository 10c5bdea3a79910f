"""Batches, files and skills: statuses, time limits, and other work during the encoding of a batch."""

import asyncio
from typing import Any

import pytest

from anthropic_proxy.engine.exchange.client_side import ClientRequest
from anthropic_proxy.engine.exchange.forwarding import forward_resource
from anthropic_proxy.engine.wires.contract import Credential, UpstreamRequest
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request
from tests.support.virtual_time import in_virtual_time

SETTINGS = {"PREFERRED_PROVIDER": "anthropic", "ANTHROPIC_API_KEY": "sk-ant-test-0123456789"}
BATCH = b'{"requests":[{"custom_id":"a","params":{"model":"claude-opus-5-5"}}]}'


def asked(path: str, body: bytes = b"") -> ClientRequest:
    return new_client_request(body, path=path)


async def test_other_work_continues_while_the_models_of_a_small_batch_are_mapped() -> None:
    """The work depends on the number of requests, and a small body may have many."""

    def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        assert rounds > 0, "the event loop did nothing else before the call"
        return FakeResponse(200, b"{}")

    async def work() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    rounds = 0
    other = asyncio.create_task(work())
    try:
        services = ProxyHarness(upstream, **SETTINGS).services
        await forward_resource(services, asked("/v1/messages/batches", BATCH), "POST", RecordingSink())
    finally:
        other.cancel()


@pytest.mark.parametrize(
    ("method", "path", "response", "stream"),
    [
        ("POST", "/v1/skills", FakeResponse(201, b'{"id":"skill_1"}'), b'{"id":"skill_1"}'),
        ("POST", "/v1/messages/batches/a/cancel", FakeResponse(202, b"{}"), b"{}"),
        ("DELETE", "/v1/files/file_1", FakeResponse(204), b""),
        ("GET", "/v1/files/file_1/content", FakeResponse(206, b"part"), b"part"),
    ],
)
async def test_the_client_gets_the_status_of_the_provider(
    method: str, path: str, response: FakeResponse, stream: bytes
) -> None:
    sink, expected = RecordingSink(), response.status
    await forward_resource(ProxyHarness(lambda *_: response, **SETTINGS).services, asked(path), method, sink)
    assert (sink.status, sink.stream) == (expected, stream)


@pytest.mark.parametrize("path", ["/v1/skills", "/v1/files/file_1/content", "/v1/messages/batches/a/results"])
@in_virtual_time
async def test_a_client_that_reads_slowly_is_no_silent_provider(path: str) -> None:
    class Slow(RecordingSink):
        async def send_relayed_bytes(self, data: bytes, headers: Any, **other: Any) -> None:
            await asyncio.sleep(60)
            await super().send_relayed_bytes(data, headers, **other)

    sink = Slow()
    harness = ProxyHarness(lambda *_: FakeResponse(200, b"{}"), UPSTREAM_IDLE_TIMEOUT="2", **SETTINGS)
    await forward_resource(harness.services, asked(path), "GET", sink)
    assert sink.stream == b"{}"
