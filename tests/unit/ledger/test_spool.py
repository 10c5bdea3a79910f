"""Rows wait in a file while the database is unavailable, and are stored once after it is available again."""

import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from anthropic_proxy.console.ledger.database import find_spool_file
from anthropic_proxy.console.ledger.records import StoredRequest
from anthropic_proxy.console.ledger.spool import Spool, SpooledBlock
from anthropic_proxy.console.units import to_microseconds
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.secrets import Secret
from tests.support.ledger import (
    NOON,
    count_rows,
    new_database,
    new_receipt,
    read_hourly,
    read_rows,
    rejecting_connections,
    running_ledger,
    store,
)
from tests.support.server_process import hold_port

_NAME = "ledger-spool.sqlite3"


def open_spool(folder: Path, database: Settings) -> Spool:
    file = find_spool_file(structs.replace(database, data_directory=folder))
    assert file is not None
    return Spool(file)


def claim(spool: Spool) -> SpooledBlock:
    block = spool.claim()
    assert block is not None
    return block


def replace_rows(spool: Spool, data: object) -> None:
    with closing(sqlite3.connect(spool.file)) as file, file:
        file.execute("UPDATE block SET rows = ?", (data,))


async def test_rows_wait_in_a_file_and_survive_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with hold_port() as port:
        unavailable = Settings(database_url=Secret(f"postgresql://user@127.0.0.1:{port}/ledger"), data_directory=folder)
        with running_ledger(unavailable, max_rows=50) as ledger:
            for start in range(0, 300, 50):
                await ledger.record(*(new_receipt(start + number) for number in range(50)))
                ledger.wait_until(lambda: not len(ledger.queue))
            ledger.wait_until(lambda: ledger.queue.state.queued_rows == 300)
            state = ledger.queue.state
            assert (state.condition, state.dropped_rows) == ("unreachable", 0)
            assert ledger.stop() == 0
            file = find_spool_file(unavailable)
            assert ledger.warnings[1:] == [f"Requests wait in {file} until the ledger can store them."]
        with running_ledger(unavailable) as ledger:
            ledger.queue.start()
            ledger.wait_until(lambda: ledger.queue.state.queued_rows == 300)
    other = Settings(data_directory=folder)
    await store(other, new_receipt(300))
    assert count_rows(other) == 1


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_waiting_rows_are_stored_without_a_new_request(tmp_path: Path, is_restarted: bool) -> None:
    with new_database("postgresql", tmp_path) as database, ExitStack() as ledgers:
        settings = structs.replace(database, data_directory=tmp_path)
        first = ledgers.enter_context(running_ledger(settings))
        with rejecting_connections(settings):
            await first.record(*map(new_receipt, range(10)))
            first.wait_until(lambda: first.queue.state.queued_rows == 10 and not len(first.queue))
            assert first.queue.state.condition == "unreachable"
            if is_restarted:
                first.stop()
        last = ledgers.enter_context(running_ledger(settings)) if is_restarted else first
        last.queue.start()
        last.wait_until(lambda: last.queue.state.written_rows == 10 and not last.queue.state.queued_rows)
        assert last.queue.state.condition == "ok"
        assert count_rows(settings) == sum(row["requests"] for row in read_hourly(settings)) == 10


@pytest.mark.parametrize(
    ("address", "is_same"),
    [
        ("postgresql://other:secret@host/ledger?sslmode=require", True),
        ("postgresql://user@host:5432/ledger", True),
        ("postgresql://user@other/ledger", False),
        ("postgresql://user@host:5433/ledger", False),
        ("postgresql://user@host/other", False),
        ("postgresql://user@host/ledger?options=-csearch_path%3Dother", False),
    ],
)
def test_each_database_has_its_own_blocks(tmp_path: Path, address: str, is_same: bool) -> None:
    def open_file(url: str) -> Spool:
        return open_spool(tmp_path, Settings(database_url=Secret(url)))

    assert open_file("postgresql://user@host/ledger").append(SpooledBlock([StoredRequest(id="req_1")], {}))
    other = open_file(address)
    assert (other.claim() is not None, other.count_rows()) == (is_same, int(is_same))


def test_a_block_is_claimed_by_one_worker(tmp_path: Path) -> None:
    first, second = Spool(tmp_path / _NAME), Spool(tmp_path / _NAME)
    assert first.claim() is None
    assert not first.file.exists()
    assert first.append(SpooledBlock([StoredRequest(id="req_1")], {"req_1": [{"data": b"text"}]}))
    second = Spool(tmp_path / _NAME)
    block = claim(first)
    assert (block.rows, block.texts) == ([StoredRequest(id="req_1")], {"req_1": [{"data": b"text"}]})
    assert second.claim() is None
    first.release(block)
    again = claim(second)
    second.delete(again)
    assert (first.claim(), first.count_rows()) == (None, 0)


