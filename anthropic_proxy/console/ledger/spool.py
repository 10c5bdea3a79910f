"""`Spool`: a file for requests that wait for the database, also over a restart."""

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from anthropic_proxy.console.ledger.contents import ContentRow
from anthropic_proxy.console.ledger.database import may_exist
from anthropic_proxy.console.ledger.records import StoredRequest
from anthropic_proxy.engine.platforms.os_errors import describe_os_error

_T = TypeVar("_T")
MAX_SPOOL_BYTES = 256 * 1024 * 1024
"""Size of the spool file in bytes that no further block may exceed. Further requests wait in memory."""
CLAIM_SECONDS = 60.0
"""Time in seconds for which a worker claims a block (rows of one transaction), to store it in the ledger."""
_WRITE_TIMEOUT_SECONDS = 5.0
"""Maximum wait for another worker that uses the file."""
_READ_TIMEOUT_SECONDS = 0.5
"""The same for what the writer does beside each batch of the database, so that a held file does not slow it down."""
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError)
"""Exceptions of msgspec for a value of another type, damaged bytes, deep nesting, and a column that is no BLOB."""
_PAGE_BYTES = 4096
_SPOOL_TABLE = """CREATE TABLE IF NOT EXISTS block (
    id INTEGER PRIMARY KEY, rows BLOB NOT NULL, row_count INTEGER NOT NULL, claimed_until REAL NOT NULL DEFAULT 0
)"""
_SPOOL_INDEX = "CREATE INDEX IF NOT EXISTS block_row_counts ON block (row_count)"
"""The rows are counted without reading the blocks, also those in the damaged part of a file."""
_ADD_BLOCK = "INSERT INTO block (rows, row_count) VALUES (?, ?)"
_COUNT_ROWS = "SELECT coalesce(sum(row_count), 0) FROM block INDEXED BY block_row_counts"
_READ_NEXT = "SELECT id, rows, row_count FROM block NOT INDEXED WHERE id >= ? ORDER BY id LIMIT 1"
_MAX_UNREADABLE_IDS = 10_000
"""More than the ids below one page of the inner part of the table."""
_PAGE_COUNT_PLACE = 28
"""Place of the number of pages in the header of a file (sqlite.org/fileformat.html, read 2026-11)."""
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_CLAIM_BLOCK = """UPDATE block SET claimed_until = ?1 + ?2
    WHERE id = (SELECT id FROM block WHERE claimed_until NOT BETWEEN ?1 AND ?1 + ?2 ORDER BY id LIMIT 1)
    RETURNING id, rows, row_count"""
"""A claim for longer than a minute was made while the clock was ahead."""


class SpooledBlock(Struct):
    rows: list[StoredRequest]
    texts: dict[str, list[ContentRow]]
    """Request id → rows of the table `contents` with the texts of this request."""
    id: int = 0
    """Number of the block in the file. 0: it is not in the file yet."""
    dropped_rows: int = 0
    """Number of requests of the block that cannot be decoded, after `Spool.claim`."""
    problem: str = ""
    """Reason of the first failure to decode a request or its texts. "": there was none."""


class _EncodedBlock(Struct):
    rows: list[msgspec.Raw]
    texts: dict[str, msgspec.Raw]


