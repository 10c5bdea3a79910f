"""The SQLite store when its file cannot be used, and after a restart of the process."""

import asyncio
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from anthropic_proxy.gateway.stores.sqlite import SqliteStore
from anthropic_proxy.plugins import Limit, Store
from tests.support.waiting import wait_for_async

BUDGET = Limit("budget", "amount", 30, 100, 3600.0)
RATE = Limit("rate", "rate", 1, 100, 3600.0)
STREAMS = Limit("streams", "concurrency", 1, 100)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the lock of the file, as another worker does that has stopped in a transaction."""
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


async def until_available(store: Store) -> None:
    """Wait until the store uses its file again."""
    await wait_for_async(lambda: store.state, lambda state: state.available)


async def used(store: Store) -> list[int]:
    limits = [Limit(each.key, each.kind, 0, each.maximum, each.seconds) for each in (RATE, STREAMS, BUDGET)]
    return [limit.maximum - left for limit, left in zip(limits, (await store.reserve(limits)).remaining, strict=True)]


async def test_a_budget_survives_a_restart_and_the_file_is_private(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "limits.sqlite3"
    store = SqliteStore(file)
    assert not file.exists(), "an unused store opens nothing"
    await store.settle(await store.reserve([BUDGET]), [12])
    await store.close()
    again = SqliteStore(file)
    assert (await again.reserve([BUDGET])).remaining == [58]
    assert sys.platform == "win32" or file.stat().st_mode & 0o077 == 0
    await again.close()


async def test_limits_are_counted_in_the_process_while_the_file_cannot_be_used(tmp_path: Path) -> None:
    file, warnings = tmp_path / "limits.sqlite3", list[str]()
    file.mkdir()
    store = SqliteStore(file, warnings.append)
    first, *_, last = [await store.reserve([BUDGET]) for _ in range(3)]
    assert list(last.remaining) == [10]
    await store.settle(first, [5])
    assert not store.state.available
    assert len(warnings) == 1
    assert warnings[0].startswith(f"The limits in {file} cannot be used: ")
    assert warnings[0].endswith(" Correct the cause. Until then, each process counts limits by itself.")
    file.rmdir()
    await until_available(store)
    assert await used(store) == [0, 0, 65], "the amounts of the interruption are added to the file"
    await store.settle(last, [7])
    assert await used(store) == [0, 0, 42]
    assert warnings[1:] == [f"The limits in {file} are used again."]
    await store.close()


async def test_a_locked_file_delays_nobody_twice_and_loses_no_amounts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anthropic_proxy.gateway.stores.sqlite.LOCK_TIMEOUT_SECONDS", 0.3)
    file = tmp_path / "limits.sqlite3"
    store = SqliteStore(file)
    held = [await store.reserve([RATE, STREAMS, BUDGET]) for _ in range(2)]
    with locked(file):
        started = time.monotonic()
        during, *_ = await asyncio.gather(
            store.reserve([RATE, STREAMS, BUDGET]),
            store.settle(held[0], [1, 0, 12]),
            store.renew(held),
            *(store.get("session") for _ in range(8)),
        )
        waited = time.monotonic() - started
        assert waited < 5 * 0.3, "only the first call waits for the lock"
        assert list(during.remaining) == [97, 98, 28], "the process knows its own amounts"
        assert store.state.pending_settlements == 1
        started = time.monotonic()
        await store.settle(during, [1, 0, 3])
        assert not (await store.reserve([BUDGET, Limit("other", "rate", 2, 1, 60.0)])).is_held
        assert time.monotonic() - started < waited / 2, "later calls do not wait"
    await until_available(store)
    assert await used(store) == [3, 1, 12 + 3 + 30]
    assert store.state.pending_settlements == 0
    await store.settle(held[1], [1, 0, 4])
    await store.close()
    again = SqliteStore(file)
    assert await used(again) == [3, 0, 12 + 3 + 4]
    await again.close()


async def test_closing_the_store_writes_waiting_settlements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anthropic_proxy.gateway.stores.sqlite.LOCK_TIMEOUT_SECONDS", 0.3)
    file = tmp_path / "limits.sqlite3"
    store = SqliteStore(file)
    running = await store.reserve([BUDGET])
    with locked(file):
        await store.settle(running, [12])
    await store.close()
    again = SqliteStore(file)
    assert await used(again) == [0, 0, 12]
    await again.close()
