"""The scenario: what is measured, in which order, how often."""

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from msgspec import Struct, field

from bench.load import BenchError, Outcome, Shot, fire, wait_for_reply
from bench.processes import Process, free_port
from bench.subjects import Subject, start_upstream
from bench.wires import Wire

SIZES = {"1 KB": 1_000, "120 KB": 120_000, "1 MB": 1_000_000}
_FEW_EVENTS = 10
_MANY_EVENTS = 1010


class Plan(Struct, frozen=True, kw_only=True):
    """How much work one run does."""

    rounds: int
    requests: dict[str, int]
    """Requests of each size in a round."""
    bursts: int
    """Streams of each length in a round."""
    paced_streams: int
    paced_events: int
    single: int
    """Requests of the one client whose waiting is measured."""
    starts: int
    streams: int = 64
    """Streams at once, before memory is read again."""
    slow_events: int


QUICK = Plan(
    rounds=5,
    requests={"1 KB": 300, "120 KB": 120, "1 MB": 24},
    bursts=24,
    paced_streams=8,
    paced_events=150,
    single=60,
    starts=2,
    slow_events=45,
)
FULL = Plan(
    rounds=9,
    requests={"1 KB": 1500, "120 KB": 600, "1 MB": 100},
    bursts=80,
    paced_streams=16,
    paced_events=500,
    single=300,
    starts=7,
    slow_events=90,
)


