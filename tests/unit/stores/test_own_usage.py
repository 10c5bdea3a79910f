"""Shares of limits while the shared store is unavailable: together they do not exceed the maximum."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from anthropic_proxy.gateway.stores.memory import MemoryStore
from anthropic_proxy.gateway.stores.own_usage import OwnUsage
from anthropic_proxy.plugins import LEASE_SECONDS, Limit

PERIOD = 60.0
MAXIMUM = 40
LIMIT = Limit(key="requests", kind="rate", amount=1, maximum=MAXIMUM, seconds=PERIOD)
PROCESSES = 4
ARRIVALS = st.lists(st.tuples(st.sampled_from(range(PROCESSES)), st.integers(1, 20), st.integers(0, 20)), max_size=20)
"""Process and number of requests that arrive at once, and the seconds since the arrivals before."""


class Clock:
    """Monotonic seconds that the test sets."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@given(ARRIVALS)
async def test_a_rate_holds_in_each_period_of_an_interruption(arrivals: list[tuple[int, int, int]]) -> None:
    clock = Clock()
    shared = MemoryStore(clock=clock)
    processes = [OwnUsage(clock) for _ in range(PROCESSES)]
    admitted: list[float] = []

    async def send_to_shared(process: OwnUsage) -> None:
        reservation = await shared.reserve([LIMIT])
        process.add_existing_reservation(reservation)
        if reservation.is_held:
            admitted.append(clock.now)

    for number, count, seconds in arrivals:
        clock.now += seconds
        for _ in range(count):
            await send_to_shared(processes[number])
    for process in processes:  # each knows the amount that the others left
        await send_to_shared(process)
    for _ in range(int(4 * PERIOD)):
        clock.now += 1
        for process in processes:
            while (await process.reserve([LIMIT], LEASE_SECONDS, PROCESSES)).is_held:
                admitted.append(clock.now)
    windows = [sum(start <= at < start + PERIOD for at in admitted) for start in admitted]
    assert max(windows) <= MAXIMUM + PROCESSES  # a share has at least one request
    assert sum(at >= clock.now - PERIOD for at in admitted) >= MAXIMUM - PROCESSES  # equal shares at the end


async def test_the_use_without_the_shared_store_is_added_to_it_once() -> None:
    clock = Clock()
    shared, process = MemoryStore(clock=clock), OwnUsage(clock)
    limits = [LIMIT, Limit("streams", "concurrency", 1, 9), Limit("budget", "amount", 10, 1_000, 3_600.0)]
    ended, running, later = [await process.reserve(limits, LEASE_SECONDS, 1) for _ in range(3)]
    assert await process.settle(ended, [4, 0, 7]), "the shared store does not know it"

    async def add_all() -> list[int]:
        await shared.renew(process.queue_unsent())
        for reservation, amounts in [*process.pending, *process.pending]:  # a reply was lost
            await shared.settle(reservation, amounts)
        process.pending.clear()
        read = await shared.reserve([structs.replace(limit, amount=0) for limit in limits])
        return [limit.maximum - left for limit, left in zip(limits, read.remaining, strict=True)]

    assert await add_all() == [4 + 1 + 1, 2, 7 + 10 + 10]
    assert not process.has_unsent
    assert not await process.settle(running, [3, 0, 5]), "the shared store has it now"
    await shared.settle(running, [3, 0, 5])
    assert not await process.settle(later, [0, 0, 0])
    process.pending.append((later, [0, 0, 0]))
    assert await add_all() == [4 + 3 + 1, 0, 7 + 5], "an amount of a rate that was too high stays"
