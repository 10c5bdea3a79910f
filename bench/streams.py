"""Thousands of slow streams at once, and thousands of requests one after the other.

`python -m bench.streams [--streams N] [--requests N] [--bytes N]` reports the memory of a stream, the waits of other
requests meanwhile, and the memory that remains at the end. Every reply is checked; it asserts no figure.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import uvloop
from msgspec import Struct, field

from anthropic_proxy.gateway.platforms.processes import raise_fd_limit
from bench.load import BenchError, Outcome, RequestSample, fire, wait_for_reply
from bench.processes import Process, free_port
from bench.replies import IDLE_PAUSE_SECONDS
from bench.subjects import DIRECT, PROXY, start_upstream

STEPS = 5
"""Groups in which the streams begin: memory is read after each, and its slope is the memory of one stream."""
SETTLING_SECONDS = 3.0
CONNECTIONS = 20
"""Of the requests one after the other."""


class Figures(Struct):
    """Result of one run."""

    points: list[tuple[int, float]] = field(default_factory=list)
    """Streams under way, and the memory then, in KiB."""
    waits: list[float] = field(default_factory=list)
    """Of other requests meanwhile, in seconds."""
    first: list[float] = field(default_factory=list)
    """Until the first piece of each stream, in seconds."""
    before: float = 0.0
    after: float = 0.0
    """Memory in MiB around the requests one after the other."""
    whole: int = 0

    @property
    def slope(self) -> float:
        """KiB a stream."""
        return statistics.linear_regression(*zip(*self.points, strict=True)).slope


async def measure(streams: int, requests: int, size: int, directory: Path) -> Figures:
    """Do both. Raises `BenchError` if a stream is lost or differs from the sent one."""
    figures, upstream, port = Figures(), free_port(), free_port()
    assert PROXY.start is not None
    with start_upstream(directory, upstream) as provider, PROXY.start(directory, port, upstream) as proxy:
        quick = PROXY.shot(1_000, "bench-whole")
        await wait_for_reply(upstream, DIRECT.shot(1_000, "bench-whole"), provider.alive)
        await wait_for_reply(port, quick, proxy.alive)
        await fire(port, quick, count=200, connections=CONNECTIONS)
        await _stream(port, proxy, streams, size, figures)
        await fire(port, quick, count=requests, connections=CONNECTIONS)
        figures.before = proxy.resident_mib()
        await fire(port, quick, count=requests, connections=CONNECTIONS)
        figures.after = proxy.resident_mib()
        if "Traceback" in proxy.log.read_text():
            raise BenchError(proxy.last_words())
    return figures


async def _stream(port: int, proxy: Process, streams: int, size: int, figures: Figures) -> None:
    seconds = (STEPS + 2) * SETTLING_SECONDS + streams / 200
    slow = PROXY.shot(size, f"bench-text-{round(seconds / IDLE_PAUSE_SECONDS)}-idle")
    outcome, running = Outcome(), []
    figures.points.append((0, proxy.resident_mib() * 1024))
    others = asyncio.create_task(_wait_beside(port, PROXY.shot(1_000, "bench-whole"), figures.waits))
    for step in range(STEPS):
        share = streams * (step + 1) // STEPS - streams * step // STEPS
        running.append(asyncio.create_task(fire(port, slow, count=share, connections=share, outcome=outcome)))
        await asyncio.sleep(SETTLING_SECONDS)
        figures.points.append((streams * (step + 1) // STEPS, proxy.resident_mib() * 1024))
    await asyncio.gather(*running)
    others.cancel()
    figures.whole, figures.first = len(outcome.seconds), outcome.first


async def _wait_beside(port: int, shot: RequestSample, waits: list[float]) -> None:
    while True:
        outcome = await fire(port, shot, count=1, connections=1)
        waits += outcome.seconds
        await asyncio.sleep(0.05)


def main() -> int:
    """Measure and print; 1 where a reply was wrong."""
    parser = argparse.ArgumentParser(prog="bench.streams", description="What thousands of slow streams cost.")
    parser.add_argument("--streams", type=int, default=2_000, help="at once")
    parser.add_argument("--requests", type=int, default=3_000, help="one after the other, after as many to warm up")
    parser.add_argument("--bytes", type=int, default=1_000, help="of each stream's request")
    chosen = parser.parse_args()
    raise_fd_limit()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        try:
            figures = uvloop.run(measure(chosen.streams, chosen.requests, chosen.bytes, Path(directory)))
        except BenchError as error:
            print(f"✕ {error}", file=sys.stderr)
            return 1
    waits = sorted(figures.waits)
    print(
        f"{figures.whole:,} of {chosen.streams:,} streams whole, requests of {chosen.bytes:,} bytes\n"
        f"{figures.slope:8.1f} KiB a stream, above {figures.points[0][1] / 1024:.1f} MiB; "
        f"{', '.join(f'{memory / 1024:.0f}' for _, memory in figures.points[1:])} MiB on the way\n"
        f"{waits[-1] * 1000:8.0f} ms the longest wait of {len(waits):,} other requests meanwhile, "
        f"{statistics.median(waits) * 1000:.0f} ms the median\n"
        f"{max(figures.first) * 1000:8.0f} ms the longest wait for a stream's first piece\n"
        f"{figures.after - figures.before:8.1f} MiB more after {chosen.requests:,} requests\n"
        f"{time.monotonic() - begun:8.0f} s in all"
    )
    return 0 if figures.whole == chosen.streams else 1


if __name__ == "__main__":
    sys.exit(main())
