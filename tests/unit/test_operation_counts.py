"""Work per request and per event, counted in calls and bytes, which do not depend on the machine.

Counted are calls of this package's functions and the calls of built-in ones that they make, from the ASGI scope to the
last byte of the reply, and the maximum of additional memory that Python holds meanwhile. Times are measured in
`bench/`.
"""

import asyncio
import gc
import sys
import time
import tracemalloc
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest
from msgspec import structs

from anthropic_proxy.gateway.server.endpoints import serve_request
from bench.bodies import cut_at_number, make_messages
from bench.replies import find_defect, read_wanted
from bench.wires import ALL, Wire
from tests.support.harness import FakeResponse, ProxyHarness
from tests.support.operation_counts import MORE, VERSIONS, WARM_UPS, Calls

EVENTS = 100
PER_EVENT = ("burst", "paced", "arguments")


class Work(NamedTuple):
    """Work of one wire, in calls unless noted otherwise."""

    small: float
    """A request of 1 KB."""
    agent: float
    """An agent's request of 120 KB."""
    history: float
    """A history of 1 MB."""
    memory: float
    """KiB at most for the request of 120 KB."""
    burst: float
    """One event of text among many in one network read."""
    paced: float
    """One event of text that comes by itself."""
    arguments: float
    """One event of tool arguments among many; 0: this language does not cut them in pieces."""


BOUNDS = {
    #                        small  agent  history  memory  burst  paced  arguments
    "Chat Completions": Work(480, 973, 10287, 185, 18, 26, 22),
    "Gemini": Work(478, 984, 10518, 229, 15, 23, 0),
    "Ollama": Work(513, 1302, 9927, 195, 10, 23, 0),
    "Responses": Work(492, 999, 10753, 184, 18, 27, 19),
    "Messages (relay)": Work(325, 327, 327, 143, 0, 8, 0),
}


class Exchange:
    """One request to a gateway with a provider that answers at once."""

    def __init__(self, wire: Wire, size: int, reply: str, *, one_read: bool = True) -> None:
        self.wanted = read_wanted(reply)
        parts = wire.parts(self.wanted) if self.wanted.pieces else [wire.body(self.wanted)]
        chunks = [b"".join(parts)] if one_read else parts
        settings = {name: value.format(origin="http://127.0.0.1:9") for name, value in wire.settings.items()}
        services, now = ProxyHarness(lambda *_: FakeResponse(200, *chunks), **settings).services, time.time()
        # a text of the time of day is kept for a second; with a clock that runs, some counts contain the next one
        self.services = structs.replace(services, clock=lambda: now)
        request = make_messages(size, wire.model.format(reply), stream=bool(self.wanted.pieces))
        self.body = cut_at_number(request).numbered(0)

    async def run(self) -> bytes:
        requests = [{"type": "http.request", "body": self.body, "more_body": False}]
        replies: list[bytes] = []

        async def receive() -> Any:
            return requests.pop() if requests else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            replies.append(message.get("body", b""))

        headers = [
            (b"host", b"127.0.0.1"),
            (b"anthropic-version", b"2023-06-01"),
            (b"content-type", b"application/json"),
        ]
        scope = {"type": "http", "method": "POST", "path": "/v1/messages", "query_string": b"beta=true"}
        await serve_request(self.services, {**scope, "headers": headers, "client": ("127.0.0.1", 1)}, receive, send)
        return b"".join(replies)

    def calls(self) -> Calls:
        """Run it until nothing is new to it, then once more, counting."""

        async def count() -> Calls:
            for _ in range(WARM_UPS):
                assert find_defect(await self.run(), self.wanted, separate=True) == ""
            found, before = Calls(), sys.getprofile()
            sys.setprofile(found)
            try:
                await self.run()
            finally:
                sys.setprofile(before)
            return found

        return asyncio.run(count())

    def memory(self) -> float:
        """Return the most KiB that it holds at once."""

        async def weigh() -> float:
            for _ in range(WARM_UPS):
                await self.run()
            gc.collect()
            gc.disable()
            tracemalloc.start(1)
            try:
                before = tracemalloc.get_traced_memory()[0]
                tracemalloc.reset_peak()
                await self.run()
                return (tracemalloc.get_traced_memory()[1] - before) / 1024
            finally:
                tracemalloc.stop()
                gc.enable()

        return asyncio.run(weigh())


def calls_of_one_event(wire: Wire, kind: str, *, one_read: bool) -> Calls:
    """Return the calls of a hundred additional events: the difference between a longer stream and a short one."""
    short, long = [
        Exchange(wire, 1_000, f"bench-{kind}-{events}", one_read=one_read).calls() for events in (10, 10 + EVENTS)
    ]
    long.subtract(short)
    return long


def measure(wire: Wire) -> tuple[Work, dict[str, Calls]]:
    """Return the work of a wire, and the calls of each kind of work."""
    calls = {
        "small": Exchange(wire, 1_000, "bench-whole").calls(),
        "agent": Exchange(wire, 120_000, "bench-whole").calls(),
        "history": Exchange(wire, 1_000_000, "bench-whole").calls(),
        "burst": calls_of_one_event(wire, "text", one_read=True),
        "paced": calls_of_one_event(wire, "text", one_read=False),
        "arguments": calls_of_one_event(wire, "args", one_read=True) if "args" in wire.kinds else Calls(),
    }
    counts = {part: found.total() / (EVENTS if part in PER_EVENT else 1) for part, found in calls.items()}
    return Work(**counts, memory=round(Exchange(wire, 120_000, "bench-whole").memory())), calls


def describe_breaches(bound: Work, found: Work, calls: Mapping[str, Calls]) -> list[str]:
    """Return the counts that left their bounds, and the functions called most there."""
    lines = []
    for part, was, is_now in zip(Work._fields, bound, found, strict=True):
        if is_now > was * MORE:
            unit = "KiB" if part == "memory" else "calls"
            lines.append(f"{part}: was {was:g} {unit}, is {is_now:g}.")
            lines += [f"    {count:7,} {place}" for place, count in calls.get(part, Calls()).most_common(12)]
    return lines


@pytest.mark.skipif(sys.version_info[:2] not in VERSIONS, reason="platform: no counts for this version of CPython")
@pytest.mark.skipif(sys.implementation.name != "cpython", reason="platform: the counts are those of CPython")
@pytest.mark.parametrize("wire", ALL, ids=lambda wire: wire.name)
def test_a_request_and_an_event_cost_the_recorded_number_of_operations(wire: Wire) -> None:
    found, calls = measure(wire)
    lines = describe_breaches(BOUNDS[wire.name], found, calls)
    advice = f"If that is wanted, take this as the bound, and say why in the commit: {write_row(wire, found)}"
    assert not lines, "\n".join([f"{wire.name} takes other work than was agreed.", *lines, advice])


def write_row(wire: Wire, found: Work) -> str:
    return f'"{wire.name}": Work({", ".join(f"{count:g}" for count in found)}),'


if __name__ == "__main__":
    print("\n".join(write_row(wire, measure(wire)[0]) for wire in ALL))
