"""`python -m bench.prefix_guard`: CPU time of the prefix guard as a share of a whole request of 120 KB.

The guard runs in this process, with the prompts of 64 sessions in turn, so that no prompt is in a processor's cache.
Rounds of it alternate with rounds of requests to a proxy. Each session grows by a reply and a result of 0.5 or 8 KB in
each turn, and its client marks none, one or three of the last messages for the provider's cache. A provider that
reports what it has read from its cache spares the comparison of all bytes; without such reports, all bytes of one
prompt in each run are compared. So both kinds are measured. The last row is what one comparison of all bytes of two
prompts takes.
"""

import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from msgspec import Struct

from anthropic_proxy.engine.providers.prefix_guard import MAX_SAMPLED_PROMPTS, PrefixGuard, Prompt
from bench.bodies import make_messages, make_step, with_system_at_the_top
from bench.load import BenchError, fire, wait_for_reply
from bench.processes import free_port
from bench.subjects import PROXY, start_proxy, start_upstream

SIZE = 120_000
"""Bytes of a request in the middle of a session, which is their mean."""
ROUNDS = 11
SESSIONS = [str(number) for number in range(64)]
TURNS = MAX_SAMPLED_PROMPTS + 1
"""One of them is compared completely, also without reports of cached tokens."""
WARM_UP = 2
"""The first prompts of a session, of which the guard only learns where their parts are."""
REQUESTS = 200


class Row(Struct, frozen=True):
    marks: int
    turn_size: int
    reports_cache: bool

    @property
    def title(self) -> str:
        return f"| {self.marks} | {self.turn_size:,} | {'yes' if self.reports_cache else 'no'} |"


ROWS = [
    Row(marks, turn_size, reports_cache)
    for reports_cache in (True, False)
    for marks in (0, 1, 3)
    for turn_size in (500, 8_000)
]


class Session:
    """The requests of one session, and what the guard costs with 64 of them."""

    def __init__(self, row: Row) -> None:
        self._reports_cache = row.reports_cache
        chance = random.Random(row.turn_size)
        size = SIZE - row.turn_size * (2 * WARM_UP + TURNS - 1) // 2
        body = with_system_at_the_top(make_messages(size, "m", stream=True))
        body["system"][1].pop("cache_control")  # Anthropic accepts four marks
        body["messages"][-1]["content"][0].pop("cache_control")
        while len(_encode(body, row.marks)) > size + 1_500:  # long turns leave no room for all tools, of 3 kB each
            body["tools"].pop()
        self._tools = body["tools"]
        self._bodies = list[bytes]()
        for turn in range(WARM_UP + TURNS):
            self._bodies.append(_encode(body, row.marks))
            body["messages"] += make_step(chance, turn, row.turn_size)

    def measure(self) -> float:
        """Return the seconds for one prompt."""
        guard, spent = PrefixGuard(), 0.0
        for turn, (before, sent) in enumerate(pairwise((b"", *self._bodies))):
            bodies = [bytes(memoryview(sent)) for _ in SESSIONS]
            cached = len(before) // 4 if self._reports_cache else 0
            begun = time.thread_time()
            for session, body in zip(SESSIONS, bodies, strict=True):
                prompt = Prompt((session, "", "anthropic", "m"), body, len(body) // 4, cached, tools=self._tools)
                guard.compare(prompt)
                guard.keep(prompt)
            if turn >= WARM_UP:
                spent += time.thread_time() - begun
        return spent / TURNS / len(SESSIONS)


def measure_bytes() -> float:
    """Return the seconds to compare two equal prompts once."""
    text = memoryview(b"x" * SIZE)
    first, second = ([bytes(text) for _ in SESSIONS] for _ in range(2))
    begun = time.thread_time()
    for one, other in zip(first, second, strict=True):
        assert one == other
    return (time.thread_time() - begun) / len(SESSIONS)


def _encode(body: dict[str, Any], marks: int) -> bytes:
    """Return the body as a client sends it, with marks at the last messages."""
    messages = list(body["messages"])
    for place in range(len(messages) - marks, len(messages)):
        *others, last = messages[place]["content"]
        content = [*others, {**last, "cache_control": {"type": "ephemeral"}}]
        messages[place] = {**messages[place], "content": content}
    return json.dumps({**body, "messages": messages}, separators=(",", ":"), ensure_ascii=False).encode()


async def measure(directory: Path) -> list[list[float]]:
    """Return for each round the seconds of the rows, of the comparison of all bytes, and of a request.

    Raises `BenchError`.
    """
    upstream, port, shot = free_port(), free_port(), PROXY.shot(SIZE, "bench-whole")
    sessions, found = [Session(row) for row in ROWS], list[list[float]]()
    with start_upstream(directory, upstream), start_proxy(directory, port, upstream) as proxy:
        await wait_for_reply(port, shot, proxy.alive)
        await fire(port, shot, count=REQUESTS, connections=4)
        for _ in range(ROUNDS):
            before = await proxy.settle()
            await fire(port, shot, count=REQUESTS, connections=4)
            request = (await proxy.settle() - before) / REQUESTS
            found.append([*(session.measure() for session in sessions), measure_bytes(), request])
    return found


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        try:
            found = asyncio.run(measure(Path(directory)))
        except BenchError as error:
            print(f"✕ {error}", file=sys.stderr)
            return 1
    request = statistics.median(each[-1] for each in found) * 1e6
    print(f"a request takes {request:.0f} µs, of which the guard has, in the median of {ROUNDS} rounds:\n")
    print("| marks | bytes of a turn | cached tokens reported | µs | share | lowest | highest |")
    print("| ---: | ---: | --- | ---: | ---: | ---: | ---: |")
    for place, title in enumerate([*(row.title for row in ROWS), "| – | all bytes once | – |"]):
        shares = sorted(each[place] / each[-1] for each in found)
        spent = statistics.median(each[place] for each in found) * 1e6
        print(f"{title} {spent:.1f} | {statistics.median(shares):.2%} | {shares[0]:.2%} | {shares[-1]:.2%} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
