"""Leftovers of an exchange: nothing that only the garbage collector could free, its body least of all."""

import asyncio
import gc
import json

import pytest
from msgspec import structs

from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.first_checks import FIRST_CHECK_DELAY_SECONDS
from anthropic_proxy.errors import LimitReached, ProxyError
from anthropic_proxy.plugins import AdmissionRequest, Client, FurtherCall, Settle
from tests.support.fake_upstream import BODY, KEYS, STREAM, error
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request

EXCHANGES = 10


class _Slow(FakeResponse):
    async def read(self) -> bytes:
        await asyncio.sleep(FIRST_CHECK_DELAY_SECONDS * 1.5)
        return await super().read()


class _Forgetful(RecordingSink):
    """A client that, like the door, keeps no error: its frames hold the exchange."""

    async def send_error_response(self, error: ProxyError) -> None:
        pass


def answer(kind: str, stream: bool) -> FakeResponse:
    if kind == "refused":
        return error(400)
    if kind == "overloaded":
        return error(529)
    if kind == "no JSON":
        return FakeResponse(200, b"data: {]\n\n" if stream else BODY[:20])
    chunks = STREAM if stream else (BODY,)
    if kind == "broken":
        return FakeResponse(200, chunks[0][:30])
    return (_Slow if kind == "slow" else FakeResponse)(200, *chunks)


async def count_leftovers(proxy: ProxyHarness, body: bytes) -> int:
    """Return how many objects of `EXCHANGES` exchanges only the collector can free."""
    inbound = new_client_request(body)
    await Exchange(proxy.services, inbound, _Forgetful()).run()
    gc.collect()
    gc.disable()
    try:
        for _ in range(EXCHANGES):
            await Exchange(proxy.services, inbound, _Forgetful()).run()
        await asyncio.sleep(0)
        return gc.collect()
    finally:
        gc.enable()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["quick", "slow", "refused", "overloaded", "no JSON", "broken"])
async def test_an_exchange_leaves_nothing_for_the_collector(kind: str, stream: bool) -> None:
    proxy = ProxyHarness(lambda *_: answer(kind, stream), **KEYS)
    message = {"role": "user", "content": "hello"}
    body = json.dumps({"model": "openai/gpt-4.1", "max_tokens": 9, "stream": stream, "messages": [message]}).encode()
    assert await count_leftovers(proxy, body) < EXCHANGES


class _Limiter:
    """A policy whose function for further calls knows the request, as that of virtual keys does."""

    def __init__(self, *, refuses: bool) -> None:
        self._refuses = refuses

    def identify(self, headers: object) -> Client | None:
        return None

    async def admit(self, request: AdmissionRequest) -> Settle | None:
        async def admit_further_call(further: FurtherCall) -> None:
            raise LimitReached(request.model)

        request.further_calls.append(admit_further_call)
        if self._refuses:
            raise LimitReached("The budget is used up.")
        return None


@pytest.mark.parametrize("refuses", [False, True])
async def test_a_policy_that_admits_further_calls_leaves_nothing_for_the_collector(refuses: bool) -> None:
    proxy = ProxyHarness(lambda *_: answer("quick", False), **KEYS)
    proxy.services = structs.replace(proxy.services, policies=(_Limiter(refuses=refuses),))
    body = {"model": "openai/gpt-4.1", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
    assert await count_leftovers(proxy, json.dumps(body).encode()) < EXCHANGES