class Spool:
    """The file `find_spool_file` with rows that wait for a database, also over a restart.

    All workers of a machine use the same file, a SQLite database. A worker claims the oldest block, the rows of one
    transaction, for a minute. It stores them and deletes the block, or releases it after a failure.

    A damaged file is replaced by one with the blocks that can be read, and kept as `.damaged`. `note_damage` then gets
    the number of lost rows and a sentence for the log.
    """

    def __init__(
        self,
        file: Path,
        note_damage: Callable[[int, str], None] = lambda lost, text: None,
        *,
        max_bytes: int = MAX_SPOOL_BYTES,
    ) -> None:
        self.file = file
        self._max_pages = max_bytes // _PAGE_BYTES
        self._note_damage = note_damage
        self._may_exist = False
        self._row_count = 0
        self.problem = ""
        """Reason why the last use of the file failed. "": it did not."""
        self.is_half_full = False
        """True if more than half of its room was taken after its last use."""

    def append(self, block: SpooledBlock) -> bool:
        """False: the file is full or cannot be written."""
        values = (msgspec.msgpack.encode(block), len(block.rows))
        return self._execute(_ADD_BLOCK, values) is not None

    def claim(self) -> SpooledBlock | None:
        """Requests that cannot be decoded are left out, and counted in `SpooledBlock.dropped_rows`.

        None: no block is unclaimed, or the file cannot be used (`problem`).
        """
        blocks = self._read(_CLAIM_BLOCK, (time.time(), CLAIM_SECONDS))
        if not blocks:
            return None
        ((block_id, rows, row_count),) = blocks
        block = _decode_block(rows, row_count)
        block.id = block_id
        return block

    def release(self, block: SpooledBlock) -> None:
        self._execute("UPDATE block SET claimed_until = 0 WHERE id = ?", (block.id,))

    def delete(self, block: SpooledBlock) -> bool:
        """False: the file cannot be written, or another worker has deleted the block.

        A block that stays is claimed again later. The worker that claims it skips the stored rows.
        """
        return bool(self._execute("DELETE FROM block WHERE id = ? RETURNING id", (block.id,)))

    def count_rows(self) -> int:
        """Return the last known number if the file cannot be used (`problem`)."""
        counts = self._read(_COUNT_ROWS, ())
        if counts is not None:
            self._row_count = counts[0][0] if counts else 0
        return self._row_count

    def _read(self, sql: str, values: Sequence[object]) -> list[Any] | None:
        """Return nothing if there is no file. Another worker may create it. None: the file cannot be used."""
        self._may_exist = self._may_exist or may_exist(self.file)
        if self._may_exist:
            return self._execute(sql, values, _READ_TIMEOUT_SECONDS)
        self.problem = ""
        return []

    def _execute(
        self, sql: str, values: Sequence[object], timeout_seconds: float = _WRITE_TIMEOUT_SECONDS
    ) -> list[Any] | None:
        """Return the rows of the result. None: the file cannot be used."""
        try:
            try:
                rows = self._run(sql, values, timeout_seconds)
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                self._replace_damaged(str(error))
                rows = self._run(sql, values, timeout_seconds)
        except (sqlite3.Error, OSError) as error:
            self.problem = describe_os_error(error) if isinstance(error, OSError) else str(error)
            return None
        self.problem = ""
        return rows

    def _run(self, sql: str, values: Sequence[object], timeout_seconds: float) -> list[Any]:
        self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(self.file, os.O_RDWR | os.O_CREAT, 0o600))
        self._may_exist = True
        used = self.file.stat()
        with closing(sqlite3.connect(self.file, timeout=timeout_seconds, isolation_level=None)) as database:
            database.execute("PRAGMA auto_vacuum=FULL")  # effective in an empty file only
            if sql == _ADD_BLOCK:  # a claim writes its block again, before it frees the earlier pages
                database.execute(f"PRAGMA max_page_count={self._max_pages}")
            database.execute(_SPOOL_TABLE)
            database.execute(_SPOOL_INDEX)
            rows = database.execute(sql, values).fetchall()
        now = self.file.stat()
        if os.path.samestat(used, now):
            self.is_half_full = now.st_size > self._max_pages * _PAGE_BYTES // 2
            return rows
        return self._run(sql, values, timeout_seconds)  # another worker has replaced a damaged file

    def _replace_damaged(self, reason: str) -> None:
        """Raises `OSError` or `sqlite3.Error`, and changes nothing, if the disk has too little space."""
        damaged = self.file.stat()
        with tempfile.TemporaryDirectory(prefix=f"{self.file.name}.", dir=self.file.parent) as folder:
            new = Path(folder) / "new"
            kept, lost = _copy_intact(self.file, new)
            if not os.path.samestat(damaged, self.file.stat()):
                return  # another worker has replaced it
            place = self.file.with_name(f"{self.file.name}.damaged")
            journal = self.file.with_name(f"{self.file.name}-journal")
            if journal.exists():  # SQLite would write its old pages into the new file
                journal.replace(place.with_name(f"{place.name}-journal"))
            self.file.replace(place)
            new.replace(self.file)
        number = (
            "an unknown number is"
            if lost is None
            else "none is"
            if not lost
            else "1 is"
            if lost == 1
            else f"{lost} are"
        )
        self._note_damage(
            1 if lost is None else lost,
            f"The file {self.file} for waiting requests was damaged ({reason}). Of the requests in it, {kept} can be "
            f"read, and {number} lost. The damaged file is now {place}.",
        )


