"""Another program holds the database: the ledger shows it, and loses no request at a stop or a kill."""

import asyncio
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from msgspec import structs
from sqlalchemy import make_url

from anthropic_proxy.console.keys.key_table import KeyTable
from anthropic_proxy.console.ledger import plugin as ledger_plugin
from anthropic_proxy.console.ledger.api import respond
from anthropic_proxy.console.ledger.connection import Connection
from anthropic_proxy.console.ledger.database import (
    connect_for_writing,
    find_database,
    find_spool_file,
    open_for_writing,
)
from anthropic_proxy.console.ledger.plugin import STOP_SECONDS, open_plugin
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import RouteRequest
from anthropic_proxy.secrets import Secret
from tests.support.frozen_server import relaying
from tests.support.ledger import RunningLedger, count_rows, new_database, new_receipt, read_hourly, running_ledger
from tests.support.small_disk import fill_disk, mounted_disk
from tests.support.waiting import WAIT_SECONDS, wait_for_async


class Holder:
    """Another program that holds a database. `reached`: the settings by which the ledger uses it."""

    def __init__(self, database: Settings, stack: ExitStack) -> None:
        self.reached = database
        self._stack = stack

    def hold(self) -> None:
        """Hold the database until the end of the stack."""
        raise NotImplementedError


class FileHolder(Holder):
    pragma = "PRAGMA query_only=OFF"

    def hold(self) -> None:
        file = find_database(self.reached).file
        assert file is not None
        other = self._stack.enter_context(closing(sqlite3.connect(file, isolation_level=None)))
        other.execute(self.pragma)
        other.execute("BEGIN EXCLUSIVE")


class LonelyHolder(FileHolder):
    """It does not share the file, not even with readers."""

    pragma = "PRAGMA locking_mode=EXCLUSIVE"


class TransactionHolder(Holder):
    statement = "LOCK TABLE requests IN ACCESS EXCLUSIVE MODE"

    def hold(self) -> None:
        other = self._stack.enter_context(closing(Connection(connect_for_writing(find_database(self.reached)))))
        other.execute("BEGIN")
        other.execute(self.statement)


class BackupHolder(TransactionHolder):
    statement = "LOCK TABLE hourly IN SHARE MODE"


class MigrationHolder(TransactionHolder):
    statement = "ALTER TABLE session_hours ADD later TEXT"


class FrozenServer(Holder):
    """The server accepts connections, and answers nothing more."""

    def __init__(self, database: Settings, stack: ExitStack) -> None:
        super().__init__(database, stack)
        assert database.database_url is not None
        url = make_url(database.database_url.reveal())
        self._relay = stack.enter_context(relaying(url.host or "127.0.0.1", url.port or 5432))
        address = url.set(host="127.0.0.1", port=self._relay.port).render_as_string(hide_password=False)
        self.reached = structs.replace(database, database_url=Secret(address))

    def hold(self) -> None:
        self._relay.freeze()


class Case(NamedTuple):
    database: str
    holder: type[Holder]
    condition: str = "locked"
    answer_seconds: float = WAIT_SECONDS
    """Time after which the ledger gives up. A lock has a limit of its own."""


CASES: Mapping[str, Case] = {
    "a transaction on the file": Case("sqlite", FileHolder),
    "a file that is not shared": Case("sqlite", LonelyHolder),
    "a lock on the requests": Case("postgresql", TransactionHolder),
    "a backup that blocks writers": Case("postgresql", BackupHolder),
    "the migration of a newer version": Case("postgresql", MigrationHolder),
    "a server that does not answer": Case("postgresql", FrozenServer, "unreachable", 0.5),
}


class Held:
    """A database with a ledger. `stack` is what another program holds."""

    def __init__(self, case: Case, database: Settings, stack: ExitStack) -> None:
        self.case = case
        self.database = database
        self._stack = stack
        self.holder = case.holder(database, stack)

    def open_ledger(self) -> RunningLedger:
        return RunningLedger(self.holder.reached, answer_seconds=self.case.answer_seconds)

    async def release(self, count: int) -> None:
        """Release the database. Expect that a later start stores `count` requests in all, each once."""
        self._stack.close()
        reached = self.holder.reached
        if reached is not self.database:  # the file has the name of another address
            given, taken = find_spool_file(reached), find_spool_file(self.database)
            if given is not None and taken is not None and given.exists():
                given.rename(taken)
        with running_ledger(self.database) as ledger:
            ledger.queue.start()
            ledger.wait_until(lambda: count_rows(self.database) == count and not ledger.queue.state.queued_rows)
        assert sum(row["requests"] for row in read_hourly(self.database)) == count


