"""Comparison of the ledger with the token counts that the providers sent, for each client request."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from msgspec import Struct
from sqlalchemy import select

from anthropic_proxy.console.ledger.engines import open_reading_engine
from anthropic_proxy.console.ledger.tables import hourly, requests
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.secrets import Secret
from tests.fleet.clients import Result
from tests.support.fakes.server import Exchange

_SESSION = re.compile(r"This is (job-\d+)\.")


class Tokens(Struct, frozen=True):
    """Token counts: all input, and output."""

    input: int = 0
    output: int = 0

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(self.input + other.input, self.output + other.output)


class Ledger(Struct):
    """Rows of the ledger by session."""

    rows: dict[str, list[Tokens]]
    hourly: Tokens
    """Sum of the hourly sums."""

    @property
    def total(self) -> Tokens:
        """Sum of all rows."""
        return sum((tokens for rows in self.rows.values() for tokens in rows), Tokens())


def read_ledger(url: str) -> Ledger:
    """Return the stored requests of a PostgreSQL database."""
    engine = open_reading_engine(Settings(database_url=Secret(url)))
    rows: dict[str, list[Tokens]] = defaultdict(list)
    parts = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens")
    with engine.connect() as connection:
        for session, *counts in connection.execute(select(requests.c.session, *(requests.c[name] for name in parts))):
            rows[session].append(Tokens(sum(counts[:3]), counts[3]))
        sums = [Tokens(sum(row[:3]), row[3]) for row in connection.execute(select(*(hourly.c[name] for name in parts)))]
    engine.dispose()
    return Ledger(rows, sum(sums, Tokens()))


def read_journals(journals: Iterable[Sequence[Exchange]]) -> dict[str, Tokens]:
    """Return the tokens that the providers sent in complete replies, by session."""
    sent: dict[str, Tokens] = defaultdict(Tokens)
    for exchange in (exchange for journal in journals for exchange in journal):
        if exchange.outcome == "answered" and exchange.usage is not None:
            found = _SESSION.search(str(exchange.body))
            assert found is not None, exchange.body
            usage = exchange.usage
            sent[found[1]] += Tokens(usage["prompt_tokens"], usage["completion_tokens"])
    return sent


def compare(results: Sequence[Result], sent: dict[str, Tokens], ledger: Ledger, excused: set[str]) -> list[str]:
    """Return the differences, one line each.

    `excused`: sessions that may be missing: the last ones of an instance that was killed.
    """
    problems = [f"{name} is stored {len(rows)} times" for name, rows in ledger.rows.items() if name and len(rows) > 1]
    complete = [result.session for result in results if result.kind == "complete"]
    for session in complete:
        stored = ledger.rows.get(session)
        if stored is None:
            if session not in excused:
                problems.append(f"{session} is not stored")
        elif stored[0] != sent[session]:
            problems.append(f"{session}: the ledger has {stored[0]}, the providers sent {sent[session]}")
    if ledger.hourly != ledger.total:
        problems.append(f"the hourly sums are {ledger.hourly}, the rows {ledger.total}")
    return problems


def count_missing(results: Sequence[Result], ledger: Ledger) -> Counter[str]:
    return Counter(result.kind for result in results if result.session not in ledger.rows)
