"""`MemoryStore` with more values than it keeps."""

from anthropic_proxy.engine.memory_values import MAX_KEYS
from anthropic_proxy.gateway.stores.memory import MemoryStore


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
