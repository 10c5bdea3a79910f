"""Growth of cost: with the size of a body, the length of a stream, the number of open streams and of workers."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from msgspec import structs

from bench.load import BenchError, RequestSample, fire, wait_for_reply
from bench.other_gateways import find_other_gateways_with_workers
from bench.processes import Process, free_port
from bench.results import Line, Results, fit
from bench.scenario import Report
from bench.streams import measure as measure_streams
from bench.subjects import DIRECT, NGINX, PROXY, Subject, nginx_is_here, start_nginx, start_proxy, start_upstream

_SIZES = (1_000, 30_000, 120_000, 500_000, 1_000_000, 2_000_000, 4_000_000, 8_000_000)
_LENGTHS = (10, 100, 300, 1_000, 3_000, 10_000)
_BYTES_PER_POINT = 24_000_000
_EVENTS_PER_POINT = 60_000
_MAX_PER_POINT = 200
_OPEN_STREAMS = 2_000
_CONNECTIONS = 64
"""Of the clients that want as much as they can get."""

_OPEN = (
    ("open_streams", 1_000, "open streams of 1 KB"),
    ("open_large_streams", 120_000, "open streams of 120 KB"),
)
"""Key, bytes of each request, title."""
_Rates = dict[str, dict[str, float]]
_Found = dict[tuple[str, str, int], list[float]]
"""Measure, subject, size or length → one value a round."""


async def measure_scaling(
    results: Results, directory: Path, report: Report, *, quick: bool, keep: Callable[[], object]
) -> None:
    """Add to a run's results the lines and the throughput that they lack; `keep` after each. Raises `BenchError`."""
    there = {line.key for line in results.lines}
    if "size_cpu" not in there:
        results.lines += await _measure_growth(directory, report, 2 if quick else 5)
        keep()
    for key, size, title in _OPEN:
        if key not in there:
            report(title)
            results.lines.append(await _measure_open(key, size, title, _OPEN_STREAMS // 4 if quick else _OPEN_STREAMS))
            keep()
    if not results.throughput:
        rounds, seconds = (2, 1.0) if quick else (3, 3.0)
        results.throughput = await _measure_throughput(directory, report, rounds, seconds=seconds)
        keep()


async def _measure_open(key: str, size: int, title: str, streams: int) -> Line:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        figures = await measure_streams(streams, 500, size, Path(directory))
    points = [(float(count), memory / 1024) for count, memory in figures.points]
    return Line(key=key, title=title, x="stream", y="MiB", points={PROXY.name: points}, fits={PROXY.name: fit(points)})


async def _measure_growth(directory: Path, report: Report, rounds: int) -> list[Line]:
    """Measure CPU and peak memory over size and length, everybody and every point in each round."""
    who = [NGINX, PROXY] if nginx_is_here() else [PROXY]
    found: _Found = {}
    upstream = free_port()
    with start_upstream(directory, upstream) as provider:
        await wait_for_reply(upstream, DIRECT.shot(1_000, "bench-whole"), provider.alive)
        for number in range(rounds):
            report(f"growth: round {number + 1} of {rounds}")
            for subject in who:
                for what, measure, places in (
                    ("size", _cost_of_size, _SIZES),
                    ("length", _cost_of_length, _LENGTHS),
                ):
                    async with _Fresh(subject, directory, upstream) as (process, port):
                        for place in places:  # ascending: what a large one leaves behind is not counted to a small one
                            cpu, peak = await measure(subject, process, port, place)
                            found.setdefault((f"{what} cpu", subject.name, place), []).append(cpu)
                            found.setdefault((f"{what} memory", subject.name, place), []).append(peak)
    return [
        _line(found, who, "size cpu", "CPU per request", "MB"),
        _line(found, who, "size memory", "Peak memory, one request at a time", "MB"),
        _line(found, who, "length cpu", "CPU per stream", "event"),
        _line(found, who, "length memory", "Peak memory, one stream at a time", "event"),
    ]


class _Fresh:
    """A process started for one series, so that the series before leaves nothing in it."""

    def __init__(self, subject: Subject, directory: Path, upstream: int) -> None:
        assert subject.start is not None
        self._subject, self._port = subject, free_port()
        self._process = subject.start(directory, self._port, upstream)

    async def __aenter__(self) -> tuple[Process, int]:
        shot = self._subject.shot(1_000, "bench-whole")
        await wait_for_reply(self._port, shot, self._process.alive)
        await fire(self._port, shot, count=200, connections=1)
        return self._process, self._port

    async def __aexit__(self, *error: object) -> None:
        self._process.__exit__(*error)


async def _cost_of_size(subject: Subject, process: Process, port: int, size: int) -> tuple[float, float]:
    count = min(max(_BYTES_PER_POINT // size, 3), _MAX_PER_POINT)
    return await _cost(process, port, subject.shot(size, "bench-whole"), count)


async def _cost_of_length(subject: Subject, process: Process, port: int, events: int) -> tuple[float, float]:
    count = min(max(_EVENTS_PER_POINT // events, 3), _MAX_PER_POINT)
    return await _cost(process, port, subject.shot(1_000, f"bench-text-{events}"), count)


async def _cost(process: Process, port: int, shot: RequestSample, count: int) -> tuple[float, float]:
    """Return the CPU seconds of one, and the most memory meanwhile in MiB."""
    await fire(port, shot, count=1, connections=1)
    process.forget_peak()
    before = process.cpu_seconds()
    await fire(port, shot, count=count, connections=1)
    return (await process.settle() - before) / count, process.peak_mib()


def _line(found: _Found, who: Sequence[Subject], key: str, title: str, x: str) -> Line:
    over_size, is_cpu = key.startswith("size"), key.endswith("cpu")
    points = {
        subject.name: [
            (place / 1e6 if over_size else place, statistics.median(values) * (1e3 if is_cpu else 1))
            for (what, name, place), values in found.items()
            if (what, name) == (key, subject.name)
        ]
        for subject in who
    }
    fits = {name: fit(places) for name, places in points.items()}
    return Line(key=key.replace(" ", "_"), title=title, x=x, y="ms" if is_cpu else "MiB", points=points, fits=fits)


async def _measure_throughput(directory: Path, report: Report, rounds: int, *, seconds: float) -> _Rates:
    """Ask as fast as replies come, 120 KB each: the load and the upstream share the cores with the measured subject."""
    rates: dict[str, list[tuple[float, float]]] = {}
    upstream = free_port()
    with start_upstream(directory, upstream) as provider:
        await wait_for_reply(upstream, DIRECT.shot(1_000, "bench-whole"), provider.alive)
        for number in range(rounds):
            report(f"throughput: round {number + 1} of {rounds}")
            for workers in (1, 2):
                for subject in _with_workers(workers):
                    try:
                        rate = await _rate(subject, directory, upstream, seconds)
                    except BenchError as error:
                        if not subject.optional:
                            raise
                        report(f"{subject.name}: {error}")
                    else:
                        rates.setdefault(f"{subject.name}, {workers}", []).append(rate)
    return {
        name: {
            "requests per second": statistics.median(rate for rate, _ in found),
            "requests per CPU second": statistics.median(per_cpu for _, per_cpu in found),
        }
        for name, found in rates.items()
    }


def _with_workers(workers: int) -> list[Subject]:
    """Return the subjects that can be started with so many workers."""
    found = [structs.replace(PROXY, start=partial(start_proxy, options=("--workers", str(workers))))]
    if nginx_is_here():
        found = [structs.replace(NGINX, start=partial(start_nginx, workers=workers)), *found]
    return [*found, *find_other_gateways_with_workers(workers)]


async def _rate(subject: Subject, directory: Path, upstream: int, seconds: float) -> tuple[float, float]:
    """Return how many replies come in a second, and in one of CPU."""
    assert subject.start is not None
    port = free_port()
    shot, count = subject.shot(120_000, "bench-whole"), max(round(512 * subject.share), _CONNECTIONS)
    with subject.start(directory, port, upstream) as process:
        await wait_for_reply(port, subject.shot(1_000, "bench-whole"), process.alive)
        await fire(port, shot, count=2 * _CONNECTIONS, connections=_CONNECTIONS)  # every worker has seen some
        done, begun, before = 0, time.perf_counter(), process.cpu_seconds()
        while time.perf_counter() - begun < seconds:
            await fire(port, shot, count=count, connections=_CONNECTIONS)
            done += count
        return done / (time.perf_counter() - begun), done / (process.cpu_seconds() - before)
