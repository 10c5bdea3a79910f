"""`python -m bench.flame [ROW] [--seconds N] [--out FILE]`: where the proxy's time goes in a row of the tables.

The proxy serves the requests of that row while it samples itself (`bench.sampling`, Linux). Printed are the steps and
the functions with their microseconds; the flame graph goes to a file.
"""

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from xml.sax.saxutils import escape

from msgspec import Struct, field, structs

from bench.budget import BUDGETED, WORK, Profile, Work
from bench.load import BenchError, RequestSample, fire, wait_for_reply
from bench.processes import Process, free_port
from bench.results import Results
from bench.scenario import Report
from bench.subjects import CHECKOUT, DIRECT, PROXY, bare_environment, start_upstream
from bench.wires import CHAT

_WIDTH, _ROW, _NARROWEST = 1200, 17, 2.0
_CHARACTER = 6.6
"""Pixels of a letter."""
_ROOT = "Runner.run (asyncio/runners.py)"
_MAX_WAITS = 100
"""Tenths of a second that the samples are waited for."""
_SLICES = 10
"""Slices of the time without sampling; their median is reported."""
_FUNCTIONS = 30
"""Number of functions that are printed."""
_FILLS = ("#d1242f", "#bf8700", "#1a7f37", "#0969da", "#8250df", "#bf3989", "#1b7c83", "#9a6700")
_STYLE = "text{font:11px ui-monospace,monospace;fill:#fff}.t{font:15px system-ui,sans-serif;fill:#57606a}" + "".join(
    f".c{number}{{fill:{fill}}}" for number, fill in enumerate(_FILLS)
)


class Node(Struct):
    """A function with those above it in the stack."""

    samples: int = 0
    callees: dict[str, "Node"] = field(default_factory=dict)


async def measure_profiles(results: Results, report: Report, *, seconds: float, keep: Callable[[], object]) -> None:
    """Add to a run's results the profiles that they lack; `keep` after each. Raises `BenchError`."""
    for key, title in BUDGETED.items():
        if key not in results.profiles:
            report(f"profile: {title}")
            with tempfile.TemporaryDirectory(prefix="bench-") as directory:
                results.profiles[key] = await sample(WORK[key], seconds, Path(directory))
            keep()


async def sample(work: Work, seconds: float, directory: Path) -> Profile:
    """Serve for so long without sampling, for the time, and again with it, for the shares. Raises `BenchError`."""
    stacks, upstream, port = directory / "stacks.txt", free_port(), free_port()
    (directory / "sitecustomize.py").write_text("import bench.sampling\n")
    with ExitStack() as running:
        provider = running.enter_context(start_upstream(directory, upstream))
        await wait_for_reply(upstream, DIRECT.shot(1_000, "bench-whole"), provider.alive)
        proxy = running.enter_context(_start(directory, port, upstream, stacks))
        await wait_for_reply(port, PROXY.shot(1_000, "bench-whole"), proxy.alive)
        shot = PROXY.shot(work.size, work.reply)
        await _serve(port, shot, 0.5, work.connections)
        spent = statistics.median(
            [await _cost(proxy, port, shot, seconds / _SLICES, work.connections) for _ in range(_SLICES)]
        )
        proxy.send_signal(signal.SIGUSR2)
        await _serve(port, shot, seconds, work.connections)
        proxy.send_signal(signal.SIGUSR2)
        await _wait_for_stacks(stacks, proxy, port, shot, work.connections)
    return Profile(work=work, micros=1e6 * spent / work.events, stacks=dict(_read(stacks)))


async def _wait_for_stacks(stacks: Path, proxy: Process, port: int, shot: RequestSample, connections: int) -> None:
    """Serve until the file of the samples is there. Raises `BenchError` with the process's last words if it never is.

    Python handles a signal between two of its own instructions, so a process that is idle or waits for a core does so
    late.
    """
    for _ in range(_MAX_WAITS):
        if os.path.exists(stacks):  # noqa: ASYNC240  # a look at a file in memory
            return
        if not proxy.alive():
            break
        await _serve(port, shot, 0.1, connections)
    raise BenchError(f"the proxy wrote no samples to {stacks.name}:\n{proxy.last_words()}")


def _start(directory: Path, port: int, upstream: int, stacks: Path) -> Process:
    variables = {name: value.format(origin=f"http://127.0.0.1:{upstream}") for name, value in CHAT.settings.items()}
    paths = {"PYTHONPATH": os.pathsep.join((str(directory), str(CHECKOUT))), "BENCH_STACKS": str(stacks)}
    command = [sys.executable, "-m", "anthropic_proxy", "serve", "--port", str(port)]
    return Process(command, directory, {**bare_environment(), **paths, **variables}, "proxy", directory)