def test_a_block_of_another_version_has_its_columns_and_no_unknown_ones(tmp_path: Path) -> None:
    spool = Spool(tmp_path / _NAME)
    assert spool.append(SpooledBlock([], {}))
    data = msgspec.msgpack.encode({"rows": [{"id": "req_1", "cost": None, "later": 1}], "texts": {}, "id": 0})
    replace_rows(spool, data)
    block = claim(spool)
    assert (block.rows, block.texts) == ([StoredRequest(id="req_1")], {})


def test_a_file_that_cannot_be_written_keeps_its_blocks_and_raises_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path / _NAME)
    assert spool.append(SpooledBlock([StoredRequest(id="req_1")], {}))
    block = claim(spool)
    moved = spool.file.rename(tmp_path / "moved")
    spool.file.mkdir()  # SQLite cannot open a folder
    spool.release(block)
    spool.delete(block)
    spool.file.rmdir()
    moved.rename(spool.file)
    assert spool.count_rows() == 1


def test_a_folder_that_cannot_be_examined_has_no_blocks(tmp_path: Path) -> None:
    spool = Spool(tmp_path / ("x" * 300) / _NAME)  # too long for a name
    assert (spool.claim(), spool.append(SpooledBlock([StoredRequest(id="req_1")], {}))) == (None, False)


async def _store_damaged_block(directory: Path, data: bytes) -> tuple[Path, list[str], list[str], int]:
    """Store a block of two requests with `data` as its content.

    Return the spool file, the ids of the stored requests, the warnings, and the number of dropped requests.
    """
    with new_database("postgresql", directory) as database:
        settings = structs.replace(database, data_directory=directory)
        spool = open_spool(directory, database)
        assert spool.append(SpooledBlock([StoredRequest(id="req_1"), StoredRequest(id="req_2")], {}))
        replace_rows(spool, data)
        with running_ledger(settings) as ledger:
            await ledger.record(new_receipt(3))
            ledger.wait_written(1)
            ledger.wait_until(lambda: spool.count_rows() == 0)
        assert (ledger.queue.state.condition, spool.count_rows()) == ("ok", 0)
        stored = [row["id"][:5] for row in read_rows(settings)]
        return spool.file, stored, ledger.warnings, ledger.queue.state.dropped_rows


async def test_a_row_with_a_value_of_another_type_is_dropped_alone(tmp_path: Path) -> None:
    rows = [{"id": "req_1", "cost": 1.5}, {"id": "req_2", "started_at": to_microseconds(NOON)}]
    data = {"rows": rows, "texts": {"req_1": [], "req_2": 5}, "id": 0}
    spool_file, stored, warnings, dropped = await _store_damaged_block(tmp_path, msgspec.msgpack.encode(data))
    assert (stored, dropped) == (["req_0", "req_2"], 1)
    assert warnings == [
        f"The ledger dropped 1 request of a block in {spool_file}: Expected `int | null`, got `float` - at `$.cost`"
    ]


@pytest.mark.parametrize("text", [b"\xc1", b"\x81\xa4rows", b"\x81\xa1\xff\xc0", b"\x81\xa4rows\x91\x81\xa2id\xa1\xff"])
async def test_a_damaged_block_is_dropped_and_later_requests_are_stored(tmp_path: Path, text: bytes) -> None:
    spool_file, stored, warnings, dropped = await _store_damaged_block(tmp_path, text)
    assert (stored, dropped) == (["req_0"], 2)
    (warning,) = warnings
    assert warning.startswith(f"The ledger dropped 2 requests of a block in {spool_file}: ")


@pytest.mark.parametrize("value", [b"\x81\xa1x" + b"\x91" * 5_000 + b"\xc0", "text", 5])
def test_a_block_of_another_structure_or_type_has_no_rows(tmp_path: Path, value: bytes | str | int) -> None:
    """`value`: deeply nested arrays, or a value of the column that is no BLOB."""
    spool = Spool(tmp_path / _NAME)
    assert spool.append(SpooledBlock([StoredRequest(id="req_1"), StoredRequest(id="req_2")], {}))
    replace_rows(spool, value)
    block = claim(spool)
    assert (block.rows, block.texts, block.dropped_rows) == ([], {}, 2)
    assert block.problem


