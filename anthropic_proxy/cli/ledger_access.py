"""Access of commands to the ledger, the database of client requests, with errors for the user."""

import getpass
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from msgspec import structs
from sqlalchemy import Connection, exc

from anthropic_proxy.cli.local_proxy import find_proxy
from anthropic_proxy.console.keys.administration import open_administration
from anthropic_proxy.console.ledger.contents import StoredContent
from anthropic_proxy.console.ledger.database import (
    DATABASE_ERRORS,
    classify_database_error,
    describe_database_failure,
    find_database,
)
from anthropic_proxy.console.ledger.engines import new_reading_error, read_ledger
from anthropic_proxy.console.ledger.periods import RequestSelection
from anthropic_proxy.console.ledger.read_access import ReadAccess, restrict_reading
from anthropic_proxy.console.ledger.receipt_queue import EXCHANGE_PATH, MAX_CONTENT_BYTES
from anthropic_proxy.console.ledger.records import StoredRequest
from anthropic_proxy.console.ledger.request_queries import (
    find_stored_request,
    list_stored_requests,
    read_contents,
    to_receipt,
)
from anthropic_proxy.console.ledger.users import LedgerUser
from anthropic_proxy.console.units import MICROSECONDS
from anthropic_proxy.engine.patterns import compile_anchored
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.telemetry.logged_requests import LoggedRequest

_BATCH_SECONDS = 1.5
"""Maximum seconds from the end of a request until it is in the ledger."""
_POLL_SECONDS = 0.05
"""Interval in seconds of the checks for it."""
_NUMBER = compile_anchored("[1-9][0-9]{0,3}")


@contextmanager
def open_ledger_for_reading(settings: Settings) -> Iterator[Connection | None]:
    """Yield a connection for reading the ledger. None: no request is stored.

    Raises `ConfigurationError` if the ledger is off or unreadable.
    """
    with _open_restricted(settings) as (connection, _):
        yield connection


@contextmanager
def _open_restricted(settings: Settings) -> Iterator[tuple[Connection | None, ReadAccess | None]]:
    """The connection shows no stored texts of other people."""
    try:
        with read_ledger(settings) as connection:
            user = LedgerUser(role="owner")
            yield connection, None if connection is None else restrict_reading(connection, user, settings)
    except exc.SQLAlchemyError as error:
        raise new_reading_error(find_database(settings), getattr(error, "orig", None) or error) from None