@pytest.fixture(params=CASES)
def held(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Held]:
    case = CASES[request.param]
    with new_database(case.database, tmp_path) as settings, ExitStack() as stack:
        database = structs.replace(settings, data_directory=tmp_path / "data")
        open_for_writing(database).close()
        yield Held(case, database, stack)


async def test_a_held_database_is_shown_and_a_stop_loses_nothing(held: Held) -> None:
    ledger = held.open_ledger()
    if held.case.holder is not LonelyHolder:  # it begins before
        await ledger.record(new_receipt(9))
        ledger.wait_written(1)
    held.holder.hold()
    await ledger.record(*map(new_receipt, range(3)))
    ledger.wait_until(lambda: ledger.warnings)
    assert ledger.queue.state.condition == held.case.condition
    ledger.wait_until(lambda: ledger.queue.state.queued_rows == 3)
    assert ledger.warnings[0].startswith(f"The ledger cannot store requests: {held.case.condition} (")
    await ledger.record(*map(new_receipt, range(3, 5)))
    ledger.wait_until(lambda: not len(ledger.queue) and ledger.queue.state.queued_rows == 5)  # a kill loses none
    assert ledger.queue.state.waiting_since is not None
    assert ledger.queue.stop(STOP_SECONDS) == 0
    await held.release(5 + ledger.queue.state.written_rows)


async def test_a_worker_without_requests_shows_it_too(held: Held) -> None:
    held.holder.hold()
    idle, busy = held.open_ledger(), held.open_ledger()
    await busy.record(new_receipt(1))
    busy.wait_until(lambda: busy.queue.state.condition == held.case.condition and busy.queue.spooled_rows)
    idle.queue.start()
    idle.wait_until(lambda: idle.queue.state.condition == held.case.condition)
    idle.wait_until(lambda: idle.queue.state.queued_rows == 1)  # it looks at the file after the database
    for ledger in (idle, busy):
        ledger.queue.stop(STOP_SECONDS)
    await held.release(1)


async def test_a_start_and_a_stop_while_the_database_is_held_lose_nothing(held: Held) -> None:
    held.holder.hold()
    ledger = held.open_ledger()
    await ledger.record(*map(new_receipt, range(4)))
    assert ledger.queue.stop(STOP_SECONDS) == 0
    await held.release(4)


async def test_a_stop_while_a_batch_waits_loses_nothing(held: Held) -> None:
    held.holder.hold()
    ledger = RunningLedger(held.holder.reached)
    await ledger.record(*map(new_receipt, range(3)))
    ledger.wait_until(lambda: ledger.queue.in_batch or ledger.queue.spooled_rows)
    await ledger.record(new_receipt(3))
    assert ledger.queue.stop(STOP_SECONDS) == 0
    await held.release(4)


async def test_requests_that_arrive_during_a_long_wait_are_in_the_file_at_once(held: Held) -> None:
    held.holder.hold()
    ledger = RunningLedger(held.holder.reached)
    await ledger.record(new_receipt(0))
    ledger.wait_until(lambda: ledger.queue.in_batch or ledger.queue.spooled_rows)
    await ledger.record(new_receipt(1))
    ledger.wait_until(lambda: ledger.queue.spooled_rows and ledger.queue.state.queued_rows == 2)
    assert ledger.queue.stop(STOP_SECONDS) == 0
    await held.release(2)


async def test_what_was_given_up_is_stored_once_after_the_release(held: Held) -> None:
    held.holder.hold()
    ledger = held.open_ledger()
    await ledger.record(*map(new_receipt, range(3)))
    ledger.wait_until(lambda: ledger.queue.state.condition == held.case.condition)
    await held.release(3)
    ledger.stop()
    assert count_rows(held.database) == sum(row["requests"] for row in read_hourly(held.database)) == 3


async def test_requests_without_a_call_leave_half_of_the_file_to_others(tmp_path: Path) -> None:
    settings = Settings(database_url=Secret(f"sqlite:///{tmp_path / 'ledger.sqlite3'}"), data_directory=tmp_path)
    open_for_writing(settings).close()
    refused = {"outcome": "error", "path": "/x" * 500, "provider": "", "input_tokens": 0, "output_tokens": 0}
    with ExitStack() as stack, running_ledger(settings, max_rows=400, max_spool_bytes=400_000) as ledger:
        state = ledger.queue.state
        FileHolder(settings, stack).hold()
        numbers = iter(range(1_000))
        while not ledger.queue.spool_is_half_full:
            await ledger.record(
                *(new_receipt(number, **refused) for number, _ in zip(numbers, range(200), strict=False))
            )
            ledger.wait_until(lambda: not len(ledger.queue))
        before = ledger.queue.spooled_rows
        await ledger.record(new_receipt(1_000, **refused), *map(new_receipt, range(1_001, 1_031)))
        ledger.wait_until(lambda: not len(ledger.queue))
        assert (state.dropped_rows, ledger.queue.spooled_rows) == (1, before + 30)
        stack.close()
        ledger.wait_until(lambda: not state.queued_rows)
    assert sum(row["requests"] for row in read_hourly(settings)) == before + 30


