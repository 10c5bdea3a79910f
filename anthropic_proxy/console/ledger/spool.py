"""`Spool`: a file for requests that wait for the database, also over a restart."""

import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from anthropic_proxy.console.ledger.contents import ContentRow
from anthropic_proxy.console.ledger.records import StoredRequest
from anthropic_proxy.engine.platforms.os_errors import describe_os_error

_T = TypeVar("_T")
MAX_SPOOL_BYTES = 256 * 1024 * 1024
"""Maximum size of the spool file in bytes. Further requests wait in memory."""
CLAIM_SECONDS = 60.0
"""Time in seconds for which a worker claims a block (rows of one transaction), to store it in the ledger."""
_SPOOL_TIMEOUT_SECONDS = 5.0
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError)
"""Exceptions of msgspec for a value of another type, damaged bytes, deep nesting, and a column that is no BLOB."""
_SPOOL_BLOCK_BYTES = 4096
_SPOOL_TABLE = """CREATE TABLE IF NOT EXISTS block (
    id INTEGER PRIMARY KEY, rows BLOB NOT NULL, row_count INTEGER NOT NULL, claimed_until REAL NOT NULL DEFAULT 0
)"""
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
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._has_file = False
        self.problem = ""
        """Reason why the file could not be used. "": it can."""

    def append(self, block: SpooledBlock) -> bool:
        """False: the file is full or cannot be written."""
        values = (msgspec.msgpack.encode(block), len(block.rows))
        return self._execute("INSERT INTO block (rows, row_count) VALUES (?, ?)", values) is not None

    def claim(self) -> SpooledBlock | None:
        """Requests that cannot be decoded are left out, and counted in `SpooledBlock.dropped_rows`.

        None: no block is unclaimed, or the file cannot be used.
        """
        blocks = self._execute(_CLAIM_BLOCK, (time.time(), CLAIM_SECONDS)) if self._exists() else None
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
        counts = self._execute("SELECT coalesce(sum(row_count), 0) FROM block", ()) if self._exists() else None
        return counts[0][0] if counts else 0

    def _exists(self) -> bool:
        """Another worker may have created the file."""
        if not self._has_file:
            self._has_file = os.path.exists(self.file)  # `Path.exists` raises an exception for a folder without access
        return self._has_file

    def _execute(self, sql: str, values: Sequence[object]) -> list[Any] | None:
        """Return the rows of the result. None: the file cannot be used."""
        try:
            self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.file, os.O_RDWR | os.O_CREAT, 0o600))
            self._has_file = True
            with closing(sqlite3.connect(self.file, timeout=_SPOOL_TIMEOUT_SECONDS, isolation_level=None)) as database:
                database.execute("PRAGMA auto_vacuum=FULL")  # effective in an empty file only
                database.execute(f"PRAGMA max_page_count={MAX_SPOOL_BYTES // _SPOOL_BLOCK_BYTES}")
                database.execute(_SPOOL_TABLE)
                rows = database.execute(sql, values).fetchall()
        except (sqlite3.Error, OSError) as error:
            self.problem = describe_os_error(error) if isinstance(error, OSError) else str(error)
            return None
        self.problem = ""
        return rows


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
