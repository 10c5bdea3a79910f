"""The words by which the proxy recognizes its own texts are equal in all processes that share their secret."""

import asyncio
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.console.ledger.plugin import open_plugin
from anthropic_proxy.engine.memory_values import MemoryValues
from anthropic_proxy.engine.own_keys import SECRET_NAME, OwnKeys
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import StoreUnavailable
from anthropic_proxy.secrets import Secret
from tests.support.virtual_time import in_virtual_time


async def derive(keys: OwnKeys, store: MemoryValues, owner: str = "key_1") -> bytes:
    await keys.open(store)
    return keys.derive("citations", owner)


async def test_instances_of_a_database_have_the_same_keys_also_after_a_restart(database: Settings) -> None:
    def start() -> OwnKeys:
        keep = open_plugin(database).keep_secret
        assert keep is not None
        return OwnKeys(keep)

    together = await asyncio.gather(*(derive(start(), MemoryValues()) for _ in range(4)))
    assert len({*together, await derive(start(), MemoryValues())}) == 1


async def test_instances_with_redis_and_a_file_each_share_the_values_of_redis(sqlite: Settings) -> None:
    assert open_plugin(structs.replace(sqlite, redis_url=Secret("redis://127.0.0.1"))).keep_secret is None


async def test_processes_that_share_values_have_the_same_keys() -> None:
    store = MemoryValues()
    together = [await derive(OwnKeys(), store) for _ in range(3)]
    assert len({*together}) == 1
    assert await derive(OwnKeys(), MemoryValues()) not in together


async def test_each_client_and_purpose_has_its_own_key() -> None:
    keys, store = OwnKeys(), MemoryValues()
    await keys.open(store)
    names: list[tuple[Any, str]] = [
        ("citations", "a"),
        ("citations", "b"),
        ("placeholders", "a"),
        ("citations", "\ud800"),
    ]
    assert len({keys.derive(*name) for name in names}) == len(names)


class Failing(MemoryValues):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error: Exception | None = error
        self.reads = 0

    async def put_if_absent(self, key: str, value: str, lifetime_seconds: float) -> str:
        self.reads += 1
        if self.error is not None:
            raise self.error
        return await super().put_if_absent(key, value, lifetime_seconds)


@in_virtual_time
async def test_a_store_that_is_away_delays_one_request_and_its_secret_counts_afterwards() -> None:
    store = Failing(StoreUnavailable())
    others = "77" * 32
    await store.put(SECRET_NAME, others, 9_999)
    keys = OwnKeys()
    meanwhile = {await derive(keys, store) for _ in range(5)}
    assert (len(meanwhile), store.reads) == (1, 1)
    store.error = None
    await asyncio.sleep(61)
    known = OwnKeys()
    assert await derive(keys, store) == await derive(known, store)
    await store.delete(SECRET_NAME)
    await asyncio.sleep(61)
    assert await derive(known, store) == await derive(OwnKeys(), store) == await derive(keys, store)
    assert await store.get(SECRET_NAME) == others


@in_virtual_time
async def test_a_database_that_does_not_answer_delays_a_request_for_seconds_only() -> None:
    asked = 0

    async def keep(_: str) -> str:
        nonlocal asked
        asked += 1
        await asyncio.Event().wait()
        return ""

    keys, store = OwnKeys(keep), MemoryValues()
    before = asyncio.get_running_loop().time()
    assert len({*await asyncio.gather(*(derive(keys, store) for _ in range(9)))}) == 1
    assert (asked, asyncio.get_running_loop().time() - before) == (1, 3.0)


@pytest.mark.parametrize("stored", ["", "abc", "zz" * 32, "77" * 31])
async def test_a_damaged_secret_is_not_used(stored: str) -> None:
    async def keep(_: str) -> str:
        return stored

    assert await derive(OwnKeys(keep), MemoryValues()) != await derive(OwnKeys(keep), MemoryValues())
