"""Receipts, databases and a running writer, for the tests of the ledger."""

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, Table, create_engine, func, make_url, select, text

from anthropic_proxy.console.ledger.connection import Connection
from anthropic_proxy.console.ledger.database import SCHEMA, connect_for_writing, find_database
from anthropic_proxy.console.ledger.engines import open_reading_engine
from anthropic_proxy.console.ledger.migrations import upgrade_schema
from anthropic_proxy.console.ledger.receipt_queue import ReceiptQueue
from anthropic_proxy.console.ledger.spool import MAX_SPOOL_BYTES
from anthropic_proxy.console.ledger.tables import hourly, requests
from anthropic_proxy.console.ledger.writer import ANSWER_SECONDS, LedgerWriter
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import CallCheck, Client, Cost, Receipt
from anthropic_proxy.secrets import Secret
from tests.support.waiting import WAIT_SECONDS, wait_for

ADMIN = "admin-canary0123456789abcdef01234567"
"""Admin key of servers under test."""
DATABASE_VARIABLE = "LEDGER_TEST_DATABASE"
"""Variable with the URL of a PostgreSQL server on which tests may create databases."""
NOON = 1_795_262_400.0
"""2026-11-21 12:00 UTC in seconds since the epoch."""
UNKNOWN_COST = Cost(None, None, "")


def new_receipt(number: int = 1, **fields: Any) -> Receipt:
    """Return the receipt of a successful request at noon."""
    usual: dict[str, Any] = {
        "request_id": f"req_{number:024d}",
        "client": Client(),
        "started_at": NOON + number / 1000,
        "provider": "groq",
        "prefix": "groq",
        "model": "small",
        "requested_model": "claude-haiku-4-5",
        "input_tokens": 100,
        "output_tokens": 20,
        "first_token_seconds": 0.5,
        "duration_seconds": 1.5,
        "status": 200,
        "outcome": "end_turn",
    }
    return Receipt(**{**usual, **fields})


async def store_checked_reply(settings: Settings, **fields: Any) -> tuple[str, str, str]:
    """Store a reply with a call for each kind of verdict, and the requests to two checking models. Return their ids."""
    reply, check, second = new_receipt(1), new_receipt(2), new_receipt(3)
    why = "Deletes data that cannot be restored."
    flagged = CallCheck("toolu_1", "Bash", "flagged", why, rule="Deleting", request=check.request_id)
    disagreement = CallCheck(
        *("toolu_2", "mcp__shop__sell", "unavailable", "the two checking models disagree"),
        request="req_gone",
        confirmation=second.request_id,
        kind="disagreement",
    )
    checks = [
        flagged,
        disagreement,
        CallCheck("toolu_3", "Read", "harmless", rule="reads inside the directories: Read", kind="rule"),
        CallCheck("toolu_4", "Write", "not_flagged", kind="provider"),
        CallCheck("toolu_5", "WebFetch", "unavailable", "timeout", kind="timeout"),
    ]
    own = {"kind": "auto_mode_check", "parent": reply.request_id, "input_tokens": 2_000, "output_tokens": 40}
    agreed = CallCheck("toolu_2", "mcp__shop__sell", "flagged", "Sells.", request=second.request_id)
    receipts = [
        new_receipt(1, checks=checks, outcome="tool_use", **fields),
        new_receipt(2, checks=[flagged], **{**own, "prefix": "openai", "model": "gpt-4.1", "duration_seconds": 0.8}),
        new_receipt(3, checks=[agreed], **{**own, "prefix": "gemini", "model": "pro", "duration_seconds": 0.9}),
    ]
    known = {"gpt-4.1": Cost(4_320_000, None, "list")}
    await store(settings, *receipts, cost=lambda receipt: known.get(receipt.model, UNKNOWN_COST))
    return reply.request_id, check.request_id, second.request_id


