"""A server on the address of Redis whose replies cannot be decoded: one line in the log, and the store stays in use."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from redis import exceptions

from anthropic_proxy.gateway.stores.fallback import FallbackStore
from anthropic_proxy.gateway.stores.redis import REPLY_TIMEOUT_SECONDS, RedisStore, describe_failure
from anthropic_proxy.plugins import Limit
from tests.support.golden_texts import Check
from tests.support.messages import exactly
from tests.support.virtual_time import VirtualTimeLoop, in_virtual_time
from tests.support.waiting import wait_for_async

LIMIT = Limit("key/a/requests", "rate", 1, 2, 60.0)


@asynccontextmanager
async def replying(reply: bytes) -> AsyncIterator[int]:
    """Yield the port of a server that accepts connections, and answers each other command with `reply`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while command := await reader.read(65_536):
                for part in command.split(b"*")[1:]:
                    is_greeting = any(word in part for word in (b"HELLO", b"CLIENT", b"SELECT"))
                    writer.write(b"+OK\r\n" if is_greeting else reply)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    "reply",
    [
        b"*1\r\n" * 100_000,
        b":x\r\n",
        b"%1\r\n*0\r\n+a\r\n",
        b"$5000000000\r\n",
        b"*1000000000\r\n" + b"*-1\r\n" * 300_000,
    ],
    ids=["deep", "number", "map", "large", "many items"],
)
async def test_replies_that_cannot_be_decoded_are_a_failure_of_redis(
    reply: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    warnings: list[str] = []
    async with replying(reply) as port:
        store = FallbackStore(
            RedisStore(f"redis://127.0.0.1:{port}/0", "test"),
            fails_open=True,
            address=f"127.0.0.1:{port}",
            warn=warnings.append,
        )
        first, second, third = [await store.reserve([LIMIT]) for _ in range(3)]
        assert (first.is_held, second.is_held, third.is_held) == (True, True, False)
        await wait_for_async(lambda: not store.state.available)
        await store.close()
    assert warnings[0].startswith(f"Redis at 127.0.0.1:{port} sent a reply that cannot be decoded: ")
    assert "This process counts limits by itself until Redis is available." in warnings[0]
    assert caplog.records == []


async def test_a_reply_without_end_is_not_read_to_its_end(caplog: pytest.LogCaptureFixture) -> None:
    async with replying(b"$5000000000\r\n") as port:
        store = RedisStore(f"redis://localhost:{port}/0", "test")
        with pytest.raises(exceptions.InvalidResponse, match=exactly("it has more than 16 MiB")):
            await store.get("a")
        await store.close()
    assert caplog.records == []


def test_golden_failures(golden: Check) -> None:
    """`golden_texts/redis_failures`: an exception of the library with its text, and what users read."""

    def describe(given: str) -> str:
        kind, _, text = given.partition(" ")
        return describe_failure(getattr(exceptions, kind)(text), "db:6379")

    golden("redis_failures", describe)


@pytest.mark.parametrize("pauses", [0, 3])
@in_virtual_time
async def test_a_reply_is_waited_for_while_the_loop_runs(pauses: int) -> None:
    """A pause of the process, in which it could not have read the reply, does not count."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    async with replying(b"") as port:
        store = RedisStore(f"redis://127.0.0.1:{port}/0", "test")
        started_at = loop.time()
        for number in range(pauses):
            loop.call_at(started_at + 0.25 + 10 * number, loop.pass_time, 10)
        with pytest.raises(TimeoutError):
            await store.reserve([LIMIT])
        waited = loop.time() - started_at - 10 * pauses
        assert REPLY_TIMEOUT_SECONDS - 0.01 < waited < REPLY_TIMEOUT_SECONDS * 1.5
        await store.close()