async def _cost(proxy: Process, port: int, shot: RequestSample, seconds: float, connections: int) -> float:
    """Return the CPU seconds of one request."""
    before = proxy.cpu_seconds()
    served = await _serve(port, shot, seconds, connections)
    return (await proxy.settle() - before) / served


async def _serve(port: int, shot: RequestSample, seconds: float, connections: int) -> int:
    """Have requests served for so long; return how many."""
    end, served, count = time.monotonic() + seconds, 0, max(40, connections)
    while time.monotonic() < end:
        await fire(port, shot, count=count, connections=connections)
        served += count
    return served


def _read(file: Path) -> Iterator[tuple[str, int]]:
    for line in file.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        yield ";".join(frames[frames.index(_ROOT) :] if _ROOT in frames else frames), int(count)


def draw(profile: Profile) -> str:
    """Return the flame graph: the width of a function is the time of the function and its calls."""
    root = Node()
    for stack, count in profile.stacks.items():
        node = root
        node.samples += count
        for name in stack.split(";"):
            node = node.callees.setdefault(name, Node())
            node.samples += count
    scale = _WIDTH / root.samples
    rows = list(_lay_out(root, 0.0, 0, scale))
    height = (max(row for _, _, row, _ in rows) + 1) * _ROW + 40
    cells = "".join(_cell(*row, scale=scale, micros=profile.micros / root.samples) for row in rows)
    asked = profile.work
    title = f"{profile.micros:.3g} µs of CPU: {asked.size:,} bytes, {asked.reply}, {asked.connections} at once"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{title}">'
        f"<style>{_STYLE}</style>"
        f'<text class="t" x="4" y="20">{title}</text><g transform="translate(0 32)">{cells}</g></svg>\n'
    )


def _lay_out(node: Node, left: float, row: int, scale: float) -> Iterator[tuple[str, float, int, Node]]:
    """Yield function, left edge, row and samples of each rectangle that can be seen."""
    for name, callee in sorted(node.callees.items()):
        if callee.samples * scale >= _NARROWEST:
            yield name, left, row, callee
            yield from _lay_out(callee, left, row + 1, scale)
        left += callee.samples * scale


def _cell(name: str, left: float, row: int, node: Node, *, scale: float, micros: float) -> str:
    width, top = node.samples * scale, row * _ROW
    function, _, place = name.partition(" (")
    colour = sum("/".join(place.split("/")[:2]).encode()) % len(_FILLS)
    fits = int(width / _CHARACTER) - 1
    shown = function if len(function) <= fits else function[: fits - 1] + "…" if fits > 3 else ""
    label = f'<text x="{left + 3:.0f}" y="{top + 12}">{escape(shown)}</text>' if shown else ""
    return (
        f"<g><title>{escape(name)}: {node.samples * micros:.1f} µs</title>"
        f'<rect class="c{colour}" x="{left:.1f}" y="{top}" width="{width - 0.5:.1f}" height="{_ROW - 1}"/>{label}</g>'
    )


def write_profile(profile: Profile) -> str:
    """Return the microseconds of each step and of the functions that take the most, for a terminal."""
    lines = [f"{micros:9.2f}  {step}" for step, micros in profile.steps().most_common()]
    for title, with_callees in (("by itself", False), ("with what it calls", True)):
        found = profile.functions(with_callees=with_callees).most_common(_FUNCTIONS)
        lines += ["", f"{'µs':>9}  function, {title}", *(f"{micros:9.2f}  {name}" for name, micros in found)]
    return "\n".join([f"{profile.micros:9.2f}  µs of CPU in all, of which", *lines])


def main() -> int:
    """Sample, draw and print."""
    parser = argparse.ArgumentParser(prog="bench.flame", description="Where the proxy's time goes.")
    parser.add_argument("row", nargs="?", choices=WORK, default="120 KB", help="what is measured (default: 120 KB)")
    parser.add_argument("--size", type=int, help="bytes of a request, instead of the row's")
    parser.add_argument("--reply", help="what is answered, as bench.replies names it, instead of the row's")
    parser.add_argument("--seconds", type=float, default=10.0, help="without sampling, and as long with it")
    parser.add_argument("--out", type=Path, default=Path("flame.svg"), help="the flame graph")
    chosen = parser.parse_args()
    import uvloop  # noqa: PLC0415  # not on Windows, where tests import this module

    work = WORK[chosen.row]
    work = structs.replace(work, size=chosen.size or work.size, reply=chosen.reply or work.reply)
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        try:
            profile = uvloop.run(sample(work, chosen.seconds, Path(directory)))
        except BenchError as error:
            print(f"✕ {error}", file=sys.stderr)
            return 1
    chosen.out.write_text(draw(profile))
    print(write_profile(profile))
    print(f"\n{sum(profile.stacks.values()):,} samples; {chosen.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
