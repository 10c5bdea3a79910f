"""Input that a provider may bill and has not reported is estimated: the client left before the first byte."""

import asyncio
from typing import Any

import pytest
from msgspec import structs

from tests.support.harness import STALL, FakeResponse, LeavingSink, ProxyHarness
from tests.support.virtual_time import in_virtual_time

WORDS = "word " * 1_000
STREAM = {"content-type": "text/event-stream"}
BUSY = b'{"type":"error","error":{"type":"overloaded_error","message":"busy"}}'
OPENAI, ANTHROPIC = {"OPENAI_API_KEY": "k"}, {"ANTHROPIC_API_KEY": "k"}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("settings", [OPENAI, ANTHROPIC])
async def test_a_client_that_leaves_before_the_first_byte_pays_the_estimated_input(
    settings: dict[str, str], *, stream: bool
) -> None:
    client = LeavingSink()

    def answer(*_: Any) -> FakeResponse:
        client.left.set()
        return FakeResponse(200, STALL, headers=STREAM)

    proxy = ProxyHarness(answer, **settings)
    await proxy.post(WORDS, stream=stream, sink=client)
    (receipt,) = proxy.receipts
    assert (receipt.outcome, receipt.status, receipt.output_tokens) == ("cancelled", 0, 0)
    assert 900 < receipt.input_tokens < 1_300
    assert [attempt.input_tokens for attempt in receipt.attempts] == [receipt.input_tokens]


async def test_a_client_that_leaves_after_a_refusal_pays_nothing() -> None:
    client = LeavingSink()

    async def wait_for_retry(_: float) -> None:
        client.left.set()
        await asyncio.Event().wait()

    proxy = ProxyHarness(lambda *_: FakeResponse(529, BUSY), **ANTHROPIC)
    proxy.services = structs.replace(proxy.services, sleep=wait_for_retry)
    await proxy.post(WORDS, stream=True, sink=client)
    (receipt,) = proxy.receipts
    assert (receipt.outcome, receipt.input_tokens) == ("cancelled", 0)


class Late(FakeResponse):
    """Its body arrives after the stream to the client has begun with a ping."""

    async def read(self) -> bytes:
        await asyncio.sleep(20)
        return await super().read()


@in_virtual_time
async def test_a_stream_that_has_begun_before_a_failure_costs_nothing() -> None:
    proxy = ProxyHarness(lambda *_: Late(400, b"{}"), **OPENAI)
    sink = await proxy.post(WORDS, stream=True)
    (receipt,) = proxy.receipts
    assert b"event: ping" in sink.stream
    assert (receipt.outcome, receipt.input_tokens, receipt.output_tokens) == ("error", 0, 0)
