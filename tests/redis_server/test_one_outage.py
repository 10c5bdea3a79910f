"""One outage of Redis is reported once, whatever became of the idle connections from before it."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest

from anthropic_proxy.gateway.stores.fallback import FallbackStore
from anthropic_proxy.gateway.stores.redis import RedisStore
from anthropic_proxy.plugins import Limit
from tests.support.redis import RedisServer, find_redis, running_redis
from tests.support.waiting import WAIT_SECONDS, wait_for_async

pytestmark = pytest.mark.skipif(find_redis() is None, reason="engine: redis-server is not installed")

RATE = Limit("key/a/requests", "rate", 1, 1_000, 60.0)
IDLE_CONNECTIONS = 6


class Balancer:
    """An address that leads to one of several servers, as that of a group with a primary server does."""

    def __init__(self, server: RedisServer) -> None:
        self.port, self.server = 0, server
        self._silent: set[asyncio.StreamWriter] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        self._writers |= {writer, target_writer}
        await asyncio.gather(self._forward(reader, target_writer), self._forward(target_reader, writer))

    def silence_open_connections(self) -> None:
        self._silent |= self._writers

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
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


async def test_connections_that_the_server_closes_because_they_are_idle_are_no_outage(server: RedisServer) -> None:
    async with using(server.port) as instance:
        server.command("CONFIG", "SET", "timeout", "1")
        await wait_for_async(lambda: server.command("CLIENT", "LIST").count("name=anthropic-proxy") <= 1)
        server.command("CONFIG", "SET", "timeout", "0")
        await instance.use_all_connections()
        await instance.reserve()
        assert (instance.store.state.interruptions, instance.warnings) == (0, [])
