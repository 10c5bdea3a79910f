"""Copy of a SQLite file of the ledger before a migration, without message texts."""

import errno
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

_TEXTS = "contents"
"""Name of the table with message texts. It is empty in the copy."""
_RESERVE_BYTES = 16 << 20
_creating = threading.Lock()


def write_backup(
    file: Path, version: str, find_free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free
) -> Path:
    """Return the path of the copy, such as `ledger.sqlite3.backup-0001`. Raises `OSError` if the disk has too little
    space.
    """
    target = file.with_name(f"{file.name}.backup-{version}")
    incomplete = target.with_name(f"{target.name}.incomplete")
    incomplete.unlink(missing_ok=True)
    create_private_file(incomplete)
    try:
        with closing(sqlite3.connect(incomplete, isolation_level=None)) as copy:
            copy.execute("ATTACH ? AS source", (str(file),))
            copy.execute("BEGIN")
            free = find_free_bytes(file.parent)
            names = ("page_count", "freelist_count", "page_size")
            count, unused, size = (int(copy.execute(f"PRAGMA source.{name}").fetchone()[0]) for name in names)
            needed = (count - unused) * size
            if copy.execute("SELECT 1 FROM source.sqlite_master WHERE name = ?", (_TEXTS,)).fetchone() is not None:
                needed -= int(copy.execute(f"SELECT coalesce(sum(length(data)), 0) FROM source.{_TEXTS}").fetchone()[0])
            if free < (needed := needed + _RESERVE_BYTES):
                problem = f"the copy before the migration needs {needed >> 20} MB, and {free >> 20} MB are free"
                raise OSError(errno.ENOSPC, problem, str(file))  # noqa: TRY301
            _copy_tables(copy)
            copy.execute("COMMIT")
    except BaseException:
        incomplete.unlink(missing_ok=True)
        raise
    incomplete.replace(target)
    for earlier in file.parent.glob(f"{file.name}.backup-*"):
        if earlier != target:
            earlier.unlink(missing_ok=True)
    return target


def create_private_file(file: Path) -> None:
    # POSIX: the close of any descriptor of a file releases all locks of this process on the file, also those of SQLite
    # connections in other threads. Another process could then delete the WAL that they use
    # (sqlite.org/howtocorrupt.html, section 2.2, read 2026-11).
    with _creating:  # no thread connects to the new file before its descriptor is closed
        if not file.exists():
            os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))


def _copy_tables(copy: sqlite3.Connection) -> None:
    query = "SELECT type, name, sql FROM source.sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"
    objects = copy.execute(query).fetchall()
    for kind, name, sql in objects:
        if kind == "table":
            copy.execute(sql)
            if name != _TEXTS:
                quoted = name.replace('"', '""')
                copy.execute(f'INSERT INTO main."{quoted}" SELECT * FROM source."{quoted}"')
    for kind, _, sql in objects:
        if kind != "table":
            copy.execute(sql)