@contextmanager
def new_database(kind: str, directory: Path) -> Iterator[Settings]:
    """Yield settings with a new database of a kind, `sqlite` or `postgresql`."""
    if kind == "sqlite":
        yield Settings(data_directory=directory / "data")
        return
    server = os.environ.get(DATABASE_VARIABLE)
    if server is None:
        pytest.skip("engine: PostgreSQL; python3 scripts/ci.py databases starts one")
    name = f"test_{uuid.uuid4().hex}"
    admin = create_engine(make_url(server).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield Settings(database_url=Secret(make_url(server).set(database=name).render_as_string(hide_password=False)))
    finally:
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        admin.dispose()


def list_server_settings(database: Settings) -> dict[str, str]:
    """Return the settings of a server with virtual keys on a PostgreSQL database, whose administrator has `ADMIN`."""
    assert database.database_url is not None
    return {
        "DATABASE_URL": database.database_url.reveal(),
        "VIRTUAL_KEYS": "true",
        "ADMIN_API_KEY": ADMIN,
        "SERVE_DEMO": "true",
    }


FIRST_SCHEMA = """
CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num));
CREATE TABLE requests (
    id TEXT NOT NULL, started_at BIGINT NOT NULL, client TEXT DEFAULT '' NOT NULL, key_label TEXT DEFAULT '' NOT NULL,
    project TEXT DEFAULT '' NOT NULL, session TEXT DEFAULT '' NOT NULL, agent TEXT DEFAULT '' NOT NULL,
    user_agent TEXT DEFAULT '' NOT NULL, path TEXT DEFAULT '' NOT NULL, stream BOOLEAN NOT NULL,
    requested_model TEXT DEFAULT '' NOT NULL, provider TEXT DEFAULT '' NOT NULL, prefix TEXT DEFAULT '' NOT NULL,
    model TEXT DEFAULT '' NOT NULL, route_reason TEXT DEFAULT '' NOT NULL, attempts INTEGER DEFAULT '0' NOT NULL,
    failed_attempts TEXT DEFAULT '' NOT NULL, status SMALLINT DEFAULT '0' NOT NULL, outcome TEXT DEFAULT '' NOT NULL,
    outcome_class TEXT DEFAULT '' NOT NULL, error_type TEXT DEFAULT '' NOT NULL, error TEXT DEFAULT '' NOT NULL,
    tool_count INTEGER DEFAULT '0' NOT NULL, message_count INTEGER DEFAULT '0' NOT NULL,
    input_tokens BIGINT DEFAULT '0' NOT NULL, cache_read_tokens BIGINT DEFAULT '0' NOT NULL,
    cache_write_tokens BIGINT DEFAULT '0' NOT NULL, output_tokens BIGINT DEFAULT '0' NOT NULL,
    thinking_tokens BIGINT DEFAULT '0' NOT NULL, cost BIGINT, requested_cost BIGINT,
    price_source TEXT DEFAULT '' NOT NULL, first_token BIGINT, duration BIGINT DEFAULT '0' NOT NULL, output_rate FLOAT,
    notes TEXT DEFAULT '' NOT NULL, note_count INTEGER DEFAULT '0' NOT NULL, adaptations TEXT DEFAULT '' NOT NULL,
    instance TEXT DEFAULT '' NOT NULL, worker INTEGER DEFAULT '0' NOT NULL, PRIMARY KEY (id));
CREATE TABLE hourly (
    hour INTEGER NOT NULL, instance TEXT NOT NULL, project TEXT NOT NULL, key_label TEXT NOT NULL,
    provider TEXT NOT NULL, model TEXT NOT NULL, requested_model TEXT NOT NULL, outcome_class TEXT NOT NULL,
    requests BIGINT DEFAULT '0' NOT NULL, errors BIGINT DEFAULT '0' NOT NULL, input_tokens BIGINT DEFAULT '0' NOT NULL,
    cache_read_tokens BIGINT DEFAULT '0' NOT NULL, cache_write_tokens BIGINT DEFAULT '0' NOT NULL,
    output_tokens BIGINT DEFAULT '0' NOT NULL, thinking_tokens BIGINT DEFAULT '0' NOT NULL,
    cost BIGINT DEFAULT '0' NOT NULL, unknown_cost_requests BIGINT DEFAULT '0' NOT NULL,
    requested_cost BIGINT DEFAULT '0' NOT NULL, unknown_requested_cost_requests BIGINT DEFAULT '0' NOT NULL,
    duration BIGINT DEFAULT '0' NOT NULL, first_token_sum BIGINT DEFAULT '0' NOT NULL,
    first_token_count BIGINT DEFAULT '0' NOT NULL, first_token_histogram BLOB NOT NULL,
    duration_histogram BLOB NOT NULL,
    PRIMARY KEY (hour, instance, project, key_label, provider, model, requested_model, outcome_class));
CREATE INDEX requests_by_time ON requests (started_at, id);
CREATE INDEX requests_by_provider ON requests (provider, started_at);
CREATE INDEX requests_by_model ON requests (model, started_at);
CREATE INDEX requests_by_requested_model ON requests (requested_model, started_at);
CREATE INDEX requests_by_project ON requests (project, started_at);
CREATE INDEX requests_by_session ON requests (session, started_at);
CREATE INDEX requests_by_key_label ON requests (key_label, started_at);
CREATE INDEX requests_by_outcome_class ON requests (outcome_class, started_at);
INSERT INTO alembic_version VALUES ('0001')
"""
"""Tables of the first version of the program, as it created them."""


@contextmanager
def plain_connection(settings: Settings) -> Iterator[Connection]:
    """Yield a connection to an empty database, without any table."""
    address = find_database(settings)
    connection = Connection(connect_for_writing(address))
    if connection.is_postgres:
        connection.execute(f"CREATE SCHEMA {SCHEMA}")
    try:
        yield connection
    finally:
        connection.close()


def create_earlier_schema(connection: Connection, version: str) -> None:
    for statement in FIRST_SCHEMA.split(";"):
        connection.execute(statement.replace("BLOB", "BYTEA") if connection.is_postgres else statement)
    upgrade_schema(connection, "0001", version)


@contextmanager
def rejecting_connections(settings: Settings) -> Iterator[None]:
    """Let a PostgreSQL database reject connections, and end those that are open."""
    name = make_url(settings.database_url.reveal()).database
    server = make_url(os.environ[DATABASE_VARIABLE]).set(drivername="postgresql+psycopg")
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"), {"name": name}
        )
        try:
            yield
        finally:
            connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
    admin.dispose()


