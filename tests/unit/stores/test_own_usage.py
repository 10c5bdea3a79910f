"""Shares of limits while the shared store is unavailable: together they do not exceed the maximum."""

from hypothesis import given
from hypothesis import strategies as st

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