class Measure(Struct):
    """One line of the table."""

    title: str
    unit: str
    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Subject → one value a round."""


class Run:
    """One run of the bench: the processes that are up, and what was measured."""

    def __init__(self, plan: Plan, subjects: Sequence[Subject], directory: Path, wires: Sequence[Wire] = ()) -> None:
        self.measures: dict[str, Measure] = {}
        self.replies = 0
        """Replies that were checked; a wrong one ends the run."""
        self._plan = plan
        self._subjects = subjects
        self._wires = wires
        self._directory = directory
        self._upstream = free_port()
        self._ports: dict[str, int] = {}
        self._processes: dict[str, Process] = {}

    async def measure(self, tell: Callable[[str], None]) -> None:
        """Do everything. Raises `BenchError` where a process fails or a reply is wrong."""
        with ExitStack() as running:
            upstream = running.enter_context(start_upstream(self._directory, self._upstream))
            first = self._subjects[0].shot(1_000, "bench-whole")
            await wait_for_reply(self._upstream, first, upstream.alive)
            for number in range(self._plan.starts):
                tell(f"start-up and memory, {number + 1} of {self._plan.starts}")
                for subject in self._subjects:
                    await self._start_and_fill(subject)
            for subject in self._subjects:
                self._ports[subject.name] = self._upstream
                if subject.start is not None:
                    self._ports[subject.name] = free_port()
                    process = subject.start(self._directory, self._ports[subject.name], self._upstream)
                    self._processes[subject.name] = running.enter_context(process)
                    await self._wait(subject, process, self._ports[subject.name])
            if self._wires:
                await self._start_for_wires(running)
            for number in range(1 + self._plan.rounds):
                tell(f"round {number} of {self._plan.rounds}" if number else "warming up")
                await self._round(warming=number == 0)

    async def _round(self, *, warming: bool) -> None:
        """Measure each thing for one subject after the other, so that a busy moment of the machine hits all alike."""
        steps: list[Callable[[Subject], Awaitable[None]]] = [
            *(self._requests(size) for size in SIZES),
            self._burst("text", "event, burst of text"),
            self._burst("args", "event, burst of tool arguments"),
            self._paced,
            self._alone,
            *(step for wire in self._wires for step in (self._requests("120 KB", wire), self._wire_burst(wire))),
        ]
        kept = {
            key: {name: list(values) for name, values in line.values.items()} for key, line in self.measures.items()
        }
        for step in steps:
            for subject in self._subjects:
                await step(subject)
        if warming:
            for key, line in self.measures.items():
                line.values = defaultdict(list, kept.get(key, {}))

    async def _start_for_wires(self, running: ExitStack) -> None:
        """Start who needs other settings for the further wires; in the tables it has one name."""
        for subject in self._subjects:
            if subject.start_for_wires is None:
                continue
            port = self._ports[_for_wires(subject)] = free_port()
            process = subject.start_for_wires(self._directory, port, self._upstream)
            self._processes[_for_wires(subject)] = running.enter_context(process)
            await wait_for_reply(port, subject.shot(1_000, "bench-whole", self._wires[0]), process.alive)

    async def _start_and_fill(self, subject: Subject) -> None:
        """Start afresh, wait for the first reply, read the memory before and after many streams at once."""
        if subject.start is None:
            return
        port = free_port()
        begun = time.perf_counter()
        with subject.start(self._directory, port, self._upstream) as process:
            await self._wait(subject, process, port)
            self._note("start", "start to first reply", "s", subject, time.perf_counter() - begun)
            self._note("idle", "memory, idle", "MiB", subject, process.resident_mib())
            shot = subject.shot(SIZES["120 KB"], f"bench-text-{self._plan.slow_events}-slow")
            await self._fire(subject, fire(port, shot, count=self._plan.streams, connections=self._plan.streams))
            title = f"memory after {self._plan.streams} streams"
            self._note("filled", title, "MiB", subject, process.resident_mib())

    def _requests(self, size: str, wire: Wire | None = None) -> Callable[[Subject], Awaitable[None]]:
        key, title = f"request {size}", f"CPU per {size} request"
        if wire:
            key, title = f"{wire.name} {key}", f"{wire.name}: {title}"

        async def step(subject: Subject) -> None:
            count = self._plan.requests[size]
            spent = await self._volley(subject, subject.shot(SIZES[size], "bench-whole", wire), count, wire)
            self._note(key, title, "ms", subject, spent and spent * 1e3)

        return step

    def _wire_burst(self, wire: Wire) -> Callable[[Subject], Awaitable[None]]:
        async def step(subject: Subject) -> None:
            few, many = [
                await self._volley(subject, subject.shot(1_000, f"bench-text-{events}", wire), self._plan.bursts, wire)
                for events in (_FEW_EVENTS, _MANY_EVENTS)
            ]
            event = None if few is None or many is None else (many - few) / (_MANY_EVENTS - _FEW_EVENTS)
            title = f"{wire.name}: CPU per event, burst of text"
            self._note(f"{wire.name} burst", title, "µs", subject, event and event * 1e6)

        return step

    def _burst(self, kind: str, title: str) -> Callable[[Subject], Awaitable[None]]:
        """The slope between short and long streams is the price of an event, what is left that of a stream."""

        async def step(subject: Subject) -> None:
            spent = []
            for events in (_FEW_EVENTS, _MANY_EVENTS):
                shot = subject.shot(1_000, f"bench-{kind}-{events}")
                spent.append(await self._volley(subject, shot, self._plan.bursts))
            few, many = spent
            event = None if few is None or many is None else (many - few) / (_MANY_EVENTS - _FEW_EVENTS)
            fixed = None if few is None or event is None else few - event * _FEW_EVENTS
            if kind == "text":
                self._note("stream", "CPU per stream, without its events", "ms", subject, fixed and fixed * 1e3)
            self._note(f"burst {kind}", f"CPU per {title}", "µs", subject, event and event * 1e6)

        return step

    async def _paced(self, subject: Subject) -> None:
        plan = self._plan
        shot = subject.shot(1_000, f"bench-text-{plan.paced_events}-paced")
        volley = fire(self._ports[subject.name], shot, count=plan.paced_streams, connections=plan.paced_streams)
        spent = await self._spent(subject, volley)
        events = plan.paced_streams * plan.paced_events
        self._note("paced", "CPU per event, paced (a packet each)", "µs", subject, spent and spent / events * 1e6)

    async def _alone(self, subject: Subject) -> None:
        port, count = self._ports[subject.name], self._plan.single
        whole = fire(port, subject.shot(SIZES["120 KB"], "bench-whole"), count=count, connections=1)
        outcome = await self._fire(subject, whole)
        self._note("p50", "120 KB request, one client: p50", "ms", subject, statistics.median(outcome.seconds) * 1e3)
        slowest = statistics.quantiles(outcome.seconds, n=100)[98]
        self._note("p99", "120 KB request, one client: p99", "ms", subject, slowest * 1e3)
        stream = fire(port, subject.shot(SIZES["120 KB"], "bench-text-20"), count=count, connections=1)
        outcome = await self._fire(subject, stream)
        self._note("first", "120 KB stream: time to first token", "ms", subject, statistics.median(outcome.first) * 1e3)

    async def _volley(self, subject: Subject, shot: Shot, count: int, wire: Wire | None = None) -> float | None:
        """Return the CPU seconds that the subject used for one of `count` shots; None: it has no process of its own."""
        name = _for_wires(subject) if wire and subject.start_for_wires else subject.name
        spent = await self._spent(subject, fire(self._ports[name], shot, count=count, connections=4), name)
        return None if spent is None else spent / count

    async def _spent(self, subject: Subject, volley: Awaitable[Outcome], name: str = "") -> float | None:
        """Return the CPU seconds that the subject used for a volley; None: it has no process of its own."""
        process = self._processes.get(name or subject.name)
        before = process.cpu_seconds() if process else 0.0
        await self._fire(subject, volley)
        return process.cpu_seconds() - before if process else None

    async def _fire(self, subject: Subject, volley: Awaitable[Outcome]) -> Outcome:
        try:
            outcome = await volley
        except (BenchError, OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            process = self._processes.get(subject.name)
            raise BenchError(f"{subject.name}: {error!r}\n{process.last_words() if process else ''}") from error
        self.replies += len(outcome.seconds)
        return outcome

    async def _wait(self, subject: Subject, process: Process, port: int) -> None:
        try:
            await wait_for_reply(port, subject.shot(1_000, "bench-whole"), process.alive)
        except BenchError as error:
            raise BenchError(f"{subject.name} did not start: {error}\n{process.last_words()}") from error

    def _note(self, key: str, title: str, unit: str, subject: Subject, value: float | None) -> None:
        if value is not None:
            self.measures.setdefault(key, Measure(title, unit)).values[subject.name].append(value)


def _for_wires(subject: Subject) -> str:
    return f"{subject.name}, for wires"
