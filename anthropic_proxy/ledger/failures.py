"""Classification of database errors of the ledger, and messages about them with reason and remedy.

`classify_database_error` returns the state of the ledger after an error, such as `disk full` or `locked`.
`is_value_failure` returns True for an error that concerns only one request, such as a value that the database rejects.
All other errors concern the whole database.
"""

import errno
import sqlite3
import traceback
from pathlib import Path

from sqlalchemy import exc

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.ledger.database import NewerSchemaError
from anthropic_proxy.plugins import LedgerCondition

DATABASE_ERRORS = (exc.SQLAlchemyError, OSError, NewerSchemaError)
"""Exceptions of opening, migrating and using the database."""
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


def classify_database_error(error: BaseException) -> LedgerCondition:
    """Return the state of the ledger, such as `disk full` or `locked`, after its database failed with `error`.

    The state is `failed` if the cause is unknown or has no other state.
    """
    if isinstance(error, NewerSchemaError):
        return "newer schema"
    cause = error.orig if isinstance(error, exc.DBAPIError) and error.orig is not None else error
    if isinstance(cause, sqlite3.Error):
        code: int = getattr(cause, "sqlite_errorcode", 0)
        return _SQLITE_CONDITIONS.get(code & _PRIMARY_CODE, "failed")
    if isinstance(cause, OSError):
        return _ERRNO_CONDITIONS.get(cause.errno or 0, "failed")
    state: str | None = getattr(cause, "sqlstate", None)
    if isinstance(error, exc.DBAPIError):
        if state in _POSTGRES_CONDITIONS:
            return _POSTGRES_CONDITIONS[state]
        if state is None or state.startswith(("08", "28", "3D", "57P")):  # connection, authorization, no such database
            return "unreachable"
    return "failed"


def describe_database_failure(condition: LedgerCondition, place: str, error: BaseException) -> str:
    """Return the sentence for the user about a failure of the database: its reason and a remedy.

    `place` is the path or address without a password.
    """
    if isinstance(error, ConfigurationError):
        return error.message
    cause = error.orig if isinstance(error, exc.DBAPIError) and error.orig is not None else error
    reason = " ".join(str(cause).split())[:300]
    return f"The ledger cannot store requests: {condition} ({place}: {reason}). {_REMEDIES[condition]}"


def is_value_failure(error: Exception) -> bool:
    """Return True if `error` concerns only one request, so that other requests can still be stored.

    Examples are a value that the database rejects, and an exception in the calculation of the cost.
    """
    if isinstance(error, exc.DBAPIError):
        return isinstance(error, (exc.DataError, exc.IntegrityError))
    if isinstance(error, exc.SQLAlchemyError):
        return isinstance(error, exc.StatementError)  # a value that the type of its column rejects
    return not isinstance(error, (*DATABASE_ERRORS, ConfigurationError))


def describe_value_failure(error: Exception) -> str:
    """Return a text for the log with type and message of `error`, and the file and line that raised it."""
    cause = error.orig if isinstance(error, exc.StatementError) and error.orig is not None else error
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(cause).__name__}: {' '.join(str(cause).split())[:200]} ({Path(frame.filename).name}:{frame.lineno})"
