"""Duration of the ledger's queries on many requests, which the real writer has stored.

    .venv/bin/python -m bench.ledger_rows --rows 1000000 /tmp/ledger.sqlite3

An existing file is measured without writing. The requests are made up, with a fixed seed; their times are in the last
90 days.
"""

import argparse
import random
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median

from sqlalchemy import Connection

from anthropic_proxy.console.ledger.engines import open_reading_engine
from anthropic_proxy.console.ledger.periods import RequestSelection
from anthropic_proxy.console.ledger.queries import count_facets, sum_usage
from anthropic_proxy.console.ledger.receipt_queue import ReceiptQueue
from anthropic_proxy.console.ledger.records import GROUP_NAMES
from anthropic_proxy.console.ledger.request_queries import (
    find_stored_request,
    list_stored_requests,
)
from anthropic_proxy.console.ledger.writer import LedgerWriter
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Client, Receipt
from anthropic_proxy.secrets import Secret

DAYS = 90
MAX_WAITING_RECEIPTS = 2_500
"""Number of receipts in the queue above which no further ones are added, so that none is dropped."""
STOP_SECONDS = 60.0
"""Maximum time to store the last receipts."""
ROUNDS = 5
MODELS = (
    ("openai", "openai", "gpt-4.1", 0.45),
    ("openai", "openai", "gpt-4.1-mini", 0.30),
    ("google", "gemini", "gemini-2.5-pro", 0.15),
    ("groq", "groq", "llama-3.3-70b-versatile", 0.05),
    ("ollama", "ollama", "qwen3-coder:30b", 0.05),
)
"""Provider, prefix, model and share of the requests."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    settings = Settings(database_url=Secret(f"sqlite:///{options.file.absolute()}"))
    if not options.file.exists():
        started = time.perf_counter()
        write_receipts(settings, make_receipts(options.rows))
        sys.stdout.write(f"{options.rows:,} rows written in {time.perf_counter() - started:.0f} s\n")
    sys.stdout.write(f"{options.file.stat().st_size / 1_000_000:.0f} MB\n")
    engine = open_reading_engine(settings)
    with engine.connect() as connection:
        for name, query in list_queries(connection):
            durations = [measure(query) for _ in range(ROUNDS)]
            sys.stdout.write(f"{name:<40} median {median(durations):7.1f} ms  slowest {max(durations):7.1f} ms\n")
    engine.dispose()


def write_receipts(settings: Settings, receipts: Iterable[Receipt]) -> None:
    """Store receipts with the writer of the proxy. Raises `RuntimeError` if the writer does not store all."""
    queue = ReceiptQueue(lambda queue: LedgerWriter(queue, lambda: settings, sys.stderr.write).run(), batch_seconds=0.0)
    stopped = threading.Event()
    for receipt in receipts:
        while len(queue) > MAX_WAITING_RECEIPTS:
            stopped.wait(0.01)
        queue.record(receipt)
    lost = queue.stop(STOP_SECONDS)
    if lost or queue.state.dropped_rows:
        raise RuntimeError(f"{lost + queue.state.dropped_rows} requests were not stored. {queue.state.problem}")


def make_receipts(count: int) -> Iterator[Receipt]:
    """Yield made-up receipts in order of time: sessions of 40 requests, 8 projects, 1 % errors."""
    chance, now = random.Random(1), time.time()
    shares = [model[3] for model in MODELS]
    for number in range(count):
        provider, prefix, model, _ = chance.choices(MODELS, shares)[0]
        tokens, cached, failed = chance.randrange(500, 40_000), chance.random(), chance.random() < 0.01
        counts = {
            "input_tokens": int(tokens * (1 - cached)),
            "cache_read_tokens": int(tokens * cached),
            "output_tokens": chance.randrange(10, 2_000),
        }
        result = {"outcome": "error", "error_type": "rate_limit_error", "error": "groq: 12,000 tokens per minute"}
        yield Receipt(
            request_id=f"req_{number:024d}",
            client=Client(),
            started_at=now - (count - number) / count * DAYS * 86_400,
            requested_model=chance.choice(("claude-sonnet-4-6", "claude-haiku-4-5", "claude-opus-4-8")),
            provider=provider,
            prefix=prefix,
            model=model,
            route_reason="sonnet is BIG_MODEL (.env line 4), and a name without a prefix gets that of its list: openai",
            tool_count=18,
            message_count=9,
            stream=True,
            first_token_seconds=None if failed else chance.lognormvariate(-0.4, 0.5),
            duration_seconds=chance.lognormvariate(1.5, 0.6),
            status=429 if failed else 200,
            session=f"{number // 40:08x}-aaaa-bbbb-cccc-dddddddddddd",
            project=f"project-{number // 4_000 % 8}",
            user_agent="claude-cli/2.1.328 (external, cli)",
            **(result if failed else {"outcome": "end_turn"}),  # type: ignore[arg-type]
            **({} if failed else counts),  # type: ignore[arg-type]
        )


def list_queries(connection: Connection) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield each query of the commands and routes with its name."""
    end = int(time.time()) // 3_600 + 1
    for days in (1, 7, DAYS):
        for by in GROUP_NAMES:
            chosen = RequestSelection(start=(end - days * 24) * 3_600_000_000, end=end * 3_600_000_000)
            yield f"usage, {days} days, by {by}", lambda by=by, chosen=chosen: sum_usage(connection, chosen, by)  # type: ignore[misc]
    everything = RequestSelection()
    errors = RequestSelection(values={"outcome_class": "error"})
    middle = (int(time.time() - DAYS * 43_200) * 1_000_000, "")
    yield "latest 100 requests", lambda: list_stored_requests(connection, everything, 100)
    yield "100 requests from the middle", lambda: list_stored_requests(connection, everything, 100, middle)
    yield "latest 100 errors", lambda: list_stored_requests(connection, errors, 100)
    yield "one request", lambda: find_stored_request(connection, f"req_{1_000:024d}")
    yield "values of a filter", lambda: count_facets(connection, everything, ("model",), 50)


def measure(query: Callable[[], object]) -> float:
    """Return the duration of a query in milliseconds."""
    started = time.perf_counter()
    query()
    return (time.perf_counter() - started) * 1_000


if __name__ == "__main__":
    main()