def _is_damage(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE  # errors of the module itself have no code


def _copy_intact(damaged: Path, new: Path) -> tuple[int, int | None]:
    """Write what can be read of a damaged file into a new one. Return the numbers of kept and lost rows. None: nothing
    says how many are lost.
    """
    empty = Spool(new)
    empty._run("SELECT 1", (), _WRITE_TIMEOUT_SECONDS)
    copy = new.with_name("copy")
    shutil.copyfile(damaged, copy)
    with copy.open("r+b") as file:  # the first page of all these files is equal, and the number of pages is ignored
        file.write(empty.file.read_bytes()[:_PAGE_BYTES])
        file.seek(_PAGE_COUNT_PLACE)
        file.write(bytes(4))
    kept = 0
    with closing(sqlite3.connect(copy)) as source, closing(sqlite3.connect(new, isolation_level=None)) as target:
        target.execute("BEGIN")
        for block_id, rows, row_count in _read_intact(source):
            target.execute("INSERT INTO block (id, rows, row_count) VALUES (?, ?, ?)", (block_id, rows, row_count))
            kept += row_count
        target.execute("COMMIT")
        try:
            ((total,),) = source.execute(_COUNT_ROWS)
        except sqlite3.DatabaseError:
            return kept, None
    return kept, max(total - kept, 0) if isinstance(total, int) else None


def _read_intact(source: sqlite3.Connection) -> Iterator[tuple[int, bytes, int]]:
    first = 1
    unreadable = 0
    while unreadable < _MAX_UNREADABLE_IDS:
        try:
            found = source.execute(_READ_NEXT, (first + unreadable,)).fetchone()
        except sqlite3.DatabaseError:
            unreadable += 1
            continue
        if found is None:
            return
        block_id, rows, row_count = found
        if block_id < first + unreadable or not isinstance(rows, bytes) or not isinstance(row_count, int):
            unreadable += 1
            continue
        yield block_id, rows, row_count
        first = block_id + 1
        unreadable = 0


def _decode_block(data: bytes, row_count: int) -> SpooledBlock:
    """Return the block `data` of `row_count` requests, without requests and texts that cannot be decoded."""
    try:
        return msgspec.msgpack.decode(data, type=SpooledBlock)
    except _DECODE_ERRORS as error:
        block = SpooledBlock([], {}, dropped_rows=row_count, problem=str(error))
    try:
        encoded = msgspec.msgpack.decode(data, type=_EncodedBlock)
    except _DECODE_ERRORS:
        return block
    problems: list[str] = []
    block.rows = [row for item in encoded.rows if (row := _decode(item, StoredRequest, problems)) is not None]
    for request_id, item in encoded.texts.items():
        if (texts := _decode(item, list[ContentRow], problems)) is not None:
            block.texts[request_id] = texts
    block.dropped_rows = len(encoded.rows) - len(block.rows)
    block.problem = problems[0] if problems else block.problem
    return block


def _decode(data: msgspec.Raw, kind: type[_T], problems: list[str]) -> _T | None:
    """Return the value `data` of the type `kind`. None: it cannot be decoded; the reason is added to `problems`."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except _DECODE_ERRORS as error:
        problems.append(str(error))
        return None
