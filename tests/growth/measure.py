"""Measurement of one row: its work and memory at n, 2n and 4n, and the growth between them."""

import asyncio
import functools
import gc
import os
import re
import time
import tracemalloc
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from multiprocessing import get_context

from msgspec import Struct

from tests.growth import work

SIZES = (1, 2, 4)
"""Multiples of n."""
MAX_GROWTH = 2.6
"""Bound of (work at 4n - work at 2n) / (work at 2n - work at n): linear work has 2, quadratic 4, cubic 8."""
MAX_MEMORY_GROWTH = 3.2
"""The same bound for memory, which grows in steps because tables double."""
DOUBTFUL_GROWTH = 2.3
"""Growth of steps or units from which a row is measured at larger sizes: a small quadratic part shows there."""
NOISE_STEPS, NOISE_UNITS, NOISE_BYTES = 1_500, 30_000, 200_000
"""Differences below these are constant work."""
MAX_TIME_RATIO = 8
"""Bound of (time at 4n) / (time at n), where linear work has 4 and quadratic 16."""
TIME_TRIES = 6
DEFECT_TRIES = 3
NOISE_CHARACTERS = 32_000
"""Times below that of a search for each character of a text of this length are not compared."""
WARM_UP = 3
"""Size of the input of a first run, which fills the caches that do not depend on the input."""

Run = Callable[[], Awaitable[str]]
"""One operation; returns its outcome: `served`, or the text of the rejection."""
Build = Callable[[int], Run]
"""Builds the input of size n and returns the operation on it."""
NO_WIRE = ("-",)
"""Stands for a part that all wires share."""


class Row(Struct, frozen=True):
    """One dimension of input and the wires that it affects."""

    name: str
    wires: Sequence[str]
    of_wire: Callable[[str], Build]
    n: int = 200
    """The size of the input; also measured: 2n and 4n."""
    max_steps: float = 0.0
    """Upper bound of steps for one more of n; 0: none."""
    timed: Sequence[Build] = ()
    """Operations whose processor time is compared too: the backtracking of regular expressions cannot be counted."""


Measurement = tuple[Row, str]
"""A row and one of its wires."""


class Sample(Struct, frozen=True):
    """Work and memory of one run."""

    steps: int
    units: int
    memory: int
    """Bytes that Python held at most, beyond those held before."""
    outcome: str


class Growth(Struct, frozen=True):
    """The samples of one row at n, 2n and 4n."""

    n: int
    samples: tuple[Sample, ...]
    max_steps: float = 0.0
    time_ratio: float = 0.0
    """Highest processor time at 4n in times at n; 0: none was measured."""

    def _ratio(self, field: str, noise: int) -> float:
        first, second, third = (getattr(sample, field) for sample in self.samples)
        # the second may be rejected early, and the first not: then it is compared with half of its own size
        step = second - first if second >= first else second / 2
        return 0.0 if third - second < noise else (third - second) / max(step, noise / 4)

    @property
    def ratios(self) -> tuple[float, float, float]:
        """Growth of steps, units and memory; 2: linear, 0: constant."""
        return (
            self._ratio("steps", NOISE_STEPS),
            self._ratio("units", NOISE_UNITS),
            self._ratio("memory", NOISE_BYTES),
        )

    @property
    def outcome(self) -> str:
        """The outcome at 4n."""
        return self.samples[-1].outcome

    @property
    def is_doubtful(self) -> bool:
        """True if larger sizes may show another growth."""
        return max(self.ratios[:2]) > DOUBTFUL_GROWTH or bool(self.find_defect())

    def find_defect(self) -> str:
        """Return why the row fails; "": it is linear, or rejected with a clear error."""
        bounds = {"steps": MAX_GROWTH, "units": MAX_GROWTH, "memory": MAX_MEMORY_GROWTH}
        steep = [
            f"{name} grow {ratio:.1f} times"
            for (name, bound), ratio in zip(bounds.items(), self.ratios, strict=True)
            if ratio > bound
        ]
        if self.time_ratio > MAX_TIME_RATIO:
            steep.append(f"four times the size takes {self.time_ratio:.0f} times as long")
        steps = (self.samples[2].steps - self.samples[1].steps) / (2 * self.n)
        if self.max_steps and steps > self.max_steps:
            steep.append(f"{steps:.1f} steps for one more")
        broken = [sample.outcome for sample in self.samples if sample.outcome.startswith("500")]
        return "; ".join(steep + broken[:1])

    def __str__(self) -> str:
        defect = self.find_defect()
        ratios = " ".join(f"{ratio:4.1f}" for ratio in self.ratios)
        return f"{ratios}  {self.outcome[:60]}{'  FAILS: ' if defect else ''}{defect}"


