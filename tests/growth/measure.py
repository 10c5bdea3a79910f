"""Measurement of one row: its work and memory at n, 2n and 4n, and the growth between them."""

import asyncio
import functools
import gc
import json
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

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
WARM_UP = 3
"""Size of the input of a first run, which fills caches."""

Run = Callable[[], Awaitable[str]]
"""One operation; returns its outcome: `served`, or the text of the rejection."""
Build = Callable[[int], Run]
"""Builds the input of size n and returns the operation on it."""


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

    def ratio(self, field: str, noise: int) -> float:
        """Return the growth of a field; 2: linear, 0: constant."""
        first, second, third = (getattr(sample, field) for sample in self.samples)
        return 0.0 if third - second < noise else (third - second) / max(second - first, noise / 4)

    @property
    def ratios(self) -> tuple[float, float, float]:
        """Growth of steps, units and memory."""
        return (self.ratio("steps", NOISE_STEPS), self.ratio("units", NOISE_UNITS), self.ratio("memory", NOISE_BYTES))

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
        names = ("steps", "units", "memory")
        bounds = (MAX_GROWTH, MAX_GROWTH, MAX_MEMORY_GROWTH)
        steep = [
            f"{name} grow {ratio:.1f} times"
            for name, ratio, bound in zip(names, self.ratios, bounds, strict=True)
            if ratio > bound
        ]
        broken = [sample.outcome for sample in self.samples if sample.outcome.startswith("500")]
        return "; ".join(steep + broken[:1])


def measure(build: Build, n: int) -> Growth:
    """Run an operation at n, 2n and 4n and count its work; where the growth is doubtful, again from 4n on.

    Steep growth between two sizes may be another path, which is taken from some size on: work that a thread restarts
    costs its steps on the event loop once more. That does not come twice, while quadratic work is steeper there.
    """
    asyncio.run(_sample(build, WARM_UP))
    growth = _measure(build, n)
    return _measure(build, 4 * n) if growth.is_doubtful else growth


def _measure(build: Build, n: int) -> Growth:
    return Growth(n, tuple(asyncio.run(_sample(build, n * size)) for size in SIZES))


@functools.cache
def _caches() -> list[Any]:
    kind = functools._lru_cache_wrapper
    return [
        found for found in gc.get_objects() if type(found) is kind and found.__module__.startswith("anthropic_proxy")
    ]


async def _sample(build: Build, n: int) -> Sample:
    run = build(n)
    for cached in _caches():
        cached.cache_clear()
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


def read_outcome(status: int, body: bytes) -> str:
    """Return `served`, or the status and message of an error, in a body or in a stream."""
    if status < 400:
        place = body.rfind(b"event: error\ndata: ")
        if place < 0:
            return "served"
        event: Any = json.loads(body[place:].split(b"data: ", 1)[1].split(b"\n", 1)[0])
        return f"error event: {event['error']['message']}"
    return f"{status}: {json.loads(body)['error']['message']}"