def destroy_ledger(directory: Path) -> None:
    """Overwrite the SQLite files of ledgers below `directory` with other bytes."""
    for file in directory.rglob("ledger.sqlite3*"):
        file.write_bytes(b"no database " * 1_000)


class RunningLedger:
    """A queue with its writer on a database, without pauses.

    `cost`: the cost of each request, or a function of the receipt; None: that of the prices of the settings. The disk
    is full while `full_disk` is set. `stop_seconds`: time for the end. All of it passes if the database is away.
    """

    def __init__(
        self,
        settings: Settings,
        cost: Cost | Callable[[Receipt], Cost] | None = UNKNOWN_COST,
        *,
        batch_seconds: float = 0.001,
        answer_seconds: float = ANSWER_SECONDS,
        stop_seconds: float = WAIT_SECONDS,
        max_spool_bytes: int = MAX_SPOOL_BYTES,
        **options: Any,
    ) -> None:
        self.settings = settings
        self.warnings: list[str] = []
        self.full_disk = threading.Event()
        self.queue = ReceiptQueue(self._run, batch_seconds=batch_seconds, **options)
        self._cost = cost
        self._answer_seconds = answer_seconds
        self._stop_seconds = stop_seconds
        self._max_spool_bytes = max_spool_bytes

    def _run(self, queue: ReceiptQueue) -> None:
        LedgerWriter(
            queue,
            lambda: self.settings,
            self.warnings.append,
            calculate_cost=(lambda _: cost) if isinstance(cost := self._cost, Cost) else cost,
            retry_delays=(0.01,),
            answer_seconds=self._answer_seconds,
            clock=lambda: NOON,
            is_disk_full=lambda _: self.full_disk.is_set(),
            disk_check_seconds=0.01,
            max_spool_bytes=self._max_spool_bytes,
        ).run()

    async def record(self, *receipts: Receipt) -> None:
        for receipt in receipts:
            self.queue.record(receipt)

    def wait_written(self, count: int) -> None:
        self.wait_until(lambda: self.queue.state.written_rows >= count)

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition. A failure shows the state of the queue and the warnings."""
        wait_for(lambda: (condition(), self.queue.state, self.warnings), itemgetter(0))

    def stop(self) -> int:
        return self.queue.stop(self._stop_seconds)


@contextmanager
def running_ledger(settings: Settings, **options: Any) -> Iterator[RunningLedger]:
    ledger = RunningLedger(settings, **options)
    try:
        yield ledger
    finally:
        ledger.stop()


async def store(settings: Settings, *receipts: Receipt, **options: Any) -> None:
    """Store `receipts` in the ledger. `options`: those of `running_ledger`. An error of the database ends the test at
    once with its text.
    """
    with running_ledger(settings, **options) as ledger:
        await ledger.record(*receipts)
        state = ledger.queue.state
        ledger.wait_until(lambda: state.condition != "ok" or state.written_rows >= len(receipts))
        assert state.condition == "ok", ledger.warnings


@contextmanager
def reading(settings: Settings) -> Iterator[Engine]:
    engine = open_reading_engine(settings)
    try:
        yield engine
    finally:
        engine.dispose()


def read_rows(settings: Settings) -> list[dict[str, Any]]:
    with reading(settings) as engine, engine.connect() as connection:
        return [dict(row._mapping) for row in connection.execute(select(requests).order_by(requests.c.id))]


def read_hourly(settings: Settings) -> list[dict[str, Any]]:
    keys = [column for column in hourly.c if column.primary_key]
    with reading(settings) as engine, engine.connect() as connection:
        return [dict(row._mapping) for row in connection.execute(select(hourly).order_by(*keys))]


def count_rows(settings: Settings, table: Table = requests) -> int:
    with reading(settings) as engine, engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()
