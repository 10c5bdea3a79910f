"""`python -m bench.flame [--seconds N] [--out FILE]`: where the proxy's time goes, as a flame graph and as a budget.

The proxy serves requests of 120 KB, whole and streamed, while it samples itself (`bench.sampling`, Linux). The budget
says what each part of a request takes by itself: what it calls in another part counts there.
"""

import argparse
import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from xml.sax.saxutils import escape

import uvloop
from msgspec import Struct, field

from bench.load import Shot, fire, wait_for_reply
from bench.processes import Process, free_port
from bench.subjects import CHECKOUT, DIRECT, PROXY, bare_environment, start_upstream
from bench.wires import CHAT

SIZE = 120_000
REPLIES = ("bench-whole", "bench-text-20")
OUT = CHECKOUT / "docs" / "performance" / "flame.svg"
_WIDTH, _ROW, _NARROWEST = 1200, 17, 2.0
_CHARACTER = 6.6
"""Pixels of a letter."""
_ROOT = "Runner.run (asyncio/runners.py)"
_PARTS = (
    ("the event loop, the kernel's part of reading and writing", r"Runner\.run|HeadWithBody\.write|Connection\.ask"),
    ("the door: HTTP from the client, the guard, the answer's head", r"anthropic_proxy/(?:server|app)|uvicorn/"),
    ("reading the request", r"anthropic_proxy/(?:messages/types|exchange/reading)"),
    ("routing, credentials, what was learned", r"anthropic_proxy/routing"),
    ("preparing it", r"anthropic_proxy/(?:messages/prepare|exchange/limits|messages/notes)"),
    ("counting its tokens, for a stream's beginning", r"anthropic_proxy/messages/tokens"),
    ("decoding the answer", r"stream\.py|chunks\.py|recover|framing|late_thinking|exchange/answer|carry|mending"),
    ("encoding it for the provider", r"anthropic_proxy/wire"),
    ("HTTP to the provider", r"anthropic_proxy/upstream"),
    ("writing the reply", r"anthropic_proxy/messages/(?:writer|events|fold|usage|deltas)"),
    ("the log", r"anthropic_proxy/(?:log|redaction)"),
    ("the corridor: nine steps, watching, ways", r"anthropic_proxy/"),
)
"""Part → what its functions are called; the first that fits."""
_REST = "asyncio and the standard library"
_FILLS = ("#d1242f", "#bf8700", "#1a7f37", "#0969da", "#8250df", "#bf3989", "#1b7c83", "#9a6700")
_STYLE = "text{font:11px ui-monospace,monospace;fill:#fff}.t{font:15px system-ui,sans-serif;fill:#57606a}" + "".join(
    f".c{number}{{fill:{fill}}}" for number, fill in enumerate(_FILLS)
)


class Node(Struct):
    """A function with those above it in the stack."""

    samples: int = 0
    callees: dict[str, "Node"] = field(default_factory=dict)


async def sample(seconds: float, directory: Path) -> tuple[Counter[tuple[str, ...]], float]:
    """Return stacks with their samples, and the CPU seconds that one request took."""
    stacks, upstream, port = directory / "stacks.txt", free_port(), free_port()
    (directory / "sitecustomize.py").write_text("import bench.sampling\n")
    with ExitStack() as running:
        provider = running.enter_context(start_upstream(directory, upstream))
        await wait_for_reply(upstream, DIRECT.shot(1_000, "bench-whole"), provider.alive)
        proxy = running.enter_context(_start(directory, port, upstream, stacks))
        await wait_for_reply(port, PROXY.shot(1_000, "bench-whole"), proxy.alive)
        shots = [PROXY.shot(SIZE, reply) for reply in REPLIES]
        await _serve(port, shots, 1)
        proxy.tell(signal.SIGUSR2)
        before = proxy.cpu_seconds()
        served = await _serve(port, shots, seconds)
        spent = (proxy.cpu_seconds() - before) / served
        proxy.tell(signal.SIGUSR2)
        await _serve(port, shots, 0.1)
    return Counter(dict(_read(stacks))), spent


def _start(directory: Path, port: int, upstream: int, stacks: Path) -> Process:
    said = {name: value.format(origin=f"http://127.0.0.1:{upstream}") for name, value in CHAT.settings.items()}
    paths = {"PYTHONPATH": os.pathsep.join((str(directory), str(CHECKOUT))), "BENCH_STACKS": str(stacks)}
    command = [sys.executable, "-m", "anthropic_proxy", "serve", "--port", str(port)]
    return Process(command, directory, {**bare_environment(), **paths, **said}, "proxy", directory)


async def _serve(port: int, shots: list[Shot], seconds: float) -> int:
    """Have requests served for so long; return how many."""
    end, served = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        for shot in shots:
            await fire(port, shot, count=40, connections=4)
            served += 40
    return served


def _read(file: Path) -> Iterator[tuple[tuple[str, ...], int]]:
    for line in file.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        yield tuple(frames[frames.index(_ROOT) :] if _ROOT in frames else frames), int(count)


def write_budget(stacks: Counter[tuple[str, ...]], spent: float) -> str:
    """Return what each part takes of a request, in microseconds and percent, as a table in Markdown."""
    parts: Counter[str] = Counter()
    for stack, count in stacks.items():
        parts[next((name for name, pattern in _PARTS if re.search(pattern, stack[-1])), _REST)] += count
    whole = stacks.total()
    lines = [
        f"| {name} | {count / whole * spent * 1e6:.0f} | {count / whole:.0%} |" for name, count in parts.most_common()
    ]
    return "\n".join(["| part | µs | share |", "| --- | ---: | ---: |", *lines, f"| **all** | {spent * 1e6:.0f} | |"])


def draw(stacks: Counter[tuple[str, ...]], spent: float) -> str:
    """Return the flame graph: the wider a function, the more time it and what it calls take."""
    root = Node()
    for stack, count in stacks.items():
        node = root
        node.samples += count
        for name in stack:
            node = node.callees.setdefault(name, Node())
            node.samples += count
    scale = _WIDTH / root.samples
    rows = list(_lay_out(root, 0.0, 0, scale))
    height = (max(row for _, _, row, _ in rows) + 1) * _ROW + 40
    cells = "".join(_cell(*row, scale=scale, micros=spent * 1e6 / root.samples) for row in rows)
    title = f"{spent * 1e6:.0f} µs of CPU a request of 120 KB, every second one streamed"
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


def main() -> int:
    """Sample, draw and print."""
    parser = argparse.ArgumentParser(prog="bench.flame", description="Where the proxy's time goes.")
    parser.add_argument("--seconds", type=float, default=20.0, help="of sampling")
    parser.add_argument("--out", type=Path, default=OUT, help="the flame graph")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        stacks, spent = uvloop.run(sample(chosen.seconds, Path(directory)))
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(draw(stacks, spent))
    print(write_budget(stacks, spent))
    print(f"\n{stacks.total():,} samples; {chosen.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
