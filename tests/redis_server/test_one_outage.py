"""One outage of Redis is reported once, whatever became of the idle connections from before it."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import pytest
from msgspec import structs

from anthropic_proxy.gateway.stores.fallback import FallbackStore
from anthropic_proxy.gateway.stores.redis import RedisStore
from anthropic_proxy.plugins import Limit
from tests.support.redis import RedisServer, find_redis, running_redis
from tests.support.waiting import WAIT_SECONDS, wait_for_async

pytestmark = pytest.mark.skipif(find_redis() is None, reason="engine: redis-server is not installed")

Result = TypeVar("Result")
RATE = Limit("key/a/requests", "rate", 1, 1_000, 60.0)
STREAMS = Limit("key/a/streams", "concurrency", 1, 1)
BUDGET = Limit("key/a/budget", "amount", 10, 1_000, 3_600.0)
IDLE_CONNECTIONS = 6


class Balancer:
    """An address that leads to one of several servers, as that of a group with a primary server does."""

    def __init__(self, server: RedisServer) -> None:
        self.port, self.server = 0, server
        self.is_cutting = False
        """True: the next reply is lost, and its connection closed."""
        self._silent: set[asyncio.StreamWriter] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        self._writers |= {writer, target_writer}
        await asyncio.gather(
            self._forward(reader, target_writer, is_reply=False), self._forward(target_reader, writer, is_reply=True)
        )

    def silence_open_connections(self) -> None:
        self._silent |= self._writers

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_reply: bool) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if self.is_cutting and is_reply:
                    self.is_cutting = False
                    break
                if writer not in self._silent:
                    writer.write(data)
                    await writer.drain()
        if writer not in self._silent:
            writer.close()


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with running_redis() as running:
        yield running


@pytest.fixture
async def balancer(server: RedisServer) -> AsyncIterator[Balancer]:
    found = Balancer(server)
    async with await asyncio.start_server(found.serve, "127.0.0.1", found.port) as listener:
        found.port = listener.sockets[0].getsockname()[1]
        yield found


class Instance:
    def __init__(self, port: int) -> None:
        self.warnings = list[str]()
        redis = RedisStore(f"redis://127.0.0.1:{port}/0", "test")
        self.store = FallbackStore(redis, fails_open=True, address="redis:6379", warn=self.warnings.append)
        self._redis = redis

    async def use_all_connections(self) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            await asyncio.gather(*(self._redis.client.ping() for _ in range(IDLE_CONNECTIONS)))

    async def has_idle_connection(self) -> bool:
        """Return True if this process knows a connection of the pool that is not closed."""
        return not all([await one.can_read() for one in self._redis.client.connection_pool._available_connections])

    async def reserve(self) -> None:
        await self.store.settle(await self.store.reserve([RATE]), [1])


@asynccontextmanager
async def using(port: int) -> AsyncIterator[Instance]:
    """Yield an instance with several idle connections."""
    opened = Instance(port)
    try:
        await opened.reserve()
        await opened.use_all_connections()
        yield opened
    finally:
        await opened.store.close()


async def require_one_outage(instance: Instance, problem: str) -> None:
    """Wait for the end of the outage, and use all connections of the pool. `problem`: regular expression."""
    await wait_for_async(lambda: instance.store.state.interruptions == 1)
    await wait_for_async(lambda: instance.store.state.available)
    await instance.use_all_connections()
    for _ in range(IDLE_CONNECTIONS):
        await instance.reserve()
    assert (instance.store.state.available, instance.store.state.interruptions) == (True, 1)
    first, last = instance.warnings
    effect = "This process counts limits by itself until Redis is available."
    assert re.fullmatch(f"Redis at redis:6379 {problem} {effect}", first)
    assert re.fullmatch(r"Redis at redis:6379 is available again after \d+\.\d s\.", last)


async def test_a_restart(server: RedisServer) -> None:
    async with using(server.port) as instance:
        server.kill()
        await instance.reserve()
        server.start()
        await require_one_outage(instance, r"cannot be reached: .+\. Start it, or correct REDIS_URL\.")


async def test_a_server_that_vanishes_without_closing_its_connections(balancer: Balancer) -> None:
    async with using(balancer.port) as instance:
        balancer.silence_open_connections()
        await instance.reserve()
        await require_one_outage(instance, r"did not answer within 1 s\.")


async def test_another_server_becomes_the_primary_one(server: RedisServer, balancer: Balancer) -> None:
    with running_redis() as successor:
        async with using(balancer.port) as instance:
            server.command("REPLICAOF", "127.0.0.1", str(successor.port))
            balancer.server = successor
            await instance.reserve()
            await require_one_outage(instance, r"is a read-only replica\. Set REDIS_URL to the primary server\.")


@pytest.mark.parametrize("is_noticed", [False, True], ids=["in this moment", "before"])
async def test_connections_that_the_server_closes_are_no_outage(server: RedisServer, is_noticed: bool) -> None:
    """A server closes idle connections, and a load balancer those of a server that it takes out."""
    async with using(server.port) as instance:
        held = await instance.store.reserve([STREAMS])

        async def kill_connections() -> bool:
            server.command("CLIENT", "KILL", "TYPE", "normal")  # also that of a heartbeat meanwhile
            return not is_noticed or not await instance.has_idle_connection()

        async def call(step: Awaitable[Result]) -> Result:
            await wait_for_async(kill_connections)
            return await step

        await call(instance.store.renew([held]))
        await call(instance.store.settle(held, [1]))
        await call(instance.reserve())
        await call(instance.store.put("value", "a", 60.0))
        assert await call(instance.store.get("value")) == "a"
        assert [await call(instance.store.increment("count", 1, 60.0)) for _ in range(3)] == [1, 2, 3]
        await call(instance.store.delete("value"))
        assert await instance.store.get("value") is None
        await call(instance.store.remote.publish_observation("name", "{}", 60.0))
        await call(instance.store.remote.send_heartbeat())
        assert (instance.store.state.interruptions, instance.store.state.pending_settlements) == (0, 0)
        assert instance.warnings == []


async def test_a_call_that_is_repeated_after_a_lost_reply_has_no_further_effect(balancer: Balancer) -> None:
    limits = (RATE, STREAMS, BUDGET, structs.replace(BUDGET, key="key/a/spent", maximum=10))
    async with using(balancer.port) as instance:

        async def cut(step: Awaitable[Result]) -> Result:
            balancer.is_cutting = True
            result = await step
            assert not balancer.is_cutting, "the connection was cut"
            return result

        async def used() -> Sequence[int]:
            read = await instance.store.reserve([structs.replace(limit, amount=0) for limit in limits])
            return [limit.maximum - left for limit, left in zip(limits, read.remaining, strict=True)]

        before = (await used())[0]
        held = await cut(instance.store.reserve(limits))
        assert (held.is_held, held.refused, await used()) == (True, None, [before + 1, 1, 10, 10])
        await cut(instance.store.renew([held]))
        assert await used() == [before + 1, 1, 10, 10]
        await cut(instance.store.settle(held, [1, 0, 7, 7]))
        assert await used() == [before + 1, 0, 7, 7]
        await cut(instance.store.put("value", "a", 60.0))
        assert await instance.store.get("value") == "a"
        assert [await cut(instance.store.increment("count", 1, 60.0)) for _ in range(3)] == [1, 2, 3]
        await cut(instance.store.delete("value"))
        assert await instance.store.get("value") is None
        assert (instance.store.state.interruptions, instance.warnings) == (0, [])
