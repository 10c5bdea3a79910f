"""`MemoryStore` with more values and counters than it keeps."""

import sys

import pytest

from anthropic_proxy.engine.memory_values import BULK_PREFIX, MAX_KEPT_BYTES, MAX_KEYS, MemoryValues
from anthropic_proxy.gateway.stores.memory import MAX_COUNTERS, MemoryStore
from anthropic_proxy.plugins import Limit


async def test_many_values_with_one_lifetime_replace_no_values_with_another() -> None:
    store = MemoryStore()
    for number in range(5):
        await store.put(f"latency/{number}", "0.5", 600.0)
    for number in range(2 * MAX_KEYS):
        await store.put(f"session/{number}", "target", 3600.0)
    assert [await store.get(f"latency/{number}") for number in range(5)] == ["0.5"] * 5
    assert [await store.get(f"session/{number}") for number in (0, MAX_KEYS, 2 * MAX_KEYS - 1)] == [
        None,
        None,
        "target",
    ]
    assert await store.get(f"session/{2 * MAX_KEYS - (MAX_KEYS - 5)}") == "target"


async def test_a_value_that_is_stored_again_is_replaced_last() -> None:
    store = MemoryStore()
    for number in range(MAX_KEYS):
        await store.put(f"session/{number}", "target", 3600.0)
    await store.put("session/0", "other", 3600.0)
    await store.put("session/new", "target", 3600.0)
    assert [await store.get(f"session/{name}") for name in ("0", "1", "new")] == ["other", None, "target"]


@pytest.mark.parametrize("value", ["", "x" * 256 * 1024, "é" * 256 * 1024, "漢" * 256 * 1024], ids=["", "1", "2", "3"])
async def test_bulk_values_have_a_bound_of_their_bytes_and_replace_no_others(value: str) -> None:
    store = MemoryStore()
    await store.put("session", "target", 86_400.0)
    size = sys.getsizeof(value)
    most = MAX_KEPT_BYTES // max(size, 300)
    for number in range(most + 100):
        await store.put(f"{BULK_PREFIX}{number}", value, 86_400.0)
    found = [number for number in range(most + 100) if await store.get(f"{BULK_PREFIX}{number}") is not None]
    assert found == [*range(most + 100 - len(found), most + 100)]  # the oldest ones are dropped
    assert len(found) * size <= MAX_KEPT_BYTES
    assert len(found) > most // 6  # other characters than ASCII count up to five times
    assert await store.get("session") == "target"


async def test_what_is_deleted_or_replaced_counts_no_longer() -> None:
    store = MemoryValues(max_bulk_bytes=20_000)
    for number in range(100):
        await store.put(f"{BULK_PREFIX}replaced", "x" * number * 50, 60.0)
        await store.put(f"{BULK_PREFIX}deleted", "x" * 4_000, 60.0)
        await store.delete(f"{BULK_PREFIX}deleted")
        await store.increment(f"{BULK_PREFIX}counter", 1, 60.0)
    assert await store.get(f"{BULK_PREFIX}replaced") == "x" * 99 * 50
    assert await store.get(f"{BULK_PREFIX}counter") == "100.0"
    await store.put(f"{BULK_PREFIX}too large", "x" * 30_000, 60.0)
    assert await store.get(f"{BULK_PREFIX}too large") is None
    assert await store.get(f"{BULK_PREFIX}counter") == "100.0"


async def test_rates_in_any_number_replace_no_budget() -> None:
    store = MemoryStore()
    budgets = [Limit(f"day/{number}", "amount", 10, 10, 86_400.0) for number in range(MAX_COUNTERS // 2 + 100)]
    await store.settle(await store.reserve(budgets), [10] * len(budgets))
    for part in range(3):
        rates = [Limit(f"rate/{part}/{number}", "rate", 1, 10, 604_800.0) for number in range(MAX_COUNTERS // 2)]
        assert (await store.reserve(rates)).is_held
    assert [(await store.reserve([budget])).refused for budget in budgets] == [0] * len(budgets)
    assert (await store.reserve([rates[0]])).remaining == [8]
