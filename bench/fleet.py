"""Simulation of a fleet: developers with agents produce streams; the model adds up the resources at the peak.

    .venv/bin/python -m bench.fleet                          100,000 developers, 1,000,000 streams
    .venv/bin/python -m bench.fleet --write docs/guide/scale.md

Costs per request and per event are measured ones (docs/contributing/performance.md). The behavior of developers and
models is assumed (`Behavior`): change it to fit your own figures. A fixed seed makes two runs equal.
"""

import argparse
import heapq
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

from msgspec import Struct, structs

from anthropic_proxy.engine.memory_plan import DEFAULT_BYTES, divide_memory

MANY_STREAMS = 1_000_000
"""Streams open at one moment, for the last column: all resources grow linearly."""
_SECTION = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


class Spread(Struct, frozen=True):
    """A log-normal distribution: its median, and the ratio of its 84th percentile to the median."""

    median: float
    ratio: float

    def draw(self, random: Random) -> float:
        return self.median * math.exp(random.gauss(0.0, math.log(self.ratio)))


class Behavior(Struct, frozen=True, kw_only=True):
    """Assumed behavior of developers, agents and models."""

    developers: int = 100_000
    active_share: float = 0.35
    """Developers with a running session in the peak hour."""
    think_seconds: Spread = Spread(60, 3.0)
    """From the end of a task to the next prompt of the developer."""
    calls_per_task: Spread = Spread(8, 2.5)
    """Upstream calls of one task: the model calls tools until it is done."""
    tool_seconds: Spread = Spread(1.5, 3.0)
    """Run time of the client's tools between two calls."""
    subagent_share: float = 0.08
    """Tasks that start subagents, which work at the same time."""
    subagents: int = 3
    request_bytes: Spread = Spread(120_000, 2.2)
    bytes_per_token: float = 4.0
    first_token_seconds: Spread = Spread(1.1, 1.8)
    output_tokens: Spread = Spread(220, 3.0)
    tokens_per_second: Spread = Spread(75, 1.5)
    tokens_per_event: float = 2.0


class Costs(Struct, frozen=True, kw_only=True):
    """Measured costs of one core and of the shared servers."""

    request_cpu: float = 0.000_14
    """CPU seconds of a request besides its bytes."""
    byte_cpu: float = 1.3e-9
    """CPU seconds of a byte of the request: the difference of 120 KB and 1 KB."""
    stream_cpu: float = 0.000_19
    """CPU seconds of a stream besides its events."""
    event_cpu: float = 0.000_014
    """CPU seconds of an event that arrives in a packet of its own."""
    stream_descriptors: int = 2
    """The client's connection and the provider's."""
    core_limit: float = 0.6
    """Share of a core that is used at the peak; the rest absorbs bursts."""
    descriptor_limit: int = 65_536
    redis_operations: float = 2.0
    """Round trips for each request with limits: reserve and settle."""
    redis_per_second: float = 20_000
    """Round trips that one Redis core completes."""
    row_bytes: float = 760.0
    """Size of a row of the ledger with its indexes."""
    rows_per_second: float = 2_500
    """Rows that one PostgreSQL server stores, in batches."""
    provider_tokens_per_minute: float = 30_000_000
    """Input tokens that one provider account allows."""
    core_hour_dollars: float = 0.04
    database_gigabyte_month_dollars: float = 0.12


_Event = tuple[float, bool, int, bool]
"""Time; True: a call ends, False: it starts; calls left in its task; True: the task of a subagent."""


class Peak(Struct):
    """Sums over the simulated time after the warm-up."""

    seconds: float = 0.0
    streams: int = 0
    request_bytes: float = 0.0
    events: float = 0.0
    stream_seconds: float = 0.0
    max_open: int = 0
    """Largest number of streams open at one moment."""


def simulate(behavior: Behavior, streams: int, seed: int) -> Peak:
    """Run the fleet until so many streams have ended. The first tenth warms up and is not counted."""
    random = Random(seed)
    events: list[_Event] = []
    for _ in range(round(behavior.developers * behavior.active_share)):
        heapq.heappush(events, (random.uniform(0, 120), False, _count_calls(behavior, random), False))
    peak, open_now, ended, warm = Peak(), 0, 0, streams // 10
    started_at = now = 0.0
    while ended < streams:
        now, has_ended, left, is_subagent = heapq.heappop(events)
        if has_ended:
            open_now -= 1
            ended += 1
            if ended == warm:
                peak, started_at = Peak(), now
            for next_event in _next_calls(behavior, random, now, left, is_subagent):
                heapq.heappush(events, next_event)
            continue
        open_now += 1
        tokens = behavior.output_tokens.draw(random)
        duration = behavior.first_token_seconds.draw(random) + tokens / behavior.tokens_per_second.draw(random)
        heapq.heappush(events, (now + duration, True, left - 1, is_subagent))
        peak.streams += 1
        peak.request_bytes += behavior.request_bytes.draw(random)
        peak.events += tokens / behavior.tokens_per_event
        peak.stream_seconds += duration
        peak.max_open = max(peak.max_open, open_now)
    peak.seconds = now - started_at
    return peak


def _count_calls(behavior: Behavior, random: Random) -> int:
    return max(1, round(behavior.calls_per_task.draw(random)))


