"""Byte codes and calls of Python that a request or a chunk needs, which do not depend on the machine or its load.

    python -m bench.counts [--pair COMMIT] [PATTERN]

Each row is a request to the application of a proxy whose provider answers at once, without sockets, behind earlier
turns of its conversation. `--pair COMMIT` counts an older commit too. PATTERN chooses rows by their names.
"""

import argparse
import asyncio
import gc
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
_WIRES = ("server", "groq", "responses", "gemini", "ollama", "relay", "moonshot")
"""Names in `WIRES` of `tests/growth/operations.py`."""
_SIZES = {"1 KB": 1_000, "120 KB": 120_000, "1 MB": 1_000_000}
_SHORT, _LONG = 10, 210
"""Chunks of text in a stream. The difference of both streams is the cost of a chunk."""
_TURNS_BEFORE = (8, 6, 4, 2, 0)
"""Messages that each turn lacks of the last one."""
_TRIES = 3
"""Some counts have an entry of a cache for each second, so the least of some tries counts."""
Counts = tuple[float, float]
"""Byte codes and calls."""


class _Loop(asyncio.SelectorEventLoop):
    """Its time stands still, so that no timer is due."""

    def time(self) -> float:
        return 1_000.0


class _Counter:
    def __init__(self) -> None:
        self.codes = self.calls = 0

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if "/tests/" in frame.f_code.co_filename or frame.f_code.co_filename == __file__:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self.calls += 1
        return self._trace_inside

    def _trace_inside(self, frame: FrameType, event: str, argument: object) -> Any:
        self.codes += event == "opcode"
        return self._trace_inside


def _count(wire_name: str, bodies: Sequence[bytes], chunks: int) -> Counts:
    """Return the counts of the last of some requests. `chunks`: of a streamed reply. 0: it is not streamed."""
    # the modules of the checkout that is counted
    from anthropic_proxy.gateway.server.endpoints import serve_request  # noqa: PLC0415
    from tests.growth.operations import WIRES  # noqa: PLC0415
    from tests.support.harness import FakeResponse, ProxyHarness  # noqa: PLC0415
    from tests.support.replies import Reply  # noqa: PLC0415

    wire = WIRES[wire_name]
    reply = Reply(texts=["well "] * max(chunks, 1))
    answer = wire.replies.stream(reply) if chunks else [wire.replies.whole(reply)]

    def upstream(base_url: str, request: Any, credential: Any) -> Any:
        return FakeResponse(200, *([b"{}"] if request.path.startswith(("/api/show", "/api/tags")) else answer))

    proxy = ProxyHarness(upstream, **wire.settings)
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), (b"x-claude-code-session-id", b"s")]
    scope = {"type": "http", "method": "POST", "path": "/v1/messages", "query_string": b"", "client": ("127.0.0.1", 1)}

    async def ask(body: bytes) -> None:
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        statuses: list[int] = []

        async def receive() -> Any:
            return messages.pop() if messages else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            statuses.append(message.get("status", 200))

        sent = [*headers, (b"content-length", b"%d" % len(body))]
        await serve_request(proxy.services, {**scope, "headers": sent}, receive, send)
        assert set(statuses) == {200}
        await asyncio.sleep(0)

    async def run() -> Counts:
        for body in bodies[:-1]:
            await ask(body)
        counter = _Counter()
        gc.collect()
        gc.disable()
        sys.settrace(counter.trace)
        try:
            await asyncio.create_task(ask(bodies[-1]))
        finally:
            sys.settrace(None)
            gc.enable()
        return counter.codes, counter.calls

    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(run())


def _make_turns(wire_name: str, size: int, *, stream: bool, is_first: bool) -> list[bytes]:
    """`is_first`: the requests before the last one are of another conversation."""
    from bench.bodies import make_messages  # noqa: PLC0415
    from tests.growth.operations import WIRES  # noqa: PLC0415

    model = WIRES[wire_name].model
    request = make_messages(size, model, stream=stream)
    other = make_messages(min(_SIZES.values()), model, stream=stream)
    turns = [
        {**request, "messages": [*request["messages"][: -1 - cut], request["messages"][-1]]} for cut in _TURNS_BEFORE
    ]
    if is_first or len(request["messages"]) == 1:
        turns = [*[other if is_first else request] * 3, request]
    return [json.dumps(turn, separators=(",", ":")).encode() for turn in turns]


def count_rows(pattern: str) -> dict[str, Counts]:
    rows: dict[str, Counts] = {}
    for wire in _WIRES:
        for label, size in _SIZES.items():
            for chunks in (0, _SHORT):
                for is_first in (False, True) if size > min(_SIZES.values()) else (False,):
                    form = "stream" if chunks else "whole"
                    name = f"{wire}, {label}, {form}{', first of a conversation' if is_first else ''}"
                    if re.search(pattern, name):
                        bodies = _make_turns(wire, size, stream=bool(chunks), is_first=is_first)
                        rows[name] = min(_count(wire, bodies, chunks) for _ in range(_TRIES))
        if re.search(pattern, name := f"{wire}, a chunk"):
            bodies = _make_turns(wire, _SIZES["120 KB"], stream=True, is_first=False)
            short, long = (min(_count(wire, bodies, count) for _ in range(_TRIES)) for count in (_SHORT, _LONG))
            rows[name] = ((long[0] - short[0]) / (_LONG - _SHORT), (long[1] - short[1]) / (_LONG - _SHORT))
    return rows


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m bench.counts")
    arguments.add_argument("--pair", metavar="COMMIT", help="count an older commit too")
    arguments.add_argument("--of", metavar="DIRECTORY", help=argparse.SUPPRESS)
    arguments.add_argument("pattern", nargs="?", default="", metavar="PATTERN", help="rows to count")
    options = arguments.parse_args()
    if options.of:
        sys.path[0] = options.of
        json.dump(count_rows(options.pattern), sys.stdout)
        return
    now = _count_in(sys.executable, CHECKOUT, options.pattern)
    before: dict[str, Sequence[float]] = {}
    if options.pair:
        from bench.pair import checked_out, find_python  # noqa: PLC0415

        with tempfile.TemporaryDirectory() as directory, checked_out(options.pair, Path(directory)) as place:
            before = _count_in(find_python(place), place, options.pattern)
    for name, (codes, calls) in now.items():
        line = f"{name:45} byte codes {codes:8.6g}  calls {calls:6.5g}"
        if name in before:
            line += f"   now / before {codes / before[name][0]:.4f}, {calls / before[name][1]:.4f}"
        print(line)


def _count_in(python: str, directory: Path, pattern: str) -> dict[str, Sequence[float]]:
    command = [python, __file__, "--of", str(directory), pattern]
    run = subprocess.run(command, cwd=directory, stdout=subprocess.PIPE, check=True)
    found: dict[str, Sequence[float]] = json.loads(run.stdout)
    return found


if __name__ == "__main__":
    main()
