"""Errors of the database of the ledger: their condition, remedy and text, and whether they concern a single request."""

import errno
import sqlite3
import traceback
from pathlib import Path

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.plugins import LedgerCondition


class NewerSchemaError(Exception):
    """The database has the schema of a newer version of the program, which this version cannot write."""


class DatabaseError(Exception):
    """Error of the database or its driver."""

    def __init__(self, cause: Exception, *, concerns_value: bool) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.concerns_value = concerns_value
        """True if the database rejects a value, and could store others."""


DATABASE_ERRORS = (DatabaseError, OSError, NewerSchemaError)
_SQLITE_CONDITIONS: dict[int, LedgerCondition] = {
    sqlite3.SQLITE_FULL: "disk full",
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_READONLY: "read-only",
    sqlite3.SQLITE_PERM: "read-only",
    sqlite3.SQLITE_CANTOPEN: "read-only",
    sqlite3.SQLITE_CORRUPT: "corrupt",
    sqlite3.SQLITE_NOTADB: "corrupt",
}
_ERRNO_CONDITIONS: dict[int, LedgerCondition] = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "disk full",
    errno.EROFS: "read-only",
    errno.EACCES: "read-only",
    errno.EPERM: "read-only",
}
_POSTGRES_CONDITIONS: dict[str, LedgerCondition] = {
    "53100": "disk full",
    "25006": "read-only",
    "42501": "read-only",
    "55P03": "locked",
    "40P01": "locked",
    "XX001": "corrupt",
    "XX002": "corrupt",
}
_REMEDIES: dict[LedgerCondition, str] = {
    "disk full": "Free space on its disk, or set LEDGER_MAX_MB to a smaller number.",
    "locked": "Another program holds its lock. End the transaction of that program.",
    "read-only": "Give the user of the proxy write access to it and its directory, or set DATABASE_URL.",
    "corrupt": "Move the file to another directory: the proxy then creates a new database.",
    "unreachable": "Start the database server, or correct DATABASE_URL.",
    "newer schema": "A newer version of the program has migrated it. Update this one, or set DATABASE_URL.",
    "failed": "Check the database, or set DATABASE_URL to another one.",
}
_PRIMARY_CODE = 0xFF
"""Bits of an extended SQLite result code that contain the primary code."""


def find_cause(error: BaseException) -> BaseException:
    """Return the error of the driver."""
    return error.cause if isinstance(error, DatabaseError) else error


def classify_database_error(error: BaseException) -> LedgerCondition:
    """The state is `failed` if the cause is unknown or has no other state."""
    if isinstance(error, NewerSchemaError):
        return "newer schema"
    cause = find_cause(error)
    if isinstance(cause, sqlite3.Error):
        code: int = getattr(cause, "sqlite_errorcode", 0)
        return _SQLITE_CONDITIONS.get(code & _PRIMARY_CODE, "failed")
    if isinstance(cause, OSError):
        return _ERRNO_CONDITIONS.get(cause.errno or 0, "failed")
    if hasattr(cause, "sqlstate"):
        state: str | None = cause.sqlstate
        if state in _POSTGRES_CONDITIONS:
            return _POSTGRES_CONDITIONS[state]
        if state is None or state.startswith(("08", "28", "3D", "57P")):  # connection, authorization, no such database
            return "unreachable"
    return "failed"


def describe_database_failure(condition: LedgerCondition, place: str, error: BaseException) -> str:
    if isinstance(error, ConfigurationError):
        return error.message
    reason = " ".join(str(find_cause(error)).split())[:300]
    return f"The ledger cannot store requests: {condition} ({place}: {reason}). {_REMEDIES[condition]}"


def is_value_failure(error: Exception) -> bool:
    """Return True if `error` concerns only one request, so that other requests can still be stored."""
    if isinstance(error, DatabaseError):
        return error.concerns_value
    return not isinstance(error, (*DATABASE_ERRORS, ConfigurationError))


def describe_value_failure(error: Exception) -> str:
    cause = find_cause(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(cause).__name__}: {' '.join(str(cause).split())[:200]} ({Path(frame.filename).name}:{frame.lineno})"