def _next_calls(behavior: Behavior, random: Random, now: float, left: int, is_subagent: bool) -> Iterator[_Event]:
    """Yield the next calls after the end of a call: that of its task, or those of the developer's next task."""
    if left > 0:
        yield now + behavior.tool_seconds.draw(random), False, left, is_subagent
    elif not is_subagent:
        yield now + behavior.think_seconds.draw(random), False, _count_calls(behavior, random), False
        if random.random() < behavior.subagent_share:
            for _ in range(behavior.subagents):
                yield now + behavior.tool_seconds.draw(random), False, _count_calls(behavior, random), True


class Need(Struct, frozen=True):
    """One resource at the peak."""

    name: str
    amount: float
    unit: str
    per_instance: float
    """Amount that one unit of the resource (core, server, account) provides."""
    provider: str
    """Unit that provides it: `instance of one core`."""
    remedy: str

    @property
    def units(self) -> float:
        """Number of units that the peak needs."""
        return self.amount / self.per_instance


def list_needs(peak: Peak, costs: Costs, behavior: Behavior) -> list[Need]:
    """Return the resources, the scarcest first: the one that needs the most units."""
    rate = peak.streams / peak.seconds
    cpu = (
        rate * (costs.request_cpu + costs.stream_cpu)
        + peak.request_bytes / peak.seconds * costs.byte_cpu
        + peak.events / peak.seconds * costs.event_cpu
    )
    tokens = peak.request_bytes / peak.seconds / behavior.bytes_per_token * 60
    needs = [
        Need(
            "input tokens of providers per minute", tokens / 1e6, "M",
            costs.provider_tokens_per_minute / 1e6, "provider accounts",
            "several keys and accounts, routes with weights, prompt caches (sticky sessions)",
        ),
        Need(
            "CPU of the proxy", cpu, "cores", costs.core_limit, "instances of one core",
            "more instances; they share nothing on the path of a stream",
        ),
        Need(
            "rows of the ledger per second", rate, "", costs.rows_per_second, "PostgreSQL servers",
            "several databases by team, a shorter LEDGER_DAYS, or DATABASE_URL=off on some instances",
        ),
        Need(
            "Redis round trips per second", rate * costs.redis_operations, "", costs.redis_per_second, "Redis cores",
            "a cluster: the counters of one key stay in one slot",
        ),
        Need(
            "descriptors", float(peak.max_open * costs.stream_descriptors), "",
            float(costs.descriptor_limit), "instances at the usual limit",
            "the proxy raises its limit at the start; more instances",
        ),
        Need(
            "connections by the memory plan", float(peak.max_open), "",
            float(divide_memory(DEFAULT_BYTES).connections), "instances of 2 GiB", "more memory, more instances",
        ),
    ]  # fmt: skip
    return sorted(needs, key=lambda need: -need.units)


def describe(peak: Peak, costs: Costs, behavior: Behavior, seed: int) -> str:
    """Return the results as Markdown."""
    rate = peak.streams / peak.seconds
    needs = list_needs(peak, costs, behavior)
    cpu = next(need.amount for need in needs if need.name == "CPU of the proxy")
    million = cpu / rate * 1e6 / 3600 / costs.core_limit * costs.core_hour_dollars
    stored = costs.row_bytes * 1e6 / 1e9
    lines = [
        f"{behavior.developers:,} developers, {behavior.active_share:.0%} of them active; {peak.streams:,} streams in "
        f"{peak.seconds:,.0f} simulated seconds after the warm-up, seed {seed}.",
        "",
        "| at the peak | amount |",
        "| --- | --- |",
        f"| requests per second | {rate:,.0f} |",
        f"| open streams, mean and maximum | {peak.stream_seconds / peak.seconds:,.0f}, {peak.max_open:,} |",
        f"| duration of a stream, mean | {peak.stream_seconds / peak.streams:.1f} s |",
        f"| events per second | {peak.events / peak.seconds:,.0f} |",
        f"| bytes of requests per second | {peak.request_bytes / peak.seconds / 1e6:,.0f} MB |",
        "",
        f"| resource | amount | one unit provides | units | units for {MANY_STREAMS:,} open streams | remedy |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {need.name} | {need.amount:,.{1 if need.amount < 100 else 0}f} {need.unit} | "
            f"{need.per_instance:,g} {need.unit} | {need.units:,.1f} {need.provider} | "
            f"{need.units * MANY_STREAMS / peak.max_open:,.0f} | {need.remedy} |"
            for need in needs
        ),
        "",
        f"The scarcest resource: {needs[0].name} ({needs[0].units:,.0f} {needs[0].provider}).",
        "",
        f"Cost of a million requests: ${million:.4f} of CPU at ${costs.core_hour_dollars} per core and hour, and "
        f"{stored:.2f} GB in the database, ${stored * costs.database_gigabyte_month_dollars:.2f} per month of storage.",
    ]
    return "\n".join(line.replace("  |", " |") for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--developers", type=int, default=Behavior().developers)
    parser.add_argument("--streams", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", type=Path, help="page whose section `fleet` is replaced")
    options = parser.parse_args()
    behavior, costs = structs.replace(Behavior(), developers=options.developers), Costs()
    text = describe(simulate(behavior, options.streams, options.seed), costs, behavior, options.seed)
    if options.write is None:
        sys.stdout.write(text + "\n")
        return
    page = options.write.read_text("utf-8")
    options.write.write_text(_SECTION.sub(lambda found: f"{found[1]}{text}\n{found[3]}", page), "utf-8")


if __name__ == "__main__":
    main()
