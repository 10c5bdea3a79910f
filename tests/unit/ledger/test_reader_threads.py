"""The threads that read the ledger: one client does not occupy all of them, and has a maximum of waiting queries."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from anthropic_proxy.console.ledger.reader_threads import READERS, ReaderThreads
from anthropic_proxy.errors import ProxyBusy, ShuttingDown
from tests.support.threads import no_new_threads
from tests.support.waiting import WAIT_SECONDS


@pytest.fixture
async def threads() -> AsyncIterator[ReaderThreads]:
    threads = ReaderThreads()
    yield threads
    await threads.stop()


class SlowQuery:
    """A query that runs until the test ends it."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.started = threading.Semaphore(0)

    def __call__(self) -> str:
        self.started.release()
        assert self.ended.wait(WAIT_SECONDS)
        return "rows"

    async def wait_started(self, count: int) -> None:
        for _ in range(count):
            assert await asyncio.to_thread(self.started.acquire, timeout=WAIT_SECONDS)


async def test_another_client_has_a_thread_while_one_sends_slow_queries(threads: ReaderThreads) -> None:
    slow = SlowQuery()
    first = [asyncio.ensure_future(threads.run("ada", slow)) for _ in range(READERS.places + 1)]
    await slow.wait_started(READERS.share)
    assert await asyncio.wait_for(threads.run("grace", lambda: "other rows"), WAIT_SECONDS) == "other rows"
    assert not slow.started.acquire(blocking=False), "the other queries of the first client wait"
    slow.ended.set()
    assert await asyncio.gather(*first) == ["rows"] * len(first)


async def test_a_query_that_waits_too_long_is_refused() -> None:
    threads, slow = ReaderThreads(max_wait_seconds=0.01), SlowQuery()
    first = [asyncio.ensure_future(threads.run(f"payer {number}", slow)) for number in range(READERS.places)]
    await slow.wait_started(READERS.places)
    with pytest.raises(ProxyBusy):
        await threads.run("grace", lambda: "rows")
    slow.ended.set()
    assert await asyncio.gather(*first) == ["rows"] * len(first)
    assert await threads.run("grace", lambda: "rows") == "rows"
    await threads.stop()


async def test_a_client_that_disconnects_keeps_its_threads_until_its_queries_end(threads: ReaderThreads) -> None:
    slow, quick = SlowQuery(), SlowQuery()
    left = [asyncio.ensure_future(threads.run("ada", slow)) for _ in range(READERS.share)]
    await slow.wait_started(READERS.share)
    for task in left:
        task.cancel()
    waiting = asyncio.ensure_future(threads.run("ada", quick))
    await asyncio.gather(*left, return_exceptions=True)
    assert await asyncio.wait_for(threads.run("grace", lambda: "other rows"), WAIT_SECONDS) == "other rows"
    assert not quick.started.acquire(blocking=False)
    slow.ended.set()
    quick.ended.set()
    assert await asyncio.wait_for(waiting, WAIT_SECONDS) == "rows"


async def test_too_many_queries_of_one_client_are_rejected(threads: ReaderThreads) -> None:
    slow = SlowQuery()
    accepted = [asyncio.ensure_future(threads.run("ada", slow)) for _ in range(READERS.share + READERS.max_waiting)]
    await slow.wait_started(READERS.share)
    with pytest.raises(ProxyBusy) as raised:
        await threads.run("ada", slow)
    assert (raised.value.status, raised.value.retry_after) == (529, 5)
    assert raised.value.message == "Other requests use the database, and 60 wait. Try again when they are complete."
    accepted.pop().cancel()
    await asyncio.sleep(0)
    accepted.append(asyncio.ensure_future(threads.run("ada", slow)))
    slow.ended.set()
    assert await asyncio.gather(*accepted) == ["rows"] * (READERS.share + READERS.max_waiting)


async def test_a_query_that_waits_during_the_shutdown_is_not_run(threads: ReaderThreads) -> None:
    slow, late = SlowQuery(), SlowQuery()
    running = [asyncio.ensure_future(threads.run("ada", slow)) for _ in range(READERS.share)]
    await slow.wait_started(READERS.share)
    waiting = asyncio.ensure_future(threads.run("ada", late))
    await asyncio.sleep(0)
    await threads.stop()
    slow.ended.set()
    assert await asyncio.gather(*running) == ["rows"] * READERS.share
    with pytest.raises(ShuttingDown):
        await waiting
    assert not late.started.acquire(blocking=False)


async def test_a_client_can_read_again_after_the_system_had_no_thread_left(threads: ReaderThreads) -> None:
    started: list[str] = []
    with no_new_threads():
        for _ in range(READERS.share + 1):
            with pytest.raises(RuntimeError):
                await asyncio.wait_for(threads.run("ada", lambda: started.append("rejected")), WAIT_SECONDS)
    await asyncio.wait_for(threads.run("ada", lambda: started.append("accepted")), WAIT_SECONDS)
    assert started == ["accepted"]