def name_author() -> str:
    """Return the author of a change by a command, for the audit log."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"command ({user}@{platform.node()})"


@contextmanager
def changing_database(settings: Settings) -> Iterator[str]:
    """Yield the description of the database. Raises its errors as `ConfigurationError`."""
    place = find_database(settings).describe()
    try:
        yield place
    except DATABASE_ERRORS as error:
        raise ConfigurationError(
            describe_database_failure(classify_database_error(error), place, error), code="ledger-not-readable"
        ) from None


def read_last_requests(
    settings: Settings, number: int, *, failed_only: bool, start: float, before: float | None
) -> list[LoggedRequest]:
    """Return the last `number` requests, the oldest of them first.

    They started at `start` or later, and earlier than `before`, in seconds since the epoch.
    """
    values = {"outcome_class": "error"} if failed_only else {}
    chosen = RequestSelection(start=round(start * MICROSECONDS), values=values)
    if before is not None:
        chosen = structs.replace(chosen, end=round(before * MICROSECONDS))
    with open_ledger_for_reading(settings) as connection:
        rows = [] if connection is None else list_stored_requests(connection, chosen, number)
    return [
        LoggedRequest(
            to_receipt(row), is_exchange=row.path == EXCHANGE_PATH and bool(row.requested_model), cost=row.cost
        )
        for row in reversed(rows)
    ]


def read_stored_texts(
    settings: Settings, row: StoredRequest, command_or_option: str, remedy: str = ""
) -> Mapping[str, StoredContent]:
    """Return kind → text of a stored request, with masked keys: `request`, `reply`.

    Raises `ConfigurationError` if the ledger lacks the complete request. The message begins with `command_or_option`,
    which needs the text, and ends with `remedy`.
    """
    with _open_restricted(settings) as (connection, access):
        if access is not None and access.find_others([row]):
            if not access.opens_others:
                raise ConfigurationError(
                    f"{command_or_option} needs the text of {row.id}, which another person has sent. Administrators "
                    f"read texts of others only with ADMINS_READ_CONTENT=true in {settings.variables_file}.{remedy}",
                    code="explain-source",
                )
            with changing_database(settings), open_administration(settings, name_author()) as administration:
                administration.record_look(row.id, [row])
            access.opened.add(row.id)
        contents = [] if connection is None else read_contents(connection, row.id)
    texts = {content.kind: content for content in contents}
    if (body := texts.get("request")) is None:
        raise ConfigurationError(
            f"{command_or_option} needs the text of the request, which the ledger does not contain for {row.id}. "
            f"The proxy stores later texts with LEDGER_CONTENT=true in {settings.variables_file}.{remedy}",
            code="explain-source",
        )
    if body.is_cut:
        raise ConfigurationError(
            f"{command_or_option} needs the complete text of the request. The ledger contains the first "
            f"{MAX_CONTENT_BYTES:,} of {body.size:,} bytes of {row.id}.{remedy}",
            code="explain-source",
        )
    return texts


def require_stored_body(settings: Settings, row: StoredRequest, command_or_option: str, remedy: str = "") -> bytes:
    """Return the body of a stored request as its client sent it, but with masked keys. See `read_stored_texts`."""
    return read_stored_texts(settings, row, command_or_option, remedy)["request"].data


def is_request_number(name: str) -> bool:
    return _NUMBER.fullmatch(name) is not None


def require_stored_request(settings: Settings, name: str, path: str = "") -> StoredRequest:
    """Return a stored request. `name`: its id, or its number among those that named a model: 1 is the last one.

    `path`: URL path of a request with a number; "": any. Raises `ConfigurationError` if there is no such request.
    """
    number = int(name) if is_request_number(name) else 0
    if number:
        _wait_for_batch(settings)
    with open_ledger_for_reading(settings) as connection:
        rows: list[StoredRequest] = []
        if connection is not None and number:
            selection = RequestSelection(values={"path": path} if path else {}, has_model=True)
            rows = list_stored_requests(connection, selection, number)
        elif connection is not None and (row := find_stored_request(connection, name)) is not None:
            return row
    if number and len(rows) == number:
        return rows[-1]
    if number and not rows:
        raise ConfigurationError(
            'The ledger has no requests yet. Send one:  anthropic-proxy ask "hello"', code="request-not-stored"
        )
    raise ConfigurationError(
        f"The ledger has no request {name}. It stores requests for {settings.ledger_days} days (LEDGER_DAYS). "
        "List the last ones:  anthropic-proxy logs --no-follow",
        code="request-not-stored",
    )


def _wait_for_batch(settings: Settings) -> None:
    """Wait until the last request of the proxy on this machine is stored, because the proxy stores them in batches."""
    proxy = find_proxy(settings)
    finished = [] if proxy is None else proxy.get_recent_requests().finished
    exchanges = (request.receipt for request in reversed(finished) if request.receipt.path == EXCHANGE_PATH)
    if (last := next(exchanges, None)) is None:
        return
    age = time.time() - last.started_at - last.duration_seconds
    deadline = time.monotonic() + _BATCH_SECONDS - max(age, 0)  # the clock may have been set back since
    while time.monotonic() < deadline:
        with open_ledger_for_reading(settings) as connection:
            if connection is None or find_stored_request(connection, last.request_id) is not None:
                return
        time.sleep(_POLL_SECONDS)
