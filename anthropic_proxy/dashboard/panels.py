"""Building of the panels of a page, which are its charts and tables: if one panel fails, the others are still shown.

`build_panel` returns the values of a panel, or a `FailedPanel` with an error message. `memoize_result` shares the
result of one query between several panels.
"""

from collections.abc import Callable
from typing import TypeVar

from msgspec import MsgspecError, Struct
from sqlalchemy import exc

from anthropic_proxy.dashboard.page_context import PageContext
from anthropic_proxy.errors import ClientError
from anthropic_proxy.ledger.reader_threads import describe_read_failure

_VALUE_ERRORS = (ArithmeticError, AttributeError, LookupError, MsgspecError, TimeoutError, TypeError, ValueError)
"""Exceptions by unexpected values, such as a damaged row of the database. They make a panel fail, not the page."""
PanelT = TypeVar("PanelT")


class FailedPanel(Struct, frozen=True):
    """A chart or table that cannot be shown. The page shows `message` in its place."""

    message: str


def build_panel(context: PageContext, name: str, build: Callable[[], PanelT]) -> PanelT | FailedPanel:
    """Return the values of a chart or table, or a `FailedPanel` if it cannot be built.

    A `ClientError` of `build` is not caught, because its cause is the request for the page, such as a wrong URL
    parameter.
    """
    try:
        return build()
    except ClientError:
        raise
    except exc.SQLAlchemyError as error:
        context.connection.rollback()  # PostgreSQL rejects all further queries of a failed transaction
        return FailedPanel(describe_read_failure(error).message)
    except _VALUE_ERRORS as error:
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        context.log_condition(f"The dashboard cannot show {name}: {reason}")
        return FailedPanel(f"A stored value cannot be shown ({reason}). The other panels are complete.")


def memoize_result(build: Callable[[], PanelT]) -> Callable[[], PanelT]:
    """Return a function that calls `build` at most once, and returns the same value or raises the same error each time.

    Several panels (charts or tables) thus share one query.
    """
    values: list[PanelT] = []
    errors: list[Exception] = []

    def find() -> PanelT:
        if errors:
            raise errors[0]
        if not values:
            try:
                values.append(build())
            except Exception as error:
                errors.append(error)
                raise
        return values[0]

    return find
