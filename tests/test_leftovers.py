"""What an exchange leaves behind: nothing that only the garbage collector could free, its body least of all."""

import asyncio
import gc
import json

import pytest

from anthropic_proxy.errors import ProxyError
from anthropic_proxy.exchange.house import Inbound
from anthropic_proxy.exchange.run import run
from anthropic_proxy.exchange.watch import LEAVING_SECONDS
from anthropic_proxy.hooks import Client
from tests.house import Answer, Keeper, Town
from tests.test_attempts import BODY, KEYS, STREAM, error

EXCHANGES = 10


class _Slow(Answer):
    async def read(self) -> bytes:
        await asyncio.sleep(LEAVING_SECONDS * 1.5)
        return await super().read()


class _Forgetful(Keeper):
    """A client that, like the door, keeps no error: its frames hold the exchange."""

    async def refuse(self, error: ProxyError) -> None:
        pass


def answer(kind: str, stream: bool) -> Answer:
    if kind == "refused":
        return error(400)
    if kind == "overloaded":
        return error(529)
    if kind == "no JSON":
        return Answer(200, b"data: {]\n\n" if stream else BODY[:20])
    chunks = STREAM if stream else (BODY,)
    if kind == "broken":
        return Answer(200, chunks[0][:30])
    return (_Slow if kind == "slow" else Answer)(200, *chunks)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["quick", "slow", "refused", "overloaded", "no JSON", "broken"])
async def test_an_exchange_leaves_nothing_for_the_collector(kind: str, stream: bool) -> None:
    town = Town(lambda *_: answer(kind, stream), **KEYS)
    message = {"role": "user", "content": "hello"}
    body = json.dumps({"model": "openai/gpt-4.1", "max_tokens": 9, "stream": stream, "messages": [message]}).encode()
    inbound = Inbound(request_id="req_test", client=Client(), headers={}, body=body)
    await run(town.house, inbound, _Forgetful())
    gc.collect()
    gc.disable()
    try:
        for _ in range(EXCHANGES):
            await run(town.house, inbound, _Forgetful())
        await asyncio.sleep(0)
        assert gc.collect() < EXCHANGES
    finally:
        gc.enable()