@pytest.mark.parametrize("has_file", [True, False], ids=["in a file", "in memory"])
async def test_what_waited_counts_as_stored_late(tmp_path: Path, *, has_file: bool) -> None:
    """Budgets are compared with the ledger after such rows."""
    (tmp_path / "file").touch()
    place = tmp_path / ("data" if has_file else "file/data")
    settings = Settings(database_url=Secret(f"sqlite:///{tmp_path / 'ledger.sqlite3'}"), data_directory=place)
    open_for_writing(settings).close()
    with running_ledger(settings) as ledger:
        await ledger.record(new_receipt(0))
        ledger.wait_written(1)
        before = ledger.queue.state.late_rows  # 1 on a slow machine
        with ExitStack() as stack:
            FileHolder(settings, stack).hold()
            await ledger.record(new_receipt(1))
            ledger.wait_until(lambda: ledger.queue.state.condition == "locked")
            await ledger.record(new_receipt(2))
            ledger.wait_until(lambda: ledger.queue.spooled_rows == 2 * has_file)
        ledger.wait_until(lambda: ledger.queue.state.written_rows == 3 and ledger.queue.state.condition == "ok")
        assert ledger.queue.state.late_rows == before + 2


async def test_keys_are_closed_although_a_query_waits_for_a_server_that_does_not_answer(tmp_path: Path) -> None:
    with new_database("postgresql", tmp_path) as database, ExitStack() as stack:
        open_for_writing(database).close()
        holder = FrozenServer(database, stack)
        table = KeyTable(holder.reached, print)
        assert await table.refresh()
        holder.hold()
        reading = asyncio.create_task(table.refresh())
        await asyncio.sleep(0)
        await table.stop()
        assert not reading.done()
        stack.close()
        await asyncio.wait({reading})


async def test_what_neither_the_database_nor_the_file_takes_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk of the data directory is full, and another program holds the database on another disk."""
    monkeypatch.setattr(ledger_plugin, "STOP_SECONDS", 3.0)
    file = tmp_path / "ledger.sqlite3"
    with mounted_disk(tmp_path) as disk:
        settings = Settings(database_url=Secret(f"sqlite:///{file}"), data_directory=disk)
        open_for_writing(settings).close()
        spool = find_spool_file(settings)
        fill_disk(disk)
        with ExitStack() as stack:
            FileHolder(settings, stack).hold()
            plugin = open_plugin(settings)
            warnings = list[str]()
            (observer,) = plugin.observers
            assert plugin.ledger_state is not None
            assert plugin.stop is not None
            assert plugin.start is not None
            await plugin.start(_Gateway(settings, warnings))  # type: ignore[arg-type]
            observer.record(new_receipt(0))
            observer.record(new_receipt(1))
            await wait_for_async(plugin.ledger_state, lambda state: state.condition == "locked")
            await plugin.stop()
    assert plugin.ledger_state().lost_rows == 2
    held = (
        f"The ledger cannot store requests: locked ({file}: database is locked). Another program holds its lock. "
        "End the transaction of that program."
    )
    assert warnings == [
        held,
        f"The ledger did not store the last 2 requests. {held} The file {spool} for waiting requests "
        "cannot be used: database or disk is full.",
    ]


class _Gateway:
    def __init__(self, settings: Settings, warnings: list[str]) -> None:
        self.settings = settings
        self.log_warning_each_time = warnings.append
        self.log_warning_once = warnings.append


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_query_that_waits_for_a_lock_names_the_lock(database: Settings) -> None:
    open_for_writing(database).close()
    with ExitStack() as stack:
        holder = TransactionHolder(database, stack)
        holder.statement = "LOCK TABLE hourly IN ACCESS EXCLUSIVE MODE"
        holder.hold()
        response = respond("/api/usage", RouteRequest(path="/api/usage"), database)
    assert (response.status, msgspec.json.decode(response.body)["error"]["message"]) == (
        503,
        "The ledger cannot be read, because another program holds a lock on its tables. Try again when the transaction "
        "of that program has ended. Requests are still served.",
    )