def measure(row: Row, wire: str) -> Growth:
    """Run an operation at n, 2n and 4n and count its work; where the growth is doubtful, again from 4n on.

    Steep growth between two sizes may be another path, which is taken from some size on: work that a thread restarts
    costs its steps on the event loop once more. That does not come twice, while quadratic work is steeper there. Steep
    memory may be a text that a thread held a moment longer, so a defect has to come each time.
    """
    build = row.of_wire(wire)
    growth = _measure(row, build, row.n)
    if growth.is_doubtful:
        for _ in range(DEFECT_TRIES):
            growth = _measure(row, build, 4 * row.n)
            if not growth.find_defect():
                break
    return growth


def _measure(row: Row, build: Build, n: int) -> Growth:
    samples = tuple(asyncio.run(_sample(build, n * size)) for size in SIZES)
    time_ratio = max((_compare_times(build(n), build(4 * n)) for build in row.timed), default=0.0)
    return Growth(n, samples, row.max_steps, time_ratio)


@functools.cache
def _caches() -> list[Callable[[], None]]:
    """Return the functions that empty the caches of the package."""
    from anthropic_proxy.engine.messages.work_budget import WorkCache  # after its code is rewritten

    functions = functools._lru_cache_wrapper
    found = list[Callable[[], None]]()
    for each in gc.get_objects():
        if type(each) is functions and each.__module__.startswith("anthropic_proxy"):
            found.append(each.cache_clear)
        elif isinstance(each, WorkCache):
            found.append(each.kept.clear)
    return found


async def _sample(build: Build, n: int) -> Sample:
    """Measure a run with empty caches, apart from what any input loads.

    Without the first run, the memory for reading the lists of models would hide that of a smaller input.
    """
    first, run = build(WARM_UP), build(n)
    for empty in _caches():
        empty()
    await first()
    gc.collect()
    gc.disable()
    tracemalloc.start(1)
    try:
        before = list(work.METER)
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        outcome = await run()
        memory = tracemalloc.get_traced_memory()[1] - held
        steps, units = (now - then for now, then in zip(work.METER, before, strict=True))
        return Sample(steps, units, memory, outcome)
    finally:
        tracemalloc.stop()
        gc.enable()


def _compare_times(small: Run, large: Run) -> float:
    """Return the ratio of the shortest times: another process may make each run longer, and none makes it shorter."""
    best, noise = [float("inf"), float("inf")], float("inf")
    for _ in range(TIME_TRIES):
        noise = min(noise, time_plain_search(NOISE_CHARACTERS))
        for place, run in enumerate((small, large)):
            start = time.thread_time()
            asyncio.run(run())
            best[place] = min(best[place], time.thread_time() - start)
        if best[1] < MAX_TIME_RATIO * max(best[0], noise):
            break
    return best[1] / max(best[0], noise)


def time_plain_search(characters: int) -> float:
    """Return the processor time in seconds in which this machine finds each character of a text by a plain search.

    It is the unit of all bounds of times, so that they hold on slow and fast machines.
    """
    pattern, text = re.compile("a"), "a" * characters
    start = time.thread_time()
    deque(pattern.finditer(text), 0)
    return time.thread_time() - start


_to_measure: list[Measurement] = []
"""The measurements of a worker process. Operations cannot be sent to a process; a forked one has them already."""


def measure_all(measurements: Sequence[Measurement]) -> Iterator[Growth | str]:
    """Yield the growth of each, measured in several processes, or how it ended with an exception."""
    workers = min(os.cpu_count() or 1, 4)
    with get_context("fork").Pool(workers, _to_measure.extend, (measurements,), maxtasksperchild=40) as pool:
        yield from pool.imap(_measure_at, range(len(measurements)))


def _measure_at(place: int) -> Growth | str:
    try:
        return measure(*_to_measure[place])
    except Exception as error:  # noqa: BLE001  # the other measurements go on
        return f"FAILS: {type(error).__name__}: {error}"
