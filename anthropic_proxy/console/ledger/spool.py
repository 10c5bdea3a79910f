"""`Spool`: file in which rows for the ledger wait while PostgreSQL is unavailable. They survive a restart.

All workers of a machine use the same file, a SQLite database in the data directory. A worker claims the oldest block,
the rows of one transaction, for a minute. It stores them and deletes the block, or releases it after a failure.
"""

import hashlib
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
from anthropic_proxy.gateway.settings.database_address import DatabaseAddress

_T = TypeVar("_T")
_FILE_NAME = "ledger-spool-{}.sqlite3"
"""Name of the file in the data directory, with a digest of the address of the PostgreSQL database."""
_PLACE_PARAMETERS = ("host", "hostaddr", "port", "dbname", "service", "options")
MAX_BYTES = 256 * 1024 * 1024
"""Maximum size of the file in bytes. Further requests wait in memory."""
CLAIM_SECONDS = 60.0
"""Time in seconds for which a worker claims a block (rows of one transaction), to store it in the ledger."""
_LOCK_TIMEOUT_SECONDS = 5.0
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError)
"""Exceptions of msgspec for a value of another type, damaged bytes, deep nesting, and a column that is no BLOB."""
_BLOCK_BYTES = 4096
_TABLE = """CREATE TABLE IF NOT EXISTS block (
    id INTEGER PRIMARY KEY, rows BLOB NOT NULL, row_count INTEGER NOT NULL, claimed_until REAL NOT NULL DEFAULT 0
)"""
_CLAIM = """UPDATE block SET claimed_until = ?1 + ?2
    WHERE id = (SELECT id FROM block WHERE claimed_until <= ?1 ORDER BY id LIMIT 1) RETURNING id, rows, row_count"""


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
    """File in the directory `folder` with rows that wait for the PostgreSQL database at `address`. The rows are stored
    as blocks, each with the rows of one transaction.
    """

    def __init__(self, folder: Path, address: DatabaseAddress) -> None:
        # without user and password
        others = map(address.parameters.get, _PLACE_PARAMETERS)
        place = [address.host, address.port or 5432, address.database, *others]
        self.file = folder / _FILE_NAME.format(hashlib.sha256(repr(place).encode()).hexdigest()[:12])
        self._has_file = os.path.exists(self.file)  # `Path.exists` raises an exception for a directory without access

    def append(self, block: SpooledBlock) -> bool:
        """False: the file is full or cannot be written."""
        values = (msgspec.msgpack.encode(block), len(block.rows))
        return self._execute("INSERT INTO block (rows, row_count) VALUES (?, ?)", values) is not None

    def claim(self) -> SpooledBlock | None:
        """Requests that cannot be decoded are left out, and counted in `SpooledBlock.dropped_rows`.

        None: no block is unclaimed, or the file cannot be used.
        """
        found = self._execute(_CLAIM, (time.time(), CLAIM_SECONDS)) if self._has_file else None
        if not found:
            return None
        ((number, rows, row_count),) = found
        block = _decode_block(rows, row_count)
        block.id = number
        return block

    def release(self, block: SpooledBlock) -> None:
        self._execute("UPDATE block SET claimed_until = 0 WHERE id = ?", (block.id,))

    def delete(self, block: SpooledBlock) -> bool:
        """False: the file cannot be written, or another worker has deleted the block.

        A block that stays is claimed again later. The worker that claims it skips the stored rows.
        """
        return bool(self._execute("DELETE FROM block WHERE id = ? RETURNING id", (block.id,)))

    def count_rows(self) -> int:
        found = self._execute("SELECT coalesce(sum(row_count), 0) FROM block", ()) if self._has_file else None
        return found[0][0] if found else 0

    def _execute(self, sql: str, values: Sequence[object]) -> list[Any] | None:
        """Return the rows of the result. None: the file cannot be used."""
        try:
            with closing(self._open()) as database:
                return database.execute(sql, values).fetchall()
        except (sqlite3.Error, OSError):
            return None

    def _open(self) -> sqlite3.Connection:
        self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(self.file, os.O_RDWR | os.O_CREAT, 0o600))
        self._has_file = True
        database = sqlite3.connect(self.file, timeout=_LOCK_TIMEOUT_SECONDS, isolation_level=None)
        database.execute("PRAGMA auto_vacuum=FULL")  # effective in an empty file only
        database.execute(f"PRAGMA max_page_count={MAX_BYTES // _BLOCK_BYTES}")
        database.execute(_TABLE)
        return database


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
    block.dropped_rows, block.problem = len(encoded.rows) - len(block.rows), problems[0] if problems else block.problem
    return block


def _decode(data: msgspec.Raw, kind: type[_T], problems: list[str]) -> _T | None:
    """Return the value `data` of the type `kind`. None: it cannot be decoded; the reason is added to `problems`."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except _DECODE_ERRORS as error:
        problems.append(str(error))
        return None
