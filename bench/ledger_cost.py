"""`python -m bench.ledger_cost`: CPU time per request with the ledger in SQLite, compared with `DATABASE_URL=off`.

Both proxies run at the same time. A round alternates between them in many small blocks of requests, so that changes of
the machine's speed concern both, and compares the sums. Each process has its own CPU clock, which includes the ledger's
thread: after the last block, a round waits until all rows are stored. The CPU time of this thread is also measured
alone, as difference between the background threads of both proxies, because it varies less than the sum. A last table
has the CPU time of this thread by the number of requests in a transaction.
"""

import argparse
import asyncio
import itertools
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from anthropic_proxy.console.ledger.receipt_queue import ReceiptQueue
from anthropic_proxy.console.ledger.writer import LedgerWriter
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Receipt
from anthropic_proxy.secrets import Secret
from bench.ledger_rows import make_receipts
from bench.measures import SIZES, Running
from bench.processes import free_port
from bench.subjects import PROXY, start_proxy, start_upstream
from bench.wires import CHAT

ROUNDS = 9
BLOCKS = 20
"""Number of blocks of requests to each proxy in a round."""
TRANSACTIONS = 40
BATCH_SECONDS = 0.05
"""Time in which the writer collects the requests of a transaction."""
TRANSACTION_SIZES = (500, 20, 1)
"""Numbers of requests in one transaction of the writer: many requests per second, some, and one."""
WRITE_SECONDS = 1.5
"""Wait after the last reply, in which the ledger's thread stores all rows."""
DATABASES = {"off": "off", "on": "sqlite:///{directory}/ledger.sqlite3"}
"""Value of `DATABASE_URL` of each proxy."""


class Load(Struct, frozen=True):
    """Requests to each proxy in one round. `count` is a multiple of `BLOCKS`."""

    title: str
    size: str
    reply: str
    count: int


LOADS = (
    Load("1 KB request", "1 KB", "bench-whole", 3_000),
    Load("120 KB request, stream of 300 events", "120 KB", "bench-text-300-paced", 160),
)


class CpuTime(Struct, frozen=True):
    """CPU time in milliseconds of one request: of the whole process, and of its threads except the main thread."""

    whole: float
    background: float


async def measure(rounds: int, directory: Path) -> dict[str, list[tuple[CpuTime, CpuTime]]]:
    """Return title of a load → CPU time of a request without and with the ledger, for each round."""
    upstream, found = free_port(), {load.title: list[tuple[CpuTime, CpuTime]]() for load in LOADS}
    with start_upstream(directory, upstream):
        running = {}
        for name, url in DATABASES.items():
            port = free_port()
            settings = {**CHAT.settings, "DATABASE_URL": url.replace("{directory}", str(directory))}
            process = start_proxy(directory, port, upstream, settings=settings)
            running[name] = Running(subject=PROXY, port=port, process=process, directory=directory, upstream=upstream)
        try:
            for one in running.values():
                await one.wait()
            await _measure_round(running, LOADS[0])  # loads the libraries of the ledger
            for _ in range(rounds):
                for load in LOADS:
                    spent = await _measure_round(running, load)
                    found[load.title].append((spent["off"], spent["on"]))
        finally:
            for one in running.values():
                assert one.process is not None
                one.process.__exit__()
    return found


async def _measure_round(running: Mapping[str, Running], load: Load) -> dict[str, CpuTime]:
    """Return name of a proxy → CPU time of one request, in blocks in the order off, on, on, off."""
    before = {name: _read_cpu_seconds(one) for name, one in running.items()}
    for number in range(BLOCKS):
        for name in list(running)[:: -1 if number % 2 else 1]:
            one = running[name]
            await one.volley(one.subject.shot(SIZES[load.size], load.reply), load.count // BLOCKS)
    await asyncio.sleep(WRITE_SECONDS)
    spent = {name: map(float.__sub__, _read_cpu_seconds(one), before[name]) for name, one in running.items()}
    return {name: CpuTime(*(1e3 * seconds / load.count for seconds in times)) for name, times in spent.items()}


def _read_cpu_seconds(running: Running) -> tuple[float, float]:
    """Return the CPU seconds so far of the process, and of its threads except the main thread."""
    assert running.process is not None
    return running.process.cpu_seconds(), running.process.background_cpu_seconds()


def measure_writer(count: int, file: Path) -> float:
    """Return the CPU microseconds of the writer for a request: the median of transactions with `count` requests each.

    Only the writer runs besides this thread, so that its time is the difference of the process and this thread.
    """
    settings = Settings(database_url=Secret(f"sqlite:///{file}"))
    queue = ReceiptQueue(
        lambda queue: LedgerWriter(queue, lambda: settings, sys.stderr.write).run(), batch_seconds=BATCH_SECONDS
    )
    receipts, found = make_receipts(count * TRANSACTIONS), list[float]()
    for number in range(1, TRANSACTIONS + 1):
        before = time.process_time() - time.thread_time()
        _record(queue, itertools.islice(receipts, count))
        while queue.state.written_rows < count * number:
            time.sleep(0.001)
        found.append(1e6 * (time.process_time() - time.thread_time() - before) / count)
    queue.stop(WRITE_SECONDS)
    return statistics.median(found)


def find_median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the limits of a 95 % confidence interval for the median, from sorted `values`.

    It holds for every distribution: the number of values below the true median has a binomial distribution.
    With fewer than six values, the limits are the smallest and the largest value, and the confidence is lower.
    """
    count, first, below = len(values), 0, 0.5 ** len(values)
    while (below := below + math.comb(count, first + 1) / 2**count) <= 0.025:
        first += 1
    return values[first], values[-1 - first]


def _describe(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f} ±{(ratios[-1] - ratios[0]) / 2:.2f}"


def _describe_interval(values: Sequence[float], form: str) -> str:
    return " to ".join(format(limit, form) for limit in find_median_interval(values))


def _record(queue: ReceiptQueue, receipts: Iterable[Receipt]) -> None:
    for receipt in receipts:
        receipt.started_at = time.time()  # the requests of a transaction usually started in one hour
        queue.record(receipt)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(rounds, Path(folder)))
    lines = [
        "| CPU per request, ms | `DATABASE_URL=off` | ledger in SQLite | ratio | 95 % confidence interval "
        "| the ledger's thread alone |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for title, pairs in found.items():
        without, stored = (statistics.median(time.whole for time in times) for times in zip(*pairs, strict=True))
        ratios = sorted(on.whole / off.whole for off, on in pairs)
        shares = sorted((on.background - off.background) / off.whole for off, on in pairs)
        lines.append(
            f"| {title} | {without:.3f} | {stored:.3f} | {_describe(ratios)} | {_describe_interval(ratios, '.2f')} "
            f"| +{statistics.median(shares):.1%} ({_describe_interval(shares, '.1%')}) |"
        )
    lines += ["", "| requests in a transaction | CPU of the writer per request, µs |", "| ---: | ---: |"]
    with tempfile.TemporaryDirectory() as folder:
        spent = {count: measure_writer(count, Path(folder, f"{count}.sqlite3")) for count in TRANSACTION_SIZES}
    lines += [f"| {count} | {microseconds:.0f} |" for count, microseconds in spent.items()]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