async def test_a_block_that_cannot_be_deleted_is_counted_once(tmp_path: Path) -> None:
    with new_database("postgresql", tmp_path) as database:
        spool = open_spool(tmp_path, database)
        assert spool.append(SpooledBlock([StoredRequest(id="req_1"), StoredRequest(id="req_2")], {}))
        rows = [{"id": 1}, {"id": "req_2", "started_at": to_microseconds(NOON)}]
        data = msgspec.msgpack.encode({"rows": rows, "texts": {}})
        with closing(sqlite3.connect(spool.file, isolation_level=None)) as file:
            file.execute("UPDATE block SET rows = ?", (data,))
            file.execute("CREATE TRIGGER keep BEFORE DELETE ON block BEGIN SELECT RAISE(ABORT, 'disk full'); END")
            with running_ledger(structs.replace(database, data_directory=tmp_path)) as ledger:
                ledger.queue.start()
                for attempt in range(1, 4):
                    ledger.wait_written(attempt)
                    if attempt == 2:
                        file.execute("DROP TRIGGER keep")
                    file.execute("UPDATE block SET claimed_until = 0")
                ledger.wait_until(lambda: not ledger.queue.state.queued_rows)
        assert ledger.queue.state.dropped_rows == 1
        assert ledger.warnings == [
            f"The ledger dropped 1 request of a block in {spool.file}: Expected `str`, got `int` - at `$.id`"
        ]


@pytest.mark.parametrize("row_count", [1, 30, 300])
def test_a_full_file_is_emptied(tmp_path: Path, row_count: int) -> None:
    """Blocks may be claimed twice, because a database fails again."""
    spool = Spool(tmp_path / _NAME, max_bytes=1_000_000)
    rows = [StoredRequest(id=f"req_{number}", error="x" * 1_000) for number in range(row_count)]
    added = 0
    while spool.append(SpooledBlock(rows, {})):
        added += row_count
    assert (spool.problem, spool.is_half_full) == ("database or disk is full", True)
    assert 500_000 < spool.file.stat().st_size <= 1_000_000
    spool.release(claim(spool))
    stored = 0
    while (block := spool.claim()) is not None:
        stored += len(block.rows)
        assert spool.delete(block)
    assert (stored, spool.count_rows(), spool.problem, spool.is_half_full) == (added, 0, "", False)
    assert spool.append(SpooledBlock(rows, {}))


def test_a_block_that_is_claimed_again_drops_the_same_rows(tmp_path: Path) -> None:
    spool = Spool(tmp_path / _NAME)
    assert spool.append(SpooledBlock([StoredRequest(id="req_1"), StoredRequest(id="req_2")], {}))
    data = msgspec.msgpack.encode({"rows": [{"id": 1}, {"id": "req_2"}], "texts": {"req_2": [{"data": b"text"}]}})
    replace_rows(spool, data)
    for _ in range(2):
        block = claim(spool)
        assert block.dropped_rows == 1
        assert block.problem == "Expected `str`, got `int` - at `$.id`"
        assert (block.rows, block.texts) == ([StoredRequest(id="req_2")], {"req_2": [{"data": b"text"}]})
        spool.release(block)


