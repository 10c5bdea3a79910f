"""Access of commands to the ledger, the database of client requests.

`open_ledger_for_reading` opens a connection that only reads, or raises an error for the user.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.platforms.os_errors import describe_os_error
from anthropic_proxy.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection


@contextmanager
def open_ledger_for_reading(settings: Settings) -> "Iterator[Connection | None]":
    """Return a context manager that yields a connection for reading the ledger.

    None means that no request is stored. Raises `ConfigurationError` if the ledger is off or unreadable.
    """
    from sqlalchemy import exc  # noqa: PLC0415  # --help needs none of it

    from anthropic_proxy.ledger.database import (  # noqa: PLC0415
        describe_database_location,
        find_database_file,
        find_database_url,
        has_tables,
        open_for_reading,
    )

    url = find_database_url(settings)
    file = find_database_file(url)
    if file is not None:
        try:
            os.stat(file)
        except (FileNotFoundError, NotADirectoryError):
            yield None
            return
        except OSError as error:  # for example in the home directory of another user
            raise _new_error(describe_database_location(url), describe_os_error(error)) from None
    engine = open_for_reading(settings)
    try:
        with engine.connect() as connection:
            if not has_tables(connection, describe_database_location(url)):
                yield None
                return
            yield connection
    except exc.SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise _new_error(describe_database_location(url), reason) from None
    finally:
        engine.dispose()


def _new_error(location: str, reason: str) -> ConfigurationError:
    return ConfigurationError(f"The ledger {location} cannot be read: {reason}. Set DATABASE_URL to another database.")
