"""The measurements of one subject, each as a function of a plan, and the amount of work in a plan."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct, field, structs

from bench.load import BenchError, Outcome, RequestSample, fire, wait_for_reply
from bench.processes import Process, free_port
from bench.subjects import Subject

SIZES = {"1 KB": 1_000, "120 KB": 120_000, "1 MB": 1_000_000}
_FEW_EVENTS = 10
_MANY_EVENTS = 1010
_MORE_SHORT = 4
"""Short streams for each long one: they cost little, and the fixed cost of a stream hangs on them."""
_SLOW_EVENTS = 50
"""Of a slow stream: 1.1 seconds."""
_FEWEST_WAITS = 100
"""Waits of one client, below which a 99th percentile means nothing."""

TITLES: Mapping[str, tuple[str, str]] = {
    "start": ("start to first reply", "s"),
    "idle": ("memory, idle", "MiB"),
    "filled": ("memory after 64 streams", "MiB"),
    "1 KB": ("CPU per 1 KB request", "ms"),
    "120 KB": ("CPU per 120 KB request", "ms"),
    "1 MB": ("CPU per 1 MB request", "ms"),
    "stream": ("fixed CPU per stream", "ms"),
    "burst": ("CPU per event, burst", "µs"),
    "packed": ("CPU per event, all in one packet", "µs"),
    "paced": ("CPU per event, paced (a packet each)", "µs"),
    "args": ("CPU per event of tool arguments", "µs"),
    "p50": ("120 KB request, one client: p50", "ms"),
    "p99": ("120 KB request, one client: p99", "ms"),
    "first": ("120 KB stream: time to first token", "ms"),
    "slow": ("64 streams × 45 events/s, 1.1 s each: p50", "ms"),
}
"""Key → measured quantity, and its unit."""


class Plan(Struct, frozen=True, kw_only=True):
    """The amount of work in one run."""

    rounds: int
    requests: Mapping[str, int]
    """Requests of each size in a round."""
    bursts: int
    """Long streams in a round."""
    paced_streams: int
    paced_events: int
    single: int
    """Requests of the one client with measured waiting times."""
    long_rounds: int
    """In how many of the rounds that is measured too which takes seconds."""
    streams: int = 64
    """Slow streams at once."""


QUICK = Plan(
    rounds=5,
    requests={"1 KB": 300, "120 KB": 120, "1 MB": 24},
    bursts=24,
    paced_streams=8,
    paced_events=150,
    single=100,
    long_rounds=2,
)
FULL = Plan(
    rounds=6,
    requests={"1 KB": 1500, "120 KB": 600, "1 MB": 100},
    bursts=80,
    paced_streams=16,
    paced_events=400,
    single=300,
    long_rounds=5,
)
LESS = structs.replace(
    QUICK, requests=FULL.requests, bursts=FULL.bursts, paced_streams=12, paced_events=300, single=200, long_rounds=3
)
"""The plan for the further tables of a full run: they are many."""


class Running(Struct, kw_only=True):
    """A subject that is up."""

    subject: Subject
    port: int
    process: Process | None
    directory: Path
    upstream: int
    replies: int = 0
    """Replies of it that were checked."""
    waits: list[float] = field(default_factory=list)
    """Milliseconds of every request that one client waited for, of all rounds together."""

    async def volley(self, shot: RequestSample, count: int, connections: int = 4) -> tuple[Outcome, float]:
        """Send so many requests. Return their measurements and the CPU seconds of one.

        Raises `BenchError` with the last words of the process.
        """
        before = self.process.cpu_seconds() if self.process else 0.0
        try:
            outcome = await fire(self.port, shot, count=count, connections=connections)
        except (BenchError, OSError, TimeoutError, ValueError) as error:
            raise BenchError(f"{self.subject.name}: {error or 'no reply in time'}\n{self.last_words()}") from error
        self.replies += len(outcome.seconds)
        return outcome, (await self.process.settle() - before) / count if self.process else 0.0

    async def wait(self) -> None:
        """Wait for the first reply of its process. Raises `BenchError` with the last words of that."""
        assert self.process is not None
        try:
            await wait_for_reply(self.port, self.subject.shot(1_000, "bench-whole"), self.process.alive)
        except (BenchError, TimeoutError, ValueError) as error:
            raise BenchError(f"{self.subject.name}: {error}\n{self.last_words()}") from error

    async def cpu(self, size: str, reply: str, count: int, connections: int = 4) -> float:
        """Return the CPU seconds of one request, from the subject's share of a plan's count."""
        count = max(round(count * self.subject.share), connections)
        return (await self.volley(self.subject.shot(SIZES[size], reply), count, connections))[1]

    def last_words(self) -> str:
        """Return the end of its log."""
        return self.process.last_words() if self.process else ""


Step = Callable[[Plan, Running], Awaitable[dict[str, float]]]
"""Measures one thing, or some that belong together."""


async def _start(plan: Plan, running: Running) -> dict[str, float]:
    """Start afresh, wait for the first reply, read the memory before and after many streams at once."""
    subject, port = running.subject, free_port()
    if subject.start is None:
        return {}
    begun = time.perf_counter()
    with subject.start(running.directory, port, running.upstream) as process:
        fresh = structs.replace(running, port=port, process=process)
        await fresh.wait()
        found = {"start": time.perf_counter() - begun, "idle": process.resident_mib()}
        shot = subject.shot(SIZES["120 KB"], f"bench-text-{_SLOW_EVENTS}-slow")
        await fresh.volley(shot, plan.streams, plan.streams)
        found["filled"] = process.resident_mib()
    return found


def _requests(size: str) -> Step:
    async def step(plan: Plan, running: Running) -> dict[str, float]:
        return {size: 1e3 * await running.cpu(size, "bench-whole", plan.requests[size])}

    return step


def _events(kind: str, key: str, pace: str = "") -> Step:
    """Return a step: the slope between short and long streams is the price of an event, the rest that of a stream.

    `kind`: of the events; "": the kind that the subject's upstream sends.
    """

    async def step(plan: Plan, running: Running) -> dict[str, float]:
        few, many = [
            await running.cpu("1 KB", f"bench-{kind or running.subject.reply_kind}-{events}{pace}", count)
            for events, count in ((_FEW_EVENTS, plan.bursts * _MORE_SHORT), (_MANY_EVENTS, plan.bursts))
        ]
        event = (many - few) / (_MANY_EVENTS - _FEW_EVENTS)
        found = {key: 1e6 * event}
        return {**found, "stream": 1e3 * (few - event * _FEW_EVENTS)} if key == "burst" else found

    return step


async def _paced(plan: Plan, running: Running) -> dict[str, float]:
    streams = max(round(plan.paced_streams * running.subject.share), 1)
    few, many = [
        (
            await running.volley(
                running.subject.shot(1_000, f"bench-{running.subject.reply_kind}-{events}-paced"), count, streams
            )
        )[1]
        for events, count in ((_FEW_EVENTS, 2 * streams), (plan.paced_events, streams))
    ]
    return {"paced": 1e6 * (many - few) / (plan.paced_events - _FEW_EVENTS)}


async def _alone(plan: Plan, running: Running) -> dict[str, float]:
    outcome, _ = await running.volley(running.subject.shot(SIZES["120 KB"], "bench-whole"), _waits(plan, running), 1)
    waits = [1e3 * seconds for seconds in outcome.seconds]
    running.waits += waits
    return {"p50": statistics.median(waits), "p99": percentile_99(waits)}


async def _first(plan: Plan, running: Running) -> dict[str, float]:
    outcome, _ = await running.volley(running.subject.shot(SIZES["120 KB"], "bench-text-20"), _waits(plan, running), 1)
    return {"first": 1e3 * statistics.median(outcome.first)}


def percentile_99(values: Sequence[float]) -> float:
    """Return the value that one in a hundred exceeds."""
    return statistics.quantiles(values, n=100)[98]


def _waits(plan: Plan, running: Running) -> int:
    return max(round(plan.single * running.subject.share), _FEWEST_WAITS)


async def _slow(plan: Plan, running: Running) -> dict[str, float]:
    shot = running.subject.shot(1_000, f"bench-text-{_SLOW_EVENTS}-slow")
    outcome, _ = await running.volley(shot, plan.streams, plan.streams)
    await asyncio.sleep(0.05)  # a subject that writes its log afterwards does it here
    return {"slow": 1e3 * statistics.median(outcome.seconds)}


STEPS: Mapping[str, Step] = {
    "start": _start,
    **{size: _requests(size) for size in SIZES},
    "burst": _events("", "burst"),
    "packed": _events("text", "packed", "-packed"),
    "paced": _paced,
    "args": _events("args", "args"),
    "alone": _alone,
    "first": _first,
    "slow": _slow,
}
"""Name → function that measures it."""
LONG_STEPS = ("start", "slow")