def cut(data: bytes) -> bytes:
    return data[: len(data) * 6 // 10 // PAGE_BYTES * PAGE_BYTES]


def clear_pages(data: bytes) -> bytes:
    return data[: 10 * PAGE_BYTES] + bytes(8 * PAGE_BYTES) + data[18 * PAGE_BYTES :]


def replace_header(data: bytes) -> bytes:
    return b"\xff" * 100 + data[100:]


def clear_first_page(data: bytes) -> bytes:
    return bytes(PAGE_BYTES) + data[PAGE_BYTES:]


def clear_table_page(data: bytes) -> bytes:
    return data[: 2 * PAGE_BYTES] + bytes(PAGE_BYTES) + data[3 * PAGE_BYTES :]


def clear_count_page(data: bytes) -> bytes:
    return data[: 3 * PAGE_BYTES] + bytes(2 * PAGE_BYTES) + data[5 * PAGE_BYTES :]


def replace_all(data: bytes) -> bytes:
    return b"no database " * (len(data) // 12)


PAGE_BYTES = 4096
MALFORMED = "database disk image is malformed"
NO_DATABASE = "file is not a database"
DAMAGES: Mapping[str, tuple[Callable[[bytes], bytes], str, float, bool]] = {
    "its end is missing": (cut, MALFORMED, 0.4, True),
    "zeros in place of pages": (clear_pages, MALFORMED, 0.7, True),
    "another header": (replace_header, NO_DATABASE, 1.0, True),
    "zeros in place of the first page": (clear_first_page, NO_DATABASE, 1.0, True),
    "zeros in place of the table": (clear_table_page, MALFORMED, 0.0, True),
    "zeros in place of the counts": (clear_count_page, MALFORMED, 0.9, False),
    "other bytes": (replace_all, NO_DATABASE, 0.0, False),
}
"""How a file was damaged → what SQLite says, the least share of the rows that can be read, and True if the number of
the others is known."""


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_replaced_and_its_readable_rows_are_stored(tmp_path: Path, name: str) -> None:
    damage, reason, least_share, knows_lost = DAMAGES[name]
    settings = Settings(data_directory=tmp_path)
    spool = open_spool(tmp_path, settings)
    for number in range(60):
        names = [f"req_{number}_{row}" for row in range(number % 5 + 1)]
        rows = [StoredRequest(id=name, started_at=to_microseconds(NOON), error="x" * 500) for name in names]
        assert spool.append(SpooledBlock(rows, {}))
    total = spool.count_rows()
    spool.file.write_bytes(damage(spool.file.read_bytes()))
    with running_ledger(settings) as ledger:
        ledger.queue.start()
        ledger.wait_until(lambda: bool(ledger.warnings) and not spool.count_rows())
        ledger.stop()
        state = ledger.queue.state
        assert not knows_lost or state.written_rows + state.dropped_rows == total
        (text,) = ledger.warnings
        lost = f"{state.dropped_rows} are" if state.dropped_rows else "none is"
        kept = text.partition("Of the requests in it, ")[2].partition(" ")[0]  # some were stored before
        assert text == (
            f"The file {spool.file} for waiting requests was damaged ({reason}). Of the requests in it, {kept} can be "
            f"read, and {lost if knows_lost else 'an unknown number is'} lost. "
            f"The damaged file is now {spool.file}.damaged."
        )
        assert total * least_share <= int(kept) <= state.written_rows
        assert (state.condition, ledger.queue.spool_problem) == ("ok", "")
    assert count_rows(settings) == state.written_rows
    assert Path(f"{spool.file}.damaged").exists()
    assert spool.append(SpooledBlock([StoredRequest(id="req_later")], {}))
    assert spool.count_rows() == 1
    assert [file.name for file in tmp_path.iterdir() if file.is_dir()] == []


def test_two_workers_replace_a_damaged_file_once(tmp_path: Path) -> None:
    notes = list[int]()
    workers = [Spool(tmp_path / _NAME, lambda lost, text: notes.append(lost)) for _ in range(2)]
    for number in range(40):
        assert workers[0].append(SpooledBlock([StoredRequest(id=f"req_{number}", error="x" * 2_000)], {}))
    workers[0].file.write_bytes(cut(workers[0].file.read_bytes()))
    with ThreadPoolExecutor(2) as threads:
        blocks = list(threads.map(lambda worker: worker.claim(), workers))
    kept = workers[0].count_rows()
    assert None not in blocks
    assert notes == [40 - kept]


def test_the_journal_of_a_damaged_file_does_not_change_the_new_one(tmp_path: Path) -> None:
    spool = Spool(tmp_path / _NAME)
    assert spool.append(SpooledBlock([StoredRequest(id="req_1")], {}))
    spool.file.write_bytes(replace_header(spool.file.read_bytes()))
    journal = Path(f"{spool.file}-journal")
    journal.write_bytes(b"journal")
    spool._replace_damaged(NO_DATABASE)
    assert claim(spool).rows == [StoredRequest(id="req_1")]
    assert (journal.exists(), Path(f"{spool.file}.damaged-journal").read_bytes()) == (False, b"journal")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("a folder", "it is a folder"), ("a lock of another program", "database is locked")],
)
async def test_a_file_that_cannot_be_used_is_shown_and_does_not_count_as_empty(
    tmp_path: Path, name: str, reason: str
) -> None:
    settings = Settings(data_directory=tmp_path)
    spool = open_spool(tmp_path, settings)
    assert spool.append(SpooledBlock([StoredRequest(id="req_1")], {}))
    with ExitStack() as stack, running_ledger(settings) as ledger:
        if name == "a folder":
            moved = spool.file.rename(tmp_path / "moved")
            spool.file.mkdir()
            stack.callback(lambda: (spool.file.rmdir(), moved.rename(spool.file)))
        else:
            other = stack.enter_context(closing(sqlite3.connect(spool.file, isolation_level=None)))
            other.execute("BEGIN EXCLUSIVE")
        await ledger.record(new_receipt(2))
        problem = f"The file {spool.file} for waiting requests cannot be used: {reason}."
        ledger.wait_until(lambda: ledger.queue.spool_problem == problem and ledger.queue.state.written_rows == 1)
        assert ledger.queue.state.condition == "ok"
        stack.close()
        ledger.wait_until(lambda: ledger.queue.spool_problem == "" and ledger.queue.state.written_rows == 2)
    assert count_rows(settings) == 2


def test_a_file_in_a_folder_of_another_user_is_no_empty_file(tmp_path: Path) -> None:
    spool = Spool(tmp_path / ("x" * 300) / _NAME)  # as one that cannot be examined: the name is too long
    assert (spool.claim(), spool.count_rows(), spool.problem) == (None, 0, "file name too long")
    other = Spool(tmp_path / "none" / _NAME)
    assert (other.claim(), other.count_rows(), other.problem) == (None, 0, "")
